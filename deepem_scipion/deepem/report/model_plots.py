# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a model: particle images and negatives of its training, what its layers make of them, its kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..model.model import Model
from ..network.layer_maps import feature_maps
from ..training.examples import KEPT, TrainingExamples
from .axes import GREEN, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 6
# Width of the lines between images, as a fraction of an image.
GAP = 0.06
# Target and whether it is one of the hardest -> title.
GROUPS = {(1, False): "Particles", (1, True): "Particles with the lowest scores",
          (0, False): "Negatives", (0, True): "Negatives with the highest scores"}


def draw_examples(sample: TrainingExamples, threshold: float) -> Figure:
    """Draw particle images and negatives of the training with their scores: random ones and the hardest of each.

    All have the same grey scale. The score is green if it is on the correct side of the threshold, and red otherwise.
    The toolbar of a window shows micrograph and position of the image below the mouse pointer.

    Parameters
    ----------
    sample : TrainingExamples
    threshold : float
        Threshold of the model.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    low, high = np.percentile(sample.pixels, (0.5, 99.5)) if sample.pixels.size else (0, 1)
    for place, ((target, hardest), title) in enumerate(GROUPS.items(), 1):
        axes = figure.add_subplot(2, 2, place)
        which = np.flatnonzero((sample.targets == target) & (sample.hardest == hardest))
        axes.set_title(title if len(which) else f"{title}: none")
        axes.set_axis_off()
        if len(which):
            _montage(axes, sample, which, (float(low), float(high)), threshold)
    return figure


def _montage(axes: Axes, sample: TrainingExamples, which: np.ndarray, greys: tuple[float, float],
             threshold: float) -> None:
    """Show images in rows, each with its score."""
    box = sample.pixels.shape[1]
    pitch = box + max(1, round(GAP * box))
    sheet = np.full((math.ceil(KEPT / COLUMNS) * pitch, COLUMNS * pitch), np.nan, np.float32)
    for place, number in enumerate(which):
        row, column = (pitch * index for index in divmod(place, COLUMNS))
        sheet[row:row + box, column:column + box] = sample.pixels[number]
        correct = (sample.scores[number] >= threshold) == (sample.targets[number] == 1)
        axes.text(column + 0.04 * box, row + 0.04 * box, f"{sample.scores[number]:.2f}", color="white", va="top",
                  fontsize="small",
                  bbox={"facecolor": GREEN if correct else VERMILION, "edgecolor": "none", "pad": 1.5})
    axes.imshow(sheet, cmap="gray", vmin=greys[0], vmax=greys[1])

    def describe(x: float, y: float) -> str:
        place = COLUMNS * int(y // pitch) + int(x // pitch)
        if not (0 <= x < COLUMNS * pitch and 0 <= place < len(which)):
            return ""
        number = which[place]
        at_x, at_y = sample.centres_xy[number]
        return f"{sample.names[number]}: x {at_x:.0f}, y {at_y:.0f} px; score {sample.scores[number]:.3f}"

    axes.format_coord = describe  # type: ignore[method-assign]


def draw_kernels(model: Model) -> Figure:
    """Draw the kernels of the first convolution, those of each network in a row; white is 0.

    Parameters
    ----------
    model : Model

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    kernels = [weights["conv1.kernel"][:, :, 0] for weights in model.networks]
    n_maps = kernels[0].shape[-1]
    figure = Figure(figsize=(1.6 * n_maps + 1, 1.8 * len(kernels) + 1), layout="constrained")
    side = model.geometry.kernels[0]
    figure.suptitle(f"Kernels of the first layer: {side} x {side} px of {model.working_pixel_size_angst:.2f} Å "
                    f"({side * model.working_pixel_size_angst:.0f} Å)")
    for number, kernel in enumerate(kernels):
        greatest = max(float(np.abs(kernel).max()), 1e-12)
        row = [figure.add_subplot(len(kernels), n_maps, n_maps * number + index + 1) for index in range(n_maps)]
        for index, axes in enumerate(row):
            shown = axes.imshow(kernel[..., index], cmap="PuOr", vmin=-greatest, vmax=greatest)
            axes.set(xticks=[], yticks=[], title="" if number else f"{index + 1}")
        if len(kernels) > 1:
            row[0].set_ylabel(f"network {number + 1}")
        figure.colorbar(shown, ax=row, shrink=0.5)
    return figure


def draw_layers(model: Model, sample: TrainingExamples) -> Figure:
    """Draw the maps of all layers of the first network for a particle image and for a negative (Fig. 1).

    Outputs of sigmoids are black for 0 and white for 1.

    Parameters
    ----------
    model : Model
    sample : TrainingExamples
        Of which the first particle image and the first negative are shown.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    rows = figure.subfigures(2, 1)
    for row, (target, what) in zip(rows, ((1, "Particle"), (0, "Negative"))):
        which = np.flatnonzero((sample.targets == target) & ~sample.hardest)
        if not len(which):
            row.suptitle(f"{what}: none", fontsize="small")
            continue
        maps, score = feature_maps(model.geometry, model.networks[0], sample.pixels[which[0]])
        row.suptitle(f"{what}, output {score:.2f}", fontsize="small")
        for axes, (name, each) in zip(row.subplots(1, len(maps)), maps.items()):
            limits = {} if name == "input" else {"vmin": 0, "vmax": 1}
            axes.imshow(_side_by_side(each), cmap="gray", **limits)
            axes.set_title(f"{name}, {each.shape[-1]} x {len(each)} px", fontsize="x-small")
            axes.set_axis_off()
    return figure


def _side_by_side(maps: np.ndarray) -> np.ndarray:
    """Arrange (side, side, n) maps in a square, divided by lines."""
    columns = math.ceil(math.sqrt(maps.shape[-1]))
    tiles = np.full((columns**2, *maps.shape[:2]), np.nan)
    tiles[:maps.shape[-1]] = np.moveaxis(maps, -1, 0)
    tiles = np.pad(tiles, ((0, 0), (0, max(1, len(maps) // 16)), (0, max(1, len(maps) // 16))), constant_values=np.nan)
    return np.block([list(tiles[start:start + columns]) for start in range(0, columns**2, columns)])
