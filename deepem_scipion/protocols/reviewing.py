# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outputs of what was picked and corrected in the studio."""

from pathlib import Path

from pwem.protocols.protocol_particles_picking import ProtParticlePickingOutput
from pyworkflow.object import Pointer

from .. import convert
from ..deepem.studio.project import StudioProject

OUTPUT, NEGATIVES, MODEL = ProtParticlePickingOutput.outputCoordinates.name, "outputNegatives", "outputModel"


class StudioOutputs:
    """Registers what the studio saved. To be inherited together with a protocol of picking."""

    def getStudio(self):
        """Return the files of the studio's session."""
        return StudioProject(Path(self._getExtraPath("studio")))

    def readStudio(self, mics, suffix, found):
        """Make coordinates of the picks and of the negatives, one micrograph at a time.

        Parameters
        ----------
        mics : dict of str to Micrograph
            By the name of their result files.
        suffix : str
            Of the names of the outputs.
        found : dict
            Receives the sets that are not empty by name of the output; they are not yet registered.

        Yields
        ------
        int
            Number of micrographs read so far.
        """
        studio, number = self.getStudio(), 0
        for output, source in ((OUTPUT, studio.output), (NEGATIVES, studio.negatives)):
            coordinates = self._createSetOfCoordinates(self.inputMicrographs, f"_{output}{suffix}")
            box_px = 0
            for name, mic in mics.items():
                if source.has_picks(name):
                    box_px = box_px or source.read_picks(name).box_px or 0
                    for item in convert.read_picks(source.path("box", name), mic):
                        coordinates.append(item)
                number += 1
                yield number // 2
            coordinates.setBoxSize(round(box_px))
            coordinates.write()
            if coordinates.getSize():
                found[output + suffix] = coordinates


class CorrectedPicks(StudioOutputs):
    """Registers corrected picks as further outputs. To be inherited together with the picking protocol."""

    def getMicrographsByResult(self):
        """Return copies of the input micrographs by the name of their result files."""
        mics = list(convert.with_unique_names(self.getInputMicrographs()))
        names = convert.result_names(mics)
        return {names[mic.getObjId()]: mic for mic in mics}

    def registerCorrected(self, values):
        """Store what the studio saved as further outputs, outputCoordinates_2 and so on.

        Parameters
        ----------
        values : dict
            That the studio handed back.

        Yields
        ------
        str
            What was done so far. The outputs are registered at the end.

        Raises
        ------
        RuntimeError
            If the run is still active, or nothing is picked.
        """
        if self.isActive():
            raise RuntimeError("The run has not finished. Register further coordinates after its end.")
        mics, suffix = self.getMicrographsByResult(), self.getNextOutputName(OUTPUT + "_")[len(OUTPUT):]
        found = {}
        for number in self.readStudio(mics, suffix, found):
            yield f"Registering: {number} of {len(mics)} micrographs"
        if OUTPUT + suffix not in found:
            raise RuntimeError("There are no picks.")
        comment = _comment(found[OUTPUT + suffix].getSize(), found.get(NEGATIVES + suffix), values)
        found[OUTPUT + suffix].setObjComment(comment)
        if values["turn"]:
            path = self._getExtraPath(f"model{suffix}.deepem")  # the studio replaces its own file
            convert.copy_model(str(self.getStudio().output.path("model")), path)
            found[MODEL + suffix] = convert.read_model(path)
        self._defineOutputs(**found)
        for name in found:
            self._defineSourceRelation(self.inputMicrographs, Pointer(self, extended=name))
        self._store()
        yield f"Registered as {', '.join(found)}: {comment}"


def _comment(picks, negatives, values):
    local_stds = "any" if values["std_range"] is None else "{:.3g} to {:.3g}".format(*values["std_range"])
    removed = f", {negatives.getSize()} removed by hand" if negatives is not None else ""
    return (f"{picks} picks with a score of at least {values['threshold']:.4g}, a minimum distance of "
            f"{values['min_distance_angst']:.4g} Å, a local standard deviation of {local_stds}{removed}")
