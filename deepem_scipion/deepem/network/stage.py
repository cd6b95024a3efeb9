# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""One stage of the network (convolution, sigmoid, mean pooling) for all box positions of a scan at once."""

from __future__ import annotations

import functools

import numpy as np

from .convolution import FourierConvolution, fastest_tile
from .kernels import Memory, WeightedSums

# Convolved maps are pooled while they are in the cache of a core.
CACHE_BYTES = 2**20
# The same for convolutions by Fourier transforms, which need more rows.
FOURIER_BYTES = 32 * 2**20
# At most this many maps are computed from the same pixels.
MAX_MAPS = 6


class Stage:
    """Convolution, sigmoid, and mean pooling of maps in which the samples of a box are `spacing` pixels apart.

    Parameters
    ----------
    kernel : (k, k, channels, maps) array
    bias : (maps,) array
    pool : int
        Side of the pooling cells in samples.
    spacing : int
        Distance in pixels between neighbouring samples.
    stride : int
        Every `stride`-th row and column of the pooled maps is computed.
    memory : Memory
        For intermediate results; stages that are applied one after another use the same, so that it is in the cache.

    Attributes
    ----------
    reach : int
        Distance in pixels between the first and the last row that a result depends on.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, pool: int, spacing: int, stride: int,
                 memory: Memory) -> None:
        self.spacing, self.stride = spacing, stride
        self.side, _, self.channels, self.maps = kernel.shape
        self._window = (pool - 1) * spacing
        self.reach = (self.side - 1) * spacing + self._window
        self._kernel, self._bias, self._pool = kernel, bias, pool
        together = max(n for n in range(1, MAX_MAPS + 1) if self.maps % n == 0)
        self._direct = [WeightedSums(kernel[..., m:m + together].reshape(-1, together), bias[m:m + together],
                                     sigmoid=True) for m in range(0, self.maps, together)]
        self._mean = WeightedSums(np.full((pool**2, 1), 1 / pool**2), np.zeros(1), stride)
        self._fourier: dict[int, FourierConvolution] = {}
        self._memory = memory

    def input_side(self, side: int) -> int:
        """Compute how many rows, or columns, of the input this many rows, or columns, of the result depend on."""
        return (side - 1) * self.stride + self.reach + 1

    def __call__(self, target: np.ndarray, source: np.ndarray, columns: int) -> None:
        """Compute rows of the pooled maps.

        Parameters
        ----------
        target : (maps, rows, cols) float32 array
            Overwritten; made by `Memory`.
        source : (channels, rows, cols) float32 array
            Maps, or a view of their rows; made by `Memory`.
        columns : int
            Number of columns of the result.
        """
        wide = (columns - 1) * self.stride + self._window + 1  # columns of the convolved maps
        tile = fastest_tile(self._kernel.shape, self.spacing, self._convolved_rows(target.shape[1]))
        maps = self.maps // (1 if tile else len(self._direct))
        rows = max(1, ((FOURIER_BYTES if tile else CACHE_BYTES) // (4 * maps * wide) - self._window) // self.stride)
        for first in range(0, target.shape[1], rows):
            last = min(first + rows, target.shape[1])
            high, pixels = self._convolved_rows(last - first), source[:, first * self.stride:]
            convolved = self._memory.maps("convolved", maps, self._by_fourier(tile).rows(high) if tile else high, wide)
            cell = positions(convolved[:1], self._pool, self.spacing)
            for number, direct in enumerate(self._direct[:self.maps // maps]):
                if tile:
                    self._by_fourier(tile)(convolved, pixels, high, wide)
                else:
                    direct(convolved[None], pixels[:1], positions(pixels, self.side, self.spacing), wide)
                self._mean(target[number * maps:(number + 1) * maps, None, first:last], convolved, cell, columns,
                           self.stride)

    def _convolved_rows(self, rows: int) -> int:
        """Count the rows of the convolved maps that this many rows of the result depend on."""
        return (rows - 1) * self.stride + self._window + 1

    def _by_fourier(self, tile: int) -> FourierConvolution:
        if tile not in self._fourier:
            self._fourier[tile] = FourierConvolution(self._kernel, self._bias, self.spacing, tile, self._memory)
        return self._fourier[tile]


def positions(maps: np.ndarray, side: int, spacing: int) -> np.ndarray:
    """Return the positions of the samples of a square, in elements of the memory.

    Parameters
    ----------
    maps : (maps, rows, cols) float32 array
        The square is in all maps.
    side : int
        Side of the square in samples.
    spacing : int
        Distance between neighbouring samples in pixels.

    Returns
    -------
    (side * side * maps,) int64 array
        In the order of rows, columns and maps, like the weights of Keras.
    """
    return _positions(len(maps), side, spacing, maps.strides)


@functools.lru_cache(maxsize=256)
def _positions(maps: int, side: int, spacing: int, strides: tuple[int, int, int]) -> np.ndarray:
    plane, row, column = (stride // 4 for stride in strides)
    steps = np.arange(side, dtype=np.int64) * spacing
    found: np.ndarray = (steps[:, None, None] * row + steps[:, None] * column + np.arange(maps) * plane).ravel()
    return found
