# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits on what an image header may claim, and its shape in words."""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import DeepEMError

# Five times the largest camera of today. A header that claims more is damaged and must not take memory.
MAX_PIXELS = 2**29


def check_shape(path: Path, shape: tuple[int, ...]) -> None:
    """Raise DeepEMError unless `shape`, (..., rows, columns), is that of one greyscale image of plausible size.

    Parameters
    ----------
    path : Path
        File to name in the message.
    shape : tuple of int
        Shape that the header claims.

    Raises
    ------
    DeepEMError
        If a dimension is below 1, there are too many pixels, or there are several images.
    """
    *stack, rows, columns = (1, *shape)
    if min(rows, columns, *stack) < 1 or rows * columns > MAX_PIXELS:
        raise DeepEMError(f"{path} claims {format_shape(shape)} pixels: the header is damaged. "
                          "Copy or write the file again.")
    if math.prod(stack) > 1:
        raise DeepEMError(f"{path} holds {math.prod(stack)} images of {format_shape((rows, columns))} pixels "
                          "(a stack, a movie or a colour image). Expected one greyscale image: average the "
                          "frames, or split the stack.")


def format_shape(shape: tuple[int, ...]) -> str:
    """Format a shape for a message.

    Examples
    --------
    >>> format_shape((1200, 1240))
    '1200 x 1240'
    """
    return " x ".join(map(str, shape))
