# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What RELION's *Extract* takes: NAME_autopick.star of each micrograph, and autopick.star, the list of them.

RELION 3 looks for NAME_autopick.star in the folder of the micrograph below that of the picking job; RELION 4 and 5 read
autopick.star. Centres are in pixels, the first row of an MRC file is y = 0. One file with the particles of all
micrographs, which *Extract* takes for re-extraction, is written by `coordinates.star`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ...startables import quote
from ..star import NO_MERIT
from .base import MicrographPicks, write_lines

SUFFIX = "_autopick"
LIST = "autopick.star"
# RELION takes the folder of the micrograph without that of the job it is from.
_JOB = re.compile(r"^[A-Za-z0-9]+/job\d+/")


def write_relion(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write NAME_autopick.star of each micrograph, and autopick.star.

    Parameters
    ----------
    folder : Path
        Seen from the RELION project, which should be the current folder: the list refers to files in it.
    picks : sequence of MicrographPicks

    Returns
    -------
    list of Path
        The list first.

    Raises
    ------
    DeepEMError
        If a file cannot be written, or a path cannot be expressed in it.
    """
    files = [write_lines(folder / f"{name_in_project(each)}{SUFFIX}.star", _lines(each)) for each in picks]
    header = _header("coordinate_files", ("rlnMicrographName", "rlnMicrographCoordinates"))
    rows = [f"{quote(each.path)} {quote(str(file))}" for each, file in zip(picks, files)]
    return [write_lines(folder / LIST, [*header, *rows, ""]), *files]


def name_in_project(picks: MicrographPicks) -> str:
    """Return the name, below the folder of the picking job, by which RELION 3 looks for the picks of a micrograph.

    Parameters
    ----------
    picks : MicrographPicks
        Its path is that by which RELION knows the micrograph.

    Returns
    -------
    str
        The path without extension and without the folder of the job; for a micrograph outside of the project, its name.
    """
    path = PurePosixPath(_JOB.sub("", picks.path))
    return picks.name if path.is_absolute() or ".." in path.parts else str(path.with_suffix(""))


def _lines(picks: MicrographPicks) -> list[str]:
    labels = ("rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit", "rlnClassNumber", "rlnAnglePsi")
    scored = picks.is_scored
    return [*_header("", labels[:3 if scored else 2] + labels[3:]),
            *(f"{x:.6f} {y:.6f}" + f" {NO_MERIT if math.isnan(score) else score:.6g}" * scored + " 0 0.0"
              for x, y, score in picks.rows), ""]


def _header(name: str, labels: Sequence[str]) -> list[str]:
    return ["", "# version 30001", "", f"data_{name}", "", "loop_",
            *(f"_{label} #{number}" for number, label in enumerate(labels, 1))]
