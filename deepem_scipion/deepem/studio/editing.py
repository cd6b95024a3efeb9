# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Edits of a micrograph: which marks a click, a drag or a stroke of the brush removes and adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, List, Tuple

import numpy as np

from ..coordinates.coordinates import inside
from ..errors import DeepEMError
from ..picking.selection import PICKED
from .marks import DONE, NEGATIVE, PARTICLE, REGION, Mark

# What is within this many diameters of a mark is the same place.
SAME_PLACE = 0.5
# A click this many diameters from a candidate means its peak, which is more exact than a hand.
SNAP = 0.25
# Instead of a reason: a mark decides about the candidate.
MARKED = "marked"
MAX_STROKE_POINTS = 10_000

Change = Tuple[List[Mark], List[Mark]]


@dataclass(frozen=True)
class Shown:
    """What is to be seen on a micrograph.

    Attributes
    ----------
    centres_xy : (n, 2) float64 array
        Candidates in pixels of the input micrograph.
    scores : (n,) float64 array
    reasons : (n,) str array
        See `selection.select`; "marked" where a mark decides.
    marks : sequence of Mark
    diameter_px : float
        Particle diameter in pixels of the input micrograph.
    """

    centres_xy: np.ndarray
    scores: np.ndarray
    reasons: np.ndarray
    marks: Sequence[Mark]
    diameter_px: float

    @property
    def picks(self) -> list[Mark]:
        """The picks about which no mark decides, in descending order of score, as particles."""
        return [self.candidate(index, PARTICLE) for index in np.flatnonzero(self.reasons == PICKED)]

    @property
    def particles(self) -> np.ndarray:
        """What counts as particles: those marked, and the picks; an (n, 3) array of x, y and score."""
        picked = self.reasons == PICKED
        marked = np.array([mark.values for mark in self.of(PARTICLE)], dtype=np.float64).reshape(-1, 3)
        return np.concatenate([marked, np.column_stack([self.centres_xy, self.scores])[picked]])

    def candidate(self, index: int, kind: str) -> Mark:
        """Return a mark at a candidate."""
        x, y = self.centres_xy[index]
        return Mark(kind, (float(x), float(y), float(self.scores[index])))

    def of(self, kind: str) -> list[Mark]:
        """Return the marks of one kind."""
        return [mark for mark in self.marks if mark.kind == kind]


def covered(centres_xy: np.ndarray, marks: Sequence[Mark], diameter_px: float) -> np.ndarray:
    """Find the candidates about which marks decide: those at the same place as a particle or a negative.

    Parameters
    ----------
    centres_xy : (n, 2) array
        Candidates in pixels of the input micrograph.
    marks : sequence of Mark
    diameter_px : float
        Particle diameter in the same pixels.

    Returns
    -------
    (n,) bool array
    """
    from scipy.spatial import cKDTree

    places = np.array([mark.values[:2] for mark in marks if mark.kind in (PARTICLE, NEGATIVE)]).reshape(-1, 2)
    if not len(places):
        return np.zeros(len(centres_xy), dtype=bool)
    closest: np.ndarray = cKDTree(places).query(centres_xy)[0]
    return closest < SAME_PLACE * diameter_px


def by_hand(action: str, added: Sequence[Mark]) -> list[Mark]:
    """Return the particles that an edit sets where the hand is, not where a candidate is."""
    return [mark for mark in added if mark.kind == PARTICLE and (action == "move" or math.isnan(mark.values[2]))]


def outside(particles: Sequence[Mark], shape: tuple[int, int]) -> bool:
    """Whether the centre of a particle is on none of the pixels of a micrograph of some rows and columns."""
    return not inside(np.array([mark.values[:2] for mark in particles]).reshape(-1, 2), shape[::-1]).all()


def add(shown: Shown, x: float, y: float) -> Change:
    """Mark a particle: the pick or the candidate at the place, or the place itself; a negative there is taken back."""
    if _closest(shown.of(PARTICLE), x, y, SAME_PLACE * shown.diameter_px):
        return [], []
    pick = _closest(shown.picks, x, y, SAME_PLACE * shown.diameter_px)
    negative = _closest(shown.of(NEGATIVE), x, y, SAME_PLACE * shown.diameter_px)
    removed = [negative] if negative else []
    if pick:
        return removed, [pick]
    every = [shown.candidate(index, PARTICLE) for index in range(len(shown.scores))]
    return removed, [_closest(every, x, y, SNAP * shown.diameter_px) or Mark(PARTICLE, (x, y, math.nan))]


