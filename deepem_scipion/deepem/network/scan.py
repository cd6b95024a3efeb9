# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Score map of a micrograph: box by box as a reference, and fast on the whole micrograph.

The score of a box position is the mean output of one or several networks for the box rotated by 0, 90, 180 and 270
degrees. Boxes are at rows 0, step, 2 step, ... and columns likewise, as long as they fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Mapping

import numpy as np

from .. import runtime
from ..errors import DeepEMError
from .architecture import build_network, set_weights
from .geometry import Geometry
from .kernels import Memory, WeightedSums
from .stage import Stage, positions

Weights = Mapping[str, np.ndarray]

# Rows of the micrograph in a band, and least rows in a strip, in boxes; see `Scanner`.
BAND_ROWS = 256
MIN_STRIP_BOXES = 2


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
    """Fast computation of score maps, on the whole micrograph at once; may be used by several threads.

    Scores are those of `score_map_box_by_box` up to rounding, for two reasons:

    1. The box is not rotated. The networks are rotated the opposite way, which computes the same sums.
    2. Boxes that overlap share their feature maps. The cells of the poolings start at the corner of the box, so mean
       maps hold the means of all cells that any box needs, and the samples that belong to one box are some pixels
       apart, see `Stage`.

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
    The micrograph is divided into one strip of rows per thread, and a strip into bands of rows. All layers of a band
    are computed before the next one, so that its maps stay in the cache; rows of maps that the next band needs as well
    are kept.
    """

    def __init__(self, geometry: Geometry, networks: Sequence[Weights], step: int, rotations: int = 4) -> None:
        if rotations not in (1, 4):
            raise DeepEMError(f"rotations {rotations}: expected 1 or 4")
        if step < 1:
            raise DeepEMError(f"scan step {step}: expected at least 1 pixel")
        self.geometry = geometry
        self.step = step
        rotated = [rotated_weights(geometry, weights, turn) for weights in networks for turn in range(rotations)]
        self._memory = Memory()
        # Distance between box positions, in pixels of the maps before each stage and after the last one.
        self._steps, spacing = [step], 1
        self._stages: list[list[Stage]] = []  # of each layer: one for all networks, as they see the same pixels; theirs
        for number, pool in enumerate(geometry.pools, 1):
            kernels, biases = ([w[f"conv{number}.{kind}"] for w in rotated] for kind in ("kernel", "bias"))
            if number == 1:
                kernels, biases = [np.concatenate(kernels, axis=3)], [np.concatenate(biases)]
            stride = math.gcd(self._steps[-1], spacing * pool)
            self._stages.append([Stage(kernel, bias, pool, spacing, stride, self._memory)
                                 for kernel, bias in zip(kernels, biases)])
            self._steps.append(self._steps[-1] // stride)
            spacing = spacing * pool // stride
        self._spacing = spacing
        self._output = [WeightedSums(w["dense.kernel"].reshape(-1, 1), w["dense.bias"], self._steps[-1], sigmoid=True)
                        for w in rotated]

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
        box = self.geometry.box
        scores = np.empty(scan_shape((pixels.shape[0], pixels.shape[1]), box, self.step), np.float32)
        # Neighbouring strips compute the same maps for up to one box.
        strips = max(1, min(runtime.threads(), len(scores), len(scores) * self.step // (MIN_STRIP_BOXES * box)))
        bounds = [len(scores) * number // strips for number in range(strips + 1)]
        running = [runtime.pool().submit(self._scan_strip, pixels, first, scores[first:last])
                   for first, last in zip(bounds, bounds[1:])]
        wait(running)  # for all of them even if one fails
        for strip in running:
            strip.result()
        return scores

    def _scan_strip(self, pixels: np.ndarray, first_row: int, scores: np.ndarray) -> None:
        """Compute rows of scores, from row `first_row` on, band by band."""
        band = min(max(1, BAND_ROWS // self.step), len(scores))
        columns, each = self._sides(scores.shape[1]), self.geometry.maps[0]
        counts = [1, len(self._output) * each, *self.geometry.maps[1:]]
        rooms = [self._memory.maps(f"layer {number}", *size)
                 for number, size in enumerate(zip(counts, self._sides(band), columns))]
        image, shared = map(_Layer, rooms[:2])
        own = [[_Layer(room) for room in rooms[2:]] for _ in self._output]
        scores[:] = 0
        for first in range(0, len(scores), band):
            part, row = scores[first:first + band], first_row + first
            tops, following = ([at * step for step in self._steps] for at in (row, row + len(part)))
            wanted = list(zip(tops, self._sides(len(part)), columns))
            start, new = image.move(*wanted[0][:2])
            new[0, :, :columns[0]] = pixels[start:start + new.shape[1], :columns[0]]
            self._apply(self._stages[0], [shared], image, slice(None), wanted[1:])
            for network, layers in enumerate(own):
                maps = slice(network * each, (network + 1) * each)
                stages = [of_all[network] for of_all in self._stages[1:]]
                self._apply(stages, layers, shared, maps, wanted[2:])
                self._score(part, layers[-1].maps if layers else shared.maps[maps], self._output[network])
                for layer, top in zip(layers, following[2:]):  # the next network needs the room
                    layer.keep(top)
            for layer, top in zip((image, shared), following):
                layer.keep(top)
        scores /= len(self._output)

    def _apply(self, stages: Sequence[Stage], layers: Sequence[_Layer], source: _Layer, maps: slice,
               wanted: Sequence[tuple[int, int, int]]) -> None:
        """Compute what is missing of some layers: of the first from the given maps of `source`."""
        for stage, layer, (top, rows, columns) in zip(stages, layers, wanted):
            start, new = layer.move(top, rows)
            stage(new, source.below(start * stage.stride)[maps], columns)
            source, maps = layer, slice(None)

    def _score(self, scores: np.ndarray, maps: np.ndarray, output: WeightedSums) -> None:
        """Add the scores that an output layer gives to the pooled maps of the last stage."""
        rows, columns = scores.shape
        room = self._memory.maps("scores", 1, rows, columns)[None]
        where = positions(maps, self.geometry.layer_sizes[-1], self._spacing)
        output(room, maps[:1], where, columns, self._steps[-1])
        scores += room[0, 0, :, :columns]

    def _sides(self, count: int) -> list[int]:
        """Rows, or columns, of the image and of the pooled maps of each stage for this many box positions."""
        sides = [(count - 1) * self._steps[-1] + (self.geometry.layer_sizes[-1] - 1) * self._spacing + 1]
        for stages in reversed(self._stages):
            sides.insert(0, stages[0].input_side(sides[0]))
        return sides


class _Layer:
    """The rows of maps that are in memory: some of the image, or of the pooled maps of a stage."""

    def __init__(self, maps: np.ndarray) -> None:
        self.maps, self._rest, self._top, self._rows = maps, maps[:, :0], 0, 0

    def move(self, top: int, rows: int) -> tuple[int, np.ndarray]:
        """Move to some rows from `top` on; return from which row on they are missing, and the place for those."""
        kept = self._rest.shape[1]
        self.maps[:, :kept] = self._rest
        self._top, self._rows = top, rows
        return top + kept, self.maps[:, kept:rows]

    def below(self, row: int) -> np.ndarray:
        """Return the rows from this one on."""
        return self.maps[:, row - self._top:]

    def keep(self, top: int) -> None:
        """Copy the rows from this one on, which the following rows need as well."""
        self._rest = self.maps[:, top - self._top:self._rows].copy()


def rotated_weights(geometry: Geometry, weights: Weights, turn: int) -> dict[str, np.ndarray]:
    """Weights whose output for a box is that of `weights` for the box rotated by `turn` x 90 degrees."""
    side, maps = geometry.layer_sizes[-1], geometry.maps[-1]
    kernels = {name: value for name, value in weights.items() if name.startswith("conv") and name.endswith("kernel")}
    kernels["dense.kernel"] = weights["dense.kernel"].reshape(side, side, maps, 1)
    rotated = {name: np.ascontiguousarray(np.rot90(value, -turn), np.float32) for name, value in kernels.items()}
    return {**{name: np.asarray(value, np.float32) for name, value in weights.items()}, **rotated}
