# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""crYOLO's .cbox files; its .box files are those of EMAN2.

A .cbox file gives, in pixels, the corner of each box that is closest to the origin (not rounded), its size, the
estimated size of the particle and the confidence. The frame is that of RELION and EMAN2 for MRC files. crYOLO 1.8 and
later write a STAR file; before, it was a table without labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeepEMError
from ...startables import StarTable, read_tables
from ..coordinates import Coordinates
from ..parse import gather, parse_number
from .base import MicrographPicks, parse_score, reading, star_column, write_lines

if TYPE_CHECKING:
    from .base import Infos

_COLUMNS = ("CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Depth", "EstWidth", "EstHeight",
            "Confidence", "NumBoxes", "Angle")


def read_cbox(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read a .cbox file of one micrograph.

    Parameters
    ----------
    path : Path
        NAME.cbox.
    name : str
        Name of the micrograph, for files that do not state it.
    infos : mapping
        Not used.

    Returns
    -------
    dict of str to Coordinates
        By the name of the micrograph. The score is the confidence, and the box size is that of the boxes, not the
        estimated one.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, or the boxes are those of a tomogram.
    """
    with reading(path) as handle:
        is_star = any(line.startswith("data_") for line in handle)
    boxes = _star_boxes(path) if is_star else _plain_boxes(path)
    sizes = {(width, height) for _, _, width, height, _ in boxes}
    width, height = sizes.pop() if len(sizes) == 1 else (0, 0)
    return {name: gather([(x + width / 2, y + height / 2, score) for x, y, width, height, score in boxes],
                              width if width == height and width > 0 else None)}


def _star_boxes(path: Path) -> list[tuple[float, float, float, float, float]]:
    table = next((table for table in read_tables(path) if table.name == "cryolo"), None)
    wanted = ("CoordinateX", "CoordinateY", "Width", "Height")
    if table is None or not set(wanted) <= set(table.labels):
        raise DeepEMError(f"{path}: expected a table 'cryolo' with the columns {', '.join(wanted)}.")
    depths = {text for text in star_column(table, "CoordinateZ") if text not in (None, "<NA>")}
    if len(depths) > 1:
        raise DeepEMError(f"{path}: the boxes have {len(depths)} different z. Expected those of a micrograph, not of a "
                          "tomogram.")
    return [_box(path, table, row) for row in range(len(table.rows))]


def _box(path: Path, table: StarTable, row: int) -> tuple[float, float, float, float, float]:
    number, fields = table.rows[row]
    x, y, width, height = (parse_number(path, number, fields[table.labels.index(label)])
                           for label in ("CoordinateX", "CoordinateY", "Width", "Height"))
    scored = "Confidence" in table.labels
    return x, y, width, height, parse_score(path, number, fields[table.labels.index("Confidence")]
                                            ) if scored else math.nan


def _plain_boxes(path: Path) -> list[tuple[float, float, float, float, float]]:
    boxes = []
    with reading(path) as handle:
        for number, line in enumerate(handle, 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) < 5:
                raise DeepEMError(f"{path}, line {number}: expected 'x y width height confidence ...', found "
                                  f"{line.strip()[:80]!r}.")
            x, y, width, height = (parse_number(path, number, text) for text in fields[:4])
            boxes.append((x, y, width, height, parse_score(path, number, fields[4])))
    return boxes


def write_cbox(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write NAME.cbox of each micrograph; returns the files.

    Parameters
    ----------
    folder : Path
    picks : sequence of MicrographPicks

    Returns
    -------
    list of Path

    Raises
    ------
    DeepEMError
        If a file cannot be written, or the box size is not known.
    """
    return [write_lines(folder / f"{each.name}.cbox", _lines(each)) for each in picks]


def _lines(picks: MicrographPicks) -> list[str]:
    box = picks.box_px("crYOLO")
    labels = [f"_{label} #{number}" for number, label in enumerate(_COLUMNS, 1)]
    rows = [f"{x - box / 2:.4f} {y - box / 2:.4f} <NA> {box:g} {box:g} <NA> {box:g} {box:g} "
            f"{'<NA>' if math.isnan(score) else format(score, '.6g')} <NA> <NA>" for x, y, score in picks.rows]
    return ["", "data_global", "", "_cbox_format_version 1.0", "", "data_cryolo", "", "loop_", *labels, *rows, "",
            "data_cryolo_include", "", "loop_", "_slice_index #1"]
