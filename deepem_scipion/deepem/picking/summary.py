# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a picking run: of each micrograph, of all together, and which micrographs are outliers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

from .candidates import Candidates
from .selection import PICKED, REASONS

REJECTED = tuple(reason for reason in REASONS if reason != PICKED)

# With fewer micrographs there are no outliers.
MIN_TO_COMPARE = 10
# Outliers lie further from the median than this many standard deviations; the standard deviation is 1.4826 times the
# median absolute deviation, which a minority of outliers does not change.
MAX_STANDARD_DEVIATIONS = 3.5
# A smaller standard deviation of mean scores is replaced by this.
MIN_SCORE_STD = 0.02
# The sign of the contrast is checked on this many micrographs, each of which then takes twice as long.
CONTRAST_CHECKS = 3
# The contrast counts as inverted where the evidence for it exceeds the other by this many standard deviations.
CONTRAST_STANDARD_DEVIATIONS = 3.0
# The speed is that of this many last micrographs.
SPEED_OVER = 100

_Key = TypeVar("_Key", str, int)


@dataclass(frozen=True)
class MicrographResult:
    """What became of one micrograph.

    Attributes
    ----------
    path : str
        File of the micrograph.
    reason : str
        Why it failed; empty where it was picked.
    candidates, picks : int
        Number of local maxima of the score map, and of those picked.
    mean_score : float, optional
        Of the picks; None where there is none.
    rejected : mapping of str to int
        Number of candidates for each reason of rejection (`REJECTED`).
    seconds : float, optional
        Time taken.
    finished : float, optional
        Time of the end, in seconds since 1970.
    evidence, negative_evidence : float, optional
        Of the first micrographs: evidence for particles in the micrograph and in its negative, see `contrast`.
    pixel_size_angst, header_pixel_size_angst : float, optional
        Pixel size that was used, and that in the header, in angstrom.
    cut : int, optional
        Number of picks whose boxes leave the micrograph.
    """

    path: str
    reason: str = ""
    candidates: int = 0
    picks: int = 0
    mean_score: float | None = None
    rejected: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(REJECTED, 0))
    seconds: float | None = None
    finished: float | None = None
    evidence: float | None = None
    negative_evidence: float | None = None
    pixel_size_angst: float | None = None
    header_pixel_size_angst: float | None = None
    cut: int | None = None

    @classmethod
    def of(cls, path: str, candidates: Candidates, reasons: np.ndarray, **others: Any) -> MicrographResult:
        """Return the result of a micrograph from its candidates and the reason of each."""
        picked = reasons == PICKED
        mean_score = round(float(candidates.scores[picked].mean()), 4) if picked.any() else None
        rejected = {reason: int((reasons == reason).sum()) for reason in REJECTED}
        return cls(path, "", len(candidates), int(picked.sum()), mean_score, rejected, **others)

    @property
    def ok(self) -> bool:
        """Whether the micrograph was picked."""
        return not self.reason

    @property
    def rejected_share(self) -> dict[str, float]:
        """Share of the candidates rejected for each reason."""
        return _shares(self.rejected, self.candidates)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not known is left out."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        status = {"path": known.pop("path"), "status": "ok" if self.ok else "failed"}
        if not self.ok:
            return {**status, "reason": self.reason} | ({"finished": self.finished} if self.finished else {})
        known.pop("reason")
        return {**status, **known, "mean_score": self.mean_score, "rejected_share": self.rejected_share}


@dataclass(frozen=True)
class ContrastCheck:
    """Evidence for the sign of the contrast, see `contrast`.

    Attributes
    ----------
    micrographs : int
        Number of micrographs checked.
    evidence, negative_evidence : float
        Sum over these micrographs, and over the same ones with inverted contrast.
    inverted : bool
        Whether the micrographs look more like the particles of the training with inverted contrast.
    """

    micrographs: int
    evidence: float
    negative_evidence: float
    inverted: bool

    def warning(self, model_contrast: str | None) -> str:
        """Return a sentence about an inverted contrast; empty where the contrast is as expected."""
        if not self.inverted:
            return ""
        return (f"the contrast seems to be inverted: the model was trained on {model_contrast or 'other'} particles, "
                f"and with inverted contrast the first {self.micrographs} micrographs look more like them "
                f"({self.negative_evidence:.0f} against {self.evidence:.0f}). For the general model give the other "
                "--contrast; otherwise invert the micrographs, or train a model on them")


