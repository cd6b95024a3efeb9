# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The score of every window of the scan: plain window by window, and fast on the whole micrograph.

A window's score is the mean of the output of one or several networks over the window turned by 0, 90, 180 and 270
degrees. Windows stand at rows 0, step, 2 step, ... and columns likewise, as long as they fit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from typing import Any

import numpy as np

from .. import runtime
from ..errors import DeepEMError
from .architecture import build_network, set_weights
from .convolution import Convolution, direct, fastest_tile
from .geometry import Geometry

Weights = Mapping[str, np.ndarray]

# Micrographs are scanned in bands of rows so that a layer's maps stay below this size.
BAND_BYTES = 512 * 2**20


def scan_shape(shape: tuple[int, int], box: int, step: int) -> tuple[int, int]:
    """Rows and columns of the score map of an image; at least one window must fit.

    Raises
    ------
    DeepEMError
        Where the image is smaller than the box, or the step is below 1.
    """
    if step < 1:
        raise DeepEMError(f"scan step {step}: expected at least 1 pixel")
    if min(shape) < box:
        raise DeepEMError(
            f"the micrograph is {shape[1]} x {shape[0]} working pixels (width x height), smaller than the "
            f"model's box of {box}; check the pixel sizes of the micrograph and the model"
        )
    return (shape[0] - box) // step + 1, (shape[1] - box) // step + 1


def score_map_by_windows(pixels: np.ndarray, geometry: Geometry, networks: Sequence[Weights], step: int,
                         rotations: int = 4, batch: int = 256) -> np.ndarray:
    """Scores by cutting every window and giving it to the network: slow, the reference.

    Parameters and result are those of `Scanner` and `Scanner.scan`.
    """
    from keras import ops

    network = build_network(geometry)
    shape = scan_shape((pixels.shape[0], pixels.shape[1]), geometry.box, step)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (geometry.box, geometry.box))[::step, ::step]
    windows = windows.reshape(-1, geometry.box, geometry.box)
    scores = np.zeros(len(windows), np.float32)
    for weights in networks:
        set_weights(network, weights)
        for start in range(0, len(windows), batch):
            part = windows[start:start + batch, ..., np.newaxis]
            for turn in range(rotations):
                scores[start:start + batch] += ops.convert_to_numpy(
                    network(np.rot90(part, turn, axes=(1, 2)).copy(), training=False))[:, 0]
    return (scores / rotations / len(networks)).reshape(shape)


class Scanner:
    """Scores of all windows of an image, computed on the whole image at once.

    The numbers are those of `score_map_by_windows` but for rounding. Two things make that so:

    - instead of the window the weights are turned: the network's output for a turned window is the
      output of the network with kernels turned the other way, so that a rotation is one network more;
    - pooling starts anew in each window, so windows share maps only if their corners differ by
      multiples of the pool. At each pooling the windows are therefore split into classes of the same
      remainder, with one pooled map for each. A step of a multiple of all pools leaves one class.

    Parameters
    ----------
    geometry : Geometry
    networks : sequence of mappings of str to array
        Weights of each network, as in `Geometry.weight_shapes`.
    step : int
        Scan step in working pixels.
    rotations : int
        4, or 1 for the window as it is only.

    Raises
    ------
    DeepEMError
        Where the step is below 1 or the number of rotations is another.

    Notes
    -----
    A scanner keeps room for maps from one image to the next: threads need one each.
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
        turned = [_turned_weights(geometry, weights, turn) for weights in networks for turn in range(rotations)]
        # One convolution with the first kernels of all networks and rotations is faster than one for each.
        self._first = _Stage(np.concatenate([w["conv1.kernel"] for w in turned], axis=3),
                             np.concatenate([w["conv1.bias"] for w in turned]), geometry.pools[0], steps[0])
        self._following = [[_Stage(w[f"conv{number}.kernel"], w[f"conv{number}.bias"], geometry.pools[number - 1],
                                   steps[number - 1]) for number in (2, 3)] for w in turned]
        self._output = [(w["dense.kernel"], w["dense.bias"]) for w in turned]

    def scan(self, pixels: np.ndarray) -> np.ndarray:
        """Score of each window.

        Parameters
        ----------
        pixels : (rows, cols) float32
            Normalised micrograph at working pixel size.

        Returns
        -------
        scores : (n_rows, n_cols) float32
            Element [i, j] belongs to the window whose first pixel is (i step, j step); its centre is
            (box - 1) / 2 further.

        Raises
        ------
        DeepEMError
            Where the image is smaller than the box.
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
        """Scores of the first windows of an image, `counts` of them along rows and columns."""
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
        return _in_order(scores, classes)[:counts[0], :counts[1]]

    def _sides(self, count: int) -> list[int]:
        """Pixels, along one axis, of the image and of the pooled maps of each stage that `count` windows need."""
        stages = (self._first, *self._following[0])
        for stage in stages:
            count = math.ceil(count / stage.classes)  # all classes are given as many windows as the largest
        sides = [(count - 1) * self._last_step + self.geometry.layer_sizes[-1]]
        for stage in reversed(stages):
            sides.insert(0, stage.needed(sides[0]))
        return sides


