# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates of any picker in the studio."""

import os

from pwem.objects import SetOfCoordinates
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from .. import convert, program
from ..protocols.protocol_studio import ProtDeepEMStudio


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
        if convert.are_tiff(coordinates.getMicrographs()):
            return [self.infoMessage("The micrographs are TIFF files, which the studio would show upside down. Convert "
                                     "them to MRC before you import them.", "DeepEM studio")]
        self.process = self.open(coordinates)
        return [self.infoMessage("The studio opens in your browser. Where there is none, its address is in "
                                 f"{self.log}.\n\nTo keep corrections as outputs, run *picking by hand and by "
                                 "learning* with these coordinates.", "DeepEM studio")]

    def open(self, coordinates):
        """Start the studio for a SetOfCoordinates; returns its process, which ends together with this one."""
        folder = os.path.abspath(self.getProject().getTmpPath(f"studio-{coordinates.getObjId()}"))
        mics = [mic.clone() for mic in coordinates.getMicrographs()]
        names, rate = convert.result_names(mics), coordinates.getMicrographs().getSamplingRate()
        keys, = convert.keys_by_id([coordinates.getMicrographs()])
        found, _ = convert.coordinates_by_name(coordinates, keys)
        boxes, listed = os.path.join(folder, "coordinates"), os.path.join(folder, "micrographs.txt")
        convert.write_micrograph_list(listed, mics, names)
        convert.write_scored_boxes(boxes, found, {keys[each]: name for each, name in names.items()}, 1.0)
        diameter = (coordinates.getBoxSize() or 0) * rate / 1.5
        self.log = os.path.join(folder, "studio.log")
        return program.start(["studio", listed, "--coordinates", boxes, "--pixel-size", repr(rate), "--project",
                              os.path.join(folder, "session"), *(["--diameter", f"{diameter:g}"] if diameter else [])],
                             self.log)
