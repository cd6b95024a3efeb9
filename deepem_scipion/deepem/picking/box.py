# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The box around a pick."""

from __future__ import annotations

from ..network.geometry import BOX_PER_DIAMETER


def default_box_px(diameter_angst: float, pixel_size_angst: float) -> int:
    """Side of the box around a particle: 1.5 diameters, rounded to an even number, and at least 2.

    Parameters
    ----------
    diameter_angst : float
        Particle diameter, in angstrom.
    pixel_size_angst : float
        Pixel size of the micrograph, in angstrom.

    Returns
    -------
    int
        In pixels of the micrograph.

    Examples
    --------
    >>> default_box_px(120.0, 1.5)
    120
    """
    return max(2, 2 * round(BOX_PER_DIAMETER * diameter_angst / pixel_size_angst / 2))
