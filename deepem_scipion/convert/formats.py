# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates of Scipion to and from files of other programs."""

import os

import numpy as np
from pwem.objects import Coordinate

from ..deepem.coordinates.coordinates import Coordinates
from ..deepem.coordinates.formats.base import MicrographPicks
from ..deepem.coordinates.formats.headers import read_info
from ..deepem.errors import DeepEMError
from ..deepem.micrographs.micrograph import read_shape
from .coordinates import coordinates_by_name, score_attribute, scored_coordinate
from .identity import keys_by_id
from .micrographs import result_names


def is_scored(coordinates):
    """Whether any of some Coordinates has a score."""
    return not np.isnan(coordinates.scores).all()


def coordinate_items(coordinates, mic, has_scores, flip_y=False):
    """Coordinates of Scipion from what a file says about one micrograph.

    Parameters
    ----------
    coordinates : Coordinates
        In pixels of the micrograph.
    mic : Micrograph
    has_scores : bool
        Whether the items get scores, as all items of a set must or must not; 0 for those without.
    flip_y : bool
        Whether y counts from the last row of the file.

    Returns
    -------
    items : list of Coordinate
        Rounded, because Scipion truncates decimals.
    n_outside : int
        Number of coordinates outside of the micrograph, which are left out.
    """
    rows, cols = read_shape(mic.getFileName())
    x, y = np.rint(coordinates.centres_xy.T)
    if flip_y:
        y = np.rint(rows - 1 - coordinates.centres_xy[:, 1])
    inside = (x >= 0) & (x < cols) & (y >= 0) & (y < rows)
    items = []
    for column, row, score in zip(x[inside].astype(int).tolist(), y[inside].astype(int).tolist(),
                                  np.nan_to_num(coordinates.scores[inside]).tolist()):
        if has_scores:
            items.append(scored_coordinate(mic, column, row, score))
        else:
            items.append(Coordinate(x=column, y=row))
            items[-1].setMicrograph(mic)
    return items, int((~inside).sum())


def picks_of_set(coordinates):
    """All that files of other programs may hold about a set of coordinates.

    Parameters
    ----------
    coordinates : SetOfCoordinates

    Returns
    -------
    list of MicrographPicks
        Of each micrograph with coordinates. Its path is that of the file, which an import links into the project; its
        size is not known if there is no such file.
    """
    mics = {mic.getObjId(): mic.clone() for mic in coordinates.getMicrographs()}
    keys, names = keys_by_id([coordinates.getMicrographs()])[0], result_names(mics.values())
    found, _ = coordinates_by_name(coordinates, keys)
    has_scores, picks = score_attribute(coordinates) is not None, []
    for number, mic in mics.items():
        each, path = found[keys[number]], os.path.realpath(mic.getFileName())
        if len(each.scores):
            scores = each.scores if has_scores else np.full(len(each.scores), np.nan)
            box_px = coordinates.getBoxSize() or None
            picks.append(MicrographPicks(names[number], path, Coordinates(each.centres_xy, scores, box_px),
                                         _info(path, mic.getSamplingRate())))
    return picks


def _info(path, pixel_size_angst):
    try:
        return read_info(path, pixel_size_angst)
    except DeepEMError:  # no longer there
        return None
