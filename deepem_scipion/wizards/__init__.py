# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards of the plugin."""

from .wizard_limits import DeepEMThresholdWizard
from .wizard_size import DeepEMBoxSizeWizard, DeepEMDiameterWizard, DeepEMPickDiameterWizard

__all__ = ["DeepEMBoxSizeWizard", "DeepEMDiameterWizard", "DeepEMPickDiameterWizard", "DeepEMThresholdWizard"]
