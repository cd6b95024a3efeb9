# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolution with large kernels, by discrete Fourier transforms along the columns.

The rows of an image are divided into overlapping tiles. The transform turns the convolution along columns into
products; along rows it remains a sum over the kernel's columns. All three steps, the transform, the sum of products and
the inverse transform, are weighted sums of whole rows. As the tiles are short, this is faster than fast Fourier
transforms.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from .kernels import Memory, WeightedSums

# Coefficients or rows that are computed together; also the real and imaginary parts of three maps.
TOGETHER = 6
# Rows in a tile, so that its coefficients can be computed together.
TILES = range(10, 259, 6)
# A multiplication takes about twice as long as in the direct convolution, as more numbers go through the cache.
FOURIER_COST = 2
# Columns whose spectra and products about fit into the cache of a core.
COLUMNS = 1024


class FourierConvolution:
    """Convolution with one kernel, with a sigmoid.

    Parameters
    ----------
    kernel : (k, k, channels, maps) array
        Kernel.
    bias : (maps,) array
        Bias of each map.
    spacing : int
        Distance in pixels between neighbouring samples that the kernel is applied to.
    tile : int
        Samples of a column in a tile, see `fastest_tile`.
    memory : Memory
        For intermediate results.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, spacing: int, tile: int, memory: Memory) -> None:
        self.side, _, self.channels, self.maps = kernel.shape
        self.tile, self.spacing, self.valid = tile, spacing, tile - self.side + 1
        angles = 2 * np.pi * np.outer(np.arange(tile), np.arange(tile // 2 + 1)) / tile  # (sample, frequency)
        waves = np.stack([np.cos(angles), -np.sin(angles)], -1).reshape(tile, -1)
        forward = _grouped(waves)
        self._forward = WeightedSums(forward, np.zeros(TOGETHER), shared=True)
        self._products = []
        for number, weights in enumerate(_spectra(kernel, tile)):
            constants = np.zeros((len(weights), TOGETHER))  # a constant has only the first frequency
            constants[0, ::2][:len(bias) - 3 * number] = bias[3 * number:3 * number + 3] * tile
            self._products.append(WeightedSums(weights, constants))
        # All frequencies but the first and, for an even number of samples, the last one stand for two.
        share = np.where((np.arange(tile // 2 + 1) * 2) % tile == 0, 1, 2).repeat(2) / tile
        inverse = _grouped((waves * share)[:self.valid].T)
        self._inverse = WeightedSums(inverse, np.zeros(TOGETHER), sigmoid=True, shared=True)
        self._groups = len(forward), len(inverse)
        self._memory = memory

    def rows(self, rows: int) -> int:
        """Return how many rows the target of this many rows must have room for."""
        each = self.valid * self.spacing
        return rows // each * each + self._groups[1] * TOGETHER * self.spacing

    def __call__(self, target: np.ndarray, pixels: np.ndarray, rows: int, columns: int) -> None:
        """Convolve rows and apply the sigmoid.

        Parameters
        ----------
        target : (maps, >= self.rows(rows), >= columns) float32 array
            Overwritten; made by `Memory`.
        pixels : (channels, rows + (k - 1) spacing, cols) float32 array
            Made by `Memory`.
        rows, columns : int
            Size of the result.
        """
        margin = (self.side - 1) * self.spacing
        starts = [top + remainder for top in range(0, rows, self.valid * self.spacing)
                  for remainder in range(min(self.spacing, rows - top))]
        for first, left in itertools.product(starts, range(0, columns, COLUMNS)):
            wide = min(COLUMNS, columns - left)
            spectra = self._transform(pixels[:, first:rows + margin:self.spacing, left:], wide + margin)
            for number, products in enumerate(self._products):
                rows_of_maps = target[number * 3:number * 3 + 3, first::self.spacing, left:]
                self._multiply(rows_of_maps, spectra, products, wide)

    def _transform(self, pixels: np.ndarray, columns: int) -> np.ndarray:
        """Spectra of one tile: (channels, coefficients, columns)."""
        spectra = self._memory.maps("spectra", self.channels, self._groups[0] * TOGETHER, columns)
        where = np.arange(min(self.tile, pixels.shape[1])) * (pixels.strides[1] // 4)
        for channel, coefficients in zip(pixels, spectra):
            self._forward(coefficients.reshape(-1, TOGETHER, 1, coefficients.shape[-1]), channel[None], where, columns)
        return spectra

    def _multiply(self, target: np.ndarray, spectra: np.ndarray, products: WeightedSums, columns: int) -> None:
        """Compute up to three maps of one tile from the spectra."""
        frequencies = self.tile // 2 + 1
        sums = self._memory.maps("sums", frequencies, TOGETHER, columns)
        channel, part, _ = (stride // 4 for stride in spectra.strides)
        taps = (np.arange(self.side)[:, None, None] * self.spacing + np.arange(self.channels)[:, None] * channel
                + np.arange(2) * part)
        products(sums[:, :, None], spectra[0, :2 * frequencies:2, None], taps.ravel(), columns)
        where = (np.arange(frequencies)[:, None] * sums.strides[0] + np.arange(2) * sums.strides[1]).ravel() // 4
        for number, rows in enumerate(target[:, :self._groups[1] * TOGETHER]):
            self._inverse(rows.reshape(-1, TOGETHER, 1, rows.shape[-1]), sums[:1, 2 * number:], where, columns)


@functools.lru_cache(maxsize=None)
def fastest_tile(kernel: tuple[int, ...], spacing: int, rows: int) -> int | None:
    """Choose the tiles of the fastest convolution by Fourier transforms.

    Parameters
    ----------
    kernel : tuple of four ints
        Shape of the kernel: k, k, channels, maps.
    spacing : int
        Distance in pixels between neighbouring samples.
    rows : int
        Rows of the result.

    Returns
    -------
    int or None
        Samples of a column in a tile; None if the direct convolution is faster.
    """
    cost = {tile: products(kernel, spacing, rows, tile) for tile in TILES if tile >= kernel[0]}
    best = min(cost, key=cost.__getitem__, default=None)
    return None if best is None or math.prod(kernel) <= FOURIER_COST * cost[best] else best


def products(kernel: tuple[int, ...], spacing: int, rows: int, tile: int) -> float:
    """Count the multiplications that the convolution by Fourier transforms needs.

    Parameters
    ----------
    kernel, spacing, rows
        As for `fastest_tile`.
    tile : int
        Samples of a column in a tile.

    Returns
    -------
    float
        Number per pixel of the result. The direct convolution needs as many as the kernel has weights.
    """
    side, _, channels, maps = kernel
    valid = tile - side + 1
    margin = 1 + (side - 1) * spacing / COLUMNS
    each = 2 * (tile // 2 + 1) * (channels * tile * margin + 2 * side * channels * TOGETHER // 2 * math.ceil(maps / 3)
                                  + maps * TOGETHER * math.ceil(valid / TOGETHER))
    return math.ceil(rows / (valid * spacing)) * spacing * each / rows


def _spectra(kernel: np.ndarray, tile: int) -> list[np.ndarray]:
    """Weights of the products, for three maps each: (frequency; column, channel and part; map and part)."""
    side, _, channels, maps = kernel.shape
    padded = np.zeros((side, side, channels, 3 * math.ceil(maps / 3)))
    padded[..., :maps] = kernel
    spectrum = np.fft.rfft(padded, tile, axis=0).conj()
    weights = np.stack([np.stack([spectrum.real, spectrum.imag], -1), np.stack([-spectrum.imag, spectrum.real], -1)],
                       3)  # (frequency, column, channel, part of the pixels, map, part of the result)
    return [weights[..., first:first + 3, :].reshape(len(weights), -1, TOGETHER)
            for first in range(0, padded.shape[3], 3)]


def _grouped(weights: np.ndarray) -> np.ndarray:
    """Divide weights, (taps, results), into groups of results, the last one with zeros: (groups, taps, `TOGETHER`)."""
    filled = np.pad(weights, ((0, 0), (0, -weights.shape[1] % TOGETHER)))
    return filled.reshape(len(weights), -1, TOGETHER).transpose(1, 0, 2)
