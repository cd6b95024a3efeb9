# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of micrographs, from the names of their coordinate files."""

from __future__ import annotations

from pathlib import Path

from ..micrographs.find import micrograph_name

# Suffixes that programs append to the name of a micrograph to name its file of picks.
STAR_SUFFIXES = ("_autopick", "_manualpick", "_coords", "_picks")


def micrograph_of(path: Path) -> str:
    """Return the name of the micrograph that a coordinate file belongs to.

    Parameters
    ----------
    path : Path
        A .box or .star file.

    Returns
    -------
    str
        File name without folder and extension; for a .star file also without a final _autopick, _manualpick, _coords
        or _picks.
    """
    name = micrograph_name(path)
    if path.suffix.lower() == ".star":
        for suffix in STAR_SUFFIXES:
            name = name[:-len(suffix)] if name.endswith(suffix) else name
    return name
