# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Non-maximum suppression: of points closer than a minimum distance only the best is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def non_maximum_suppression(centres_xy: np.ndarray, scores: np.ndarray, min_distance_px: float) -> np.ndarray:
    """Say which of some points stay where no two may be nearer to each other than a least distance.

    Parameters
    ----------
    centres_xy : (n, 2)
    scores : (n,)
    min_distance_px : 0 keeps all

    Returns
    -------
    (n,) bool. The point with the highest score stays and those nearer to it are left out, and so on; points of equal
    score are taken by y, then x.
    """
    near = neighbours(centres_xy, scores, min_distance_px)
    return near.keep(np.ones(len(scores), dtype=bool), min_distance_px)


@dataclass(frozen=True)
class Neighbours:
    """Pairs of points that are near each other.

    Attributes
    ----------
    better, worse : (pairs,) int
        Index of the point that comes first, by falling score, then y, then x, and of the other one.
    distances : (pairs,) float64
    """

    better: np.ndarray
    worse: np.ndarray
    distances: np.ndarray

    def keep(self, left: np.ndarray, min_distance: float) -> np.ndarray:
        """Say which of the points that are left, (n,) bool, stay as in `non_maximum_suppression`, (n,) bool.

        The least distance is at most the one within which pairs were looked for.
        """
        stays = left.copy()
        pairs = (self.distances < min_distance) & left[self.better] & left[self.worse]
        better, worse = self.better[pairs], self.worse[pairs]
        while len(better):  # each time at least those go that are near the best of the undecided
            undecided = _marked(worse, len(left))
            gone = _marked(worse[~undecided[better]], len(left))
            stays &= ~gone
            pairs = ~(gone[better] | gone[worse])
            better, worse = better[pairs], worse[pairs]
        return stays


def neighbours(centres_xy: np.ndarray, scores: np.ndarray, distance: float) -> Neighbours:
    """Find all pairs of points, (n, 2) with (n,) scores, that are nearer to each other than a distance."""
    from scipy.spatial import cKDTree

    pairs, order = np.empty((0, 2), dtype=int), np.arange(len(scores))
    if len(scores) and distance > 0:
        order = np.lexsort((centres_xy[:, 0], centres_xy[:, 1], -scores))
        pairs = cKDTree(centres_xy[order]).query_pairs(distance, output_type="ndarray")
    better, worse = order[pairs.T]
    return Neighbours(better, worse, np.hypot(*(centres_xy[better] - centres_xy[worse]).T))


def _marked(indices: np.ndarray, n: int) -> np.ndarray:
    marked = np.zeros(n, dtype=bool)
    marked[indices] = True
    return marked
