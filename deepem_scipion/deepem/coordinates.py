# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle coordinates from and to EMAN2 .box and RELION .star files.

The only place where corners of boxes are turned into centres and back. Coordinates are x = column and
y = row in pixels of the input micrograph; the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DeepEMError
from .files import atomic_write
from .micrographs import micrograph_name
from .starfiles import StarTable, quote, read_tables

log = logging.getLogger(__name__)

# What programs add to the name of a micrograph to name its file of picks.
_STAR_SUFFIXES = ("_autopick", "_manualpick", "_coords", "_picks")

# No coordinate is as large: sums and squares of smaller numbers stay finite.
_MOST = 1e15


@dataclass(frozen=True)
class Coordinates:
    """Particles of one micrograph.

    Attributes
    ----------
    centres_xy : (n, 2) float64, pixels of the input micrograph
    scores : (n,) float64, higher is surer; NaN where the file has none
    box_px : side of the boxes; None where the file has none, or boxes of several sizes
    """

    centres_xy: np.ndarray
    scores: np.ndarray
    box_px: float | None


@dataclass(frozen=True)
class Optics:
    """What RELION wants to know of the microscope before it opens a file; picking does not use it.

    Attributes
    ----------
    voltage_kv, spherical_aberration_mm, amplitude_contrast
    """

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1


def read_coordinates(path: str | Path) -> dict[str, Coordinates]:
    """Read the coordinates of one or many micrographs.

    Parameters
    ----------
    path : a .box file; a .star file with coordinates of one micrograph or, told apart by rlnMicrographName,
        of many; or a folder of .box files or, where it holds none, of .star files.

    Returns
    -------
    Name of the micrograph (its file name without folder and last extension) -> coordinates. Where a STAR file
    does not name micrographs, its own name counts, without _autopick, _manualpick, _coords or _picks at its
    end.

    Raises
    ------
    DeepEMError
        Nothing is there, a line is wrong, or two files are about one micrograph.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_folder(path)
        if not path.exists():
            raise DeepEMError(f"{path}: no such file or folder. Expected coordinates as .box or .star.")
        return _read_file(path)
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error


def merge(sets: Sequence[Mapping[str, Coordinates]]) -> dict[str, Coordinates]:
    """All coordinates of several sets, name by name, in the order of the sets; the box is the first set's."""
    together: dict[str, list[Coordinates]] = {}
    for one in sets:
        for name, coordinates in one.items():
            together.setdefault(name, []).append(coordinates)
    return {name: Coordinates(np.concatenate([part.centres_xy for part in parts]),
                              np.concatenate([part.scores for part in parts]), parts[0].box_px)
            for name, parts in together.items()}


def write_box(path: str | Path, centres_xy: np.ndarray, scores: np.ndarray, box_px: float) -> None:
    """Write an EMAN2 .box file: corner x, corner y, width, height and, where there is any, the score.

    Parameters
    ----------
    path : the file, replaced as a whole
    centres_xy : (n, 2) pixels of the input micrograph
    scores : (n,) ; NaN: none
    box_px : side of the boxes, rounded to whole pixels

    Notes
    -----
    Corners are whole numbers, chosen so that corner + size / 2 is within half a pixel of the centre.
    """
    size = round(box_px)
    corners = np.rint(np.reshape(centres_xy, (-1, 2)) - size / 2).astype(int)
    scored = not np.all(np.isnan(scores))
    with atomic_write(path) as handle:
        for (x, y), score in zip(corners, scores, strict=True):
            handle.write(f"{x}\t{y}\t{size}\t{size}" + (f"\t{score:.6g}\n" if scored else "\n"))


def write_star(path: str | Path, entries: Iterable[tuple[str | Path, np.ndarray, np.ndarray]],
               pixel_size_angst: float, optics: Optics = Optics()) -> None:
    """Write one RELION 3.1 file with the particles of all micrographs.

    Parameters
    ----------
    path : the file, replaced as a whole
    entries : for each micrograph its path, (n, 2) centres in its own pixels and (n,) scores
    pixel_size_angst : pixel size of the input micrographs
    optics : of all micrographs

    Raises
    ------
    DeepEMError
        The file cannot be written, or the path of a micrograph cannot be expressed in it.
    """
    microscope = ("rlnOpticsGroupName", "rlnOpticsGroup", "rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize",
                  "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    particles = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit",
                 "rlnOpticsGroup")
    with atomic_write(path) as handle:
        handle.write(_star_header("optics", microscope))
        handle.write(f"opticsGroup1 1 {pixel_size_angst:.6f} {pixel_size_angst:.6f} {optics.voltage_kv:g} "
                     f"{optics.spherical_aberration_mm:g} {optics.amplitude_contrast:g}\n")
        handle.write(_star_header("particles", particles))
        for micrograph, centres_xy, scores in entries:
            name = quote(str(micrograph))
            for (x, y), score in zip(np.reshape(centres_xy, (-1, 2)), scores, strict=True):
                handle.write(f"{name} {x:.6f} {y:.6f} {score:.6g} 1\n")
        handle.write("\n")


