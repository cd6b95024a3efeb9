# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates of any picker in the studio."""

import os

from pwem.objects import SetOfCoordinates
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from .. import convert
from ..protocols.protocol_studio import ProtDeepEMStudio
from ..studio import StudioRun, session_folder, studio_arguments, usual_diameter

TEXT = """The coordinates are open in your browser; where there is none, open the address below.

To keep corrections as outputs, run the protocol picking by hand and by learning with these coordinates."""


class DeepEMStudioViewer(Viewer):
    """Coordinates on their micrographs, in the browser."""

    _name = "DeepEM studio"
    _targets = [SetOfCoordinates, ProtDeepEMStudio]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        coordinates = obj if isinstance(obj, SetOfCoordinates) else getattr(obj, "outputCoordinates", None)
        if coordinates is None or not coordinates.getSize():
            return [self.infoMessage("There are no coordinates yet. *Continue* opens the studio again.",
                                     "DeepEM studio")]
        from .studio_window import StudioWindow

        return [self.tkWindow(StudioWindow, title="DeepEM studio", text=TEXT, run=self.start(coordinates))]

    def start(self, coordinates):
        """Start the studio for a SetOfCoordinates; returns the StudioRun."""
        folder = os.path.abspath(self.getProject().getTmpPath(f"studio-{coordinates.getObjId()}"))
        mics = [mic.clone() for mic in coordinates.getMicrographs()]
        arguments = studio_arguments(folder, coordinates.getMicrographs(), mics, coordinates, self.getProject())
        diameter = usual_diameter(coordinates)
        return StudioRun(folder, [*arguments, "--project", session_folder(folder, mics, convert.result_names(mics)),
                                  *(["--diameter", f"{diameter:g}"] if diameter else [])])
