# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Topaz's tables of coordinates: text with tabs (.txt), and the .csv of the VGG image annotator (VIA).

Both give the name of the micrograph without its extension and the centre in pixels, as we do; Topaz itself writes whole
numbers. The score of Topaz is a log-likelihood ratio: higher is more confident, but it is not between 0 and 1.
Coordinates of downsampled micrographs stay in their pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeepEMError
from ..coordinates import Coordinates
from ..parse import gather, parse_number
from .base import MicrographPicks, by_micrograph, column_of, name_in_file, parse_score, read_columns, write_lines

if TYPE_CHECKING:
    from .base import Infos

COLUMN = "image_name"
VIA_COLUMN = "region_shape_attributes"


def read_table(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read a Topaz table.

    Parameters
    ----------
    path : Path
        Columns image_name, x_coord, y_coord and, optionally, score, separated by tabs or commas.
    name, infos
        Not used.

    Returns
    -------
    dict of str to Coordinates
        By the names in the table; Topaz does not list a micrograph without particles.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, a column is missing, or the table is of tomograms.
    """
    labels, rows = read_columns(path, "\t")
    if len(labels) == 1:
        labels, rows = read_columns(path, ",")
    column, x, y = (column_of(path, labels, label) for label in (COLUMN, "x_coord", "y_coord"))
    if "z_coord" in labels:
        raise DeepEMError(f"{path} has a column z_coord. Expected coordinates of micrographs, not of tomograms.")
    score = labels.index("score") if "score" in labels else None
    return by_micrograph((name_in_file(fields[column]), (
        parse_number(path, number, fields[x]), parse_number(path, number, fields[y]),
        math.nan if score is None else parse_score(path, number, fields[score]))) for number, fields in rows)


def read_via(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read a table of points of the VGG image annotator, which Topaz calls csv.

    Parameters
    ----------
    path : Path
        Columns filename, region_shape_attributes (JSON with cx and cy) and, optionally, region_attributes (JSON with
        score).
    name, infos
        Not used.

    Returns
    -------
    dict of str to Coordinates
        By the names in the table, also of images without regions.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, or a column is missing.
    """
    labels, rows = read_columns(path, ",")
    labels = [label.lstrip("#") for label in labels]  # version 1 begins with "#filename"
    column, shape = column_of(path, labels, "filename"), column_of(path, labels, VIA_COLUMN)
    more = labels.index("region_attributes") if "region_attributes" in labels else None
    particles = []
    names: dict[str, None] = {}
    for number, fields in rows:
        names[name_in_file(fields[column])] = None
        region = _attributes(path, number, fields[shape])
        if not region:
            continue
        if not {"cx", "cy"} <= set(region):
            raise DeepEMError(f"{path}, line {number}: expected a point or a circle with cx and cy, found "
                              f"{fields[shape][:80]!r}.")
        score = _attributes(path, number, fields[more]).get("score", "") if more is not None else ""
        particles.append((name_in_file(fields[column]), (
            parse_number(path, number, str(region["cx"])), parse_number(path, number, str(region["cy"])),
            parse_score(path, number, str(score)))))
    found = by_micrograph(particles)
    return {each: found.get(each) or gather([], None) for each in names}


def _attributes(path: Path, number: int, text: str) -> dict[str, object]:
    try:
        found = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DeepEMError(f"{path}, line {number}: expected JSON, found {text[:80]!r}.")
    return found


def write_table(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write picks.txt with the picks of all micrographs; returns it, raises DeepEMError if it cannot be written."""
    scored = any(each.is_scored for each in picks)
    lines = ["\t".join((COLUMN, "x_coord", "y_coord", *["score"] * scored))]
    for each in picks:
        if "\t" in each.name:
            raise DeepEMError(f"{each.name!r}: a table of Topaz cannot hold a name with a tab. Rename the micrograph.")
        lines += ["\t".join((each.name, f"{x:.3f}", f"{y:.3f}", *[f"{score:.6g}"] * scored)) for x, y, score in
                  each.rows]
    return [write_lines(folder / "picks.txt", lines)]
