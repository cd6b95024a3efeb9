# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolution of an image without padding, direct or by Fourier transforms, and an estimate of which one is faster.

As usual in neural networks, the kernel is not mirrored: output [i, j] is the sum over the k x k pixels whose first one
is [i, j].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.fft

# Sides of the square tiles that may be transformed: products of small primes only.
TILES = (32, 48, 64, 96, 128, 192, 256, 384, 512)
# Tiles are transformed together as long as they, their spectra and their maps about fit into the cache of a core.
CACHE_BYTES = 4 * 2**20

# A core adds up this many maps as fast as one.
VECTOR = 16
# Nanoseconds of one core, fitted to stages of the scan; `python benchmarks/speed.py --parts convolutions` compares them
# with measured times. Only ratios matter. Direct: one multiplication and addition. Fourier: the transform of a pixel of
# the input or output maps of a tile, over the logarithm of the tile's side; moving that pixel; the product of spectra,
# for each pixel, channel and map.
DIRECT_NS = 0.016
TRANSFORM_NS, MOVE_NS, SPECTRUM_NS = 0.4, 3.5, 0.1


class Convolution:
    """Convolution of images with one kernel.

    Parameters
    ----------
    kernel : (k, k, channels, maps) array
        Kernel.
    bias : (maps,) array
        Constants that are added to the result.

    Attributes
    ----------
    kernel : (k, k, channels, maps) float32 array
        Kernel.
    bias : (maps,) float32 array
        Constants that are added to the result.
    columns : int
        Number of columns of the result that the direct convolution computes together, see `columns_together`.
    shifted_kernels : (k, k + columns - 1, channels, columns * maps) float32 array
        The kernel once for each of these columns, shifted by one more column each time; used by `direct`.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        self.kernel, self.bias = np.ascontiguousarray(kernel, np.float32), np.asarray(bias, np.float32)
        side, _, channels, maps = self.kernel.shape
        self.columns = columns_together(side, maps)
        self.shifted_kernels = np.zeros((side, side + self.columns - 1, channels, self.columns * maps), np.float32)
        for column in range(self.columns):
            self.shifted_kernels[:, column:column + side, :, column * maps:(column + 1) * maps] = self.kernel
        self._spectra: dict[int, np.ndarray] = {}

    def by_fourier(self, image: np.ndarray, tile: int) -> np.ndarray:
        """Convolve by multiplying the spectra of overlapping square tiles (overlap-save method).

        Parameters
        ----------
        image : (rows, cols, channels) float32 array
            Image, of any memory layout.
        tile : int
            Side of the tiles in pixels, at least k.

        Returns
        -------
        (1, rows - k + 1, cols - k + 1, maps) float32 array
            Feature maps.
        """
        rows, cols, channels = image.shape
        side, maps = len(self.kernel), len(self.bias)
        valid = tile - side + 1
        corners = [(row, col) for row in range(0, rows - side + 1, valid) for col in range(0, cols - side + 1, valid)]
        together = max(1, CACHE_BYTES // (4 * tile**2 * (channels + maps)))
        result = np.empty((1, rows - side + 1, cols - side + 1, maps), np.float32)
        for first in range(0, len(corners), together):
            places = corners[first:first + together]
            pixels = np.zeros((tile, tile, len(places), channels), np.float32)
            for number, (row, col) in enumerate(places):
                part = image[row:row + tile, col:col + tile]
                pixels[:part.shape[0], :part.shape[1], number] = part
            convolved = self._convolve_tiles(pixels)
            for number, (row, col) in enumerate(places):
                part = result[0, row:row + valid, col:col + valid]
                part[:] = convolved[:part.shape[0], :part.shape[1], number]
        return result

    def _convolve_tiles(self, pixels: np.ndarray) -> np.ndarray:
        """Convolve tiles (tile, tile, n, channels); the first tile - k + 1 rows and columns are not wrapped around."""
        tile, _, n, channels = pixels.shape
        transformed = scipy.fft.rfft2(pixels, axes=(0, 1)).reshape(-1, n, channels)
        # Complex numbers as pairs of real ones: BLAS multiplies small real matrices without locks.
        product = np.matmul(transformed.view(np.float32), self._spectrum(tile)).view(np.complex64)
        product = product.reshape(tile, tile // 2 + 1, n, len(self.bias))
        product[0, 0] += self.bias * np.float32(tile**2)
        valid_rows = scipy.fft.ifft(product, axis=0, overwrite_x=True)[:tile - len(self.kernel) + 1]
        convolved: np.ndarray = scipy.fft.irfft(valid_rows, n=tile, axis=1, overwrite_x=True)
        return convolved

    def _spectrum(self, tile: int) -> np.ndarray:
        """Spectrum of the kernel for tiles of this side, as (frequencies, 2 channels, 2 maps) real numbers."""
        if tile not in self._spectra:
            spectrum = scipy.fft.rfft2(self.kernel, (tile, tile), axes=(0, 1)).conj()
            real, imaginary = spectrum.real, spectrum.imag
            pairs = np.stack([np.stack([real, imaginary], -1), np.stack([-imaginary, real], -1)], 3)
            self._spectra[tile] = pairs.reshape(-1, 2 * self.kernel.shape[2], 2 * self.kernel.shape[3])
        return self._spectra[tile]


def direct(images: Any, shifted_kernels: Any, bias: Any, columns: int) -> Any:
    """Convolve by adding up products.

    Parameters
    ----------
    images : (1, rows, cols, channels) float32 tensor
        Image; cols - k + 1 must be a multiple of `columns`.
    shifted_kernels : (k, k + columns - 1, channels, columns * maps) float32 tensor
        Attribute of a `Convolution`.
    bias : (maps,) float32 tensor
        Attribute of a `Convolution`.
    columns : int
        Attribute of a `Convolution`.

    Returns
    -------
    (1, rows - k + 1, cols - k + 1, maps) float32 tensor
        Feature maps.
    """
    from keras import ops

    convolved = ops.conv(images, shifted_kernels, (1, columns), "valid")
    n, rows, cols, _ = ops.shape(convolved)
    return ops.reshape(convolved, (n, rows, cols * columns, bias.shape[0])) + bias


def fastest_tile(shape: tuple[int, ...], kernel: tuple[int, ...]) -> int | None:
    """Choose the tiles of the fastest convolution by Fourier transforms.

    Parameters
    ----------
    shape : tuple of three ints
        Rows, columns and channels of the image.
    kernel : tuple of four ints
        Shape of the kernel: k, k, channels, maps.

    Returns
    -------
    int or None
        Side of the tiles in pixels, one of `TILES`; None if the direct convolution is faster.
    """
    cost = {tile: fourier_ns(shape, kernel, tile) for tile in TILES if tile >= kernel[0]}
    best = min(cost, key=cost.__getitem__, default=None)
    return None if best is None or direct_ns(shape, kernel) <= cost[best] else best


def direct_ns(shape: tuple[int, ...], kernel: tuple[int, ...]) -> float:
    """Estimate the time of the direct convolution.

    Parameters
    ----------
    shape : tuple of three ints
        Rows, columns and channels of the image.
    kernel : tuple of four ints
        Shape of the kernel: k, k, channels, maps.

    Returns
    -------
    float
        Nanoseconds of one core.
    """
    rows, cols, channels = shape
    side, _, _, maps = kernel
    columns = columns_together(side, maps)
    computed = VECTOR * math.ceil(columns * maps / VECTOR) / columns * (side + columns - 1) / side
    return (rows - side + 1) * (cols - side + 1) * side**2 * channels * computed * DIRECT_NS


def fourier_ns(shape: tuple[int, ...], kernel: tuple[int, ...], tile: int) -> float:
    """Estimate the time of the convolution by Fourier transforms.

    Parameters
    ----------
    shape : tuple of three ints
        Rows, columns and channels of the image.
    kernel : tuple of four ints
        Shape of the kernel: k, k, channels, maps.
    tile : int
        Side of the tiles in pixels, at least k.

    Returns
    -------
    float
        Nanoseconds of one core.
    """
    rows, cols, channels = shape
    side, _, _, maps = kernel
    valid = tile - side + 1
    tiles = math.ceil((rows - side + 1) / valid) * math.ceil((cols - side + 1) / valid)
    per_pixel = (channels + maps) * (TRANSFORM_NS * math.log2(tile) + MOVE_NS) + channels * maps * SPECTRUM_NS
    return tiles * tile**2 * per_pixel


def columns_together(side: int, maps: int) -> int:
    """Choose how many columns the direct convolution computes together, as additional maps, to fill whole vectors.

    Parameters
    ----------
    side : int
        Side of the kernel in pixels.
    maps : int
        Number of feature maps.

    Returns
    -------
    int
        1, 2 or 4; above 1 only if that fills whole vectors and the kernel is at least twice as wide.

    Examples
    --------
    >>> columns_together(9, 24), columns_together(9, 12), columns_together(3, 12)
    (2, 4, 1)
    """
    return next((n for n in (1, 2, 4) if n * maps % VECTOR == 0 and 2 * n <= side), 1)
