# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Xmipp's metadata: NAME.pos with the coordinates of one micrograph, and .xmd with those of many.

Centres are whole pixels; the first row of an MRC file is y = 0. Picks by hand are in the table "particles", automatic
ones in "particles_auto"; both are read, without those that were disabled in the window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeepEMError
from ...startables import StarTable, read_tables
from ..coordinates import Coordinates
from ..parse import gather, parse_number
from .base import MicrographPicks, by_micrograph, name_in_file, parse_score, star_column, write_lines

if TYPE_CHECKING:
    from .base import Infos

_X, _Y, _COST, _ENABLED, _MICROGRAPH = "xcoor", "ycoor", "cost", "enabled", "micrograph"
_DISABLED = "-1"
_STATE = "pickingMicrographState"  # of the header; the file of a micrograph without a mark has no other table


def read_pos(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read coordinates from a .pos or .xmd file.

    Parameters
    ----------
    path : Path
        Tables with xcoor and ycoor and, optionally, cost, which is the score, enabled and micrograph.
    name : str
        Name of the micrograph, for files that do not state it.
    infos : mapping
        Not used.

    Returns
    -------
    dict of str to Coordinates
        By the name of the micrograph. Empty if nobody has marked it: Xmipp keeps such files as well.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, or no table has coordinates.
    """
    everything = read_tables(path)
    tables = [table for table in everything if {_X, _Y} <= set(table.labels)]
    if not tables and any(_STATE in table.labels for table in everything):
        return {}
    if not tables:
        raise DeepEMError(f"{path}: no table has _{_X} and _{_Y}. Expected coordinates of Xmipp.")
    found = by_micrograph(particle for table in tables for particle in _particles(path, name, table))
    return found or {name: gather([], None)}


def _particles(path: Path, name: str, table: StarTable) -> Iterator[tuple[str, tuple[float, float, float]]]:
    columns = zip(table.rows, *(star_column(table, label) for label in (_X, _Y, _COST, _ENABLED, _MICROGRAPH)))
    for (number, _), x, y, cost, enabled, micrograph in columns:
        if enabled != _DISABLED:
            yield name if micrograph is None else name_in_file(micrograph), (
                parse_number(path, number, x or ""), parse_number(path, number, y or ""),
                math.nan if cost is None else parse_score(path, number, cost))


def write_pos(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write NAME.pos of each micrograph; returns the files, raises DeepEMError if one cannot be written."""
    return [write_lines(folder / f"{each.name}.pos", _lines(each)) for each in picks]


def _lines(picks: MicrographPicks) -> list[str]:
    labels = (_ENABLED, _X, _Y, *[_COST] * picks.is_scored)
    return ["# XMIPP_STAR_1 *", "#", "data_header", "loop_", " _pickingMicrographState", "Manual", "data_particles",
            "loop_", *(f" _{label}" for label in labels),
            *(f" 1 {round(x)} {round(y)}" + f" {score:.6g}" * picks.is_scored for x, y, score in picks.rows)]
