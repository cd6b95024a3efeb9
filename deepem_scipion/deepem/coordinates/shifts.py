# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shifts that an alignment of particles has found, in STAR files.

The centre of a particle is its coordinate minus its shift, see the conventions of RELION ("rlnOriginX": the shift
that moves the particle image to its centre).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeepEMError
from ..startables import StarTable
from .parse import parse_number

_ANGST = ("rlnOriginXAngst", "rlnOriginYAngst")
_PIXELS = ("rlnOriginX", "rlnOriginY")
# The pixel size of the micrographs, in angstrom, by the first of these labels that the table of optics groups has.
_PIXEL_SIZES = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize")


def has_shifts(table: StarTable) -> bool:
    """Return whether a table has shifts other than 0."""
    columns = [table.labels.index(label) for label in (*_ANGST, *_PIXELS) if label in table.labels]
    return any(fields[column].strip("+-0.") not in ("", "e") for _, fields in table.rows for column in columns)


@dataclass(frozen=True)
class Shift:
    """The columns of the shifts in a table.

    Attributes
    ----------
    path : Path
        STAR file, for messages.
    columns : sequence of int
        Of x and y.
    group : int, optional
        Column of the optics group.
    pixel_sizes_angst : mapping of str to float
        By optics group, "" for a table without; empty where shifts are in pixels.
    """

    path: Path
    columns: Sequence[int]
    group: int | None
    pixel_sizes_angst: Mapping[str, float]

    @classmethod
    def of(cls, path: Path, table: StarTable, tables: Sequence[StarTable]) -> Shift:
        """Find the columns of a table; `tables` are all of the file. Raises DeepEMError where there are no shifts."""
        labels = next((pair for pair in (_ANGST, _PIXELS) if set(pair) <= set(table.labels)), None)
        if labels is None:
            raise DeepEMError(f"{path}: table {table.name!r} has neither _{_ANGST[0]} and _{_ANGST[1]} nor "
                              f"_{_PIXELS[0]} and _{_PIXELS[1]}. Expected the shifts of an alignment, or no "
                              "--apply-shifts.")
        group = table.labels.index("rlnOpticsGroup") if "rlnOpticsGroup" in table.labels else None
        sizes = _pixel_sizes(path, tables) if labels == _ANGST else {}
        return cls(path, [table.labels.index(label) for label in labels], group, sizes)

    def pixels(self, line: int, fields: Sequence[str]) -> tuple[float, float]:
        """Return the shift of a row along x and y, in pixels of the micrograph."""
        x, y = (parse_number(self.path, line, fields[column]) for column in self.columns)
        if not self.pixel_sizes_angst:
            return x, y
        group = "" if self.group is None else fields[self.group]
        sizes = self.pixel_sizes_angst
        size = sizes.get(group) or (next(iter(sizes.values())) if len(sizes) == 1 and self.group is None else None)
        if size is None:
            raise DeepEMError(f"{self.path}, line {line}: no pixel size for optics group {group!r}. Expected it in the "
                              "table of optics groups.")
        return x / size, y / size


def _pixel_sizes(path: Path, tables: Sequence[StarTable]) -> dict[str, float]:
    for label in _PIXEL_SIZES:
        for table in tables:
            if label in table.labels and "rlnCoordinateX" not in table.labels:
                group = table.labels.index("rlnOpticsGroup") if "rlnOpticsGroup" in table.labels else None
                column = table.labels.index(label)
                found = {"" if group is None else fields[group]: parse_number(path, number, fields[column])
                         for number, fields in table.rows}
                if found and min(found.values()) > 0:
                    return found
    raise DeepEMError(f"{path}: shifts are in angstrom, and no table has a pixel size above 0 (_{_PIXEL_SIZES[0]}). "
                      "Expected a table of optics groups with it.")
