# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the network is shown, batch by batch: single windows, or patches that hold many windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ..network.geometry import Geometry
from ..picking.candidates import pad_width
from .boxes import Boxes, corners_within
from .labels import UNKNOWN, LabelledMicrograph, label_map

Batch = tuple[np.ndarray, np.ndarray]

# To judge the network by: so many windows at a time, or so many batches of patches.
SAMPLE_BATCH = 512
SAMPLE_BATCHES = 16

# The windows of the paper's presets are up to 272 pixels wide, and an update must not take seconds.
PIXELS_PER_BATCH = 400_000
MIN_BATCH = 4

# Varied patches are larger or smaller by up to this share; contrast and brightness vary with this deviation. Up to so
# many particles all patches are varied, with more of them a share that falls in proportion.
AUGMENTED_SIZE = 0.03
AUGMENTED_CONTRAST = 0.15
AUGMENTED_PARTICLES = 250


class Batches(Protocol):
    """A source of batches."""

    updates_per_epoch: int

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Batches of one epoch: images (n, side, side) float32, and targets (n, k, k) for k x k windows of each.

        A target is 1 for a particle, 0 for a non-particle, `UNKNOWN` for neither.
        """

    def sample(self) -> list[Batch]:
        """Batches to judge the network by: the same at every call."""


class BoxBatches:
    """Every window in its four rotations once an epoch, in random order (the paper's way)."""

    def __init__(self, windows: Boxes, batch: int) -> None:
        self.windows, self.batch = windows, batch
        self.updates_per_epoch = math.ceil(4 * len(windows) / batch)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """See `Batches`; targets are (n, 1, 1)."""
        order = rng.permutation(4 * len(self.windows))
        for begin in range(0, len(order), self.batch):
            which, turns = np.divmod(order[begin:begin + self.batch], 4)
            pixels = self.windows.cut(which)
            for turn in (1, 2, 3):
                pixels[turns == turn] = np.rot90(pixels[turns == turn], turn, axes=(1, 2))
            yield pixels, self.windows.targets[which, np.newaxis, np.newaxis]

    def sample(self) -> list[Batch]:
        """See `Batches`: all windows as they lie in the micrographs."""
        parts = [np.arange(begin, min(begin + SAMPLE_BATCH, len(self.windows)))
                 for begin in range(0, len(self.windows), SAMPLE_BATCH)]
        return [(self.windows.cut(part), self.windows.targets[part, np.newaxis, np.newaxis]) for part in parts]


class CropBatches:
    """Patches that hold `side` x `side` windows, which share most of their convolutions.

    Half of the patches hold a particle (or a given non-particle, or a particle that an earlier round missed) in a
    random one of their windows, off its centre by as much as `label_map` allows; the others are from anywhere. Each is
    turned by a random multiple of 90 degrees and, every second time, mirrored. Varied patches are turned by any angle
    instead, and changed a little in size, contrast and brightness, so that few particles do for many. All windows count
    whose label is known, so that the network sees many more non-particles than in single windows, and in the proportion
    in which it will meet them when it picks. Micrographs are continued by their mirror image as they are for the scan.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
    geometry : Geometry
    diameter_px, border_px
        As for `label_map`.
    batch : int
        Patches in a batch; fewer where they have more than `PIXELS_PER_BATCH` pixels, but at least `MIN_BATCH`.
    side : int
        Windows along the side of a patch.
    updates_per_epoch : int
        Batches that are called an epoch.
    varied : bool
        Whether patches of `batches` are varied, all or some (see `AUGMENTED_PARTICLES`); those of `sample` never are.
    """

    def __init__(self, labelled: Sequence[LabelledMicrograph], geometry: Geometry, diameter_px: float,
                 border_px: float, batch: int, side: int, updates_per_epoch: int, augmented: bool = False) -> None:
        from scipy.ndimage import spline_filter

        self.side, self.updates_per_epoch = side, updates_per_epoch
        self.step = math.prod(geometry.pools)
        self.box = geometry.box
        self._reach = self.step * (side - 1)
        self.batch = max(MIN_BATCH, min(batch, PIXELS_PER_BATCH // (self.box + self._reach) ** 2))
        labelled = [item.mirror_padded(pad_width(geometry.box)) for item in labelled]
        self._shapes = [np.array(item.pixels.shape) - geometry.box + 1 for item in labelled]
        self._images = [np.pad(item.pixels, self._reach, mode="symmetric") for item in labelled]
        n_particles = sum(len(item.particles_rc) for item in labelled)
        self._augmented_share = augmented * min(1.0, AUGMENTED_PARTICLES / max(n_particles, 1))
        self._splines = [spline_filter(image, output=np.float32) for image in self._images] if augmented else []
        self._labels = [np.pad(label_map(item, geometry.box, diameter_px, border_px), self._reach,
                               constant_values=UNKNOWN) for item in labelled]
        particles = [_numbered(number, np.argwhere(labels == 1)) for number, labels in enumerate(self._labels)]
        given, missed = ([_numbered(number, corners_within(centres_rc, self.box, item.pixels.shape) + self._reach)
                          for number, (item, centres_rc) in enumerate(zip(labelled, kind))]
                         for kind in ([item.negatives_rc for item in labelled], [item.missed_rc for item in labelled]))
        kinds = [np.concatenate(places) for places in (particles, given, missed)]
        self._known = [places for places in kinds if len(places)]

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """See `Batches`; targets are (n, side, side)."""
        return (self._draw(rng, self._augmented_share) for _ in range(self.updates_per_epoch))

    def _draw(self, rng: np.random.Generator, augmented_share: float = 0.0) -> Batch:
        size = self.box + self._reach
        pixels = np.empty((self.batch, size, size), np.float32)
        targets = np.empty((self.batch, self.side, self.side), np.float32)
        for place in range(self.batch):
            corner = self._known_corner(rng) if place % 2 == 0 else self._any_corner(rng)
            make = self._augmented if rng.random() < augmented_share else self._plain
            pixels[place], targets[place] = make(*corner, rng)
        return pixels, targets

    def _plain(self, number: int, row: int, col: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and targets of the patch with this corner, in one of eight orientations."""
        size, end = self.box + self._reach, self._reach + 1
        patch = self._images[number][row:row + size, col:col + size]
        labels = self._labels[number][row:row + end:self.step, col:col + end:self.step]
        turn, mirror = rng.integers(4), slice(None, None, 1 - 2 * int(rng.integers(2)))
        return np.rot90(patch[mirror], turn), np.rot90(labels[mirror], turn)

    def _augmented(self, number: int, row: int, col: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and targets of a patch that has the same middle as the one with this corner."""
        from scipy.ndimage import affine_transform

        size = self.box + self._reach
        angle, mirror = rng.uniform(0, 2 * math.pi), 1 - 2 * int(rng.integers(2))
        scale = math.exp(rng.uniform(-AUGMENTED_SIZE, AUGMENTED_SIZE))
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        turn = np.array([[cosine, -sine * mirror], [sine, cosine * mirror]])
        middle = np.array([row, col]) + (size - 1) / 2
        patch = affine_transform(self._splines[number], turn, middle - turn.sum(axis=1) * (size - 1) / 2, (size, size),
                                 output=np.float32, mode="mirror", prefilter=False)
        contrast, brightness = AUGMENTED_CONTRAST * rng.standard_normal(2)
        offsets = self.step * (np.indices((self.side, self.side)) - (self.side - 1) / 2)
        corners = middle[:, np.newaxis, np.newaxis] + np.tensordot(turn, offsets, 1) - (self.box - 1) / 2
        rows, cols = np.rint(corners).astype(int)
        labels = self._labels[number]
        known = (rows >= 0) & (rows < labels.shape[0]) & (cols >= 0) & (cols < labels.shape[1])
        targets = np.full(rows.shape, UNKNOWN, np.float32)
        targets[known] = labels[rows[known], cols[known]]
        return patch * np.float32(math.exp(contrast)) + np.float32(brightness), targets

    def sample(self) -> list[Batch]:
        """See `Batches`: patches drawn with a seed of their own."""
        rng = np.random.default_rng(0)
        return [self._draw(rng) for _ in range(SAMPLE_BATCHES)]

    def _known_corner(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Image number, and corner in the padded image, of a patch one of whose windows shows something known."""
        places = self._known[rng.integers(len(self._known))]
        number, *window_rc = places[rng.integers(len(places))]
        row, col = np.array(window_rc) - self.step * rng.integers(0, self.side, 2)
        return int(number), int(row), int(col)

    def _any_corner(self, rng: np.random.Generator) -> tuple[int, int, int]:
        number = int(rng.integers(len(self._images)))
        row, col = rng.integers(0, self._shapes[number] + self._reach)
        return number, int(row), int(col)


def _numbered(number: int, corners: np.ndarray) -> np.ndarray:
    return np.column_stack([np.full(len(corners), number), corners])
