# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fitting the network to windows: recipes, epochs, the best epoch, and a way off the plateau."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeepEMError
from ..evaluation.matching import Matches
from ..evaluation.metrics import average_precision, curve
from ..network.architecture import build_network, get_weights, scale_initial_weights, set_weights
from ..network.geometry import Geometry
from .batches import Batch, Batches

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

# A network whose loss is still nearly that of the best constant answer after this many updates has missed the way down.
CONVERGENCE_UPDATES = 800
CONVERGENCE_LOSS = 0.98
ATTEMPTS = 5


@dataclass(frozen=True)
class TrainingPreset:
    """How the network is fitted.

    Parameters
    ----------
    loss : {"half_mse", "crossentropy"}
    optimiser : {"sgd", "adam"}
    rate, later_rate : float
        Learning rate at the start, and where training goes on from weights.
    decay : bool
        Let the rate fall to 0 along a cosine.
    epochs : int
    batch : int
        Windows, or patches, per update.
    patch : int
        Windows along the side of a patch (see `examples.CropBatches`); 0 for single windows.
    updates_per_epoch : int
        With patches; windows are all shown once in each epoch.
    wide_start : bool
        Begin with `architecture.scale_initial_weights` instead of plain Glorot-uniform weights.
    varied : bool
        With patches: show them at any angle, and varied in size, contrast and brightness.
    normalised : bool
        Train with batch normalisation (see `network.build_network`), but not where training goes on from weights.
    """

    loss: str
    optimiser: str
    rate: float
    later_rate: float
    decay: bool
    epochs: int
    batch: int
    patch: int = 0
    updates_per_epoch: int = 0
    augmented: bool = False
    wide_start: bool = False
    normalised: bool = False


TRAINING_PRESETS: dict[str, TrainingPreset] = {
    # The paper's: half the mean squared error, plain gradient descent on single windows.
    "paper": TrainingPreset("half_mse", "sgd", 1.0, 1.0, decay=False, epochs=20, batch=50),
    # What of all that was tried trains best in a minute; see docs/accuracy.md.
    "default": TrainingPreset("crossentropy", "adam", 2e-2, 2e-3, decay=True, epochs=20, batch=16, patch=8,
                      updates_per_epoch=150, augmented=True, wide_start=True, normalised=True),
}


@dataclass(frozen=True)
class Fit:
    """Outcome of `fit`: weights of the best epoch, the record of every epoch, the seed that worked."""

    weights: dict[str, np.ndarray]
    history: list[dict[str, Any]]
    best_epoch: int
    seed: int


@dataclass(frozen=True)
class State:
    """Where a fit stands after an epoch: all that it needs to go on as if it had not been interrupted.

    Attributes
    ----------
    seed : of the attempt under way
    history : the record of every epoch
    best_epoch : 0 where none has been better than the start
    random : state of the generator that orders the examples, as plain values
    variables : of network and optimiser, as `get_variables` gives them
    best : weights of the best epoch
    """

    seed: int
    history: list[dict[str, Any]]
    best_epoch: int
    random: Mapping[str, Any]
    variables: list[np.ndarray]
    best: dict[str, np.ndarray]


class _NotConverged(Exception):
    """The network still gives every window the same score."""


def half_mean_squared_error(targets: Any, scores: Any) -> Any:
    """The paper's loss: half the mean over the known targets of the squared error."""
    import keras

    return _mean_of_known(targets, keras.ops.square(targets - scores) / 2)


def crossentropy(targets: Any, scores: Any) -> Any:
    """Mean over the known targets of the binary crossentropy."""
    import keras

    scores = keras.ops.clip(scores, _MIN_SCORE, 1 - _MIN_SCORE)
    return _mean_of_known(targets, -keras.ops.log(keras.ops.where(targets > 0.5, scores, 1 - scores)))


LOSSES = {"half_mse": half_mean_squared_error, "crossentropy": crossentropy}
_MIN_SCORE = 1e-6  # a score of 0 would cost infinitely much, and float32 ends near 1e-7 below 1


