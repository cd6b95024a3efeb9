# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The box around a pick."""

from __future__ import annotations

import math

import numpy as np

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


def count_cut(centres_xy: np.ndarray, box_px: float, shape: tuple[int, int]) -> int:
    """Count the boxes that leave the micrograph.

    Parameters
    ----------
    centres_xy : (n, 2) array
        Centres of the boxes in pixels of the micrograph.
    box_px : float
        Side of the boxes in the same pixels.
    shape : tuple of (int, int)
        Rows and columns of the micrograph.

    Returns
    -------
    int

    Examples
    --------
    >>> count_cut(np.array([[20.0, 20.0], [90.0, 50.0]]), 40, (100, 200))
    1
    """
    low, high = centres_xy + 0.5, np.array(shape[::-1]) - centres_xy - 0.5
    return int((np.minimum(low, high).min(axis=1, initial=np.inf) < box_px / 2).sum())


def what_is_cut(number: int, box_px: float, pixel_size_angst: float | None = None) -> str:
    """Say what becomes of picks whose boxes leave their micrograph.

    Parameters
    ----------
    number : int
        How many there are.
    box_px : float
        Side of the boxes in pixels of the micrographs.
    pixel_size_angst : float, optional
        Pixel size of the micrographs; with it the sentence says how such picks are avoided.

    Returns
    -------
    str
        A sentence without full stop; empty where there are none.
    """
    if not number:
        return ""
    avoided = "" if pixel_size_angst is None else (
        f" (with --border {math.ceil(box_px * pixel_size_angst / 2)} they are not picked)")
    words = ("is", "its box leaves") if number == 1 else ("are", "their boxes leave")
    return (f"{number} of the picks {words[0]} so close to the border that {words[1]} the micrograph; cryoSPARC leaves "
            f"such picks out when it extracts particles, RELION fills their boxes with pixels of the edge{avoided}")
