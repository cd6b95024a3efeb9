# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training on sets of coordinates to which another run is still adding."""

import os

from pyworkflow.protocol import STATUS_NEW

from .. import convert
from ..constants import MIN_PARTICLES, UNLABELLED
from .form_train import filled


class WaitsForInput:
    """Lets training start as soon as its input is large enough. To be inherited together with the protocol."""

    _loggedWaiting = None

    # -------------------------- INSERT steps functions -----------------------
    def _stepsCheck(self):
        first = self._steps[0]
        if first.isWaiting() and not self._isWaiting():
            first.setStatus(STATUS_NEW)

    def _isWaiting(self):
        """Whether the input is still too small; what is missing is logged."""
        waiting = self._getWaiting()
        if waiting and waiting != self._loggedWaiting:
            self.info(f"Waiting for {' and '.join(waiting)}")
        self._loggedWaiting = waiting
        return bool(waiting)

    # -------------------------- UTILS functions ------------------------------
    def _getNow(self, pointer):
        """Set of coordinates behind a pointer, with all that has arrived by now."""
        return as_it_is_now(pointer.get(), self.getProject())

    def _getWanted(self):
        """Numbers of micrographs and particles to start with; 0: any number."""
        return [self.waitMicrographs.get(), self.waitParticles.get()]

    def _getUnlabelled(self):
        """Number of micrographs to learn from if they have no coordinates."""
        return self.waitMicrographs.get() or UNLABELLED

    def _getWaiting(self):
        """List of words for what the training waits for; empty if it can start."""
        waiting = []
        coordinates = self._getNow(self.inputCoordinates)
        if self._isUnlabelled():
            wanted = self._getUnlabelled()
            if coordinates.isStreamOpen() and coordinates.getSize() < wanted:
                waiting.append(f"{wanted} micrographs ({coordinates.getSize()} so far)")
        elif coordinates.isStreamOpen():
            micrographs, particles = self._getWanted()
            if not (micrographs or particles):
                waiting.append("the end of the particle coordinates")
            present = coordinates.getUniqueValues("_micId") if coordinates.getSize() else []
            for wanted, found, what in (
                    (micrographs, len(present), "micrographs with particles"),
                    (max(particles, MIN_PARTICLES), coordinates.getSize(), "particles")):
                if found < wanted:
                    waiting.append(f"{wanted} {what} ({found} so far)")
        if any(self._getNow(pointer).isStreamOpen() for pointer in [*filled([self.negativeCoordinates]),
                                                                    *self._getMoreSets()]):
            waiting.append("the end of the other sets of coordinates")
        return waiting

    def _getStart(self):
        """Sentence about the input at the start of a training that could start early, in a list; empty otherwise."""
        found = convert.read_json(self._getExamplesFile())
        if found and self._isUnlabelled():
            return [f"Training on {found['micrographs']} micrographs without coordinates."]
        if not found or not any(self._getWanted()):
            return []
        what = f"{found['micrographs']} micrographs with {found['particles']} particles"
        if found["open"]:
            return [f"Training started with {what}; the input was still growing."]
        micrographs, particles = self._getWanted()
        few = found["micrographs"] < micrographs or found["particles"] < particles
        return [f"Training started with {what} at the end of the input" + (", fewer than requested." if few else ".")]


def as_it_is_now(coordinates, project=None):
    """Copy a set of coordinates or micrographs with its present size and stream state.

    The object behind a pointer was made when the run was launched, and keeps the size and the state of that moment.

    Parameters
    ----------
    coordinates : SetOfCoordinates or SetOfMicrographs
    project : Project, optional
        Project with the run that makes the set: the file of an empty set does not state whether it is open.

    Returns
    -------
    SetOfCoordinates or SetOfMicrographs
    """
    found = type(coordinates)()
    found.copy(coordinates, ignoreAttrs=[])
    if not os.path.exists(coordinates.getFileName() or ""):
        return found
    found.load()
    state = found.getProperty("_streamState") or _state_in_run(coordinates, project)
    if state is not None:
        found.setStreamState(int(state))
    return found


def _state_in_run(coordinates, project):
    """Stream state of a set in the database of the run that makes it; None if it is not known."""
    producer = project.getProtocol(coordinates.getObjParentId()) if project is not None else None
    if producer is None or not os.path.exists(producer.getDbPath()):
        return None
    mapper = project.createMapper(producer.getDbPath())
    try:
        stored = mapper.selectById(coordinates.getObjId())
        return None if stored is None else stored.getStreamState()
    finally:
        mapper.close()
