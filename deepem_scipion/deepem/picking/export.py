# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picks of a run in the formats of other programs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.formats.base import MicrographInfo, MicrographPicks
from ..coordinates.formats.headers import read_info
from ..coordinates.formats.registry import write_files
from ..coordinates.star import Optics, can_name
from ..errors import DeepEMError
from .box import default_box_px
from .results import PickingResults
from .selection import PICKED
from .settings import RunSettings
from .summary import MicrographResult

log = logging.getLogger(__name__)


def export(results: PickingResults, formats: Iterable[str]) -> dict[str, Path]:
    """Write the picks of a run in other formats into its results folder.

    Parameters
    ----------
    results : PickingResults
    formats : iterable of str
        Keys of `coordinates.formats.FORMATS`.

    Returns
    -------
    dict of str to Path
        Folder by format.

    Raises
    ------
    DeepEMError
        If there is no run, there is no such format, or a file cannot be read or written.
    """
    picks = picks_of_run(results)
    folders = {name: results.path("export", name) for name in formats}
    for name, folder in folders.items():
        write_files(name, folder, picks)
    return folders


def write_star(results: PickingResults, micrographs: Mapping[str, MicrographResult], settings: RunSettings,
               optics: Optics) -> None:
    """Write picks.star, the picks of all micrographs of a run, from their candidates.

    Parameters
    ----------
    results : PickingResults
    micrographs : mapping of str to MicrographResult
        By name; those that failed, and those whose path cannot stand in the file, are left out.
    settings : RunSettings
    optics : Optics

    Raises
    ------
    DeepEMError
        If a file cannot be read or written.
    """
    named = {name: found for name, found in micrographs.items() if found.ok and can_name(found.path)}
    working = settings.working_pixel_size_angst
    sizes = [found.pixel_size_angst or working for found in named.values()]

    def entries() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for name, found in named.items():
            candidates, reasons = results.read_candidates(name)
            picks = candidates.subset(reasons == PICKED)
            yield found.path, picks.centres_xy, picks.scores

    results.write_star(entries(), sizes or working, optics)


def picks_of_run(results: PickingResults, paths: Mapping[str, Path] | None = None) -> list[MicrographPicks]:
    """Return the picks of all micrographs of a run, also of those without any, with the decimals of the candidates.

    Parameters
    ----------
    results : PickingResults
    paths : mapping of str to Path, optional
        Files by name, of micrographs that are no longer where they were picked.

    Returns
    -------
    list of MicrographPicks
        In the order of the table. The size of a micrograph that is no longer there is not known.

    Raises
    ------
    DeepEMError
        If there is no run, a file cannot be read, or there are .box files that are not of the run.
    """
    settings = results.read_settings()
    results.check()
    if missing := results.what_is_missing():
        log.warning("warning: %s", missing)
    return [_picks(results, settings, name, str((paths or {}).get(name, found.path)))
            for name, found in results.read_micrographs().items() if found.ok]


def _picks(results: PickingResults, settings: RunSettings, name: str, path: str) -> MicrographPicks:
    candidates, reasons = results.read_candidates(name)
    picks = candidates.subset(reasons == PICKED)
    info = known_info(path, settings.pixel_size_angst)
    box_px = results.read_picks(name).box_px  # None if there is no pick
    if box_px is None and info is not None and info.pixel_size_angst is not None:
        box_px = default_box_px(settings.diameter_angst, info.pixel_size_angst)
    return MicrographPicks(name, path, Coordinates(picks.centres_xy, picks.scores, box_px), info)


def known_info(path: str, pixel_size_angst: float | None) -> MicrographInfo | None:
    """Return the size of a micrograph as `headers.read_info`, None if the file is no longer there."""
    try:
        return read_info(path, pixel_size_angst)
    except DeepEMError:  # moved away after it was picked
        return None
