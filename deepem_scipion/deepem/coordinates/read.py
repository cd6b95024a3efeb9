# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading coordinates from files and folders of any supported format."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeepEMError
from .coordinates import Coordinates, together
from .formats.registry import files_of_one_format, format_of, read_file
from .names import match_names, micrograph_of
from .parse import gather
from .star import read_index, read_star

if TYPE_CHECKING:
    from .formats.base import Infos

log = logging.getLogger(__name__)

# A folder of .box files may have the picks of all of them in this file as well, see `PickingResults`.
JOINT_FILE = "picks.star"
# Folder in that of a picking run for its picks in other formats; they are not read once more.
EXPORTS = "export"
# A folder with this file is that of a studio session: none of the folder around it, with corrected picks and negatives.
SESSION = "studio.json"
# Files of other formats of a folder are read only if it has none of these.
_MAIN_KINDS = (".box", ".star")
# Files that RELION and Xmipp write into the folder of a job, without coordinates.
_JOB_FILES = ("job.star", "job_pipeline.star", "default_pipeline.star", "RELION_OUTPUT_NODES.star", "summary.star",
              "micrographs_selected.star", "config.xmd")
# EMAN2 and Xmipp keep files of micrographs that nobody has marked as well.
_UNMARKED = (".json", ".pos")
# Folders in which crYOLO writes the same picks in two formats.
_CRYOLO = ("EMAN", "STAR")
# Centres of the same picks in a .box and a .star file differ at most by this along x and y: corners are whole pixels.
_ROUNDING_PX = 1.0


