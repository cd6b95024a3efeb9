# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the readers and writers of all formats share."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ...atomic import atomic_write
from ...errors import DeepEMError
from ...micrographs.find import IMAGE_ENDINGS
from ...startables import StarTable
from ...textfiles import open_text
from ..coordinates import Coordinates
from ..parse import gather, parse_number


@dataclass(frozen=True)
class MicrographInfo:
    """Size of a micrograph, which some formats need.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    pixel_size_angst : float or None
        Pixel size in angstrom, None if it is not known.
    """

    shape: tuple[int, int]
    pixel_size_angst: float | None = None


@dataclass(frozen=True)
class MicrographPicks:
    """Picks of one micrograph and what a file may hold besides.

    Attributes
    ----------
    name : str
        Name of the micrograph, which names its files.
    path : str
        File of the micrograph, for formats that list it.
    coordinates : Coordinates
        Picks in pixels of this micrograph.
    info : MicrographInfo or None
        Size of the micrograph, None if it is not known.
    """

    name: str
    path: str
    coordinates: Coordinates
    info: MicrographInfo | None = None

    @property
    def rows(self) -> Iterable[tuple[float, float, float]]:
        """Centre x, centre y and score (NaN for none) of each pick."""
        found = self.coordinates
        return [(x, y, score) for (x, y), score in zip(found.centres_xy.tolist(), found.scores.tolist())]

    @property
    def is_scored(self) -> bool:
        """Whether any pick has a score."""
        return not bool(np.isnan(self.coordinates.scores).all())

    def box_px(self, program: str) -> float:
        """Return the side of the boxes, 0 where there are none; raises DeepEMError where it is not known.

        Parameters
        ----------
        program : str
            Program to name in the message.

        Returns
        -------
        float
        """
        if not len(self.coordinates.scores):
            return 0.0
        if self.coordinates.box_px is None:
            raise DeepEMError(f"{self.name}: the files of {program} hold boxes, but the coordinates have no common box "
                              "size. Give it with --box, in pixels.")
        return self.coordinates.box_px


if TYPE_CHECKING:
    # Size of a micrograph by its name, for formats that need it to be read.
    Infos = Mapping[str, MicrographInfo]


def name_in_file(text: str) -> str:
    """Return the name of a micrograph that a file gives as a path, a file name or a name.

    Parameters
    ----------
    text : str
        The extension is removed only if it is one of an image: names may contain dots.

    Returns
    -------
    str
        With its folders.
    """
    for ending in sorted((*IMAGE_ENDINGS, ".mrcs", ".png", ".jpg", ".jpeg"), key=len, reverse=True):
        if text.lower().endswith(ending) and not text[:-len(ending)].endswith(("/", "\\")) and text.lower() != ending:
            return text[:-len(ending)]
    return text


def rows_of(infos: Infos, name: str, path: Path, program: str) -> int:
    """Return the number of rows of a micrograph, for a format that counts y from the last one.

    Parameters
    ----------
    infos : mapping of str to MicrographInfo
    name : str
        Name of the micrograph.
    path : Path
        File to name in the message.
    program : str
        Program to name in the message.

    Returns
    -------
    int

    Raises
    ------
    DeepEMError
        If the micrograph is not known.
    """
    if name not in infos:
        raise DeepEMError(f"{path}: files of {program} count y from the last row, so the micrograph {name!r} is "
                          "needed. Convert them with `deepem convert --micrographs MICS`.")
    return infos[name].shape[0]


def parse_score(path: Path, line: int, text: str) -> float:
    """Convert a field to a score, NaN if it states that there is none; raises DeepEMError if it is not a number."""
    return math.nan if not text.strip() else parse_number(path, line, text, missing=True)


def star_column(table: StarTable, label: str) -> list[str | None]:
    """Return a column of a STAR table; None in each row if the table has no such column."""
    if label not in table.labels:
        return [None] * len(table.rows)
    column = table.labels.index(label)
    return [fields[column] for _, fields in table.rows]


@contextmanager
def reading(path: Path) -> Iterator[IO[str]]:
    """Open a text file; raises DeepEMError where it cannot be read."""
    try:
        with open_text(path, newline="") as handle:
            yield handle
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error


def read_columns(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a table whose first line names its columns.

    Parameters
    ----------
    path : Path
    delimiter : str
        A comma or a tab.

    Returns
    -------
    labels : list of str
    rows : list of (int, list of str)
        Line number and fields of each row, as many as there are labels.

    Raises
    ------
    DeepEMError
        If the file cannot be read, or a row has another number of fields.
    """
    with reading(path) as handle:
        reader = csv.reader(handle, delimiter=delimiter)
        rows = []
        try:
            labels = [label.strip() for label in next(reader, [])]
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(labels):
                    raise DeepEMError(f"{path}, line {reader.line_num}: {len(fields)} fields, expected {len(labels)}.")
                rows.append((reader.line_num, fields))
        except csv.Error as error:
            raise DeepEMError(f"{path}, line {reader.line_num}: {error}.") from error
    return labels, rows


def column_of(path: Path, labels: Sequence[str], label: str) -> int:
    """Return the number of a column; raises DeepEMError if there is none of this name."""
    if label not in labels:
        raise DeepEMError(f"{path}: no column {label!r}. Found {', '.join(map(repr, labels)) or 'nothing'}.")
    return labels.index(label)


def by_micrograph(particles: Iterable[tuple[str, tuple[float, float, float]]],
                  box_px: float | None = None) -> dict[str, Coordinates]:
    """Gather particles by micrograph.

    Parameters
    ----------
    particles : iterable of (str, (float, float, float))
        Name of the micrograph; centre x, centre y and score (NaN for none).
    box_px : float or None
        Side of the boxes.

    Returns
    -------
    dict of str to Coordinates
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name, particle in particles:
        found.setdefault(name, []).append(particle)
    return {name: gather(rows, box_px) for name, rows in found.items()}


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write lines atomically and return the path; makes its folder; raises DeepEMError where this is impossible."""
    make_folder(path.parent)
    with atomic_write(path) as handle:
        handle.writelines(f"{line}\n" for line in lines)
    return path


def make_folder(folder: Path) -> None:
    """Make a folder where it does not exist; raises DeepEMError where this is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeepEMError(f"{folder}: the folder cannot be made ({error.strerror}).") from error
