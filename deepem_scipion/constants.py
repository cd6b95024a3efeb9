# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and numbers that more than one module of the plugin needs."""

DEEPEM_PYTHON = "DEEPEM_PYTHON"
# Environments that `scipion3 installb` makes, as name -> distribution of TensorFlow; where both are there the last one
# is used. The version changes when what they need does.
ENVIRONMENTS = {"deepem_cpu": "tensorflow-cpu", "deepem_gpu": "tensorflow[and-cuda]"}
ENVIRONMENT_VERSION = "1.0"
ENVIRONMENT_COMPLETE = "installed"

PROGRAM_MODULE = "deepem_scipion.deepem"

# Choices of the forms. The stored number is the position, so new choices go to the end.
PRESET_AUTO, PRESET_CUSTOM = 0, 5
PRESETS = ("auto", "klh", "19s", "26s", "inflammasome", "custom")
PRESET_LABELS = ("automatic", "KLH", "19S", "26S", "inflammasome", "custom")
TRAINING_PRESETS = ("default", "paper")

STD_AUTO, STD_OFF, STD_CUSTOM = 0, 1, 2
STD_CHOICES = ("automatic", "off", "custom")

# With fewer examples nothing is left to judge the network by.
MIN_PARTICLES = 20

MODEL_FILE = "model.safetensors"
