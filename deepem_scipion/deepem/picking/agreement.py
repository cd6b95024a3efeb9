# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scores that take the other candidates of the micrograph into account.

The network sees one box at a time and cannot know whether a faint dark spot is a particle at low dose or dirt among
particles that are far more prominent. All particles of a micrograph have about the same profile and contrast. Each
candidate is therefore compared with the average of the most confident ones, and a small network of one hidden layer
turns that and the score into a new score.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from ..coordinates.suppression import neighbours

# Names of the features, in the order of the weights.
FEATURES = ("score", "contrast", "similarity", "local_std", "confident_score", "confident_share", "prominence",
            "other_score", "candidate_share", "distance")
# Only candidates above this score of the network are compared, and at least this many diameters from the border: there
# little more than half of a particle is visible, and anything together with its mirror image looks like a particle.
MIN_SCORE, MIN_BORDER = 0.01, 0.1
# Profiles are means over rings one pixel wide up to this many diameters from the centre.
REACH = 0.7
# Of the candidates half a diameter apart those are confident whose score is at least this share of the mean of the best
# few, at least this many and at most this share of them.
CONFIDENT, BEST, MIN_CONFIDENT, MAX_CONFIDENT = 0.6, 5, 3, 0.3
# Better candidates further away than this many diameters do not matter.
NEAR = 1.5
_LIMITS = np.array([[-5, 5], [-1, 4], [-1, 1], [-1.5, 1.5], [-5, 5], [-4, 1], [-1, 6], [-5, 5], [-4, 1], [0, NEAR]])
_BLOCK = 4096


def features(pixels: np.ndarray, centres_rc: np.ndarray, scores: np.ndarray, local_stds: np.ndarray,
             diameter_px: float) -> np.ndarray:
    """Compare candidates with the most confident ones of the same micrograph.

    Parameters
    ----------
    pixels : (rows, columns) float32 array
        Normalised micrograph.
    centres_rc : (n, 2) array
        Centres of the candidates as row, column in binned pixels.
    scores, local_stds : (n,) array
        Scores of the network, and local standard deviations.
    diameter_px : float
        Particle diameter in binned pixels.

    Returns
    -------
    (n, 10) float64 array
        `FEATURES`: logit of the score; contrast of the radial profile, in units of that of the average of the confident
        candidates; correlation of both profiles; logarithm of the ratio of local standard deviations; mean logit of the
        confident ones; logarithm of the share of the area that they cover; contrast in standard deviations of a box;
        mean logit of the other candidates; logarithm of the share of the area that all candidates cover; and distance
        to the closest better candidate in diameters. All are the same for the negative of a micrograph and a model for
        the opposite contrast.
    """
    if not len(scores):
        return np.empty((0, len(FEATURES)))
    logits = _logit(scores)
    profiles, areas = radial_profiles(pixels, centres_rc, diameter_px)
    near = neighbours(centres_rc[:, ::-1], scores, NEAR * diameter_px)
    apart = np.flatnonzero(near.keep(np.ones(len(scores), bool), diameter_px / 2))
    order = apart[np.argsort(-scores[apart], kind="stable")]
    high = scores[order] >= CONFIDENT * scores[order[:BEST]].mean()
    confident, others = np.split(order, [max(MIN_CONFIDENT, min(high.sum(), round(MAX_CONFIDENT * len(order))))])
    to_better = np.full(len(scores), NEAR * diameter_px)
    np.minimum.at(to_better, near.worse, near.distances)
    average = scores[confident] @ profiles[confident] / scores[confident].sum()
    average = average - areas @ average
    profiles = profiles - (profiles @ areas)[:, np.newaxis]
    energy = max(float(areas @ np.square(average)), 1e-12)
    overlap = profiles @ (areas * average)
    own = np.sqrt(np.square(profiles) @ areas)
    covered, occupied = (np.pi / 4 * diameter_px**2 * number / pixels.size
                         for number in ((scores[apart] ** 2).sum(), len(apart)))
    typical = float(np.median(local_stds[confident]))
    found = np.column_stack([
        logits, overlap / energy, overlap / np.maximum(np.sqrt(energy) * own, 1e-12),
        np.log(np.maximum(local_stds, 1e-3) / max(typical, 1e-3)), np.full(len(scores), logits[confident].mean()),
        np.full(len(scores), np.log10(covered + 1e-4)), own,
        np.full(len(scores), logits[others].mean() if len(others) else _LIMITS[0, 0]),
        np.full(len(scores), np.log10(occupied + 1e-4)), to_better / diameter_px])
    return np.asarray(np.clip(found, *_LIMITS.T))


def rescore(weights: Mapping[str, np.ndarray], found: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Apply the network of one hidden layer.

    The features have limits, beyond which all candidates would look alike. A model that was trained further has more
    certain scores than that which the weights were fitted to: what exceeds the limit is added to the logit.

    Parameters
    ----------
    weights : mapping of str to array
        `hidden.kernel` (10, k), `hidden.bias` (k,), `output.kernel` (k,), `output.bias` (1,).
    found : (n, 10) array
        As returned by `features`.
    scores : (n,) array
        Scores of the network.

    Returns
    -------
    (n,) float64 array
        Scores from 0 to 1.
    """
    hidden = np.tanh(found @ weights["hidden.kernel"] + weights["hidden.bias"])
    logits = hidden @ weights["output.kernel"] + weights["output.bias"]
    logits += np.maximum(_logit(scores) - _LIMITS[0, 1], 0)
    return np.asarray(1 / (1 + np.exp(-logits)), float)


def _logit(scores: np.ndarray) -> np.ndarray:
    limited = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(limited / (1 - limited)))


@functools.lru_cache(maxsize=None)
def _rings(diameter_px: float, reach: float) -> tuple[int, np.ndarray, np.ndarray]:
    """Half the side of the box, matrix from its pixels to the means over rings, and share of each ring of the area."""
    n_rings = int(reach * diameter_px)
    radius = np.hypot(*np.indices((2 * n_rings + 1,) * 2) - n_rings).ravel()
    rings = ((radius >= np.arange(n_rings)[:, np.newaxis]) & (radius < np.arange(1, n_rings + 1)[:, np.newaxis]))
    counts = rings.sum(axis=1)
    return n_rings, (rings / counts[:, np.newaxis]).T.astype(np.float32), counts / counts.sum()


def radial_profiles(pixels: np.ndarray, centres_rc: np.ndarray, diameter_px: float,
                    reach: float = REACH) -> tuple[np.ndarray, np.ndarray]:
    """Compute the radial profiles of some places.

    Parameters
    ----------
    pixels : (rows, columns) float32 array
        Normalised micrograph.
    centres_rc : (n, 2) array
        Row, column in binned pixels.
    diameter_px : float
        Particle diameter in binned pixels.
    reach : float
        Largest distance from the centre in diameters.

    Returns
    -------
    profiles : (n, n_rings) float64 array
        Means over rings one pixel wide.
    areas : (n_rings,) float64 array
        Share of each ring of the area.
    """
    half, means, areas = _rings(diameter_px, reach)
    padded = np.pad(pixels, half, mode="symmetric")
    corners = np.clip(np.rint(centres_rc).astype(int), 0, np.array(pixels.shape) - 1)
    boxes = np.lib.stride_tricks.sliding_window_view(padded, (2 * half + 1,) * 2)
    profiles = np.empty((len(corners), len(areas)))
    for begin in range(0, len(corners), _BLOCK):
        rows, columns = corners[begin:begin + _BLOCK].T
        profiles[begin:begin + _BLOCK] = boxes[rows, columns].reshape(len(rows), -1) @ means
    return profiles, areas
