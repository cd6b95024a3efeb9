# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choice of a particle's diameter, or of the box around it, on micrographs."""

import os

from .. import convert
from ..constants import BRIGHT
from ..protocols import ProtDeepEMPick, ProtDeepEMTrain
from ..studio import StudioRun, studio_arguments
from .studio_wizard import USE, StudioWizard, some_micrographs

# If the form and the coordinates have none.
USUAL_DIAMETER_ANGST = 150


class SizeWizard(StudioWizard):
    """A diameter or a box that the studio shows around particles."""

    text = ("Some of the micrographs are open in your browser. Press 5 and drag across a particle to measure its "
            "diameter, or type it.")
    title = "Particle diameter"

    def start(self, protocol, folder):
        return StudioRun(folder, [*self.arguments(protocol, folder), "--project", os.path.join(folder, "session")], USE)

    def arguments(self, protocol, folder):
        """Return arguments of the studio."""
        raise NotImplementedError

    def chosen(self, protocol, values, folder):
        return {"particleDiameter": float(f"{values['diameter_angst']:.4g}")}


class DeepEMDiameterWizard(SizeWizard):
    """Particle diameter of the training, on the micrographs with coordinates."""

    _targets = [(ProtDeepEMTrain, ["particleDiameter"])]

    def problem(self, protocol):
        coordinates = protocol.inputCoordinates.get()
        return "" if coordinates is not None and coordinates.getSize() else (
            "Choose the particle coordinates, or the micrographs, first: the particle is measured on them.")

    def arguments(self, protocol, folder):
        coordinates = protocol.inputCoordinates.get()
        if protocol._isUnlabelled():
            mics = some_micrographs(protocol, [mic.clone() for mic in coordinates])
            return [*studio_arguments(folder, coordinates, mics), *_contrast(protocol), "--diameter",
                    f"{protocol._getDiameter() or USUAL_DIAMETER_ANGST:g}"]
        mics = some_micrographs(protocol, list(convert.micrographs_with_coordinates(coordinates).values()))
        diameter = protocol._getDiameter() or USUAL_DIAMETER_ANGST
        return [*studio_arguments(folder, coordinates.getMicrographs(), mics, coordinates), "--diameter",
                f"{diameter:g}"]


class DeepEMPickDiameterWizard(SizeWizard):
    """Particle diameter for the general model, on the micrographs."""

    _targets = [(ProtDeepEMPick, ["particleDiameter"])]

    def problem(self, protocol):
        return "" if protocol.getInputMicrographs() is not None else (
            "Choose the micrographs first: the particle is measured on them.")

    def arguments(self, protocol, folder):
        micSet = protocol.getInputMicrographs()
        mics = some_micrographs(protocol, [mic.clone() for mic in micSet])
        return [*studio_arguments(folder, micSet, mics), *_contrast(protocol), "--diameter",
                f"{protocol.particleDiameter.get() or USUAL_DIAMETER_ANGST:g}"]


class DeepEMBoxSizeWizard(SizeWizard):
    """Box size of the picks, around circles of the particle's diameter."""

    _targets = [(ProtDeepEMPick, ["boxSize"])]
    title = "Box size"
    text = ("Some of the micrographs are open in your browser, with boxes around the picks. Change the box in the "
            "panel on the right.")

    def problem(self, protocol):
        return "" if protocol.getInputMicrographs() is not None and protocol.getModel() is not None else (
            "Choose the micrographs, and the model or the diameter, first: the box is drawn around the picks.")

    def arguments(self, protocol, folder):
        micSet = protocol.getInputMicrographs()
        mics = some_micrographs(protocol, [mic.clone() for mic in micSet])
        model = (["--diameter", f"{protocol.particleDiameter.get():g}", *_contrast(protocol)] if protocol.isGeneral()
                 else ["--model", protocol.getModel().getFileName()])
        return [*studio_arguments(folder, micSet, mics), *model, "--box", str(protocol._getBoxSize())]

    def chosen(self, protocol, values, folder):
        return {"boxSize": values["box_px"]}


def _contrast(protocol):
    return ["--contrast", "bright"] if protocol.contrast.get() == BRIGHT else []
