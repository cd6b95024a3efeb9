# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training presets: how the network is fitted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPreset:
    """How the network is fitted.

    Attributes
    ----------
    loss : {"half_mse", "crossentropy"}
        See `losses.LOSSES`.
    optimiser : {"sgd", "adam"}
        Gradient descent, or Adam.
    rate, later_rate : float
        Learning rate of a training from scratch, and of one that starts from given weights.
    decay : bool
        Whether the learning rate falls to 0 along a cosine.
    epochs, later_epochs, general_epochs : int
        Number of epochs of a training from scratch, of one that starts from given weights, and of one in which the
        general model, from which it starts, labels what nobody marked.
    batch : int
        Boxes, or crops, per update.
    crop : int
        Boxes along the side of a crop (see `batches.CropBatches`); 0 for single boxes.
    updates_per_epoch : int
        Updates per epoch with crops. Single boxes are all shown once in each epoch.
    augmented : bool
        Whether crops are shown at any angle, and with changes of size, contrast and brightness.
    wide_start : bool
        Whether the initial weights are scaled (see `architecture.scale_initial_weights`) instead of plain
        Glorot-uniform ones.
    last_epoch : bool
        Whether the last epoch is kept instead of the best.
    normalised : bool
        Whether to train with batch normalisation (see `architecture.build_network`). A training that starts from given
        weights never does.
    """

    loss: str
    optimiser: str
    rate: float
    later_rate: float
    decay: bool
    epochs: int
    later_epochs: int
    general_epochs: int
    batch: int
    crop: int = 0
    updates_per_epoch: int = 0
    augmented: bool = False
    wide_start: bool = False
    normalised: bool = False
    last_epoch: bool = False


TRAINING_PRESETS: dict[str, TrainingPreset] = {
    # That of the paper: half the mean squared error, plain gradient descent on single boxes.
    "paper": TrainingPreset("half_mse", "sgd", 1.0, 1.0, decay=False, epochs=20, later_epochs=20, general_epochs=20,
                            batch=50),
    # The most accurate of all that was tried and takes a minute; see docs/accuracy.md.
    "default": TrainingPreset("crossentropy", "adam", 2e-2, 2e-3, decay=True, epochs=20, later_epochs=5,
                              general_epochs=2, batch=8, crop=8, updates_per_epoch=150, augmented=True,
                              wide_start=True, normalised=True),
}
