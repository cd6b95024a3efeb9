# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""One stage of the network (convolution, sigmoid, mean pooling) for all box positions of a scan at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import numpy as np

from .. import runtime
from .convolution import Convolution, direct, fastest_tile


class Stage:
    """Convolution, sigmoid, and mean pooling whose cells are aligned with each class of box positions.

    The cells of the pooling start at the corner of the box. Positions are of one class if their corners leave the same
    remainder modulo the pool: along either axis, class j consists of positions j, j + classes, j + 2 classes and so on.

    Parameters
    ----------
    kernel : (k, k, channels, maps) array
        Kernel of the convolution.
    bias : (maps,) array
        Bias of the convolution.
    pool : int
        Side of the pooling cells in pixels.
    step : int
        Distance between box positions, in pixels of the images that are passed to this stage.

    Attributes
    ----------
    convolution : Convolution
        The convolution.
    classes : int
        Number of classes along either axis.

    Notes
    -----
    The memory of the pooled maps is reused from one call to the next.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, pool: int, step: int) -> None:
        self.convolution = Convolution(kernel, bias)
        self.pool, self.step = pool, step
        self.classes = pool // math.gcd(step, pool)
        # With several classes means are needed at every pixel, and pooling needs a margin beyond whole cells.
        self._stride = pool if self.classes == 1 else 1
        self._margin = pool - self._stride
        self._buffer = np.empty(0, np.float32)

    def input_side(self, side: int) -> int:
        """Compute the size of the images that this stage needs.

        Parameters
        ----------
        side : int
            Rows, or columns, of the pooled maps of each class.

        Returns
        -------
        int
            Rows, or columns, of the images.
        """
        return self._pixels(self._cells(side))

    def __call__(self, images: list[np.ndarray], sides: tuple[int, int]) -> list[np.ndarray]:
        """Apply the stage block by block, with all threads.

        Blocks are small, since allocating hundreds of megabytes takes longer than filling them. If a block does not fit
        into memory, blocks are halved.

        Parameters
        ----------
        images : list of (rows, cols, channels) float32 arrays
            Images of the same size, see `input_side`.
        sides : tuple of two ints
            Rows and columns of the pooled maps of each class.

        Returns
        -------
        list of (*sides, maps) float32 arrays
            For each class along rows, for each class along columns, for each image. They are overwritten by the next
            call.
        """
        offsets = self.pool // self._stride
        shape = (len(images), offsets, offsets, self._cells(sides[0]), self._cells(sides[1]),
                 len(self.convolution.bias))
        if self._buffer.shape != shape:
            self._buffer = np.empty(shape, np.float32)
        pooled, tried = self._buffer, runtime.block_bytes()
        blocks = self._submit_blocks(images, pooled, tried)
        wait(blocks)  # for all of them even if one fails, since they write into what the next image will use
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

    def _submit_blocks(self, images: list[np.ndarray], pooled: np.ndarray, block_bytes: int) -> list[Future[None]]:
        """Start the computation of the pooled maps (image, row offset, column offset, row cell, column cell, map)."""
        tile = None if runtime.on_gpu() else fastest_tile(images[0].shape, self.convolution.kernel.shape)
        n_rows, n_cols = self._block_cells(pooled.shape[3:5], tile, block_bytes)

        def work(number: int, row: int, col: int) -> None:
            target = pooled[number, :, :, row:row + n_rows, col:col + n_cols]
            rows, cols = (self._pixels(cells) for cells in target.shape[2:4])
            top, left = row * self.pool, col * self.pool
            block = images[number][top:top + rows, left:left + cols]
            target[:] = self._by_offset(self.pooled_block(block, tile), target.shape[2:4])

        return [runtime.pool().submit(work, number, row, col) for number in range(len(images))
                for row in range(0, pooled.shape[3], n_rows) for col in range(0, pooled.shape[4], n_cols)]

    def pooled_block(self, block: np.ndarray, tile: int | None) -> np.ndarray:
        """Convolve and pool a block of an image.

        Parameters
        ----------
        block : (rows, cols, channels) float32 array
            Part of an image.
        tile : int or None
            Side of the tiles of a convolution by Fourier transforms; None for a direct one.

        Returns
        -------
        (rows, cols, maps) float32 array
            Pooled maps; there may be a few more columns than needed.
        """
        convolution = self.convolution
        if tile is not None:
            activate = _sigmoid_and_pooling(self.pool, self._stride, len(convolution.bias))
            pooled = activate(convolution.by_fourier(block, tile))
        else:
            missing = -(block.shape[1] - len(convolution.kernel) + 1) % convolution.columns
            if missing:
                block = np.pad(block, ((0, 0), (0, missing), (0, 0)))
            apply = _direct_stage(self.pool, self._stride, convolution.columns, convolution.shifted_kernels.shape,
                                  len(convolution.bias))
            with runtime.direct_convolution_slots():
                pooled = apply(block[np.newaxis], convolution.shifted_kernels, convolution.bias)
        image: np.ndarray = np.asarray(pooled)[0]
        return image

    def _block_cells(self, cells: tuple[int, ...], tile: int | None, block_bytes: int) -> tuple[int, int]:
        """Rows and columns, in cells, of the blocks into which an image of this many cells is divided."""
        side = int(math.sqrt(block_bytes / 4 / len(self.convolution.bias)))
        if tile is None:
            largest = max(1, (side - self._margin) // self.pool)
            rows, cols = (math.ceil(count / math.ceil(count / largest)) for count in cells)  # of about the same size
            return rows, cols
        valid = tile - len(self.convolution.kernel) + 1
        whole_tiles = max(1, side // valid) * valid
        return (max(1, (whole_tiles - self._margin) // self.pool),) * 2

    def _cells(self, side: int) -> int:
        """Count the cells that hold `side` pooled pixels of every class."""
        return (self.classes - 1) * self.step // self.pool + side + (self.classes > 1)

    def _pixels(self, cells: int) -> int:
        """Count the image pixels needed for this many cells."""
        return cells * self.pool + self._margin + len(self.convolution.kernel) - 1

    def _by_offset(self, pooled: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
        """Rearrange (rows, cols, maps) to (row offset, column offset, row cell, column cell, map)."""
        rows, cols = cells
        offsets = self.pool // self._stride
        pooled = pooled[:rows * offsets, :cols * offsets]
        return pooled.reshape(rows, offsets, cols, offsets, -1).transpose(1, 3, 0, 2, 4)


@functools.lru_cache(maxsize=None)
def _sigmoid_and_pooling(pool: int, stride: int, maps: int) -> Callable[[Any], Any]:
    """Compiled function of a convolved image."""
    def apply(convolved: Any) -> Any:
        from keras import ops

        return ops.average_pool(ops.sigmoid(convolved), pool, stride, "valid")

    return runtime.compiled(apply, (1, None, None, maps))


@functools.lru_cache(maxsize=None)
def _direct_stage(pool: int, stride: int, columns: int, shifted_kernels: tuple[int, ...],
                  maps: int) -> Callable[[Any, Any, Any], Any]:
    """Compiled function of an image, shifted kernels (of the given shape) and bias."""
    def apply(image: Any, kernels: Any, bias: Any) -> Any:
        from keras import ops

        return ops.average_pool(ops.sigmoid(direct(image, kernels, bias, columns)), pool, stride, "valid")

    return runtime.compiled(apply, (1, None, None, shifted_kernels[2]), shifted_kernels, (maps,))
