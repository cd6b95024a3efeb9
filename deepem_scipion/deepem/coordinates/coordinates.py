# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle coordinates of one micrograph.

Coordinates are x = column and y = row in pixels of the input micrograph; the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Coordinates:
    """Particles of one micrograph.

    Attributes
    ----------
    centres_xy : (n, 2) float64 array
        Centres as x, y in pixels of the input micrograph.
    scores : (n,) float64 array
        Scores, higher for more confident picks; NaN where the file has none.
    box_px : float or None
        Side of the boxes in pixels; None if the file has no boxes, or boxes of several sizes.
    """

    centres_xy: np.ndarray
    scores: np.ndarray
    box_px: float | None


def merge(sets: Sequence[Mapping[str, Coordinates]]) -> dict[str, Coordinates]:
    """Merge several sets of coordinates, micrograph by micrograph.

    Parameters
    ----------
    sets : sequence of mapping of str to Coordinates
        Coordinates by name of the micrograph.

    Returns
    -------
    dict of str to Coordinates
        All coordinates of each micrograph in the order of the sets, with the box size of the first.
    """
    parts: dict[str, list[Coordinates]] = {}
    for one in sets:
        for name, coordinates in one.items():
            parts.setdefault(name, []).append(coordinates)
    return {name: together(found) for name, found in parts.items()}


def together(parts: Sequence[Coordinates]) -> Coordinates:
    """Join coordinates of the same micrograph, in their order, with the box size of the first.

    Parameters
    ----------
    parts : sequence of Coordinates
        May be empty.

    Returns
    -------
    Coordinates
    """
    none = Coordinates(np.empty((0, 2)), np.empty(0), parts[0].box_px if parts else None)
    return Coordinates(np.concatenate([part.centres_xy for part in (none, *parts)]),
                       np.concatenate([part.scores for part in (none, *parts)]), none.box_px)


def scaled(found: Mapping[str, Coordinates], factor: float) -> dict[str, Coordinates]:
    """Convert coordinates of binned micrographs to those of the micrographs before binning.

    Parameters
    ----------
    found : mapping of str to Coordinates
        Coordinates by name of the micrograph.
    factor : float
        Factor of the binning, above 0.

    Returns
    -------
    dict of str to Coordinates
        Binned pixel j covers pixels from factor j to factor (j + 1), so that x becomes factor (x + 1/2) - 1/2.
    """
    return {name: replace(each, centres_xy=factor * (each.centres_xy + 0.5) - 0.5,
                          box_px=None if each.box_px is None else factor * each.box_px)
            for name, each in found.items()}


def inside(centres: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Find the centres that are on a pixel of an image.

    Parameters
    ----------
    centres : (n, 2) array
        In pixels of the image.
    sides : sequence of int
        Number of pixels along each axis, in the order of the columns of `centres`.

    Returns
    -------
    (n,) bool array
    """
    found: np.ndarray = ((centres >= -0.5) & (centres < np.array(sides) - 0.5)).all(axis=1)
    return found
