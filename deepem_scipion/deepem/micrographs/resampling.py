# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images at another pixel size, by Lanczos's filter or, as models of earlier formats need it, by area means.

A filter that cuts sharply at the new Nyquist frequency keeps the signal and lets little noise from beyond it through.
The mean over a pixel weakens the signal near that frequency and folds noise back ("Resampling" in docs/accuracy.md).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def resample(pixels: np.ndarray, scale: float, resampled_by: str = "lanczos") -> np.ndarray:
    """Resample an image to pixels `scale` times as wide; output pixel j covers [j scale, (j + 1) scale) of the input.

    Parameters
    ----------
    pixels : (rows, columns) float32
    scale : input pixels per output pixel, any positive number
    resampled_by : {"lanczos", "area"}, see `lanczos` and `area_means`

    Returns
    -------
    (floor(rows / scale), floor(columns / scale)) float32
    """
    return RESAMPLERS[resampled_by](pixels, scale)


def lanczos(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Resample by a Lanczos filter of three lobes, as wide as the larger of the two pixels; arguments as `resample`."""
    from PIL import Image

    if scale == 1:
        return pixels
    rows, columns = (_output_size(size, scale) for size in pixels.shape)
    covered = 0, 0, min(columns * scale, pixels.shape[1]), min(rows * scale, pixels.shape[0])
    image = Image.fromarray(np.ascontiguousarray(pixels, np.float32))
    return np.array(image.resize((columns, rows), Image.Resampling.LANCZOS, box=covered))


def area_means(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Resample by means over the area of each pixel; arguments as `resample`.

    For a scale of 1 or more, an output pixel is the mean of the input, taken as constant within each pixel; below 1 it
    is interpolated linearly at the same centre, the outermost pixels being continued.
    """
    if scale == int(scale):
        factor = int(scale)
        rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
        blocks: np.ndarray = pixels[:rows * factor, :columns * factor].reshape(rows, factor, columns, factor)
        # Rows first: sums of whole lines run through memory in order.
        means: np.ndarray = blocks.mean(axis=1).mean(axis=2)
        return means
    weights = _area_weights if scale > 1 else _linear_weights
    fewer_rows = weights(pixels.shape[0], scale) @ pixels
    return np.ascontiguousarray((weights(pixels.shape[1], scale) @ fewer_rows.T).T)


def _output_size(size: int, scale: float) -> int:
    return math.floor(size / scale + 1e-6)  # the quotient of two pixel sizes may fall just short of whole


def _area_weights(size: int, scale: float) -> Any:
    """Sparse (output, input) matrix of each input pixel's share in each output pixel."""
    begin = np.arange(_output_size(size, scale))[:, None] * scale
    index = np.floor(begin).astype(int) + np.arange(math.ceil(scale) + 1)
    share = np.clip(np.minimum(index + 1, begin + scale) - np.maximum(index, begin), 0, None) * (index < size)
    return _sparse(share / share.sum(axis=1, keepdims=True), np.minimum(index, size - 1), size)


def _linear_weights(size: int, scale: float) -> Any:
    """Sparse (output, input) matrix of linear interpolation between the centres of input pixels."""
    centre = np.clip((np.arange(_output_size(size, scale))[:, None] + 0.5) * scale - 0.5, 0, size - 1)
    index = np.floor(centre).astype(int) + np.arange(2)
    return _sparse(np.abs(centre - index[:, ::-1]), np.minimum(index, size - 1), size)


def _sparse(weights: np.ndarray, index: np.ndarray, size: int) -> Any:
    from scipy.sparse import csr_matrix

    start = np.arange(0, weights.size + 1, weights.shape[1])
    entries = weights.astype(np.float32).ravel(), index.ravel(), start
    matrix = csr_matrix(entries, shape=(len(weights), size))
    matrix.sum_duplicates()
    return matrix


RESAMPLERS = {"lanczos": lanczos, "area": area_means}
