# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stored candidates of a picking run, and what other limits would make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Tuple, TypeVar

import numpy as np

from ..coordinates.box import write_box
from ..coordinates.suppression import Neighbours, neighbours
from ..errors import DeepEMError
from .candidates import Candidates
from .results import PickingResults
from .selection import PICKED, Limits, select
from .summary import REJECTED, MicrographResult

HISTOGRAM_BINS = 50
_Arrays = TypeVar("_Arrays", Candidates, Neighbours)
Part = Tuple[Candidates, np.ndarray, Neighbours]


@dataclass(frozen=True)
class Review:
    """The candidates of all micrographs of a run, one micrograph after the other.

    Attributes
    ----------
    micrographs : mapping of str to MicrographResult
        Results of the run by name, also of micrographs that failed.
    names : tuple of str
        Micrographs with candidates.
    first : (len(names) + 1,) int array
        The candidates of micrograph i are those from first[i] to before first[i + 1].
    candidates : Candidates
    reasons : (n,) str array
        As the run found them, see `selection.select`.
    limits : Limits
        Of the run.
    pixel_size_angst : float
        Pixel size of the micrographs, in angstrom.
    near : Neighbours
        Pairs of candidates that are close to each other, for `selection.select`.
    """

    micrographs: Mapping[str, MicrographResult]
    names: tuple[str, ...]
    first: np.ndarray
    candidates: Candidates
    reasons: np.ndarray
    limits: Limits
    pixel_size_angst: float
    near: Neighbours

    def select(self, limits: Limits) -> np.ndarray:
        """Apply other limits to all candidates, see `selection.select`.

        Parameters
        ----------
        limits : Limits
            With a minimum distance of at most that given to `read_review`.

        Returns
        -------
        (n,) str array
            Reasons; those of the run for its own limits.
        """
        if limits == self.limits:
            # Files have fewer digits than the run had: at its own limits a candidate in thousands might change sides.
            return self.reasons
        parts = [slice(*ends) for ends in zip(self.first[:-1].tolist(), self.first[1:].tolist())]
        return select(self.candidates, limits, self.pixel_size_angst, self.near, parts)

    def part(self, name: str) -> slice:
        """Return the slice of the candidates of a micrograph; an empty one where it has none."""
        if name not in self.names:
            return slice(0, 0)
        at = self.names.index(name)
        return slice(int(self.first[at]), int(self.first[at + 1]))

    def summarise(self, reasons: np.ndarray) -> dict[str, MicrographResult]:
        """Return the results of all micrographs, by name, with the numbers that these reasons give."""
        n, picked = len(self.names), reasons == PICKED
        candidates = np.diff(self.first)
        of = np.repeat(np.arange(n), candidates)
        picks = np.bincount(of[picked], minlength=n)
        scores = np.bincount(of[picked], self.candidates.scores[picked], minlength=n) / np.maximum(picks, 1)
        counts = np.array([np.bincount(of[reasons == reason], minlength=n) for reason in REJECTED]).T
        found = {name: replace(self.micrographs[name], candidates=number, picks=n_picks,
                               mean_score=round(score, 4) if n_picks else None, rejected=dict(zip(REJECTED, row)))
                 for name, number, n_picks, score, row in zip(self.names, candidates.tolist(), picks.tolist(),
                                                              scores.tolist(), counts.tolist())}
        return {**self.micrographs, **found}

    def histogram(self, reasons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count picks, and all candidates, in `HISTOGRAM_BINS` equal bins of the score from 0 to 1."""
        bins = np.minimum((self.candidates.scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        return (np.bincount(bins[reasons == PICKED], minlength=HISTOGRAM_BINS),
                np.bincount(bins, minlength=HISTOGRAM_BINS))

    def write_picks(self, name: str, reasons: np.ndarray, path: str | Path, box_px: float) -> None:
        """Write the picks of one micrograph among these reasons as .box file, see `coordinates.write_box`."""
        part = self.part(name)
        picked = np.flatnonzero(reasons[part] == PICKED) + part.start
        write_box(path, self.candidates.centres_xy[picked], self.candidates.scores[picked], box_px)


def read_review(folder: str | Path, pixel_size_angst: float, max_distance_angst: float) -> Review:
    """Read the candidates of a picking run.

    Parameters
    ----------
    folder : str or Path
        Results folder.
    pixel_size_angst : float
        Pixel size of the micrographs, in angstrom.
    max_distance_angst : float
        Largest minimum distance that will be tried, besides that of the run.

    Returns
    -------
    Review
        A micrograph whose candidates cannot be read counts as failed.

    Raises
    ------
    DeepEMError
        The folder holds no results.
    """
    results = PickingResults(folder)
    limits, micrographs = results.read_settings().limits, results.read_micrographs()
    max_distance_px = max(max_distance_angst, limits.min_distance_angst) / pixel_size_angst
    found = {}
    for name, micrograph in micrographs.items():
        if not micrograph.ok:
            continue
        try:
            found[name] = review_part(*results.read_candidates(name), max_distance_px)
        except DeepEMError as error:
            micrographs[name] = MicrographResult(micrograph.path, str(error))
    return join_review(micrographs, found, limits, pixel_size_angst)


def review_part(candidates: Candidates, reasons: np.ndarray, max_distance_px: float) -> Part:
    """Return candidates and reasons of one micrograph with the pairs of candidates that are close to each other.

    Parameters
    ----------
    candidates : Candidates
    reasons : (n,) str array
        See `selection.select`.
    max_distance_px : float
        Maximum minimum distance that will be tried, in pixels of the input micrograph.

    Returns
    -------
    tuple of Candidates, (n,) str array and Neighbours
    """
    return candidates, reasons, neighbours(candidates.centres_xy, candidates.scores, max_distance_px)


def join_review(micrographs: Mapping[str, MicrographResult], found: Mapping[str, Part], limits: Limits,
                pixel_size_angst: float) -> Review:
    """Join the candidates of several micrographs.

    Parameters
    ----------
    micrographs : mapping of str to MicrographResult
        Results by name, also of micrographs without candidates.
    found : mapping of str to tuple
        Name to what `review_part` returns.
    limits : Limits
        Those of the reasons.
    pixel_size_angst : float
        Pixel size of the micrographs, in angstrom.

    Returns
    -------
    Review
    """
    first = np.cumsum([0, *(len(part[0]) for part in found.values())])
    near = [Neighbours(pairs.better + start, pairs.worse + start, pairs.distances)
            for start, (_, _, pairs) in zip(first, found.values())]
    return Review(micrographs, tuple(found), first, _joined(Candidates, [_NONE, *(part[0] for part in found.values())]),
                  np.concatenate([np.empty(0, "U9"), *(part[1] for part in found.values())]), limits, pixel_size_angst,
                  _joined(Neighbours, [neighbours(np.empty((0, 2)), _NO, 0), *near]))


def _joined(kind: type[_Arrays], parts: Sequence[_Arrays]) -> _Arrays:
    """One dataclass of arrays from several."""
    return kind(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(kind)))


_NO = np.empty(0)
_NONE = Candidates(np.empty((0, 2)), _NO, _NO, _NO)
