# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Division of micrographs into training and validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .labels import LabelledMicrograph


def split_by_area(item: LabelledMicrograph, fraction: float) -> tuple[LabelledMicrograph, LabelledMicrograph]:
    """Cut the only micrograph along its longer side: a large part to train on, a small one to validate."""
    axis = int(np.argmax(item.pixels.shape))
    cut = round((1 - fraction) * item.pixels.shape[axis])
    return _part(item, axis, 0, cut), _part(item, axis, cut, item.pixels.shape[axis])


def _part(item: LabelledMicrograph, axis: int, begin: int, end: int) -> LabelledMicrograph:
    shift = np.array([begin, 0] if axis == 0 else [0, begin])

    def inside(centres_rc: np.ndarray) -> np.ndarray:
        along = centres_rc[:, axis]
        moved: np.ndarray = centres_rc[(along >= begin - 0.5) & (along < end - 0.5)] - shift
        return moved

    pixels = item.pixels[begin:end] if axis == 0 else item.pixels[:, begin:end]
    return LabelledMicrograph(replace(item.micrograph, pixels=pixels), inside(item.particles_rc),
                              inside(item.negatives_rc), item.complete)


def split_micrographs(n: int, fraction: float, parts: int, rng: np.random.Generator) -> list[list[int]]:
    """Numbers of the micrographs that are kept for validation, `parts` times over, each time the next ones.

    Of more than one micrograph each part has at least one, and leaves at least one to train on.
    """
    order = rng.permutation(n)
    size = 0 if n == 1 or fraction == 0 else min(n - 1, max(1, round(fraction * n)))
    return [sorted(order[np.arange(part * size, (part + 1) * size) % n].tolist()) for part in range(parts)]
