# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of all layers for one box, to be looked at; `Scanner` computes scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .geometry import Geometry

if TYPE_CHECKING:  # Scipion's own Python shows these maps, and has nothing to scan with
    from .scan import Weights


def feature_maps(geometry: Geometry, weights: Weights, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """Apply a network to a box, and keep what each layer makes of it (Fig. 1).

    Parameters
    ----------
    geometry : Geometry
        Sizes of the layers.
    weights : mapping of str to array
        Weights of the network, see `Geometry.weight_shapes`.
    pixels : (box, box) array
        Pixels as the network sees them.

    Returns
    -------
    maps : dict of str to (side, side, n) array
        The box under "input", and the maps of the layers C1, S2, C3, S4, C5 and S6.
    score : float
        Output for the box as it is, without rotations.
    """
    maps = np.asarray(pixels, float)[..., np.newaxis]
    found = {"input": maps}
    for number, (kernel, pool) in enumerate(zip(geometry.kernels, geometry.pools), 1):
        views = np.lib.stride_tricks.sliding_window_view(maps, (kernel, kernel, maps.shape[2]))[:, :, 0]
        sums = np.tensordot(views, weights[f"conv{number}.kernel"], 3)
        convolved = _sigmoid(sums + weights[f"conv{number}.bias"])
        side = len(convolved) // pool
        maps = convolved.reshape(side, pool, side, pool, -1).mean(axis=(1, 3))
        found.update({f"C{2 * number - 1}": convolved, f"S{2 * number}": maps})
    return found, float(_sigmoid(maps.ravel() @ weights["dense.kernel"][:, 0] + weights["dense.bias"][0]))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 0.5 * (1 + np.tanh(0.5 * np.asarray(values)))  # never overflows
    return result
