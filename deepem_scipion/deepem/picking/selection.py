# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which candidates are picked, and for each of the others the reason why not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..coordinates.suppression import Neighbours, non_maximum_suppression
from ..errors import DeepEMError
from ..micrographs.normalisation import within
from ..model.model import Model
from .candidates import Candidates
from .paper import best_in_squares

# Default minimum distance of two picks, in particle diameters: particles may overlap in projection, but not by more.
MIN_DISTANCE = 0.5
# Where the mask has a larger value nothing is picked.
MAX_MASK = 0.5

# Reasons, in the order in which they are checked.
PICKED, BORDER, MASK, LOCAL_STD, THRESHOLD, DISTANCE, RANK = (
    "picked", "border", "mask", "local_std", "threshold", "distance", "rank")
REASONS = (PICKED, BORDER, MASK, LOCAL_STD, THRESHOLD, DISTANCE, RANK)
_NAMES, _CODE = np.array(REASONS), {reason: code for code, reason in enumerate(REASONS)}
# The wording of each reason in windows, summaries and reports.
REASON_LABELS = {
    PICKED: "picked",
    BORDER: "too close to the border",
    MASK: "in the mask",
    LOCAL_STD: "local standard deviation out of range",
    THRESHOLD: "below the threshold",
    DISTANCE: "too close to a better pick",
    RANK: "not among the best",
}


@dataclass(frozen=True)
class Limits:
    """What a candidate must satisfy to be picked.

    Attributes
    ----------
    threshold : float
        Minimum score.
    min_distance_angst : float
        Minimum distance of two picks, in angstrom.
    std_range : tuple of (float, float), optional
        Range of the local standard deviation, the standard deviation of the box's pixels; None accepts any.
    border_angst : float
        Minimum distance of a pick from the border of the image, in angstrom.
    max_mask : float
        Maximum value of the mask at a pick, from 0 to 1.
    keep_best : float
        Share of the picks of a micrograph that are kept, those with the highest scores, above 0 up to 1.
    at_least : int
        Number of picks of a micrograph that are kept whatever their share, if there are as many.
    ranges_angst : tuple of (float, float), optional
        Of the paper's procedure: half sides, in angstrom, of the squares of its two passes of suppression, which come
        before the minimum distance. A pick must then exceed the threshold and lie within the range of the local
        standard deviation, whose values are not part of it.

    Raises
    ------
    DeepEMError
        A distance or range is negative, the range of the local standard deviation is empty, or the value of the mask is
        not from 0 to 1.
    """

    threshold: float
    min_distance_angst: float
    std_range: tuple[float, float] | None = None
    border_angst: float = 0.0
    max_mask: float = MAX_MASK
    keep_best: float = 1.0
    at_least: int = 0
    ranges_angst: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, value in (("minimum distance", self.min_distance_angst), ("border", self.border_angst),
                            *(("range of suppression", value) for value in self.ranges_angst or ())):
            if not value >= 0:
                raise DeepEMError(f"{name} {value}: expected angstrom, 0 or more")
        if not 0 <= self.max_mask <= 1:
            raise DeepEMError(f"maximum value of the mask {self.max_mask}: expected a number from 0 to 1")
        if not 0 < self.keep_best <= 1 or self.at_least < 0:
            raise DeepEMError(f"share of picks {self.keep_best} and at least {self.at_least}: expected a share above "
                              "0, up to 1, and a number of picks")
        if self.std_range is not None and not self.std_range[0] <= self.std_range[1]:
            raise DeepEMError(f"local standard deviation from {self.std_range[0]:g} to {self.std_range[1]:g}: expected "
                              "the smaller value first")

    @classmethod
    def of_model(cls, model: Model) -> Limits:
        """Return the limits that a model suggests.

        Parameters
        ----------
        model : Model

        Returns
        -------
        Limits
            The model's threshold and range of the local standard deviation, and half a particle diameter as the
            minimum distance; or, for a model of the paper's procedure, the ranges of its two passes instead.
        """
        if model.ranges_px is not None:
            first, second = model.ranges_px
            scale = model.working_pixel_size_angst
            return cls(model.threshold, 0.0, model.std_range, ranges_angst=(first * scale, second * scale))
        return cls(model.threshold, MIN_DISTANCE * model.diameter_angst, model.std_range)

    def changed(self, given: Mapping[str, Any], model: Model | None = None) -> Limits:
        """Return these limits with others in place of some.

        Parameters
        ----------
        given : mapping of str to object
            Attributes of limits. The threshold may be a word for `Model.threshold_for`, the range of the local standard
            deviation "auto": that of the model.
        model : Model, optional
            Needed where words are given.

        Returns
        -------
        Limits

        Raises
        ------
        DeepEMError
            A threshold is not from 0 to 1, or see `Limits` and `Model.threshold_for`.
        """
        found = dict(given)
        if model is not None and isinstance(word := found.get("threshold"), str):
            found["threshold"] = model.threshold_for(word)
        if model is not None and found.get("std_range") == "auto":
            found["std_range"] = model.std_range
        if "threshold" in found and not 0 <= found["threshold"] <= 1:
            raise DeepEMError(f"--threshold {found['threshold']:g}: expected auto, F1, precision=P, or a number from 0 "
                              "to 1")
        return replace(self, **found)


