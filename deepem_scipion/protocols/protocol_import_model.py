# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Import of a trained network from a file."""

import enum
import os

from pwem.protocols import ProtImport
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_SERIAL, params

from .. import convert
from ..constants import MODEL_FILE
from ..deepem.model.card import card_rows
from ..objects import DeepEMModel


class DeepEMImportModelOutput(enum.Enum):
    outputModel = DeepEMModel


class ProtDeepEMImportModel(ProtImport):
    """ Brings a trained DeepEM network from a file into the project.

    A model that was trained once, in another project or by the program *deepem* outside of Scipion, picks other
    micrographs of the same particle without being trained again, and is a good start for training on a similar one.

    *Where model files come from*

    From *deepem_scipion - export model* in another project, or from the commands *deepem train* and *deepem tune*.
    Models of earlier versions of the plugin can be read; those of later versions with another format are refused.

    *What is checked*

    The file is read completely before anything is copied: its weights belong to its card, and the card says all that
    picking needs. It holds arrays and text only, so that reading a file from elsewhere runs no code.

    *Whether it suits your micrographs*

    The summary shows the card: particle, contrast, pixel sizes, the network, how it was trained, and how well it
    picked the micrographs that were kept out of the training. The pixel size of your micrographs may differ, since
    they are brought to that of the network; the particle and the sign of the contrast may not.

    *Output*

    outputModel: the network with its threshold and figures. The file is copied into the folder of this run, so the
    original may be moved or deleted afterwards.
    """

    _label = "import model"
    _devStatus = NEW
    _possibleOutputs = DeepEMImportModelOutput
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection(label="Import")
        form.addParam("modelFile", params.FileParam, important=True, label="Model file",
                      help="File that was written by *deepem_scipion - export model*, by *deepem train* or *deepem "
                           "tune*, or the model in the extra folder of a training run of another project.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.importStep, self.modelFile.get(), needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def importStep(self, path):
        card, copy = convert.read_card(path), self._getExtraPath(MODEL_FILE)
        convert.copy_model(path, copy)
        model = convert.model_of_card(copy, card)
        self.summaryVar.set("\n".join(f"{label}: {value}" for label, value in card_rows(card)))
        self._defineOutputs(**{DeepEMImportModelOutput.outputModel.name: model})

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        path = self.modelFile.get()
        if not path:
            return []  # told by the framework
        if not os.path.isfile(path):
            return [f"Model file: {path} is not there, or is a folder. Choose a file."]
        try:
            convert.model_of_card(path, convert.read_card(path))
        except RuntimeError as error:
            return [f"Model file: {error}"]
        return []

    def _warnings(self):
        return []

    def _summary(self):
        if not self.summaryVar.hasValue():
            return ["The model is not ready yet."]
        return [f"Imported from {self.modelFile}", *self.summaryVar.get().splitlines()]

    def _methods(self):
        model = getattr(self, DeepEMImportModelOutput.outputModel.name, None)
        if model is None:
            return []
        return [f"A DeepEM network [Zhu2017] with windows of {model.getBoxSize()} px at "
                f"{model.getWorkingSamplingRate():.2f} Å/px was taken over, which had been trained on "
                f"{model._numberOfParticles} particles with a diameter of {model.getDiameter():.0f} Å."]

    def _citations(self):
        return ["Zhu2017"]
