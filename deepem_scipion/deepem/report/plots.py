# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures: picks on a micrograph, precision and recall, the course of training.

Everything is drawn on figures of its own, without pyplot's global state: no display is needed and nothing
stays in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import atomic_path
from ..coordinates.regions import Region
from ..evaluation.matching import classify_picks
from ..evaluation.metrics import Curve, average_precision, best_threshold, f_beta

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.floating[Any]]
DOTS_PER_INCH = 150
# Micrographs are averaged down to about this length before they are drawn.
DRAWN_LENGTH_PX = 1400
# Colours that people with colour vision deficiency tell apart (Okabe and Ito).
GREEN, VERMILION, SKY, BLUE, ORANGE = "#009E73", "#D55E00", "#56B4E9", "#0072B2", "#E69F00"


def draw_picks(pixels: FloatArray, picks_xy: FloatArray, scores: FloatArray, diameter_px: float,
               path: str | Path | None = None, truth_xy: FloatArray | None = None, title: str = "",
               region: Region | None = None) -> Figure:
    """Draw a micrograph with a circle around each pick.

    Parameters
    ----------
    pixels : (rows, columns) micrograph; shown without fine noise and uneven background.
    picks_xy : (n, 2) centres as x, y in pixels of that micrograph.
    scores : (n,) scores, which colour the circles where no truth is given.
    diameter_px : particle diameter; also, where truth is given, twice the distance at which a pick is right.
    path : image file to write, if any; its suffix says the format.
    truth_xy : (m, 2) known centres; the circles then tell right, false and missed particles apart.
    region : part in which the truth is known; what does not count (see `metrics.match`) is then left out.
    """
    rows, columns = pixels.shape
    width = 9.0
    figure, (axes,) = _figure(width, width * rows / columns + 0.8, 1)
    show_micrograph(axes, pixels, diameter_px)
    if truth_xy is None:
        if np.isfinite(scores).any():
            circles = _circles(axes, picks_xy, diameter_px, array=scores, cmap="plasma")
            figure.colorbar(circles, ax=axes, label="score", shrink=0.7, pad=0.02)
        else:
            _circles(axes, picks_xy, diameter_px, edgecolors=SKY)
        found = f"{len(picks_xy)} picks"
    else:
        groups = classify_picks(picks_xy, scores, truth_xy, diameter_px / 2, region)
        correct, false, missed = map(len, groups.values())
        found = f"{correct + false} picks, {correct + missed} particles"
        if region is not None:
            left, top, end_x, end_y = region
            axes.plot([left, end_x, end_x, left, left], [top, top, end_y, end_y, top], color=ORANGE, linewidth=1)
        styles = {"true positives": (GREEN, "solid"), "false positives": (VERMILION, "solid"),
                  "missed": (SKY, "dashed")}
        for name, (colour, style) in styles.items():
            _circles(axes, groups[name], diameter_px, edgecolors=colour, linestyles=style)
            axes.plot([], [], color=colour, linestyle=style, label=f"{name} ({len(groups[name])})")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    axes.set_title(f"{title}: {found}" if title else found)
    return _save(figure, path)


def draw_curve(curves: Curve | Mapping[str, Curve], path: str | Path | None = None,
               threshold: float | None = None) -> Figure:
    """Draw precision against recall, and the F-scores against the threshold.

    Parameters
    ----------
    curves : one curve, or several by name; one without any pick is left out.
    path : image file to write, if any; its suffix says the format.
    threshold : threshold in use, marked in both panels.
    """
    named = {"": curves} if isinstance(curves, Curve) else curves
    named = {name: curve for name, curve in named.items() if len(curve.thresholds)}
    figure, (left, right) = _figure(10, 4.6, 2)
    colours = [BLUE, VERMILION, GREEN, ORANGE, SKY]
    for index, (name, curve) in enumerate(named.items()):
        colour = colours[index % len(colours)]
        area = f"average precision {average_precision(curve):.3f}"
        left.plot(curve.recall, curve.precision, color=colour, label=f"{name}: {area}" if name else area)
        for beta, style, marker in ((1, "solid", {"marker": "o"}),
                                    (2, "dashed", {"marker": "s", "fillstyle": "none", "markersize": 9})):
            scores = np.asarray(f_beta(curve.precision, curve.recall, beta))
            best = best_threshold(curve, beta)
            at = int(np.flatnonzero(curve.thresholds == best)[0])
            label = f"F{beta}: best {scores[at]:.3f} at {best:.2f}"
            right.plot(curve.thresholds, scores, color=colour, linestyle=style)
            right.plot(best, scores[at], color=colour, linestyle=style, label=f"{name} {label}".strip(), **marker)
            left.plot(curve.recall[at], curve.precision[at], color=colour, linestyle="none",
                      label=None if index else f"best F{beta}", **marker)
        if threshold is not None:
            _mark_threshold(left, right, curve, threshold, last=index == len(named) - 1)
    left.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1.03))
    right.set(xlabel="threshold (score)", ylabel="F-score", title="Choice of the threshold")
    for axes in (left, right):
        axes.set_ylim(0, 1.03)
        axes.grid(alpha=0.3)
        if named:
            axes.legend(loc="lower left", fontsize="small")
    return _save(figure, path)


