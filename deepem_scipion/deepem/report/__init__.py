# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures and HTML reports."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "plots": ["draw_curve", "draw_picks", "draw_training"],
    "model_plots": ["draw_examples", "draw_kernels", "draw_layers"],
    "run_plots": ["draw_course", "draw_distributions", "draw_matches"],
    "diameter_plot": ["draw_diameter"],
    "evaluation_report": ["Comparison", "report_evaluation"],
    "model_report": ["report_model"],
    "picking_report": ["report_picking"],
})