def read_coordinates(path: str | Path, shifts: bool = False, infos: Infos | None = None) -> dict[str, Coordinates]:
    """Read the coordinates of one or many micrographs.

    Parameters
    ----------
    path : str or Path
        A .box file; a .star file with the coordinates of one micrograph, of many (distinguished by rlnMicrographName),
        or with the names of such files (rlnMicrographCoordinates); a file of another of `formats.FORMATS`; or a folder
        of .box and .star files or, if it has none, of files of another format, with its subfolders.
    shifts : bool
        Whether to subtract the shifts of RELION's alignment (rlnOriginX, rlnOriginXAngst) from the coordinates.
    infos : mapping of str to MicrographInfo, optional
        Sizes of the micrographs, which some formats need.

    Returns
    -------
    dict of str to Coordinates
        Coordinates by name of the micrograph, as `names.match_names` compares them: the path in rlnMicrographName
        without its last extension; or else the path of the file itself, from the folder that was given, without
        extension and, for STAR files, without a final _autopick, _manualpick, _coords or _picks.

    Raises
    ------
    DeepEMError
        If nothing is found, a line is invalid, a file cannot be used, or two files have different coordinates of the
        same micrograph.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_folder(path, shifts, infos)
        if not path.exists():
            raise DeepEMError(f"{path}: no such file or folder. Expected coordinates as .box or .star, or in another "
                              "format.")
        if _kind(path) in _UNMARKED:
            return _read_all([path], path.parent, shifts, infos)[0]
        return _read_file(path, path.parent, shifts, infos)
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error


def _read_folder(folder: Path, shifts: bool, infos: Infos | None) -> dict[str, Coordinates]:
    files = _files(folder)
    if _kind(files[0]) not in _MAIN_KINDS:
        return _read_all(files, folder, shifts, infos)[0]
    boxes, stars = ([file for file in files if _kind(file) == kind] for kind in (".box", ".star"))
    indexed = {os.path.realpath(part) for file in stars for part in (read_index(file) or {}).values()}
    found, _ = _read_all(boxes, folder, shifts, infos)
    joint = folder / JOINT_FILE
    if boxes and joint in stars and _total(_read_file(joint, folder, shifts, infos)) == _total(found):
        stars.remove(joint)
    others, sources = _read_all([file for file in stars if os.path.realpath(file) not in indexed], folder, shifts,
                                infos)
    return _join(found, others, folder, sources) if found and others else {**found, **others}


def _total(found: Mapping[str, Coordinates]) -> int:
    return sum(len(coordinates.scores) for coordinates in found.values())


def _files(folder: Path) -> list[Path]:
    """Return all .box and .star files below a folder or else those of another format.

    Hidden folders, exports of a picking run and sessions of the studio are left out.
    """
    everything: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        again = os.path.realpath(place) in seen
        seen.add(os.path.realpath(place))
        folders[:] = [] if again else sorted(
            name for name in folders if not name.startswith(".") and Path(place, name) != folder / EXPORTS
            and not Path(place, name, SESSION).exists())
        everything += [Path(place, name) for name in sorted(names) * (not again)
                       if name not in _JOB_FILES and Path(place, name).is_file()]
    found = files_of_one_format(everything, _MAIN_KINDS)
    if not found:
        raise DeepEMError(f"The folder {folder} holds no .box, no .star and no other file of coordinates. Expected "
                          "coordinates of particles.")
    return found


def _read_all(files: list[Path], folder: Path, shifts: bool,
              infos: Infos | None) -> tuple[dict[str, Coordinates], dict[str, Path]]:
    """Read files of one kind; returns coordinates, and the file they are from, by name of the micrograph."""
    found: dict[str, Coordinates] = {}
    sources: dict[str, Path] = {}
    for file in files:
        part = _read_file(file, folder, shifts, infos)
        if not part and _kind(file) in _UNMARKED:
            log.info("%s has no boxes", file)
        elif not part and file.name != JOINT_FILE:
            part = {_name(file, folder): gather([], None)}  # an empty table does not name its micrograph
        for name, coordinates in part.items():
            if name in found:
                raise DeepEMError(f"{file} and {sources[name]} are both for micrograph {name!r}. Keep one of them, or "
                                  "give one file or folder at a time.")
            found[name], sources[name] = coordinates, file
    if files and not found and _kind(files[0]) in _UNMARKED:
        more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        raise DeepEMError(f"{files[0]}{more}: no boxes. Expected those of a marked micrograph: a list 'boxes', as in "
                          "info/NAME_info.json of EMAN2, or a table 'particles' of Xmipp.")
    return found, sources


def _join(boxes: dict[str, Coordinates], stars: Mapping[str, Coordinates], folder: Path,
          sources: Mapping[str, Path]) -> dict[str, Coordinates]:
    """Add what .star files have to what .box files of the same folder have; the same picks in both count once."""
    own = {name for name in stars if name == _name(sources[name], folder)}
    match = match_names(boxes, [name for name in stars if name not in own],
                        (f"the .box files of {folder}", "the .star files"))
    pairs = {**match.pairs, **{name: name for name in own if name in boxes}}
    for box, star in pairs.items():
        if not _same(boxes[box].centres_xy, stars[star].centres_xy):
            raise DeepEMError(
                f"{sources[star]} has {len(stars[star].scores)} coordinates of {star}, {folder / box}.box has "
                f"{len(boxes[box].scores)}, and they are not the same. Keep one of them, or give one file.")
    others = {name: found for name, found in stars.items() if name not in pairs.values()}
    folders = {os.path.dirname(name) for name in {*boxes, *others}}
    for parent in (os.path.dirname(each) for each in folders if os.path.basename(each) == _CRYOLO[0]):
        if os.path.join(parent, _CRYOLO[1]) in folders:
            raise DeepEMError(f"{folder / parent} has the same picks of crYOLO as .box and as .star files, which would "
                              f"count twice. Expected one kind: give its folder CBOX, {' or '.join(_CRYOLO)}.")
    log.info("%s: %d micrographs from .box files, %d more from .star files; %d are in both and count once", folder,
             len(boxes), len(others), len(pairs))
    return {**boxes, **others}


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two sets of centres are the same, in any order."""
    if len(first) != len(second):
        return False
    if np.all(np.abs(first - second) <= _ROUNDING_PX):
        return True
    from scipy.spatial import cKDTree

    distances, partners = cKDTree(second).query(first, p=np.inf)
    return bool(distances.max() <= _ROUNDING_PX and len(np.unique(partners)) == len(first))


def _read_file(path: Path, folder: Path, shifts: bool, infos: Infos | None) -> dict[str, Coordinates]:
    if _kind(path) != ".star" or format_of(path) != "relion":
        return read_file(path, _name(path, folder), infos)
    parts = read_index(path)
    if parts is None:
        return read_star(path, _name(path, folder), shifts)
    found = {}
    for name, file in parts.items():
        if not file.exists():
            raise DeepEMError(f"{path}: the coordinates of {name} should be in {file}, and there is no such file. Run "
                              "the program in the project folder, or give the folder of the coordinates.")
        found[name] = together(list(_read_file(file, file.parent, shifts, infos).values()))
    return found


def _name(path: Path, folder: Path) -> str:
    return micrograph_of(path.relative_to(folder))


def _kind(path: Path) -> str:
    return path.suffix.lower()