def remove(shown: Shown, x: float, y: float, kind: str | None = None) -> Change:
    """Make a negative of a pick or a marked particle with a score; take back a particle set by hand or a negative.

    With the kind of what was in view, the same request does not take back what it has done: a negative made of a pick
    stays, and so does a pick that was a negative.
    """
    known = kind in ("picked", PARTICLE, NEGATIVE)
    marks = shown.of(PARTICLE) + (shown.of(NEGATIVE) if not known or kind == NEGATIVE else [])
    picks = [] if kind == NEGATIVE else shown.picks
    found = _closest(marks + picks, x, y, SAME_PLACE * shown.diameter_px)
    if found is None and known:
        return [], []
    if found is None:
        corners = [region for region in shown.of(REGION) if _inside(region, x, y)]
        return corners[-1:], []
    removed = [found] if found in marks else []
    scored = found.kind == PARTICLE and not math.isnan(found.values[2])
    return removed, [Mark(NEGATIVE, found.values)] if scored else []


def move(shown: Shown, x: float, y: float, to_x: float, to_y: float) -> Change:
    """Move the particle or pick at a place; a pick that is moved to another place leaves a negative behind."""
    particles = shown.of(PARTICLE)
    found = _closest(particles + shown.picks, x, y, SAME_PLACE * shown.diameter_px)
    if found is None:
        return [], []
    moved = Mark(PARTICLE, (to_x, to_y, found.values[2]))
    far = math.dist(found.values[:2], (to_x, to_y)) >= SAME_PLACE * shown.diameter_px
    left = [Mark(NEGATIVE, found.values)] if far and not math.isnan(found.values[2]) else []
    return ([found] if found in particles else []), [moved, *left]


def erase(shown: Shown, points: Sequence[Sequence[float]], radius: float) -> Change:
    """Remove all picks and particles within a stroke of the brush."""
    return _removed([mark for mark in shown.of(PARTICLE) if _stroked(mark, points, radius)],
                    [mark for mark in shown.picks if _stroked(mark, points, radius)])


def paint(shown: Shown, points: Sequence[Sequence[float]], radius: float) -> Change:
    """Mark picks and, where there is room, other candidates within a stroke of the brush as particles."""
    removed = [mark for mark in shown.of(NEGATIVE) if _stroked(mark, points, radius)]
    kept = [*shown.of(PARTICLE), *(pick for pick in shown.picks if not _stroked(pick, points, radius))]
    added: list[Mark] = []
    picked_first = sorted(range(len(shown.scores)), key=lambda at: (shown.reasons[at] != PICKED, -shown.scores[at]))
    for mark in [shown.candidate(index, PARTICLE) for index in picked_first]:
        x, y = mark.values[:2]
        if _stroked(mark, points, radius) and not _closest(kept + added, x, y, SAME_PLACE * shown.diameter_px):
            added.append(mark)
    return removed, added


def region(shown: Shown, x: float, y: float, to_x: float, to_y: float) -> Change:
    """Mark a region in which every particle is marked."""
    left, right, top, bottom = min(x, to_x), max(x, to_x), min(y, to_y), max(y, to_y)
    if right - left < 1 or bottom - top < 1:
        return [], []
    return [], [Mark(REGION, (left, top, right, bottom))]


def accept_all(shown: Shown, picks: int | None = None) -> Change:
    """Mark all picks as particles, and the micrograph as done; raises DeepEMError if they are not as many as stated."""
    _check_number(shown, picks)
    return [], [*shown.picks, *([] if shown.of(DONE) else [Mark(DONE)])]


def remove_all(shown: Shown, picks: int | None = None) -> Change:
    """Remove all picks and particles, and mark the micrograph as done; raises as `accept_all`."""
    _check_number(shown, picks)
    removed, added = _removed(shown.of(PARTICLE), shown.picks)
    return removed, [*added, *([] if shown.of(DONE) else [Mark(DONE)])]


