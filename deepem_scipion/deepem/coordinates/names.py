# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The micrograph that a coordinate file is about, by the file's name."""

from __future__ import annotations

from pathlib import Path

from ..micrographs.find import micrograph_name

# What programs append to the name of a micrograph to name its file of picks.
STAR_SUFFIXES = ("_autopick", "_manualpick", "_coords", "_picks")


def micrograph_of(path: Path) -> str:
    """Name of the micrograph that a coordinate file belongs to.

    Parameters
    ----------
    path : Path
        A .box or .star file.

    Returns
    -------
    str
        The name of the file without folder and extension; of a .star file also without _autopick, _manualpick,
        _coords or _picks at its end.
    """
    name = micrograph_name(path)
    if path.suffix.lower() == ".star":
        for suffix in STAR_SUFFIXES:
            name = name.removesuffix(suffix)
    return name
