# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Score map of a micrograph: box by box as a reference, and fast on the whole micrograph.

The score of a box position is the mean output of one or several networks for the box rotated by 0, 90, 180 and 270
degrees. Boxes are at rows 0, step, 2 step, ... and columns likewise, as long as they fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Mapping

import numpy as np

from ..errors import DeepEMError
from .architecture import build_network, set_weights
from .geometry import Geometry
from .stage import Stage

Weights = Mapping[str, np.ndarray]

# Micrographs are scanned in bands of rows, so that the maps of a layer stay below this size.
BAND_BYTES = 512 * 2**20


def scan_shape(shape: tuple[int, int], box: int, step: int) -> tuple[int, int]:
    """Compute the size of the score map of an image.

    Parameters
    ----------
    shape : tuple of two ints
        Rows and columns of the image.
    box : int
        Side of the box in binned pixels.
    step : int
        Scan step in binned pixels.

    Returns
    -------
    tuple of two ints
        Rows and columns of the score map, at least 1.

    Raises
    ------
    DeepEMError
        If the image is smaller than the box, or the step is below 1.

    Examples
    --------
    >>> scan_shape((100, 120), 40, 4)
    (16, 21)
    """
    if step < 1:
        raise DeepEMError(f"scan step {step}: expected at least 1 pixel")
    if min(shape) < box:
        raise DeepEMError(
            f"the micrograph has {shape[1]} x {shape[0]} binned pixels (width x height) and is smaller than the "
            f"model's box of {box}; check the pixel sizes of the micrograph and the model"
        )
    return (shape[0] - box) // step + 1, (shape[1] - box) // step + 1


def score_map_box_by_box(pixels: np.ndarray, geometry: Geometry, networks: Sequence[Weights], step: int,
                         rotations: int = 4, batch: int = 256) -> np.ndarray:
    """Compute the score map by cutting out every box and applying the network to it.

    This is the slow reference; `Scanner` computes the same scores up to rounding.

    Parameters
    ----------
    pixels : (rows, cols) float32 array
        Normalised micrograph at the working pixel size.
    geometry, networks, step, rotations
        As for `Scanner`.
    batch : int
        Number of boxes per call of the network.

    Returns
    -------
    (n_rows, n_cols) float32 array
        Scores, see `Scanner.scan`.

    Raises
    ------
    DeepEMError
        If the image is smaller than the box, or the step is below 1.
    """
    from keras import ops

    network = build_network(geometry)
    shape = scan_shape((pixels.shape[0], pixels.shape[1]), geometry.box, step)
    boxes = np.lib.stride_tricks.sliding_window_view(pixels, (geometry.box, geometry.box))[::step, ::step]
    boxes = boxes.reshape(-1, geometry.box, geometry.box)
    scores = np.zeros(len(boxes), np.float32)
    for weights in networks:
        set_weights(network, weights)
        for start in range(0, len(boxes), batch):
            part = boxes[start:start + batch, ..., np.newaxis]
            for turn in range(rotations):
                scores[start:start + batch] += ops.convert_to_numpy(
                    network(np.rot90(part, turn, axes=(1, 2)).copy(), training=False))[:, 0]
    return (scores / rotations / len(networks)).reshape(shape)


