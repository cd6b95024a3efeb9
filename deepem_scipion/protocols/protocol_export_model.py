# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Export of a trained model to a file outside of the project."""

import os
import re
import time

from pwem.protocols import EMProtocol
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_SERIAL, params

from .. import convert


class ProtDeepEMExportModel(EMProtocol):
    """ Exports a trained DeepEM model to a file outside of the project.

    The file can be archived, shared, imported into another project by *import DeepEM model*, or used with
    the program *deepem* without Scipion.

    *What is in the file*

    The weights and the card of the model: particle, pixel sizes, network, threshold, training, and validation figures.
    It contains neither micrographs nor coordinates, but the names of the training micrographs. Its size
    is below one megabyte, or a few megabytes with several networks.

    *Folder and name*

    Any folder with write permission. It should be outside of the project, so that the model outlives it.
    The file is named after the particle, its diameter and the day of the training:
    apoferritin-120A-2026-11-23.deepem is a model for apoferritin with a diameter of 120 Å. An existing file is only
    replaced if you ask for it.

    *Output*

    The file; the summary shows its path. There is no output in the project.
    """

    _label = "export model"
    _devStatus = NEW
    _possibleOutputs = {}
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection(label="Export")
        form.addParam("inputModel", params.PointerParam, pointerClass="DeepEMModel", important=True, label="Model",
                      help="Model that was trained in this project or imported into it.")
        form.addParam("folder", params.FolderParam, important=True, label="Folder",
                      help="Folder for the file; created if it does not exist.")
        form.addParam("particle", params.StringParam, default="", label="Name of the particle",
                      help="First part of the file name, for instance apoferritin. Empty: particle.")
        form.addParam("overwrite", params.BooleanParam, default=False, label="Replace an existing file?",
                      help="Yes: a file of the same name in the folder is replaced. No: the run does not start if "
                           "there is one.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.exportStep, self.inputModel.get().getFileName(), self._getTarget(),
                                 self.overwrite.get(), needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def exportStep(self, source, target, overwrite):
        """Copy the file of the model."""
        if os.path.exists(target) and not overwrite:
            raise RuntimeError(_occupied(target))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        convert.copy_model(source, target)
        self.summaryVar.set(target)

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        model = self.inputModel.get()
        if model is None or not self.folder.get():
            return []  # reported by the framework
        if not os.path.exists(model.getFileName()):
            return [f"The file of the model, {model.getFileName()}, is missing. Train or import it again."]
        if os.path.exists(self._getTarget()) and not (self.overwrite or self.isFinished()):
            return [_occupied(self._getTarget())]
        return []

    def _warnings(self):
        return []

    def _summary(self):
        if not self.summaryVar.hasValue():
            return ["The model has not been exported yet."]
        return [f"Exported to {self.summaryVar}"]

    def _methods(self):
        return []

    def _citations(self):
        return ["Zhu2017"]

    # -------------------------- UTILS functions ------------------------------
    def _getTarget(self):
        """Absolute path of the file."""
        model = self.inputModel.get()
        particle = re.sub(r"[^\w.+]+", "_", self.particle.get("").strip()) or "particle"
        day = time.strftime("%Y-%m-%d", time.localtime(os.path.getmtime(model.getFileName())))
        folder = os.path.abspath(os.path.expanduser(self.folder.get()))
        return os.path.join(folder, f"{particle}-{model.getDiameter():.0f}A-{day}.deepem")


def _occupied(target):
    return f"{target} already exists. Choose another folder or name, or replace the existing file."
