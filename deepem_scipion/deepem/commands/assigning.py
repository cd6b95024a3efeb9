# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates of the micrographs that a command works on; the log states how they were assigned."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeepEMError

if TYPE_CHECKING:
    from ..coordinates.coordinates import Coordinates
    from ..coordinates.formats.base import Infos

log = logging.getLogger("deepem")


def read_assigned(path: Path, micrographs: Mapping[str, Path], shifts: bool,
                  pixel_size_angst: float | None = None, binning: float = 1.0) -> dict[str, Coordinates]:
    """Read coordinates and assign them to micrographs.

    Parameters
    ----------
    path : Path
        As for `read_coordinates`.
    micrographs : mapping of str to Path
        Files by name, from `find_micrographs`.
    shifts : bool
        Whether to subtract the shifts of an alignment.
    pixel_size_angst : float, optional
        Pixel size of the micrographs; default: from their headers.
    binning : float
        Factor by which the micrographs were binned before they got their coordinates.

    Returns
    -------
    dict of str to Coordinates
        In pixels of `micrographs` and by their names; those of other micrographs by the names in the file.

    Raises
    ------
    DeepEMError
        If the file cannot be used, or it is not clear to which micrographs it belongs.
    """
    from ..coordinates.coordinates import scaled
    from ..coordinates.formats.headers import MicrographHeaders
    from ..coordinates.names import by_micrograph

    found = scaled(_read(path, shifts, MicrographHeaders(micrographs, pixel_size_angst, binning)), binning)
    assigned, match = by_micrograph(micrographs, found, path)
    if match.pairs:
        log.info("%s: %s", path, match.describe())
    return {**{name: found[name] for name in match.only_second if name not in assigned}, **assigned}


@dataclass(frozen=True)
class Compared:
    """Reference coordinates and picks of the same micrographs.

    Attributes
    ----------
    truth, picks : dict of str to Coordinates
        By the shortest name of the micrograph that is different from all others; `picks` has no others than `truth`.
    full_names : dict of str to str
        Name in the file of the reference by that name.
    """

    truth: dict[str, Coordinates]
    picks: dict[str, Coordinates]
    full_names: dict[str, str]


def read_compared(truth_path: Path, picks_path: Path, shifts: bool, infos: Infos | None = None) -> Compared:
    """Read reference coordinates and picks of the same micrographs.

    Parameters
    ----------
    truth_path, picks_path : Path
        As for `read_coordinates`.
    shifts : bool
        Whether to subtract the shifts of an alignment.
    infos : mapping of str to MicrographInfo, optional
        Sizes of the micrographs, which some formats need.

    Returns
    -------
    Compared

    Raises
    ------
    DeepEMError
        If a file cannot be used, the two have no micrograph in common, or it is not clear which are the same.
    """
    from ..coordinates.names import listed, match_names, short_names

    truth, picks = _read(truth_path, shifts, infos), _read(picks_path, shifts, infos)
    for path, found, what in ((truth_path, truth, "particles to compare with"), (picks_path, picks, "picks")):
        if not any(len(each.scores) for each in found.values()):
            log.warning("warning: %s has no %s: all of its %d micrographs are empty", path, what, len(found))
    match = match_names(truth, picks, (truth_path, picks_path))
    if not match.pairs:
        raise DeepEMError(
            f"{picks_path} and {truth_path} have no micrograph in common: the picks are of {listed(picks) or 'none'}, "
            f"the reference coordinates of {listed(truth) or 'none'}. Expected the same path or the same file name"
            + _own_names((picks_path, picks), (truth_path, truth)))
    log.info("micrographs: %s", match.describe())
    if match.only_first:
        log.warning("no picks for %d of %d micrographs, whose particles all count as missed: %s", len(match.only_first),
                    len(truth), listed(match.only_first))
    if match.only_second:
        log.info("picks of %d micrographs without reference coordinates do not count: %s", len(match.only_second),
                 listed(match.only_second))
    short = short_names(truth)
    return Compared({short[name]: found for name, found in truth.items()},
                    {short[name]: picks[other] for name, other in match.pairs.items()},
                    {short[name]: name for name in truth})


def _read(path: Path, shifts: bool, infos: Infos | None) -> dict[str, Coordinates]:
    """Read coordinates, of a studio session those saved; a results folder must have nothing from another run."""
    from ..coordinates.read import JOINT_FILE, read_coordinates
    from ..picking.results import PickingResults
    from ..studio.saved import picks_of_session, session_of

    session, results = session_of(path), PickingResults(path.parent if path.name == JOINT_FILE else path)
    if path.is_dir():
        results.check()
    if not session and (missing := results.what_is_missing()):
        log.warning("warning: %s", missing)
    found = ({os.path.splitext(each.path)[0]: each.coordinates for each in picks_of_session(session)} if session
             else read_coordinates(path, shifts, infos))
    total = sum(len(each.scores) for each in found.values())
    if repeated := total - sum(len(set(map(tuple, each.centres_xy.tolist()))) for each in found.values()):
        log.warning("warning: %d of the %d coordinates in %s are those of another one: it may have the same particles "
                    "several times", repeated, total, path)
    if not found:
        raise DeepEMError(f"{path} has no coordinates, and states no micrograph without any. Expected coordinates of "
                          "particles, or a folder with a .box file for each micrograph.")
    return found


def _own_names(*sides: tuple[Path, Mapping[str, Coordinates]]) -> str:
    """Return a sentence about STAR files that do not name their micrograph."""
    from ..coordinates.names import micrograph_of

    nameless = [str(path) for path, found in sides
                if path.suffix.lower() == ".star" and list(found) == [micrograph_of(Path(path.name))]]
    return f"; {' and '.join(nameless)} has no _rlnMicrographName, so that its own name counts" if nameless else ""
