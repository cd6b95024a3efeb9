# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small images of the best, typical and worst micrographs for a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..coordinates.regions import Region
from ..errors import DeepEMError
from .axes import SKY, draw_circles, draw_region, show_micrograph
from .page import Picture, data_url

THUMBNAIL_PX = 720
JPEG_QUALITY = 75
CIRCLE_WIDTH = 2.2  # in points; 7 points are 10 pixels
# Number of best, of typical and of worst micrographs.
N_SHOWN = 3


def choose_micrographs(quality: Mapping[str, float]) -> dict[str, list[str]]:
    """Choose the best, typical and worst micrographs, `N_SHOWN` of each, or all if there are few.

    Parameters
    ----------
    quality : mapping of str to float
        By name of the micrograph; higher is better.

    Returns
    -------
    dict of str to list of str
        Names by the heading of their group.
    """
    order = sorted(quality, key=lambda name: (-quality[name], name))
    if len(order) <= 3 * N_SHOWN:
        return {"All, best first": order} if order else {}
    middle = (len(order) - N_SHOWN) // 2
    return {"Best": order[:N_SHOWN], "Typical": order[middle:middle + N_SHOWN], "Worst": order[:-N_SHOWN - 1:-1]}


def make_pictures(quality: Mapping[str, float], draw: Callable[[str], str],
                  describe: Callable[[str], str]) -> dict[str, list[Picture]]:
    """Make pictures of the best, typical and worst micrographs.

    Parameters
    ----------
    quality : mapping of str to float
        As for `choose_micrographs`.
    draw : callable
        Returns the data URL of the image of a micrograph; if it raises DeepEMError, the error is shown instead.
    describe : callable
        Returns the caption of a micrograph.

    Returns
    -------
    dict of str to list of Picture
        By the heading of their group.
    """
    def picture(number: int, name: str) -> Picture:
        caption = describe(name)
        try:
            return Picture(f"picture-{number}", name, caption, draw(name), f"Micrograph {name} with circles: {caption}")
        except DeepEMError as error:
            return Picture(f"picture-{number}", name, f"{caption}; not shown: {error}")

    groups = choose_micrographs(quality)
    numbers = iter(range(1, 1 + 3 * N_SHOWN))
    return {group: [picture(next(numbers), name) for name in names] for group, names in groups.items()}


def thumbnail(pixels: np.ndarray, diameter_px: float, circles: Sequence[tuple[np.ndarray, dict[str, Any]]],
              region: Region | None = None) -> str:
    """Draw a small image of a micrograph with circles.

    Parameters
    ----------
    pixels : (rows, cols) array
    diameter_px : float
        Diameter of particles and circles in pixels.
    circles : sequence of ((n, 2) array, dict)
        For each group of circles their centres as x, y in pixels, and the style for `draw_circles`.
    region : Region, optional
        Frame to draw.

    Returns
    -------
    str
        Data URL.
    """
    from matplotlib.figure import Figure

    dots = 100
    height, width = (round(THUMBNAIL_PX * length / max(pixels.shape)) for length in pixels.shape)
    figure = Figure(figsize=((width + 0.5) / dots, (height + 0.5) / dots))  # fractions of pixels are cut off
    axes = figure.add_axes((0, 0, 1, 1))
    show_micrograph(axes, pixels, diameter_px)
    for centres_xy, style in circles:
        draw_circles(axes, centres_xy, diameter_px, linewidths=CIRCLE_WIDTH, **style)
    if region is not None:
        draw_region(axes, region, SKY, CIRCLE_WIDTH)
    axes.set_axis_off()
    file = io.BytesIO()
    # Without chroma subsampling, in which thin lines would lose their colours.
    figure.savefig(file, format="jpeg", dpi=dots, pil_kwargs={"quality": JPEG_QUALITY, "subsampling": 0,
                                                              "optimize": True})
    return data_url("jpeg", file)
