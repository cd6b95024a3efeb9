# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Candidates: the local maxima of a score map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..atomic import atomic_write
from ..coordinates.suppression import non_maximum_suppression
from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph
from ..micrographs.padding import MIN_PADDING, padding_margins

# Maxima of the score map below this score are not kept. Those of particles in strong noise are often below 0.01.
SCORE_FLOOR = 0.001
# Up to these shares of the box, a quarter and a third of a diameter, a step is fine enough for a parabola through three
# scores, and for neighbouring scores to belong to one particle ("Coarse scan steps" in docs/accuracy.md).
INTERPOLATED_STEP, COARSE_STEP = 1 / 6, 2 / 9
# In steps: neighbours along rows, columns and diagonals are closer than this.
_NEIGHBOURS = 1.5
# The local standard deviation is computed in bands of this many rows, and for this many boxes at a time.
STD_ROWS, STD_BOXES = 1024, 4096
_COLUMNS = ("x", "y", "score", "local_std", "border_distance", "mask", "reason")


@dataclass(frozen=True)
class Candidates:
    """Places in one micrograph that may be picked, see `find_candidates`.

    Attributes
    ----------
    centres_xy : (n, 2) float64 array
        Centres in pixels of the input micrograph.
    scores : (n,) float64 array
        Score at the place, from 0 to 1.
    local_stds : (n,) float64 array
        Standard deviation of the box's pixels, in units of the normalised micrograph.
    border_px : (n,) float64 array
        Distance of the centre from the closest border of the image (padding is not part of the image), in pixels of
        the input micrograph; negative within padding.
    masked : (n,) float64 array
        Value of the micrograph's mask at the centre, from 0 to 1; 0 without a mask.
    """

    centres_xy: np.ndarray
    scores: np.ndarray
    local_stds: np.ndarray
    border_px: np.ndarray
    masked: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.masked):
            object.__setattr__(self, "masked", np.zeros(len(self.scores)))

    def __len__(self) -> int:
        return len(self.scores)

    def subset(self, chosen: np.ndarray) -> Candidates:
        """Return some of the candidates, given an (n,) bool or an index array."""
        return Candidates(self.centres_xy[chosen], self.scores[chosen], self.local_stds[chosen],
                          self.border_px[chosen], self.masked[chosen])


def pad_width(box: int) -> int:
    """Return the width of the mirror padding, in pixels, that completes the boxes of particles at the border."""
    return box // 2


def pad(pixels: np.ndarray, box: int) -> np.ndarray:
    """Mirror-pad an image by `pad_width` pixels on each side."""
    return np.pad(pixels, pad_width(box), mode="symmetric")


def find_candidates(micrograph: Micrograph, padded: np.ndarray, scores: np.ndarray, box: int, step: int) -> Candidates:
    """Find the local maxima of a score map, at a finer resolution than the scan step.

    Parameters
    ----------
    micrograph : Micrograph
    padded : (rows + 2 p, cols + 2 p) float32 array
        Pixels of the micrograph after `pad`.
    scores : (n_rows, n_cols) float32 array
        Score map of `padded`.
    box, step : int
        Side of the box and scan step, in binned pixels.

    Returns
    -------
    Candidates
        Positions with a score above `SCORE_FLOOR` that no neighbour exceeds, in descending order of score. If the step
        is coarse (`COARSE_STEP`), only neighbours that are candidates themselves count.

    Notes
    -----
    Up to `INTERPOLATED_STEP` a parabola through the maximum and its two neighbours, along rows and along columns,
    gives the position to a fraction of the step. Centres are moved into the image.
    """
    at = _peaks(scores, step > COARSE_STEP * box)
    first_centre = (box - 1) / 2 - pad_width(box)
    between = _offsets(scores, at) if step <= INTERPOLATED_STEP * box else 0
    centres_rc = (at + between) * step + first_centre
    centres_rc = np.clip(centres_rc, 0, np.array(micrograph.pixels.shape) - 1)
    corners_rc = centres_rc - first_centre
    values = scores[at[:, 0], at[:, 1]].astype(np.float64)
    local_stds = local_std(padded, np.rint(corners_rc).astype(int), box)
    centres_xy = micrograph.to_input_xy(centres_rc)
    order = np.lexsort((centres_xy[:, 0], centres_xy[:, 1], -values))
    border_px = border_distances(micrograph, centres_rc)
    return Candidates(centres_xy[order], values[order], local_stds[order], border_px[order])


def _peaks(scores: np.ndarray, coarse: bool) -> np.ndarray:
    """Rows and columns, (n, 2), of the positions of a score map that are candidates."""
    high = scores > SCORE_FLOOR
    if not coarse:
        rows = np.pad(scores, 1, mode="edge")
        columns = np.maximum(np.maximum(rows[:-2], rows[2:]), rows[1:-1])
        return np.argwhere(high & (scores >= np.maximum(np.maximum(columns[:, :-2], columns[:, 2:]), columns[:, 1:-1])))
    at: np.ndarray = np.argwhere(high)
    best: np.ndarray = at[non_maximum_suppression(at[:, ::-1].astype(float), scores[high].astype(float), _NEIGHBOURS)]
    return best


