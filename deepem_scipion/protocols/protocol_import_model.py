# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Import of a trained model from a file."""

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
    """ Imports a trained DeepEM model from a file.

    A model that was trained once, in another project or by the program *deepem* outside of Scipion, picks other
    micrographs of the same particle without further training, and is a good start for fine-tuning on a similar one.

    *Where model files come from*

    From *export DeepEM model* in another project, from the extra folder of a training run, or from the
    commands *deepem train* and *deepem tune*.

    *What is checked*

    The file is read completely before it is copied: its weights must match its card, and the card must state all that
    picking needs. The file contains only arrays and text, so that reading a file of unknown origin runs no code.

    *Whether it suits your micrographs*

    The summary shows the card: particle, contrast, pixel sizes, network, training, and how well the model picked its
    validation micrographs. The pixel size of your micrographs may differ, because they are resampled to the working
    pixel size of the model; the particle and the sign of the contrast should be the same.

    *Output*

    outputModel: the model with its threshold and validation figures. The file is copied into the folder of this run,
    so the original can be moved or deleted afterwards.
    """

    _label = "import model"
    _devStatus = NEW
    _possibleOutputs = DeepEMImportModelOutput
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection(label="Import")
        form.addParam("modelFile", params.FileParam, important=True, label="Model file",
                      help="File written by *export DeepEM model*, *deepem train* or *deepem tune*, or the "
                           "model in the extra folder of a training run.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.importStep, self.modelFile.get(), needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def importStep(self, path):
        """Copy the file and register the model."""
        card, copy = convert.read_card(path), self._getExtraPath(MODEL_FILE)
        convert.copy_model(path, copy)
        model = convert.model_of_card(copy, card)
        self.summaryVar.set("\n".join(f"{label}: {value}" for label, value in card_rows(card)))
        self._defineOutputs(**{DeepEMImportModelOutput.outputModel.name: model})

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        path = self.modelFile.get()
        if not path:
            return []  # reported by the framework
        if not os.path.isfile(path):
            return [f"Model file: {path} does not exist, or is a folder. Choose a file."]
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
        return [f"A DeepEM network [Zhu2017] with boxes of {model.getBoxSize()} px at "
                f"{model.getWorkingSamplingRate():.2f} Å/px was imported, which had been trained on "
                f"{model._numberOfParticles} particles with a diameter of {model.getDiameter():.0f} Å."]

    def _citations(self):
        return ["Zhu2017"]
