# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a picking run: picks and scores in the course of it, and how they are distributed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation.matching import Matches
from ..picking.selection import PICKED, THRESHOLD
from ..picking.summary import MicrographResult
from .plots import BLUE, GREEN, ORANGE, SKY, VERMILION, _figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Scores are put together in so many groups of micrographs at most.
MAX_GROUPS = 60
# From so many micrographs on a running median is drawn.
MIN_FOR_MEDIAN = 20


def draw_course(micrographs: Mapping[str, MicrographResult], scores: Mapping[str, np.ndarray],
                outliers: Collection[str]) -> Figure:
    """Draw number and scores of the picks against the micrographs in the order of the run: two panels.

    Parameters
    ----------
    micrographs : mapping of str to MicrographResult
        By name, in the order of the run.
    scores : name -> (n,) scores of the picks
    suspicious : names of micrographs unlike the others
    """
    figure, (left, right) = _figure(10, 4, 2)
    done = np.array([found.ok for found in micrographs.values()], bool)
    odd = np.array([name in outliers for name in micrographs], bool)
    picks = np.array([found.picks for found in micrographs.values()])
    at = np.arange(1, len(micrographs) + 1)
    for chosen, colour, marker, size, label in (
            (done & ~odd, BLUE, "o", 4 if len(at) < 200 else 2.5, "micrograph"),
            (done & odd, VERMILION, "D", 4, "unlike the others"), (~done, "black", "x", 5, "failed")):
        if chosen.any():
            left.plot(at[chosen], picks[chosen], marker, color=colour, markersize=size, clip_on=False, rasterized=True,
                      label=f"{label} ({chosen.sum()})")
    if done.sum() >= MIN_FOR_MEDIAN:
        left.plot(at[done], running_median(picks[done]), color=ORANGE, label="running median")
    left.set(ylabel="picks", title="Picks in the course of the run", ylim=(0, 1.4 * max(1, *picks)))  # with a legend
    groups = [(positions.mean(), np.concatenate(parts))
              for chunk in np.array_split(at, min(len(at), MAX_GROUPS))
              for positions, parts in [_scored(chunk, list(micrographs), scores)] if len(positions)]
    if groups:
        middles, values = zip(*groups)
        bands = np.array([np.percentile(part, (10, 25, 50, 75, 90)) for part in values]).T
        right.fill_between(middles, bands[0], bands[4], color=SKY, alpha=0.35, linewidth=0, label="80 % of the picks")
        right.fill_between(middles, bands[1], bands[3], color=SKY, alpha=0.7, linewidth=0, label="50 % of the picks")
        right.plot(middles, bands[2], ".-", color=BLUE, label="median")
    right.set(ylabel="score", title="Scores in the course of the run", ylim=(0, 1.03))
    for axes in (left, right):
        axes.set(xlabel="micrograph, in the order of the run", xlim=(-0.02 * len(at), 1.02 * len(at) + 1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", loc="upper left" if axes is left else "lower left")
    return figure


def draw_distributions(picks: Sequence[int], scores: np.ndarray, reasons: np.ndarray,
                       threshold: float | None) -> Figure:
    """Draw how picks are distributed over micrographs, and the scores of all candidates: two panels.

    Parameters
    ----------
    picks : number of picks of each micrograph
    scores, reasons : (n,) of all candidates, see `picking.select`
    threshold : marked, if given
    """
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = _figure(10, 4, 2)
    if len(picks):
        step = max(1, round(np.ptp(picks) / min(40, 3 * len(picks)**0.5)))
        left.hist(picks, (np.arange(min(picks), max(picks) + 2 * step, step) - 0.5).tolist(), color=BLUE)
        middle = float(np.median(picks))
        left.axvline(middle, color="black", linestyle="dotted", label=f"median {middle:g}")
        left.legend(fontsize="small")
    left.set(xlabel="picks", ylabel="micrographs", title="Picks per micrograph")
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    fates = {"picked": (reasons == PICKED, GREEN), "below the threshold": (reasons == THRESHOLD, SKY),
             "left out for another reason": (~np.isin(reasons, (PICKED, THRESHOLD)), ORANGE)}
    right.hist([scores[chosen] for chosen, _ in fates.values()], np.linspace(0, 1, 41).tolist(), stacked=True,
               color=[colour for _, colour in fates.values()], label=list(fates))
    if threshold is not None:
        right.axvline(threshold, color="black", linestyle="dotted", label=f"threshold {threshold:.2f}")
    right.set(xlabel="score", ylabel="candidates", title="Scores of all candidates", xlim=(0, 1))
    right.legend(fontsize="small")
    return figure


def draw_judged(matches: Matches, threshold: float | None) -> Figure:
    """Draw how the scores of right and of false picks are distributed, and how far right ones are off: two panels."""
    figure, (axes, right) = _figure(10, 4, 2)
    scores, correct = matches.scores, matches.correct
    if len(scores):
        low, high = min(0.0, float(scores.min())), max(1.0, float(scores.max()))
        axes.hist([scores[correct], scores[~correct]], np.linspace(low, high, 41).tolist(), stacked=True,
                  color=[GREEN, VERMILION], label=[f"right ({correct.sum()})", f"false ({(~correct).sum()})"])
        if threshold is not None:
            axes.axvline(threshold, color="black", linestyle="dotted", label=f"threshold {threshold:.2f}")
        axes.legend(fontsize="small")
    axes.set(xlabel="score", ylabel="picks", title="Scores of right and false picks")
    if correct.any():
        right.hist(matches.errors_px[correct & (scores >= (-np.inf if threshold is None else threshold))], 30,
                   color=GREEN)
    right.set(xlabel="distance (px)", ylabel="right picks", title="Distance of right picks from their particles")
    right.set_xlim(left=0)
    return figure


def running_median(values: np.ndarray) -> np.ndarray:
    """Median of each value and its neighbours, a twentieth of all at either side, fewer at the ends."""
    reach = max(2, len(values) // 20)
    return np.array([np.median(values[max(0, at - reach):at + reach + 1]) for at in range(len(values))])


def _scored(chunk: np.ndarray, names: Sequence[str], scores: Mapping[str, np.ndarray]
            ) -> tuple[np.ndarray, list[np.ndarray]]:
    """Those of some micrographs, counted from 1, that have picks, and the scores of these."""
    found = [(at, scores[names[at - 1]]) for at in chunk if len(scores.get(names[at - 1], ()))]
    return np.array([at for at, _ in found]), [part for _, part in found]
