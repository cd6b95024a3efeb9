# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocols of the plugin."""

from .protocol_evaluate import ProtDeepEMEvaluate
from .protocol_export_coordinates import ProtDeepEMExportCoordinates
from .protocol_export_model import ProtDeepEMExportModel
from .protocol_import_coordinates import ProtDeepEMImportCoordinates
from .protocol_import_model import ProtDeepEMImportModel
from .protocol_pick import ProtDeepEMPick
from .protocol_studio import ProtDeepEMStudio
from .protocol_train import ProtDeepEMTrain

__all__ = ["ProtDeepEMEvaluate", "ProtDeepEMExportCoordinates", "ProtDeepEMExportModel", "ProtDeepEMImportCoordinates",
           "ProtDeepEMImportModel", "ProtDeepEMPick", "ProtDeepEMStudio", "ProtDeepEMTrain"]
