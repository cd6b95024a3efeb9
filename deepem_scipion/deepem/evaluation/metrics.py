# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Precision, recall, F-beta, average precision, thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.regions import Region
from .matching import Matches, match_all, pool


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
    n_true_positives: np.ndarray


def curve(matches: Matches) -> Curve:
    """Precision and recall at every threshold; picks of equal score enter together."""
    order = np.argsort(-matches.scores, kind="stable")
    thresholds = matches.scores[order]
    last_of_score = np.append(thresholds[1:] != thresholds[:-1], True)[:len(thresholds)]
    n_picks = np.flatnonzero(last_of_score) + 1
    n_true_positives = np.cumsum(matches.correct[order])[last_of_score]
    recall = n_true_positives / matches.n_truth if matches.n_truth else np.zeros(len(n_true_positives))
    return Curve(thresholds[last_of_score], n_true_positives / n_picks, recall, n_picks, n_true_positives)


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
    min_distance_px : picks nearer than this to one with a higher score do not count, see `picking.non_maximum_suppression`

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
    n_picks, n_true_positives = int(kept.sum()), int(right.sum())
    precision = n_true_positives / n_picks if n_picks else 0.0
    recall = n_true_positives / matches.n_truth if matches.n_truth else 0.0
    steps = curve(matches)
    return {"truth": matches.n_truth, "picks": n_picks, "right": n_true_positives,
            "precision": precision, "recall": recall,
            "F1": float(f_beta(precision, recall, 1)), "F2": float(f_beta(precision, recall, 2)),
            "AP": average_precision(steps),
            "error_px": float(matches.errors_px[right].mean()) if n_true_positives else None,
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
