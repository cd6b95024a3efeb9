# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking of micrographs of which several have the same name, such as those of two imports."""

import os
from collections import Counter

import pyworkflow.utils as pwutils
from pwem.objects import SetOfMicrographs
from pyworkflow.object import Pointer

from .. import convert

OUTPUT = "outputMicrographs"


class PickTwins:
    """Gives micrographs names of which each is unique, and makes a set with them where the input has others.

    The framework finds micrographs by name in picking and in extraction, and RELION by the name of the file. To be
    inherited together with the picking protocol.
    """

    # -------------------------- INSERT steps functions -----------------------
    def _loadMics(self, micSet):
        """Micrographs that were not there before, by unique name, and whether there will be no more."""
        before = {mic.getObjId() for mic in self.micDict.values()}
        found, closed = self._loadSet(micSet, SetOfMicrographs, lambda mic: mic.getObjId())
        new = [mic for number, mic in found.items() if number not in before]
        return {mic.getMicName(): mic for mic in convert.with_unique_names(new, self.micDict)}, closed

    # -------------------------- STEPS functions ------------------------------
    def _updateOutputCoordSet(self, micList, streamMode):
        if self._hasTwins():
            self._updateMicrographs(streamMode)
        return super()._updateOutputCoordSet(micList, streamMode)

    def _hasTwins(self):
        """Whether names of micrographs or of their files occur more than once."""
        if hasattr(self, OUTPUT):
            return True
        micSet = self.getInputMicrographs()
        files = Counter(os.path.basename(mic.getFileName()) for mic in self.micDict.values())
        return max(files.values(), default=1) > 1 or len(micSet.getUniqueValues("_micName")) < micSet.getSize()

    def _updateMicrographs(self, streamMode):
        """Add all micrographs that are known by now to the set with unique names; its files are links."""
        output = getattr(self, OUTPUT, None)
        first = output is None
        if first:
            output = self._createSetOfMicrographs()
            output.copyInfo(self.getInputMicrographs())
            known = set()
        else:
            output.enableAppend()
            known = set(output.getIdSet())
        names = self._getNames()
        for mic in self.micDict.values():
            if mic.getObjId() not in known:
                extension = os.path.splitext(mic.getFileName())[1]
                link = self._getExtraPath("micrographs", names[mic.getObjId()] + extension)
                pwutils.makeFilePath(link)
                # A relative link inside the project leads there as well after the project was moved.
                link_to = pwutils.createAbsLink if os.path.isabs(mic.getFileName()) else pwutils.createLink
                link_to(mic.getFileName(), link)
                copy = mic.clone()
                copy.setFileName(link)
                output.append(copy)
        self._updateOutputSet(OUTPUT, output, streamMode)
        if first:
            self._defineTransformRelation(self.getInputMicrographsPointer(), output)
        coordinates = self._getOutput()
        if coordinates is not None:
            coordinates.setMicrographs(self._getPickedMicrographs())

    # -------------------------- UTILS functions ------------------------------
    def _getPickedMicrographs(self):
        """Pointer to the micrographs with unique names; None if the input has such."""
        return Pointer(self, extended=OUTPUT) if hasattr(self, OUTPUT) else None
