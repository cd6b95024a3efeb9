# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates of Scipion to and from .box files."""

import os

import numpy as np
import pyworkflow.utils as pwutils
from pwem.objects import Coordinate
from pyworkflow.object import Float, Integer

from ..deepem.coordinates.box import write_box
from ..deepem.coordinates.coordinates import Coordinates
from ..deepem.coordinates.read import read_coordinates
from ..deepem.coordinates.suppression import non_maximum_suppression
from ..deepem.errors import DeepEMError
from ..deepem.micrographs.micrograph import read_shape
from .identity import keys_by_id
from .micrographs import micrographs_with_coordinates

# Attributes with the score of a pick: of this plugin, RELION, crYOLO and Topaz.
SCORE_ATTRIBUTES = ("_deepemScore", "_rlnAutopickFigureOfMerit", "_cryoloScore", "_topazScore")


def write_boxes(folder, coordinates, names, pixel_size_angst, keys=None):
    """Write one .box file per micrograph.

    Parameters
    ----------
    folder : str
        Emptied if it exists.
    coordinates : SetOfCoordinates
    names : dict of str to str
        Unique name of the micrograph to name of its file. Coordinates of other micrographs are left out.
    pixel_size_angst : float
        Pixel size of the micrographs to which the files belong.
    keys : dict of int to str, optional
        Unique name of each micrograph by its id, see `keys_by_id`.

    Returns
    -------
    int
        Number of coordinates written.
    """
    pwutils.cleanPath(folder)
    pwutils.makePath(folder)
    scale = coordinates.getMicrographs().getSamplingRate() / pixel_size_angst
    box_px = _even(scale * (coordinates.getBoxSize() or 1))
    written = 0
    for mic_name, mic in micrographs_with_coordinates(coordinates, keys).items():
        if mic_name not in names:
            continue
        centres_xy = scale * np.array([c.getPosition() for c in coordinates.iterCoordinates(mic)], float)
        write_box(os.path.join(folder, names[mic_name] + ".box"), centres_xy, np.full(len(centres_xy), np.nan), box_px)
        written += len(centres_xy)
    return written


def write_scored_boxes(folder, found, names, scale):
    """Write one .box file with scores per micrograph, an empty one for a micrograph without coordinates.

    Parameters
    ----------
    folder : str
        Emptied if it exists.
    found : dict of str to Coordinates
        By the unique name of the micrograph.
    names : dict of str to str
        Unique name of the micrograph to name of its file, for the micrographs whose files are written.
    scale : float
        Pixels of the files per pixel of the coordinates.
    """
    pwutils.cleanPath(folder)
    pwutils.makePath(folder)
    for mic_name, name in names.items():
        each = found[mic_name]
        write_box(os.path.join(folder, name + ".box"), scale * each.centres_xy, each.scores,
                  _even(scale * (each.box_px or 1)))


def _even(box_px):
    """Even side of a box, because corners in whole pixels shift the centre of an odd box by half a pixel."""
    return 2 * max(1, round(box_px / 2))


def score_attribute(coordinates):
    """Name of the attribute with the scores of a SetOfCoordinates; None if no coordinate has a score."""
    first = coordinates.getFirstItem() if coordinates.getSize() else None
    for name in SCORE_ATTRIBUTES:
        if first is not None and first.hasAttribute(name) and set(coordinates.getUniqueValues(name)) != {None}:
            return name
    return None


def score_of(item, attribute):
    """Score of a Coordinate, rounded as in a file.

    Parameters
    ----------
    item : Coordinate
    attribute : str or None
        As returned by `score_attribute`.

    Returns
    -------
    float
        With the six digits of .box files, so that a threshold divides the coordinates as it divides the lines of
        the files. 1 without attribute; 0 if this coordinate alone has no score.
    """
    if attribute is None:
        return 1.0
    score = getattr(item, attribute).get()
    return 0.0 if score is None or np.isnan(score) else float(f"{score:.6g}")


def coordinates_by_name(coordinates, keys=None):
    """Centres and scores of all coordinates in a set.

    Parameters
    ----------
    coordinates : SetOfCoordinates
    keys : dict of int to str, optional
        Unique name of each micrograph by its id, see `keys_by_id`.

    Returns
    -------
    found : dict of str to Coordinates
        By unique name of the micrograph, for all micrographs of the set, also those without coordinates.
    unusable : int
        Number of coordinates without a position, or on a micrograph that is not in the set.
    """
    names = keys or keys_by_id([coordinates.getMicrographs()])[0]
    attribute = score_attribute(coordinates)
    rows, unusable = {name: [] for name in names.values()}, 0
    for item in coordinates.iterItems():
        name, position = names.get(item.getMicId()), item.getPosition()
        if name is None or None in position:
            unusable += 1
        else:
            rows[name].append((*position, score_of(item, attribute)))
    tables = {name: np.array(found, float).reshape(-1, 3) for name, found in rows.items()}
    return {name: Coordinates(table[:, :2], table[:, 2], coordinates.getBoxSize())
            for name, table in tables.items()}, unusable


def suppressed_ids(coordinates, min_distance_px):
    """Ids of the coordinates that non-maximum suppression removes.

    Parameters
    ----------
    coordinates : SetOfCoordinates
    min_distance_px : float
        Minimum distance in pixels of the coordinates; 0 removes none.

    Returns
    -------
    set of int
        Coordinates closer than the minimum distance to one with a higher score, see `non_maximum_suppression`.
    """
    if min_distance_px <= 0:
        return set()
    attribute, rows = score_attribute(coordinates), {}
    for item in coordinates.iterItems():
        if None not in item.getPosition():
            rows.setdefault(item.getMicId(), []).append((item.getObjId(), *item.getPosition(),
                                                         score_of(item, attribute)))
    found = set()
    for table in (np.array(each, float) for each in rows.values()):
        kept = non_maximum_suppression(table[:, 1:3], table[:, 3], min_distance_px)
        found |= set(table[~kept, 0].astype(int).tolist())
    return found


def scored_coordinate(mic, x, y, score):
    """A Coordinate with a score.

    Parameters
    ----------
    mic : Micrograph
    x, y : int
    score : float

    Returns
    -------
    Coordinate
        The three attributes with names of RELION carry the score into RELION's particle extraction, which requires all
        of them or none.
    """
    item = Coordinate(x=x, y=y)
    item.setMicrograph(mic)
    item._deepemScore = Float(score)
    item._rlnAutopickFigureOfMerit = Float(score)
    item._rlnClassNumber = Integer(1)
    item._rlnAnglePsi = Float(0.0)
    return item


def read_picks(path, mic):
    """Coordinates of one micrograph from a .box file of the program.

    Parameters
    ----------
    path : str
    mic : Micrograph

    Returns
    -------
    list of Coordinate
        Rounded, because Scipion truncates decimals, and inside the micrograph.
    """
    try:
        rows, cols = read_shape(mic.getFileName())
    except DeepEMError:  # the micrograph was moved away after it was picked
        rows = cols = np.inf
    items = []
    for picks in read_coordinates(path).values():
        centres_xy = np.clip(np.rint(picks.centres_xy), 0, (cols - 1, rows - 1)).astype(int)
        for (x, y), score in zip(centres_xy.tolist(), picks.scores.tolist()):
            items.append(scored_coordinate(mic, x, y, 1.0 if np.isnan(score) else score))  # 1 if set by hand
    return items
