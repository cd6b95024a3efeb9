# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a training micrograph: particles, negatives, and the label of each box position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..micrographs.micrograph import Micrograph
from ..micrographs.padding import MIN_PADDING, padding_margins

# A window whose centre is at most this many diameters from a particle's shows that particle.
POSITIVE_DISTANCE = 0.1
# A non-particle's centre is at least this many diameters from every particle's.
NEGATIVE_DISTANCE = 0.5
# Label of a window of which it is not known whether it shows a particle.
UNKNOWN = -1
NOWHERE = np.empty((0, 2))


@dataclass(frozen=True)
class LabelledMicrograph:
    """A micrograph with the centres that are known on it.

    Parameters
    ----------
    micrograph : Micrograph
    particles_rc : (n, 2) float64
        Centres of particles in working pixels.
    negatives_rc : (m, 2) float64
        Centres of non-particles: verified ones, or false picks of an earlier round.
    complete : bool
        Whether all particles are marked, so that places far from them are non-particles.
    missed_rc : (k, 2) float64
        Those of the particles that an earlier round missed: they are shown more often.
    doubtful_rc : (l, 2) float64
        Centres of what may be unmarked particles: neither particles nor non-particles.
    beyond_px : int
        Working pixels by which the micrograph was continued on each side (see `mirror_padded`).
    """

    micrograph: Micrograph
    particles_rc: np.ndarray
    negatives_rc: np.ndarray = field(default_factory=lambda: NOWHERE)
    complete: bool = True
    missed_rc: np.ndarray = field(default_factory=lambda: NOWHERE)
    doubtful_rc: np.ndarray = field(default_factory=lambda: NOWHERE)
    padding_px: int = 0

    @property
    def pixels(self) -> np.ndarray:
        """(rows, cols) float32, normalised."""
        return self.micrograph.pixels

    def mirror_padded(self, width: int) -> LabelledMicrograph:
        """Itself with pixels continued by their mirror image, `width` on each side, as they are when it is picked."""
        pixels = np.pad(self.pixels, width, mode="symmetric")
        return LabelledMicrograph(replace(self.micrograph, pixels=pixels), self.particles_rc + width,
                                  self.negatives_rc + width, self.complete, self.missed_rc + width,
                                  self.doubtful_rc + width, self.padding_px + width)


def free_places(item: LabelledMicrograph, box: int, diameter_px: float, border_px: float) -> np.ndarray:
    """Where the first pixel of a non-particle's window may be.

    Its centre is at least `NEGATIVE_DISTANCE` diameters from every particle, marked or doubtful, and outside the
    border in which nobody annotated, and the window holds no padding. Nowhere, if not all particles are marked.

    Returns
    -------
    (rows - box + 1, cols - box + 1) bool
    """
    taken = np.concatenate([item.particles_rc, item.doubtful_rc])
    free = _distances(taken, item.pixels.shape, box) >= NEGATIVE_DISTANCE * diameter_px
    if not item.complete:
        free[:] = False
    half, beyond = (box - 1) // 2, item.padding_px
    inner = item.pixels[beyond:item.pixels.shape[0] - beyond, beyond:item.pixels.shape[1] - beyond]
    top, bottom, left, right = (max(0, padding and padding + beyond, int(np.ceil(border_px)) + beyond - half)
                                for padding in padding_margins(inner, MIN_PADDING if beyond else 1))
    free[:top] = free[max(0, free.shape[0] - bottom):] = False
    free[:, :left] = free[:, max(0, free.shape[1] - right):] = False
    return free


def label_map(item: LabelledMicrograph, box: int, diameter_px: float, border_px: float) -> np.ndarray:
    """What is known of the window at each place.

    Parameters
    ----------
    item, box, diameter_px, border_px
        As for `collect_boxes`.

    Returns
    -------
    (rows - box + 1, cols - box + 1) int8
        For the window whose first pixel is there: 1, a particle's centre is at most `POSITIVE_DISTANCE` diameters from
        the window's; 0, no particle is near (see `free_places`), or a given non-particle is; -1, unknown.
    """
    labels = np.full((item.pixels.shape[0] - box + 1, item.pixels.shape[1] - box + 1), UNKNOWN, np.int8)
    near = max(POSITIVE_DISTANCE * diameter_px, 0.75)  # at least the pixel nearest to the centre
    labels[free_places(item, box, diameter_px, border_px)] = 0
    labels[_distances(item.negatives_rc, item.pixels.shape, box) <= near] = 0
    labels[_distances(item.particles_rc, item.pixels.shape, box) <= near] = 1
    return labels


def _distances(points_rc: np.ndarray, shape: tuple[int, ...], box: int) -> np.ndarray:
    """Distance from the centre of each window of an image to the nearest of some points; infinite without any."""
    from scipy.ndimage import distance_transform_edt

    places = shape[0] - box + 1, shape[1] - box + 1
    if not len(points_rc):
        return np.full(places, np.inf)
    marks = np.ones(shape, bool)
    numbers = np.zeros(shape, int)
    at = np.clip(np.rint(points_rc).astype(int), 0, np.array(shape) - 1)
    marks[at[:, 0], at[:, 1]] = False
    numbers[at[:, 0], at[:, 1]] = np.arange(len(points_rc))
    # The pixel marked nearest to each pixel tells which point is nearest; the distance is then exact.
    rows, cols = distance_transform_edt(marks, return_distances=False, return_indices=True)
    half = (box - 1) // 2
    part = slice(half, half + places[0]), slice(half, half + places[1])
    nearest = points_rc[numbers[rows[part], cols[part]]]
    centres = np.indices(places).transpose(1, 2, 0) + (box - 1) / 2
    distances: np.ndarray = np.linalg.norm(centres - nearest, axis=2)
    return distances


def annotated_border(labelled: Sequence[LabelledMicrograph]) -> float:
    """Width of the border in which nobody annotated: the least distance of any particle from a border.

    In working pixels. With few particles it is too wide rather than too narrow, which costs only some
    of the places for non-particles.
    """
    margins: list[float] = []
    for item in labelled:
        if item.complete and len(item.particles_rc):
            rest = np.array(item.pixels.shape) - 1 - item.particles_rc
            margins.append(float(min(item.particles_rc.min(), rest.min())))
    return max(0.0, min(margins, default=0.0))
