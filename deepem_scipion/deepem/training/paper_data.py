# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data of a training by the paper's procedure: the purpose of each micrograph, and the boxes that are shown."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import DeepEMError
from ..micrographs.normalisation import box_stds
from .boxes import Boxes
from .labels import LabelledMicrograph, free_places

log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """Micrographs by their purpose; none has two.

    Attributes
    ----------
    training : list of list of LabelledMicrograph
        Those that each round adds.
    validation : list of LabelledMicrograph
        Those on which the threshold is chosen.
    test : list of LabelledMicrograph
        Those on which nothing is chosen but the end of the recursion.
    """

    training: list[list[LabelledMicrograph]]
    validation: list[LabelledMicrograph]
    test: list[LabelledMicrograph]


def divide(labelled: Sequence[LabelledMicrograph], fraction: float, rounds: int, seed: int) -> Parts:
    """Divide micrographs into those of each round, validation and test.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
        Micrographs. Those without particles, or on which not all are marked, are used in the first round.
    fraction : float
        Share that is kept for validation, and for the test; at least one micrograph each, or none if it is 0.
    rounds : int
        Number of rounds.
    seed : int
        Seed of the order.

    Returns
    -------
    Parts

    Raises
    ------
    DeepEMError
        If there are too few micrographs.
    """
    suitable = [item for item in labelled if len(item.particles_rc) and item.complete]
    others = [item for item in labelled if not (len(item.particles_rc) and item.complete)]
    kept = max(1, round(fraction * len(suitable))) if fraction else 0
    if kept and 2 * kept + rounds > len(suitable):
        kept = 1
    if len(suitable) < 2 * kept + rounds:
        raise DeepEMError(f"{len(suitable)} micrographs with all particles marked; the paper's procedure needs "
                          f"{2 * kept + rounds}: one for each of {rounds} rounds"
                          + (", one for validation and one for the test. Give more, or a validation fraction of 0"
                             if kept else ". Give more micrographs or fewer rounds"))
    order = np.random.default_rng(seed).permutation(len(suitable))
    validation, test, rest = np.split(order, [kept, 2 * kept])
    training = [[suitable[number] for number in sorted(part)] for part in np.array_split(rest, rounds)]
    return Parts([training[0] + others, *training[1:]], [suitable[number] for number in sorted(validation)],
                 [suitable[number] for number in sorted(test)])


def draw(labelled: Sequence[LabelledMicrograph], box: int, diameter_px: float, border_px: float, number: int,
         rng: np.random.Generator) -> Boxes:
    """Draw boxes of particles, and as many of negatives.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
        Micrographs with grey values.
    box : int
        Side of the boxes, in binned pixels as are the other lengths.
    diameter_px, border_px : float
        As for `free_places`.
    number : int
        Particles to draw, all if there are fewer; those that were missed come first.
    rng : numpy.random.Generator
        Source of the random choice.

    Returns
    -------
    Boxes
        Normalised, with the standard deviations of the grey values. Boxes that leave the micrograph are moved into
        it. Negatives are drawn from the given ones and false positives; if these are too few, the rest is drawn from
        `free_places`.

    Notes
    -----
    Columns of the micrographs are normalised before boxes are cut and normalised, as in the training of the paper's
    authors. Their program picks without the former.
    """
    missed = _corners([item.missed_rc for item in labelled], labelled, box)
    particles = _corners([item.particles_rc for item in labelled], labelled, box)
    given = _corners([item.negatives_rc for item in labelled], labelled, box)
    positives = _first_of(missed, particles, number, rng)
    negatives = rng.permutation(given)[:len(positives)]
    wanted = len(positives) - len(negatives)
    if wanted:
        free = _free(labelled, box, diameter_px, border_px, len(negatives) + wanted, rng)
        negatives = np.concatenate([negatives, free[:wanted]])
    if len(negatives) < len(positives):
        log.warning("%d boxes of negatives for %d of particles: expected as many; give negatives, or micrographs "
                    "with more background", len(negatives), len(positives))
    places = np.concatenate([positives, negatives])
    targets = np.concatenate([np.ones(len(positives), np.float32), np.zeros(len(negatives), np.float32)])
    grey = Boxes([item.pixels for item in labelled], box, places, targets)
    stds = [box_stds(grey.cut(np.array([each])))[0] for each in range(len(grey))]
    return Boxes([normalised_columns(item.pixels) for item in labelled], box, places, targets, normalised=True,
                 stds=np.array(stds))


def normalised_columns(pixels: np.ndarray) -> np.ndarray:
    """Shift and scale each column of an image to mean 0 and standard deviation 1.

    Parameters
    ----------
    pixels : (rows, columns) array

    Returns
    -------
    (rows, columns) float32 array
        Columns of equal pixels are 0.
    """
    stds = pixels.std(axis=0, ddof=1, dtype=np.float64)
    centred = pixels - pixels.mean(axis=0, dtype=np.float64)
    normalised: np.ndarray = (centred / np.where(stds > 0, stds, 1)).astype(np.float32)
    return normalised


def _corners(centres: Sequence[np.ndarray], labelled: Sequence[LabelledMicrograph], box: int) -> np.ndarray:
    """Number of the image, first row and first column of the boxes around centres, (n, 3)."""
    found = [np.empty((0, 3), int)]
    for number, (centres_rc, item) in enumerate(zip(centres, labelled)):
        corners = np.rint(centres_rc - (box - 1) / 2).astype(int)
        moved = np.clip(corners, 0, np.array(item.pixels.shape) - box)
        found.append(np.column_stack([np.full(len(moved), number), moved]))
    return np.concatenate(found)


def _first_of(first: np.ndarray, all_places: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Draw places, those of `first` before the others."""
    known = {tuple(place) for place in first.tolist()}
    others = np.array([place for place in all_places.tolist() if tuple(place) not in known], int).reshape(-1, 3)
    drawn: np.ndarray = np.concatenate([rng.permutation(first), rng.permutation(others)])[:number]
    return drawn


def _free(labelled: Sequence[LabelledMicrograph], box: int, diameter_px: float, border_px: float, number: int,
          rng: np.random.Generator) -> np.ndarray:
    """Draw places far from particles, in random order; of each micrograph as many as it might have to give alone."""
    found = [np.empty((0, 3), int)]
    for index, item in enumerate(labelled):
        places = free_places(item, box, diameter_px, border_px)
        chosen = rng.permutation(np.flatnonzero(places))[:number]
        corners = np.column_stack(np.unravel_index(chosen, places.shape))
        found.append(np.column_stack([np.full(len(corners), index), corners]))
    drawn: np.ndarray = rng.permutation(np.concatenate(found))
    return drawn
