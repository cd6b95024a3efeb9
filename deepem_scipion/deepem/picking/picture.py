# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A micrograph with its picks as a small picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..atomic import atomic_path
from ..micrographs.micrograph import Micrograph

# Largest side of a picture in pixels, and the range of grey values in standard deviations of the micrograph.
PICTURE_PX = 1024
_GREY_STDS = 3.0
_JPEG_QUALITY = 80
_CIRCLE = (240, 228, 66)  # the yellow of Okabe and Ito


def write_picture(path: str | Path, micrograph: Micrograph, picks_xy: np.ndarray, diameter_angst: float) -> None:
    """Write a JPEG of a micrograph with its picks as circles; x runs to the right and y downwards.

    Parameters
    ----------
    path : str or Path
        File to write, atomically.
    micrograph : Micrograph
    picks_xy : (n, 2) array
        Centres in pixels of the input micrograph.
    diameter_angst : float
        Particle diameter, that of the circles.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    from PIL import Image, ImageDraw

    rows, columns = micrograph.pixels.shape
    factor = min(1.0, PICTURE_PX / max(rows, columns))
    grey = np.clip(0.5 + micrograph.pixels / (2 * _GREY_STDS), 0, 1)
    image = Image.fromarray(np.rint(255 * grey).astype(np.uint8))
    if factor < 1:
        image = image.resize((round(columns * factor), round(rows * factor)), Image.Resampling.BOX)
    image = image.convert("RGB")
    draw, radius = ImageDraw.Draw(image), factor * diameter_angst / micrograph.pixel_size_angst / 2
    for row, column in micrograph.to_binned_rc(picks_xy):
        x, y = factor * (column + 0.5), factor * (row + 0.5)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_CIRCLE, width=2)
    with atomic_path(path) as aside:
        image.save(aside, "JPEG", quality=_JPEG_QUALITY)
