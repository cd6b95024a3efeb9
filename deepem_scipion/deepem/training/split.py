# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Division of the micrographs into training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .labels import LabelledMicrograph


@dataclass(frozen=True)
class Split:
    """Micrographs of one network.

    Attributes
    ----------
    training, validation : list of LabelledMicrograph
        Those that it is trained on, and those that it is validated on.
    """

    training: list[LabelledMicrograph]
    validation: list[LabelledMicrograph]


def split(labelled: Sequence[LabelledMicrograph], fraction: float, networks: int, seed: int) -> list[Split]:
    """Divide micrographs into training and validation; each network has other validation micrographs.

    Micrographs without particles, and those on which not all are marked, are used for training only, unless there are
    no others. Where only one is left for validation, its area is divided.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
        Micrographs with different names.
    fraction : float
        Share that is kept for validation of each network.
    networks : int
        Number of networks.
    seed : int
        Seed of the order of micrographs.

    Returns
    -------
    list of Split
        One for each network.
    """
    with_particles = [item for item in labelled if len(item.particles_rc)]
    suitable = [item for item in with_particles if item.complete] or with_particles
    names = {item.name for item in suitable}
    others = [item for item in labelled if item.name not in names]
    if len(suitable) == 1 and fraction > 0:
        large, small = split_by_area(suitable[0], fraction)
        return [Split([large, *others], [small])] * networks
    return [Split([item for number, item in enumerate(suitable) if number not in kept] + others,
                  [suitable[number] for number in kept])
            for kept in split_micrographs(len(suitable), fraction, networks, np.random.default_rng(seed))]


def split_by_area(item: LabelledMicrograph, fraction: float) -> tuple[LabelledMicrograph, LabelledMicrograph]:
    """Cut a micrograph across its longer side into a part for training and a smaller one for validation.

    Parameters
    ----------
    item : LabelledMicrograph
        Micrograph.
    fraction : float
        Share of its area that is kept for validation.

    Returns
    -------
    training, validation : LabelledMicrograph
    """
    axis = int(np.argmax(item.pixels.shape))
    cut = round((1 - fraction) * item.pixels.shape[axis])
    return _part(item, axis, 0, cut), _part(item, axis, cut, item.pixels.shape[axis])


def _part(item: LabelledMicrograph, axis: int, begin: int, end: int) -> LabelledMicrograph:
    shift = np.array([begin, 0] if axis == 0 else [0, begin])

    def inside(centres_rc: np.ndarray) -> np.ndarray:
        along = centres_rc[:, axis]
        moved: np.ndarray = centres_rc[(along >= begin - 0.5) & (along < end - 0.5)] - shift
        return moved

    part = (slice(begin, end), slice(None)) if axis == 0 else (slice(None), slice(begin, end))
    return replace(item, micrograph=replace(item.micrograph, pixels=item.pixels[part]),
                   particles_rc=inside(item.particles_rc), negatives_rc=inside(item.negatives_rc),
                   missed_rc=inside(item.missed_rc), doubtful_rc=inside(item.doubtful_rc),
                   masked=None if item.masked is None else item.masked[part])


def split_micrographs(n: int, fraction: float, parts: int, rng: np.random.Generator) -> list[list[int]]:
    """Choose the micrographs that are kept for validation, several times over.

    Parameters
    ----------
    n : int
        Number of micrographs.
    fraction : float
        Share that is kept. With more than one micrograph at least one is kept, and at least one remains, unless the
        share is 0.
    parts : int
        How many choices are made. Each continues in the random order where the last one ended.
    rng : numpy.random.Generator
        Source of the order.

    Returns
    -------
    list of list of int
        Numbers of the kept micrographs, sorted.
    """
    order = rng.permutation(n)
    size = 0 if n == 1 or fraction == 0 else min(n - 1, max(1, round(fraction * n)))
    return [sorted(order[np.arange(part * size, (part + 1) * size) % n].tolist()) for part in range(parts)]
