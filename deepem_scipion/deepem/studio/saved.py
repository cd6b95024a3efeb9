# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picks that a session has saved, for other commands."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from ..coordinates.coordinates import Coordinates
from ..coordinates.formats.base import MicrographPicks
from ..coordinates.names import by_micrograph
from ..coordinates.star import read_star
from ..errors import DeepEMError
from ..picking.export import known_info
from ..picking.results import PickingResults
from .project import StudioProject

log = logging.getLogger(__name__)


def session_of(path: str | Path) -> StudioProject | None:
    """Return the session that a path belongs to.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    StudioProject or None
        None unless the path is the folder of a session, its `output` or the `picks.star` in it; and for a results
        folder that is the folder of a session as well.
    """
    path = Path(os.path.abspath(path))
    if PickingResults(path).exists():
        return None
    for project in map(StudioProject, (path, path.parent, path.parent.parent)):
        if project.exists() and path in (project.folder, project.output.folder, project.output.path("star")):
            return project
    return None


def picks_of_session(project: StudioProject, paths: Mapping[str, Path] | None = None) -> list[MicrographPicks]:
    """Return the picks that were saved in a session, with the decimals of picks.star and the boxes of the .box files.

    Parameters
    ----------
    project : StudioProject
    paths : mapping of str to Path, optional
        Files by name, of micrographs that are no longer where they were.

    Returns
    -------
    list of MicrographPicks
        Of each micrograph that has a .box file, also of those without picks. The size of a micrograph that is no longer
        there is not known.

    Raises
    ------
    DeepEMError
        If nothing was saved, a file cannot be read, or picks.star and a .box file have different numbers of picks.
    """
    settings, results = project.read(), project.output
    star = results.path("star")
    if not star.exists():
        raise DeepEMError(f"{project.folder} is a session of the studio in which no picks were saved. Open it with "
                          f"`deepem studio --project {project.folder} --save`, or give its folder `particles`, the "
                          "particles that were marked.")
    if project.saved_state() not in (None, project.state()):
        log.warning("warning: %s has changed after its picks were saved: those saved are taken. Open and close it with "
                    "`deepem studio --project %s` to save those that it shows", project.folder, project.folder)
    here = {name: (paths or {}).get(name, Path(path)) for name, path in settings.micrographs.items()}
    exact, _ = by_micrograph(here, read_star(star, ""), star)
    found = []
    for name in filter(results.has_picks, here):
        rounded = results.read_picks(name)
        picks = exact.get(name, rounded)  # a micrograph without picks is not in the STAR file
        if len(picks.scores) != len(rounded.scores):
            raise DeepEMError(f"{star} has {len(picks.scores)} picks of {name}, {results.path('box', name)} has "
                              f"{len(rounded.scores)}. Expected the same: save the picks again in the studio.")
        found.append(MicrographPicks(
            name, str(here[name]),
            Coordinates(picks.centres_xy, picks.scores, rounded.box_px or settings.written_box_px),
            known_info(str(here[name]), settings.pixel_size_angst)))
    return found
