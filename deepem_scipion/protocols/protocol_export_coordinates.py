# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Export of coordinates in the formats of other programs."""

import os

from pwem.protocols import EMProtocol
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_SERIAL, params

from .. import convert
from ..deepem.coordinates.formats.registry import FORMATS, write_files

# Scipion stores the position, so new formats are added at the end of the registry.
WRITTEN = [name for name, each in FORMATS.items() if each.write]


class ProtDeepEMExportCoordinates(EMProtocol):
    """ Exports coordinates, with their scores, in the format of another program; no other plugin is needed.

    *Formats*

    EMAN2 (.box, info/*.json), RELION (one .star file for each micrograph, and autopick.star, the list of them), crYOLO
    (.cbox), Topaz (.txt), cryoSPARC (.cs with a group file), CryoPPP (.csv), Xmipp (.pos), napari (.csv) and Warp
    (.star). The documentation of the plugin says for each program where to load the files.

    *Scores*

    Those of DeepEM, RELION, crYOLO and Topaz are written where the format has a place for them. Coordinates without
    scores are written without.

    *Frame*

    Coordinates are those of Scipion: centres in pixels, y from the first row of the file. Formats that count otherwise
    are converted; for these the micrographs must be there.

    *Output*

    Files in the folder that you choose; the summary shows their number. There is no output in the project.
    """

    _label = "export coordinates"
    _devStatus = NEW
    _possibleOutputs = {}
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection(label="Export")
        form.addParam("inputCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Coordinates", help="Coordinates of any protocol; scores of DeepEM, RELION, crYOLO and "
                                                "Topaz are written.")
        form.addParam("format", params.EnumParam, choices=[FORMATS[name].program for name in WRITTEN],
                      default=WRITTEN.index("relion"), label="Format", help="Program that will read the files.")
        form.addParam("folder", params.FolderParam, important=True, label="Folder",
                      help="Folder for the files; created if it does not exist.")
        form.addParam("overwrite", params.BooleanParam, default=False, label="Write into a folder with files?",
                      help="Yes: files of the same name are replaced. No: the run does not start if the folder is not "
                           "empty.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # Continue repeats a step whose arguments have changed.
        self._insertFunctionStep(self.exportStep, WRITTEN[self.format.get()], self._getFolder(), self.overwrite.get(),
                                 self.inputCoordinates.getUniqueId(), needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def exportStep(self, name, folder, overwrite, inputId=None):
        """Write the files."""
        if not overwrite and _occupied(folder):
            raise RuntimeError(_occupied(folder))
        picks = convert.picks_of_set(self.inputCoordinates.get())
        files = write_files(name, folder, picks)
        number = sum(len(each.coordinates.scores) for each in picks)
        self.summaryVar.set(f"{number} coordinates of {len(picks)} micrographs written to "
                            f"{files[0] if len(files) == 1 else folder} ({FORMATS[name].program})")

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        problem = "" if self.overwrite or self.isFinished() else _occupied(self._getFolder())
        return [problem] if problem else []

    def _warnings(self):
        coordinates = self.inputCoordinates.get()
        return [] if coordinates is None else convert.frame_warnings(coordinates.getMicrographs())

    def _summary(self):
        return [self.summaryVar.get() if self.summaryVar.hasValue() else "The coordinates have not been exported yet."]

    def _methods(self):
        return []

    def _citations(self):
        return []

    # -------------------------- UTILS functions ------------------------------
    def _getFolder(self):
        """Absolute path of the folder; empty if none is given."""
        return os.path.abspath(os.path.expanduser(self.folder.get())) if self.folder.get() else ""


def _occupied(folder):
    """Sentence about a folder that is not empty; empty if it is, or is not there."""
    if not (os.path.isdir(folder) and os.listdir(folder)):
        return ""
    return f"{folder} is not empty. Choose another folder, or write into a folder with files."
