# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets that another run is still adding to."""

import os

from pwem.objects import SetOfCoordinates


def as_it_is_now(coordinates, project=None):
    """A copy of a set of coordinates with its present size and stream state.

    The object that a pointer gives was made when the run was launched, and remembers both.

    Parameters
    ----------
    coordinates : SetOfCoordinates
    project : Project, optional
        Where the run is found that makes the set: as long as it is empty its file does not tell its state.

    Returns
    -------
    SetOfCoordinates
    """
    found = SetOfCoordinates()
    found.copy(coordinates, ignoreAttrs=[])
    if not os.path.exists(coordinates.getFileName() or ""):
        return found
    found.load()
    state = found.getProperty("_streamState") or _state_in_run(coordinates, project)
    if state is not None:
        found.setStreamState(int(state))
    return found


def _state_in_run(coordinates, project):
    """State of a set in the database of the run that makes it; None where this is not known."""
    producer = project.getProtocol(coordinates.getObjParentId()) if project is not None else None
    if producer is None or not os.path.exists(producer.getDbPath()):
        return None
    mapper = project.createMapper(producer.getDbPath())
    try:
        stored = mapper.selectById(coordinates.getObjId())
        return None if stored is None else stored.getStreamState()
    finally:
        mapper.close()
