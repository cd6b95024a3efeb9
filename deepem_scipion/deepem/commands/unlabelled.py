# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem train` where not all particles are marked, or none."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Callable

from . import console
from .info import format_card
from .micrographs import chosen_micrographs

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


def train_unlabelled(options: argparse.Namespace, plan: Plan,
                     show_epoch: Callable[[Epoch, console.ShowProgress], None]) -> int:
    """Train a model without coordinates.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of `deepem train`.
    plan : Plan
        With the model from which the training starts.
    show_epoch : callable
        Shows the progress after an epoch.

    Returns
    -------
    int
        Exit code.
    """
    from .. import runtime
    from ..model.files import save_model
    from ..training.self_training import ROUNDS, self_train

    micrographs = chosen_micrographs(options)
    runtime.start(options.threads)
    with console.progress(plan.networks * ROUNDS) as show:
        model = self_train(micrographs, plan, lambda record: show_epoch(record, show))
    save_model(options.output, model)
    console.print_result(format_card(model.card()))
    console.print_result(f"model written to {options.output}")
    return console.OK


def keep_better(before: Model, after: Model, data: TrainingSet, plan: Plan) -> Model:
    """Compare a model with the one from which its training started, and return the better one.

    Parameters
    ----------
    before, after : Model
    data : TrainingSet
        Of which some particles are marked.
    plan : Plan
        Settings of the training.

    Returns
    -------
    Model
        See `drift.better`.
    """
    from ..training.drift import better, compare
    from ..training.teacher import MIN_GAIN

    paths = {name: data.micrographs[name] for name in data.names}
    held_out = {name: data.particles[name].centres_xy for name in after.record.validation.names}
    return better(before, after, compare(before, after, paths, plan.pixel_size_angst, held_out), MIN_GAIN)


def with_teacher(data: TrainingSet, plan: Plan) -> TrainingSet:
    """Return training data in which the model from which the training starts labels what is not marked.

    Parameters
    ----------
    data : TrainingSet
        With some of the particles.
    plan : Plan
        With the model.

    Returns
    -------
    TrainingSet
    """
    from ..training.teacher import TaughtSet

    values = {field.name: getattr(data, field.name) for field in fields(data)}
    return TaughtSet(**{**values, "incomplete": frozenset(data.names)}, teacher=plan.start)
