# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses and optimisers of the training presets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .presets import TrainingPreset

if TYPE_CHECKING:
    import keras

# A score of 0 would have an infinite crossentropy, and the largest float32 below 1 is about 1 - 1e-7.
_MIN_SCORE = 1e-6


def half_mean_squared_error(targets: Any, scores: Any) -> Any:
    """Compute the loss of the paper, E = 1 / (2 N) sum (t - y)^2, over the N known targets.

    Parameters
    ----------
    targets : float32 tensor
        1 for a particle, 0 for a negative, below 0 for unknown.
    scores : float32 tensor
        Scores of the network, of the same shape.

    Returns
    -------
    float32 scalar tensor
    """
    import keras

    return _mean_of_known(targets, keras.ops.square(targets - scores) / 2)


def crossentropy(targets: Any, scores: Any) -> Any:
    """Compute the mean binary crossentropy over the known targets.

    Parameters
    ----------
    targets, scores : float32 tensor
        As for `half_mean_squared_error`.

    Returns
    -------
    float32 scalar tensor
    """
    import keras

    scores = keras.ops.clip(scores, _MIN_SCORE, 1 - _MIN_SCORE)
    return _mean_of_known(targets, -keras.ops.log(keras.ops.where(targets > 0.5, scores, 1 - scores)))


LOSSES = {"half_mse": half_mean_squared_error, "crossentropy": crossentropy}


def compile_network(network: keras.Model, preset: TrainingPreset, updates: int, later: bool = False) -> None:
    """Give a network the loss and the optimiser of a training preset.

    Parameters
    ----------
    network : keras.Model
        Modified in place.
    preset : TrainingPreset
        Loss, optimiser and learning rate.
    updates : int
        Number of updates over which the learning rate decays.
    later : bool
        Whether the training starts from given weights.
    """
    import keras

    rate: Any = preset.later_rate if later else preset.rate
    if preset.decay:
        rate = keras.optimizers.schedules.CosineDecay(rate, updates)
    optimiser = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[preset.optimiser](rate)
    network.compile(optimiser, LOSSES[preset.loss])
    optimiser.build(network.trainable_variables)  # TensorFlow traces an update that makes variables twice


def _mean_of_known(targets: Any, values: Any) -> Any:
    import keras

    known = keras.ops.cast(targets >= 0, "float32")
    return keras.ops.sum(values * known) / keras.ops.maximum(keras.ops.sum(known), 1.0)
