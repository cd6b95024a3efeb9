# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outliers and grey values of images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..errors import DeepEMError

# Of 10^8 normally distributed pixels none is expected beyond 6 standard deviations. What lies there is neither ice nor
# particle, but a hot pixel, an X-ray, gold or dirt, and would dominate the mean and the standard deviation.
CLIP_STDS = 6.0
# A few hundred thousand pixels give the percentiles to better than 1 % of the standard deviation.
_PERCENTILE_SAMPLE = 2**18
# Tiles of a normalised micrograph with a smaller standard deviation are padding.
_MIN_TILE_STD = 0.01


def clip_outliers(pixels: np.ndarray) -> tuple[float, float]:
    """Clip an image, in place, to the median plus or minus `CLIP_STDS` robust standard deviations.

    The robust standard deviation is half the distance between the 16th and the 84th percentile or, if that is 0 (more
    than two thirds of the pixels are equal), the standard deviation.

    Parameters
    ----------
    pixels : (rows, columns) float array
        Image, modified in place.

    Returns
    -------
    tuple of float
        Lowest and highest value that are possible after it.
    """
    step = max(1, math.isqrt(pixels.size // _PERCENTILE_SAMPLE))
    sample = np.sort(pixels[::step, ::step], axis=None)
    low, median, high = (_percentile(sample, percent) for percent in (16, 50, 84))
    std = (high - low) / 2 or float(pixels.std(dtype=np.float64))
    limits = median - CLIP_STDS * std, median + CLIP_STDS * std
    np.clip(pixels, *limits, out=pixels)
    return limits


def _percentile(ordered: np.ndarray, percent: float) -> float:
    """Percentile of sorted values: that of NumPy, which does not make use of their order."""
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    first, second = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return first + (place - below) * (second - first)


def normalise(path: Path, pixels: np.ndarray) -> None:
    """Shift and scale an image, in place, to mean 0 and standard deviation 1.

    Parameters
    ----------
    path : Path
        File of the image, for the message.
    pixels : (rows, columns) float array

    Raises
    ------
    DeepEMError
        If all pixels have the same value.
    """
    pixels -= pixels.mean(dtype=np.float64)
    std = math.sqrt(np.square(pixels).mean(dtype=np.float64))
    if not std > 0:
        raise DeepEMError(f"{path} is constant once resampled and cleared of outliers. Leave it out.")
    pixels /= std


def normalise_boxes(pixels: np.ndarray, box_px: int) -> None:
    """Shift and scale a normalised image, in place, so that the median box has mean 0 and standard deviation 1.

    Parameters
    ----------
    pixels : (rows, columns) float array
    box_px : int
        Side of the boxes.
    """
    rows, columns = (size // box_px * box_px for size in pixels.shape)
    tiles = pixels[:rows, :columns].reshape(rows // box_px, box_px, columns // box_px, box_px)
    means = tiles.mean(axis=(1, 3), dtype=np.float64)
    squares = np.square(tiles, dtype=np.float64).mean(axis=(1, 3))
    stds = np.sqrt(np.maximum(squares - np.square(means), 0))
    image = stds > _MIN_TILE_STD
    if image.any():
        pixels -= np.median(means[image])
        pixels /= np.median(stds[image])


def within(stds: np.ndarray, std_range: tuple[float, float]) -> np.ndarray:
    """Return which standard deviations lie between two values, without these, as bool array."""
    inside: np.ndarray = (stds > std_range[0]) & (stds < std_range[1])
    return inside


def box_stds(boxes: np.ndarray) -> np.ndarray:
    """Compute the standard deviation of each box, (n,) float64, as sums over n - 1 pixels.

    Parameters
    ----------
    boxes : (n, box, box) array

    Returns
    -------
    (n,) float64 array
    """
    stds: np.ndarray = boxes.std(axis=(1, 2), ddof=1, dtype=np.float64)
    return stds


def normalise_each_box(boxes: np.ndarray) -> np.ndarray:
    """Shift and scale each box to mean 0 and standard deviation 1 (over n - 1 pixels).

    Parameters
    ----------
    boxes : (n, box, box) array
        Pixels in any units.

    Returns
    -------
    (n, box, box) float32 array
        Boxes of equal pixels are 0.
    """
    means, stds = boxes.mean(axis=(1, 2), dtype=np.float64), box_stds(boxes)
    centred = boxes - means[:, np.newaxis, np.newaxis]
    normalised: np.ndarray = (centred / np.where(stds > 0, stds, 1)[:, np.newaxis, np.newaxis]).astype(np.float32)
    return normalised
