# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training examples in batches: single boxes, or crops that contain many boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Tuple

import numpy as np
from PIL import Image

from .. import runtime
from ..network.geometry import Geometry
from ..picking.candidates import pad_width
from .boxes import Boxes, corners_within
from .labels import UNKNOWN, LabelledMicrograph, label_map

Batch = Tuple[np.ndarray, np.ndarray]

# Sizes of the sample on which a network is assessed: boxes at a time, or crops.
SAMPLE_BATCH = 512
SAMPLE_CROPS = 256

# The boxes of the paper's presets are up to 272 pixels wide, and an update must not take seconds.
PIXELS_PER_BATCH = 400_000
MIN_BATCH = 4

# Augmented crops are larger or smaller by up to this share; contrast and brightness vary with this standard deviation.
# Up to this many particles all crops are augmented, with more of them a share that falls in proportion.
AUGMENTED_SIZE = 0.03
AUGMENTED_CONTRAST = 0.15
AUGMENTED_PARTICLES = 250


class Batches(Protocol):
    """A source of batches: images (n, side, side) float32, and targets (n, k, k) for k x k boxes of each.

    A target is 1 for a particle, 0 for a negative, `UNKNOWN` for neither.
    """

    updates_per_epoch: int

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of their order.

        Yields
        ------
        tuple of float32 array
            Images and targets.
        """

    def sample(self) -> list[Batch]:
        """Return batches on which a network is assessed: the same at every call."""


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches, while another thread prepares the next one if there are several threads.

    Parameters
    ----------
    batches : iterator of Batch
        Source of the batches.

    Yields
    ------
    Batch
        The same in the same order.
    """
    if runtime.threads() == 1:
        yield from batches
        return
    with ThreadPoolExecutor(1, "batches") as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


class BoxBatches:
    """Batches of boxes: each in its four rotations once an epoch, in random order, as in the paper.

    Parameters
    ----------
    boxes : Boxes
        Particles and negatives.
    batch : int
        Boxes in a batch.
    """

    def __init__(self, boxes: Boxes, batch: int) -> None:
        self.boxes, self.batch = boxes, batch
        self.updates_per_epoch = math.ceil(4 * len(boxes) / batch)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """See `Batches`; targets are (n, 1, 1)."""
        order = rng.permutation(4 * len(self.boxes))
        for begin in range(0, len(order), self.batch):
            which, turns = np.divmod(order[begin:begin + self.batch], 4)
            pixels = self.boxes.cut(which)
            for turn in (1, 2, 3):
                pixels[turns == turn] = np.rot90(pixels[turns == turn], turn, axes=(1, 2))
            yield pixels, self.boxes.targets[which, np.newaxis, np.newaxis]

    def sample(self) -> list[Batch]:
        """See `Batches`: all boxes in the orientation of the micrographs."""
        parts = [np.arange(begin, min(begin + SAMPLE_BATCH, len(self.boxes)))
                 for begin in range(0, len(self.boxes), SAMPLE_BATCH)]
        return [(self.boxes.cut(part), self.boxes.targets[part, np.newaxis, np.newaxis]) for part in parts]


