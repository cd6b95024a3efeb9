# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a network after an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation.matching import Matches
from ..evaluation.metrics import average_precision, curve
from .batches import Batch
from .losses import LOSSES
from .presets import TrainingPreset

if TYPE_CHECKING:
    import keras


def assess(network: keras.Model, sample: Sequence[Batch], preset: TrainingPreset) -> dict[str, float]:
    """Compute figures of a network on a sample.

    Parameters
    ----------
    network : keras.Model
        Fully convolutional network.
    sample : sequence of Batch
        Batches of images and targets.
    preset : TrainingPreset
        Its loss is computed.

    Returns
    -------
    dict of str to float
        `loss`; `relative_loss`: the loss divided by that of the best constant score; `accuracy`: the balanced accuracy
        at a score of 0.5, so that 0.5 is chance; `average_precision`: that of the boxes in descending order of score,
        which, unlike the loss, does not suffer from overconfident scores, as particles left unmarked cause them.
    """
    targets = np.concatenate([targets.reshape(-1) for _, targets in sample])
    scores = np.concatenate([network.predict_on_batch(pixels[..., np.newaxis]).reshape(-1) for pixels, _ in sample])
    known = targets >= 0
    targets, scores = targets[known], scores[known]
    positive = targets == 1
    correct = (scores >= 0.5) == positive
    shares = [correct[kind].mean() for kind in (positive, ~positive) if kind.any()]
    loss, constant = (float(LOSSES[preset.loss](targets, answer))
                      for answer in (scores, np.full_like(scores, targets.mean())))
    ranked = curve(Matches(scores, positive, np.zeros(len(scores)), int(positive.sum())))
    return {"loss": loss, "relative_loss": loss / constant if constant else 1.0, "accuracy": float(np.mean(shares)),
            "average_precision": average_precision(ranked)}
