# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""EMAN2 .box files.

Corners of boxes are converted to centres, and back, in this module only.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..atomic import atomic_write
from ..errors import DeepEMError
from ..textfiles import open_text
from .coordinates import Coordinates
from .parse import gather, parse_number

# Fifth column of the two ends of a filament, and of boxes that EMAN 1 wrote.
_ENDS, _NO_SCORE = {-1.0, -2.0}, -3.0


def write_box(path: str | Path, centres_xy: np.ndarray, scores: np.ndarray, box_px: float) -> None:
    """Write an EMAN2 .box file: corner x, corner y, width, height and, if there are scores, the score.

    Parameters
    ----------
    path : str or Path
        File to write, atomically.
    centres_xy : (n, 2) array
        Centres as x, y in pixels of the input micrograph.
    scores : (n,) array
        Scores; NaN stands for none. Not written if none of the picks has one.
    box_px : float
        Side of the boxes in pixels, rounded to a whole number.

    Raises
    ------
    DeepEMError
        If the file cannot be written.

    Notes
    -----
    Corners are whole numbers, chosen so that corner + size / 2 is within half a pixel of the centre.
    """
    size = round(box_px)
    corners = np.rint(np.reshape(centres_xy, (-1, 2)) - size / 2).astype(int)
    scored = not np.all(np.isnan(scores))
    with atomic_write(path) as handle:
        for (x, y), score in zip(corners.tolist(), np.reshape(scores, len(corners)).tolist()):
            handle.write(f"{x}\t{y}\t{size}\t{size}" + (f"\t{score:.6g}\n" if scored else "\n"))


def read_box(path: Path) -> Coordinates:
    """Read an EMAN2 .box file.

    Parameters
    ----------
    path : Path
        Lines of corner x, corner y, width, height and, optionally, a score; `#` starts a comment.

    Returns
    -------
    Coordinates
        Centres of the boxes. `box_px` is None unless all boxes are squares of the same size.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, only some lines have a score, or the boxes are ends of filaments.
    """
    particles, sizes = [], set()
    lengths: dict[bool, int] = {}
    try:
        with open_text(path) as handle:
            for number, line in enumerate(handle, 1):
                fields = line.split("#")[0].split()
                if not fields:
                    continue
                if len(fields) < 4:
                    raise DeepEMError(f"{path}, line {number}: expected 'x y width height [score]', "
                                      f"found {line.strip()!r}.")
                x, y, width, height = (parse_number(path, number, text) for text in fields[:4])
                score = parse_number(path, number, fields[4], missing=True) if len(fields) > 4 else math.nan
                lengths[len(fields) > 4] = number
                if not min(width, height) > 0:
                    raise DeepEMError(f"{path}, line {number}: expected a width and a height above 0, found "
                                      f"{line.strip()!r}. If x and y are centres, give a .star file.")
                particles.append((x + width / 2, y + height / 2, score))
                sizes.add((width, height))
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error
    if len(lengths) > 1:
        raise DeepEMError(f"{path}: line {lengths[True]} has a score, line {lengths[False]} has none. "
                          "Expected all or none to have one.")
    if particles and {score for *_, score in particles} <= _ENDS:
        raise DeepEMError(f"{path}: the fifth column is -1 or -2 in all {len(particles)} lines, which marks first and "
                          "last ends of filaments (EMAN2 helixboxer). Expected centres of particles: give the segments "
                          "along the filaments.")
    if all(score == _NO_SCORE for *_, score in particles):
        particles = [(x, y, math.nan) for x, y, _ in particles]
    width, height = sizes.pop() if len(sizes) == 1 else (0, 0)
    return gather(particles, width if width == height and width > 0 else None)