def _mean_of_known(targets: Any, values: Any) -> Any:
    import keras

    known = keras.ops.cast(targets >= 0, "float32")
    return keras.ops.sum(values * known) / keras.ops.maximum(keras.ops.sum(known), 1.0)


def compile_network(network: keras.Model, training_preset: TrainingPreset, updates: int, later: bool = False) -> None:
    """Give a network the loss and the optimiser of a recipe.

    Parameters
    ----------
    network : keras.Model
    recipe : Recipe
    updates : int
        Length of the rate's decay.
    later : bool
        Whether training goes on from weights.
    """
    import keras

    rate: Any = training_preset.later_rate if later else training_preset.rate
    if training_preset.decay:
        rate = keras.optimizers.schedules.CosineDecay(rate, updates)
    optimiser = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[training_preset.optimiser](rate)
    network.compile(optimiser, LOSSES[training_preset.loss])


def fit(examples: Batches, validation: Batches | None, geometry: Geometry, training_preset: TrainingPreset,
        epochs: int | None = None, seed: int = 0, start: Mapping[str, np.ndarray] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None, state: State | None = None,
        keep: Callable[[State], None] = lambda state: None) -> Fit:
    """Train the network; keep the epoch with the highest average precision on the validation sample.

    Among epochs that are equal in that to three decimals the one with the least loss is kept.

    A sigmoid network can sit on a plateau where every window gets the same score. A run whose loss is still that of the
    best constant answer after `CONVERGENCE_UPDATES` updates, or at its end, is given up and begun again with the next seed.
    One that has been better once has left the plateau, whatever single epochs look like.

    Parameters
    ----------
    examples : Examples
        What the network is shown.
    validation : Examples, optional
        What its epochs are judged by; without it the training examples are.
    geometry : Geometry
    recipe : Recipe
    epochs : int, optional
        Instead of the recipe's.
    seed : int
        Of the start and the order of examples.
    start : mapping of str to array, optional
        Weights to go on from.
    progress : callable
        Given the record of each epoch: epoch, epochs, seed, the figures of `assess`, the same with `validation_`
        before, seconds, seconds_left.
    state : State, optional
        To go on from, of a fit with the same arguments. The outcome is the same as without the interruption.
    keep : callable
        Given the state after each epoch, before `progress` is.

    Raises
    ------
    DeepEMError
        Where there are no particles or no non-particles, or no seed left the plateau.
    """
    samples = {"": examples.sample()}
    for name, target in (("particles", 1), ("non-particles", 0)):
        if not any((targets == target).any() for _, targets in samples[""]):
            raise DeepEMError(f"no windows of {name} to train on; check that coordinates and micrographs belong "
                              "together, the diameter and the box")
    if validation is not None:
        samples["validation_"] = validation.sample()
    n_epochs = training_preset.epochs if epochs is None else epochs
    for attempt in range(0 if state is None else state.seed - seed, ATTEMPTS):
        try:
            return _attempt(examples, samples, geometry, training_preset, n_epochs, seed + attempt, start, progress, state, keep)
        except _NotConverged as plateau:
            state = None
            log.warning("%s with seed %d; starting again with seed %d", plateau, seed + attempt, seed + attempt + 1)
    raise DeepEMError(f"training did not leave the plateau with {ATTEMPTS} seeds: the network gives particles and "
                      "others the same score. Check coordinates, diameter and contrast, or add particles or epochs.")


