# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking: from a micrograph and a model to particle coordinates, and the results folder."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "box": ["default_box_px"],
    "diameter": ["DiameterEstimate", "estimate_diameter"],
    "candidates": ["Candidates", "find_candidates"],
    "message": ["as_message", "pick_message"],
    "selection": ["Limits", "REASONS", "REASON_LABELS", "select"],
    "paper": ["best_in_squares"],
    "picker": ["PickedMicrograph", "Picker"],
    "settings": ["RunSettings"],
    "results": ["PickingResults"],
    "summary": ["MicrographResult", "RunSummary"],
    "run": ["pick_micrographs"],
    "review": ["Review", "read_review"],
})
