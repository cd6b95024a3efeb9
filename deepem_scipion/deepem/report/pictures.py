# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Score maps as grey images in the coordinates of the micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..micrographs.images import read_pixels
from ..picking.candidates import pad_width


@dataclass(frozen=True)
class Picture:
    """An image to be shown in the coordinates of a micrograph.

    Attributes
    ----------
    pixels : (rows, columns) uint8 array
        0 for black.
    scale : float
        Pixels of the micrograph per pixel of the image.
    edge_px : float
        x of the left and y of the upper edge, in pixels of the micrograph; the micrograph's own edge is at -1/2.
    """

    pixels: np.ndarray
    scale: float
    edge_px: float = -0.5


def read_score_map(path: str | Path, box: int, scan_step: int, binned_px: float, padded: bool = True) -> Picture:
    """Read a stored score map, score 1 in white.

    Parameters
    ----------
    path : str or Path
        MRC file.
    box, scan_step : int
        Of the network, in binned pixels.
    binned_px : float
        Pixels of the micrograph per binned pixel.
    padded : bool
        Whether the micrograph was padded for the scan, as by all procedures but the paper's.

    Returns
    -------
    Picture

    Raises
    ------
    DeepEMError
        The file cannot be read.
    """
    scores = read_pixels(Path(path), may_be_constant=True)
    first_centre = (box - 1) / 2 - (pad_width(box) if padded else 0)
    return Picture(np.rint(255 * np.clip(scores, 0, 1)).astype(np.uint8), scan_step * binned_px,
                   binned_px * (first_centre + 0.5 - scan_step / 2) - 0.5)
