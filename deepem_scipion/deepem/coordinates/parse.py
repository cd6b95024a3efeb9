# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers in coordinate files, and coordinates from them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..errors import DeepEMError
from .coordinates import Coordinates

# No coordinate is as large. Sums and squares of smaller numbers stay finite.
_MAX_VALUE = 1e15

# How programs write that there is no value.
MISSING = ("nan", "-nan", "<na>", "na", "n/a", "none", "null", "-", "--", "?", ".")


def parse_number(path: Path, line: int, text: str, missing: bool = False) -> float:
    """Convert a field of a file to a number.

    Parameters
    ----------
    path : Path
        File to name in the message.
    line : int
        Number of the line, from 1.
    text : str
        Field.
    missing : bool
        Whether one of `MISSING` is accepted, which stands for no score.

    Returns
    -------
    float
        Finite, or NaN if `missing`.

    Raises
    ------
    DeepEMError
        If the field is not a number, or too large.
    """
    if missing and text.lower() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise DeepEMError(f"{path}, line {line}: expected a number, found {text!r}.") from None
    if not abs(value) < _MAX_VALUE:
        raise DeepEMError(f"{path}, line {line}: expected a finite number below {_MAX_VALUE:g}, found {text!r}.")
    return value


def gather(particles: list[tuple[float, float, float]], box_px: float | None) -> Coordinates:
    """Turn rows of x, y and score into coordinates.

    Parameters
    ----------
    particles : list of tuple of float
        Centre x, centre y and score (NaN for none) of each particle.
    box_px : float or None
        Side of the boxes in pixels.

    Returns
    -------
    Coordinates
        The same particles as arrays.
    """
    table = np.array(particles, dtype=np.float64).reshape(-1, 3)
    return Coordinates(table[:, :2].copy(), table[:, 2].copy(), box_px)
