# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evaluation: picks compared with reference coordinates."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "areas": ["Counts", "box_counts", "box_iou", "chosen_picks", "disc_counts", "summarise_counts"],
    "frames": ["other_frame", "upside_down"],
    "matching": ["Matches", "classify_picks", "inside_region", "match", "match_all", "pool"],
    "metrics": ["Curve", "average_precision", "best_threshold", "curve", "curve_from_points", "evaluate", "f_beta",
                "steady_threshold", "summarise"],
})
