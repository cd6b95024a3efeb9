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
from typing import Any

from ..coordinates.coordinates import Coordinates
from ..coordinates.names import listed
from ..errors import DeepEMError
from ..micrographs.find import find_micrographs
from ..picking.results import PickingResults
from .assigning import read_assigned
from .project import IN_RESULTS, StudioProject
from .settings import StudioSettings
from .starting import (
    RUN_MASKS,
    RUN_PIXEL_SIZE,
    Wanted,
    of_coordinates,
    of_micrographs,
    of_results,
    start_of,
    with_files,
    with_limits,
    write_start,
)

log = logging.getLogger(__name__)

DEFAULT_FOLDER = "deepem-studio"
# What is given and can then be changed on the page, besides limits.
_PAGE = ("diameter_angst", "bright", "box_px")
# Micrographs that are at another place than before and are compared with those there.
_COMPARED = 3


def open_session(wanted: Wanted) -> tuple[StudioProject, StudioSettings]:
    """Open the folder of a session and find out what it shows.

    A session that was saved is shown as it was left. What is given counts unless it is the last value that was ever
    given for this option: what was changed on the page since then stays.

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
    project = StudioProject(wanted.project or (results.folder / IN_RESULTS if results else Path(DEFAULT_FOLDER)))
    saved = None
    try:
        if project.exists():
            project.open()
            saved = project.read()
        new = _new(results, wanted, project, saved)
        known = {}
        if wanted.coordinates:
            known = read_assigned(wanted.coordinates, new.micrographs, new.pixel_size_angst)
            new = of_coordinates(new, known)
            if len(known) < len(new.micrographs):
                log.warning("warning: %d of %d micrographs have no coordinates: they are not saved unless something is "
                            "marked on them", len(new.micrographs) - len(known), len(new.micrographs))
        if saved is None:
            new = with_limits(new, wanted.limits)
            project.open()
            settings = write_start(project, new, known) if known else new
        else:
            settings = _resumed(project, saved, new, wanted.limits, known)
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
    if saved is None and not wanted.sources:
        raise DeepEMError(f"{project.folder} holds no session. Give micrographs, or the output folder of `deepem "
                          "pick`.")
    if saved and not wanted.sources and saved.results and saved.starts_with("run"):
        found = PickingResults(saved.results)
        results = found if found.exists() else None
    if saved:
        size = wanted.pixel_size_angst or _pixel_size(saved, results)
        wanted = replace(wanted, pixel_size_angst=size)
    if results:
        new = of_results(results, wanted)
    else:
        new = of_micrographs(saved.micrographs if saved and not wanted.sources else find_micrographs(wanted.sources),
                             wanted)
    if saved and not wanted.sources:
        new = replace(new, micrographs=saved.micrographs)
    if saved and new.starts_with("model") and (new.given["model"] == saved.given.get("model")
                                               or saved.starts_with("coordinates") and not wanted.sources):
        new = replace(new, given={**new.given, "start": saved.given["start"]})  # the model is the one to learn from
    if saved and (wanted.tiff_rows or new.starts_with("run")) and new.tiff_rows != saved.tiff_rows:
        raise DeepEMError(f"{project.folder} counts the rows of TIFF files from the {saved.tiff_rows}: from the "
                          f"{new.tiff_rows} its marks would be upside down. Give another folder with --project.")
    return new


def _pixel_size(saved: StudioSettings, results: PickingResults | None) -> float | None:
    """The pixel size saved, or that of the picking run if it was made again with another one."""
    if results is None:
        return saved.pixel_size_angst
    size = results.read_settings().pixel_size_angst
    return saved.pixel_size_angst if size == saved.given.get(RUN_PIXEL_SIZE) else size


def _resumed(project: StudioProject, saved: StudioSettings, new: StudioSettings, limits: Mapping[str, Any],
             known: Mapping[str, Coordinates]) -> StudioSettings:
    """The settings saved, with what is given now and was not given the last time."""
    _check_micrographs(project, saved.micrographs, new.micrographs)
    settings = replace(saved, micrographs=new.micrographs, pixel_size_angst=new.pixel_size_angst)
    changed = {key for key, value in new.given.items() if key not in saved.given or saved.given[key] != value}
    before = {name: known[name] for name in known if name in saved.micrographs}
    if known and start_of(before) == saved.given.get("start"):
        changed.discard("start")  # there are more of them, at most
    if known and ("start" in changed or new.micrographs.keys() - saved.micrographs.keys()):
        new = write_start(project, new, known)
    if RUN_MASKS in changed:
        settings = replace(settings, masks=new.masks)
    if known or {"start", "model"} & changed:
        first = project.read_turn(0) if saved.turn else settings
        first = replace(settings, turn=0, model=new.model or first.model, limits=first.limits)
        first = _started(first, new, limits) if "start" in changed else _rescaled(first, new) if known else first
        if saved.turn:
            project.write_turn(first)
            first = replace(first, turn=saved.turn, model=saved.model, limits=saved.limits)
        settings = first
    if saved.turn and {"start", "model"} & changed:
        log.warning("warning: %s shows what the model finds that was learnt in it. *Back to the model before*, until "
                    "the first one is back, leads to what was given now", project.folder)
    settings = settings.adjusted(**{key: new.given[key] for key in _PAGE if key in changed})
    if not (saved.turn and "start" in changed):  # otherwise they are those of the start, not of the model learnt
        settings = with_limits(settings, {key: limits[key] for key in limits if key in changed})
    return replace(settings, given={**saved.given, **new.given})


def _started(settings: StudioSettings, new: StudioSettings, limits: Mapping[str, Any]) -> StudioSettings:
    """Settings that start with the model, the results folder or the coordinates of others, and limits given."""
    new, run = with_limits(new, limits), new.starts_with("run")
    settings = replace(settings, results=new.results, limits=new.limits, score_range=new.score_range,
                       bright=new.bright if run else new.bright or settings.bright,
                       masks=new.masks if run else settings.masks)
    return settings if new.assumed else replace(settings, diameter_angst=new.diameter_angst, assumed=False)


def _rescaled(settings: StudioSettings, new: StudioSettings) -> StudioSettings:
    """Settings with the range of scores of others; the threshold remains the same score, and 0 shows all."""
    if settings.score_range == new.score_range or not settings.limits.threshold:
        return replace(settings, score_range=new.score_range)
    (low, high), (new_low, new_high) = settings.score_range, new.score_range
    threshold = (low + (high - low) * settings.limits.threshold - new_low) / (new_high - new_low)
    return replace(settings, score_range=new.score_range,
                   limits=replace(settings.limits, threshold=min(max(threshold, 0.0), 1.0)))


def _check_micrographs(project: StudioProject, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raise DeepEMError unless the micrographs of a session are there, moved or copied perhaps, or some are gone."""
    lost = sorted(set(saved) - set(given))
    gone = [name for name in lost if not os.path.exists(saved[name])] if len(lost) < len(saved) else []
    if others := [name for name in lost if name not in gone]:
        raise DeepEMError(f"{project.folder} holds a session of other micrographs ({listed(others)}). Give "
                          "these as well, or another folder with --project.")
    if gone:
        log.warning("warning: %d micrographs of %s are gone (%s): their picks are not saved; their marks are kept",
                    len(gone), project.folder, listed(gone))
    elsewhere = [name for name, path in saved.items() if path != given.get(name, path)
                 and os.path.exists(path) and os.path.exists(given[name])]
    for name in elsewhere[:_COMPARED]:
        try:
            same = filecmp.cmp(saved[name], given[name], shallow=False)
        except OSError as error:
            raise DeepEMError(f"{error.filename} cannot be read: {error.strerror}.") from error
        if not same:
            raise DeepEMError(f"{project.folder} holds a session of other micrographs: {name} is {saved[name]} there, "
                              f"and now {given[name]}. Give another folder with --project.")