def local_std(pixels: np.ndarray, corners_rc: np.ndarray, box: int) -> np.ndarray:
    """Compute the standard deviation of the pixels of each box from cumulative sums over the image.

    Parameters
    ----------
    pixels : (rows, cols) float32 array
    corners_rc : (n, 2) int array
        First row and column of each box; boxes that would leave the image are moved into it.
    box : int
        Side of the boxes.

    Returns
    -------
    (n,) float64 array
    """
    corners = np.clip(corners_rc, 0, np.array(pixels.shape) - box)
    local_stds = np.empty(len(corners))
    for first in range(0, pixels.shape[0], STD_ROWS):  # double sums of a whole large image would fill the memory
        here = np.flatnonzero((corners[:, 0] >= first) & (corners[:, 0] < first + STD_ROWS))
        if len(here):
            band = pixels[first:first + STD_ROWS + box]
            top, left = corners[here, 0] - first, corners[here, 1]
            means = _box_means(band, top, left, box)
            squares = _box_means(np.square(band, dtype=np.float64), top, left, box)
            local_stds[here] = np.sqrt(np.maximum(squares - means**2, 0))
    return local_stds


def write_candidates(path: str | Path, candidates: Candidates, reasons: Sequence[str] | np.ndarray) -> None:
    """Write candidates and reasons as a tab-separated table; x and y are centres in pixels of the input micrograph.

    Parameters
    ----------
    path : str or Path
    candidates : Candidates
    reasons : (n,) sequence of str
        See `selection.select`.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    with atomic_write(path) as handle:
        handle.write("\t".join(_COLUMNS) + "\n")
        rows = np.column_stack([candidates.centres_xy, candidates.scores, candidates.local_stds, candidates.border_px,
                                candidates.masked]).tolist()  # Python's numbers are formatted faster than NumPy's
        handle.writelines(f"{x:.2f}\t{y:.2f}\t{score:.6g}\t{std:.5g}\t{border:.2f}\t{masked:.3g}\t{reason}\n"
                          for (x, y, score, std, border, masked), reason in zip(rows, reasons))


def read_candidates(path: str | Path) -> tuple[Candidates, np.ndarray]:
    """Read a table of candidates.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    candidates : Candidates
    reasons : (n,) str array

    Raises
    ------
    DeepEMError
        The file is not such a table.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines[1:]]
        numbers = np.array([row[:6] for row in rows], np.float64).reshape(-1, 6)
        reasons = np.array([row[6] for row in rows], dtype="U9")
        if not np.isfinite(numbers).all():
            raise ValueError("a number is not finite")
    except (OSError, ValueError, IndexError) as error:
        raise DeepEMError(f"{path}: expected a table of candidates as written by `deepem pick` ({error})") from error
    if lines[:1] != ["\t".join(_COLUMNS)]:
        raise DeepEMError(f"{path}: expected the columns {', '.join(_COLUMNS)}; was it written by `deepem pick`?")
    return Candidates(numbers[:, :2], numbers[:, 2], *numbers[:, 3:].T), reasons


def _box_means(values: np.ndarray, top: np.ndarray, left: np.ndarray, box: int) -> np.ndarray:
    sums = np.zeros((values.shape[0] + 1, values.shape[1]))
    for row, of_row in enumerate(values):  # row by row: NumPy's cumulative sums along columns take ten times as long
        np.add(sums[row], of_row, out=sums[row + 1])
    windows = np.lib.stride_tricks.sliding_window_view(sums, box, axis=1)
    means = np.empty(len(top))
    for begin in range(0, len(top), STD_BOXES):
        some = slice(begin, begin + STD_BOXES)
        means[some] = (windows[top[some] + box, left[some]] - windows[top[some], left[some]]).sum(axis=1) / box**2
    return means


def _offsets(scores: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Position of the maxima between the scan steps: (n, 2) row and column offsets of at most half a step."""
    bordered = np.pad(scores.astype(np.float64), 1, mode="edge")
    rows, cols = at.T + 1
    here = bordered[rows, cols]
    offsets = np.zeros(at.shape)
    for axis, (down, right) in enumerate(((1, 0), (0, 1))):
        before, after = bordered[rows - down, cols - right], bordered[rows + down, cols + right]
        curvature = 2 * here - before - after
        np.divide(after - before, 2 * curvature, out=offsets[:, axis], where=curvature > 0)
    return np.clip(offsets, -0.5, 0.5)


def border_distances(micrograph: Micrograph, centres_rc: np.ndarray) -> np.ndarray:
    """Compute the distance of centres from the closest border of the image.

    Parameters
    ----------
    micrograph : Micrograph
    centres_rc : (n, 2) array
        Row and column in binned pixels.

    Returns
    -------
    (n,) float64 array
        In pixels of the input micrograph; padding is not part of the image.
    """
    rows, cols = micrograph.pixels.shape
    top, bottom, left, right = padding_margins(micrograph.pixels, MIN_PADDING)
    r, c = centres_rc.T + 0.5
    distances: np.ndarray = np.minimum.reduce([r - top, rows - bottom - r, c - left, cols - right - c])
    return distances * micrograph.scale
