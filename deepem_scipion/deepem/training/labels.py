# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known about a training micrograph: particles, negatives, and the label of each box position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..coordinates.masks import Mask
from ..micrographs.micrograph import Micrograph
from ..micrographs.padding import MIN_PADDING, padding_margins

# A box shows a particle if their centres are at most this many diameters apart.
POSITIVE_DISTANCE = 0.1
# The centre of a negative is more than this many diameters from that of any particle.
NEGATIVE_DISTANCE = 0.5
# Label of a box of which it is not known whether it shows a particle.
UNKNOWN = -1
NO_CENTRES = np.empty((0, 2))


@dataclass(frozen=True)
class LabelledMicrograph:
    """A micrograph with the known centres on it.

    Attributes
    ----------
    micrograph : Micrograph
        The micrograph, downsampled and normalised.
    particles_rc : (n, 2) float64 array
        Centres of particles as row, column in binned pixels, as all centres here.
    negatives_rc : (m, 2) float64 array
        Centres of negatives: given ones, or false positives of an earlier round.
    complete : bool
        Whether all particles are marked, so that places far from them are negatives.
    missed_rc : (k, 2) float64 array
        Those of the particles that an earlier round missed. They are shown more often.
    doubtful_rc : (l, 2) float64 array
        Centres of what may be unmarked particles: neither particles nor negatives.
    padding_px : int
        Width of the mirror padding on each side in binned pixels (see `mirror_padded`).
    negative_distance : float
        Places more than this many diameters from all particles are negatives. With exact centres it may be smaller than
        by default.
    masked : (rows, columns) bool array or None
        Binned pixels with contamination, which hold no negatives unless they are given; None without a mask.
    """

    micrograph: Micrograph
    particles_rc: np.ndarray
    negatives_rc: np.ndarray = field(default_factory=lambda: NO_CENTRES)
    complete: bool = True
    missed_rc: np.ndarray = field(default_factory=lambda: NO_CENTRES)
    doubtful_rc: np.ndarray = field(default_factory=lambda: NO_CENTRES)
    padding_px: int = 0
    negative_distance: float = NEGATIVE_DISTANCE
    masked: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Name of the micrograph."""
        return self.micrograph.name

    @property
    def pixels(self) -> np.ndarray:
        """Normalised pixels, (rows, columns) float32."""
        return self.micrograph.pixels

    @property
    def mask(self) -> Mask | None:
        """The masked pixels as a mask that a picker takes: 1 in it, 0 elsewhere."""
        return None if self.masked is None else Mask(self.masked.astype(np.float32))

    def in_mask(self, points_rc: np.ndarray) -> np.ndarray:
        """Return which points, (n, 2) row and column in binned pixels, are in the mask, as (n,) bool array."""
        if self.masked is None:
            return np.zeros(len(points_rc), bool)
        rows, columns = np.clip(np.rint(points_rc).astype(int), 0, np.array(self.masked.shape) - 1).T
        inside: np.ndarray = self.masked[rows, columns]
        return inside

    def mirror_padded(self, width_px: int) -> LabelledMicrograph:
        """Return the micrograph mirror-padded on each side, as it is for the scan.

        Parameters
        ----------
        width_px : int
            Width of the padding in binned pixels.

        Returns
        -------
        LabelledMicrograph
            With shifted centres.
        """
        pixels = np.pad(self.pixels, width_px, mode="symmetric")
        return LabelledMicrograph(replace(self.micrograph, pixels=pixels), self.particles_rc + width_px,
                                  self.negatives_rc + width_px, self.complete, self.missed_rc + width_px,
                                  self.doubtful_rc + width_px, self.padding_px + width_px, self.negative_distance,
                                  None if self.masked is None else np.pad(self.masked, width_px, mode="symmetric"))


def free_places(item: LabelledMicrograph, box: int, diameter_px: float, border_px: float) -> np.ndarray:
    """Find the places of boxes that are certain to be negatives.

    Their centres are more than `negative_distance` diameters from all particles, marked or doubtful, and outside the
    border without annotation and outside the mask, and the boxes contain no padding. There are none if not all
    particles are marked.

    Parameters
    ----------
    item : LabelledMicrograph
        Micrograph.
    box : int
        Side of the box, in binned pixels as are the other lengths.
    diameter_px : float
        Diameter of the particle.
    border_px : float
        Width of the border without annotation.

    Returns
    -------
    (rows - box + 1, columns - box + 1) bool array
        By the first row and column of the box.
    """
    taken = np.concatenate([item.particles_rc, item.doubtful_rc])
    free = ~_near(taken, item.negative_distance * diameter_px, _places(item, box), box)
    if not item.complete:
        free[:] = False
    half, mirrored = (box - 1) // 2, item.padding_px
    if item.masked is not None:
        free &= ~item.masked[half:half + free.shape[0], half:half + free.shape[1]]
    inner = item.pixels[mirrored:item.pixels.shape[0] - mirrored, mirrored:item.pixels.shape[1] - mirrored]
    top, bottom, left, right = (max(0, padding and padding + mirrored, int(np.ceil(border_px)) + mirrored - half)
                                for padding in padding_margins(inner, MIN_PADDING if mirrored else 1))
    free[:top] = free[max(0, free.shape[0] - bottom):] = False
    free[:, :left] = free[:, max(0, free.shape[1] - right):] = False
    return free


def label_map(item: LabelledMicrograph, box: int, diameter_px: float, border_px: float) -> np.ndarray:
    """Label the box at each place.

    Parameters
    ----------
    item, box, diameter_px, border_px
        As for `free_places`.

    Returns
    -------
    (rows - box + 1, columns - box + 1) int8 array
        By the first row and column of the box: 1 if its centre is at most `POSITIVE_DISTANCE` diameters from that of a
        particle; 0 if no particle is close (see `free_places`), or a given negative is; otherwise `UNKNOWN`.
    """
    labels = np.full(_places(item, box), UNKNOWN, np.int8)
    close = max(POSITIVE_DISTANCE * diameter_px, 0.75)  # at least the pixel closest to the centre
    labels[free_places(item, box, diameter_px, border_px)] = 0
    labels[_near(item.negatives_rc, close, labels.shape, box)] = 0
    labels[_near(item.particles_rc, close, labels.shape, box)] = 1
    return labels


def _places(item: LabelledMicrograph, box: int) -> tuple[int, int]:
    """Rows and columns of places of a box."""
    rows, columns = item.pixels.shape
    return rows - box + 1, columns - box + 1


def _near(points_rc: np.ndarray, distance_px: float, places: tuple[int, ...], box: int) -> np.ndarray:
    """Find the boxes whose centre is at most a distance from one of some points, as bool array by their corners."""
    near = np.zeros(places, bool)
    for row, column in points_rc - (box - 1) / 2:
        top, left = max(0, math.ceil(row - distance_px)), max(0, math.ceil(column - distance_px))
        part = near[top:max(0, math.floor(row + distance_px) + 1), left:max(0, math.floor(column + distance_px) + 1)]
        down, right = np.ogrid[:part.shape[0], :part.shape[1]]
        part |= np.hypot(down + (top - row), right + (left - column)) <= distance_px
    return near


def annotated_border(labelled: Sequence[LabelledMicrograph]) -> float:
    """Estimate the width of the border without annotation: the minimum distance of any particle from the edge.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
        Micrographs; those with unmarked particles do not count.

    Returns
    -------
    float
        Width in binned pixels. With few particles it is too wide rather than too narrow, which costs only some of the
        places for negatives.
    """
    margins: list[float] = []
    for item in labelled:
        if item.complete and len(item.particles_rc):
            rest = np.array(item.pixels.shape) - 1 - item.particles_rc
            margins.append(float(min(item.particles_rc.min(), rest.min())))
    return max(0.0, min(margins, default=0.0))
