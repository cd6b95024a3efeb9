# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points layers of napari (.csv).

The columns axis-0 and axis-1 are the row and the column in pixels of the array that is shown, the centre of the first
pixel being (0, 0). Readers for MRC files show the first row first, so that the row is our y; the image is not turned.
A column "score" becomes a property of the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeepEMError
from ..coordinates import Coordinates
from ..parse import gather, parse_number
from .base import MicrographPicks, column_of, parse_score, read_columns, write_lines

if TYPE_CHECKING:
    from .base import Infos

COLUMN = "axis-0"


def read_points(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read a points layer.

    Parameters
    ----------
    path : Path
        Columns axis-0, axis-1 and, optionally, score.
    name : str
        Name of the micrograph, for files that do not state it.
    infos : mapping
        Not used.

    Returns
    -------
    dict of str to Coordinates
        By the name of the micrograph.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, or the file holds shapes or points of another dimension.
    """
    labels, rows = read_columns(path, ",")
    if "axis-2" in labels or "shape-type" in labels:
        raise DeepEMError(f"{path} holds {'shapes' if 'shape-type' in labels else 'points with three axes'}. Expected "
                          "a points layer of one micrograph, with the axes 0 and 1.")
    y, x = column_of(path, labels, COLUMN), column_of(path, labels, "axis-1")
    score = labels.index("score") if "score" in labels else None
    return {name: gather([(
        parse_number(path, number, fields[x]), parse_number(path, number, fields[y]),
        math.nan if score is None else parse_score(path, number, fields[score])) for number, fields in rows], None)}


def write_points(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write NAME.csv of each micrograph; returns the files, raises DeepEMError if one cannot be written."""
    return [write_lines(folder / f"{each.name}.csv", [
        f"index,{COLUMN},axis-1" + ",score" * each.is_scored,
        *(f"{number},{y:.3f},{x:.3f}" + f",{score:.6g}" * each.is_scored
          for number, (x, y, score) in enumerate(each.rows))]) for each in picks]
