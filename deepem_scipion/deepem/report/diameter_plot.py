# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of an estimated particle diameter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..picking.diameter import DiameterEstimate
from .axes import BLUE, ORANGE, draw_circles, make_figure, save_figure, show_micrograph

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_diameter(found: DiameterEstimate, pixels: np.ndarray, centres_xy: np.ndarray, pixel_size_angst: float,
                  path: str | Path | None = None) -> Figure:
    """Draw an estimated diameter: circles on a micrograph, the mean profile, and the diameters tried.

    Parameters
    ----------
    found : DiameterEstimate
    pixels : (rows, cols) array
        Micrograph.
    centres_xy : (n, 2) array
        Picks in it, in pixels.
    pixel_size_angst : float
        Of the micrograph, in angstrom.
    path : str or Path, optional
        File to write; its suffix determines the format.

    Returns
    -------
    Figure
    """
    figure, (picture, profile, tried) = make_figure(15, 5, 3)
    diameter_px = found.diameter_angst / pixel_size_angst
    show_micrograph(picture, pixels, diameter_px)
    draw_circles(picture, centres_xy, diameter_px, edgecolor=ORANGE)
    picture.set_title(f"circles of {found.diameter_angst:.0f} A")
    profile.plot(found.radii_angst, found.profile, color=BLUE)
    for value, style in ((found.diameter_angst, "-"), (found.low_angst, ":"), (found.high_angst, ":")):
        profile.axvline(value / 2, color=ORANGE, linestyle=style)
    profile.set(xlabel="distance from the centre (A)", ylabel="grey value (standard deviations)",
                title=f"mean profile of {found.picks} picks, and the radius of the particle")
    tried.semilogx(found.tried_angst, found.covered, "o-", color=BLUE)
    tried.axvline(found.diameter_angst, color=ORANGE)
    tried.set(xlabel="diameter tried (A)", ylabel="share of the area covered", title="scan with several diameters")
    return save_figure(figure, path)
