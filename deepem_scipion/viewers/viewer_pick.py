# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
""""Analyze results" of picking: the picks, other limits for them, and corrections, in the studio."""

import pyworkflow.utils as pwutils
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from ..protocols import ProtDeepEMPick
from ..studio import StudioRun, ctf_arguments

REGISTER = "Register in Scipion"
TEXT = f"""The picks are open in your browser; where there is none, open the address below. Other limits apply to all \
micrographs at once; false positives are removed by a right click, missed particles added by a click.

"{REGISTER}" there makes new outputs of this run: outputCoordinates_2 and so on with the picks shown, and the \
negatives. The outputs of the run do not change. Everything is kept for the next time."""


class DeepEMPickViewer(Viewer):
    """Picks and rejected candidates on the micrographs, sliders for the limits, and corrections."""

    _name = "DeepEM picks"
    _targets = [ProtDeepEMPick]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        if not obj.getResults().exists():
            return [self.infoMessage("No micrograph has been picked yet.", "DeepEM picks")]
        from .studio_window import StudioWindow

        return [self.tkWindow(StudioWindow, title=f"DeepEM picks: {obj}", text=TEXT, run=self.start(obj),
                              done=obj.registerCorrected)]

    def start(self, protocol):
        """Start the studio for a run; returns the StudioRun."""
        rate, model = protocol.getInputMicrographs().getSamplingRate(), protocol.inputModel.get()
        folder = str(protocol.getStudio().folder)
        arguments = [protocol.getCoordsDir(), "--project", folder, "--save", "--pixel-size", repr(rate)]
        mics = protocol.getMicrographsByResult()
        pwutils.makePath(folder)
        arguments += ctf_arguments(folder, mics.values(), {mic.getObjId(): name for name, mic in mics.items()},
                                   self.getProject())
        if model is not None:
            arguments += ["--model", model.getFileName()]
        return StudioRun(folder, arguments, REGISTER)
