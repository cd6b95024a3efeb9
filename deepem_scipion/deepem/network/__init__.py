# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network: sizes of its layers, the layers themselves, and the scan of a micrograph."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "geometry": ["Geometry", "PRESETS", "auto_geometry", "nearest_geometry"],
    "architecture": ["build_network", "get_weights", "set_weights"],
    "scan": ["Scanner", "score_map_box_by_box"],
    "box_scan": ["BoxScanner"],
    "layer_maps": ["feature_maps"],
})
