# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle coordinates of one micrograph.

Coordinates are x = column and y = row in pixels of the input micrograph; the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DeepEMError

# No coordinate is as large: sums and squares of smaller numbers stay finite.
_MAX_VALUE = 1e15


@dataclass(frozen=True)
class Coordinates:
    """Particles of one micrograph.

    Attributes
    ----------
    centres_xy : (n, 2) float64, pixels of the input micrograph
    scores : (n,) float64, higher is surer; NaN where the file has none
    box_px : side of the boxes; None where the file has none, or boxes of several sizes
    """

    centres_xy: np.ndarray
    scores: np.ndarray
    box_px: float | None


def merge(sets: Sequence[Mapping[str, Coordinates]]) -> dict[str, Coordinates]:
    """All coordinates of several sets, name by name, in the order of the sets; the box is the first set's."""
    together: dict[str, list[Coordinates]] = {}
    for one in sets:
        for name, coordinates in one.items():
            together.setdefault(name, []).append(coordinates)
    return {name: Coordinates(np.concatenate([part.centres_xy for part in parts]),
                              np.concatenate([part.scores for part in parts]), parts[0].box_px)
            for name, parts in together.items()}


def parse_number(path: Path, line: int, text: str, missing: bool = False) -> float:
    """Convert a field; `missing` allows "nan", which stands for no score."""
    try:
        value = float(text)
    except ValueError:
        raise DeepEMError(f"{path}, line {line}: expected a number, found {text!r}.") from None
    if not abs(value) < _MAX_VALUE and not (missing and math.isnan(value)):
        raise DeepEMError(f"{path}, line {line}: expected a finite number below {_MAX_VALUE:g}, found {text!r}.")
    return value


def gather(particles: list[tuple[float, float, float]], box_px: float | None) -> Coordinates:
    table = np.array(particles, dtype=np.float64).reshape(-1, 3)
    return Coordinates(table[:, :2].copy(), table[:, 2].copy(), box_px)
