# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fit of the small network that compares the candidates of a micrograph with each other, see `picking.agreement`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..evaluation.matching import match
from ..model.model import Model
from ..picking.agreement import FEATURES, features
from ..picking.picker import Picker, comparable
from .labels import LabelledMicrograph

HIDDEN = 20
# Candidates within this many diameters of a particle may match it, and those closer to a doubtful one are left out.
MATCH_DISTANCE = 0.35
# Weight decay of the fit, and maximum number of its steps.
DECAY, STEPS = 1e-3, 400


def with_agreement(model: Model, labelled: Sequence[LabelledMicrograph], seed: int = 0) -> Model:
    """Fit the network that compares candidates to labelled micrographs.

    Parameters
    ----------
    model : Model
        Its own comparison, if it has one, is replaced.
    labelled : sequence of LabelledMicrograph
        Micrographs that the model was not trained on, completely labelled.
    seed : int
        Seed of the initial weights.

    Returns
    -------
    Model
    """
    picker = Picker(replace(model, agreement=None))
    parts = [_examples(picker, item) for item in labelled]
    found, correct = (np.concatenate(values) for values in zip(*parts))
    return replace(model, agreement=fit_agreement(found, correct, np.random.default_rng(seed)))


def _examples(picker: Picker, item: LabelledMicrograph) -> tuple[np.ndarray, np.ndarray]:
    """Features of the candidates of a micrograph, and whether each is a particle; without those in doubt."""
    from scipy.spatial import cKDTree

    candidates = comparable(picker.candidates(item.micrograph)[0], item.micrograph, picker.model)
    centres_rc, diameter = item.micrograph.to_binned_rc(candidates.centres_xy), picker.model.diameter_px
    found = features(item.pixels, centres_rc, candidates.scores, candidates.local_stds, diameter)
    correct = match(centres_rc, candidates.scores, item.particles_rc, MATCH_DISTANCE * diameter).correct
    known = np.ones(len(correct), bool)
    if len(item.doubtful_rc) and len(correct):
        known = correct | (cKDTree(item.doubtful_rc).query(centres_rc)[0] > diameter / 2)
    if len(item.particles_rc) and len(correct):  # the slopes of the peak of a particle, which suppression removes
        known &= correct | (cKDTree(item.particles_rc).query(centres_rc)[0] > 0.25 * diameter)
    return found[known], correct[known]


def fit_agreement(found: np.ndarray, correct: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fit the weights by minimising the crossentropy (L-BFGS).

    Parameters
    ----------
    found : (n, 10) array
        Features of candidates.
    correct : (n,) bool array
        Whether they are particles.
    rng : numpy.random.Generator
        Source of the initial weights.

    Returns
    -------
    dict of str to float32 array
        See `picking.agreement.rescore`.
    """
    from scipy.optimize import minimize

    mean, scale = found.mean(axis=0), found.std(axis=0) + 1e-6
    inputs, targets = (found - mean) / scale, correct.astype(float)
    n = len(FEATURES)
    cuts = np.cumsum([n * HIDDEN, HIDDEN, HIDDEN])

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias, output, offset = np.split(values, cuts)
        hidden = np.tanh(inputs @ kernel.reshape(n, HIDDEN) + bias)
        logits = hidden @ output + offset
        entropy = np.mean(np.logaddexp(0, logits) - targets * logits) + DECAY * np.sum(np.square(values)) / 2
        error = (1 / (1 + np.exp(-logits)) - targets) / len(targets)
        below = np.outer(error, output) * (1 - np.square(hidden))
        slope = np.concatenate([(inputs.T @ below).ravel(), below.sum(axis=0), hidden.T @ error, [error.sum()]])
        return float(entropy), slope + DECAY * values

    start = 0.3 * rng.standard_normal(cuts[-1] + 1)
    kernel, bias, output, offset = np.split(minimize(loss, start, jac=True, method="L-BFGS-B",
                                                     options={"maxiter": STEPS}).x, cuts)
    kernel = kernel.reshape(n, HIDDEN) / scale[:, np.newaxis]
    values = {"hidden.kernel": kernel, "hidden.bias": bias - mean @ kernel, "output.kernel": output,
              "output.bias": offset}
    return {name: value.astype(np.float32) for name, value in values.items()}
