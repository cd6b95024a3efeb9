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
    """The picks that count, and what became of them.

    Attributes
    ----------
    scores : (n,) float64
    correct : (n,) bool, whether the pick has a particle of its own
    errors_px : (n,) float64, distance to that particle; NaN where there is none
    n_truth : number of true particles that count
    """

    scores: np.ndarray
    correct: np.ndarray
    errors_px: np.ndarray
    n_truth: int


def match(picks_xy: np.ndarray, scores: np.ndarray, truth_xy: np.ndarray, distance_px: float,
          region: Region | None = None) -> Matches:
    """Match the picks of one micrograph with its true particles, one to one.

    Parameters
    ----------
    picks_xy : (n, 2) centres
    scores : (n,) ; higher is surer, NaN counts as 0
    truth_xy : (m, 2) centres, in the same frame
    distance_px : greatest distance between a pick and its particle
    region : (x0, y0, x1, y1), the part x0 <= x < x1, y0 <= y < y1 that was annotated; default: everything

    Returns
    -------
    Matches; a pick counts if its particle lies in the region or, having none, if it lies there itself.

    Notes
    -----
    Pairs within the distance are taken by falling score, nearest first among equal scores, then in the order
    of picks and particles. The matching above a threshold is thus the beginning of the matching above a lower
    one, and a second pick on the same particle is a false one.
    """
    picks_xy = np.asarray(picks_xy, dtype=np.float64).reshape(-1, 2)
    truth_xy = np.asarray(truth_xy, dtype=np.float64).reshape(-1, 2)
    scores = np.where(np.isnan(scores), 0.0, scores)
    partner = np.full(len(picks_xy), -1)
    errors_px = np.full(len(picks_xy), np.nan)
    taken = np.zeros(len(truth_xy), dtype=bool)
    for pick, particle, error in _pairs(picks_xy, scores, truth_xy, distance_px):
        if partner[pick] < 0 and not taken[particle]:
            partner[pick], errors_px[pick], taken[particle] = particle, error, True
    correct = partner >= 0
    true_inside = inside_region(truth_xy, region)
    counts = inside_region(picks_xy, region)
    counts[correct] = true_inside[partner[correct]]
    return Matches(scores[counts], correct[counts], errors_px[counts], int(true_inside.sum()))


def match_all(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates], distance_px: float,
              region: Region | Mapping[str, Region] | None = None, min_distance_px: float = 0.0) -> dict[str, Matches]:
    """Match the picks of every micrograph of the truth, in the order of names; parameters as for `evaluate`."""
    nothing = Coordinates(np.zeros((0, 2)), np.zeros(0), None)
    matched = {}
    for name in sorted(truth):
        picked = picks.get(name, nothing)
        scores = np.where(np.isnan(picked.scores), 0.0, picked.scores)
        stays = non_maximum_suppression(picked.centres_xy, scores, min_distance_px)
        matched[name] = match(picked.centres_xy[stays], scores[stays], truth[name].centres_xy, distance_px,
                              region.get(name) if isinstance(region, Mapping) else region)
    return matched


def pool(matches: Sequence[Matches]) -> Matches:
    """Put the picks of several micrographs together, so that one threshold holds for all."""
    nothing = Matches(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0), 0)
    parts = [nothing, *matches]
    return Matches(np.concatenate([part.scores for part in parts]),
                   np.concatenate([part.correct for part in parts]),
                   np.concatenate([part.errors_px for part in parts]),
                   sum(part.n_truth for part in parts))


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


def inside_region(points_xy: np.ndarray, region: Region | None) -> np.ndarray:
    if region is None:
        return np.ones(len(points_xy), dtype=bool)
    x, y = points_xy.T
    x0, y0, x1, y1 = region
    inside: np.ndarray = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return inside
