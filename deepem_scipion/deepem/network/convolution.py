# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolution with large kernels, by discrete Fourier transforms along the rows.

A row is divided into overlapping tiles. The transform turns the convolution along rows into products; along columns it
remains a sum over the kernel's rows. All three steps, the transform, the sum of products and the inverse transform, are
weighted sums. As the tiles are short, this is faster than fast Fourier transforms.
"""

from __future__ import annotations

import math

import numpy as np

from .kernels import ROOM, Memory, WeightedSums

# Coefficients or positions that are computed together; also the real and imaginary parts of three maps.
TOGETHER = 6
# Samples in a tile, so that its coefficients can be computed together.
TILES = range(10, 259, 6)
# Spectra of a block of rows about fit into the cache of a core.
CACHE_BYTES = 2 * 2**20
# Copying a pixel takes as long as this many multiplications.
COPY = 50


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
        Samples in a tile, see `fastest_tile`.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, spacing: int, tile: int) -> None:
        self.side, _, self.channels, self.maps = kernel.shape
        self.tile, self.spacing, self.valid = tile, spacing, tile - self.side + 1
        angles = 2 * np.pi * np.outer(np.arange(tile), np.arange(tile // 2 + 1)) / tile  # (sample, frequency)
        waves = np.stack([np.cos(angles), -np.sin(angles)], -1).reshape(tile, -1)
        self._forward = [WeightedSums(waves[:, first:first + TOGETHER], np.zeros(TOGETHER))
                         for first in range(0, waves.shape[1], TOGETHER)]
        self._products = []
        for number, weights in enumerate(_spectra(kernel, tile)):
            constants = np.zeros((len(weights), TOGETHER))  # a constant has only the first frequency
            constants[0, ::2][:len(bias) - 3 * number] = bias[3 * number:3 * number + 3] * tile
            self._products.append(WeightedSums(weights, constants))
        # All frequencies but the first and, for an even number of samples, the last one stand for two.
        share = np.where((np.arange(tile // 2 + 1) * 2) % tile == 0, 1, 2).repeat(2) / tile
        back = np.zeros((waves.shape[1], math.ceil(self.valid / TOGETHER) * TOGETHER))
        back[:, :self.valid] = (waves * share)[:self.valid].T
        self._inverse = [WeightedSums(back[:, first:first + TOGETHER], np.zeros(TOGETHER), sigmoid=True)
                         for first in range(0, back.shape[1], TOGETHER)]
        self._memory = Memory()

    def __call__(self, target: np.ndarray, pixels: np.ndarray, columns: int) -> None:
        """Convolve rows and apply the sigmoid.

        Parameters
        ----------
        target : (maps, rows, cols) float32 array
            Overwritten; at least `columns` columns.
        pixels : (channels, rows + (k - 1) spacing, cols) float32 array
            Made by `Memory`.
        columns : int
            Number of columns of the result.
        """
        tiles = math.ceil(columns / (self.valid * self.spacing))
        wide = tiles * self.spacing  # columns of spectra: the tiles of each remainder modulo the spacing
        rows = max(1, CACHE_BYTES // (4 * wide * self.tile * TOGETHER))
        for first in range(0, target.shape[1], rows):
            part = target[:, first:first + rows]
            spectra = self._transform(pixels[:, first:], part.shape[1] + (self.side - 1) * self.spacing, tiles)
            taps = _taps(spectra, self.side, self.spacing * wide)
            for number, products in enumerate(self._products):
                self._multiply(part[number * 3:number * 3 + 3], spectra, products, taps, tiles, columns)

    def _transform(self, pixels: np.ndarray, rows: int, tiles: int) -> np.ndarray:
        """Spectra of all rows, channel by channel: (channels, coefficients, 1, rows * columns)."""
        wide = tiles * self.spacing
        samples = self._memory.maps("samples", self.channels * self.tile, 1, rows * wide)
        plane, row, column = pixels.strides
        overlapping = np.lib.stride_tricks.as_strided(
            pixels, (self.channels, self.tile, rows, tiles, self.spacing),
            (plane, column * self.spacing, row, column * self.spacing * self.valid, column))
        samples = samples.reshape(self.channels, self.tile, 1, -1)
        samples[..., 0, :rows * wide].reshape(overlapping.shape)[:] = overlapping
        spectra = self._memory.maps("spectra", self.channels * len(self._forward) * TOGETHER, 1, rows * wide)
        spectra = spectra.reshape(self.channels, -1, 1, spectra.shape[-1])
        where = np.arange(self.tile) * (samples.strides[1] // 4)
        for number, forward in enumerate(self._forward):
            forward(spectra[:, number * TOGETHER:(number + 1) * TOGETHER], samples[:, 0], where, rows * wide)
        return spectra

    def _multiply(self, target: np.ndarray, spectra: np.ndarray, products: WeightedSums, taps: np.ndarray, tiles: int,
                  columns: int) -> None:
        """Compute up to three maps from the spectra."""
        maps, rows = target.shape[:2]
        wide, frequencies = tiles * self.spacing, self.tile // 2 + 1
        sums = self._memory.maps("sums", frequencies * TOGETHER, 1, rows * wide)
        sums = sums.reshape(frequencies, TOGETHER, 1, -1)
        products(sums, spectra[0, ::2], taps, rows * wide)
        result = self._memory.maps("result", maps * len(self._inverse) * TOGETHER, 1, rows * wide)
        result = result.reshape(maps, -1, 1, result.shape[-1])
        where = (np.arange(frequencies)[:, None] * TOGETHER + np.arange(2)).ravel() * (sums.strides[1] // 4)
        for number, inverse in enumerate(self._inverse):
            inverse(result[:, number * TOGETHER:(number + 1) * TOGETHER], sums[0, :2 * maps:2], where, rows * wide)
        ordered = result[:, :self.valid, 0, :rows * wide].reshape(maps, self.valid, rows, tiles, self.spacing)
        ordered = ordered.transpose(0, 2, 3, 1, 4)
        each = self.valid * self.spacing
        whole = columns // each * each
        target[:, :, :whole].reshape(maps, rows, -1, self.valid, self.spacing)[:] = ordered[:, :, :columns // each]
        target[:, :, whole:columns] = ordered[:, :, -1].reshape(maps, rows, each)[:, :, :columns - whole]


def fastest_tile(kernel: tuple[int, ...], spacing: int, columns: int) -> int | None:
    """Choose the tiles of the fastest convolution by Fourier transforms.

    Parameters
    ----------
    kernel : tuple of four ints
        Shape of the kernel: k, k, channels, maps.
    spacing : int
        Distance in pixels between neighbouring samples.
    columns : int
        Columns of the result.

    Returns
    -------
    int or None
        Samples in a tile; None if the direct convolution is faster.
    """
    tiles = [tile for tile in TILES if tile >= kernel[0] and tile * spacing <= ROOM]
    cost = {tile: products(kernel, spacing, columns, tile) for tile in tiles}
    best = min(cost, key=cost.__getitem__, default=None)
    return None if best is None or math.prod(kernel) <= cost[best] else best


def products(kernel: tuple[int, ...], spacing: int, columns: int, tile: int) -> float:
    """Estimate how many multiplications the convolution by Fourier transforms needs.

    Parameters
    ----------
    kernel, spacing, columns
        As for `fastest_tile`.
    tile : int
        Samples in a tile.

    Returns
    -------
    float
        Number per pixel of the result. The direct convolution needs as many as the kernel has weights.
    """
    side, _, channels, maps = kernel
    valid = tile - side + 1
    tiles = math.ceil(columns / (valid * spacing)) * spacing
    coefficients = 2 * (tile // 2 + 1)
    each = coefficients * (channels * tile * 1.5 + 2 * side * channels * 3 * math.ceil(maps / 3) + maps * valid)
    return tiles * (each + COPY * (channels * tile * 1.5 + maps * valid)) / columns


def _spectra(kernel: np.ndarray, tile: int) -> list[np.ndarray]:
    """Weights of the products, for three maps each: (frequency, row, channel and part, map and part)."""
    side, _, channels, maps = kernel.shape
    padded = np.zeros((side, side, channels, 3 * math.ceil(maps / 3)))
    padded[..., :maps] = kernel
    spectrum = np.fft.rfft(padded, tile, axis=1).conj().transpose(1, 0, 2, 3)
    weights = np.stack([np.stack([spectrum.real, spectrum.imag], -1), np.stack([-spectrum.imag, spectrum.real], -1)],
                       3)  # (frequency, row, channel, part of the pixels, map, part of the result)
    return [weights[..., first:first + 3, :].reshape(len(weights), -1, TOGETHER)
            for first in range(0, padded.shape[3], 3)]


def _taps(spectra: np.ndarray, side: int, row: int) -> np.ndarray:
    """Positions, for a frequency, of the rows, channels and parts."""
    following, plane = spectra.strides[0] // 4, spectra.strides[1] // 4
    rows, channels = np.arange(side) * row, np.arange(len(spectra)) * following
    taps: np.ndarray = (rows[:, None, None] + channels[:, None] + np.arange(2) * plane).ravel()
    return taps
