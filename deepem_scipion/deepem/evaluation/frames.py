# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picks in another frame than the reference (upside down, x and y exchanged, moved, of another scale), or unrelated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ..coordinates.coordinates import Coordinates
from .matching import match

# Picks are in another frame where this share of the particles is found in that one, and this many times as many; or
# the second, since many are found by chance where particles are crowded.
_SHARES, _TIMES = (0.3, 0.8), (3.0, 1.5)
# Micrographs on which this is tried, with at most this many particles and picks each: all pairs are compared.
_CHECKS, _MOST = 10, 3000
# Binning, or its inverse; and pixel sizes that are simple fractions, for coordinates in angstrom.
_FACTORS = (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 3.0, 4.0)
# Picks are moved by at most this many times the distance of a correct pick: corners lie 1.5 times from centres, as the
# distance is half a diameter and the box 1.5.
_MOVES = 3.0
# Particles and picks from which on, and standard deviations of a count within which, picks may be correct by chance.
_ENOUGH, _STDS = 20, 3.0


def upside_down(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates],
                distance_px: float) -> tuple[int, int] | None:
    """Check whether picks fit only if y is counted from the other side.

    Parameters
    ----------
    truth, picks : mapping of str to Coordinates
        By name of the micrograph.
    distance_px : float
        Maximum distance of a correct pick in pixels.

    Returns
    -------
    tuple of int or None
        Numbers of correct picks as they are and turned, on the micrographs with the most particles; None if they are
        not upside down.

    Notes
    -----
    Where y is turned, y of a pick and y of its particle have the same sum for all pairs of micrographs of one height.
    The most frequent sum of pairs with the same x gives the height, which need not be known.
    """
    names = _largest(truth, picks)
    total = _most_frequent(np.concatenate([np.empty(0), *(
        _sums(truth[name].centres_xy, picks[name].centres_xy, distance_px / 2) for name in names)]), distance_px)
    if total is None:
        return None
    return _compare(truth, picks, names, distance_px, lambda xy: np.column_stack([xy[:, 0], total - xy[:, 1]]))


def other_frame(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates],
                distance_px: float) -> tuple[str, int, int] | None:
    """Check whether picks fit only with x and y exchanged, moved, or multiplied by a factor.

    Parameters
    ----------
    truth, picks : mapping of str to Coordinates
        By name of the micrograph.
    distance_px : float
        Maximum distance of a correct pick in pixels.

    Returns
    -------
    change : str
        What makes the picks fit, such as "with x and y exchanged".
    before, after : int
        Numbers of correct picks as they are and with this change, on the micrographs with the most particles. None in
        place of all three if no change makes them fit.
    """
    names = _largest(truth, picks)
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {"with x and y exchanged": lambda xy: xy[:, ::-1]}
    move = _most_frequent_move([(truth[name].centres_xy, picks[name].centres_xy) for name in names], distance_px)
    if move is not None:
        changes["moved by {:.0f} px along x and {:.0f} along y".format(*move)] = lambda xy: xy + move
    changes.update({f"multiplied by {factor:.3g}": partial(np.multiply, factor) for factor in _FACTORS})
    found = [(change, *counts) for change, function in changes.items()
             if (counts := _compare(truth, picks, names, distance_px, function))]
    return max(found, key=lambda each: each[2], default=None)


def by_chance(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates],
              distance_px: float) -> tuple[int, float] | None:
    """Check whether picks are correct no more often than their mirror images, which do not belong to the particles.

    Parameters
    ----------
    truth, picks : mapping of str to Coordinates
        By name of the micrograph.
    distance_px : float
        Maximum distance of a correct pick in pixels.

    Returns
    -------
    tuple of int and float or None
        Numbers of correct picks, and of correct mirror images (mean of three), on the micrographs with the most
        particles; None if there are clearly more of the former, or too few particles or picks.
    """
    names = _largest(truth, picks)
    if min(sum(len(side[name].scores) for name in names) for side in (truth, picks)) < _ENOUGH:
        return None
    counts = np.zeros(4)
    for name in names:
        truth_xy, picks_xy = truth[name].centres_xy, picks[name].centres_xy
        together = np.concatenate([truth_xy, picks_xy])
        if not len(together):
            continue
        mirror_xy = together.min(axis=0) + together.max(axis=0) - picks_xy
        for number, axes in enumerate(([], [0], [1], [0, 1])):
            moved = picks_xy.copy()
            moved[:, axes] = mirror_xy[:, axes]
            counts[number] += match(moved, picks[name].scores, truth_xy, distance_px).correct.sum()
    mean = float(counts[1:].mean())
    return None if counts[0] > mean + _STDS * mean**0.5 else (int(counts[0]), mean)


def _largest(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates]) -> list[str]:
    common = [name for name in sorted(set(truth) & set(picks))
              if max(len(truth[name].scores), len(picks[name].scores)) <= _MOST]
    return sorted(common, key=lambda name: -len(truth[name].scores))[:_CHECKS]


def _compare(truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates], names: Sequence[str],
             distance_px: float, change: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int] | None:
    """Numbers of correct picks before and after a change of their centres; None if they do not fit much better."""
    before = after = particles = 0
    for name in names:
        picks_xy, scores, truth_xy = picks[name].centres_xy, picks[name].scores, truth[name].centres_xy
        before += int(match(picks_xy, scores, truth_xy, distance_px).correct.sum())
        after += int(match(change(picks_xy), scores, truth_xy, distance_px).correct.sum())
        particles += len(truth_xy)
    better = any(after >= max(share * particles, times * before, 3) for share, times in zip(_SHARES, _TIMES))
    return (before, after) if better else None


def _most_frequent_move(pairs: Sequence[tuple[np.ndarray, np.ndarray]], distance_px: float) -> np.ndarray | None:
    """Most frequent difference between a particle and a pick; None if there are too few differences."""
    limit = _MOVES * distance_px
    every = ((truth_xy[:, None] - picks_xy[None]).reshape(-1, 2) for truth_xy, picks_xy in pairs)
    differences = np.concatenate([np.empty((0, 2)), *(each[(np.abs(each) <= limit).all(axis=1)] for each in every)])
    if not len(differences):
        return None
    cells = int(4 * _MOVES)  # of half the distance
    counts, edges, _ = np.histogram2d(differences[:, 0], differences[:, 1], cells, [[-limit, limit], [-limit, limit]])
    row, column = np.unravel_index(np.argmax(counts), counts.shape)
    middle = np.array([edges[row:row + 2].mean(), edges[column:column + 2].mean()])
    near = differences[(np.abs(differences - middle) <= distance_px / 2).all(axis=1)]
    median: np.ndarray = np.median(near, axis=0)
    return median


def _sums(truth_xy: np.ndarray, picks_xy: np.ndarray, distance_px: float) -> np.ndarray:
    same_x = np.abs(truth_xy[:, None, 0] - picks_xy[None, :, 0]) <= distance_px
    sums: np.ndarray = (truth_xy[:, None, 1] + picks_xy[None, :, 1])[same_x]
    return sums


def _most_frequent(values: np.ndarray, width: float) -> float | None:
    """Middle of the interval of this width that holds most of the values."""
    ordered = np.sort(values)
    if not len(ordered):
        return None
    numbers = np.searchsorted(ordered, ordered + width, side="right") - np.arange(len(ordered))
    first = int(np.argmax(numbers))
    return float(np.median(ordered[first:first + numbers[first]]))
