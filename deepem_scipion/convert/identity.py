# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which micrographs of several sets are the same: by file and origin, as imports may use the same names and ids."""

import os
from collections import Counter
from functools import lru_cache

import numpy as np
from pwem.objects import SetOfMicrographsBase

from ..deepem.errors import DeepEMError
from ..deepem.micrographs.images import read_pixels

# Images are compared by the means of this many parts along x and y.
_PARTS = 48
# Images of the same area, binned or not, have a correlation close to 1; of other areas, close to 0.
_SAME = 0.5


def keys_by_id(micSets, project=None, compare=None):
    """Name of each micrograph that is different from those of all other micrographs.

    Parameters
    ----------
    micSets : list of SetOfMicrographs
    project : Project, optional
        Project of the runs that made the sets.
    compare : callable, optional
        Called with two files that may be those of the same micrograph; returns whether they are. Default: `same_image`.

    Returns
    -------
    list of dict of int to str
        For each set, the name by id: the one in Scipion, followed by a number if another micrograph has it as well. A
        micrograph that is in several sets has the same name in all.

    Notes
    -----
    Micrographs are the same if they are the same file; or if they have the same id and name, and one set was made from
    the other or both from a third one, micrograph by micrograph; or if they have the same name, no other of the two
    sets has it, and their images are the same, for instance binned and imported again.
    """
    compare = compare or same_image
    known, taken, named, keys = {}, set(), {}, []
    for micSet in micSets:
        mics = [mic.clone() for mic in micSet]
        origins, numbers = _origins(micSet, project), Counter(mic.getMicName() for mic in mics)
        own, files = {}, {}
        for mic in mics:
            name, file = mic.getMicName() or os.path.basename(mic.getFileName()), os.path.realpath(mic.getFileName())
            tokens = [file, *((run, mic.getObjId(), name) for run in origins)]
            found = [known[token] for token in tokens if token in known]
            if not found and numbers[name] == 1 and len(named.get(name, ())) == 1:
                found = [key for key, other in named[name].items() if compare(other, file)]
            key = next((key for key in found if key not in files), None) or _unused(name, taken)
            own[mic.getObjId()], files[key] = key, file
            taken.add(key)
            for token in tokens:
                known.setdefault(token, key)
        for mic in mics:
            key = own[mic.getObjId()]
            named.setdefault(mic.getMicName(), {}).setdefault(key, files[key])
        keys.append(own)
    return keys


def same_image(first, second):
    """Whether two files, whose pixels may have different sizes, show the same area; False if one cannot be read."""
    return _same_image(first, _changed(first), second, _changed(second))


def _unused(name, taken):
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _origins(micSet, project):
    """Ids of the run that made a set, of the one that made its input, and so on up to an import or a join of sets."""
    found, parent = [], micSet.getObjParentId()
    while project is not None and parent and parent not in found:
        found.append(parent)
        run = project.getProtocol(parent)
        inputs = [] if run is None else [pointer.get() for _, pointer in run.iterInputAttributes()]
        inputs = [each for each in inputs if isinstance(each, SetOfMicrographsBase)]
        parent = inputs[0].getObjParentId() if len(inputs) == 1 else None
    return found


def _changed(path):
    return os.path.getmtime(path) if os.path.exists(path) else None


@lru_cache(maxsize=4096)
def _same_image(first, changed, second, otherChanged):
    try:
        parts = [_parts(read_pixels(path)) for path in (first, second)]
    except (DeepEMError, OSError):
        return False
    if all(np.ptp(each) == 0 for each in parts):
        return bool((parts[0] == parts[1]).all())
    # Without what changes slowly, such as illumination, which other images share.
    parts = [each[1:-1, 1:-1] - (each[:-2, 1:-1] + each[2:, 1:-1] + each[1:-1, :-2] + each[1:-1, 2:]) / 4
             for each in parts]
    if any(np.ptp(each) == 0 for each in parts):
        return False
    return bool(np.corrcoef(parts[0].ravel(), parts[1].ravel())[0, 1] > _SAME)


def _parts(pixels):
    """Means over a grid of parts of an image."""
    pixels = pixels.astype(np.float64)
    for axis in (0, 1):
        number = pixels.shape[axis]
        edges = np.linspace(0, number, min(_PARTS, number) + 1).round().astype(int)
        sums = np.add.reduceat(pixels, edges[:-1], axis=axis)
        pixels = sums / np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
    return pixels
