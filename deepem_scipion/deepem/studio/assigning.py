# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates, defocus and pixel sizes of the micrographs of a session, from files of any program; what to check."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.formats.headers import MicrographHeaders
from ..coordinates.names import by_micrograph, listed
from ..coordinates.parse import parse_number
from ..coordinates.read import read_coordinates
from ..errors import DeepEMError
from ..micrographs.micrograph import read_pixel_size
from ..micrographs.scale import UNKNOWN_ANGST, compare_pixel_sizes, differ
from ..model.general import general_model
from ..picking.results import PickingResults
from ..startables import StarTable, read_tables
from .settings import StudioSettings

_NAME, _U, _V = "rlnMicrographName", "rlnDefocusU", "rlnDefocusV"
_ANGST_PER_MICROMETRE = 10_000
# Headers that are read to check the pixel size.
_CHECKED = 50


def read_assigned(path: str | Path, micrographs: Mapping[str, str], pixel_size_angst: float) -> dict[str, Coordinates]:
    """Read coordinates of micrographs.

    Parameters
    ----------
    path : str or Path
        As for `read_coordinates`.
    micrographs : mapping of str to str
        Files by name.
    pixel_size_angst : float
        Of the micrographs.

    Returns
    -------
    dict of str to Coordinates
        By name of the micrograph, as `names.by_micrograph` assigns them.

    Raises
    ------
    DeepEMError
        The file cannot be used, it is not clear to which micrographs it belongs, or it belongs to none of them.
    """
    paths = {name: Path(each) for name, each in micrographs.items()}
    found = read_coordinates(path, infos=MicrographHeaders(paths, pixel_size_angst))
    assigned, _ = by_micrograph(paths, found, path)
    if not assigned:
        raise DeepEMError(f"{path}: none of the {len(paths)} micrographs has coordinates; there are coordinates of "
                          f"{listed(sorted(found)) or 'no micrograph'}. They are matched by file name.")
    return assigned


def read_defocus(path: str | Path, micrographs: Mapping[str, str]) -> dict[str, float]:
    """Read the defocus of micrographs from a STAR file of RELION.

    Parameters
    ----------
    path : str or Path
        A table with rlnMicrographName, rlnDefocusU and, unless there is no astigmatism, rlnDefocusV, in angstrom. Of
        several rows of a micrograph, as of its particles, the mean is taken.
    micrographs : mapping of str to str
        Files by name.

    Returns
    -------
    dict of str to float
        Mean of both axes, in micrometres, by name of the micrograph.

    Raises
    ------
    DeepEMError
        The file cannot be read, has no such table or a value that is no number, or it is not clear to which
        micrographs it belongs.
    """
    path = Path(path)
    table = next((table for table in read_tables(path) if {_NAME, _U} <= set(table.labels)), None)
    if table is None:
        raise DeepEMError(f"{path}: expected the defocus of micrographs, a table with _{_NAME} and _{_U}, as in "
                          "RELION's micrographs_ctf.star")
    found = {name: float(np.mean(values)) for name, values in _values(path, table).items()}
    return by_micrograph({name: Path(each) for name, each in micrographs.items()}, found, path)[0]


def has_defocus(path: str | Path) -> bool:
    """Whether a list of micrographs is a STAR file with their defocus."""
    path = Path(path)
    return path.suffix.lower() == ".star" and path.is_file() and any(_U in table.labels for table in read_tables(path))


def problems_of(settings: StudioSettings, given_angst: float | None) -> list[str]:
    """Return what is to be checked in a session.

    Parameters
    ----------
    settings : StudioSettings
    given_angst : float, optional
        Pixel size that was given. Without it those in the headers are compared with each other.

    Returns
    -------
    list of str
        Sentences for the user: on a run that was ended early, see `compare_pixel_sizes`, and on another model that
        learns than that of the picks.
    """
    headers = header_pixel_sizes(settings.micrographs)
    own = given_angst in headers.values() and given_angst != UNKNOWN_ANGST
    sizes = compare_pixel_sizes(headers, given_angst) or (compare_pixel_sizes(headers, None) if own else [])
    missing = PickingResults(settings.results).what_is_missing() if settings.results else ""
    return [f"{missing}."] * bool(missing) + sizes + _model_problems(settings)


def header_pixel_sizes(micrographs: Mapping[str, str]) -> dict[str, float]:
    """Return the pixel sizes in the headers of some micrographs, in angstrom, by name, as far as they can be read."""
    names, headers = list(micrographs), {}
    for name in names[::len(names) // _CHECKED + 1]:
        with suppress(DeepEMError):  # shown when it is picked
            size = read_pixel_size(micrographs[name])
            if size is not None:
                headers[name] = size
    return headers


def check_pixel_sizes(sizes_angst: Mapping[str, float]) -> None:
    """Check that micrographs have one pixel size.

    Parameters
    ----------
    sizes_angst : mapping of str to float
        By name of the micrograph. `UNKNOWN_ANGST` does not count.

    Raises
    ------
    DeepEMError
        Two of them differ.
    """
    known = {name: size for name, size in sizes_angst.items() if size != UNKNOWN_ANGST}
    if not known:
        return
    smallest, largest = (find(known, key=known.__getitem__) for find in (min, max))
    if differ(known[smallest], known[largest]):
        raise DeepEMError("the micrographs have different pixel sizes, for instance "
                          f"{known[smallest]:.4g} A ({smallest}) and {known[largest]:.4g} A ({largest}). Expected one "
                          "in a session: open the micrographs of each pixel size in a session of their own (--project; "
                          "picks with --coordinates), or give --pixel-size if a header is wrong.")


def _model_problems(settings: StudioSettings) -> list[str]:
    """A sentence for the user if *Learn* starts from another model than the one that picked the run shown."""
    if settings.model or settings.turn or settings.results is None or not settings.starts_with("run") \
            or not (results := PickingResults(settings.results)).exists():
        return []
    run = results.read_settings()
    if run.model in (None, general_model(run.diameter_angst, run.model_contrast or "dark").digest()):
        return []
    return ["another model than the general one has picked these micrographs, but *Learn* starts from the general one. "
            "Give --model MODEL to start from that of the picks"]


def _values(path: Path, table: StarTable) -> dict[str, list[float]]:
    name, *axes = (table.labels.index(label) for label in (_NAME, _U, _V) if label in table.labels)
    found: dict[str, list[float]] = defaultdict(list)
    for line, fields in table.rows:
        mean = sum(parse_number(path, line, fields[axis]) for axis in axes) / len(axes)
        micrograph = os.path.splitext(re.sub(r"^\d+@", "", fields[name]))[0]
        found[micrograph].append(mean / _ANGST_PER_MICROMETRE)
    return found
