# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training without labels: a model learns from the confident picks of the general one, and then from its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..errors import DeepEMError
from ..model.model import Model
from ..model.record import Epoch
from .drift import better, compare
from .plan import Plan
from .teacher import TaughtSet
from .train import train_model

log = logging.getLogger(__name__)

# Maximum number of rounds, and the share of common picks from which on a further round would change nothing.
ROUNDS, UNCHANGED = 3, 0.97
# A model is kept if it is better by more than this many standard errors, see `drift.compare`.
MIN_GAIN = 2.0


def self_train(paths: Mapping[str, Path], plan: Plan, progress: Callable[[Epoch], None] = lambda epoch: None) -> Model:
    """Train a model on micrographs without labels.

    Parameters
    ----------
    paths : mapping of str to Path
        Micrographs by name.
    plan : Plan
        Settings; `start` is the general model for the particle's diameter, or another model of it.
    progress : callable
        Called with the figures of each epoch.

    Returns
    -------
    Model
        That of the last round that was better than the model before; `plan.start`, with a warning in its card, if
        already the first was not.

    Raises
    ------
    DeepEMError
        If no micrograph can be read, or the general model picks next to nothing.

    Notes
    -----
    There is no ground truth to show whether a round helps: `drift.compare` judges by what the places look like that
    only one of the models picks. A model that is taken over by ice or carbon, or finds less, is refused. The threshold
    is that with which a model picks as many places as the general one, whose threshold fits all data: scores of a model
    that learned from picks are no probabilities.
    """
    if plan.start is None:
        raise DeepEMError("self-training starts from a model: give the general one, or another")
    unmarked = {name: Coordinates(np.empty((0, 2)), np.empty(0), None) for name in paths}
    best = plan.start
    for number in range(1, ROUNDS + 1):
        data = TaughtSet(paths, unmarked, incomplete=frozenset(paths), teacher=best)
        model = train_model(data, replace(plan, start=best), progress)
        found = compare(best, model, paths, plan.pixel_size_angst)
        log.info("round %d of self-training: %.0f %% of the picks are those before; the others resemble the particles "
                 "%s (%+.1f standard errors)", number, 100 * found.share, "more" if found.gain > 0 else "less",
                 found.gain)
        kept = better(best, model, found, MIN_GAIN)
        if kept.networks is best.networks:
            return kept if best is plan.start else best
        best = kept
        if found.share >= UNCHANGED:
            break
    return best
