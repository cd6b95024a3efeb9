# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boxes around particles and negatives, cut from the training micrographs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..micrographs.normalisation import normalise_each_box
from .labels import LabelledMicrograph, free_places

log = logging.getLogger(__name__)


@dataclass
class Boxes:
    """Boxes of several micrographs, which are cut on demand.

    Attributes
    ----------
    images : list of (rows, columns) float32 array
        Pixels of the micrographs.
    box : int
        Side of a box in binned pixels.
    places : (n, 3) int array
        Image number, first row and first column of each box.
    targets : (n,) float32 array
        1 for a particle, 0 for a negative.
    normalised : bool
        Whether each box that is cut has mean 0 and standard deviation 1, as in the paper's procedure.
    stds : (n,) float64 array
        Standard deviation of the grey values of each box, in the paper's procedure.
    """

    images: list[np.ndarray]
    box: int
    places: np.ndarray
    targets: np.ndarray
    normalised: bool = False
    stds: np.ndarray = field(default_factory=lambda: np.empty(0))
    _views: list[np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = self.box, self.box
        self._views = [np.lib.stride_tricks.sliding_window_view(image, shape) if min(image.shape) >= self.box
                       else np.empty((0, 0, *shape), np.float32) for image in self.images]

    def __len__(self) -> int:
        return len(self.places)

    def cut(self, which: np.ndarray) -> np.ndarray:
        """Cut some of the boxes.

        Parameters
        ----------
        which : (k,) int array
            Numbers of boxes.

        Returns
        -------
        (k, box, box) float32 array
            Their pixels.
        """
        pixels = np.empty((len(which), self.box, self.box), np.float32)
        places = self.places[which]
        for number in np.unique(places[:, 0]):
            here = places[:, 0] == number
            pixels[here] = self._views[number][places[here, 1], places[here, 2]]
        return normalise_each_box(pixels) if self.normalised else pixels

    def local_stds(self, chunk: int = 1024) -> np.ndarray:
        """Compute the standard deviation of each box, for the local standard deviation filter.

        Parameters
        ----------
        chunk : int
            Number of boxes that are cut at a time.

        Returns
        -------
        (n,) float64 array
        """
        parts = [self.cut(np.arange(start, min(start + chunk, len(self)))).std(axis=(1, 2), dtype=np.float64)
                 for start in range(0, len(self), chunk)]
        return np.concatenate(parts) if parts else np.empty(0)


def collect_boxes(labelled: Sequence[LabelledMicrograph], box: int, diameter_px: float, border_px: float,
                  negatives_per_particle: float, rng: np.random.Generator) -> Boxes:
    """Collect the boxes of particles and negatives.

    Particles whose box leaves the micrograph are left out; those that an earlier round missed come twice. Negatives are
    the given ones and, drawn at random from `free_places`, `negatives_per_particle` times as many as there are
    particles.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
        Micrographs.
    box : int
        Side of the box, in binned pixels as are the other lengths.
    diameter_px : float
        Diameter of the particle.
    border_px : float
        Width of the border without annotation: no centre of a random negative lies there.
    negatives_per_particle : float
        Random negatives of a micrograph for each of its particles.
    rng : numpy.random.Generator
        Source of the random negatives.

    Returns
    -------
    Boxes
    """
    places: list[np.ndarray] = [np.empty((0, 3), int)]
    targets: list[np.ndarray] = [np.empty(0, np.float32)]

    def add(number: int, corners: np.ndarray, target: float) -> None:
        places.append(np.column_stack([np.full(len(corners), number), corners]))
        targets.append(np.full(len(corners), target, np.float32))

    for number, item in enumerate(labelled):
        positives = corners_within(item.particles_rc, box, item.pixels.shape)
        add(number, positives, 1)
        add(number, corners_within(item.missed_rc, box, item.pixels.shape), 1)
        add(number, corners_within(item.negatives_rc, box, item.pixels.shape), 0)
        wanted = round(negatives_per_particle * len(positives))
        if wanted and item.complete:
            free = free_places(item, box, diameter_px, border_px)
            found = np.flatnonzero(free)
            if len(found) < wanted:
                log.warning("%s: room for %d of the %d negatives wanted", item.name, len(found), wanted)
            chosen = rng.choice(found, min(wanted, len(found)), replace=False)
            add(number, np.column_stack(np.unravel_index(chosen, free.shape)), 0)
    return Boxes([item.pixels for item in labelled], box, np.concatenate(places), np.concatenate(targets))


def corners_within(centres_rc: np.ndarray, box: int, shape: tuple[int, ...]) -> np.ndarray:
    """Find the corners of the boxes around centres, without those that leave the image.

    Parameters
    ----------
    centres_rc : (n, 2) array
        Centres as row, column.
    box : int
        Side of the boxes.
    shape : tuple of int
        Rows and columns of the image.

    Returns
    -------
    (m, 2) int array
        First row and column of each box.
    """
    corners = np.rint(np.asarray(centres_rc).reshape(-1, 2) - (box - 1) / 2).astype(int)
    inside: np.ndarray = corners[((corners >= 0) & (corners + box <= np.array(shape[:2]))).all(axis=1)]
    return inside
