# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""RELION .star files of particle coordinates."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from ..atomic import atomic_write
from ..errors import DeepEMError
from ..micrographs.find import find_listed
from ..startables import StarTable, quote, read_tables
from ..textfiles import open_text
from .coordinates import Coordinates
from .formats.base import star_column
from .names import listed
from .parse import MISSING, gather, parse_number
from .shifts import Shift, has_shifts

log = logging.getLogger(__name__)

NAME, FILE = "rlnMicrographName", "rlnMicrographCoordinates"

# RELION's figure of merit of particles that were picked by hand.
NO_MERIT = -999.0
# Relative difference up to which two pixel sizes are the same.
SAME_PIXEL_SIZE = 1e-4


@dataclass(frozen=True)
class Optics:
    """Parameters of the microscope that RELION requires in a file of particles. Picking does not use them.

    Attributes
    ----------
    voltage_kv : float
        Acceleration voltage in kilovolts.
    spherical_aberration_mm : float
        Spherical aberration in millimetres.
    amplitude_contrast : float
        Amplitude contrast, 0 to 1.
    """

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1


def write_star(path: str | Path, entries: Iterable[tuple[str | Path, np.ndarray, np.ndarray]],
               pixel_size_angst: float | Sequence[float], optics: Optics = Optics()) -> None:
    """Write a RELION 3.1 file with the particles of all micrographs, and an optics group for each pixel size.

    Parameters
    ----------
    path : str or Path
        File to write, atomically.
    entries : iterable of (path, centres_xy, scores)
        For each micrograph its path, (n, 2) centres as x, y in its own pixels and (n,) scores; NaN, for particles set
        by hand, is written as `NO_MERIT`.
    pixel_size_angst : float or sequence of float
        Pixel size of the input micrographs in angstrom, of all or of each.
    optics : Optics
        Parameters of the microscope, the same for all micrographs.

    Raises
    ------
    DeepEMError
        If the file cannot be written, or the path of a micrograph cannot be expressed in it.
    """
    microscope = ("rlnOpticsGroupName", "rlnOpticsGroup", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize",
                  "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    particles = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit",
                 "rlnOpticsGroup")
    sizes, groups = _optics_groups(np.atleast_1d(pixel_size_angst))
    with atomic_write(path) as handle:
        handle.write(_star_header("optics", microscope))
        for group, size in enumerate(sizes, 1):
            handle.write(f"opticsGroup{group} {group} {size:.6f} {size:.6f} {optics.voltage_kv:g} "
                         f"{optics.spherical_aberration_mm:g} {optics.amplitude_contrast:g}\n")
        handle.write(_star_header("particles", particles))
        for (micrograph, centres_xy, scores), group in zip(entries, groups if np.ndim(pixel_size_angst) else repeat(1)):
            name = quote(str(micrograph))
            merits = np.nan_to_num(np.reshape(scores, -1), nan=NO_MERIT)
            rows = np.column_stack([np.reshape(centres_xy, (-1, 2)), merits]).tolist()
            handle.writelines(f"{name} {x:.6f} {y:.6f} {score:.6g} {group}\n" for x, y, score in rows)
        handle.write("\n")


def _optics_groups(sizes: np.ndarray) -> tuple[list[float], list[int]]:
    """Different pixel sizes, in the order in which they come, and for each micrograph the number of its own, from 1.

    Headers round: sizes that differ by less than `SAME_PIXEL_SIZE` are the same.
    """
    different: list[float] = []
    groups = []
    for size in map(float, sizes):
        group = next((n for n, other in enumerate(different) if abs(size - other) <= SAME_PIXEL_SIZE * other), None)
        if group is None:
            group = len(different)
            different.append(size)
        groups.append(group + 1)
    return different, groups


def can_name(micrograph: str | Path) -> bool:
    """Check whether a micrograph's path can be written to a STAR file, and log it if not.

    Parameters
    ----------
    micrograph : str or Path
        Path of the micrograph.

    Returns
    -------
    bool
        Whether `write_star` accepts the path.
    """
    try:
        quote(str(micrograph))
    except DeepEMError as error:
        log.warning("left out of the STAR file: %s", error)
        return False
    return True


def _star_header(name: str, labels: Iterable[str]) -> str:
    columns = "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, 1))
    return f"\n# version 30001\n\ndata_{name}\n\nloop_\n{columns}"


