# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training without labels: a model learns from the confident picks of the general one, and then from its own."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Callable

from ..errors import DeepEMError
from ..model.model import Model
from ..model.record import Epoch
from .drift import UNCHANGED, better, compare
from .plan import Plan
from .teacher import with_teacher
from .train import train_model
from .training_set import TrainingSet

log = logging.getLogger(__name__)

# Maximum number of rounds.
ROUNDS = 3


def self_train(data: TrainingSet, plan: Plan, progress: Callable[[Epoch], None] = lambda epoch: None) -> Model:
    """Train a model on micrographs without labels.

    Parameters
    ----------
    data : TrainingSet
        Micrographs, of which nothing is marked.
    plan : Plan
        Settings; `start` is the general model for the particle's diameter, or another model of it.
    progress : callable
        Called with the figures of each epoch.

    Returns
    -------
    Model
        That of the last round that was not refused; `plan.start`, with a warning in its card as from
        `drift.better`, if already the first was.

    Raises
    ------
    DeepEMError
        If no micrograph can be read, or the general model picks next to nothing.

    Notes
    -----
    There is no ground truth to show whether a round helps: `drift.compare` judges by what the places look like that
    only one of the models picks. A model that is clearly taken over by ice or carbon is refused. The threshold
    is that with which a model picks as many places as the general one, whose threshold fits all data: scores of a model
    that learned from picks are no probabilities.
    """
    if plan.start is None:
        raise DeepEMError("self-training starts from a model: give the general one, or another")
    best = plan.start
    for number in range(1, ROUNDS + 1):
        model = train_model(with_teacher(data, best), replace(plan, start=best), progress)
        found = compare(best, model, data, plan.pixel_size_angst)
        others = (f"; the others resemble the particles {'more' if found.gain > 0 else 'less'} ({found.gain:+.1f} "
                  "standard errors)" if found.gain else "")
        log.info("round %d of self-training: %.0f %% of the picks are those before%s", number, 100 * found.share,
                 others)
        kept = better(best, model, found)
        if kept.networks is best.networks:
            return kept if best is plan.start else best
        best = kept
        if found.share >= UNCHANGED:
            break
    return best
