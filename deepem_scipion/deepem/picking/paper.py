# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection by the paper's procedure: two passes of suppression in squares, over all positions of the scan."""

from __future__ import annotations

import numpy as np

from ..micrographs.micrograph import Micrograph
from ..micrographs.normalisation import within
from .candidates import SCORE_FLOOR, Candidates, border_distances

# Thresholds whose picks are written side by side, and of which the training chooses one.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Two positions whose distance is the range are in one square, also after a file has rounded them.
_ROUNDING_PX = 0.02


def default_ranges(preset: str | None, box: int) -> tuple[float, float]:
    """Return the ranges of suppression of the authors for a preset, or those for KLH in proportion to the box.

    Parameters
    ----------
    preset : str, optional
        Name of a geometry of the paper.
    box : int
        Side of the box in binned pixels.

    Returns
    -------
    tuple of float
        In binned pixels.
    """
    return (100.0, 40.0) if preset == "19s" else (70 * box / 272, 40 * box / 272)


def grid_candidates(micrograph: Micrograph, scores: np.ndarray, stds: np.ndarray, box: int, step: int,
                    std_range: tuple[float, float] | None) -> Candidates:
    """Make candidates of all positions of a scan by boxes.

    Parameters
    ----------
    micrograph : Micrograph
    scores, stds : (n_rows, n_cols) array
        As returned by `BoxScanner.scan`.
    box, step : int
        Side of the box and scan step, in binned pixels.
    std_range : tuple of float, optional
        That of the scan.

    Returns
    -------
    Candidates
        Centres of the boxes with a score above `SCORE_FLOOR`, and of those that were not scored, in descending order
        of score. Local standard deviations are those of the grey values.
    """
    kept = scores > SCORE_FLOOR
    if std_range is not None:
        kept |= ~within(stds, std_range)
    centres_rc = np.argwhere(kept) * step + (box - 1) / 2
    found = Candidates(micrograph.to_input_xy(centres_rc), scores[kept].astype(np.float64), stds[kept],
                       border_distances(micrograph, centres_rc))
    return found.subset(np.lexsort((found.centres_xy[:, 0], found.centres_xy[:, 1], -found.scores)))


def best_in_squares(centres_xy: np.ndarray, scores: np.ndarray, ranges_px: tuple[float, float]) -> np.ndarray:
    """Keep, in two passes, those positions that are the best of the square around any position.

    Parameters
    ----------
    centres_xy : (n, 2) array
        Positions as x, y in pixels.
    scores : (n,) array
    ranges_px : tuple of float
        Half sides of the squares of the first and the second pass, which belong to the square.

    Returns
    -------
    (n,) bool array
        True for the positions that are left after both passes.

    Notes
    -----
    In each pass every position is replaced by the best of all positions in the square around it. A position is
    therefore also left where it is not the best of its own square, if it is the best of that of a worse one. Of equal
    scores the one with the larger x is better, and then that with the larger y.

    Examples
    --------
    >>> best_in_squares(np.array([[0, 0], [20, 0], [40, 0]]), np.array([0.9, 0.8, 0.7]), (20, 0)).tolist()
    [True, True, False]
    """
    left = np.ones(len(scores), bool)
    for half_side in ranges_px:
        at = np.flatnonzero(left)
        left[at] = _best_of_any_square(centres_xy[at], scores[at], half_side)
    return left


def _best_of_any_square(centres_xy: np.ndarray, scores: np.ndarray, half_side: float) -> np.ndarray:
    from scipy.spatial import cKDTree

    order = np.lexsort((centres_xy[:, 1], centres_xy[:, 0], scores))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    best = rank.copy()
    first, second = cKDTree(centres_xy).query_pairs(half_side + _ROUNDING_PX, p=np.inf, output_type="ndarray").T
    np.maximum.at(best, first, rank[second])
    np.maximum.at(best, second, rank[first])
    kept = np.zeros(len(order), bool)
    kept[order[best]] = True
    return kept
