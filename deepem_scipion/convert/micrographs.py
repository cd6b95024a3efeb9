# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs of Scipion: names of their result files, and list files for the program."""

import os
import re

import pyworkflow.utils as pwutils

from ..deepem.atomic import atomic_write
from .identity import keys_by_id

# These characters would break the line of a list file.
_BREAKING = r"\x00-\x1f\x7f\x85\u2028\u2029"
# Neither these nor separators of folders may be in the name of a result file.
_NOT_IN_NAMES = re.compile(rf"[{_BREAKING}/\\]")


def result_names(micrographs):
    """Name of the result files of each micrograph.

    Parameters
    ----------
    micrographs : iterable of Micrograph

    Returns
    -------
    dict of int to str
        Id of the micrograph to its name without the extension. If two micrographs would share a name, that of the
        later one ends with its id, so that names do not change when more micrographs arrive.
    """
    names, taken = {}, set()
    for mic in sorted(micrographs, key=lambda mic: mic.getObjId()):
        name = mic.getMicName() or os.path.basename(mic.getFileName())
        extension = os.path.splitext(mic.getFileName())[1]
        if extension and name.endswith(extension):
            name = name[: -len(extension)]
        name = _NOT_IN_NAMES.sub("_", name).strip() or "micrograph"
        while name in taken:
            name = f"{name}_{mic.getObjId():06d}"
        taken.add(name)
        names[mic.getObjId()] = name
    return names


def with_unique_names(micrographs, taken=()):
    """Copies of micrographs; one whose name another has as well is named with its id.

    Parameters
    ----------
    micrographs : iterable of Micrograph
        In the order of their ids.
    taken : collection of str
        Names of micrographs before them.

    Yields
    ------
    Micrograph
    """
    taken = set(taken)
    for mic in micrographs:
        mic = mic.clone()
        name = mic.getMicName() or os.path.basename(mic.getFileName())
        while name in taken:
            stem, extension = os.path.splitext(name)
            name = f"{stem}_{mic.getObjId():06d}{extension}"
        taken.add(name)
        mic.setMicName(name)
        yield mic


def write_micrograph_list(path, micrographs, names):
    """Write a list file with a line per micrograph: path, TAB, name of its result files.

    A path that cannot stand in a line is replaced by that of a link next to the list file.

    Parameters
    ----------
    path : str
        File to write.
    micrographs : iterable of Micrograph
    names : dict of int to str
        Id of the micrograph to its name, as returned by `result_names`.
    """
    pwutils.makeFilePath(path)
    with atomic_write(path) as file:
        for mic in micrographs:
            file.write(f"{_listable_path(mic, os.path.dirname(path))}\t{names[mic.getObjId()]}\n")


def _listable_path(mic, folder):
    path = mic.getFileName()
    if path == path.strip() and not re.search(f"[{_BREAKING}]", path):
        return path
    link = os.path.join(folder, f"mic_{mic.getObjId():06d}{os.path.splitext(path)[1].strip()}")
    pwutils.createAbsLink(os.path.abspath(path), link)
    return link


def micrographs_with_coordinates(coordinates, keys=None):
    """Copies of the micrographs that have coordinates.

    Parameters
    ----------
    coordinates : SetOfCoordinates
    keys : dict of int to str, optional
        Unique name of each micrograph by its id, see `keys_by_id`.

    Returns
    -------
    dict of str to Micrograph
        By unique name, ordered by id.
    """
    keys = keys or keys_by_id([coordinates.getMicrographs()])[0]
    # A set may have grown since the names were found.
    present = keys.keys() & coordinates.getUniqueValues("_micId") if coordinates.getSize() else set()
    # Copies, because reading the coordinates moves the cursor of the micrographs' set.
    return {keys[mic.getObjId()]: mic.clone() for mic in coordinates.getMicrographs() if mic.getObjId() in present}


def are_tiff(micrographs):
    """Whether the first micrograph of a set is a TIFF file."""
    first = micrographs.getFirstItem() if micrographs.getSize() else None
    return first is not None and first.getFileName().lower().endswith((".tif", ".tiff"))


def frame_warnings(micrographs):
    """Warning for the form about the frame of coordinates in TIFF files.

    Parameters
    ----------
    micrographs : SetOfMicrographs

    Returns
    -------
    list of str
        One warning if the first micrograph is a TIFF file, otherwise none.
    """
    if not are_tiff(micrographs):
        return []
    return ["The micrographs are TIFF files, in which programs disagree about the coordinates. Here y counts from the "
            "first row, as in Xmipp and in RELION's extraction within Scipion. EMAN2, and RELION with the TIFF files "
            "themselves, count from the last row: coordinates from there, or particles extracted there, would be "
            "upside down, and other programs were not tried. Convert the micrographs to MRC before you import them "
            "(relion_image_handler --i mic.tif --o mic.mrc), and all agree."]
