# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trained models and their files."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "model": ["Model"],
    "record": ["TrainingRecord"],
    "card": ["card_rows"],
    "files": ["load_model", "read_card", "save_model"],
    "general": ["general_model"],
    "paths": ["ModelFiles"],
})
