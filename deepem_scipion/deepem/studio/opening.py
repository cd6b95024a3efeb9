# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening a session, new or saved before, and what options mean for the second."""

from __future__ import annotations

import filecmp
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..coordinates.coordinates import Coordinates
from ..errors import DeepEMError
from ..micrographs.find import find_micrographs
from ..picking.results import PickingResults
from .assigning import read_assigned
from .project import StudioProject
from .settings import StudioSettings
from .starting import Wanted, of_coordinates, of_micrographs, of_results, with_files, with_limits, write_start

log = logging.getLogger(__name__)

DEFAULT_FOLDER = "deepem-studio"
# What decides with which picks a session starts.
_START = ("model", "coordinates", "run")
# What else is given and can then be changed on the page, besides limits.
_PAGE = ("diameter_angst", "bright", "box_px")
# Micrographs that are at another place than before and are compared with those there.
_COMPARED = 3


def open_session(wanted: Wanted) -> tuple[StudioProject, StudioSettings]:
    """Open the folder of a session and find out what it shows.

    A session that was saved is shown as it was left. What is given counts unless it was given the last time as well:
    what was changed on the page since then stays.

    Parameters
    ----------
    wanted : Wanted

    Returns
    -------
    project : StudioProject
        Open; whoever called closes it.
    settings : StudioSettings

    Raises
    ------
    DeepEMError
        Nothing is given that could be shown, a file cannot be read, the session is one of other micrographs, or it is
        open elsewhere.
    """
    results = _results(wanted.sources)
    project = StudioProject(wanted.project or (results.folder / "studio" if results else Path(DEFAULT_FOLDER)))
    saved = None
    try:
        if project.exists():
            project.open()
            saved = project.read()
            wanted = replace(wanted, pixel_size_angst=wanted.pixel_size_angst or saved.pixel_size_angst)
        new = _new(results, wanted, project, saved)
        known = {}
        if wanted.coordinates:
            known = read_assigned(wanted.coordinates, new.micrographs, new.pixel_size_angst)
            new = of_coordinates(new, known, wanted)
        if saved is None:
            project.open()
            settings = write_start(project, new, known) if known else new
        else:
            settings = _resumed(project, saved, new, known)
        return project, with_files(settings, wanted)
    except BaseException:
        project.close()
        raise


def _results(sources: Sequence[str | Path]) -> PickingResults | None:
    """The results folder among the sources, if that is what they are."""
    if len(sources) == 1 and Path(sources[0]).is_dir():
        found = PickingResults(Path(sources[0]).absolute())
        if found.exists():
            return found
    return None


def _new(results: PickingResults | None, wanted: Wanted, project: StudioProject,
         saved: StudioSettings | None) -> StudioSettings:
    """The settings of a new session; without sources those of the one that was saved, with what is given."""
    if wanted.sources:
        new = of_results(results, wanted) if results else of_micrographs(find_micrographs(wanted.sources), wanted)
    elif saved is None:
        raise DeepEMError(f"{project.folder} holds no session. Give micrographs, or the output folder of `deepem "
                          "pick`.")
    elif "run" in saved.given and saved.results and PickingResults(saved.results).exists():
        new = of_results(PickingResults(saved.results), wanted)
    else:
        new = of_micrographs(saved.micrographs, wanted)
    if saved and not wanted.sources:
        new = replace(new, micrographs=saved.micrographs)
    if saved and (wanted.tiff_rows or "run" in new.given) and new.tiff_rows != saved.tiff_rows:
        raise DeepEMError(f"{project.folder} counts the rows of TIFF files from the {saved.tiff_rows}: from the "
                          f"{new.tiff_rows} its marks would be upside down. Give another folder with --project.")
    return new


def _resumed(project: StudioProject, saved: StudioSettings, new: StudioSettings,
             known: Mapping[str, Coordinates]) -> StudioSettings:
    """The settings saved, with what is given now and was not given the last time."""
    _check_micrographs(project, saved.micrographs, new.micrographs)
    settings = replace(saved, micrographs=new.micrographs, pixel_size_angst=new.pixel_size_angst)
    before = dict(saved.given)
    another = any(key in new.given and new.given[key] != before.get(key) for key in _START)
    if known and (another or new.micrographs.keys() - saved.micrographs.keys()):
        new = write_start(project, new, known)
    if another:
        settings = _with_start(project, settings, new)
        before = {key: value for key, value in before.items() if key not in _START}
    changed = {key: value for key, value in new.given.items()
               if key not in _START and (key not in before or before[key] != value)}
    page = {key: changed.pop(key) for key in _PAGE if key in changed}
    return replace(with_limits(settings.adjusted(**page), changed), given={**before, **new.given})


def _with_start(project: StudioProject, settings: StudioSettings, new: StudioSettings) -> StudioSettings:
    """Settings that show another model, results folder or coordinates, or lead back to them if a model was learnt."""
    start = replace(settings, model=new.model or settings.model, results=new.results, limits=new.limits,
                    score_range=new.score_range, bright=new.bright or settings.bright)
    if "run" in new.given:
        start = replace(start, bright=new.bright, masks=new.masks)
    if not new.assumed:
        start = replace(start, diameter_angst=new.diameter_angst, assumed=False)
    if not settings.turn:
        return start
    project.write_turn(replace(start, turn=0))
    log.warning("warning: %s shows what the model finds that was learnt in it. *Back to the model before* leads to "
                "what was given now", project.folder)
    return replace(settings, results=start.results, score_range=start.score_range)


def _check_micrographs(project: StudioProject, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raise DeepEMError unless the micrographs of a session are there, moved or copied perhaps."""
    if lost := sorted(set(saved) - set(given)):
        raise DeepEMError(f"{project.folder} holds a session of other micrographs ({', '.join(lost[:3])} ...). Give "
                          "these as well, or another folder with --project.")
    elsewhere = [name for name, path in saved.items() if path != given[name]
                 and os.path.exists(path) and os.path.exists(given[name])]
    for name in elsewhere[:_COMPARED]:
        try:
            same = filecmp.cmp(saved[name], given[name], shallow=False)
        except OSError as error:
            raise DeepEMError(f"{error.filename} cannot be read: {error.strerror}.") from error
        if not same:
            raise DeepEMError(f"{project.folder} holds a session of other micrographs: {name} is {saved[name]} there, "
                              f"and now {given[name]}. Give another folder with --project.")
