# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fitting one network."""

import dataclasses

import numpy as np
import pytest

from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network.architecture import build_network
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.training import fit as fitting
from deepem_scipion.deepem.training import losses
from deepem_scipion.deepem.training.assessment import assess
from deepem_scipion.deepem.training.batches import BoxBatches
from deepem_scipion.deepem.training.boxes import Boxes
from deepem_scipion.deepem.training.fit import fit
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS

pytestmark = pytest.mark.slow

GEOMETRY = Geometry(24, (5, 5, 2), (2, 2, 2), (3, 4, 4))


def blob_boxes(n, seed=0):
    """Boxes, every second of which shows a dark blob."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((24, 24)) - 11.5
    images = rng.normal(size=(n, 24, 24)).astype(np.float32)
    images[::2] -= 3 * (np.hypot(x, y) < 8)
    targets = np.zeros(n, np.float32)
    targets[::2] = 1
    places = np.column_stack([np.arange(n), np.zeros((n, 2), int)])
    return Boxes(list(images), 24, places, targets)


def quick(**changes):
    """A training preset with single boxes that takes seconds."""
    return dataclasses.replace(TRAINING_PRESETS["default"],
                               **{"crop": 0, "batch": 32, "epochs": 12, "rate": 0.01, **changes})


def run(boxes, validation=None, preset=None, **more):
    preset = preset or quick()
    examples = [BoxBatches(part, preset.batch) if part else None for part in (boxes, validation)]
    return fit(*examples, GEOMETRY, preset, **more)


def test_network_learns_to_distinguish_blobs_from_noise():
    found = run(blob_boxes(80), blob_boxes(40, seed=1), seed=1)
    assert found.history[found.best_epoch - 1]["validation_accuracy"] > 0.95


def test_epoch_with_the_best_average_precision_on_validation_is_kept(monkeypatch):
    found_precisions = iter([0.5, 0.8, 0.6, 0.7])

    def assess(network, sample, preset):
        precision = next(found_precisions) if len(sample[0][0]) == 8 else 0.0
        return {"loss": 0.1, "relative_loss": 0.1, "accuracy": 0.9, "average_precision": precision}

    monkeypatch.setattr(fitting, "assess", assess)
    snapshots = []
    get_weights = fitting.get_weights
    monkeypatch.setattr(fitting, "get_weights", lambda *a: snapshots.append(get_weights(*a)) or snapshots[-1])
    found = run(blob_boxes(16), blob_boxes(8), epochs=4)
    assert found.best_epoch == 2
    assert found.weights is snapshots[2]  # the start, epoch 1, epoch 2
    assert [record["validation_average_precision"] for record in found.history] == [0.5, 0.8, 0.6, 0.7]


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    one, again, other = (run(blob_boxes(40), seed=seed).weights
                         for seed in (1, 1, 2))
    for name, value in one.items():
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(one["conv1.kernel"], other["conv1.kernel"])


def test_attempt_that_does_not_converge_is_followed_by_one_with_the_next_seed_and_a_warning(monkeypatch, caplog):
    attempts = []

    def assess(network, sample, preset):
        return {"loss": 0.1, "relative_loss": 0.999 if attempts[-1] < 9 else 0.9, "accuracy": 0.5,
                "average_precision": 0.5}

    build = fitting.build_network
    monkeypatch.setattr(fitting, "build_network", lambda geometry, seed, **how: attempts.append(seed)
                        or build(geometry, seed, **how))
    monkeypatch.setattr(fitting, "assess", assess)
    found = run(blob_boxes(16), epochs=2, seed=7)
    assert attempts == [7, 8, 9]
    assert found.seed == 9
    assert caplog.text.count("did not converge in 2 epochs") == 2
    assert "starting from scratch with seed 8" in caplog.text


def test_network_that_was_once_better_than_a_constant_score_is_trained_to_the_end(monkeypatch):
    losses = iter([0.8, 0.999])
    monkeypatch.setattr(fitting, "assess", lambda *_: {"loss": 0.1, "relative_loss": next(losses), "accuracy": 0.5,
                                                        "average_precision": 0.5})
    assert run(blob_boxes(16), epochs=2, seed=7).seed == 7


def test_network_that_cannot_learn_ends_with_an_error_that_states_what_to_do():
    with pytest.raises(DeepEMError, match="did not converge with 5 seeds.*Check coordinates"):
        run(blob_boxes(16), preset=quick(rate=1e-9, wide_start=False, normalised=False), epochs=1)


@pytest.mark.parametrize("target, missing", [(0, "particles"), (1, "negatives")])
def test_training_without_particles_or_without_negatives_is_refused(target, missing):
    boxes = blob_boxes(16)
    boxes.targets[:] = target
    with pytest.raises(DeepEMError, match=f"no boxes of {missing}"):
        run(boxes)


def test_training_starts_from_given_weights():
    start = run(blob_boxes(80), seed=1)
    further = run(blob_boxes(80), preset=quick(later_rate=1e-6), epochs=1, seed=5, start=start.weights)
    np.testing.assert_allclose(further.weights["conv1.kernel"], start.weights["conv1.kernel"], atol=1e-3)


def test_losses_leave_out_unknown_targets():
    targets = np.array([[1.0, -1.0], [0.0, -1.0]], np.float32)
    scores = np.array([[0.5, 0.9], [0.25, 0.1]], np.float32)
    assert float(losses.half_mean_squared_error(targets, scores)) == pytest.approx((0.25 + 0.0625) / 4)
    assert float(losses.crossentropy(targets, scores)) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
    assert float(losses.crossentropy(np.full((2, 2), -1.0, np.float32), scores)) == 0


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_crossentropy_of_a_certain_score_is_finite(score):
    targets = np.array([0.0, 1.0], np.float32)
    assert np.isfinite(float(losses.crossentropy(targets, np.full(2, score, np.float32))))


def test_accuracy_is_balanced_and_the_best_constant_score_has_a_relative_loss_of_one():
    boxes = blob_boxes(20)
    boxes.targets[:] = 0
    boxes.targets[0] = 1
    network = build_network(GEOMETRY, fully_convolutional=True)
    kernel = np.zeros(network.get_layer("dense").kernel.shape)
    for preset in (TRAINING_PRESETS["paper"], TRAINING_PRESETS["default"]):
        network.get_layer("dense").set_weights([kernel, np.log([1 / 19])])
        found = assess(network, BoxBatches(boxes, 8).sample(), preset)
        assert found["accuracy"] == 0.5
        assert found["relative_loss"] == pytest.approx(1, abs=1e-5)


def test_training_from_given_weights_takes_smaller_steps():
    start = run(blob_boxes(40), epochs=4).weights
    moved = [np.abs(run(blob_boxes(40), preset=quick(later_rate=rate), epochs=1, start=start).weights["conv1.kernel"]
                    - start["conv1.kernel"]).max() for rate in (1e-4, 1e-2)]
    assert 0 < moved[0] < moved[1] / 10
