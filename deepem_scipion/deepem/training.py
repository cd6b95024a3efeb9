# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fitting the network to windows: recipes, epochs, the best epoch, and a way off the plateau."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DeepEMError
from .network import Geometry, build_network, get_weights, set_weights
from .windows import Windows

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

# A network that still says the same of everything after this many updates has missed the way down.
PLATEAU_UPDATES = 400
PLATEAU_ACCURACY = 0.6
ATTEMPTS = 5


@dataclass(frozen=True)
class Recipe:
    """How the network is fitted.

    Parameters
    ----------
    loss : {"half_mse", "crossentropy"}
    optimiser : {"sgd", "adam"}
    rate : float
        Learning rate at the start.
    decay : bool
        Let the rate fall to 0 along a cosine.
    batch : int
        Windows per update.
    epochs : int
        Passes over all windows in their four rotations.
    least_updates : int
        Few windows get more epochs, up to this many updates in all.
    negatives_per_particle : float
        Random non-particles drawn for each particle.
    shift : float
        Greatest random shift of a particle's window in each direction, in particle diameters.
    """

    loss: str
    optimiser: str
    rate: float
    decay: bool
    batch: int
    epochs: int
    least_updates: int
    negatives_per_particle: float
    shift: float

    def epochs_for(self, windows: int) -> int:
        """Epochs for a number of windows (each in four rotations)."""
        return max(self.epochs, math.ceil(self.least_updates / self.updates_per_epoch(windows)))

    def updates_per_epoch(self, windows: int) -> int:
        """Batches in one pass over the windows in four rotations."""
        return max(1, math.ceil(4 * windows / self.batch))


RECIPES: dict[str, Recipe] = {
    # The paper's: half the mean squared error, plain gradient descent, as many non-particles as particles.
    "paper": Recipe("half_mse", "sgd", 1.0, False, 50, 20, 0, 1.0, 0.0),
    # See docs/accuracy.md for what was tried.
    "default": Recipe("crossentropy", "adam", 3e-3, True, 128, 20, 2000, 3.0, 0.0),
}


@dataclass(frozen=True)
class Fit:
    """Outcome of `fit`: weights of the best epoch, the record of every epoch, the seed that worked."""

    weights: dict[str, np.ndarray]
    history: list[dict[str, Any]]
    best_epoch: int
    seed: int


class _Plateau(Exception):
    """The network still gives every window the same score."""


def half_mean_squared_error(targets: Any, scores: Any) -> Any:
    """The paper's loss: half the mean over the batch of the squared error."""
    import keras

    return keras.ops.mean(keras.ops.square(targets - scores)) / 2


def compile_network(network: keras.Model, recipe: Recipe, updates: int) -> None:
    """Give a network the loss and the optimiser of a recipe; `updates` is the length of the rate's decay."""
    import keras

    rate: Any = keras.optimizers.schedules.CosineDecay(recipe.rate, updates) if recipe.decay else recipe.rate
    optimiser = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[recipe.optimiser](rate)
    loss = {"half_mse": half_mean_squared_error, "crossentropy": "binary_crossentropy"}[recipe.loss]
    network.compile(optimiser, loss)


def fit(training: Windows, validation: Windows | None, geometry: Geometry, recipe: Recipe, diameter_px: float,
        epochs: int | None = None, seed: int = 0, start: Mapping[str, np.ndarray] | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda record: None) -> Fit:
    """Train the network; keep the epoch with the least validation loss.

    A sigmoid network can sit on a plateau where every window gets the same score. A run that is still there
    after `PLATEAU_UPDATES` updates is given up and begun again with the next seed.

    Parameters
    ----------
    training, validation : Windows
        Without validation windows the training windows decide which epoch is best.
    geometry : Geometry
    recipe : Recipe
    diameter_px : float
        Particle diameter in working pixels.
    epochs : int, optional
        Instead of the recipe's.
    seed : int
        Of the start, the order of windows and their shifts.
    start : mapping of str to array, optional
        Weights to go on from.
    progress : callable
        Given the record of each epoch: epoch, epochs, seed, loss, accuracy, validation_loss,
        validation_accuracy, seconds, seconds_left.

    Raises
    ------
    DeepEMError
        Where there are no particles or no non-particles, or no seed left the plateau.
    """
    for name, target in (("particles", 1), ("non-particles", 0)):
        if not (training.targets == target).any():
            raise DeepEMError(f"no windows of {name} to train on; check that coordinates and micrographs belong "
                              "together, the diameter and the box")
    n_epochs = recipe.epochs_for(len(training)) if epochs is None else epochs
    for attempt in range(ATTEMPTS):
        try:
            return _attempt(training, validation, geometry, recipe, diameter_px, n_epochs, seed + attempt, start,
                            progress)
        except _Plateau as plateau:
            log.warning("%s with seed %d; starting again with seed %d", plateau, seed + attempt, seed + attempt + 1)
    raise DeepEMError(f"training did not leave the plateau with {ATTEMPTS} seeds: the network gives particles and "
                      "others the same score. Check coordinates, diameter and contrast, or add particles or epochs.")


