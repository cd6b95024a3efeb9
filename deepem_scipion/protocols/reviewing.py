# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Further sets of coordinates from the candidates of a picking run."""

import pyworkflow.utils as pwutils
from pwem.protocols.protocol_particles_picking import ProtParticlePickingOutput
from pyworkflow.object import Pointer

from .. import convert
from ..deepem.picking.results import PickingResults

OUTPUT = ProtParticlePickingOutput.outputCoordinates.name


class ReviewedPicks:
    """Registers picks made with other limits. To be inherited together with the picking protocol."""

    def getMicrographsByResult(self):
        """Return copies of the input micrographs by the name of their result files."""
        mics = list(convert.with_unique_names(self.getInputMicrographs()))
        names = convert.result_names(mics)
        return {names[mic.getObjId()]: mic for mic in mics}

    def registerPicks(self, review, reasons, comment):
        """Store picks as a further output, outputCoordinates_2 and so on, one micrograph at a time.

        Their .box files are in a separate folder, picks_2 and so on, next to the results of the run.

        Parameters
        ----------
        review : Review
        reasons : (n,) str array
            Reason of each candidate of the review.
        comment : str
            Comment of the output.

        Yields
        ------
        int
            Number of micrographs stored so far. The output is registered after the last one.

        Raises
        ------
        RuntimeError
            If the run is still active, or some of its micrographs are no longer in its input.
        """
        if self.isActive():
            raise RuntimeError("The run has not finished. Register further coordinates after its end.")
        mics = self.getMicrographsByResult()
        lost = [result for result in review.names if result not in mics]
        if lost:
            raise RuntimeError(f"{len(lost)} micrographs of this run, among them {lost[0]}, are no longer in its input "
                               "set. Restart the run.")
        name = self.getNextOutputName(OUTPUT + "_")
        suffix = name[len(OUTPUT):]
        folder = self._getExtraPath("picks" + suffix)
        pwutils.cleanPath(folder)
        pwutils.makePath(folder)
        coordinates = self._createSetOfCoordinates(self.inputMicrographs, suffix)
        for number, result in enumerate(review.names, start=1):
            path = PickingResults(folder).path("box", result)
            review.write_picks(result, reasons, path, coordinates.getBoxSize())
            for item in convert.read_picks(path, mics[result]):
                coordinates.append(item)
            yield number
        coordinates.setObjComment(comment)
        coordinates.write()
        self._defineOutputs(**{name: coordinates})
        self._defineSourceRelation(self.inputMicrographs, Pointer(self, extended=name))
        self._store()