@dataclass(frozen=True)
class RunSummary:
    """Figures over all micrographs of a run; None where there is nothing to average.

    Attributes
    ----------
    picked, failed : int
        Number of micrographs.
    picks : int
    picks_per_micrograph, mean_score : float, optional
    rejected_share : mapping of str to float
        Share of all candidates for each reason of rejection.
    seconds : float, optional
        Mean time per micrograph.
    micrographs_per_minute : float, optional
        Of the last `SPEED_OVER` micrographs.
    contrast : ContrastCheck, optional
    outliers : mapping of str to str
        Name of the micrograph to what is unusual, see `outliers`.
    """

    picked: int
    failed: int
    picks: int
    picks_per_micrograph: float | None
    mean_score: float | None
    rejected_share: Mapping[str, float]
    seconds: float | None
    micrographs_per_minute: float | None
    contrast: ContrastCheck | None
    outliers: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def summarise_run(results: Mapping[str, MicrographResult]) -> RunSummary:
    """Summarise the results of a run.

    Parameters
    ----------
    results : mapping of str to MicrographResult
        By name of the micrograph.

    Returns
    -------
    RunSummary
    """
    done = [result for result in results.values() if result.ok]
    picks, candidates = sum(result.picks for result in done), sum(result.candidates for result in done)
    scores = sum(result.picks * result.mean_score for result in done if result.mean_score is not None)
    seconds = sum(result.seconds or 0.0 for result in done)
    counts = {reason: sum(result.rejected.get(reason, 0) for result in done) for reason in REJECTED}
    return RunSummary(
        picked=len(done), failed=len(results) - len(done), picks=picks,
        picks_per_micrograph=round(picks / len(done), 2) if done else None,
        mean_score=round(scores / picks, 4) if picks else None,
        rejected_share=_shares(counts, candidates),
        seconds=round(seconds / len(done), 4) if done else None,
        micrographs_per_minute=_speed(results.values()), contrast=contrast(results), outliers=outliers(results))


def contrast(results: Mapping[str, MicrographResult]) -> ContrastCheck | None:
    """Decide from the first micrographs whether the contrast is that of the training.

    Parameters
    ----------
    results : mapping of str to MicrographResult

    Returns
    -------
    ContrastCheck or None
        None where no micrograph was checked.

    Notes
    -----
    Evidence is the sum of the squared scores of the picks, once of the micrographs and once with inverted contrast.
    With the contrast of the training the first is greater, by a factor of 1.5 to 5; on micrographs without particles
    both are small. The contrast counts as inverted where the second is greater by more than chance, the standard
    deviation of counts being the square root of their number.
    """
    checked = [(result.evidence, result.negative_evidence) for result in results.values()
               if result.evidence is not None and result.negative_evidence is not None]
    if not checked:
        return None
    evidence, negative = (float(sum(values)) for values in zip(*checked))
    inverted = bool(negative - evidence > CONTRAST_STANDARD_DEVIATIONS * np.sqrt(evidence + negative))
    return ContrastCheck(len(checked), round(evidence, 2), round(negative, 2), inverted)


def outliers(results: Mapping[str, MicrographResult]) -> dict[str, str]:
    """Find micrographs whose number of picks or mean score is unusual.

    Parameters
    ----------
    results : mapping of str to MicrographResult

    Returns
    -------
    dict of str to str
        Name to what is unusual, for instance "few picks (3, median 81)". Empty for fewer than `MIN_TO_COMPARE`
        micrographs.

    Notes
    -----
    Values further than `MAX_STANDARD_DEVIATIONS` from the median of the run are outliers. The standard deviation is
    derived from the median absolute deviation, but that of counts is at least their square root (chance alone makes
    counts differ that much) and that of mean scores at least `MIN_SCORE_STD`.
    """
    known = {name: result for name, result in results.items() if result.ok}
    return unusual({name: result.picks for name, result in known.items()},
                   {name: result.mean_score for name, result in known.items()})


def unusual(picks: Mapping[_Key, int], scores: Mapping[_Key, float | None]) -> dict[_Key, str]:
    """Find outliers as `outliers`, among numbers of picks and mean scores (None without picks) by any key."""
    known = {key: score for key, score in scores.items() if score is not None}
    found: dict[_Key, list[str]] = {}
    for values, labels, number in ((picks, ("few picks", "many picks"), "{:.0f}"),
                                   (known, ("low scores", "high scores"), "{:.2f}")):
        if len(values) < MIN_TO_COMPARE:
            continue
        table = np.array(list(values.values()), float)
        median = float(np.median(table))
        minimum = np.sqrt(max(median, 1)) if values is picks else MIN_SCORE_STD
        std = max(1.4826 * float(np.median(np.abs(table - median))), minimum)
        keys = list(values)
        for at in np.flatnonzero(np.abs(table - median) > MAX_STANDARD_DEVIATIONS * std):
            found.setdefault(keys[at], []).append(f"{labels[int(table[at] > median)]} ({number.format(table[at])}, "
                                                  f"median {number.format(median)})")
    return {key: ", ".join(words) for key, words in found.items()}


def _shares(counts: Mapping[str, int], candidates: int) -> dict[str, float]:
    return {reason: round(number / candidates, 4) if candidates else 0.0 for reason, number in counts.items()}


def _speed(results: Iterable[MicrographResult]) -> float | None:
    times = sorted(result.finished for result in results if result.finished is not None)[-SPEED_OVER - 1:]
    return round(60 * (len(times) - 1) / (times[-1] - times[0]), 1) if times and times[-1] > times[0] else None
