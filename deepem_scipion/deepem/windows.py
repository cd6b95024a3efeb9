# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training windows: where particles and non-particles are cut from the micrographs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .micrographs import LEAST_PADDING, Micrograph, padding_margins

log = logging.getLogger(__name__)

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
        Working pixels by which the micrograph was continued on each side (see `continued`).
    """

    micrograph: Micrograph
    particles_rc: np.ndarray
    negatives_rc: np.ndarray = field(default_factory=lambda: NOWHERE)
    complete: bool = True
    missed_rc: np.ndarray = field(default_factory=lambda: NOWHERE)
    doubtful_rc: np.ndarray = field(default_factory=lambda: NOWHERE)
    beyond_px: int = 0

    @property
    def pixels(self) -> np.ndarray:
        """(rows, cols) float32, normalised."""
        return self.micrograph.pixels

    def continued(self, width: int) -> LabelledMicrograph:
        """Itself with pixels continued by their mirror image, `width` on each side, as they are when it is picked."""
        pixels = np.pad(self.pixels, width, mode="symmetric")
        return LabelledMicrograph(replace(self.micrograph, pixels=pixels), self.particles_rc + width,
                                  self.negatives_rc + width, self.complete, self.missed_rc + width,
                                  self.doubtful_rc + width, self.beyond_px + width)


@dataclass
class Windows:
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

    def deviations(self, chunk: int = 1024) -> np.ndarray:
        """Standard deviation of each window's pixels, (n,) float64, for the deviation filter."""
        parts = [self.cut(np.arange(start, min(start + chunk, len(self)))).std(axis=(1, 2), dtype=np.float64)
                 for start in range(0, len(self), chunk)]
        return np.concatenate(parts) if parts else np.empty(0)


def collect_windows(labelled: Sequence[LabelledMicrograph], box: int, diameter_px: float, border_px: float,
                    negatives_per_particle: float, rng: np.random.Generator) -> Windows:
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
    return Windows([item.pixels for item in labelled], box, np.concatenate(places), np.concatenate(targets), left_out)


def corners_within(centres_rc: np.ndarray, box: int, shape: tuple[int, ...]) -> np.ndarray:
    """First row and column, (n, 2) int, of the windows around centres, without those that leave the image."""
    corners = np.rint(np.asarray(centres_rc).reshape(-1, 2) - (box - 1) / 2).astype(int)
    inside: np.ndarray = corners[((corners >= 0) & (corners + box <= np.array(shape[:2]))).all(axis=1)]
    return inside


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
    half, beyond = (box - 1) // 2, item.beyond_px
    inner = item.pixels[beyond:item.pixels.shape[0] - beyond, beyond:item.pixels.shape[1] - beyond]
    top, bottom, left, right = (max(0, padding and padding + beyond, int(np.ceil(border_px)) + beyond - half)
                                for padding in padding_margins(inner, LEAST_PADDING if beyond else 1))
    free[:top] = free[max(0, free.shape[0] - bottom):] = False
    free[:, :left] = free[:, max(0, free.shape[1] - right):] = False
    return free


def label_map(item: LabelledMicrograph, box: int, diameter_px: float, border_px: float) -> np.ndarray:
    """What is known of the window at each place.

    Parameters
    ----------
    item, box, diameter_px, border_px
        As for `collect_windows`.

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
