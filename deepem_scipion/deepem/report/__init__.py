# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures and reports for a browser."""

from ..lazy import attach

__getattr__, __all__ = attach(__name__, {
    "plots": ["draw_curve", "draw_picks", "draw_training"],
    "model_plots": ["draw_examples", "draw_kernels"],
    "run_plots": ["draw_course", "draw_distributions"],
    "reports": ["report_evaluation", "report_model", "report_picking"],
})
