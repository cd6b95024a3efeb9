# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all figures are made of: panels, colours, micrographs and circles.

Figures are made without pyplot's global state: no display is needed and nothing stays in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import atomic_path
from ..coordinates.regions import Region

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
# Micrographs are averaged down to about this length before they are drawn.
DRAWN_LENGTH_PX = 1400
# Colours that people with colour vision deficiency can distinguish (Okabe and Ito).
GREEN, VERMILION, SKY, BLUE, ORANGE, YELLOW = "#009E73", "#D55E00", "#56B4E9", "#0072B2", "#E69F00", "#F0E442"


def make_figure(width_in: float, height_in: float, n_panels: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side.

    Parameters
    ----------
    width_in, height_in : float
        Size in inches.
    n_panels : int

    Returns
    -------
    figure : Figure
    panels : list of Axes
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, list(figure.subplots(1, n_panels, squeeze=False)[0])


def save_figure(figure: Figure, path: str | Path | None) -> Figure:
    """Write a figure to a file, atomically.

    Parameters
    ----------
    figure : Figure
    path : str or Path, optional
        Its suffix determines the format. None: nothing is written.

    Returns
    -------
    Figure
        The same.
    """
    if path is not None:
        with atomic_path(path) as aside:
            figure.savefig(aside, dpi=DOTS_PER_INCH, bbox_inches="tight")
    return figure


def contrast_stretched(pixels: np.ndarray, diameter_px: float) -> tuple[np.ndarray, int]:
    """Filter, downsample and rescale a micrograph for display.

    Fine noise and uneven background, which hide the particles, are removed.

    Parameters
    ----------
    pixels : (rows, cols) array
    diameter_px : float
        Particle diameter in pixels.

    Returns
    -------
    shown : (rows // step, cols // step) float64 array
        From 0 for black to 1 for white, with 1 % of the pixels clipped at either end.
    step : int
        Factor of downsampling, with which the longer side is about `DRAWN_LENGTH_PX` at most.
    """
    from scipy import ndimage

    rows, columns = pixels.shape
    step = max(1, round(max(rows, columns) / DRAWN_LENGTH_PX))
    used = pixels[:rows // step * step, :columns // step * step]
    small = used.reshape(rows // step, step, columns // step, step).mean(axis=(1, 3), dtype=float)
    small = ndimage.gaussian_filter(small, diameter_px / step / 30) - ndimage.gaussian_filter(small, diameter_px / step)
    low, high = np.percentile(small, (1, 99))
    return np.clip((small - low) / max(high - low, 1e-12), 0, 1), step


def show_micrograph(axes: Axes, pixels: np.ndarray, diameter_px: float) -> None:
    """Show a micrograph, see `contrast_stretched`, with row 0 at the top.

    Parameters
    ----------
    axes : Axes
    pixels : (rows, cols) array
    diameter_px : float
        Particle diameter in pixels.
    """
    rows, columns = pixels.shape
    shown, step = contrast_stretched(pixels, diameter_px)
    height, width = step * np.array(shown.shape)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set(xlabel="x (px)", ylabel="y (px)", xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))


def draw_circles(axes: Axes, centres_xy: np.ndarray, diameter_px: float, **style: Any) -> Any:
    """Draw an open circle around each centre.

    Parameters
    ----------
    axes : Axes
    centres_xy : (n, 2) array
        Centres as x, y in pixels.
    diameter_px : float
        Diameter of the circles in pixels.
    **style
        For matplotlib's `EllipseCollection`.

    Returns
    -------
    EllipseCollection
    """
    from matplotlib.collections import EllipseCollection

    sizes = np.full(len(centres_xy), diameter_px)
    circles = EllipseCollection(sizes, sizes, np.zeros_like(sizes), units="x", offsets=centres_xy,
                                offset_transform=axes.transData, **{"facecolors": "none", "linewidths": 1.6, **style})
    axes.add_collection(circles)
    return circles


def draw_region(axes: Axes, region: Region, colour: str, linewidth: float) -> None:
    """Draw the frame of an annotated region.

    Parameters
    ----------
    axes : Axes
    region : Region
        x0, y0, x1, y1 in pixels.
    colour : str
    linewidth : float
        In points.
    """
    x0, y0, x1, y1 = region
    axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=colour, linewidth=linewidth)
