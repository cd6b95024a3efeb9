# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resampling of images to another pixel size.

A filter that cuts sharply at the new Nyquist frequency keeps the signal and lets little noise from beyond it through.
The mean over each pixel attenuates the signal near that frequency and aliases noise ("Resampling" in
docs/accuracy.md).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from .. import runtime

# Half the width of the filter, in the larger of the two pixel sizes.
LOBES = 3
# Output pixels computed by one matrix product: with fewer the products are slow, with more most weights are 0.
TOGETHER = 16
# Such groups of rows that are resampled along the columns and then along the rows, while they are in the cache.
BLOCKS = 8


def resample(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Resample an image by a Lanczos filter of three lobes, as wide as the larger of the two pixel sizes.

    Parameters
    ----------
    pixels : (rows, columns) float32 array
        Image. Returned as it is if `scale` is 1.
    scale : float
        Input pixels per output pixel, above 0. Output pixel j covers [j scale, (j + 1) scale) of the input.

    Returns
    -------
    (floor(rows / scale), floor(columns / scale)) float32 array
        Resampled image.

    Notes
    -----
    The sums over the pixels are products with blocks of a matrix of weights, several times faster than the loops of
    image libraries (Pillow's `resize` gives the same to single precision). At the border the weights of the pixels
    within the image are normalised to a sum of 1.
    """
    if scale == 1:
        return pixels
    pixels = np.asarray(pixels, np.float32)
    # The quotient of two pixel sizes may fall just short of a whole number.
    rows, columns = (math.floor(size / scale + 1e-6) for size in pixels.shape)
    of_rows, of_columns = _blocks(pixels.shape[0], rows, scale), _blocks(pixels.shape[1], columns, scale)
    result = np.empty((rows, columns), np.float32)

    def fill(first_block: int) -> None:
        blocks = of_rows[first_block:first_block + BLOCKS]
        narrow = np.concatenate([weights.T @ pixels[begin:begin + len(weights)] for _, begin, weights in blocks])
        part = result[blocks[0][0]:blocks[0][0] + len(narrow)]
        for first, begin, weights in of_columns:
            part[:, first:first + weights.shape[1]] = narrow[:, begin:begin + len(weights)] @ weights

    list(runtime.pool().map(fill, range(0, len(of_rows), BLOCKS)))
    return result


@functools.lru_cache(maxsize=8)
def _blocks(size: int, resampled: int, scale: float) -> list[tuple[int, int, np.ndarray]]:
    """Return, for each block of output pixels, the first one, the first input pixel and (input, output) weights."""
    scale = min(resampled * scale, size) / resampled
    width = max(scale, 1.0)
    blocks = []
    for first in range(0, resampled, TOGETHER):
        centres = (np.arange(first, min(first + TOGETHER, resampled)) + 0.5) * scale
        begin = max(0, math.floor(centres[0] - LOBES * width))
        end = min(size, math.ceil(centres[-1] + LOBES * width))
        distances = (np.arange(begin, end)[:, np.newaxis] + 0.5 - centres) / width
        weights = np.where(abs(distances) < LOBES, np.sinc(distances) * np.sinc(distances / LOBES), 0)
        blocks.append((first, begin, (weights / weights.sum(axis=0)).astype(np.float32)))
    return blocks