def toggle_done(shown: Shown, done: bool | None = None) -> Change:
    """Mark the micrograph as done, or take that back; by default whichever it is not."""
    marks = shown.of(DONE)
    if done is bool(marks):
        return [], []
    return marks, [] if marks else [Mark(DONE)]


def clear(shown: Shown) -> Change:
    """Take back all marks of the micrograph."""
    return list(shown.marks), []


# Name of an action to its function and its numbers, and what may be stated in addition about what was in view.
_PLACE, _DRAG, _STROKE = ("x", "y"), ("x", "y", "to_x", "to_y"), ("points", "radius")
_STATED: Mapping[str, Mapping[str, type]] = {
    "remove": {"kind": str}, "accept_all": {"picks": int}, "remove_all": {"picks": int}, "done": {"done": bool}}
_ACTIONS: Mapping[str, tuple[Callable[..., Change], tuple[str, ...]]] = {
    "add": (add, _PLACE), "remove": (remove, _PLACE), "move": (move, _DRAG), "erase": (erase, _STROKE),
    "paint": (paint, _STROKE), "region": (region, _DRAG), "accept_all": (accept_all, ()),
    "remove_all": (remove_all, ()), "done": (toggle_done, ()), "clear": (clear, ())}


def change(shown: Shown, request: Mapping[str, Any]) -> Change:
    """Return the marks that an action removes and adds.

    Parameters
    ----------
    shown : Shown
    request : mapping of str to object
        `action` and its numbers in pixels of the input micrograph; perhaps what was in view: the `kind` of what is to
        be removed, the number of `picks`, or whether the micrograph is to be `done`.

    Returns
    -------
    removed, added : list of Mark

    Raises
    ------
    DeepEMError
        The action is unknown, a number is missing, not finite or not a number, or there are other picks than stated.
    """
    try:
        act, names = _ACTIONS[request["action"]]
        values: dict[str, Any] = {name: _points(request[name]) if name == "points" else _number(request[name])
                                  for name in names}
        values.update({name: request[name] for name, kind in _STATED.get(request["action"], {}).items()
                       if isinstance(request.get(name), kind)})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeepEMError(f"edit {str(request)[:200]}: expected an action ({', '.join(_ACTIONS)}) and its numbers "
                          f"({type(error).__name__})") from error
    return act(shown, **values)


def _check_number(shown: Shown, picks: int | None) -> None:
    """Check that the picks are as many as somebody saw; raises DeepEMError if not."""
    if picks not in (None, len(shown.picks)):
        raise DeepEMError(f"{picks} picks were in view, and now there are {len(shown.picks)}: look at them first")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e7:
        raise ValueError("not a number of pixels")
    return float(value)


def _points(values: Any) -> list[list[float]]:
    if not isinstance(values, list) or len(values) > MAX_STROKE_POINTS:
        raise ValueError("not a stroke")
    points = [[_number(value) for value in point] for point in values]
    if any(len(point) != 2 for point in points):
        raise ValueError("not points")
    return points


def _removed(particles: list[Mark], picks: list[Mark]) -> Change:
    """Take particles back, and make negatives of those with a score and of picks."""
    return particles, [Mark(NEGATIVE, mark.values) for mark in particles + picks if not math.isnan(mark.values[2])]


def _closest(marks: Sequence[Mark], x: float, y: float, radius: float) -> Mark | None:
    """Return the closest mark less than a radius away; of equal ones the first."""
    near = [(math.dist(mark.values[:2], (x, y)), number) for number, mark in enumerate(marks)]
    distance, number = min(near, default=(math.inf, 0))
    return marks[number] if distance < radius else None


def _inside(corners: Mark, x: float, y: float) -> bool:
    left, top, right, bottom = corners.values
    return left <= x <= right and top <= y <= bottom


def _stroked(mark: Mark, points: Sequence[Sequence[float]], radius: float) -> bool:
    """Whether a mark lies within the radius of a stroke, a line through points."""
    place = np.array(mark.values[:2])
    ends = np.array(points, float).reshape(-1, 2)
    if not len(ends):
        return False
    starts = np.concatenate([ends[:1], ends[:-1]])
    along = ends - starts
    lengths = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip(((place - starts) * along).sum(axis=1) / lengths, 0, 1)
    return bool(np.hypot(*(starts + share[:, None] * along - place).T).min() <= radius)