class CropBatches:
    """Batches of crops that contain `side` x `side` boxes, which share most of their convolutions.

    Half of the crops contain a particle (or a given negative, or a particle that an earlier round missed) in a random
    one of their boxes, as far off its centre as `label_map` allows; the others come from anywhere. Each is rotated by a
    random multiple of 90 degrees and, every second time, mirrored. Augmented crops are rotated by any angle instead,
    and changed a little in size, contrast and brightness, so that few particles stand for many. All boxes with a known
    label count, so that the network sees many more negatives than with single boxes, and in the proportion in which it
    encounters them when it picks. Micrographs are mirror-padded as for the scan.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
        Micrographs.
    geometry : Geometry
        Sizes of the layers.
    diameter_px, border_px : float
        As for `label_map`.
    batch : int
        Crops in a batch; fewer if they have more than `PIXELS_PER_BATCH` pixels, but at least `MIN_BATCH`.
    side : int
        Boxes along the side of a crop, one step of the network's pools apart.
    updates_per_epoch : int
        Batches that make an epoch.
    augmented : bool
        Whether crops of `batches` are augmented, all or some (see `AUGMENTED_PARTICLES`). Those of `sample` never are.
    """

    def __init__(self, labelled: Sequence[LabelledMicrograph], geometry: Geometry, diameter_px: float,
                 border_px: float, batch: int, side: int, updates_per_epoch: int, augmented: bool = False) -> None:
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
        # Turned crops reach beyond the others by this number of pixels.
        self._margin = math.ceil((math.sqrt(2) * math.exp(AUGMENTED_SIZE) - 1) / 2 * (self.box + self._reach)) + 2
        self._turnable = [Image.fromarray(np.pad(image, self._margin, mode="symmetric"))
                          for image in self._images] if augmented else []
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
        """Pixels and targets of the crop with this corner, in one of eight orientations."""
        size, end = self.box + self._reach, self._reach + 1
        crop = self._images[number][row:row + size, col:col + size]
        labels = self._labels[number][row:row + end:self.step, col:col + end:self.step]
        turn, mirror = rng.integers(4), slice(None, None, 1 - 2 * int(rng.integers(2)))
        return np.rot90(crop[mirror], turn), np.rot90(labels[mirror], turn)

    def _augmented(self, number: int, row: int, col: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and targets of an augmented crop with the same centre as the one with this corner."""
        size = self.box + self._reach
        angle, mirror = rng.uniform(0, 2 * math.pi), 1 - 2 * int(rng.integers(2))
        scale = math.exp(rng.uniform(-AUGMENTED_SIZE, AUGMENTED_SIZE))
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        turn = np.array([[cosine, -sine * mirror], [sine, cosine * mirror]])
        middle = np.array([row, col]) + (size - 1) / 2
        # Pillow maps (x + 1/2, y + 1/2) of the crop, where x is the column, to the same of the image.
        row0, col0 = middle + 0.5 + self._margin - turn.sum(axis=1) * size / 2
        inverse = turn[1, 1], turn[1, 0], col0, turn[0, 1], turn[0, 0], row0
        crop = np.asarray(self._turnable[number].transform((size, size), Image.Transform.AFFINE, inverse,
                                                           Image.Resampling.BICUBIC))
        contrast, brightness = AUGMENTED_CONTRAST * rng.standard_normal(2)
        offsets = self.step * (np.indices((self.side, self.side)) - (self.side - 1) / 2)
        corners = middle[:, np.newaxis, np.newaxis] + np.tensordot(turn, offsets, 1) - (self.box - 1) / 2
        rows, cols = np.rint(corners).astype(int)
        labels = self._labels[number]
        known = (rows >= 0) & (rows < labels.shape[0]) & (cols >= 0) & (cols < labels.shape[1])
        targets = np.full(rows.shape, UNKNOWN, np.float32)
        targets[known] = labels[rows[known], cols[known]]
        return crop * np.float32(math.exp(contrast)) + np.float32(brightness), targets

    def sample(self) -> list[Batch]:
        """See `Batches`: crops drawn with a fixed seed."""
        rng = np.random.default_rng(0)
        return [self._draw(rng) for _ in range(SAMPLE_CROPS // self.batch)]

    def _known_corner(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Image number, and corner in the padded image, of a crop with something known in one of its boxes."""
        places = self._known[rng.integers(len(self._known))]
        number, *box_rc = places[rng.integers(len(places))]
        row, col = np.array(box_rc) - self.step * rng.integers(0, self.side, 2)
        return int(number), int(row), int(col)

    def _any_corner(self, rng: np.random.Generator) -> tuple[int, int, int]:
        number = int(rng.integers(len(self._images)))
        row, col = rng.integers(0, self._shapes[number] + self._reach)
        return number, int(row), int(col)


def _numbered(number: int, corners: np.ndarray) -> np.ndarray:
    return np.column_stack([np.full(len(corners), number), corners])
