# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training: from micrographs and coordinates to a model."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "training_set": ["TrainingSet"],
    "plan": ["PaperPlan", "Plan"],
    "train": ["train_model"],
    "teacher": ["TaughtSet"],
    "self_training": ["self_train"],
    "labels": ["LabelledMicrograph"],
    "presets": ["TRAINING_PRESETS", "TrainingPreset"],
    "examples": ["TrainingExamples", "load_examples"],
})
