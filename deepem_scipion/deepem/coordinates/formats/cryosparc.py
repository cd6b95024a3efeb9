# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""cryoSPARC's .cs files: a NumPy array of records, read without pickle.

The slot "location" holds the path and shape (rows, columns) of the micrograph and the centre as fractions of its width
and height. cryoSPARC counts y upwards, from the last row of the MRC file: y = rows * (1 - fraction). This is how
cryoSPARC itself imports coordinates of RELION, and how they are exported for the same micrographs; where it corrected
the motion of TIFF or EER movies, its micrographs are upside down against those of other programs.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ...atomic import atomic_write
from ...errors import DeepEMError
from ..coordinates import Coordinates
from .base import MicrographInfo, MicrographPicks, make_folder, name_in_file, write_lines

if TYPE_CHECKING:
    from .base import Infos

NUMPY_MAGIC, COMPRESSED_MAGIC = b"\x93NUMPY", b"\x95CSDAT"
_MAX_HEADER_BYTES = 2**18
# Kind of the values and shape of what is read.
_NEEDED = {"location/micrograph_path": ("S", ()), "location/micrograph_shape": ("iu", (2,)),
           "location/center_x_frac": ("f", ()), "location/center_y_frac": ("f", ())}
SCORE = "pick_stats/ncc_score"
_MAX_PIXELS = 10**6
# Names of files by cryoSPARC begin with the number of the exposure.
_EXPOSURE = re.compile(r"(\d{21})_")