def _attempt(training: Windows, validation: Windows | None, geometry: Geometry, recipe: Recipe, diameter_px: float,
             epochs: int, seed: int, start: Mapping[str, np.ndarray] | None,
             progress: Callable[[dict[str, Any]], None]) -> Fit:
    network = build_network(geometry, seed)
    if start is not None:
        set_weights(network, start)
    per_epoch = recipe.updates_per_epoch(len(training))
    compile_network(network, recipe, epochs * per_epoch)
    rng = np.random.default_rng(seed)
    history: list[dict[str, Any]] = []
    best, best_epoch, least = get_weights(network, geometry), 0, math.inf
    began = time.perf_counter()
    for epoch in range(1, epochs + 1):
        _epoch(network, training, recipe, recipe.shift * diameter_px, rng)
        record: dict[str, Any] = {"epoch": epoch, "epochs": epochs, "seed": seed}
        record |= assess(network, training, recipe)
        if validation is not None and len(validation):
            record |= {f"validation_{key}": value for key, value in assess(network, validation, recipe).items()}
        seconds = time.perf_counter() - began
        record |= {"seconds": seconds, "seconds_left": seconds / epoch * (epochs - epoch)}
        history.append(record)
        progress(record)
        undecided = record["accuracy"] < PLATEAU_ACCURACY
        if undecided and (epoch == epochs or epoch * per_epoch >= max(PLATEAU_UPDATES, epochs * per_epoch / 4)):
            raise _Plateau(f"still on the plateau after epoch {epoch} ({100 * record['accuracy']:.0f} % right)")
        loss = record.get("validation_loss", record["loss"])
        if loss < least:
            best, best_epoch, least = get_weights(network, geometry), epoch, loss
    return Fit(best, history, best_epoch, seed)


def _epoch(network: keras.Model, training: Windows, recipe: Recipe, shift_px: float, rng: np.random.Generator) -> None:
    """One pass over all windows in all four rotations, in random order."""
    order = rng.permutation(4 * len(training))
    for begin in range(0, len(order), recipe.batch):
        which, turns = np.divmod(order[begin:begin + recipe.batch], 4)
        shifts = rng.integers(-round(shift_px), round(shift_px) + 1, (len(which), 2)) if shift_px >= 0.5 else None
        windows = training.cut(which, shifts)
        for turn in (1, 2, 3):
            windows[turns == turn] = np.rot90(windows[turns == turn], turn, axes=(1, 2))
        network.train_on_batch(windows[..., np.newaxis], training.targets[which, np.newaxis])


def assess(network: keras.Model, windows: Windows, recipe: Recipe, chunk: int = 512) -> dict[str, float]:
    """Loss of the recipe and balanced accuracy at 0.5, over windows as they lie in the micrograph.

    Balanced: the mean of the shares of particles and of non-particles that are right, so that 0.5 is chance
    whatever their numbers.
    """
    scores = np.concatenate([
        np.asarray(network(windows.cut(np.arange(begin, min(begin + chunk, len(windows))))[..., np.newaxis],
                           training=False))[:, 0]
        for begin in range(0, len(windows), chunk)]).astype(np.float64)
    positive = windows.targets == 1
    right = (scores >= 0.5) == positive
    shares = [right[kind].mean() for kind in (positive, ~positive) if kind.any()]
    if recipe.loss == "half_mse":
        loss = np.mean((windows.targets - scores) ** 2) / 2
    else:
        loss = -np.mean(np.log(np.clip(np.where(positive, scores, 1 - scores), 1e-7, 1)))
    return {"loss": float(loss), "accuracy": float(np.mean(shares))}
