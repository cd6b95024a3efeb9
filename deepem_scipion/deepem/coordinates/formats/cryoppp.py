# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of the CryoPPP data set (.csv), one for each micrograph or one for all of a data set.

They hold centres in pixels and the diameter of the particle. The y of CryoPPP counts from the last row of the MRC file,
since its coordinates were exported from cryoSPARC without turning them: the micrograph is needed to read them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeepEMError
from ..coordinates import Coordinates
from ..parse import gather, parse_number
from .base import MicrographPicks, by_micrograph, column_of, name_in_file, read_columns, rows_of, write_lines

if TYPE_CHECKING:
    from .base import Infos

COLUMN = "X-Coordinate"
_MICROGRAPH, _DIAMETER = "Micrographs Filename", "Diameter"


def read_csv(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read a table of CryoPPP.

    Parameters
    ----------
    path : Path
        Columns X-Coordinate, Y-Coordinate and, optionally, Micrographs Filename and Diameter. see `name`.
    name : str
        Name of the micrograph, for files that do not state it.
    infos : mapping of str to MicrographInfo
        Sizes of the micrographs.

    Returns
    -------
    dict of str to Coordinates
        Without scores. The box size is the diameter.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, a column is missing or a micrograph is not known.
    """
    labels, rows = read_columns(path, ",")
    x, y = column_of(path, labels, COLUMN), column_of(path, labels, "Y-Coordinate")
    named = labels.index(_MICROGRAPH) if _MICROGRAPH in labels else None
    diameters = {fields[labels.index(_DIAMETER)] for _, fields in rows} if _DIAMETER in labels else set()
    box = parse_number(path, rows[0][0], diameters.pop()) if len(diameters) == 1 else None
    particles = []
    for number, fields in rows:
        micrograph = name if named is None else name_in_file(fields[named])
        n_rows = rows_of(infos, micrograph, path, "CryoPPP")
        particles.append((micrograph, (parse_number(path, number, fields[x]),
                                       n_rows - parse_number(path, number, fields[y]), math.nan)))
    found = by_micrograph(particles, box)
    return found if named is not None or rows else {name: gather([], None)}


def write_csv(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write NAME.csv of each micrograph, without scores.

    Parameters
    ----------
    folder : Path
    picks : sequence of MicrographPicks
        With box sizes, which are written as diameters, and the sizes of the micrographs.

    Returns
    -------
    list of Path

    Raises
    ------
    DeepEMError
        If a file cannot be written, or a box size or the size of a micrograph is not known.
    """
    return [write_lines(folder / f"{each.name}.csv", _lines(each)) for each in picks]


def _lines(picks: MicrographPicks) -> list[str]:
    if picks.info is None:
        raise DeepEMError(f"{picks.name}: files of CryoPPP count y from the last row. Give the micrographs with "
                          "--micrographs.")
    box, rows = picks.box_px("CryoPPP"), picks.info.shape[0]
    return [f"{COLUMN},Y-Coordinate,{_DIAMETER}", *(f"{x:.3f},{rows - y:.3f},{box:g}" for x, y, _ in picks.rows)]
