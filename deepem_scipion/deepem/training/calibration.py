# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured on the training particles and on picks: range of local standard deviations, contrast, threshold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..evaluation.matching import Matches, match, pool
from ..evaluation.metrics import average_precision, curve, f_beta, steady_threshold
from ..model.model import Model
from ..picking.candidates import Candidates
from ..picking.picker import Picker
from ..picking.selection import Limits
from .boxes import Boxes
from .labels import LabelledMicrograph

log = logging.getLogger(__name__)

# Margins by which the range of local standard deviations is wider, on either side, than that of the training particles:
# a fraction of that range, but at least a fraction of its mean, because other micrographs differ more than a single one
# shows. This keeps the particles of other micrographs and excludes carbon and ice.
STD_MARGIN = 0.5
MIN_STD_MARGIN = 0.25
# Picks within this many diameters of a particle are correct.
MATCH_DISTANCE = 0.5
# Maximum number of points of the validation curve in the card.
_CURVE_POINTS = 401


def std_range_of(boxes: Boxes, margin: float = STD_MARGIN) -> tuple[float, float]:
    """Find the range of local standard deviations in which picks are accepted.

    Parameters
    ----------
    boxes : Boxes
        Boxes, among them at least one particle.
    margin : float
        Share of the range of the particles by which the result is wider on either side.

    Returns
    -------
    tuple of float
        Minimum and maximum standard deviation.
    """
    values = boxes.local_stds()[boxes.targets == 1]
    wider = max(margin * (values.max() - values.min()), MIN_STD_MARGIN * values.mean())
    return max(0.0, float(values.min() - wider)), float(values.max() + wider)


def contrast_of(boxes: Boxes, diameter_px: float) -> str:
    """Compare the centre of the average particle with the rest of the box.

    Parameters
    ----------
    boxes : Boxes
        Boxes, among them at least one particle.
    diameter_px : float
        Diameter of the particle in binned pixels.

    Returns
    -------
    str
        "dark" or "bright".
    """
    mean = boxes.cut(np.flatnonzero(boxes.targets == 1)[:2000]).mean(axis=0)
    r, c = np.indices(mean.shape) - (boxes.box - 1) / 2
    within = np.hypot(r, c) <= diameter_px / 2
    return "dark" if mean[within].mean() < mean[~within].mean() else "bright"


def with_threshold(model: Model, labelled: Sequence[Sequence[LabelledMicrograph]], border_px: float,
                   kept_out: bool) -> Model:
    """Pick whole micrographs and choose the threshold with the best F2 (eq. 8, Fig. 3e of the paper).

    Parameters
    ----------
    model : Model
        Model with a provisional threshold.
    labelled : sequence of sequence of LabelledMicrograph
        For each network of the model the micrographs that it alone picks.
    border_px : float
        Width, in binned pixels, of the border without annotation. Picks there do not count as false positives.
    kept_out : bool
        Whether these micrographs were kept out of the training of the network.

    Returns
    -------
    Model
        With the threshold and the figures of validation in its record. Unchanged if nothing was picked.
    """
    parts = []
    for weights, items in zip(model.networks, labelled):
        picker = Picker(replace(model, networks=(weights,)), replace(Limits.of_model(model), threshold=0.0))
        parts += [compare(picker.pick(item.micrograph).picks, item, model.diameter_px, border_px) for item in items
                  if min(item.pixels.shape) >= model.geometry.box]  # a part of a divided micrograph may be smaller
    found = curve(pool(parts))
    if not len(found.thresholds):
        log.warning("no candidate on the validation micrographs; the threshold stays at %g", model.threshold)
        return model
    threshold = steady_threshold(found, 2)
    at = int(np.flatnonzero(found.thresholds >= threshold)[-1])
    precision, recall = float(found.precision[at]), float(found.recall[at])
    some = np.unique(np.linspace(0, len(found.thresholds) - 1, _CURVE_POINTS).astype(int))
    validation = replace(
        model.record.validation,
        on="validation micrographs" if kept_out else "training micrographs",
        precision=precision, recall=recall, F1=float(f_beta(precision, recall, 1)),
        F2=float(f_beta(precision, recall, 2)),
        best_F1=float(f_beta(found.precision, found.recall, 1).max()),
        AP=average_precision(found),
        curve={"threshold": found.thresholds[some].tolist(), "precision": found.precision[some].tolist(),
               "recall": found.recall[some].tolist()})
    return replace(model, threshold=threshold, record=replace(model.record, validation=validation))


def at_threshold(model: Model, threshold: float) -> Model:
    """Return a model with another threshold, and the figures of its validation at that one.

    Parameters
    ----------
    model : Model
    threshold : float

    Returns
    -------
    Model
    """
    found = model.record.validation
    if found.curve:
        above = np.flatnonzero(np.array(found.curve["threshold"]) >= threshold)
        precision, recall = (float(found.curve[name][above[-1]]) if len(above) else 0.0 for name in
                             ("precision", "recall"))
        found = replace(found, precision=precision, recall=recall, F1=float(f_beta(precision, recall, 1)),
                        F2=float(f_beta(precision, recall, 2)))
    return replace(model, threshold=threshold, record=replace(model.record, validation=found))


def compare(picks: Coordinates | Candidates, item: LabelledMicrograph, diameter_px: float,
            border_px: float) -> Matches:
    """Match picks of a micrograph with its particles, except those in the mask or maybe on unmarked particles.

    Parameters
    ----------
    picks : Coordinates or Candidates
        Centres and scores.
    item : LabelledMicrograph
    diameter_px, border_px : float
        Diameter of the particle, and width of the border without annotation, in binned pixels.

    Returns
    -------
    Matches
    """
    micrograph = item.micrograph
    distance = MATCH_DISTANCE * diameter_px * micrograph.scale
    known = far_from(picks.centres_xy, micrograph.to_input_xy(item.doubtful_rc), distance)
    near_particle = ~far_from(picks.centres_xy, micrograph.to_input_xy(item.particles_rc), distance)
    counts = (known | near_particle) & ~item.in_mask(micrograph.to_binned_rc(picks.centres_xy))
    rows, cols = micrograph.pixels.shape
    border = border_px * micrograph.scale - 1e-6
    region = (border, border, cols * micrograph.scale - 1 - border, rows * micrograph.scale - 1 - border)
    return match(picks.centres_xy[counts], picks.scores[counts], micrograph.to_input_xy(item.particles_rc), distance,
                 region)


def far_from(places: np.ndarray, others: np.ndarray, distance: float) -> np.ndarray:
    """Select the places that are at least a distance from all others.

    Parameters
    ----------
    places, others : (n, 2) and (m, 2) array
    distance : float

    Returns
    -------
    (n,) bool array
    """
    from scipy.spatial import cKDTree

    if not len(places) or not len(others):
        return np.ones(len(places), dtype=bool)
    far: np.ndarray = cKDTree(others).query(places)[0] >= distance
    return far
