# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs: finding the files, then reading, resampling and normalising them."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "find": ["find_micrographs", "micrograph_name"],
    "images": ["ImageHeader", "read_header", "read_pixels"],
    "micrograph": ["Micrograph", "read_micrograph", "read_pixel_size", "read_shape"],
    "normalisation": ["clip_outliers"],
    "padding": ["padding_margins"],
    "preprocessing": ["Preprocessing"],
    "resampling": ["resample"],
})
