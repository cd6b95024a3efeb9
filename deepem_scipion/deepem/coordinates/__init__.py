# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle coordinates: files of every format, annotated regions, non-maximum suppression."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "coordinates": ["Coordinates", "merge"],
    "read": ["read_coordinates"],
    "box": ["write_box"],
    "star": ["Optics", "write_star"],
    "regions": ["Region", "read_regions", "write_regions"],
    "suppression": ["non_maximum_suppression"],
})
