# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolution with large kernels, by discrete Fourier transforms along the columns.

The rows of an image are divided into overlapping tiles. The transform turns the convolution along columns into
products; along rows it remains a sum over the kernel's columns. All three steps, the transform, the sum of products and
the inverse transform, are weighted sums of whole rows. As the tiles are short, this is faster than fast Fourier
transforms.
"""

from __future__ import annotations

import math

import numpy as np

from .kernels import Memory, WeightedSums

# Coefficients or rows that are computed together; also the real and imaginary parts of three maps.
TOGETHER = 6
# Rows in a tile, so that its coefficients can be computed together.
TILES = range(10, 259, 6)
# A multiplication takes about twice as long as in the direct convolution, as more numbers go through the cache.
FOURIER_COST = 2
# Columns whose spectra about fit into the cache of a core.
COLUMNS = 512


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

    def rows(self, rows: int) -> int:
        """Return how many rows the target of this many rows must have room for."""
        each = self.valid * self.spacing
        return rows // each * each + len(self._inverse) * TOGETHER * self.spacing

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
        for top in range(0, rows, self.valid * self.spacing):
            left_rows = rows - top + (self.side - 1) * self.spacing
            for left in range(0, columns, COLUMNS):
                wide = min(COLUMNS, columns - left)
                spectra = self._transform(pixels[:, top:, left:], left_rows, wide + (self.side - 1) * self.spacing)
                for number, products in enumerate(self._products):
                    self._multiply(target[number * 3:number * 3 + 3, top:, left:], spectra, products, wide)

    def _transform(self, pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """Spectra of one tile: (channels, coefficients, remainders of the row modulo the spacing, columns)."""
        spectra = self._memory.maps("spectra", self.channels * len(self._forward) * TOGETHER, self.spacing, columns)
        spectra = spectra.reshape(self.channels, -1, *spectra.shape[1:])
        whole, more = divmod(min(rows, self.tile * self.spacing), self.spacing)
        where = np.arange(whole + 1) * (self.spacing * pixels.strides[1] // 4)
        for number, forward in enumerate(self._forward):
            part = spectra[:, number * TOGETHER:(number + 1) * TOGETHER]
            if more:  # these remainders have one row more than the others
                forward(part[:, :, :more], pixels, where, columns)
            if whole:
                forward(part[:, :, more:], pixels[:, more:], where[:whole], columns)
        return spectra

    def _multiply(self, target: np.ndarray, spectra: np.ndarray, products: WeightedSums, columns: int) -> None:
        """Compute up to three maps of one tile from the spectra."""
        maps, frequencies = len(target), self.tile // 2 + 1
        sums = self._memory.maps("sums", frequencies * TOGETHER, self.spacing, columns)
        sums = sums.reshape(frequencies, TOGETHER, *sums.shape[1:])
        channel, part = (stride // 4 for stride in spectra.strides[:2])
        taps = (np.arange(self.side)[:, None, None] * self.spacing + np.arange(self.channels)[:, None] * channel
                + np.arange(2) * part)
        products(sums, spectra[0, :2 * frequencies:2], taps.ravel(), columns)
        where = (np.arange(frequencies)[:, None] * TOGETHER + np.arange(2)).ravel() * (sums.strides[1] // 4)
        each = TOGETHER * self.spacing
        for number, inverse in enumerate(self._inverse):
            rows = target[:, number * each:(number + 1) * each]
            inverse(rows.reshape(maps, TOGETHER, self.spacing, -1), sums[0, :2 * maps:2], where, columns)


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
