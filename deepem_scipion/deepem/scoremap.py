# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The score of every window of the scan: plain window by window, and fast on the whole micrograph.

A window's score is the mean of the network's output over the window turned by 0, 90, 180 and 270
degrees. Windows stand at rows 0, step, 2 step, ... and columns likewise, as long as they fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DeepEMError
from .network import Geometry, build_network, set_weights

if TYPE_CHECKING:
    import tensorflow as tf

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


def score_map_by_windows(pixels: np.ndarray, geometry: Geometry, weights: Weights, step: int,
                         rotations: int = 4, batch: int = 256) -> np.ndarray:
    """Scores by cutting every window and giving it to the network: slow, the reference.

    Parameters and result are those of `Scanner` and `Scanner.scan`.
    """
    network = build_network(geometry)
    set_weights(network, weights)
    shape = scan_shape((pixels.shape[0], pixels.shape[1]), geometry.box, step)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (geometry.box, geometry.box))[::step, ::step]
    windows = windows.reshape(-1, geometry.box, geometry.box)
    scores = np.zeros(len(windows), np.float32)
    for start in range(0, len(windows), batch):
        part = windows[start:start + batch, ..., np.newaxis]
        for turn in range(rotations):
            scores[start:start + batch] += np.asarray(
                network(np.rot90(part, turn, axes=(1, 2)).copy(), training=False))[:, 0]
    return (scores / rotations).reshape(shape)


class Scanner:
    """Scores of all windows of an image, computed on the whole image at once.

    The numbers are those of `score_map_by_windows` but for rounding. Two things make that so:

    - instead of the window the weights are turned: the network's output for a turned window is the
      output of the network with kernels turned the other way;
    - pooling starts anew in each window, so windows share maps only if their corners differ by
      multiples of the pool. At each pooling the windows are therefore split into classes of the same
      remainder, with one pooled map for each. A step of a multiple of all pools leaves one class.

    Parameters
    ----------
    geometry : Geometry
    weights : mapping of str to array
        As in `Geometry.weight_shapes`.
    step : int
        Scan step in working pixels.
    rotations : int
        4, or 1 for the window as it is only.
    """

    def __init__(self, geometry: Geometry, weights: Weights, step: int, rotations: int = 4) -> None:
        if rotations not in (1, 4):
            raise DeepEMError(f"rotations {rotations}: expected 1 or 4")
        self.geometry = geometry
        self.step = step
        self._turned = [_turned_weights(geometry, weights, turn) for turn in range(rotations)]

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
        scores = np.zeros((rows, cols), np.float32)
        bytes_per_row = 4 * pixels.shape[1] * max(len(self._turned) * self.geometry.maps[0], *self.geometry.maps)
        band = max(1, (BAND_BYTES // bytes_per_row - box) // step + 1)
        for first in range(0, rows, band):
            last = min(first + band, rows) - 1
            part = np.ascontiguousarray(pixels[first * step:last * step + box], np.float32)
            for where, values in self._scan_band(part, (last + 1 - first, cols)):
                scores[first:last + 1][where] += values
        return scores / np.float32(len(self._turned))

    def _scan_band(self, part: np.ndarray,
                   counts: tuple[int, int]) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        """Scores of the windows of a band, by rotation and class of windows, with their places in the score map."""
        import tensorflow as tf

        # One convolution with the kernels of all rotations is faster than one for each.
        first = tf.concat([weights["conv1.kernel"] for weights in self._turned], axis=3)
        convolved = tf.nn.conv2d(part[np.newaxis, :, :, np.newaxis], first, 1, "VALID")
        axes = (_Windows(counts[0], self.step), _Windows(counts[1], self.step))
        for weights, maps in zip(self._turned, tf.split(convolved, len(self._turned), axis=3)):
            for rows, cols, values in self._stage(maps, weights, 1, axes):
                yield (slice(rows.first, None, rows.every), slice(cols.first, None, cols.every)), values

    def _stage(self, convolved: tf.Tensor, weights: dict[str, Any], number: int,
               axes: tuple[_Windows, _Windows]) -> Iterator[tuple[_Windows, _Windows, np.ndarray]]:
        """Go on from the convolution of stage `number` to the scores of the windows that `axes` describe."""
        import tensorflow as tf

        maps = tf.sigmoid(convolved + weights[f"conv{number}.bias"])
        pool = self.geometry.pools[number - 1]
        for rows in axes[0].classes(pool):
            for cols in axes[1].classes(pool):
                pooled = tf.nn.avg_pool2d(maps[:, rows.remainder:, cols.remainder:], pool, pool, "VALID")
                if number < 3:
                    following = tf.nn.conv2d(pooled, weights[f"conv{number + 1}.kernel"], 1, "VALID")
                    yield from self._stage(following, weights, number + 1, (rows, cols))
                else:
                    pooled = pooled[:, rows.offset:, cols.offset:]
                    logits = tf.nn.conv2d(pooled, weights["dense.kernel"], (rows.step, cols.step), "VALID")
                    yield rows, cols, tf.sigmoid(logits + weights["dense.bias"])[0, :, :, 0].numpy()


@dataclass(frozen=True)
class _Windows:
    """The windows of one class along one axis, seen from a layer's maps.

    Window number first, first + every, ... below `total` begin at `offset`, offset + step, ... of the
    map, which itself was pooled from pixel `remainder` on.
    """

    total: int
    step: int
    offset: int = 0
    first: int = 0
    every: int = 1
    remainder: int = 0

    def classes(self, pool: int) -> Iterator[_Windows]:
        """Split by the remainder of the corners modulo `pool`; corners are then in pooled pixels."""
        divisor = math.gcd(self.step, pool)
        for number in range(pool // divisor):
            first = self.first + number * self.every
            if first < self.total:
                corner = self.offset + number * self.step
                yield _Windows(self.total, self.step // divisor, corner // pool, first,
                               self.every * (pool // divisor), corner % pool)


def _turned_weights(geometry: Geometry, weights: Weights, turn: int) -> dict[str, np.ndarray]:
    """Weights whose output for a window is that of `weights` for the window turned by `turn` x 90 degrees."""
    side, maps = geometry.layer_sizes[-1], geometry.maps[-1]
    kernels = {name: value for name, value in weights.items() if name.startswith("conv") and name.endswith("kernel")}
    kernels["dense.kernel"] = weights["dense.kernel"].reshape(side, side, maps, 1)
    turned = {name: np.ascontiguousarray(np.rot90(value, -turn), np.float32) for name, value in kernels.items()}
    return {**{name: np.asarray(value, np.float32) for name, value in weights.items()}, **turned}
