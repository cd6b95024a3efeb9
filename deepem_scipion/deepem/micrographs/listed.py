# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pixel sizes of micrographs in a list of RELION, compared with those of their headers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import DeepEMError
from ..startables import StarTable, read_tables
from .find import find_listed, micrograph_name
from .micrograph import read_pixel_size
from .scale import differ, of_micrographs

# Headers that are read for each pixel size of a list.
_CHECKS = 3


def compare_with_lists(arguments: Sequence[str | Path], given_angst: float | None = None) -> list[str]:
    """Compare the pixel sizes that lists of RELION state with those of the headers, or with a given one.

    Parameters
    ----------
    arguments : sequence of str or Path
        As for `find_micrographs`; only .star files are looked at.
    given_angst : float, optional
        Pixel size that overrides the headers.

    Returns
    -------
    list of str
        A sentence for the user for each pixel size that disagrees by more than `scale.TOLERANCE`, or that the headers
        of its first three micrographs lack.

    Raises
    ------
    DeepEMError
        If a .star file cannot be read.
    """
    problems = []
    for file in (Path(each) for each in arguments if str(each).lower().endswith(".star") and Path(each).is_file()):
        for size, names in _listed(file).items():
            if given_angst is not None:
                if differ(size, given_angst):
                    problems.append(f"the pixel size was given as {given_angst:g} A, and is {size:g} A in {file}. The "
                                    "given one is used: check it")
                continue
            headers = _headers(file, names[:_CHECKS])
            others = {name: found for name, found in headers.items() if found is not None and differ(found, size)}
            if others:
                problems.append(f"{of_micrographs(others)} per pixel in the header, and {size:g} A in {file}. That of "
                                "the header is used: if it is wrong give the true one (--pixel-size)")
            if missing := [name for name, found in headers.items() if found is None]:
                problems.append(f"the header of {missing[0]} gives no pixel size; {file} gives {size:g} A "
                                f"(--pixel-size {size:g})")
    return problems


def _headers(file: Path, names: Sequence[str]) -> dict[str, float | None]:
    """Pixel sizes in the headers by name; a micrograph that cannot be read is left to those who need its pixels."""
    found = {}
    for name in names:
        with suppress(DeepEMError):
            found[micrograph_name(name)] = read_pixel_size(find_listed(name, file))
    return found


def _listed(file: Path) -> dict[float, list[str]]:
    """Micrographs by the pixel size that a list states, in angstrom; those without one are left out."""
    tables = {table.name: _records(table) for table in read_tables(file)}
    optics = {record.get("rlnOpticsGroup"): record for record in tables.get("optics", [])}
    found: dict[float, list[str]] = defaultdict(list)
    for record in (record for name, records in tables.items() if name != "optics" for record in records):
        size = _size({**optics.get(record.get("rlnOpticsGroup"), {}), **record})
        if size and "rlnMicrographName" in record:
            found[size].append(record["rlnMicrographName"])
    return {size: list(dict.fromkeys(names)) for size, names in found.items()}


def _records(table: StarTable) -> list[dict[str, str]]:
    return [dict(zip(table.labels, fields)) for _, fields in table.rows]


def _size(record: Mapping[str, str]) -> float | None:
    """Pixel size of a micrograph; RELION 3.0 gives that of the detector in micrometres, and the magnification."""
    size = math.nan
    with suppress(KeyError, ValueError, ZeroDivisionError):
        if "rlnMicrographPixelSize" in record:
            size = float(record["rlnMicrographPixelSize"])
        else:
            size = 1e4 * float(record["rlnDetectorPixelSize"]) / float(record["rlnMagnification"])
    return size if 0 < size < math.inf else None
