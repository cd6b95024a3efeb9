# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""One-to-one matching of picks with reference coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.regions import Region
from ..coordinates.suppression import non_maximum_suppression


@dataclass(frozen=True)
class Matches:
    """The picks that count, and whether each is correct.

    Attributes
    ----------
    scores : (n,) float64 array
        Scores of the picks.
    correct : (n,) bool array
        Whether the pick is matched with a particle (true positive).
    errors_px : (n,) float64 array
        Distance to that particle in pixels; NaN if there is none.
    n_truth : int
        Number of reference particles that count.
    """

    scores: np.ndarray
    correct: np.ndarray
    errors_px: np.ndarray
    n_truth: int


def match(picks_xy: np.ndarray, scores: np.ndarray, truth_xy: np.ndarray, distance_px: float,
          region: Region | None = None) -> Matches:
    """Match the picks of one micrograph with the reference particles, one to one.

    Parameters
    ----------
    picks_xy : (n, 2) array
        Centres of the picks as x, y in pixels.
    scores : (n,) array
        Scores, higher for more confident picks. NaN counts as 0.
    truth_xy : (m, 2) array
        Centres of the reference particles, in the same pixels.
    distance_px : float
        Maximum distance between a pick and its particle in pixels.
    region : Region, optional
        x0, y0, x1, y1 of the part x0 <= x < x1, y0 <= y < y1 that was annotated. Default: the whole micrograph.

    Returns
    -------
    Matches
        Picks that count: those whose particle lies in the region and, of those without a particle, those that lie in
        the region themselves.

    Notes
    -----
    Pairs within the distance are matched in descending order of score, closest first among equal scores, then in the
    order of picks and particles. The matching above a threshold is thus the beginning of the matching above a lower
    one, and a second pick on the same particle is a false positive.
    """
    picks_xy, truth_xy = _points(picks_xy), _points(truth_xy)
    scores = np.where(np.isnan(scores), 0.0, scores)
    partners, errors_px = _partners(picks_xy, scores, truth_xy, distance_px)
    truth_inside, counts = inside_region(truth_xy, region), inside_region(picks_xy, region)
    correct = partners >= 0
    counts[correct] = truth_inside[partners[correct]]
    return Matches(scores[counts], correct[counts], errors_px[counts], int(truth_inside.sum()))


def classify_picks(picks_xy: np.ndarray, scores: np.ndarray, truth_xy: np.ndarray, distance_px: float,
                   region: Region | None = None) -> dict[str, np.ndarray]:
    """Divide picks and reference particles into true positives, false positives and missed particles.

    Parameters
    ----------
    picks_xy, scores, truth_xy, distance_px, region
        As for `match`.

    Returns
    -------
    dict of str to (n, 2) array
        Centres of the picks that count by "true positives" and "false positives", and of the reference particles that
        no pick found by "missed".

    Examples
    --------
    >>> found = classify_picks(np.array([[1, 0], [9, 9]]), np.ones(2), np.array([[0, 0], [5, 5]]), 2)
    >>> {name: points.tolist() for name, points in found.items()}
    {'true positives': [[1.0, 0.0]], 'false positives': [[9.0, 9.0]], 'missed': [[5.0, 5.0]]}
    """
    picks_xy, truth_xy = _points(picks_xy), _points(truth_xy)
    partners, _ = _partners(picks_xy, np.where(np.isnan(scores), 0.0, scores), truth_xy, distance_px)
    truth_inside, picks_inside = inside_region(truth_xy, region), inside_region(picks_xy, region)
    correct, found = partners >= 0, np.zeros(len(truth_xy), dtype=bool)
    found[partners[correct]] = True
    counts = correct.copy()
    counts[correct] = truth_inside[partners[correct]]
    return {"true positives": picks_xy[counts], "false positives": picks_xy[~correct & picks_inside],
            "missed": truth_xy[~found & truth_inside]}


def match_all(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates], distance_px: float,
              region: Region | Mapping[str, Region] | None = None, min_distance_px: float = 0.0) -> dict[str, Matches]:
    """Match the picks of every micrograph that has reference coordinates.

    Parameters
    ----------
    truth, picks, distance_px, region, min_distance_px
        As for `evaluate`.

    Returns
    -------
    dict of str to Matches
        Matches by name of the micrograph, in alphabetical order.
    """
    no_picks = Coordinates(np.zeros((0, 2)), np.zeros(0), None)
    matched = {}
    for name in sorted(truth):
        picked = picks.get(name, no_picks)
        scores = np.where(np.isnan(picked.scores), 0.0, picked.scores)
        kept = non_maximum_suppression(picked.centres_xy, scores, min_distance_px)
        matched[name] = match(picked.centres_xy[kept], scores[kept], truth[name].centres_xy, distance_px,
                              region.get(name) if isinstance(region, Mapping) else region)
    return matched


def pool(matches: Sequence[Matches]) -> Matches:
    """Concatenate the matches of several micrographs, so that one threshold applies to all.

    Parameters
    ----------
    matches : sequence of Matches
        May be empty.

    Returns
    -------
    Matches
        All picks and the total number of reference particles.
    """
    nothing = Matches(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0), 0)
    parts = [nothing, *matches]
    return Matches(np.concatenate([part.scores for part in parts]),
                   np.concatenate([part.correct for part in parts]),
                   np.concatenate([part.errors_px for part in parts]),
                   sum(part.n_truth for part in parts))


def inside_region(points_xy: np.ndarray, region: Region | None) -> np.ndarray:
    """Select the points inside a region.

    Parameters
    ----------
    points_xy : (n, 2) array
        Points as x, y.
    region : Region or None
        x0, y0, x1, y1 of the part x0 <= x < x1, y0 <= y < y1; None is the whole micrograph.

    Returns
    -------
    (n,) bool array
        True for the points inside.
    """
    if region is None:
        return np.ones(len(points_xy), dtype=bool)
    x, y = points_xy.T
    x0, y0, x1, y1 = region
    inside: np.ndarray = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return inside


def _points(points_xy: np.ndarray) -> np.ndarray:
    return np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)


def _partners(picks_xy: np.ndarray, scores: np.ndarray, truth_xy: np.ndarray,
              distance_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Index of each pick's particle, -1 for none, and the distance to it, NaN for none."""
    partners, errors_px = np.full(len(picks_xy), -1), np.full(len(picks_xy), np.nan)
    taken = np.zeros(len(truth_xy), dtype=bool)
    for pick, particle, error in _pairs(picks_xy, scores, truth_xy, distance_px):
        if partners[pick] < 0 and not taken[particle]:
            partners[pick], errors_px[pick], taken[particle] = particle, error, True
    return partners, errors_px


def _pairs(picks_xy: np.ndarray, scores: np.ndarray, truth_xy: np.ndarray,
           distance_px: float) -> list[tuple[int, int, float]]:
    """Pairs (pick, particle, distance) within the distance, in the order of matching."""
    from scipy.spatial import cKDTree

    if not len(picks_xy) or not len(truth_xy):
        return []
    near = cKDTree(truth_xy).query_ball_point(picks_xy, distance_px)
    pairs = [(-scores[pick], math.dist(picks_xy[pick], truth_xy[particle]), pick, particle)
             for pick, particles in enumerate(near) for particle in particles]
    return [(pick, particle, error) for _, error, pick, particle in sorted(pairs)]
