# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Import of coordinates that other programs have written."""

import enum
from pathlib import Path

from pwem.objects import SetOfCoordinates
from pwem.protocols import ProtImport
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_SERIAL, params

from .. import convert
from ..deepem.commands.assigning import read_assigned
from ..deepem.errors import DeepEMError


class DeepEMImportCoordinatesOutput(enum.Enum):
    outputCoordinates = SetOfCoordinates


class ProtDeepEMImportCoordinates(ProtImport):
    """ Imports coordinates, with their scores, from files of other programs; no other plugin is needed.

    *Formats*

    EMAN2 (.box, info/*.json), RELION (.star of one or many micrographs, also autopick.star), crYOLO (.cbox), Topaz
    (.txt, .csv), cryoSPARC (.cs), CryoPPP (.csv), Xmipp (.pos, .xmd), napari (.csv), Warp and M (.star), and results
    folders of *deepem pick*. The format is recognised by the extension and the content.

    *Which micrograph*

    Names in the files are compared with those of the micrographs, with as many folders as both have; extensions and the
    additions of some programs, as in mic_autopick.star, do not count. Micrographs that are not in the input are left
    out and listed in the summary.

    *Frame*

    Coordinates become centres in pixels of the input micrographs, y from the first row of an MRC file. Files of
    cryoSPARC and CryoPPP, which count from the last row, are converted. If the coordinates are upside down all the
    same, for instance because a program holds its micrographs so, choose *Count y from the other side?*.

    *Output*

    outputCoordinates: rounded to whole pixels, because Scipion keeps no decimals. A score is stored as
    *_deepemScore*, and as the figure of merit that RELION's extraction passes on. Coordinates outside of their
    micrograph are left out and counted in the summary.
    """

    _label = "import coordinates"
    _devStatus = NEW
    _possibleOutputs = DeepEMImportCoordinatesOutput
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        form.addSection(label="Import")
        form.addParam("inputMicrographs", params.PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Micrographs", help="Micrographs to which the coordinates belong.")
        form.addParam("path", params.PathParam, important=True, label="File or folder",
                      help="One file with the coordinates of all micrographs, or a folder with one for each.")
        form.addParam("boxSize", params.IntParam, default=0, label="Box size (px)",
                      validators=[params.GE(0, error="should not be negative")],
                      help="Side of the boxes in pixels of the micrographs. 0: that in the files; needed for formats "
                           "without one.")
        form.addParam("binning", params.FloatParam, default=1, label="Binning",
                      validators=[params.GT(0, error="should be above 0")],
                      help="Factor by which the micrographs were binned when they got these coordinates: 4 if a pixel "
                           "of the coordinates is 4 pixels of the input micrographs wide. Usually 1.")
        form.addParam("applyShifts", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                      label="Apply shifts of RELION?",
                      help="Yes: the shifts that an alignment in RELION has found are subtracted from the coordinates.")
        form.addParam("flipY", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                      label="Count y from the other side?",
                      help="Yes: y is replaced by the last row minus y, for coordinates of a program that holds the "
                           "micrographs upside down.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # Continue repeats a step whose arguments have changed.
        self._insertFunctionStep(self.importStep, self.path.get(), self.boxSize.get(), self.binning.get(),
                                 self.applyShifts.get(), self.flipY.get(), self.inputMicrographs.getUniqueId(),
                                 needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def importStep(self, path, boxSize, binning, applyShifts, flipY, inputId=None):
        """Read the files and store the coordinates."""
        micSet = self.inputMicrographs.get()
        mics = {mic.getObjId(): mic.clone() for mic in micSet}
        names = convert.result_names(mics.values())
        paths = {name: Path(mics[number].getFileName()) for number, name in names.items()}
        found = read_assigned(Path(path), paths, applyShifts, micSet.getSamplingRate(), binning)
        own = {number: found.pop(name) for number, name in names.items() if name in found}
        if not own:
            raise RuntimeError(f"{path} has no coordinates of the input micrographs. It names "
                               f"{', '.join(list(found)[:3]) or 'none'}; the input has "
                               f"{', '.join(list(paths)[:3])}.")
        sides = {each.box_px for each in own.values() if each.box_px}
        if not (boxSize or sides):
            raise RuntimeError(f"{path} does not state the size of the boxes. Give it in the form, in pixels.")
        coordinates = self._createSetOfCoordinates(self.inputMicrographs)
        coordinates.setBoxSize(boxSize or round(max(sides)))
        outside, failed, has_scores = 0, [], any(convert.is_scored(each) for each in own.values())
        for number, each in own.items():
            try:
                items, n_outside = convert.coordinate_items(each, mics[number], has_scores, flipY)
            except DeepEMError as error:
                failed.append(str(error))
                continue
            outside += n_outside
            for item in items:
                coordinates.append(item)
        if len(failed) == len(own):
            raise RuntimeError(f"No micrograph can be read. {failed[0]}")
        self._defineOutputs(**{DeepEMImportCoordinatesOutput.outputCoordinates.name: coordinates})
        self._defineSourceRelation(self.inputMicrographs, coordinates)
        self.summaryVar.set("\n".join([
            f"{coordinates.getSize()} coordinates of {len(own) - len(failed)} of {len(mics)} micrographs from {path}, "
            f"{'with' if has_scores else 'without'} scores",
            *([f"{len(failed)} micrographs cannot be read and were left out: {failed[0]}"] if failed else []),
            *([f"{outside} outside of their micrograph were left out"] if outside else []),
            *([f"{len(found)} micrographs of the files are not in the input and were left out, for instance "
               f"{next(iter(found))}"] if found else [])]))

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        path = self.path.get()
        if path and not Path(path).exists():
            return [f"File or folder: {path} does not exist."]
        return []  # other values are checked by the framework

    def _warnings(self):
        micSet = self.inputMicrographs.get()
        return [] if micSet is None else convert.frame_warnings(micSet)

    def _summary(self):
        return self.summaryVar.get().splitlines() if self.summaryVar.hasValue() else [
            "The coordinates are not ready yet."]

    def _methods(self):
        return []

    def _citations(self):
        return []
