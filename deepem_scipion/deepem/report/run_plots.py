# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a picking run and of an evaluation: picks and scores over the run, and their distributions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation.matching import Matches
from ..picking.selection import PICKED, REASON_LABELS, THRESHOLD
from ..picking.summary import MicrographResult
from .axes import BLUE, GREEN, ORANGE, SKY, VERMILION, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Scores are drawn for at most this many groups of micrographs.
MAX_GROUPS = 60
# A running median is drawn for at least this many micrographs.
MIN_FOR_MEDIAN = 20
_SIZE_IN = (10, 4)


def draw_course(micrographs: Mapping[str, MicrographResult], scores: Mapping[str, np.ndarray],
                outliers: Collection[str]) -> Figure:
    """Draw number and scores of the picks over the course of a run.

    Parameters
    ----------
    micrographs : mapping of str to MicrographResult
        By name, in the order of the run.
    scores : mapping of str to (n,) array
        Scores of the picks by name of the micrograph.
    outliers : collection of str
        Names of micrographs to mark.

    Returns
    -------
    Figure
        With two panels.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = make_figure(*_SIZE_IN, 2)
    _draw_picks_per_micrograph(left, micrographs, outliers)
    left.set(ylabel="picks", title="Picks over the run")
    _draw_score_bands(right, list(micrographs), scores)
    right.set(ylabel="score", title="Scores of the picks over the run", ylim=(0, 1.03))
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="micrograph, in the order of the run",
                 xlim=(-0.02 * len(micrographs), 1.02 * len(micrographs) + 1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", loc="upper left" if axes is left else "lower left")
    return figure


def draw_distributions(picks: Sequence[int], scores: np.ndarray, reasons: np.ndarray,
                       threshold: float | None) -> Figure:
    """Draw the distribution of picks over micrographs, and the scores of all candidates.

    Parameters
    ----------
    picks : sequence of int
        Number of picks of each micrograph.
    scores : (n,) array
        Scores of all candidates.
    reasons : (n,) str array
        Their reasons, see `select`.
    threshold : float, optional
        Marked if given.

    Returns
    -------
    Figure
        With two panels.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = make_figure(*_SIZE_IN, 2)
    if len(picks):
        step = max(1, round(np.ptp(picks) / min(40, 3 * len(picks)**0.5)))
        left.hist(picks, (np.arange(min(picks), max(picks) + 2 * step, step) - 0.5).tolist(), color=BLUE)
        median = float(np.median(picks))
        left.axvline(median, color="black", linestyle="dotted", label=f"median {median:g}")
        left.legend(fontsize="small")
    left.set(xlabel="picks", ylabel="micrographs", title="Picks per micrograph")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    groups = {REASON_LABELS[PICKED]: (reasons == PICKED, GREEN), REASON_LABELS[THRESHOLD]: (reasons == THRESHOLD, SKY),
              "rejected for another reason": (~np.isin(reasons, (PICKED, THRESHOLD)), ORANGE)}
    right.hist([scores[chosen] for chosen, _ in groups.values()], np.linspace(0, 1, 41).tolist(), stacked=True,
               color=[colour for _, colour in groups.values()], label=list(groups))
    _mark_threshold(right, threshold)
    right.set(xlabel="score", ylabel="candidates", title="Scores of all candidates", xlim=(0, 1))
    right.legend(fontsize="small")
    return figure


def draw_matches(matches: Matches, threshold: float | None) -> Figure:
    """Draw the scores of true and false positives, and the distances of true positives from their particles.

    Parameters
    ----------
    matches : Matches
    threshold : float, optional
        Marked if given; distances are those of picks with at least this score.

    Returns
    -------
    Figure
        With two panels.
    """
    figure, (left, right) = make_figure(*_SIZE_IN, 2)
    scores, correct = matches.scores, matches.correct
    if len(scores):
        low, high = min(0.0, float(scores.min())), max(1.0, float(scores.max()))
        left.hist([scores[correct], scores[~correct]], np.linspace(low, high, 41).tolist(), stacked=True,
                  color=[GREEN, VERMILION], label=[f"true positives ({correct.sum()})",
                                                   f"false positives ({(~correct).sum()})"])
        _mark_threshold(left, threshold)
        left.legend(fontsize="small")
    left.set(xlabel="score", ylabel="picks", title="Scores of true and false positives")
    if correct.any():
        right.hist(matches.errors_px[correct & (scores >= (-np.inf if threshold is None else threshold))], 30,
                   color=GREEN)
    right.set(xlabel="distance (px)", ylabel="true positives", title="Distance from the reference position")
    right.set_xlim(left=0)
    return figure


def running_median(values: np.ndarray) -> np.ndarray:
    """Compute the median of each value and its neighbours, a twentieth of all on either side, fewer at the ends.

    Parameters
    ----------
    values : (n,) array

    Returns
    -------
    (n,) float64 array
    """
    reach = max(2, len(values) // 20)
    return np.array([np.median(values[max(0, at - reach):at + reach + 1]) for at in range(len(values))])


def _draw_picks_per_micrograph(axes: Axes, micrographs: Mapping[str, MicrographResult],
                               outliers: Collection[str]) -> None:
    picked = np.array([found.ok for found in micrographs.values()], bool)
    outlying = np.array([name in outliers for name in micrographs], bool)
    picks = np.array([found.picks for found in micrographs.values()])
    at = np.arange(1, len(micrographs) + 1)
    for chosen, colour, marker, size, label in (
            (picked & ~outlying, BLUE, "o", 4 if len(at) < 200 else 2.5, "micrograph"),
            (picked & outlying, VERMILION, "D", 4, "outlier"), (~picked, "black", "x", 5, "failed")):
        if chosen.any():
            axes.plot(at[chosen], picks[chosen], marker, color=colour, markersize=size, clip_on=False, rasterized=True,
                      label=f"{label} ({chosen.sum()})")
    if picked.sum() >= MIN_FOR_MEDIAN:
        axes.plot(at[picked], running_median(picks[picked]), color=ORANGE, label="running median")
    axes.set_ylim(0, 1.4 * max(1, *picks))  # leaves room for the legend


def _draw_score_bands(axes: Axes, names: Sequence[str], scores: Mapping[str, np.ndarray]) -> None:
    """Draw median and spread of the scores of groups of micrographs."""
    at = np.arange(1, len(names) + 1)
    groups = [(positions.mean(), np.concatenate(parts))
              for chunk in np.array_split(at, min(len(at), MAX_GROUPS))
              for positions, parts in [_scores_of(chunk, names, scores)] if len(positions)]
    if groups:
        middles, values = zip(*groups)
        bands = np.array([np.percentile(part, (10, 25, 50, 75, 90)) for part in values]).T
        axes.fill_between(middles, bands[0], bands[4], color=SKY, alpha=0.35, linewidth=0, label="80 % of the picks")
        axes.fill_between(middles, bands[1], bands[3], color=SKY, alpha=0.7, linewidth=0, label="50 % of the picks")
        axes.plot(middles, bands[2], ".-", color=BLUE, label="median")


def _scores_of(chunk: np.ndarray, names: Sequence[str], scores: Mapping[str, np.ndarray]
               ) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return which of some micrographs, counted from 1, have picks, and the scores of each."""
    found = [(at, scores[names[at - 1]]) for at in chunk if len(scores.get(names[at - 1], ()))]
    return np.array([at for at, _ in found]), [part for _, part in found]


def _mark_threshold(axes: Axes, threshold: float | None) -> None:
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="dotted", label=f"threshold {threshold:.2f}")