def can_name(micrograph: str | Path) -> bool:
    """Whether a micrograph's path can stand in a STAR file; if not, this is logged."""
    try:
        quote(str(micrograph))
    except DeepEMError as error:
        log.warning("left out of the STAR file: %s", error)
        return False
    return True


def _star_header(name: str, labels: Iterable[str]) -> str:
    columns = "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, 1))
    return f"\n# version 30001\n\ndata_{name}\n\nloop_\n{columns}"


def _read_folder(folder: Path) -> dict[str, Coordinates]:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    boxes, stars = ([file for file in files if _kind(file) == kind] for kind in (".box", ".star"))
    chosen = boxes or stars
    if not chosen:
        raise DeepEMError(f"The folder {folder} holds no .box and no .star file.")
    found: dict[str, Coordinates] = {}
    for file in chosen:
        # An empty table cannot name the micrograph it is about.
        for name, coordinates in (_read_file(file) or {_own_name(file): _gather([], None)}).items():
            if name in found:
                raise DeepEMError(f"{file}: another file of this folder is about micrograph {name!r}, too. "
                                  "Keep one of them.")
            found[name] = coordinates
    return found


def _read_file(path: Path) -> dict[str, Coordinates]:
    if _kind(path) == ".box":
        return {_own_name(path): _read_box(path)}
    if _kind(path) == ".star":
        return _read_star(path)
    raise DeepEMError(f"{path} is neither a .box nor a .star file. Expected one, or a folder of them.")


def _kind(path: Path) -> str:
    return path.suffix.lower()


def _own_name(path: Path) -> str:
    name = micrograph_name(path)
    if _kind(path) == ".star":
        for suffix in _STAR_SUFFIXES:
            name = name.removesuffix(suffix)
    return name


def _read_box(path: Path) -> Coordinates:
    particles, sizes = [], set()
    lengths: dict[bool, int] = {}
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as handle:
            for number, line in enumerate(handle, 1):
                fields = line.split("#")[0].split()
                if not fields:
                    continue
                if len(fields) < 4:
                    raise DeepEMError(f"{path}, line {number}: expected 'x y width height [score]', "
                                      f"found {line.strip()!r}.")
                x, y, width, height = (_number(path, number, text) for text in fields[:4])
                score = _number(path, number, fields[4], missing=True) if len(fields) > 4 else math.nan
                lengths[len(fields) > 4] = number
                particles.append((x + width / 2, y + height / 2, score))
                sizes.add((width, height))
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error
    if len(lengths) > 1:
        raise DeepEMError(f"{path}: line {lengths[True]} has a score, line {lengths[False]} has none. "
                          "Expected all or none to have one.")
    width, height = sizes.pop() if len(sizes) == 1 else (0, 0)
    return _gather(particles, width if width == height and width > 0 else None)


def _read_star(path: Path) -> dict[str, Coordinates]:
    wanted = {"rlnCoordinateX", "rlnCoordinateY"}
    table = next((table for table in read_tables(path) if wanted <= set(table.labels)), None)
    if table is None:
        raise DeepEMError(f"{path}: no table has _rlnCoordinateX and _rlnCoordinateY. Expected coordinates.")
    named = "rlnMicrographName" in table.labels
    found: dict[str, list[tuple[float, float, float]]] = {} if named else {_own_name(path): []}
    for name, particle in zip(_micrograph_names(path, table, named), _particles(path, table), strict=True):
        found.setdefault(name, []).append(particle)
    return {name: _gather(particles, None) for name, particles in found.items()}


def _micrograph_names(path: Path, table: StarTable, named: bool) -> list[str]:
    if not named:
        return [_own_name(path)] * len(table.rows)
    column = table.labels.index("rlnMicrographName")
    return [micrograph_name(re.sub(r"^\d+@", "", fields[column])) for _, fields in table.rows]


def _particles(path: Path, table: StarTable) -> Iterable[tuple[float, float, float]]:
    x, y = table.labels.index("rlnCoordinateX"), table.labels.index("rlnCoordinateY")
    scored = "rlnAutopickFigureOfMerit" in table.labels
    merit = table.labels.index("rlnAutopickFigureOfMerit") if scored else None
    for number, fields in table.rows:
        score = math.nan if merit is None else _number(path, number, fields[merit], missing=True)
        yield _number(path, number, fields[x]), _number(path, number, fields[y]), score


def _number(path: Path, line: int, text: str, missing: bool = False) -> float:
    """Convert a field; `missing` allows "nan", which stands for no score."""
    try:
        value = float(text)
    except ValueError:
        raise DeepEMError(f"{path}, line {line}: expected a number, found {text!r}.") from None
    if not abs(value) < _MOST and not (missing and math.isnan(value)):
        raise DeepEMError(f"{path}, line {line}: expected a finite number below {_MOST:g}, found {text!r}.")
    return value


def _gather(particles: list[tuple[float, float, float]], box_px: float | None) -> Coordinates:
    table = np.array(particles, dtype=np.float64).reshape(-1, 3)
    return Coordinates(table[:, :2].copy(), table[:, 2].copy(), box_px)