class Scanner:
    """Fast computation of score maps, on the whole micrograph at once.

    Scores are those of `score_map_box_by_box` up to rounding, for two reasons:

    - The kernels are rotated instead of the box. The output of the network for a rotated box is that of a network
      whose kernels are rotated the other way, so that each rotation is one more network.
    - The cells of the pooling start at the corner of the box, so that boxes share pooled maps only if their corners
      differ by multiples of the pool. At each pooling, box positions are therefore split into classes of the same
      remainder, with one pooled map each. If the step is a multiple of all pools there is one class.

    Parameters
    ----------
    geometry : Geometry
        Sizes of the layers of all networks.
    networks : sequence of mappings of str to array
        Weights of each network, see `Geometry.weight_shapes`.
    step : int
        Scan step in binned pixels.
    rotations : int
        4 to average over rotations by 90 degrees, 1 for the unrotated box only.

    Raises
    ------
    DeepEMError
        If the step is below 1, or the number of rotations is neither 1 nor 4.

    Notes
    -----
    A scanner reuses its memory from one image to the next: each thread needs its own.
    """

    def __init__(self, geometry: Geometry, networks: Sequence[Weights], step: int, rotations: int = 4) -> None:
        if rotations not in (1, 4):
            raise DeepEMError(f"rotations {rotations}: expected 1 or 4")
        if step < 1:
            raise DeepEMError(f"scan step {step}: expected at least 1 pixel")
        self.geometry = geometry
        self.step = step
        steps = [step]
        for pool in geometry.pools:
            steps.append(steps[-1] // math.gcd(steps[-1], pool))
        self._last_step = steps[-1]
        rotated = [_rotated_weights(geometry, weights, turn) for weights in networks for turn in range(rotations)]
        # One convolution with the first kernels of all networks and rotations is faster than one for each.
        self._first = Stage(np.concatenate([w["conv1.kernel"] for w in rotated], axis=3),
                            np.concatenate([w["conv1.bias"] for w in rotated]), geometry.pools[0], steps[0])
        self._following = [[Stage(w[f"conv{number}.kernel"], w[f"conv{number}.bias"], geometry.pools[number - 1],
                                  steps[number - 1]) for number in (2, 3)] for w in rotated]
        self._output = [(w["dense.kernel"], w["dense.bias"]) for w in rotated]

    def scan(self, pixels: np.ndarray) -> np.ndarray:
        """Compute the score map of an image.

        Parameters
        ----------
        pixels : (rows, cols) float32 array
            Normalised micrograph at the working pixel size.

        Returns
        -------
        (n_rows, n_cols) float32 array
            Scores. Element [i, j] is that of the box whose first pixel is (i step, j step) and whose centre is
            (box - 1) / 2 pixels further along either axis.

        Raises
        ------
        DeepEMError
            If the image is smaller than the box.
        """
        box, step = self.geometry.box, self.step
        rows, cols = scan_shape((pixels.shape[0], pixels.shape[1]), box, step)
        scores = np.empty((rows, cols), np.float32)
        bytes_per_row = 4 * pixels.shape[1] * max(len(self._output) * self.geometry.maps[0], *self.geometry.maps)
        band = max(1, (BAND_BYTES // bytes_per_row - box) // step + 1)
        for first in range(0, rows, band):
            last = min(first + band, rows)
            scores[first:last] = self._scan_band(pixels[first * step:], (last - first, cols))
        return scores

    def _scan_band(self, pixels: np.ndarray, counts: tuple[int, int]) -> np.ndarray:
        """Scores of the first `counts` box positions along rows and columns."""
        from keras import ops

        sides = list(zip(*[self._sides(count) for count in counts]))
        image = np.zeros((*sides[0], 1), np.float32)
        part = pixels[:sides[0][0], :sides[0][1]]
        image[:part.shape[0], :part.shape[1], 0] = part
        maps = self.geometry.maps[0]
        total: Any = 0.0
        shared = self._first([image], sides[1])
        for number, (second, third) in enumerate(self._following):
            images = [part[..., number * maps:(number + 1) * maps] for part in shared]
            images = third(second(images, sides[2]), sides[3])
            kernel, bias = self._output[number]
            total += ops.sigmoid(ops.conv(np.stack(images), kernel, self._last_step, "valid") + bias)
        scores = ops.convert_to_numpy(total / len(self._output))[..., 0]
        classes = [stage.classes for stage in (self._first, *self._following[0])]
        return _interleaved(scores, classes)[:counts[0], :counts[1]]

    def _sides(self, count: int) -> list[int]:
        """Sides, along one axis, of the image and of the pooled maps of each stage for this many box positions."""
        stages = (self._first, *self._following[0])
        for stage in stages:
            count = math.ceil(count / stage.classes)  # all classes are as large as the largest
        sides = [(count - 1) * self._last_step + self.geometry.layer_sizes[-1]]
        for stage in reversed(stages):
            sides.insert(0, stage.input_side(sides[0]))
        return sides


def _interleaved(scores: np.ndarray, classes: list[int]) -> np.ndarray:
    """Merge scores of all classes (those of the last pooling vary slowest), rows and columns into one score map."""
    first, second, third = classes
    rows, cols = scores.shape[1:]
    split = scores.reshape(third, third, second, second, first, first, rows, cols)
    return split.transpose(6, 0, 2, 4, 7, 1, 3, 5).reshape(rows * third * second * first, -1)


def _rotated_weights(geometry: Geometry, weights: Weights, turn: int) -> dict[str, np.ndarray]:
    """Weights whose output for a box is that of `weights` for the box rotated by `turn` x 90 degrees."""
    side, maps = geometry.layer_sizes[-1], geometry.maps[-1]
    kernels = {name: value for name, value in weights.items() if name.startswith("conv") and name.endswith("kernel")}
    kernels["dense.kernel"] = weights["dense.kernel"].reshape(side, side, maps, 1)
    rotated = {name: np.ascontiguousarray(np.rot90(value, -turn), np.float32) for name, value in kernels.items()}
    return {**{name: np.asarray(value, np.float32) for name, value in weights.items()}, **rotated}
