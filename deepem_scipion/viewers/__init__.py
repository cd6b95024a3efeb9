# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewers of the plugin."""

from .viewer_evaluate import DeepEMEvaluateViewer  # noqa: F401
from .viewer_pick import DeepEMPickViewer  # noqa: F401
from .viewer_studio import DeepEMStudioViewer  # noqa: F401
from .viewer_train import DeepEMTrainViewer  # noqa: F401