def read_index(path: Path) -> dict[str, Path] | None:
    """Read a .star file that names the coordinate files of micrographs, such as autopick.star of RELION 4 and 5.

    Parameters
    ----------
    path : Path
        STAR file; every table with rlnMicrographName and rlnMicrographCoordinates is read.

    Returns
    -------
    dict of str to Path or None
        Coordinate file by name of the micrograph; None if it is another kind of file.

    Raises
    ------
    DeepEMError
        If the file cannot be read, or has a micrograph twice.
    """
    with open_text(path) as handle:
        if not any(FILE in line for line in handle):
            return None
    found: dict[str, Path] = {}
    tables = [table for table in read_tables(path) if {NAME, FILE} <= set(table.labels)]
    for table in tables:
        name, file = table.labels.index(NAME), table.labels.index(FILE)
        for number, fields in table.rows:
            micrograph = _name(path, number, fields[name])
            if micrograph in found:
                raise DeepEMError(f"{path}, line {number}: a second file for {fields[name]}. Expected one for each "
                                  "micrograph.")
            found[micrograph] = find_listed(fields[file], path)
    return found if tables else None


def read_star(path: Path, own_name: str, shifts: bool = False) -> dict[str, Coordinates]:
    """Read a .star file of particle coordinates.

    Parameters
    ----------
    path : Path
        STAR file; every table with rlnCoordinateX and rlnCoordinateY is read.
    own_name : str
        Name of the micrograph if the file does not state it.
    shifts : bool
        Whether to subtract the shifts of an alignment, rlnOriginXAngst and rlnOriginYAngst (in angstrom) or rlnOriginX
        and rlnOriginY (in pixels, taken for those of the micrograph).

    Returns
    -------
    dict of str to Coordinates
        Coordinates by name of the micrograph, without boxes. Empty if tables with rlnMicrographName have no row.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, no table has coordinates, or particles have no micrograph.
    """
    all_tables = read_tables(path)
    tables = [table for table in all_tables if {"rlnCoordinateX", "rlnCoordinateY"} <= set(table.labels)]
    if not tables:
        labels = list(dict.fromkeys(f"_{label}" for table in all_tables for label in table.labels))
        raise DeepEMError(f"{path}: no table has _rlnCoordinateX and _rlnCoordinateY. Expected coordinates; found "
                          f"{listed(labels) or 'no column'}.")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for table in tables:
        if "rlnCoordinateZ" in table.labels and len(set(star_column(table, "rlnCoordinateZ"))) > 1:
            raise DeepEMError(f"{path} has different values of _rlnCoordinateZ. Expected coordinates of micrographs, "
                              "not of tomograms.")
        shift = Shift.of(path, table, all_tables) if shifts else None
        for name, particle in zip(_micrographs(path, table, own_name), _particles(path, table, shift)):
            found.setdefault(name, []).append(particle)
        if NAME not in table.labels:
            found.setdefault(own_name, [])
        if not shifts and has_shifts(table):
            log.warning("%s: the shifts of its alignment (rlnOriginX, rlnOriginY) are not applied; --apply-shifts "
                        "subtracts them", path)
    return {name: gather(particles, None) for name, particles in found.items()}


def _micrographs(path: Path, table: StarTable, own_name: str) -> list[str]:
    """Return the name of the micrograph of each row."""
    if NAME in table.labels:
        column = table.labels.index(NAME)
        return [_name(path, number, fields[column]) for number, fields in table.rows]
    if "rlnImageName" in table.labels:
        raise DeepEMError(f"{path}: table {table.name!r} has _rlnImageName and no _{NAME}. Expected the micrograph of "
                          "each particle: give a file that has it.")
    return [own_name] * len(table.rows)


def _name(path: Path, line: int, text: str) -> str:
    name, extension = os.path.splitext(re.sub(r"^\d+@", "", text))
    if extension[1:].isdecimal():  # of a name without extension, such as May08_03.05.02
        name += extension
    if not name or text.lower() in MISSING:
        raise DeepEMError(f"{path}, line {line}: expected the name of a micrograph in _{NAME}, found {text!r}.")
    return name


def _particles(path: Path, table: StarTable, shift: Shift | None) -> Iterable[tuple[float, float, float]]:
    x, y = table.labels.index("rlnCoordinateX"), table.labels.index("rlnCoordinateY")
    scored = "rlnAutopickFigureOfMerit" in table.labels
    merit = table.labels.index("rlnAutopickFigureOfMerit") if scored else None
    for number, fields in table.rows:
        score = math.nan if merit is None else parse_number(path, number, fields[merit], missing=True)
        score = math.nan if score == NO_MERIT else score
        dx, dy = shift.pixels(number, fields) if shift else (0.0, 0.0)
        yield parse_number(path, number, fields[x]) - dx, parse_number(path, number, fields[y]) - dy, score
