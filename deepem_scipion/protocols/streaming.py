# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bookkeeping of the picking protocol: which micrographs are done, and which coordinates the output holds."""

import os

import pyworkflow.utils as pwutils
from pwem.protocols.protocol_particles_picking import ProtParticlePickingOutput

from .. import convert
from ..deepem.picking.results import PickingResults
from ..deepem.picking.table import read_failures


class PickStreaming:
    """Keeps runs with many thousands of micrographs fast, and complete after a crash.

    To be inherited together with the picking protocol.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._names = {}  # of the result files, by micrograph id
        self._stored = None  # ids of the micrographs with coordinates in the output; None until they are needed
        self._markers = set()  # files of the micrographs that are done

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._names, self._stored = {}, None
        self._prepareContinue()
        super()._insertAllSteps()

    # -------------------------- STEPS functions ------------------------------
    # A step returns the files that mark its micrographs as done. If one is missing, Continue repeats the step.
    def pickMicrographStep(self, micName, *args):
        """Pick one micrograph."""
        super().pickMicrographStep(micName, *args)
        return [self._getMicDone(self.micDict[micName])]

    def pickMicrographListStep(self, micNameList, *args):
        """Pick a batch of micrographs."""
        super().pickMicrographListStep(micNameList, *args)
        return [self._getMicDone(self.micDict[micName]) for micName in micNameList]

    # With many thousands of micrographs the checks of the framework would take longer than the time between them.
    def _checkNewInput(self):
        if not self.streamClosed:
            super()._checkNewInput()

    def _checkNewOutput(self):
        self._markers = set(os.listdir(os.path.dirname(self._getAllDone())))
        super()._checkNewOutput()

    def _isMicDone(self, mic):
        return os.path.basename(self._getMicDone(mic)) in self._markers

    def _readDoneList(self):
        return set(super()._readDoneList())

    def readCoordsFromMics(self, outputDir, micDoneList, outputCoords):
        """Add the picks of micrographs to the output, each micrograph once."""
        names = self._getNames()
        if self._stored is None:
            # A crash may come between storing coordinates and noting that they are stored: never add any twice.
            self._stored = set(outputCoords.getUniqueValues("_micId")) if outputCoords.getSize() else set()
        for mic in micDoneList:
            if mic.getObjId() not in self._stored and not os.path.exists(self._getMicFailed(mic)):
                for item in convert.read_picks(PickingResults(outputDir).path("box", names[mic.getObjId()]), mic):
                    outputCoords.append(item)
                self._stored.add(mic.getObjId())

    def _updateOutputCoordSet(self, micList, streamMode):
        # No output as long as all micrographs have failed.
        if self._getOutput() is None and all(os.path.exists(self._getMicFailed(mic)) for mic in micList):
            return micList
        return super()._updateOutputCoordSet(micList, streamMode)

    def _updateStreamState(self, streamMode):
        if self._getOutput() is not None or not self._getFailed():
            super()._updateStreamState(streamMode)

    # -------------------------- UTILS functions ------------------------------
    def _getOutput(self):
        return getattr(self, ProtParticlePickingOutput.outputCoordinates.name, None)

    def _getMicFailed(self, mic):
        return self._getExtraPath("FAILED", f"mic_{mic.getObjId():06d}.TXT")

    def _getFailed(self):
        """Reasons of the micrographs that failed, by name."""
        folder = self._getExtraPath("FAILED")
        files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return {name: reason for file in files
                for name, reason in read_failures(os.path.join(folder, file)).items()}

    def _getNames(self):
        """Names of the result files by micrograph id."""
        names = self._names
        if len(names) != len(self.micDict):
            names = self._names = convert.result_names(list(self.micDict.values()))
        return names

    def _prepareContinue(self):
        """Let Continue retry failed micrographs, and read from the output set itself what it holds."""
        folder = self._getExtraPath("FAILED")
        if os.path.isdir(folder):
            done = [self._getExtraPath("DONE", file) for file in os.listdir(folder)]
            pwutils.cleanPath(*done, folder)
        # The last step makes this file, and is done again without it. While it waits the run does not end, although no
        # batch may be there yet: the input may have been opened again.
        pwutils.cleanPath(self._getFailedFile())
        # After a crash the list of what was stored may differ from the output set.
        pwutils.cleanPath(self._getAllDone())
        convert.write_json(self._getArgumentsFile(), self._getDetermining())
