# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and numbers used by several modules of the plugin."""

DEEPEM_PYTHON = "DEEPEM_PYTHON"
# Environments installed by `scipion3 installb`: name -> distribution of TensorFlow. If both are installed the last one
# is used. The version changes together with their requirements.
ENVIRONMENTS = {"deepem_cpu": "tensorflow-cpu", "deepem_gpu": "tensorflow[and-cuda]"}
ENVIRONMENT_VERSION = "1.0"
ENVIRONMENT_COMPLETE = "installed"

# Choices of the forms. Scipion stores the position, so new choices are added at the end.
PRESET_AUTO, PRESET_CUSTOM = 0, 5
PRESETS = ("auto", "klh", "19s", "26s", "inflammasome", "custom")
PRESET_LABELS = ("automatic", "KLH", "19S", "26S", "inflammasome", "custom")
TRAINING_PRESETS = ("default", "paper")

# The row of TIFF files with y = 0: in Scipion the first one, as Xmipp reads them, which other protocols use to convert
# them. RELION and EMAN2 themselves count from the last one.
TIFF_ROWS = "top"

STD_AUTO, STD_OFF, STD_CUSTOM = 0, 1, 2
STD_CHOICES = ("automatic", "off", "custom")

# Fewer particles leave none for the validation of the network.
MIN_PARTICLES = 20

MODEL_FILE = "model.safetensors"