def read_cs(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read the locations of particles from a .cs file.

    Parameters
    ----------
    path : Path
        Particles or "passthrough" particles of a job.
    name, infos
        Not used: the shape of each micrograph is in the file.

    Returns
    -------
    dict of str to Coordinates
        By the path of the micrograph. The score is pick_stats/ncc_score, where there is one.

    Raises
    ------
    DeepEMError
        If the file cannot be read, holds Python objects, is shorter or longer than its header states, has no
        locations, or a location is not within a possible micrograph.
    """
    try:
        with open(path, "rb") as handle:
            records = _records(path, handle)
            if not len(records):
                return {}
            return _by_micrograph(path, records)
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror or error}.") from error


def _records(path: Path, handle: IO[bytes]) -> np.ndarray:
    """Map the records into memory after a check of everything that the header states."""
    magic = handle.read(len(NUMPY_MAGIC))
    if magic == COMPRESSED_MAGIC:
        raise DeepEMError(f"{path} is a compressed .cs file. Expected one in the format of NumPy: load and save it "
                          "with cryosparc-tools.")
    if magic != NUMPY_MAGIC:
        raise DeepEMError(f"{path}: expected a .cs file, an array of NumPy.")
    try:
        shape, dtype = _header(handle)
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError, OverflowError, MemoryError,
            RecursionError) as error:
        raise DeepEMError(f"{path}: the header of the .cs file is damaged ({type(error).__name__}).") from error
    if dtype.hasobject:
        raise DeepEMError(f"{path} holds Python objects (pickle), which could run any code and are not read. Expected "
                          "a .cs file as cryoSPARC writes it.")
    _check_fields(path, dtype)
    offset = handle.tell()
    expected, found = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize, os.fstat(handle.fileno()).st_size
    if len(shape) != 1 or expected != found:
        raise DeepEMError(f"{path}: the header states an array of shape {str(shape)[:80]}, {expected} bytes in all; "
                          f"found {found} bytes. Expected a list of records: copy or export the file again.")
    return np.memmap(handle, dtype, "r", offset, shape) if shape[0] else np.zeros(0, dtype)


def _header(handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read shape and type of the records, as `numpy.lib.format` does but with a limit on the length of the header."""
    long = handle.read(2)[:1] != b"\1"  # version 1 has a short length
    length = int.from_bytes(handle.read(4 if long else 2), "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"header of {length} bytes")
    header = ast.literal_eval(handle.read(length).decode())
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("no shape")
    return shape, np.lib.format.descr_to_dtype(header["descr"])  # type: ignore[no-untyped-call]


def _check_fields(path: Path, dtype: np.dtype[Any]) -> None:
    fields: Mapping[str, Any] = dtype.fields or {}
    for name, (kinds, shape) in _NEEDED.items():
        if name not in fields:
            raise DeepEMError(f"{path} has no field {name}. Expected particles with locations: try the file "
                              "'passthrough_particles' of the job.")
        field = fields[name][0]
        if field.base.kind not in kinds or field.shape != shape:
            raise DeepEMError(f"{path}: the field {name} is of type {str(field)[:80]}, which is not expected.")


def _by_micrograph(path: Path, records: np.ndarray) -> dict[str, Coordinates]:
    shapes = np.array(records["location/micrograph_shape"], np.float64)
    fractions = np.stack([np.array(records[f"location/center_{axis}_frac"], np.float64) for axis in "xy"], 1)
    good = np.isfinite(fractions).all(1) & (np.abs(fractions) <= 2).all(1) & (shapes >= 1).all(1) & (
        shapes <= _MAX_PIXELS).all(1)
    if not good.all():
        first = int(np.argmin(good))
        raise DeepEMError(f"{path}, record {first}: location {fractions[first].tolist()} in a micrograph of "
                          f"{shapes[first].tolist()} pixels. Expected fractions from 0 to 1.")
    centres = np.stack([fractions[:, 0] * shapes[:, 1], (1 - fractions[:, 1]) * shapes[:, 0]], 1)
    scores = _scores(records)
    paths, which = np.unique(np.array(records["location/micrograph_path"]), return_inverse=True)
    order = np.argsort(which, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(which, minlength=len(paths)))[:-1])
    found: dict[str, list[np.ndarray]] = {}
    for text, part in zip(paths.tolist(), parts):
        found.setdefault(name_in_file(os.fsdecode(text)), []).append(part)
    return {name: Coordinates(centres[part], scores[part], None)
            for name, part in ((name, np.concatenate(parts)) for name, parts in found.items())}


def _scores(records: np.ndarray) -> np.ndarray:
    names = records.dtype.fields or {}
    if SCORE not in names or names[SCORE][0].kind != "f" or names[SCORE][0].shape:
        return np.full(len(records), np.nan)
    scores = np.array(records[SCORE], np.float64)
    return np.where(np.isfinite(scores), scores, np.nan)


def write_cs(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write picks.cs, the locations of all picks, and picks.csg, the group file for *Import Result Group*.

    Parameters
    ----------
    folder : Path
    picks : sequence of MicrographPicks
        With the sizes of the micrographs.

    Returns
    -------
    list of Path

    Raises
    ------
    DeepEMError
        If a file cannot be written, or the size of a micrograph is not known.

    Notes
    -----
    The number of a micrograph (location/micrograph_uid) is that of the exposure where its file name begins with one, as
    those of cryoSPARC do; otherwise it is computed from its path, and the picks cannot be joined with an exposure.
    """
    make_folder(folder)
    table = np.concatenate([locations(each) for each in picks]) if picks else _locations_of(0, 1)
    path = folder / "picks.cs"
    with atomic_write(path, "wb") as handle:
        np.save(handle, table, allow_pickle=False)
    return [path, write_lines(folder / "picks.csg", _group(path.name, len(table), SCORE in (table.dtype.names or ())))]


def _locations_of(number: int, longest_path: int) -> np.ndarray:
    return np.zeros(number, [
        ("uid", "<u8"), ("location/micrograph_uid", "<u8"), ("location/exp_group_id", "<u4"),
        ("location/micrograph_path", f"S{longest_path}"), ("location/micrograph_shape", "<u4", (2,)),
        ("location/micrograph_psize_A", "<f4"), ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
        ("location/min_dist_A", "<f4"), (SCORE, "<f4"), ("pick_stats/power", "<f4"),
        ("pick_stats/template_idx", "<u4"), ("pick_stats/angle_rad", "<f4")])


def locations(picks: MicrographPicks) -> np.ndarray:
    """Return the records of a .cs file for the picks of a micrograph; raises DeepEMError if its size is not known."""
    info = _info(picks)
    path = os.fsencode(picks.path)
    found = _locations_of(len(picks.coordinates.scores), max(len(path), 1))
    found["uid"] = [_uid(b"%s %d" % (path, number)) for number in range(len(found))]
    found["location/micrograph_uid"] = exposure_uid(picks.path)
    found["location/micrograph_path"], found["location/micrograph_shape"] = path, info.shape
    found["location/micrograph_psize_A"] = info.pixel_size_angst
    found["location/center_x_frac"] = picks.coordinates.centres_xy[:, 0] / info.shape[1]
    found["location/center_y_frac"] = 1 - picks.coordinates.centres_xy[:, 1] / info.shape[0]
    found[SCORE] = found["pick_stats/power"] = picks.coordinates.scores
    return found


def _info(picks: MicrographPicks) -> MicrographInfo:
    if picks.info is None or picks.info.pixel_size_angst is None:
        raise DeepEMError(f"{picks.name}: files of cryoSPARC hold the size and pixel size of the micrographs. Give the "
                          "micrographs with --micrographs, and the pixel size with --pixel-size if they have none.")
    return picks.info


def exposure_uid(path: str) -> int:
    """Return the number of a micrograph in cryoSPARC.

    Parameters
    ----------
    path : str

    Returns
    -------
    int
        The number that its file name begins with, as in the names that cryoSPARC gives; else one made from the path.
    """
    numbered = _EXPOSURE.match(os.path.basename(path))
    number = int(numbered[1]) if numbered else 0
    return number if 0 < number < 2**64 else _uid(os.fsencode(path))


def _uid(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _group(cs_name: str, number: int, scored: bool) -> list[str]:
    slots = ["location", *["pick_stats"] * scored]
    lines = [f"created: {datetime.now():%Y-%m-%d %H:%M:%S.%f}", "group:", "  description: Picks of DeepEM",
             "  name: particles", "  title: Particles picked", "  type: particle", "results:"]
    for slot in slots:
        lines += [f"  {slot}:", f"    metafile: '>{cs_name}'", f"    num_items: {number}",
                  f"    type: particle.{slot}"]
    return [*lines, "version: v4.4.1"]
