# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of picks on a micrograph, of precision and recall, and of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..coordinates.regions import Region
from ..evaluation.matching import classify_picks
from ..evaluation.metrics import Curve, average_precision, best_threshold, f_beta
from .axes import (
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    VERMILION,
    draw_circles,
    draw_region,
    make_figure,
    save_figure,
    show_micrograph,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Class of picks and particles, see `classify_picks` -> colour and line style.
CLASSES = {"true positives": (GREEN, "solid"), "false positives": (VERMILION, "solid"), "missed": (SKY, "dashed")}
# F-beta -> line style and marker of its best threshold.
_F_STYLES: dict[int, tuple[str, dict[str, Any]]] = {
    1: ("solid", {"marker": "o"}), 2: ("dashed", {"marker": "s", "fillstyle": "none", "markersize": 9})}


def draw_picks(pixels: np.ndarray, picks_xy: np.ndarray, scores: np.ndarray, diameter_px: float,
               path: str | Path | None = None, truth_xy: np.ndarray | None = None, title: str = "",
               region: Region | None = None) -> Figure:
    """Draw a micrograph with a circle around each pick.

    Parameters
    ----------
    pixels : (rows, cols) array
        Micrograph; shown without fine noise and uneven background.
    picks_xy : (n, 2) array
        Centres of the picks as x, y in pixels of that micrograph.
    scores : (n,) array
        Scores, shown as colours if there are no reference particles.
    diameter_px : float
        Particle diameter in pixels. With reference particles, picks within half of it are correct.
    path : str or Path, optional
        Image file to write; its suffix determines the format.
    truth_xy : (m, 2) array, optional
        Centres of the reference particles; the colours then show true positives, false positives and missed particles.
    title : str
    region : Region, optional
        Annotated part of the micrograph; what does not count, see `match`, is left out.

    Returns
    -------
    Figure
    """
    rows, columns = pixels.shape
    width = 9.0
    figure, (axes,) = make_figure(width, width * rows / columns + 0.8, 1)
    show_micrograph(axes, pixels, diameter_px)
    if truth_xy is None:
        _draw_scores(figure, axes, picks_xy, scores, diameter_px)
        summary = f"{len(picks_xy)} picks"
    else:
        groups = classify_picks(picks_xy, scores, truth_xy, diameter_px / 2, region)
        correct, false, missed = map(len, groups.values())
        summary = f"{correct + false} picks, {correct + missed} particles"
        if region is not None:
            draw_region(axes, region, ORANGE, 1)
        for name, (colour, style) in CLASSES.items():
            draw_circles(axes, groups[name], diameter_px, edgecolors=colour, linestyles=style)
            axes.plot([], [], color=colour, linestyle=style, label=f"{name} ({len(groups[name])})")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    axes.set_title(f"{title}: {summary}" if title else summary)
    return save_figure(figure, path)


def draw_curve(curves: Curve | Mapping[str, Curve], path: str | Path | None = None,
               threshold: float | None = None) -> Figure:
    """Draw precision against recall, and F1 and F2 against the threshold.

    Parameters
    ----------
    curves : Curve or mapping of str to Curve
        One curve, or several by name. Curves without picks are left out.
    path : str or Path, optional
        Image file to write; its suffix determines the format.
    threshold : float, optional
        Threshold in use, marked in both panels.

    Returns
    -------
    Figure
    """
    named = {"": curves} if isinstance(curves, Curve) else curves
    named = {name: curve for name, curve in named.items() if len(curve.thresholds)}
    figure, (left, right) = make_figure(10, 4.6, 2)
    colours = [BLUE, VERMILION, GREEN, ORANGE, SKY]
    for index, (name, curve) in enumerate(named.items()):
        _draw_one_curve(left, right, name, curve, colours[index % len(colours)], first=not index)
        if threshold is not None:
            _mark_threshold(left, right, curve, threshold, last=index == len(named) - 1)
    left.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1.03))
    right.set(xlabel="threshold (score)", ylabel="F-score", title="Choice of the threshold")
    for axes in (left, right):
        axes.set_ylim(0, 1.03)
        axes.grid(alpha=0.3)
        if named:
            axes.legend(loc="lower left", fontsize="small")
    return save_figure(figure, path)


