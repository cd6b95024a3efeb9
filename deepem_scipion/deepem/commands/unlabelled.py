# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem train` where not all particles are marked, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from . import console

if TYPE_CHECKING:
    from ..model.model import Model
    from ..model.record import Epoch
    from ..training.plan import Plan
    from ..training.training_set import TrainingSet


def add_unlabelled(group: Any) -> None:
    """Add the options of trainings in which not all particles are marked.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add them.
    """
    group.add_argument("--incomplete", action="store_true", help="only some of the particles on the micrographs of "
                       "--coordinates are marked, 5 to 50 for instance; the training starts from the general model, "
                       "which finds the others and the background")
    group.add_argument("--contrast", choices=("dark", "bright"), help="where the training starts from the general "
                       "model: whether particles are dark (default) or bright")


def train_unlabelled(data: TrainingSet, plan: Plan, show_epoch: Callable[[Epoch, console.ShowProgress], None]) -> Model:
    """Train a model without coordinates.

    Parameters
    ----------
    data : TrainingSet
        Of which nothing is marked.
    plan : Plan
        With the model from which the training starts.
    show_epoch : callable
        Shows the progress after an epoch.

    Returns
    -------
    Model
    """
    from ..training.self_training import ROUNDS, self_train

    with console.progress(plan.networks * ROUNDS) as show:
        return self_train(data, plan, lambda record: show_epoch(record, show))


def keep_better(before: Model, after: Model, data: TrainingSet, plan: Plan) -> Model:
    """Compare a model with the one from which its training started, and return the better one.

    Parameters
    ----------
    before, after : Model
    data : TrainingSet
        Of which some particles are marked, and perhaps negatives.
    plan : Plan
        Settings of the training.

    Returns
    -------
    Model
        See `drift.better`.
    """
    from ..training.drift import UNCHANGED, better, compare
    from ..training.teacher import MIN_GAIN

    found = compare(before, after, data, plan.pixel_size_angst, after.record.validation.names)
    negatives = any(len(each.scores) for each in data.negatives.values())
    return better(before, after, found, 0.0 if found.share >= UNCHANGED and not negatives else MIN_GAIN)
