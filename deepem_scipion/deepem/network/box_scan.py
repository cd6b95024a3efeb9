# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Score map by the paper's procedure: each box has mean 0 and standard deviation 1 before the network sees it.

Boxes cannot share their feature maps then, so that this scan takes much longer than that of `Scanner`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..micrographs.normalisation import box_stds, normalise_each_box, within
from .geometry import Geometry
from .scan import Scanner, Weights, scan_shape

# Boxes that are scored together lie side by side in one image of at most this many pixels.
PIXELS_AT_A_TIME = 2**22


class BoxScanner:
    """Computation of scores of single boxes; may be used by several threads.

    Parameters
    ----------
    geometry, networks, step, rotations
        As for `Scanner`.

    Raises
    ------
    DeepEMError
        As for `Scanner`.
    """

    def __init__(self, geometry: Geometry, networks: Sequence[Weights], step: int, rotations: int = 4) -> None:
        self.box, self.step = geometry.box, step
        # From box to box a whole number of the largest cells: pooled maps are computed at the cells of the boxes only.
        cell = math.prod(geometry.pools)
        self._pitch = math.ceil(self.box / cell) * cell
        self._scanner = Scanner(geometry, networks, self._pitch, rotations)

    def score(self, boxes: np.ndarray) -> np.ndarray:
        """Score boxes, which are normalised before.

        Parameters
        ----------
        boxes : (n, box, box) array
            Pixels in any units.

        Returns
        -------
        (n,) float32 array
            Scores from 0 to 1, 0 for a box of equal pixels.
        """
        scores = np.zeros(len(boxes), np.float32)
        at_a_time = max(1, PIXELS_AT_A_TIME // self.box**2)
        for start in range(0, len(boxes), at_a_time):
            part = normalise_each_box(boxes[start:start + at_a_time])
            uneven = np.flatnonzero(part.any(axis=(1, 2)))
            if len(uneven):
                sheet = np.zeros((self.box, len(uneven), self._pitch), np.float32)
                sheet[..., :self.box] = part[uneven].swapaxes(0, 1)
                scores[start + uneven] = self._scanner.scan(sheet.reshape(self.box, -1))[0]
        return scores

    def scan(self, pixels: np.ndarray, std_range: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Compute the score map of an image: whole boxes only, at whole steps from its corner.

        Parameters
        ----------
        pixels : (rows, cols) array
            Grey values at the working pixel size.
        std_range : tuple of float, optional
            Boxes whose standard deviation is not between these two values are not scored.

        Returns
        -------
        scores : (n_rows, n_cols) float32 array
            Element [i, j] is that of the box whose first pixel is (i step, j step); 0 where it is not scored.
        stds : (n_rows, n_cols) float64 array
            Standard deviation of the grey values of each box.

        Raises
        ------
        DeepEMError
            If the image is smaller than the box.
        """
        shape = scan_shape((pixels.shape[0], pixels.shape[1]), self.box, self.step)
        scores, stds = np.zeros(shape, np.float32), np.empty(shape)
        every = np.lib.stride_tricks.sliding_window_view(pixels, (self.box, self.box))[::self.step, ::self.step]
        for row, boxes in enumerate(every):
            stds[row] = box_stds(boxes)
            scored = np.ones(shape[1], bool) if std_range is None else within(stds[row], std_range)
            scores[row, scored] = self.score(boxes[scored])
        return scores, stds
