# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which candidates are picked, and for each of the others the reason why not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..coordinates.suppression import Neighbours, non_maximum_suppression
from .candidates import Candidates

# Least distance of two picks, in particle diameters: particles may overlap in projection, but not by more.
MIN_DISTANCE = 0.5
# Reasons, in the order in which they are looked for.
PICKED, BORDER, LOCAL_STD, THRESHOLD, DISTANCE = "picked", "border", "local_std", "threshold", "distance"
REASONS = (PICKED, BORDER, LOCAL_STD, THRESHOLD, DISTANCE)


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep to be a pick.

    Attributes
    ----------
    threshold : least score
    min_distance_px : least distance of two picks, in pixels of the input micrograph
    std_range : least and greatest deviation of the window's pixels; None for any
    border_px : least distance from the border of the image, in pixels of the input micrograph
    """

    threshold: float
    min_distance_px: float
    std_range: tuple[float, float] | None = None
    border_px: float = 0.0


def select(candidates: Candidates, limits: Limits, near: Neighbours | None = None) -> np.ndarray:
    """Say of each candidate whether it is picked or why it is not.

    Candidates too near the border, with a deviation out of range or below the threshold are left out first. Of the
    others the one with the highest score is picked and those nearer to it than the least distance are left out, and
    so on; candidates of equal score are taken by y, then x. So the order in which candidates come does not matter.

    Parameters
    ----------
    candidates : Candidates
    limits : Limits
    near : pairs of the candidates that are nearer than the least distance, and perhaps others, where they are known:
        so the same candidates are selected with other limits in a fraction of the time, also those of many
        micrographs one after the other

    Returns
    -------
    (n,) str
        One of `REASONS` for each.
    """
    reasons = np.full(len(candidates), PICKED, dtype="U9")
    reasons[candidates.scores < limits.threshold] = THRESHOLD
    if limits.std_range is not None:
        low, high = limits.std_range
        reasons[(candidates.local_stds < low) | (candidates.local_stds > high)] = LOCAL_STD
    reasons[candidates.border_px < limits.border_px] = BORDER
    left = reasons == PICKED
    if near is None:
        stays = non_maximum_suppression(candidates.centres_xy[left], candidates.scores[left], limits.min_distance_px)
    else:
        stays = near.keep(left, limits.min_distance_px)[left]
    reasons[np.flatnonzero(left)[~stays]] = DISTANCE
    return reasons