def draw_training(history: Sequence[Mapping[str, float]], path: str | Path | None = None) -> Figure:
    """Draw loss and balanced accuracy of the training and validation windows after each epoch.

    Where there are several rounds a dotted line stands between them.

    Parameters
    ----------
    history : one mapping per epoch with `loss` and `accuracy`, where a part of the data was held back
        `validation_loss` and `validation_accuracy`, and where there are several of them `round` and `network`; each
        network has a line.
    path : image file to write, if any; its suffix says the format.
    """
    from matplotlib.ticker import MaxNLocator

    networks = sorted({epoch.get("network", 1) for epoch in history})
    figure, panels = _figure(10, 4.2, 2)
    for axes, key, title in zip(panels, ("loss", "accuracy"), ("Loss", "Balanced accuracy"), strict=True):
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
        axes.set(xlabel="epoch", ylabel=key, title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    panels[0].set_ylim(bottom=0)
    return _save(figure, path)


def _figure(width_in: float, height_in: float, n_panels: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side, sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, list(figure.subplots(1, n_panels, squeeze=False)[0])


def _save(figure: Figure, path: str | Path | None) -> Figure:
    """Write a figure into a file, if one is given."""
    if path is not None:
        with atomic_path(path) as aside:
            figure.savefig(aside, dpi=DOTS_PER_INCH, bbox_inches="tight")
    return figure


def contrast_stretched(pixels: FloatArray, diameter_px: float) -> tuple[FloatArray, int]:
    """Micrograph for the eye: without fine noise and uneven background, which hide the particles.

    Parameters
    ----------
    pixels : (rows, columns)
    diameter_px : particle diameter

    Returns
    -------
    shown : (rows // step, columns // step), 0 for black to 1 for white, with 1 % of the pixels clipped at either end
    step : factor by which it is reduced, so that it is about `DRAWN_LENGTH_PX` long at most
    """
    from scipy import ndimage

    rows, columns = pixels.shape
    step = max(1, round(max(rows, columns) / DRAWN_LENGTH_PX))
    used = pixels[:rows // step * step, :columns // step * step]
    small = used.reshape(rows // step, step, columns // step, step).mean(axis=(1, 3), dtype=float)
    small = ndimage.gaussian_filter(small, diameter_px / step / 30) - ndimage.gaussian_filter(small, diameter_px / step)
    low, high = np.percentile(small, (1, 99))
    return np.clip((small - low) / max(high - low, 1e-12), 0, 1), step


def show_micrograph(axes: Axes, pixels: FloatArray, diameter_px: float) -> None:
    """Show a micrograph, row 0 on top, without fine noise and uneven background, which hide the particles."""
    rows, columns = pixels.shape
    shown, step = contrast_stretched(pixels, diameter_px)
    height, width = step * np.array(shown.shape)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set(xlabel="x (px)", ylabel="y (px)", xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))


def _circles(axes: Axes, centres_xy: FloatArray, diameter_px: float, **style: Any) -> Any:
    """Draw one open circle of the given diameter around each centre."""
    from matplotlib.collections import EllipseCollection

    sizes = np.full(len(centres_xy), diameter_px)
    circles = EllipseCollection(sizes, sizes, np.zeros_like(sizes), units="x", offsets=centres_xy,
                                offset_transform=axes.transData, facecolors="none", linewidths=1.6, **style)
    axes.add_collection(circles)
    return circles


def _mark_threshold(left: Axes, right: Axes, curve: Curve, threshold: float, last: bool) -> None:
    """Mark the threshold in use in both panels; `last` writes it into the legend."""
    label = f"threshold in use {threshold:.2f}" if last else None
    accepted = np.flatnonzero(curve.thresholds >= threshold)
    if len(accepted):
        left.plot(curve.recall[accepted[-1]], curve.precision[accepted[-1]], "x", color="black", label=label)
    if last:
        right.axvline(threshold, color="black", linestyle="dotted", label=label)