class _Stage:
    """Convolution, sigmoid, and mean-pooling that starts anew for each class of windows.

    Windows are of one class if their corners have the same remainder: along either axis, class j holds windows j,
    j + classes, and so on.

    Parameters
    ----------
    kernel : (k, k, channels, maps) float32
    bias : (maps,) float32
    pool : side of the cells of the pooling
    step : step between windows, in pixels of the images that the stage is given
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, pool: int, step: int) -> None:
        self.pool, self.step = pool, step
        self.classes = pool // math.gcd(step, pool)
        # With several classes means are needed at every place, and pooling needs a halo beyond whole cells.
        self._stride = pool if self.classes == 1 else 1
        self._halo = pool - self._stride
        self._convolution = Convolution(kernel, bias)
        self._room = np.empty(0, np.float32)

    def needed(self, side: int) -> int:
        """Pixels of the stage's images for pooled maps of `side` pixels in each class."""
        return self._cells(side) * self.pool + self._halo + len(self._convolution.kernel) - 1

    def __call__(self, images: list[np.ndarray], sides: tuple[int, int]) -> list[np.ndarray]:
        """Apply the stage, block by block.

        Blocks are small, since arrays of hundreds of megabytes cost more time to get from the operating system than to
        fill. Where a block does not fit into memory they are made smaller still.

        Parameters
        ----------
        images : list of (rows, cols, channels) float32
        sides : rows and columns of the pooled maps of each class

        Returns
        -------
        list of (*sides, maps) float32
            For each row class and in it each column class and in it each image.
        """
        kernel, maps = len(self._convolution.kernel), len(self._convolution.bias)
        remainders = self.pool // self._stride
        shape = (len(images), remainders, remainders, self._cells(sides[0]), self._cells(sides[1]), maps)
        if self._room.shape != shape:  # kept, as it is slow to get
            self._room = np.empty(shape, np.float32)
        pooled = self._room
        tried = runtime.block_bytes()
        tile = None if runtime.on_gpu() else fastest_tile(images[0].shape, self._convolution.kernel.shape)
        cells = self._block_cells(pooled.shape[3:5], tile, tried)

        def work(number: int, row: int, col: int) -> None:
            target = pooled[number, :, :, row:row + cells[0], col:col + cells[1]]
            rows, cols = (count * self.pool + self._halo + kernel - 1 for count in target.shape[2:4])
            top, left = row * self.pool, col * self.pool
            block = images[number][top:top + rows, left:left + cols]
            target[:] = self._by_remainder(self._pooled(block, tile), target.shape[2:4])

        blocks = [runtime.pool().submit(work, number, row, col) for number in range(len(images))
                  for row in range(0, pooled.shape[3], cells[0]) for col in range(0, pooled.shape[4], cells[1])]
        wait(blocks)  # all of them, also where one fails: they write into what the next image will use
        try:
            for block in blocks:
                block.result()
        except Exception as error:
            if not runtime.halve_blocks(error, tried):
                raise
            return self(images, sides)
        corners = [divmod(number * self.step, self.pool) for number in range(self.classes)]
        return [image[r, c, row:row + sides[0], col:col + sides[1]] for row, r in corners for col, c in corners
                for image in pooled]

    def _block_cells(self, cells: tuple[int, ...], tile: int | None, block_bytes: int) -> tuple[int, ...]:
        """Rows and columns, in cells, of the blocks into which an image of so many cells is divided."""
        side = int(math.sqrt(block_bytes / 4 / len(self._convolution.bias)))
        if tile is None:
            most = max(1, (side - self._halo) // self.pool)
            return tuple(math.ceil(count / math.ceil(count / most)) for count in cells)  # all of about the same size
        valid = tile - len(self._convolution.kernel) + 1
        whole_tiles = max(1, side // valid) * valid
        return (max(1, (whole_tiles - self._halo) // self.pool),) * 2

    def _pooled(self, block: np.ndarray, tile: int | None) -> np.ndarray:
        """Pooled maps (rows, cols, maps) of a block of an image; there may be some more columns than asked for."""
        convolution = self._convolution
        if tile is not None:
            pooled = _second_half(self.pool, self._stride, len(convolution.bias))(convolution.by_fourier(block, tile))
        else:
            missing = -(block.shape[1] - len(convolution.kernel) + 1) % convolution.columns
            if missing:
                block = np.pad(block, ((0, 0), (0, missing), (0, 0)))
            whole = _whole(self.pool, self._stride, convolution.columns, convolution.beside.shape,
                           len(convolution.bias))
            with runtime.direct_at_a_time():
                pooled = whole(block[np.newaxis], convolution.beside, convolution.bias)
        image: np.ndarray = runtime.to_numpy(pooled)[0]
        return image

    def _cells(self, side: int) -> int:
        """Whole cells that hold `side` pooled pixels of every class."""
        return (self.classes - 1) * self.step // self.pool + side + (self.classes > 1)

    def _by_remainder(self, pooled: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
        """From (rows, cols, maps) to (remainders, remainders, row cells, column cells, maps)."""
        rows, cols = cells
        each = self.pool // self._stride
        pooled = pooled[:rows * each, :cols * each]
        return pooled.reshape(rows, each, cols, each, -1).transpose(1, 3, 0, 2, 4)


@functools.cache
def _second_half(pool: int, stride: int, maps: int) -> Callable[[Any], Any]:
    """Function that applies sigmoid and pooling."""
    def apply(convolved: Any) -> Any:
        from keras import ops

        return ops.average_pool(ops.sigmoid(convolved), pool, stride, "valid")

    return runtime.compiled(apply, (1, None, None, maps))


@functools.cache
def _whole(pool: int, stride: int, columns: int, beside: tuple[int, ...], maps: int) -> Callable[[Any, Any, Any], Any]:
    """Function that applies direct convolution (parameters as for `direct`), sigmoid and pooling."""
    def apply(image: Any, kernels: Any, bias: Any) -> Any:
        from keras import ops

        return ops.average_pool(ops.sigmoid(direct(image, kernels, bias, columns)), pool, stride, "valid")

    return runtime.compiled(apply, (1, None, None, beside[2]), beside, (maps,))


def _in_order(scores: np.ndarray, classes: list[int]) -> np.ndarray:
    """Put scores of classes (the last pooling's outermost), rows and columns at the places of their windows."""
    first, second, third = classes
    rows, cols = scores.shape[1:]
    split = scores.reshape(third, third, second, second, first, first, rows, cols)
    return split.transpose(6, 0, 2, 4, 7, 1, 3, 5).reshape(rows * third * second * first, -1)


def _turned_weights(geometry: Geometry, weights: Weights, turn: int) -> dict[str, np.ndarray]:
    """Weights whose output for a window is that of `weights` for the window turned by `turn` x 90 degrees."""
    side, maps = geometry.layer_sizes[-1], geometry.maps[-1]
    kernels = {name: value for name, value in weights.items() if name.startswith("conv") and name.endswith("kernel")}
    kernels["dense.kernel"] = weights["dense.kernel"].reshape(side, side, maps, 1)
    turned = {name: np.ascontiguousarray(np.rot90(value, -turn), np.float32) for name, value in kernels.items()}
    return {**{name: np.asarray(value, np.float32) for name, value in weights.items()}, **turned}
