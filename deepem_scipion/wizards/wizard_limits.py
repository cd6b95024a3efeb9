# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choice of threshold, minimum distance and local standard deviations on a few micrographs, picked for this purpose."""

import os

from .. import convert
from ..constants import STD_CUSTOM, STD_OFF
from ..deepem.picking.results import PickingResults
from ..protocols import ProtDeepEMPick
from ..protocols.form_pick import THRESHOLD_FIXED
from ..studio import StudioRun
from .studio_wizard import USE, StudioWizard, some_micrographs

# In the form 0 stands for half a particle diameter.
MIN_DISTANCE_ANGST = 0.1


class DeepEMThresholdWizard(StudioWizard):
    """Threshold, distances and range of local standard deviations, tried on some of the micrographs."""

    _targets = [(ProtDeepEMPick, ["thresholdMode", "threshold", "minDistance", "border", "stdRange", "stdLow",
                                  "stdHigh"])]
    title = "Limits of the picks"
    text = ("Some of the micrographs are picked for this purpose, and then opened in your browser. Move the threshold "
            "and the other limits until most particles, and little else, are circled.")

    def problem(self, protocol):
        if protocol.getInputMicrographs() is None or protocol.getModel() is None:
            return ("Choose the micrographs, and the model or the diameter, first: the limits are tried on some of the "
                    "micrographs, which are picked for this purpose.")
        return "\n".join(protocol._validate())

    def start(self, protocol, folder):
        byResult = protocol.getMicrographsByResult()
        mics = some_micrographs(protocol, list(byResult.values()))
        names = {mic.getObjId(): name for name, mic in byResult.items()}
        listed, results = (os.path.join(folder, name) for name in ("micrographs.txt", "picks"))
        convert.write_micrograph_list(listed, mics, names)
        arguments = [argument for argument in protocol._getArguments() if argument != "--score-maps"]
        return StudioRun(folder, [results, "--project", os.path.join(folder, "session")], USE,
                         ["--micrographs", listed, "--output", results, "--score-maps", *arguments])

    def chosen(self, protocol, values, folder):
        """Only what was changed."""
        given = PickingResults(os.path.join(folder, "picks")).read_settings().limits
        found, std_range = {}, values["std_range"]
        if values["threshold"] != given.threshold:
            found = {"thresholdMode": THRESHOLD_FIXED, "threshold": float(f"{values['threshold']:.6g}")}
        if values["min_distance_angst"] != given.min_distance_angst:
            found["minDistance"] = float(f"{max(values['min_distance_angst'], MIN_DISTANCE_ANGST):.6g}")
        if values["border_angst"] != given.border_angst:
            found["border"] = float(f"{values['border_angst']:.6g}")
        if (tuple(std_range) if std_range else None) != given.std_range:
            found["stdRange"] = STD_CUSTOM if std_range else STD_OFF
            found.update({name: float(f"{value:.6g}") for name, value in zip(("stdLow", "stdHigh"), std_range or ())})
        return found
