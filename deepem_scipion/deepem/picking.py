# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a score map to picks: local maxima, and for each the reason why it is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DeepEMError
from .files import atomic_write
from .micrographs import LEAST_PADDING, Micrograph, padding_margins

# Maxima of the score map below this are not kept: they could never be picks.
SCORE_FLOOR = 0.01
# Deviations of windows are found in bands of so many rows.
DEVIATION_ROWS = 1024
# Least distance of two picks, in particle diameters: particles may overlap in projection, but not by more.
LEAST_DISTANCE = 0.5

# Reasons, in the order in which they are looked for.
PICKED, BORDER, DEVIATION, THRESHOLD, DISTANCE = "picked", "border", "deviation", "threshold", "distance"
REASONS = (PICKED, BORDER, DEVIATION, THRESHOLD, DISTANCE)
_COLUMNS = ("x", "y", "score", "deviation", "border_distance", "reason")


@dataclass(frozen=True)
class Candidates:
    """Local maxima of the score map of one micrograph.

    Attributes
    ----------
    centres_xy : (n, 2) float64
        Centres in pixels of the input micrograph.
    scores : (n,) float64
        Score at the maximum, 0 to 1.
    deviations : (n,) float64
        Standard deviation of the window's pixels, in units of the normalised micrograph.
    border_px : (n,) float64
        Distance of the centre from the nearest border of the image (padding does not count as image), in pixels of
        the input micrograph; negative within padding.
    """

    centres_xy: np.ndarray
    scores: np.ndarray
    deviations: np.ndarray
    border_px: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep to be a pick.

    Attributes
    ----------
    threshold : least score
    least_distance_px : least distance of two picks, in pixels of the input micrograph
    std_range : least and greatest deviation of the window's pixels; None for any
    border_px : least distance from the border of the image, in pixels of the input micrograph
    """

    threshold: float
    least_distance_px: float
    std_range: tuple[float, float] | None = None
    border_px: float = 0.0


def pad_width(box: int) -> int:
    """Pixels by which a micrograph is continued on each side, so that windows centred near its border exist."""
    return box // 2


def pad(pixels: np.ndarray, box: int) -> np.ndarray:
    """Continue an image by its mirror image, `pad_width` pixels on each side."""
    return np.pad(pixels, pad_width(box), mode="symmetric")


def find_candidates(micrograph: Micrograph, padded: np.ndarray, scores: np.ndarray, box: int, step: int) -> Candidates:
    """Local maxima of a score map, placed between the scan's steps.

    Parameters
    ----------
    micrograph : Micrograph
    padded : (rows + 2 p, cols + 2 p) float32
        Its pixels, continued by `pad`.
    scores : (n_rows, n_cols) float32
        Score map of `padded`.
    box, step : int
        In working pixels.

    Returns
    -------
    Candidates
        Maxima above `SCORE_FLOOR` that no neighbour exceeds, by falling score.

    Notes
    -----
    A parabola through the maximum and its two neighbours, along rows and along columns, gives the place to a
    fraction of the step. The rim of the map is left out: nobody knows whether its scores still rise beyond.
    """
    from scipy.ndimage import maximum_filter

    peaks = (scores == maximum_filter(scores, 3, mode="nearest")) & (scores > SCORE_FLOOR)
    at = np.argwhere(peaks[1:-1, 1:-1]) + 1
    corners_rc = (at + _offsets(scores, at)) * step
    centres_rc = corners_rc + (box - 1) / 2 - pad_width(box)
    values = scores[at[:, 0], at[:, 1]].astype(np.float64)
    deviations = window_deviations(padded, np.rint(corners_rc).astype(int), box)
    centres_xy = micrograph.to_input_xy(centres_rc)
    order = np.lexsort((centres_xy[:, 0], centres_xy[:, 1], -values))
    border_px = _border_distances(micrograph, centres_rc)
    return Candidates(centres_xy[order], values[order], deviations[order], border_px[order])


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
        reasons[(candidates.deviations < low) | (candidates.deviations > high)] = DEVIATION
    reasons[candidates.border_px < limits.border_px] = BORDER
    left = reasons == PICKED
    if near is None:
        stays = thinned(candidates.centres_xy[left], candidates.scores[left], limits.least_distance_px)
    else:
        stays = near.stay(left, limits.least_distance_px)[left]
    reasons[np.flatnonzero(left)[~stays]] = DISTANCE
    return reasons


def thinned(centres_xy: np.ndarray, scores: np.ndarray, least_distance_px: float) -> np.ndarray:
    """Say which of some points stay where no two may be nearer to each other than a least distance.

    Parameters
    ----------
    centres_xy : (n, 2)
    scores : (n,)
    least_distance_px : 0 keeps all

    Returns
    -------
    (n,) bool. The point with the highest score stays and those nearer to it are left out, and so on; points of equal
    score are taken by y, then x.
    """
    near = neighbours(centres_xy, scores, least_distance_px)
    return near.stay(np.ones(len(scores), dtype=bool), least_distance_px)


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

    def stay(self, left: np.ndarray, least_distance: float) -> np.ndarray:
        """Say which of the points that are left, (n,) bool, stay as in `thinned`, (n,) bool.

        The least distance is at most the one within which pairs were looked for.
        """
        stays = left.copy()
        pairs = (self.distances < least_distance) & left[self.better] & left[self.worse]
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


def window_deviations(pixels: np.ndarray, corners_rc: np.ndarray, box: int) -> np.ndarray:
    """Standard deviation of the pixels of each window, (n,) float64, from sums over the image.

    Parameters
    ----------
    pixels : (rows, cols) float32
    corners_rc : (n, 2) int
        First row and column of each window; moved into the image where it would leave it.
    box : int
    """
    corners = np.clip(corners_rc, 0, np.array(pixels.shape) - box)
    deviations = np.empty(len(corners))
    for first in range(0, pixels.shape[0], DEVIATION_ROWS):  # double sums of a whole large image would fill the memory
        here = np.flatnonzero((corners[:, 0] >= first) & (corners[:, 0] < first + DEVIATION_ROWS))
        if len(here):
            band = pixels[first:first + DEVIATION_ROWS + box]
            top, left = corners[here, 0] - first, corners[here, 1]
            means = _window_means(band, top, left, box)
            squares = _window_means(np.square(band, dtype=np.float64), top, left, box)
            deviations[here] = np.sqrt(np.maximum(squares - means**2, 0))
    return deviations


def _window_means(values: np.ndarray, top: np.ndarray, left: np.ndarray, box: int) -> np.ndarray:
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    np.cumsum(np.cumsum(values, axis=0, dtype=np.float64), axis=1, out=sums[1:, 1:])
    means: np.ndarray = (sums[top + box, left + box] - sums[top, left + box] - sums[top + box, left]
                         + sums[top, left]) / box**2
    return means


def write_candidates(path: str | Path, candidates: Candidates, reasons: Sequence[str] | np.ndarray) -> None:
    """Write all candidates with the reason of each: a table with tabs, x and y being centres in input pixels."""
    with atomic_write(path) as handle:
        handle.write("\t".join(_COLUMNS) + "\n")
        for (x, y), score, deviation, border, reason in zip(
                candidates.centres_xy, candidates.scores, candidates.deviations, candidates.border_px, reasons):
            handle.write(f"{x:.2f}\t{y:.2f}\t{score:.6g}\t{deviation:.5g}\t{border:.2f}\t{reason}\n")


def read_candidates(path: str | Path) -> tuple[Candidates, np.ndarray]:
    """Read what `write_candidates` wrote: the candidates and their reasons.

    Raises
    ------
    DeepEMError
        Where the file is not such a table.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines[1:]]
        numbers = np.array([[float(field) for field in row[:5]] for row in rows]).reshape(-1, 5)
        reasons = np.array([row[5] for row in rows], dtype="U9")
        if not np.isfinite(numbers).all():
            raise ValueError("a number is not finite")
    except (OSError, ValueError, IndexError) as error:
        raise DeepEMError(f"{path}: expected a table of candidates as written by `deepem pick` ({error})") from error
    if lines[:1] != ["\t".join(_COLUMNS)]:
        raise DeepEMError(f"{path}: expected the columns {', '.join(_COLUMNS)}; was it written by `deepem pick`?")
    return Candidates(numbers[:, :2], numbers[:, 2], numbers[:, 3], numbers[:, 4]), reasons


def _offsets(scores: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Where between the steps the maxima lie: (n, 2) row and column offsets of at most half a step."""
    bordered = np.pad(scores.astype(np.float64), 1, mode="edge")
    rows, cols = at.T + 1
    here = bordered[rows, cols]
    offsets = np.zeros(at.shape)
    for axis, (down, right) in enumerate(((1, 0), (0, 1))):
        before, after = bordered[rows - down, cols - right], bordered[rows + down, cols + right]
        bend = 2 * here - before - after
        np.divide(after - before, 2 * bend, out=offsets[:, axis], where=bend > 0)
    return np.clip(offsets, -0.5, 0.5)


def _border_distances(micrograph: Micrograph, centres_rc: np.ndarray) -> np.ndarray:
    """Distance of centres from the nearest border of the image proper, in input pixels."""
    rows, cols = micrograph.pixels.shape
    top, bottom, left, right = padding_margins(micrograph.pixels, LEAST_PADDING)
    r, c = centres_rc.T + 0.5
    distances: np.ndarray = np.minimum.reduce([r - top, rows - bottom - r, c - left, cols - right - c])
    return distances * micrograph.scale
