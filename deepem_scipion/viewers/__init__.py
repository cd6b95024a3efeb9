# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewers of the plugin."""

from .viewer_evaluate import DeepEMEvaluateViewer
from .viewer_pick import DeepEMPickViewer
from .viewer_studio import DeepEMStudioViewer
from .viewer_train import DeepEMTrainViewer

__all__ = ["DeepEMEvaluateViewer", "DeepEMPickViewer", "DeepEMStudioViewer", "DeepEMTrainViewer"]
