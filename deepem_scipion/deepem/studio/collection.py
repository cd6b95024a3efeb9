# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The candidates of all micrographs of a session, and which of them are picks at the limits and marks in force."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from ..picking.candidates import Candidates
from ..picking.review import HISTOGRAM_BINS, Part, Review, join_review, review_part
from ..picking.selection import REASONS, Limits, select
from ..picking.summary import MicrographResult, outliers
from .editing import MARKED, Shown, covered
from .marks import DONE, NEGATIVE, PARTICLE, Mark

# Largest minimum distance that can be tried, in particle diameters.
MAX_DISTANCE = 1.5
WAITING, FOUND, FAILED = 0, 1, 2
# Instead of the position of a reason: a mark decides.
MARKED_CODE = -1

Marks = Mapping[str, Sequence[Mark]]


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
    """

    def __init__(self, names: Sequence[str], pixel_size_angst: float, diameter_angst: float, limits: Limits) -> None:
        self.names, self.pixel_size_angst, self.diameter_angst = tuple(names), pixel_size_angst, diameter_angst
        self.limits, self._found_at = limits, limits
        self._results: dict[str, MicrographResult] = {}
        self._parts: dict[str, Part] = {}
        self._review: Review | None = None
        self._reasons: tuple[Limits, np.ndarray] | None = None
        self._most: tuple[Review | None, float] = None, 2.0

    @property
    def diameter_px(self) -> float:
        """Particle diameter in pixels of the micrographs."""
        return self.diameter_angst / self.pixel_size_angst

    def put(self, name: str, path: str, candidates: Candidates, reasons: np.ndarray | None = None) -> None:
        """Add or replace the candidates of a micrograph; reasons are those of the limits that this began with."""
        if reasons is None:
            reasons = select(candidates, self._found_at, self.pixel_size_angst)
        self.put_part(name, path, review_part(candidates, reasons, self.max_distance_px))

    def put_part(self, name: str, path: str, part: Part) -> None:
        """Add or replace what `review_part` returned for a micrograph."""
        self._parts[name] = part
        self._results[name] = MicrographResult.of(path, *part[:2])
        self._review = self._reasons = None

    @property
    def max_distance_px(self) -> float:
        """Largest minimum distance that can be tried, in pixels of the micrographs."""
        return max(MAX_DISTANCE * self.diameter_angst, self._found_at.min_distance_angst) / self.pixel_size_angst

    def expect(self, results: Mapping[str, MicrographResult]) -> None:
        """List micrographs whose candidates are about to be read."""
        self._results.update(results)
        self._review = self._reasons = None

    def forget_missing(self) -> None:
        """Take micrographs whose candidates could not be read as not found yet."""
        self._results = {name: result for name, result in self._results.items()
                         if not result.ok or name in self._parts}
        self._review = self._reasons = None

    def fail(self, name: str, path: str, reason: str) -> None:
        """Note why a micrograph has no candidates."""
        self._parts.pop(name, None)
        self._results[name] = MicrographResult(path, reason)
        self._review = self._reasons = None

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

    def uncertain(self, distance: float) -> list[float]:
        """Return the number of candidates of each micrograph whose score is closer to the threshold than a distance."""
        review, _ = self._selected()
        near = np.abs(review.candidates.scores - self.limits.threshold) < distance
        of = np.repeat(np.arange(len(review.names)), np.diff(review.first))
        found = dict(zip(review.names, np.bincount(of, near, len(review.names)).tolist()))
        return [found.get(name, 0.0) for name in self.names]

    def result(self, name: str) -> MicrographResult:
        """Return what became of a micrograph; raises KeyError where its candidates are still to be found."""
        return self._results[name]

    def failure(self, name: str) -> str:
        """Return why a micrograph has no candidates; empty where it has or may have them."""
        return self._results[name].reason if name in self._results else ""

    def shown(self, name: str, marks: Sequence[Mark]) -> Shown:
        """Return candidates, reasons and marks of one micrograph."""
        review, reasons = self._selected()
        part = review.part(name)
        found = np.array(REASONS)[reasons[part]]
        found[covered(review.candidates.centres_xy[part], marks, self.diameter_px)] = MARKED
        return Shown(review.candidates.centres_xy[part], review.candidates.scores[part], found, marks, self.diameter_px)

    def local_stds(self, name: str) -> np.ndarray:
        """Return the local standard deviations of the candidates of one micrograph."""
        review, _ = self._selected()
        found: np.ndarray = review.candidates.local_stds[review.part(name)]
        return found

    def ranges(self) -> dict[str, float]:
        """Return the ends of the sliders of minimum distance, in angstrom, and local standard deviation."""
        review = self._selected()[0]
        if self._most[0] is not review:
            stds = review.candidates.local_stds
            self._most = review, float(np.percentile(stds, 99.9)) if len(stds) else 2.0
        most = self._most[1]
        high = self.limits.std_range[1] if self.limits.std_range else 0.0
        return {"distance": max(MAX_DISTANCE * self.diameter_angst, self.limits.min_distance_angst),
                "std": max(1.2 * most, high)}

    def summary(self, marks: Marks) -> dict[str, Any]:
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
        review, selected = self._selected()
        codes = selected.copy()
        for name in (name for name, each in marks.items() if each):
            part = review.part(name)
            codes[part][covered(review.candidates.centres_xy[part], marks[name], self.diameter_px)] = MARKED_CODE
        n, picked = len(review.names), codes == 0
        of = np.repeat(np.arange(n), np.diff(review.first))
        decided = codes != MARKED_CODE
        counts = np.bincount((of * len(REASONS) + codes)[decided], minlength=n * len(REASONS)).reshape(n, len(REASONS))
        scores = np.bincount(of[picked], review.candidates.scores[picked], n) / np.maximum(counts[:, 0], 1)
        results = dict(self._results)
        for name, row, score in zip(review.names, counts.tolist(), scores.round(4).tolist()):
            picks = row[0] + sum(mark.kind == PARTICLE for mark in marks.get(name, ()))
            results[name] = MicrographResult("", picks=picks, mean_score=score if row[0] else None)
        bins = np.minimum((review.candidates.scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        return {**self._columns(results, marks), "reasons": counts.sum(axis=0).tolist(),
                "histogram": [np.bincount(each, minlength=HISTOGRAM_BINS).tolist() for each in (bins[picked], bins)]}

    def _columns(self, results: Mapping[str, MicrographResult], marks: Marks) -> dict[str, Any]:
        """The columns of the list of micrographs, and which are outliers."""
        kinds = {PARTICLE: "particles", NEGATIVE: "negatives", DONE: "done"}
        counts = {column: [sum(mark.kind == kind for mark in marks.get(name, ())) for name in self.names]
                  for kind, column in kinds.items()}
        shown = [results.get(name) for name in self.names]
        odd = outliers(results)
        return {**counts, "picks": [result.picks if result else n for result, n in zip(shown, counts["particles"])],
                "scores": [result.mean_score if result else None for result in shown],
                "status": [self.status(name) for name in self.names],
                "outliers": {number: odd[name] for number, name in enumerate(self.names) if name in odd}}

    def _selected(self) -> tuple[Review, np.ndarray]:
        """All candidates, and for each the position of its reason in `REASONS`."""
        if self._review is None:
            self._review = join_review(dict(self._results), self._parts, self._found_at, self.pixel_size_angst)
        if self._reasons is None or self._reasons[0] != self.limits:
            reasons = self._review.select(self.limits)
            codes = np.zeros(len(reasons), dtype=np.int8)
            for code, reason in enumerate(REASONS):
                codes[reasons == reason] = code
            self._reasons = self.limits, codes
        return self._review, self._reasons[1]