def draw_training(history: Sequence[Mapping[str, float]], path: str | Path | None = None) -> Figure:
    """Draw loss and balanced accuracy on the training and validation particle images after each epoch.

    Rounds are separated by dotted lines; each network has a line of its own.

    Parameters
    ----------
    history : sequence of mapping of str to float
        One mapping per epoch with "loss" and "accuracy"; if there were validation micrographs "validation_loss" and
        "validation_accuracy"; if there were several "round" and "network".
    path : str or Path, optional
        Image file to write; its suffix determines the format.

    Returns
    -------
    Figure
    """
    from matplotlib.ticker import MaxNLocator

    figure, panels = make_figure(10, 4.2, 2)
    for axes, key, title in zip(panels, ("loss", "accuracy"), ("Loss", "Balanced accuracy")):
        _draw_epochs(axes, history, key)
        axes.set(xlabel="epoch", ylabel=key, title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    panels[0].set_ylim(bottom=0)
    return save_figure(figure, path)


def _draw_scores(figure: Figure, axes: Axes, picks_xy: np.ndarray, scores: np.ndarray, diameter_px: float) -> None:
    """Draw picks in the colours of their scores, with a colour bar; in one colour if there are no scores."""
    if np.isfinite(scores).any():
        circles = draw_circles(axes, picks_xy, diameter_px, array=scores, cmap="plasma")
        figure.colorbar(circles, ax=axes, label="score", shrink=0.7, pad=0.02)
    else:
        draw_circles(axes, picks_xy, diameter_px, edgecolors=SKY)


def _draw_one_curve(left: Axes, right: Axes, name: str, curve: Curve, colour: str, first: bool) -> None:
    """Draw one of the curves of `draw_curve`; the first puts the markers into the legend of the left panel."""
    area = f"average precision {average_precision(curve):.3f}"
    left.plot(curve.recall, curve.precision, color=colour, label=f"{name}: {area}" if name else area)
    for beta, (style, marker) in _F_STYLES.items():
        scores = np.asarray(f_beta(curve.precision, curve.recall, beta))
        best = best_threshold(curve, beta)
        at = int(np.flatnonzero(curve.thresholds == best)[0])
        label = f"F{beta}: best {scores[at]:.3f} at {best:.2f}"
        right.plot(curve.thresholds, scores, color=colour, linestyle=style)
        right.plot(best, scores[at], color=colour, linestyle=style, label=f"{name} {label}".strip(), **marker)
        left.plot(curve.recall[at], curve.precision[at], color=colour, linestyle="none",
                  label=f"best F{beta}" if first else None, **marker)


def _mark_threshold(left: Axes, right: Axes, curve: Curve, threshold: float, last: bool) -> None:
    """Mark the threshold in use in both panels; the last curve puts it into the legends."""
    label = f"threshold in use {threshold:.2f}" if last else None
    accepted = np.flatnonzero(curve.thresholds >= threshold)
    if len(accepted):
        left.plot(curve.recall[accepted[-1]], curve.precision[accepted[-1]], "x", color="black", label=label)
    if last:
        right.axvline(threshold, color="black", linestyle="dotted", label=label)


def _draw_epochs(axes: Axes, history: Sequence[Mapping[str, float]], key: str) -> None:
    """Draw one of the figures of a training, "loss" or "accuracy"."""
    networks = sorted({epoch.get("network", 1) for epoch in history})
    for prefix, colour, label in (("", BLUE, "training"), ("validation_", VERMILION, "validation")):
        for network in networks:
            values = [epoch.get(prefix + key, np.nan) for epoch in history if epoch.get("network", 1) == network]
            if np.isfinite(values).any():
                axes.plot(np.arange(1, len(values) + 1), values, ".-", color=colour,
                          label=label if network == networks[0] else None)
    rounds = [epoch.get("round", 1) for epoch in history if epoch.get("network", 1) == networks[0]]
    for at in 1 + np.flatnonzero(np.diff(rounds)):
        axes.axvline(at + 0.5, color="black", linestyle="dotted", linewidth=1,
                     label="next round" if rounds[at] == 2 else None)
