# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""STAR files of Warp, WarpTools and M.

Warp names the file after the movie and what picked it (NAME_BoxNet2Mask_20180918.star). Coordinates are in pixels of
the average that Warp wrote, with RELION's labels; those that M writes (wrpCoordinateX1 ...) are in angstrom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeepEMError
from ...startables import quote, read_tables
from ..coordinates import Coordinates
from ..parse import parse_number
from .base import MicrographPicks, by_micrograph, name_in_file, star_column, write_lines

if TYPE_CHECKING:
    from .base import Infos

M_LABELS = ("wrpCoordinateX1", "wrpCoordinateY1", "wrpSourceName")
SUFFIX = "_deepem"


def read_m(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read particles of a species of M.

    Parameters
    ----------
    path : Path
        A STAR file with wrpCoordinateX1, wrpCoordinateY1 and wrpSourceName.
    name : str
        Not used.
    infos : mapping of str to MicrographInfo
        Pixel sizes of the micrographs.

    Returns
    -------
    dict of str to Coordinates
        By the name of the source, without scores.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, or the pixel size of a micrograph is not known.
    """
    table = next((table for table in read_tables(path) if set(M_LABELS) <= set(table.labels)), None)
    if table is None:
        raise DeepEMError(f"{path}: no table has {', '.join(f'_{label}' for label in M_LABELS)}.")
    particles = []
    for (number, _), x, y, source in zip(table.rows, *(star_column(table, label) for label in M_LABELS)):
        name = name_in_file(source or "")
        size = infos[name].pixel_size_angst if name in infos else None
        if size is None:
            raise DeepEMError(f"{path}: coordinates of M are in angstrom, so the pixel size of {name!r} is needed. "
                              "Convert them with `deepem convert --micrographs MICS`, and --pixel-size if they have "
                              "none.")
        particles.append((name, (parse_number(path, number, x or "") / size, parse_number(path, number, y or "") / size,
                                 math.nan)))
    return by_micrograph(particles)


def write_warp(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write NAME_deepem.star of each micrograph, as Warp's own pickers do; returns the files.

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
        If a file cannot be written, or a name cannot be expressed in it.
    """
    labels = ("rlnCoordinateX", "rlnCoordinateY", "rlnMicrographName", "rlnAutopickFigureOfMerit")
    return [write_lines(folder / f"{each.name}{SUFFIX}.star", [
        "", "data_", "", "loop_", *(f"_{label} #{number}" for number, label in enumerate(labels, 1)),
        *(f"{x:.3f} {y:.3f} {quote(Path(each.path).name)} {score:.6g}" for x, y, score in each.rows)])
        for each in picks]
