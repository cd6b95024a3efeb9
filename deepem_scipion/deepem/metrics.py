# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""How good picks are: matching with the truth, precision, recall, F-beta, average precision, thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .coordinates import Coordinates
from .picking import thinned
from .regions import Region


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


@dataclass(frozen=True)
class Curve:
    """Precision and recall of the picks with at least a certain score.

    Attributes
    ----------
    thresholds : (m,) float64, the different scores, falling
    precision, recall : (m,) float64
    n_picks, n_right : (m,) int
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    n_picks: np.ndarray
    n_right: np.ndarray


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
    true_inside = _inside(truth_xy, region)
    counts = _inside(picks_xy, region)
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
        stays = thinned(picked.centres_xy, scores, min_distance_px)
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


def curve(matches: Matches) -> Curve:
    """Precision and recall at every threshold; picks of equal score enter together."""
    order = np.argsort(-matches.scores, kind="stable")
    thresholds = matches.scores[order]
    last_of_score = np.append(thresholds[1:] != thresholds[:-1], True)[:len(thresholds)]
    n_picks = np.flatnonzero(last_of_score) + 1
    n_right = np.cumsum(matches.correct[order])[last_of_score]
    recall = n_right / matches.n_truth if matches.n_truth else np.zeros(len(n_right))
    return Curve(thresholds[last_of_score], n_right / n_picks, recall, n_picks, n_right)


def f_beta(precision: np.ndarray | float, recall: np.ndarray | float, beta: float) -> np.ndarray:
    """Weighted harmonic mean (1 + b^2) P R / (b^2 P + R), 0 where both are 0; recall counts b times as much.

    Examples
    --------
    >>> round(float(f_beta(0.5, 1.0, 2)), 3)
    0.833
    """
    precision, recall, weight = np.asarray(precision), np.asarray(recall), beta * beta
    denominator = weight * precision + recall
    return np.asarray((1 + weight) * precision * recall / np.where(denominator > 0, denominator, 1))


def average_precision(steps: Curve) -> float:
    """Area under precision over recall, not interpolated; recall that no pick reaches adds nothing."""
    return float(np.sum(steps.precision * np.diff(steps.recall, prepend=0.0)))


def best_threshold(steps: Curve, beta: float) -> float:
    """Find the highest of the thresholds with the greatest F-beta; NaN where there is no pick."""
    return float(steps.thresholds[_best(steps, beta)]) if len(steps.thresholds) else math.nan


def steady_threshold(curve: Curve, beta: float, tolerance: float = 0.005) -> float:
    """Find a threshold to be used on other micrographs: the middle of the range around the best.

    The best threshold of some picks is a score of one of them. On other micrographs scores differ a little, and where
    right and false picks lie far apart nearly any threshold between them is as good; the middle is safest.

    Parameters
    ----------
    curve : Curve
    beta : of F-beta (eq. 8 of the paper with 2)
    tolerance : F-beta in the range is at most this much below the best

    Returns
    -------
    The middle of the unbroken range of thresholds around the best; NaN where there is no pick.
    """
    if not len(curve.thresholds):
        return math.nan
    best = _best(curve, beta)
    poor = np.flatnonzero(f_beta(curve.precision, curve.recall, beta) < _at(curve, best, beta) - tolerance)
    highest = curve.thresholds[max(poor[poor < best], default=-1) + 1]
    lowest = curve.thresholds[min(poor[poor > best])] if (poor > best).any() else 0.0
    return float((highest + lowest) / 2)


def evaluate(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates], distance_px: float,
             region: Region | Mapping[str, Region] | None = None, threshold: float | str | None = None,
             min_distance_px: float = 0.0) -> dict[str, Any]:
    """Score the picks of many micrographs.

    Parameters
    ----------
    truth, picks : name of the micrograph -> coordinates; one of the truth lacking in the picks has no pick,
        one of the picks lacking in the truth is left out
    distance_px : as for `match`
    region : as for `match`, or by name of the micrograph: one without region counts as a whole
    threshold : plain figures for picks with at least this score, or with that of the best "F1" or "F2" over all;
        default: for all
    min_distance_px : picks nearer than this to one with a higher score do not count, see `picking.thinned`

    Returns
    -------
    {"overall": figures, "micrographs": {name: figures}, "threshold": least score,
    "curve": {"threshold", "precision", "recall"}}, ready for JSON. Figures: truth, picks, right, precision, recall,
    F1, F2, error_px (mean over right picks) at the threshold; AP, best_F1 and best_F2 ({F1 or F2, precision, recall,
    threshold}) over all thresholds. None: undefined.
    """
    return summarise(match_all(truth, picks, distance_px, region, min_distance_px), threshold)


def summarise(matched: Mapping[str, Matches], threshold: float | str | None = None) -> dict[str, Any]:
    """Figures of matched micrographs; parameter and result as for `evaluate`."""
    pooled = pool(list(matched.values()))
    overall = curve(pooled)
    if isinstance(threshold, str):
        threshold = _best_figures(overall, {"F1": 1, "F2": 2}[threshold])["threshold"]
    return {"overall": _figures(pooled, threshold),
            "micrographs": {name: _figures(part, threshold) for name, part in matched.items()},
            "threshold": threshold,
            "curve": {"threshold": overall.thresholds.tolist(), "precision": overall.precision.tolist(),
                      "recall": overall.recall.tolist()}}


def _figures(matches: Matches, threshold: float | None) -> dict[str, Any]:
    kept = matches.scores >= (-math.inf if threshold is None else threshold)
    right = kept & matches.correct
    n_picks, n_right = int(kept.sum()), int(right.sum())
    precision = n_right / n_picks if n_picks else 0.0
    recall = n_right / matches.n_truth if matches.n_truth else 0.0
    steps = curve(matches)
    return {"truth": matches.n_truth, "picks": n_picks, "right": n_right,
            "precision": precision, "recall": recall,
            "F1": float(f_beta(precision, recall, 1)), "F2": float(f_beta(precision, recall, 2)),
            "AP": average_precision(steps),
            "error_px": float(matches.errors_px[right].mean()) if n_right else None,
            "best_F1": _best_figures(steps, 1), "best_F2": _best_figures(steps, 2)}


def _at(steps: Curve, at: int, beta: float) -> float:
    return float(f_beta(steps.precision[at], steps.recall[at], beta))


def _best(steps: Curve, beta: float) -> int:
    return int(np.argmax(f_beta(steps.precision, steps.recall, beta)))


def _best_figures(steps: Curve, beta: int) -> dict[str, float | None]:
    if not len(steps.thresholds):
        return {f"F{beta}": 0.0, "precision": 0.0, "recall": 0.0, "threshold": None}
    at = _best(steps, beta)
    precision, recall = float(steps.precision[at]), float(steps.recall[at])
    return {f"F{beta}": float(f_beta(precision, recall, beta)), "precision": precision, "recall": recall,
            "threshold": float(steps.thresholds[at])}


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


def _inside(points_xy: np.ndarray, region: Region | None) -> np.ndarray:
    if region is None:
        return np.ones(len(points_xy), dtype=bool)
    x, y = points_xy.T
    x0, y0, x1, y1 = region
    inside: np.ndarray = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return inside
