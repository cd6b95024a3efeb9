# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured once the network is trained: deviation range and contrast of particles, threshold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..evaluation.matching import Matches, match, pool
from ..evaluation.metrics import average_precision, curve, f_beta, steady_threshold
from ..model.model import Model
from ..picking.picker import Picker
from ..picking.selection import Limits
from .boxes import Boxes
from .labels import LabelledMicrograph

log = logging.getLogger(__name__)

# The deviation filter lets this much more through on either side than the training particles show, as a share of
# their range, and at least as a share of their mean, since a single micrograph does not show how much others differ:
# enough to lose no particle of other micrographs, too little for carbon or ice.
STD_MARGIN = 0.5
MIN_STD_MARGIN = 0.25
# Picks within this many diameters of a particle are right.
MATCH_DISTANCE = 0.5
# Points of the validation curve kept in the card.
_CURVE_POINTS = 401


def std_range_of(*windows: Boxes, share: float = STD_MARGIN) -> tuple[float, float]:
    """Range of the deviations of the particles' windows, widened on either side by a share of it."""
    values = np.concatenate([part.local_stds()[part.targets == 1] for part in windows])
    margin = max(share * (values.max() - values.min()), MIN_STD_MARGIN * values.mean())
    return max(0.0, float(values.min() - margin)), float(values.max() + margin)


def contrast_of(windows: Boxes, diameter_px: float) -> str:
    """Whether particles are "dark" or "bright": their centre against the rim of the box, on average."""
    mean = windows.cut(np.flatnonzero(windows.targets == 1)[:2000]).mean(axis=0)
    r, c = np.indices(mean.shape) - (windows.box - 1) / 2
    within = np.hypot(r, c) <= diameter_px / 2
    return "dark" if mean[within].mean() < mean[~within].mean() else "bright"


def with_threshold(model: Model, labelled: Sequence[Sequence[LabelledMicrograph]], border_px: float,
                   held_out: bool) -> Model:
    """The model with the threshold for the best F2 (eq. 8) on whole micrographs, and the figures that go with it.

    Parameters
    ----------
    model : Model
    labelled : for each of the model's networks the micrographs that it alone picks here
    border_px : float
        Width, in working pixels, of the border in which nobody annotated: false picks there do not count.
    held_out : bool
        Whether these micrographs were kept out of the training of that network.
    """
    parts = []
    for weights, items in zip(model.networks, labelled):
        picker = Picker(replace(model, networks=(weights,)), replace(Limits.of_model(model), threshold=0.0))
        parts += [_compare(picker, item, border_px) for item in items
                  if min(item.pixels.shape) >= model.geometry.box]  # the small part of an only micrograph may be less
    found = curve(pool(parts))
    if not len(found.thresholds):
        log.warning("no candidate on the validation micrographs; the threshold stays at %g", model.threshold)
        return model
    threshold = steady_threshold(found, 2)
    at = int(np.flatnonzero(found.thresholds >= threshold)[-1])
    precision, recall = float(found.precision[at]), float(found.recall[at])
    some = np.unique(np.linspace(0, len(found.thresholds) - 1, _CURVE_POINTS).astype(int))
    figures = {
        "on": "validation micrographs" if held_out else "training micrographs",
        "precision": precision, "recall": recall, "F1": float(f_beta(precision, recall, 1)),
        "F2": float(f_beta(precision, recall, 2)),
        "best_F1": float(f_beta(found.precision, found.recall, 1).max()),
        "AP": average_precision(found),
        "curve": {"threshold": found.thresholds[some].tolist(), "precision": found.precision[some].tolist(),
                  "recall": found.recall[some].tolist()},
    }
    record = {**model.record, "validation": {**model.record["validation"], **figures}}
    return replace(model, threshold=threshold, record=record)


def _compare(picker: Picker, item: LabelledMicrograph, border_px: float) -> Matches:
    """Match all candidates of a micrograph with its particles."""
    micrograph = item.micrograph
    picks = picker.pick(micrograph).picks
    rows, cols = micrograph.pixels.shape
    border = border_px * micrograph.scale - 1e-6
    region = (border, border, cols * micrograph.scale - 1 - border, rows * micrograph.scale - 1 - border)
    return match(picks.centres_xy, picks.scores,
                         micrograph.to_input_xy(item.particles_rc),
                         MATCH_DISTANCE * picker.model.diameter_px * micrograph.scale, region)
