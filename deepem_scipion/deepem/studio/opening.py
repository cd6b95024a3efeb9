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
# What is given and can then be changed on the page, besides limits.
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
    elif saved.results and saved.starts_with("run") and PickingResults(saved.results).exists():
        new = of_results(PickingResults(saved.results), wanted)
    else:
        new = of_micrographs(saved.micrographs, wanted)
    if saved and not wanted.sources:
        new = replace(new, micrographs=saved.micrographs)
    if saved and (wanted.tiff_rows or new.starts_with("run")) and new.tiff_rows != saved.tiff_rows:
        raise DeepEMError(f"{project.folder} counts the rows of TIFF files from the {saved.tiff_rows}: from the "
                          f"{new.tiff_rows} its marks would be upside down. Give another folder with --project.")
    return new


def _resumed(project: StudioProject, saved: StudioSettings, new: StudioSettings,
             known: Mapping[str, Coordinates]) -> StudioSettings:
    """The settings saved, with what is given now and was not given the last time."""
    _check_micrographs(project, saved.micrographs, new.micrographs)
    settings = replace(saved, micrographs=new.micrographs, pixel_size_angst=new.pixel_size_angst)
    changed = {key: value for key, value in new.given.items() if key not in saved.given or saved.given[key] != value}
    if known and ("start" in changed or new.micrographs.keys() - saved.micrographs.keys()):
        new = write_start(project, new, known)
    start, model = changed.pop("start", None), changed.pop("model", None)
    if start or model:
        first = replace(project.read_turn(0), masks=saved.masks) if saved.turn else settings
        first = replace(first, model=new.model or first.model)
        settings = _in_turn(project, settings, _started(first, new) if start else first)
    page = {key: changed.pop(key) for key in _PAGE if key in changed}
    return replace(with_limits(settings.adjusted(**page), changed), given={**saved.given, **new.given})


def _started(settings: StudioSettings, new: StudioSettings) -> StudioSettings:
    """Settings that start with the model, the results folder or the coordinates of others."""
    run = new.starts_with("run")
    settings = replace(settings, results=new.results, limits=new.limits, score_range=new.score_range,
                       bright=new.bright if run else new.bright or settings.bright,
                       masks=new.masks if run else settings.masks)
    return settings if new.assumed else replace(settings, diameter_angst=new.diameter_angst, assumed=False)


def _in_turn(project: StudioProject, settings: StudioSettings, first: StudioSettings) -> StudioSettings:
    """Settings that start as others do, or lead back to these if a model was learnt."""
    if not settings.turn:
        return first
    project.write_turn(first)
    log.warning("warning: %s shows what the model finds that was learnt in it. *Back to the model before* leads to "
                "what was given now", project.folder)
    return replace(settings, results=first.results, score_range=first.score_range, masks=first.masks)


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
