# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading coordinates from files and folders of any supported format."""

from __future__ import annotations

from pathlib import Path

from ..errors import DeepEMError
from .box import read_box
from .coordinates import Coordinates
from .names import micrograph_of
from .parse import gather
from .star import read_star


def read_coordinates(path: str | Path) -> dict[str, Coordinates]:
    """Read the coordinates of one or many micrographs.

    Parameters
    ----------
    path : str or Path
        A .box file; a .star file with the coordinates of one micrograph or, distinguished by rlnMicrographName, of
        many; or a folder of .box files or, if it has none, of .star files.

    Returns
    -------
    dict of str to Coordinates
        Coordinates by name of the micrograph (its file name without folder and last extension). If a STAR file does
        not name micrographs, its own name is used without a final _autopick, _manualpick, _coords or _picks.

    Raises
    ------
    DeepEMError
        If nothing is found, a line is invalid, or two files are for the same micrograph.
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


def _read_folder(folder: Path) -> dict[str, Coordinates]:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    boxes, stars = ([file for file in files if _kind(file) == kind] for kind in (".box", ".star"))
    chosen = boxes or stars
    if not chosen:
        raise DeepEMError(f"The folder {folder} holds no .box and no .star file.")
    found: dict[str, Coordinates] = {}
    for file in chosen:
        # An empty table does not name its micrograph.
        for name, coordinates in (_read_file(file) or {micrograph_of(file): gather([], None)}).items():
            if name in found:
                raise DeepEMError(f"{file}: another file of this folder is also for micrograph {name!r}. "
                                  "Keep one of them.")
            found[name] = coordinates
    return found


def _read_file(path: Path) -> dict[str, Coordinates]:
    if _kind(path) == ".box":
        return {micrograph_of(path): read_box(path)}
    if _kind(path) == ".star":
        return read_star(path)
    raise DeepEMError(f"{path} is neither a .box nor a .star file. Expected one, or a folder of them.")


def _kind(path: Path) -> str:
    return path.suffix.lower()
