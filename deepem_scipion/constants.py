# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and numbers used by several modules of the plugin."""

from typing import NamedTuple, Tuple

DEEPEM_PYTHON = "DEEPEM_PYTHON"
DEEPEM_ENV_ACTIVATION = "DEEPEM_ENV_ACTIVATION"
# Of the environments of the program; it changes together with their requirements.
V1_0 = "1.0"
VERSIONS = [V1_0]
VERSION = V1_0

PICK_MODULES = ("numpy", "scipy", "mrcfile", "tifffile", "imagecodecs", "PIL", "matplotlib", "jinja2", "rich",
                "safetensors", "threadpoolctl", "llvmlite", "starlette", "uvicorn")
TRAIN_MODULES = ("tensorflow", "keras")


class Variant(NamedTuple):
    """An environment of the program: extras of this distribution, distribution of TensorFlow, modules that it has."""

    extras: Tuple[str, ...]
    tensorflow: str
    modules: Tuple[str, ...]


# By the name for `scipion3 installb`. If several are installed the first is used.
ENVIRONMENTS = {
    "deepem_gpu": Variant(("program", "tune"), "tensorflow[and-cuda]",
                          (*PICK_MODULES, *TRAIN_MODULES, "optuna")),
    "deepem_cpu": Variant(("program", "tune"), "tensorflow-cpu", (*PICK_MODULES, *TRAIN_MODULES, "optuna")),
    "deepem_pick": Variant(("pick",), "", PICK_MODULES),  # cannot train
}

# Choices of the forms. Scipion stores the position, so new choices are added at the end.
PRESET_AUTO, PRESET_CUSTOM = 0, 5
PRESETS = ("auto", "klh", "19s", "26s", "inflammasome", "custom")
PRESET_LABELS = ("automatic", "KLH", "19S", "26S", "inflammasome", "custom")
TRAINING_PRESETS = ("default", "paper")
PROCEDURE_OWN, PROCEDURE_PAPER = range(2)
DARK, BRIGHT = range(2)  # of deepem.model.general.CONTRASTS

# The row of TIFF files with y = 0: in Scipion the first one, as Xmipp reads them, which other protocols use to convert
# them. RELION and EMAN2 themselves count from the last one.
TIFF_ROWS = "top"

STD_AUTO, STD_OFF, STD_CUSTOM = 0, 1, 2
STD_CHOICES = ("automatic", "off", "custom")

# Fewer particles leave none for the validation of the network.
MIN_PARTICLES = 20
# Micrographs to learn from without coordinates.
UNLABELLED = 20

MODEL_FILE = "model.safetensors"
