# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where to start: the general model or, without it, blobs of the particle's size (Laplacian of Gaussian)."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeepEMError
from ..micrographs.micrograph import read_micrograph, read_pixel_size
from ..picking.candidates import Candidates, find_candidates, pad
from ..picking.selection import MIN_DISTANCE, Limits

if TYPE_CHECKING:
    from ..model.model import Model

# Micrographs are downsampled until the particle is about this wide, in binned pixels.
WORKING_DIAMETER_PX = 16
# Higher maxima of the response than this percentile may be gold or dirt, and count as no higher.
MAX_PERCENTILE = 95
# A typical particle is at least this many standard deviations of the response high.
MIN_TYPICAL_STDS = 2.0
# The score of what stands out half as much as a typical particle.
DEFAULT_THRESHOLD = 0.33


def suggest(path: Path, diameter_angst: float, pixel_size_angst: float | None = None, bright: bool = False,
            ) -> Candidates:
    """Find blobs of the particle's size.

    Parameters
    ----------
    path : Path
        File of the micrograph.
    diameter_angst : float
        Particle diameter, in angstrom.
    pixel_size_angst : float, optional
        Pixel size of the file; default: from its header.
    bright : bool
        Whether the particles are brighter than the background.

    Returns
    -------
    Candidates
        The score is r / (1 + r), r being the response relative to that of a typical particle of the micrograph.

    Raises
    ------
    DeepEMError
        The micrograph cannot be read, or is smaller than a particle.

    Notes
    -----
    The Laplacian of a Gaussian responds most to a disc of diameter d if the standard deviation is d / sqrt(8).
    """
    from scipy.ndimage import gaussian_laplace, maximum_filter

    size = pixel_size_angst or read_pixel_size(path)
    binning = max(1.0, diameter_angst / WORKING_DIAMETER_PX / size) if size else 1.0
    micrograph = read_micrograph(path, size and binning * size, size)
    diameter_px = diameter_angst / micrograph.pixel_size_angst
    box = 2 * int(0.75 * diameter_px) + 1  # odd, so that the score map has the pixels of the micrograph
    if min(micrograph.pixels.shape) < box:
        raise DeepEMError(f"{path}: {micrograph.input_shape[1]} x {micrograph.input_shape[0]} pixels, smaller than a "
                          f"particle of {diameter_angst:g} A with its surroundings; check diameter and pixel size")
    response = gaussian_laplace(micrograph.pixels, diameter_px / math.sqrt(8), mode="reflect")
    response = -response if bright else response
    low, high = np.percentile(response, (16, 84))
    maxima = response[(response == maximum_filter(response, int(diameter_px))) & (response > 0)]
    typical = max(_typical(maxima), MIN_TYPICAL_STDS * float(high - low) / 2, 1e-12)
    relative = np.maximum(response / typical, 0)
    scores = (relative / (1 + relative)).astype(np.float32)
    return find_candidates(micrograph, pad(micrograph.pixels, box), scores, box, 1)


def starting_model(diameter_angst: float, bright: bool) -> Model | None:
    """Return the general model for a particle; None where it is not part of the installation.

    Parameters
    ----------
    diameter_angst : float
        Particle diameter, in angstrom.
    bright : bool
        Whether particles are brighter than the background.

    Returns
    -------
    Model or None
    """
    from ..model.general import general_model

    with contextlib.suppress(DeepEMError):
        return general_model(diameter_angst, "bright" if bright else "dark")
    return None


def starting_limits(diameter_angst: float, bright: bool) -> Limits:
    """Return limits for the first candidates: those of the general model, or for suggestions by size.

    Parameters
    ----------
    diameter_angst : float
        Particle diameter, in angstrom.
    bright : bool
        Whether particles are brighter than the background.

    Returns
    -------
    Limits
    """
    model = starting_model(diameter_angst, bright)
    return Limits.of_model(model) if model else Limits(DEFAULT_THRESHOLD, MIN_DISTANCE * diameter_angst)


def _typical(maxima: np.ndarray) -> float:
    """Mean of the higher of two classes of maxima, divided where their means differ most (Otsu's method)."""
    if len(maxima) < 2:
        return float(maxima.sum())
    values = np.sort(np.minimum(maxima, np.percentile(maxima, MAX_PERCENTILE)))
    lower = np.arange(1, len(values))
    sums = np.cumsum(values)[:-1]
    mean_lower, mean_higher = sums / lower, (values.sum() - sums) / (len(values) - lower)
    best = int(np.argmax(lower * (len(values) - lower) * (mean_higher - mean_lower) ** 2))
    return float(mean_higher[best])
