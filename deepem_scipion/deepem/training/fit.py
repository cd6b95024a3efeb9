# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fitting one network: epochs, choice of the best epoch, and new attempts if the network does not converge."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import DeepEMError
from ..model.record import Epoch
from ..network.architecture import build_network, get_weights, scale_initial_weights, set_weights
from ..network.geometry import Geometry
from .assessment import assess
from .batches import Batch, Batches, ahead
from .losses import compile_network
from .presets import TrainingPreset

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

# A network whose loss is still close to that of the best constant score after this many updates does not converge.
CONVERGENCE_UPDATES = 800
CONVERGENCE_LOSS = 0.98
ATTEMPTS = 5


@dataclass(frozen=True)
class FitResult:
    """Outcome of `fit`.

    Attributes
    ----------
    weights : dict of str to float32 array
        Weights of the best epoch.
    history : list of Epoch
        Figures of all epochs.
    best_epoch : int
        Number of the best epoch, from 1; 0 if none was better than the initial weights.
    seed : int
        Seed of the attempt that converged.
    """

    weights: dict[str, np.ndarray]
    history: list[Epoch]
    best_epoch: int
    seed: int


@dataclass(frozen=True)
class FitState:
    """State of a fit after an epoch: all that is needed to resume it.

    Attributes
    ----------
    seed : int
        Seed of the current attempt.
    history : list of Epoch
        Figures of all epochs so far.
    best_epoch : int
        As for `FitResult`.
    random : mapping
        State of the random number generator that orders the examples, in plain values.
    variables : list of array
        Variables of network and optimiser, as returned by `get_variables`.
    best : dict of str to float32 array
        Weights of the best epoch.
    """

    seed: int
    history: list[Epoch]
    best_epoch: int
    random: Mapping[str, Any]
    variables: list[np.ndarray]
    best: dict[str, np.ndarray]


class _NotConverged(Exception):
    """The network gives nearly the same score to every box."""


def fit(examples: Batches, validation: Batches | None, geometry: Geometry, preset: TrainingPreset,
        epochs: int | None = None, seed: int = 0, start: Mapping[str, np.ndarray] | None = None,
        progress: Callable[[Epoch], None] = lambda record: None, state: FitState | None = None,
        keep: Callable[[FitState], None] = lambda state: None) -> FitResult:
    """Train a network; keep the epoch with the highest average precision on the validation sample.

    Among epochs with the same average precision, to three decimals, the one with the lowest loss is kept. Presets may
    keep the last epoch instead.

    Parameters
    ----------
    examples : Batches
        Training examples.
    validation : Batches, optional
        Examples on which epochs are compared. Default: the training examples.
    geometry : Geometry
        Sizes of the layers.
    preset : TrainingPreset
        How the network is fitted.
    epochs : int, optional
        Number of epochs. Default: that of the preset.
    seed : int
        Seed of the initial weights and of the order of examples.
    start : mapping of str to array, optional
        Weights to start from.
    progress : callable
        Called with the figures of each epoch.
    state : FitState, optional
        State to resume from, of a fit with the same arguments. The outcome is the same as without an interruption.
    keep : callable
        Called with the state after each epoch, before `progress`.

    Returns
    -------
    FitResult

    Raises
    ------
    DeepEMError
        If there are no particles or no negatives, or no attempt converged.

    Notes
    -----
    A sigmoid network may start where every box gets the same score and gradients are nearly 0. An attempt whose loss,
    in all epochs, is still that of the best constant score after `CONVERGENCE_UPDATES` updates, or at its end, is
    abandoned, and the training starts from scratch with the next seed.
    """
    samples = {"": examples.sample()}
    for name, target in (("particles", 1), ("negatives", 0)):
        if not any((targets == target).any() for _, targets in samples[""]):
            raise DeepEMError(f"no boxes of {name} to train on; check that coordinates and micrographs belong "
                              "together, the diameter and the box")
    if validation is not None:
        samples["validation_"] = validation.sample()
        if preset.crop:  # each of its batches is a random sample; that of the training only shows the progress
            samples[""] = samples[""][::4]
    task = _Task(examples, samples, geometry, preset, preset.epochs if epochs is None else epochs, start)
    for number in range(0 if state is None else state.seed - seed, ATTEMPTS):
        try:
            return _Attempt(task, seed + number, state).run(progress, keep)
        except _NotConverged as error:
            state = None
            log.warning("%s with seed %d; starting from scratch with seed %d", error, seed + number, seed + number + 1)
    raise DeepEMError(f"training did not converge with {ATTEMPTS} seeds: the network gives the same score to particles "
                      "and negatives. Check coordinates, diameter and contrast, or add particles or epochs.")


