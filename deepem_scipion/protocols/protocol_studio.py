# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking by hand and by learning, in the studio."""

import os

from pwem.objects import SetOfCoordinates
from pwem.protocols import ProtParticlePicking
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_SERIAL, params

from .. import convert
from ..objects import DeepEMModel
from ..studio import studio_arguments, usual_diameter
from .protocol_base import DeepEMProgram
from .reviewing import MODEL, NEGATIVES, OUTPUT, StudioOutputs


class ProtDeepEMStudio(StudioOutputs, DeepEMProgram, ProtParticlePicking):
    """ Picks particles by hand and by learning, in the browser.

    The run opens the studio, a page in your browser with the micrographs and their picks, and waits until you press
    *Close* there. In the studio you add what is missing and remove what is wrong; *Learn* fine-tunes the model on your
    marks within seconds and picks all micrographs again.

    *Input*

    Micrographs. Optionally a model to start from, or coordinates of any picker to correct. With neither, you
    correct the picks of the general model.

    *On a machine without a browser*

    The address of the page, and the line for an SSH tunnel, are in the output log of the run.

    *Continue*

    Everything is saved at once. *Continue* opens the studio again where you left it, and replaces the outputs when you
    close it.

    *Output*

    outputCoordinates: the picks of all micrographs, with their scores (1 for particles that you added where no
    candidate was). outputNegatives: what you marked as no particle, for *Background and contaminants* of a training.
    outputModel: the model that has learnt from your marks; none if you did not press *Learn*.
    """

    _label = "picking by hand and by learning"
    _devStatus = NEW
    _possibleOutputs = {OUTPUT: SetOfCoordinates, NEGATIVES: SetOfCoordinates, MODEL: DeepEMModel}
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection(label="Input")
        form.addParam("inputMicrographs", params.PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Micrographs", help="The micrographs in which you pick particles.")
        form.addParam("inputModel", params.PointerParam, pointerClass="DeepEMModel", allowsNull=True, label="Model",
                      help="Model whose picks you correct. Leave it empty to start with the general model.")
        form.addParam("inputCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", allowsNull=True,
                      label="Coordinates", condition="inputModel is None",
                      help="Coordinates of any picker to correct, on some of these micrographs.")
        form.addParam("particleDiameter", params.FloatParam, default=0, label="Particle diameter (Å)",
                      condition="inputModel is None",
                      help="Longest dimension of the particle. 0: you measure it in the studio, by dragging across a "
                           "particle; with coordinates, two thirds of their box size.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.studioStep, interactive=True, needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def studioStep(self):
        """Serve the studio until it is closed, and register what was marked."""
        mics = [mic.clone() for mic in self.inputMicrographs.get()]
        self.runDeepEM("studio", self._getArguments(mics))
        names = convert.result_names(mics)
        self._createOutputs({names[mic.getObjId()]: mic for mic in mics})

    def _getArguments(self, mics):
        model = self.inputModel.get()
        coordinates = self.inputCoordinates.get() if model is None else None
        arguments = [*studio_arguments(self._getExtraPath(), self.inputMicrographs.get(), mics, coordinates,
                                       self.getProject()), "--project", str(self.getStudio().folder), "--save"]
        if model is not None:
            return [*arguments, "--model", model.getFileName()]
        diameter = self.particleDiameter.get() or (0 if coordinates is None else usual_diameter(coordinates))
        # What was measured in the studio is kept there.
        resumed = self.getStudio().exists()
        return [*arguments, *(["--diameter", f"{diameter:g}"] if diameter and not resumed else [])]

    def _createOutputs(self, mics):
        found = {}
        for _ in self.readStudio(mics, "", found):
            pass
        if self.getStudio().read().turn:
            found[MODEL] = convert.read_model(str(self.getStudio().output.path("model")))
        for name in self._possibleOutputs:
            if name not in found and hasattr(self, name):  # Continue after everything was undone
                self.deleteOutput(getattr(self, name))
        self._defineOutputs(**found)
        for each in found.values():
            self._defineSourceRelation(self.inputMicrographs, each)

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        mics, model = self.inputMicrographs.get(), self.inputModel.get()
        if awaited := self._awaitedErrors():
            return awaited
        if mics is not None and len(mics.getUniqueValues("_micName")) < mics.getSize():
            return ["Several micrographs have the same name, by which Scipion finds them in the extraction. Pick them "
                    "with DeepEM picking first: its outputMicrographs have different names, and can be opened here."]
        if model is not None and not os.path.exists(model.getFileName()):
            return [f"The file of the model, {model.getFileName()}, is missing."]
        if model is None and not self.particleDiameter.get() >= 0:
            return ["The particle diameter must be 0 or more."]
        return []

    def _warnings(self):
        mics, coordinates = self.inputMicrographs.get(), self.inputCoordinates.get()
        warnings = [] if mics is None else convert.frame_warnings(mics)
        if mics is None or coordinates is None or self.inputModel.get() is not None:
            return warnings
        rate, other = mics.getSamplingRate(), coordinates.getMicrographs().getSamplingRate()
        if abs(rate - other) <= 0.01 * rate:
            return warnings
        return [*warnings, f"The coordinates are from micrographs with {other:.2f} Å/px, and will be scaled to those "
                f"with {rate:.2f} Å/px."]

    def _summary(self):
        lines = []
        for name, what in ((OUTPUT, "picks"), (NEGATIVES, "marked as negatives")):
            found = getattr(self, name, None)
            if found is not None:
                lines.append(f"{found.getSize()} {what}")
        return lines or ["The studio has not been closed yet."]

    def _methods(self):
        picks = getattr(self, OUTPUT, None)
        return [] if picks is None else [f"{picks.getSize()} particles were picked by hand and by DeepEM [Zhu2017]."]

    def _citations(self):
        return ["Zhu2017"]

    def getCoordsDir(self):
        return self._getExtraPath()
