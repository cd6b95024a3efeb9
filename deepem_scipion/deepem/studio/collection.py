# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The candidates of all micrographs of a session, and which of them are picks at the limits and marks in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..picking.candidates import Candidates
from ..picking.review import HISTOGRAM_BINS, Part, Review, join_review, review_part
from ..picking.selection import REASONS, Limits, select
from ..picking.summary import MicrographResult, unusual
from .editing import MARKED, Shown, covered
from .marks import DONE, NEGATIVE, PARTICLE, Mark

# Largest minimum distance that can be tried, in particle diameters.
MAX_DISTANCE = 1.5
WAITING, FOUND, FAILED = 0, 1, 2
# Instead of the position of a reason: a mark decides about the candidate.
_DECIDED = len(REASONS)


class _Marked(NamedTuple):
    """What the marks of a micrograph mean for its candidates."""

    marks: Sequence[Mark]
    centres_xy: np.ndarray
    decided: np.ndarray
    kinds: Counter[str]


class Collection:
    """Candidates of micrographs, as far as they are found.

    Parameters
    ----------
    names : sequence of str
        Micrographs, in the order in which they are shown.
    pixel_size_angst, diameter_angst : float
        Of the micrographs and of the particle.
    limits : Limits
        Of the picks.

    Attributes
    ----------
    limits : Limits
    found_at : Limits
        Those given at first.
    """

    def __init__(self, names: Sequence[str], pixel_size_angst: float, diameter_angst: float, limits: Limits) -> None:
        self.names, self.pixel_size_angst, self.diameter_angst = tuple(names), pixel_size_angst, diameter_angst
        self.limits, self.found_at = limits, limits
        self._results: dict[str, MicrographResult] = {}
        self._parts: dict[str, Part] = {}
        self._joined: _Joined | None = None
        self._marked: dict[str, _Marked] = {}
        self._numbers = {name: number for number, name in enumerate(self.names)}

    @property
    def diameter_px(self) -> float:
        """Particle diameter in pixels of the micrographs."""
        return self.diameter_angst / self.pixel_size_angst

    def put(self, name: str, path: str, candidates: Candidates) -> None:
        """Add or replace the candidates of a micrograph."""
        reasons = select(candidates, self.found_at, self.pixel_size_angst)
        self.put_part(name, path, review_part(candidates, reasons, self.max_distance_px))

    def put_part(self, name: str, path: str, part: Part) -> None:
        """Add or replace what `review_part` returned for a micrograph."""
        self._parts[name] = part
        self._results[name] = MicrographResult.of(path, *part[:2])
        self._joined = None

    def set_diameter(self, angst: float) -> None:
        """Take another particle diameter for the same candidates."""
        self.diameter_angst = angst
        self._parts = {name: review_part(*part[:2], self.max_distance_px) for name, part in self._parts.items()}
        self._joined, self._marked = None, {}

    @property
    def max_distance_px(self) -> float:
        """Largest minimum distance that can be tried, in pixels of the micrographs."""
        return max(MAX_DISTANCE * self.diameter_angst, self.found_at.min_distance_angst) / self.pixel_size_angst

    def expect(self, results: Mapping[str, MicrographResult]) -> None:
        """List micrographs whose candidates are about to be read."""
        self._results.update(results)
        self._joined = None

    def forget_missing(self) -> list[str]:
        """Take micrographs whose candidates could not be read as not found yet; returns their names."""
        missing = [name for name, result in self._results.items() if result.ok and name not in self._parts]
        for name in missing:
            del self._results[name]
        self._joined = None
        return missing

    def fail(self, name: str, path: str, reason: str) -> None:
        """Note why a micrograph has no candidates."""
        self._parts.pop(name, None)
        self._results[name] = MicrographResult(path, reason)
        self._joined = None

    def status(self, name: str) -> int:
        """Return whether the candidates of a micrograph are to be found or read, are there, or cannot be found."""
        result = self._results.get(name)
        return FAILED if result is not None and not result.ok else FOUND if name in self._parts else WAITING

    def is_expected(self, name: str) -> bool:
        """Whether the candidates of a micrograph are there, are about to be read, or cannot be found."""
        return name in self._results

    def found(self, name: str) -> bool:
        """Whether the candidates of a micrograph are there."""
        return name in self._parts

    def uncertain(self, distance: float) -> np.ndarray:
        """Return the number of candidates of each micrograph whose score is closer to the threshold than a distance."""
        joined, counts = self._all(), np.zeros(len(self.names), dtype=int)
        scores, threshold = joined.review.candidates.scores, self.limits.threshold
        near = np.flatnonzero((scores > threshold - distance) & (scores < threshold + distance))
        counts[joined.numbers] = np.bincount(joined.of[near], minlength=len(joined.numbers))
        return counts

    def result(self, name: str) -> MicrographResult:
        """Return what became of a micrograph; raises KeyError where its candidates are still to be found."""
        return self._results[name]

    def failure(self, name: str) -> str:
        """Return why a micrograph has no candidates; empty where it has or may have them."""
        return self._results[name].reason if name in self._results else ""

    def shown(self, name: str, marks: Sequence[Mark], limits: Limits | None = None) -> Shown:
        """Return candidates, reasons and marks of one micrograph, at the limits in force or at others."""
        joined = self._around(name)
        part, candidates = joined.part(name), joined.review.candidates
        found = np.array(REASONS)[joined.codes(limits or self.limits)[part]]
        found[self._decided(name, marks).decided] = MARKED
        return Shown(candidates.centres_xy[part], candidates.scores[part], found, marks, self.diameter_px)

    def local_stds(self, name: str) -> np.ndarray:
        """Return the local standard deviations of the candidates of one micrograph."""
        joined = self._around(name)
        found: np.ndarray = joined.review.candidates.local_stds[joined.part(name)]
        return found

    def ranges(self) -> dict[str, float]:
        """Return the ends of the sliders: distances from picks and from the border, in angstrom; local std."""
        high = self.limits.std_range[1] if self.limits.std_range else 0.0
        return {"distance": max(MAX_DISTANCE * self.diameter_angst, self.limits.min_distance_angst),
                "border": max(self.diameter_angst, self.limits.border_angst),
                "std": max(1.2 * self._all().most_std, high)}

    def summary(self, marks: Mapping[str, Sequence[Mark]]) -> dict[str, Any]:
        """Count picks, with the marks of people, for display.

        Parameters
        ----------
        marks : mapping of str to sequence of Mark
            By name of the micrograph.

        Returns
        -------
        dict
            Lists in the order of the micrographs (`picks`, `scores`, `status`, `particles`, `negatives`, `done`),
            `outliers` by the number of the micrograph, the `histogram` of the scores of picks and of all candidates,
            and `reasons`, the number of candidates for each reason in the order of `REASONS`.
        """
        joined = self._all()
        codes, n = joined.codes(self.limits).copy(), len(joined.numbers)
        marked = {name: self._decided(name, each) for name, each in marks.items() if name in self._numbers}
        for name, each in marked.items():
            codes[joined.part(name)][each.decided] = _DECIDED
        counts = np.bincount(joined.rows + codes, minlength=n * (_DECIDED + 1)).reshape(n, _DECIDED + 1)[:, :_DECIDED]
        picked = np.flatnonzero(codes == 0)
        sums = np.bincount(joined.of[picked], joined.review.candidates.scores[picked], n)
        means = (sums / np.maximum(counts[:, 0], 1)).round(4)
        found = {number: (n_picks, mean if n_picks else None)
                 for number, n_picks, mean in zip(joined.numbers.tolist(), counts[:, 0].tolist(), means.tolist())}
        return {**self._columns(found, marked), "reasons": counts.sum(axis=0).tolist(),
                "histogram": [np.bincount(joined.bins[picked], minlength=HISTOGRAM_BINS).tolist(), joined.histogram]}

    def _columns(self, found: dict[int, tuple[int, float | None]], marked: Mapping[str, _Marked]) -> dict[str, Any]:
        """The columns of the list of micrographs, and which are outliers, from picks and mean scores by number."""
        columns = {kind: [0] * len(self.names) for kind in (PARTICLE, NEGATIVE, DONE)}
        for name, each in marked.items():
            for kind, column in columns.items():
                column[self._numbers[name]] = each.kinds[kind]
        for name, result in self._results.items():
            if result.ok:  # candidates that are still to be read
                found.setdefault(self._numbers[name], (result.picks, result.mean_score))
        picks = list(columns[PARTICLE])
        scores: list[float | None] = [None] * len(self.names)
        for number, (n_picks, scores[number]) in found.items():
            picks[number] += n_picks
        return {"particles": columns[PARTICLE], "negatives": columns[NEGATIVE], "done": columns[DONE], "picks": picks,
                "scores": scores, "status": [self.status(name) for name in self.names],
                "outliers": unusual({number: picks[number] for number in found},
                                    {number: scores[number] for number in found})}

    def _decided(self, name: str, marks: Sequence[Mark]) -> _Marked:
        """What marks mean for the candidates of a micrograph, computed again where either changed."""
        centres_xy = self._parts[name][0].centres_xy if name in self._parts else np.empty((0, 2))
        known = self._marked.get(name)
        if known is None or known.marks is not marks or known.centres_xy is not centres_xy:
            known = self._marked[name] = _Marked(marks, centres_xy, covered(centres_xy, marks, self.diameter_px),
                                                 Counter(mark.kind for mark in marks))
        return known

    def _all(self) -> _Joined:
        if self._joined is None:
            self._joined = self._join(self._parts)
        return self._joined

    def _around(self, name: str) -> _Joined:
        """All candidates or, if these would have to be joined first, those of a micrograph."""
        return self._joined or self._join({name: self._parts[name]} if name in self._parts else {})

    def _join(self, parts: Mapping[str, Part]) -> _Joined:
        review = join_review(dict(self._results), parts, self.found_at, self.pixel_size_angst)
        return _Joined(review, np.array([self._numbers[name] for name in review.names], dtype=int))


class _Joined:
    """All candidates, with what is computed once for many limits."""

    def __init__(self, review: Review, numbers: np.ndarray) -> None:
        self.review, self.numbers, self.of, self.bins = review, numbers, review.of, review.bins
        self.rows = (_DECIDED + 1) * self.of
        self.histogram = np.bincount(self.bins, minlength=HISTOGRAM_BINS).tolist()
        stds = review.candidates.local_stds
        self.most_std = float(np.percentile(stds, 99.9)) if len(stds) else 2.0
        self._parts = {name: slice(*ends) for name, ends in
                       zip(review.names, zip(review.first[:-1].tolist(), review.first[1:].tolist()))}
        self._codes: dict[Limits, np.ndarray] = {}

    def part(self, name: str) -> slice:
        """The candidates of a micrograph."""
        return self._parts.get(name, slice(0, 0))

    def codes(self, limits: Limits) -> np.ndarray:
        """Position of the reason of each candidate in `REASONS`."""
        if limits not in self._codes:
            if len(self._codes) > 2:  # the first ones, mostly those of the run, are kept
                self._codes.pop(list(self._codes)[1])
            self._codes[limits] = self.review.select_codes(limits)
        return self._codes[limits]