@dataclass(frozen=True)
class _Task:
    """What all attempts of a fit have in common; `samples` are batches by the prefix of their figures."""

    examples: Batches
    samples: Mapping[str, list[Batch]]
    geometry: Geometry
    preset: TrainingPreset
    epochs: int
    start: Mapping[str, np.ndarray] | None

    @property
    def updates(self) -> int:
        """Number of updates of all epochs."""
        return self.epochs * self.examples.updates_per_epoch

    def build(self, seed: int) -> keras.Model:
        """Build and compile the network with its initial weights."""
        network = build_network(self.geometry, seed, fully_convolutional=True,
                                batch_normalised=self.preset.normalised and self.start is None)
        if self.preset.wide_start:
            scale_initial_weights(network)
        if self.start is not None:
            set_weights(network, self.start)
        compile_network(network, self.preset, self.updates, later=self.start is not None)
        return network

    def quality(self, record: Epoch) -> tuple[float, float]:
        """Figures by which epochs are compared, the better the higher."""
        figures = cast(dict[str, float], record)
        prefix = "validation_" if "validation_" in self.samples else ""
        return round(figures[f"{prefix}average_precision"], 3), -figures[f"{prefix}loss"]


class _Attempt:
    """Training of a network with one seed, from scratch or from the state after one of its epochs."""

    def __init__(self, task: _Task, seed: int, state: FitState | None) -> None:
        self.task, self.seed = task, seed
        self.network = task.build(seed)
        self.rng = np.random.default_rng(seed)
        self.history: list[Epoch] = []
        self.best, self.best_epoch = get_weights(self.network, task.geometry), 0
        self.highest = (-math.inf, -math.inf)
        if state is not None:
            set_variables(self.network, state.variables)
            self.rng.bit_generator.state = state.random
            self.history, self.best, self.best_epoch = list(state.history), state.best, state.best_epoch
            if self.best_epoch:
                self.highest = task.quality(self.history[self.best_epoch - 1])
        self.began = time.perf_counter() - (self.history[-1]["seconds"] if self.history else 0.0)

    def run(self, progress: Callable[[Epoch], None], keep: Callable[[FitState], None]) -> FitResult:
        """Train the remaining epochs; raise `_NotConverged` as described in `fit`."""
        self._check_convergence()
        while len(self.history) < self.task.epochs:
            self._train_epoch()
            keep(FitState(self.seed, list(self.history), self.best_epoch, self.rng.bit_generator.state,
                          get_variables(self.network), self.best))
            progress(self.history[-1])
            self._check_convergence()
        return FitResult(self.best, self.history, self.best_epoch, self.seed)

    def _train_epoch(self) -> None:
        task, epoch = self.task, len(self.history) + 1
        for pixels, targets in ahead(task.examples.batches(self.rng)):
            self.network.train_on_batch(pixels[..., np.newaxis], targets[..., np.newaxis])
        figures: dict[str, Any] = {"epoch": epoch, "epochs": task.epochs, "seed": self.seed}
        for prefix, sample in task.samples.items():
            figures.update({prefix + key: value
                            for key, value in assess(self.network, sample, task.preset).items()})
        seconds = time.perf_counter() - self.began
        figures.update(seconds=seconds, seconds_left=seconds / epoch * (task.epochs - epoch))
        record = cast(Epoch, figures)
        self.history.append(record)
        if task.preset.last_epoch or task.quality(record) > self.highest:
            self.best, self.best_epoch = get_weights(self.network, task.geometry), epoch
            self.highest = task.quality(record)

    def _check_convergence(self) -> None:
        epoch, task = len(self.history), self.task
        # Single epochs may be worse again: one that was better shows that the network converges.
        lowest = min((past["relative_loss"] for past in self.history), default=0.0)
        enough = min(task.updates, max(CONVERGENCE_UPDATES, task.updates / 3))
        if lowest > CONVERGENCE_LOSS and epoch * task.examples.updates_per_epoch >= enough:
            raise _NotConverged(f"did not converge in {epoch} epochs: every box gets nearly the same score,")


def get_variables(network: keras.Model) -> list[np.ndarray]:
    """Return all that changes in a compiled network during training.

    Parameters
    ----------
    network : keras.Model
        Compiled network.

    Returns
    -------
    list of array
        Weights, moving averages and the moments of the optimiser.
    """
    import keras

    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in _variables(network)]


def set_variables(network: keras.Model, values: Sequence[np.ndarray]) -> None:
    """Set the variables of a network that was built and compiled in the same way.

    Parameters
    ----------
    network : keras.Model
        Compiled network, modified in place.
    values : sequence of array
        As returned by `get_variables`.
    """
    for variable, value in zip(_variables(network), values):
        variable.assign(value)


def _variables(network: keras.Model) -> list[keras.Variable]:
    return [*network.weights, *network.optimizer.variables]
