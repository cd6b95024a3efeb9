# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resampling of images to another pixel size.

A filter that cuts sharply at the new Nyquist frequency keeps the signal and lets little noise from beyond it through.
The mean over each pixel attenuates the signal near that frequency and aliases noise ("Resampling" in
docs/accuracy.md).
"""

from __future__ import annotations

import math

import numpy as np


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
    """
    from PIL import Image

    if scale == 1:
        return pixels
    # The quotient of two pixel sizes may fall just short of a whole number.
    rows, columns = (math.floor(size / scale + 1e-6) for size in pixels.shape)
    covered = 0, 0, min(columns * scale, pixels.shape[1]), min(rows * scale, pixels.shape[0])
    image = Image.fromarray(np.ascontiguousarray(pixels, np.float32))
    return np.array(image.resize((columns, rows), Image.Resampling.LANCZOS, box=covered))
