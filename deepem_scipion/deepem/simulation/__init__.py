# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated micrographs with known particle centres."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "dataset": ["write_dataset"],
    "fields": ["Field", "labelled_field", "simulate_field"],
    "scene": ["Scene", "contrast_transfer", "draw_background", "simulate_micrograph"],
    "shapes": ["Shape", "random_shape", "shape_of_volume"],
    "volumes": ["Volume", "klh_like_volume", "project", "random_orientations", "read_volume"],
})
