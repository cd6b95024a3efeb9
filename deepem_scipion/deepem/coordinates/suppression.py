# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Non-maximum suppression: of points closer than a minimum distance only the best is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def non_maximum_suppression(centres_xy: np.ndarray, scores: np.ndarray, min_distance_px: float) -> np.ndarray:
    """Keep the best of all points that are closer to each other than a minimum distance.

    Parameters
    ----------
    centres_xy : (n, 2) array
        Points as x, y in pixels.
    scores : (n,) array
        Scores, not NaN.
    min_distance_px : float
        Minimum distance in pixels; 0 keeps all points.

    Returns
    -------
    (n,) bool array
        True for the points that are kept.

    Notes
    -----
    Points are taken in descending order of score, points of equal score in the order of y, then x. Each point that is
    kept removes all that are closer to it than the minimum distance.

    Examples
    --------
    >>> non_maximum_suppression(np.array([[0, 0], [3, 0], [6, 0]]), np.array([0.9, 0.8, 0.7]), 5).tolist()
    [True, False, True]
    """
    near = neighbours(centres_xy, scores, min_distance_px)
    return near.keep(np.ones(len(scores), dtype=bool), min_distance_px)


@dataclass(frozen=True)
class Neighbours:
    """Pairs of points that are close to each other.

    Attributes
    ----------
    better, worse : (pairs,) int array
        Index of the point that comes first, in descending order of score, then by y, then x, and index of the other.
    distances : (pairs,) float64 array
        Distance of the two points in pixels.
    """

    better: np.ndarray
    worse: np.ndarray
    distances: np.ndarray

    def keep(self, eligible: np.ndarray, min_distance_px: float) -> np.ndarray:
        """Keep the best of the eligible points that are closer to each other than a minimum distance.

        Parameters
        ----------
        eligible : (n,) bool array
            Points that take part; the others are never kept and remove none.
        min_distance_px : float
            Minimum distance in pixels, at most that for which the pairs were found.

        Returns
        -------
        (n,) bool array
            True for the points that are kept, as by `non_maximum_suppression`.
        """
        kept = eligible.copy()
        near = np.flatnonzero(self.distances < min_distance_px)
        better, worse = self.better[near], self.worse[near]
        near = np.flatnonzero(eligible[better] & eligible[worse])
        better, worse = better[near], worse[near]
        while len(better):  # each pass removes at least the points close to the best of the undecided
            undecided = _mask(worse, len(eligible))
            removed = _mask(worse[~undecided[better]], len(eligible))
            kept &= ~removed
            near = np.flatnonzero(~(removed[better] | removed[worse]))
            better, worse = better[near], worse[near]
        return kept


def neighbours(centres_xy: np.ndarray, scores: np.ndarray, max_distance_px: float) -> Neighbours:
    """Find all pairs of points that are close to each other.

    Parameters
    ----------
    centres_xy : (n, 2) array
        Points as x, y in pixels.
    scores : (n,) array
        Scores, not NaN.
    max_distance_px : float
        Maximum distance of a pair in pixels; 0 finds none.

    Returns
    -------
    Neighbours
        The pairs, in no particular order.
    """
    from scipy.spatial import cKDTree

    pairs, order = np.empty((0, 2), dtype=int), np.arange(len(scores))
    if len(scores) and max_distance_px > 0:
        order = np.lexsort((centres_xy[:, 0], centres_xy[:, 1], -scores))
        pairs = cKDTree(centres_xy[order]).query_pairs(max_distance_px, output_type="ndarray")
    better, worse = order[pairs.T]
    return Neighbours(better, worse, np.hypot(*(centres_xy[better] - centres_xy[worse]).T))


def _mask(indices: np.ndarray, n: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[indices] = True
    return mask
