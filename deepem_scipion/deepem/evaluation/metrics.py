# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Precision, recall, F-beta, average precision, and the choice of thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.regions import Region
from .matching import Matches, match_all, pool


@dataclass(frozen=True)
class Curve:
    """Precision and recall of the picks at each threshold.

    Attributes
    ----------
    thresholds : (m,) float64 array
        The distinct scores in descending order.
    precision, recall : (m,) float64 array
        Of the picks whose score is at least the threshold.
    n_picks, n_true_positives : (m,) int array
        Numbers of these picks and of the correct ones; 0 for a curve from a model's card.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    n_picks: np.ndarray
    n_true_positives: np.ndarray


def curve(matches: Matches) -> Curve:
    """Compute precision and recall at every threshold; picks of equal score enter together.

    Parameters
    ----------
    matches : Matches
        Picks of one micrograph, or of several (see `pool`).

    Returns
    -------
    Curve
        One point per distinct score.
    """
    order = np.argsort(-matches.scores, kind="stable")
    thresholds = matches.scores[order]
    last_of_score = np.append(thresholds[1:] != thresholds[:-1], True)[:len(thresholds)]
    n_picks = np.flatnonzero(last_of_score) + 1
    n_true_positives = np.cumsum(matches.correct[order])[last_of_score]
    recall = n_true_positives / matches.n_truth if matches.n_truth else np.zeros(len(n_true_positives))
    return Curve(thresholds[last_of_score], n_true_positives / n_picks, recall, n_picks, n_true_positives)


def curve_from_points(points: Mapping[str, Sequence[float]] | None) -> Curve:
    """Rebuild a curve from the points in a model's card or in the result of `evaluate`.

    Parameters
    ----------
    points : mapping of str to sequence of float, or None
        Values by "threshold", "precision" and "recall".

    Returns
    -------
    Curve
        With numbers of picks of 0; empty if there are no points.
    """
    points = points or dict.fromkeys(("threshold", "precision", "recall"), ())
    thresholds, precision, recall = (np.array(points[name], float) for name in ("threshold", "precision", "recall"))
    unknown = np.zeros(len(thresholds), int)
    return Curve(thresholds, precision, recall, unknown, unknown)


def f_beta(precision: np.ndarray | float, recall: np.ndarray | float, beta: float) -> np.ndarray:
    """Compute the weighted harmonic mean of precision and recall, (1 + b^2) P R / (b^2 P + R).

    Parameters
    ----------
    precision, recall : array or float
        From 0 to 1.
    beta : float
        Weight b of recall: it counts b times as much as precision.

    Returns
    -------
    array
        F-beta, 0 where precision and recall are both 0.

    Examples
    --------
    >>> round(float(f_beta(0.5, 1.0, 2)), 3)
    0.833
    """
    precision, recall, weight = np.asarray(precision), np.asarray(recall), beta * beta
    denominator = weight * precision + recall
    return np.asarray((1 + weight) * precision * recall / np.where(denominator > 0, denominator, 1))


def average_precision(steps: Curve) -> float:
    """Compute the area under precision over recall, without interpolation.

    Parameters
    ----------
    steps : Curve
        May be empty.

    Returns
    -------
    float
        From 0 to 1. Recall that no pick reaches adds nothing.
    """
    return float(np.sum(steps.precision * np.diff(steps.recall, prepend=0.0)))


def best_threshold(steps: Curve, beta: float) -> float:
    """Find the threshold with the highest F-beta, the highest one if there are several.

    Parameters
    ----------
    steps : Curve
        May be empty.
    beta : float
        Weight of recall, see `f_beta`.

    Returns
    -------
    float
        One of the thresholds of the curve; NaN if it is empty.
    """
    return float(steps.thresholds[_best(steps, beta)]) if len(steps.thresholds) else math.nan


def steady_threshold(steps: Curve, beta: float, tolerance: float = 0.005) -> float:
    """Find a threshold for other micrographs: the middle of the range of good thresholds around the best.

    Parameters
    ----------
    steps : Curve
        May be empty.
    beta : float
        Weight of recall, see `f_beta` (2 for eq. 8 of the paper).
    tolerance : float
        F-beta within the range is at most this much below the best.

    Returns
    -------
    float
        Middle of the contiguous range of thresholds around the best; NaN if the curve is empty.

    Notes
    -----
    The best threshold for some picks is the score of one of them. On other micrographs scores differ a little, and if
    true and false positives are far apart, nearly any threshold between them is as good: the middle is the safest.
    """
    if not len(steps.thresholds):
        return math.nan
    best = _best(steps, beta)
    poor = np.flatnonzero(f_beta(steps.precision, steps.recall, beta) < _f_beta_at(steps, best, beta) - tolerance)
    highest = steps.thresholds[max(poor[poor < best], default=-1) + 1]
    lowest = steps.thresholds[min(poor[poor > best])] if (poor > best).any() else 0.0
    return float((highest + lowest) / 2)


def evaluate(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates], distance_px: float,
             region: Region | Mapping[str, Region] | None = None, threshold: float | str | None = None,
             min_distance_px: float = 0.0) -> dict[str, Any]:
    """Evaluate the picks of many micrographs against reference coordinates.

    Parameters
    ----------
    truth, picks : mapping of str to Coordinates
        Reference coordinates and picks by name of the micrograph. A micrograph without picks counts as having none;
        picks of a micrograph without reference coordinates are left out.
    distance_px : float
        Maximum distance between a pick and its particle in pixels, see `match`.
    region : Region or mapping of str to Region, optional
        Annotated part of all micrographs, see `match`, or parts by name. A micrograph without one counts as a whole.
    threshold : float or {"F1", "F2"}, optional
        Minimum score of the picks that are counted, or that with the highest F1 or F2 over all micrographs. Default:
        all picks are counted.
    min_distance_px : float
        Picks closer than this to one with a higher score are left out, see `non_maximum_suppression`.

    Returns
    -------
    dict
        Ready for JSON: "overall" has the figures of all micrographs together, "micrographs" those of each by name,
        "threshold" the minimum score or None, and "curve" the lists "threshold", "precision" and "recall" of all
        micrographs together. Figures at the threshold: "truth" (reference particles), "picks", "true_positives",
        "precision", "recall", "F1", "F2" and "error_px" (mean distance of true positives). Figures over all
        thresholds: "AP" (average precision), "best_F1" and "best_F2", dictionaries of "F1" or "F2", "precision",
        "recall" and "threshold". None: undefined.
    """
    return summarise(match_all(truth, picks, distance_px, region, min_distance_px), threshold)


def summarise(matched: Mapping[str, Matches], threshold: float | str | None = None) -> dict[str, Any]:
    """Compute the figures of matched micrographs.

    Parameters
    ----------
    matched : mapping of str to Matches
        Matches by name of the micrograph, see `match_all`.
    threshold : float or {"F1", "F2"}, optional
        As for `evaluate`.

    Returns
    -------
    dict
        As from `evaluate`.
    """
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
    counted = matches.scores >= (-math.inf if threshold is None else threshold)
    correct = counted & matches.correct
    n_picks, n_true_positives = int(counted.sum()), int(correct.sum())
    precision = n_true_positives / n_picks if n_picks else 0.0
    recall = n_true_positives / matches.n_truth if matches.n_truth else 0.0
    steps = curve(matches)
    return {"truth": matches.n_truth, "picks": n_picks, "true_positives": n_true_positives,
            "precision": precision, "recall": recall,
            "F1": float(f_beta(precision, recall, 1)), "F2": float(f_beta(precision, recall, 2)),
            "AP": average_precision(steps),
            "error_px": float(matches.errors_px[correct].mean()) if n_true_positives else None,
            "best_F1": _best_figures(steps, 1), "best_F2": _best_figures(steps, 2)}


def _f_beta_at(steps: Curve, index: int, beta: float) -> float:
    return float(f_beta(steps.precision[index], steps.recall[index], beta))


def _best(steps: Curve, beta: float) -> int:
    return int(np.argmax(f_beta(steps.precision, steps.recall, beta)))


def _best_figures(steps: Curve, beta: int) -> dict[str, float | None]:
    if not len(steps.thresholds):
        return {f"F{beta}": 0.0, "precision": 0.0, "recall": 0.0, "threshold": None}
    best = _best(steps, beta)
    precision, recall = float(steps.precision[best]), float(steps.recall[best])
    return {f"F{beta}": float(f_beta(precision, recall, beta)), "precision": precision, "recall": recall,
            "threshold": float(steps.thresholds[best])}
