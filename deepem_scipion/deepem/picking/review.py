# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stored candidates of a picking run, and what other limits would make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Tuple, TypeVar

import numpy as np

from ..coordinates.suppression import Neighbours, neighbours
from ..errors import DeepEMError
from .candidates import Candidates
from .results import PickingResults
from .selection import REASONS, Limits, select_codes
from .summary import MicrographResult

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
        reasons: np.ndarray = np.array(REASONS)[self.select_codes(limits)]
        return reasons

    def select_codes(self, limits: Limits) -> np.ndarray:
        """Apply other limits as `select`; returns positions in `REASONS`, an (n,) int8 array."""
        if limits == self.limits:
            # Files have fewer digits than the run had: at its own limits a candidate in thousands might change sides.
            own: np.ndarray = np.argmax(self.reasons == np.array(REASONS)[:, None], axis=0).astype(np.int8)
            return own
        parts = [slice(*ends) for ends in zip(self.first[:-1].tolist(), self.first[1:].tolist())]
        return select_codes(self.candidates, limits, self.pixel_size_angst, self.near, parts)

    @property
    def of(self) -> np.ndarray:
        """The micrograph of each candidate, an (n,) int array of positions in `names`."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.first))

    @property
    def bins(self) -> np.ndarray:
        """The bin of each candidate's score, of `HISTOGRAM_BINS` equal bins from 0 to 1."""
        return np.minimum((self.candidates.scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)

    def part(self, name: str) -> slice:
        """Return the slice of the candidates of a micrograph; an empty one where it has none."""
        if name not in self.names:
            return slice(0, 0)
        at = self.names.index(name)
        return slice(int(self.first[at]), int(self.first[at + 1]))


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
