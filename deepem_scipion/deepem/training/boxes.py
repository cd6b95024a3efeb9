# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boxes around particles and negatives, cut from the training micrographs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .labels import LabelledMicrograph, free_places

log = logging.getLogger(__name__)


@dataclass
class Boxes:
    """Windows of several micrographs, cut when they are asked for.

    Parameters
    ----------
    images : list of (rows, cols) float32
    box : int
        Side of a window in pixels.
    places : (n, 3) int
        Image number, first row and first column of each window.
    targets : (n,) float32
        1 for a particle, 0 for a non-particle.
    """

    images: list[np.ndarray]
    box: int
    places: np.ndarray
    targets: np.ndarray
    left_out: int = 0
    _views: list[np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = self.box, self.box
        self._views = [np.lib.stride_tricks.sliding_window_view(image, shape) if min(image.shape) >= self.box
                       else np.empty((0, 0, *shape), np.float32) for image in self.images]

    def __len__(self) -> int:
        return len(self.places)

    def cut(self, which: np.ndarray) -> np.ndarray:
        """Pixels, (k, box, box) float32, of the windows of k numbers."""
        pixels = np.empty((len(which), self.box, self.box), np.float32)
        places = self.places[which]
        for number in np.unique(places[:, 0]):
            here = places[:, 0] == number
            pixels[here] = self._views[number][places[here, 1], places[here, 2]]
        return pixels

    def local_stds(self, chunk: int = 1024) -> np.ndarray:
        """Standard deviation of each window's pixels, (n,) float64, for the deviation filter."""
        parts = [self.cut(np.arange(start, min(start + chunk, len(self)))).std(axis=(1, 2), dtype=np.float64)
                 for start in range(0, len(self), chunk)]
        return np.concatenate(parts) if parts else np.empty(0)


def collect_boxes(labelled: Sequence[LabelledMicrograph], box: int, diameter_px: float, border_px: float,
                    negatives_per_particle: float, rng: np.random.Generator) -> Boxes:
    """Windows of all particles whose box lies within the micrograph, and of non-particles.

    Non-particles are those given and `negatives_per_particle` times as many places as there are particles,
    drawn at random where `free_places` allows. Particles that an earlier round missed come twice.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
    box : int
        Working pixels, as are `diameter_px` and `border_px`.
    diameter_px : float
        Particle diameter.
    border_px : float
        Width of the border in which nobody annotated: no random non-particles have their centre there.
    negatives_per_particle : float
    rng : numpy.random.Generator

    Returns
    -------
    Windows
        `left_out` counts the particles whose box leaves the micrograph.
    """
    places: list[np.ndarray] = [np.empty((0, 3), int)]
    targets: list[np.ndarray] = [np.empty(0, np.float32)]
    left_out = 0

    def add(number: int, corners: np.ndarray, target: float) -> None:
        places.append(np.column_stack([np.full(len(corners), number), corners]))
        targets.append(np.full(len(corners), target, np.float32))

    for number, item in enumerate(labelled):
        positives = corners_within(item.particles_rc, box, item.pixels.shape)
        left_out += len(item.particles_rc) - len(positives)
        add(number, positives, 1)
        add(number, corners_within(item.missed_rc, box, item.pixels.shape), 1)
        add(number, corners_within(item.negatives_rc, box, item.pixels.shape), 0)
        wanted = round(negatives_per_particle * len(positives))
        if wanted and item.complete:
            free = free_places(item, box, diameter_px, border_px)
            found = np.flatnonzero(free)
            if len(found) < wanted:
                log.warning("%s: room for %d non-particles of the %d wanted", item.micrograph.name, len(found), wanted)
            chosen = rng.choice(found, min(wanted, len(found)), replace=False)
            add(number, np.column_stack(np.unravel_index(chosen, free.shape)), 0)
    return Boxes([item.pixels for item in labelled], box, np.concatenate(places), np.concatenate(targets), left_out)


def corners_within(centres_rc: np.ndarray, box: int, shape: tuple[int, ...]) -> np.ndarray:
    """First row and column, (n, 2) int, of the windows around centres, without those that leave the image."""
    corners = np.rint(np.asarray(centres_rc).reshape(-1, 2) - (box - 1) / 2).astype(int)
    inside: np.ndarray = corners[((corners >= 0) & (corners + box <= np.array(shape[:2]))).all(axis=1)]
    return inside