def select(candidates: Candidates, limits: Limits, pixel_size_angst: float,
           near: Neighbours | None = None, parts: Sequence[slice] | None = None) -> np.ndarray:
    """Decide for each candidate whether it is picked or why it is not.

    Candidates that are too close to the border, lie in the mask, have a local standard deviation out of range or score
    below the threshold are rejected first. The rest undergo non-maximum suppression: the candidate with the highest
    score is picked, those closer to it than the minimum distance are rejected, and so on; candidates of equal score are
    taken in the order of y, then x. Of what is picked then, the best are kept. The result does not depend on the order
    of the candidates.

    Parameters
    ----------
    candidates : Candidates
    limits : Limits
    pixel_size_angst : float
        Pixel size of the input micrographs, in angstrom.
    near : Neighbours, optional
        Pairs of candidates that are closer than the minimum distance, and possibly others. With them other limits are
        tried in a fraction of the time, also on the candidates of many micrographs together.
    parts : sequence of slice, optional
        The candidates of each micrograph; default: all are of one.

    Returns
    -------
    (n,) str array
        One of `REASONS` for each candidate.
    """
    reasons: np.ndarray = _NAMES[select_codes(candidates, limits, pixel_size_angst, near, parts)]
    return reasons


def select_codes(candidates: Candidates, limits: Limits, pixel_size_angst: float,
                 near: Neighbours | None = None, parts: Sequence[slice] | None = None) -> np.ndarray:
    """Decide as `select`, with the same parameters; returns positions in `REASONS`, an (n,) int8 array."""
    by_paper = limits.ranges_angst is not None
    low_score = candidates.scores <= limits.threshold if by_paper else candidates.scores < limits.threshold
    codes = np.zeros(len(low_score), dtype=np.int8)
    np.putmask(codes, low_score, _CODE[THRESHOLD])
    if limits.std_range is not None:
        low, high = limits.std_range
        outside = (candidates.local_stds < low) | (candidates.local_stds > high)
        np.putmask(codes, ~within(candidates.local_stds, limits.std_range) if by_paper else outside, _CODE[LOCAL_STD])
    np.putmask(codes, candidates.masked > limits.max_mask, _CODE[MASK])
    np.putmask(codes, candidates.border_px < limits.border_angst / pixel_size_angst, _CODE[BORDER])
    if limits.ranges_angst is not None:
        ranges_px = (limits.ranges_angst[0] / pixel_size_angst, limits.ranges_angst[1] / pixel_size_angst)
        for part in parts or [slice(None)]:
            above = np.flatnonzero(codes[part] == 0) + (part.start or 0)
            left = best_in_squares(candidates.centres_xy[above], candidates.scores[above], ranges_px)
            codes[above[~left]] = _CODE[DISTANCE]
    remaining = codes == 0
    min_distance_px = limits.min_distance_angst / pixel_size_angst
    if near is None:
        kept = non_maximum_suppression(candidates.centres_xy[remaining], candidates.scores[remaining], min_distance_px)
        codes[np.flatnonzero(remaining)[~kept]] = _CODE[DISTANCE]
    else:
        np.putmask(codes, remaining & ~near.keep(remaining, min_distance_px), _CODE[DISTANCE])
    if limits.keep_best < 1:
        for part in parts or [slice(None)]:
            picked = np.flatnonzero(codes[part] == 0) + (part.start or 0)
            n_kept = max(math.ceil(limits.keep_best * len(picked)), limits.at_least)
            y, x = candidates.centres_xy[picked].T[::-1]
            codes[picked[np.lexsort((x, y, -candidates.scores[picked]))[n_kept:]]] = _CODE[RANK]
    return codes