def _attempt(examples: Batches, samples: Mapping[str, list[Batch]], geometry: Geometry, training_preset: TrainingPreset, epochs: int,
             seed: int, start: Mapping[str, np.ndarray] | None, progress: Callable[[dict[str, Any]], None],
             state: State | None, keep: Callable[[State], None]) -> Fit:
    network = build_network(geometry, seed, fully_convolutional=True, batch_normalised=training_preset.normalised and start is None)
    if training_preset.wide_start:
        scale_initial_weights(network)
    if start is not None:
        set_weights(network, start)
    updates = epochs * examples.updates_per_epoch
    compile_network(network, training_preset, updates, later=start is not None)
    rng = np.random.default_rng(seed)
    judge = "validation_" if "validation_" in samples else ""

    def quality(record: Mapping[str, Any]) -> tuple[float, float]:
        return round(record[f"{judge}average_precision"], 3), -record[f"{judge}loss"]

    history: list[dict[str, Any]] = []
    best, best_epoch, highest = get_weights(network, geometry), 0, (-math.inf, -math.inf)
    if state is not None:
        set_variables(network, state.variables)
        rng.bit_generator.state = state.random
        history, best, best_epoch = list(state.history), state.best, state.best_epoch
        highest = quality(history[best_epoch - 1]) if best_epoch else highest
    began = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)
    while True:
        epoch = len(history)
        done = epoch * examples.updates_per_epoch
        still = min((past["relative_loss"] for past in history), default=0.0) > CONVERGENCE_LOSS
        if still and done >= min(updates, max(CONVERGENCE_UPDATES, updates / 3)):
            raise _NotConverged(f"still on the plateau after epoch {epoch}: every window gets nearly the same score,")
        if epoch == epochs:
            return Fit(best, history, best_epoch, seed)
        for pixels, targets in examples.batches(rng):
            network.train_on_batch(pixels[..., np.newaxis], targets[..., np.newaxis])
        record: dict[str, Any] = {"epoch": epoch + 1, "epochs": epochs, "seed": seed}
        for prefix, sample in samples.items():
            record |= {prefix + key: value for key, value in assess(network, sample, training_preset).items()}
        seconds = time.perf_counter() - began
        record |= {"seconds": seconds, "seconds_left": seconds / (epoch + 1) * (epochs - epoch - 1)}
        history.append(record)
        if quality(record) > highest:
            best, best_epoch, highest = get_weights(network, geometry), epoch + 1, quality(record)
        keep(State(seed, list(history), best_epoch, rng.bit_generator.state, get_variables(network), best))
        progress(record)


def get_variables(network: keras.Model) -> list[np.ndarray]:
    """All that changes in a compiled network while it is trained: weights, moving averages, the optimiser's moments."""
    import keras

    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in _variables(network)]


def set_variables(network: keras.Model, values: Sequence[np.ndarray]) -> None:
    """Put what `get_variables` gave into a network that was made and compiled in the same way."""
    for variable, value in zip(_variables(network), values):
        variable.assign(value)


def _variables(network: keras.Model) -> list[keras.Variable]:
    network.optimizer.build(network.trainable_variables)
    return [*network.weights, *network.optimizer.variables]


def assess(network: keras.Model, sample: Sequence[Batch], training_preset: TrainingPreset) -> dict[str, float]:
    """How well a network does on a sample.

    Returns
    -------
    loss : of the recipe
    relative_loss : the same over that of the best constant answer
    accuracy : share of windows that are right at 0.5, mean of particles and non-particles, so that 0.5 is chance
    average_precision : of the windows in the order of their scores; unlike the loss it does not suffer from scores that
        are too sure, as they become where particles were left unmarked
    """
    import keras

    targets = np.concatenate([targets.reshape(-1) for _, targets in sample])
    scores = np.concatenate([
        keras.ops.convert_to_numpy(network(pixels[..., np.newaxis], training=False)).reshape(-1)
        for pixels, _ in sample])
    known = targets >= 0
    targets, scores = targets[known], scores[known]
    positive = targets == 1
    right = (scores >= 0.5) == positive
    shares = [right[kind].mean() for kind in (positive, ~positive) if kind.any()]
    loss, constant = (float(LOSSES[training_preset.loss](targets, answer))
                      for answer in (scores, np.full_like(scores, targets.mean())))
    ranked = curve(Matches(scores, positive, np.zeros(len(scores)), int(positive.sum())))
    return {"loss": loss, "relative_loss": loss / constant if constant else 1.0, "accuracy": float(np.mean(shares)),
            "average_precision": average_precision(ranked)}
