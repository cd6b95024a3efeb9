# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures of papers that compare areas: overlap of boxes, and pixels of discs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.regions import Region
from ..coordinates.suppression import non_maximum_suppression
from .matching import inside_region

# Boxes that overlap by at least this intersection over union are the same particle.
MIN_IOU = 0.5


@dataclass(frozen=True)
class Counts:
    """What is common to picks and reference, as numbers of boxes or of pixels.

    Attributes
    ----------
    common, picked, truth : int
        In both, in the picks, and in the reference.
    """

    common: int
    picked: int
    truth: int

    def figures(self) -> dict[str, float | int]:
        """Return the counts, precision, recall, their harmonic mean (Dice, F1) and intersection over union."""
        return {"common": self.common, "picked": self.picked, "truth": self.truth,
                "precision": _ratio(self.common, self.picked), "recall": _ratio(self.common, self.truth),
                "dice": _ratio(2 * self.common, self.picked + self.truth),
                "iou": _ratio(self.common, self.picked + self.truth - self.common)}


def chosen_picks(picks: Mapping[str, Coordinates], threshold: float | None,
                 min_distance_px: float = 0.0) -> dict[str, Coordinates]:
    """Return the picks with at least a threshold, after non-maximum suppression.

    Parameters
    ----------
    picks : mapping of str to Coordinates
        By name of the micrograph. A score of NaN counts as 0.
    threshold : float or None
        Minimum score; None for all.
    min_distance_px : float
        Minimum distance of two picks in pixels.

    Returns
    -------
    dict of str to Coordinates
    """
    found = {}
    for name, each in picks.items():
        scores = np.where(np.isnan(each.scores), 0.0, each.scores)
        kept = non_maximum_suppression(each.centres_xy, scores, min_distance_px)
        kept &= scores >= (-np.inf if threshold is None else threshold)
        found[name] = Coordinates(each.centres_xy[kept], scores[kept], each.box_px)
    return found


def box_counts(truth_xy: np.ndarray, picks_xy: np.ndarray, scores: np.ndarray, box_px: float,
               region: Region | None = None, min_iou: float = MIN_IOU) -> Counts:
    """Match square boxes of one size by their overlap.

    Parameters
    ----------
    truth_xy, picks_xy : (m, 2), (n, 2) array
        Centres as x, y in pixels.
    scores : (n,) array
        Scores of the picks.
    box_px : float
        Side of all boxes in pixels.
    region : Region, optional
        Annotated part of the micrograph, as for `match`.
    min_iou : float
        Minimum intersection over union of the boxes of a pair.

    Returns
    -------
    Counts
        Numbers of pairs, picks and particles. In descending order of score each pick is paired with the particle, not
        yet taken, whose box overlaps most with its own.
    """
    from scipy.spatial import cKDTree

    inside, counted = inside_region(truth_xy, region), inside_region(picks_xy, region)
    if not len(truth_xy) or not len(picks_xy):
        return Counts(0, int(counted.sum()), int(inside.sum()))
    taken = np.zeros(len(truth_xy), bool)
    pairs, tree = 0, cKDTree(truth_xy)
    for pick in np.argsort(-scores, kind="stable"):
        near = np.array([one for one in tree.query_ball_point(picks_xy[pick], box_px, p=np.inf) if not taken[one]], int)
        overlaps = box_iou(truth_xy[near], picks_xy[pick], box_px)
        if len(near) and overlaps.max() >= min_iou:
            partner = near[int(np.argmax(overlaps))]
            taken[partner] = True
            counted[pick] = inside[partner]
            pairs += int(inside[partner])
    return Counts(pairs, int(counted.sum()), int(inside.sum()))


def box_iou(first_xy: np.ndarray, second_xy: np.ndarray, box_px: float) -> np.ndarray:
    """Compute the intersection over union of square boxes of one size.

    Parameters
    ----------
    first_xy, second_xy : (..., 2) array
        Centres.
    box_px : float
        Side of the boxes.

    Returns
    -------
    (...) array

    Examples
    --------
    >>> box_iou(np.array([[0, 0], [5, 0]]), np.array([0, 0]), 10).round(3).tolist()
    [1.0, 0.333]
    """
    common = np.prod(np.clip(box_px - np.abs(np.subtract(first_xy, second_xy)), 0, None), axis=-1)
    overlaps: np.ndarray = common / (2 * box_px**2 - common)
    return overlaps


def disc_counts(truth_xy: np.ndarray, picks_xy: np.ndarray, diameter_px: float, region: Region | None = None,
                shape: tuple[int, int] | None = None) -> Counts:
    """Count the pixels of discs around particles and picks.

    Parameters
    ----------
    truth_xy, picks_xy : (m, 2), (n, 2) array
        Centres as x, y in pixels.
    diameter_px : float
        Diameter of all discs. A pixel belongs to a disc if its centre does; overlapping discs count once.
    region : Region, optional
        Only pixels of this part count, as for `match`.
    shape : tuple of int, optional
        Rows and columns of the micrograph; pixels outside do not count. Default: all count.

    Returns
    -------
    Counts
    """
    everything = np.concatenate([truth_xy, picks_xy])
    if not len(everything):
        return Counts(0, 0, 0)
    radius = diameter_px / 2
    x0, y0 = np.floor(everything.min(axis=0) - radius)
    x1, y1 = np.ceil(everything.max(axis=0) + radius) + 1
    if shape is not None:
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, shape[1]), min(y1, shape[0])
    if region is not None:
        x0, y0 = max(x0, math.ceil(region[0])), max(y0, math.ceil(region[1]))
        x1, y1 = min(x1, math.ceil(region[2])), min(y1, math.ceil(region[3]))
    if x1 <= x0 or y1 <= y0:
        return Counts(0, 0, 0)
    origin, size = np.array([x0, y0]), (int(y1 - y0), int(x1 - x0))
    truth, picked = (_discs(points - origin, radius, size) for points in (truth_xy, picks_xy))
    return Counts(int((truth & picked).sum()), int(picked.sum()), int(truth.sum()))


def _discs(points_xy: np.ndarray, radius: float, shape: tuple[int, int]) -> np.ndarray:
    image = np.zeros(shape, bool)
    for x, y in points_xy:
        top, left = (max(0, math.ceil(centre - radius)) for centre in (y, x))
        part = image[top:max(top, math.floor(y + radius) + 1), left:max(left, math.floor(x + radius) + 1)]
        rows, columns = (np.arange(size) + first for size, first in zip(part.shape, (top - y, left - x)))
        part |= rows[:, None]**2 + columns**2 <= radius**2
    return image


def summarise_counts(counts: Mapping[str, Counts]) -> dict[str, Any]:
    """Summarise the counts of several micrographs.

    Parameters
    ----------
    counts : mapping of str to Counts
        By name of the micrograph.

    Returns
    -------
    dict
        "micrographs": the figures of each; "pooled": those of all counts together; "mean": the means over micrographs.
    """
    each = {name: found.figures() for name, found in counts.items()}
    pooled = Counts(*(sum(getattr(found, name) for found in counts.values()) for name in ("common", "picked", "truth")))
    measures = ("precision", "recall", "dice", "iou")
    mean = {name: float(np.mean([found[name] for found in each.values()])) if each else 0.0 for name in measures}
    return {"micrographs": each, "pooled": pooled.figures(), "mean": mean}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
