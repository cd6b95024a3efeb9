# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards of the plugin."""

from .wizard_diameter import DeepEMBoxSizeWizard, DeepEMDiameterWizard, DeepEMPickDiameterWizard  # noqa: F401
from .wizard_threshold import DeepEMThresholdWizard  # noqa: F401
