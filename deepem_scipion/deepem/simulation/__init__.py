# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated micrographs with known particle centres."""

from ..lazy import attach

__getattr__, __all__ = attach(__name__, {
    "scene": ["Scene", "simulate_micrograph", "write_dataset"],
    "volumes": ["Volume", "klh_like_volume", "project", "read_volume"],
})
