# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Padding at the borders of a micrograph: lines that hold no image."""

from __future__ import annotations

import numpy as np

# Lines repeated in padding correlate more than this even after JPEG compression, lines of real image less.
_STREAK_CORRELATION = 0.8
# A smoothed image hardly changes over its first few lines, which are not padding yet.
MIN_PADDING = 8
# Where there is no padding this many lines show it.
_FIRST_LINES = 32


def padding_margins(pixels: np.ndarray, min_lines: int = 1) -> tuple[int, int, int, int]:
    """Measure the padding at each side: constant lines, or the outermost line repeated up to the border.

    Parameters
    ----------
    pixels : (rows, columns) array
        Image.
    min_lines : int
        Fewer lines than this count as none (see `MIN_PADDING`).

    Returns
    -------
    top, bottom, left, right : int
        Lines of padding on each side, at most half of the image. Without padding they are 0, or the few lines over
        which a smoothed image hardly changes.

    Notes
    -----
    Lines are compared by the steps from pixel to pixel, so that a gradient or a carbon edge, which is similar in many
    lines, counts for little.
    """
    flat_below = 1e-3 * float(pixels.std())
    sides = pixels, pixels[::-1], pixels.T, pixels.T[::-1]
    top, bottom, left, right = (_padding_lines(side[:(len(side) + 1) // 2], flat_below) for side in sides)
    top, bottom, left, right = (lines if lines >= min_lines else 0 for lines in (top, bottom, left, right))
    return top, bottom, left, right


def _padding_lines(lines: np.ndarray, flat_below: float) -> int:
    """Count the lines of padding at the start of an (n, length) array."""
    if len(lines) > _FIRST_LINES:
        found = _padding_lines(lines[:_FIRST_LINES], flat_below)
        if found < _FIRST_LINES - 1:
            return found
    flat = lines.std(axis=1) <= flat_below
    if flat[0]:
        return len(flat) if flat.all() else int(np.argmin(flat))
    steps = np.diff(lines, axis=1)
    steps -= steps.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(steps, axis=1)
    alike = steps[1:] @ steps[0] > _STREAK_CORRELATION * norms[0] * norms[1:]
    return len(alike) if alike.all() else int(np.argmin(alike))
