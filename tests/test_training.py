# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fitting the network."""

import dataclasses

import numpy as np
import pytest

from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network.architecture import build_network
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.training import fit as training
from deepem_scipion.deepem.training.batches import BoxBatches
from deepem_scipion.deepem.training.boxes import Boxes
from deepem_scipion.deepem.training.fit import TRAINING_PRESETS, fit

pytestmark = pytest.mark.slow

GEOMETRY = Geometry(24, (5, 5, 2), (2, 2, 2), (3, 4, 4))


def blob_windows(n, seed=0):
    """Half of the windows show a dark blob."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((24, 24)) - 11.5
    images = rng.normal(size=(n, 24, 24)).astype(np.float32)
    images[::2] -= 3 * (np.hypot(x, y) < 8)
    targets = np.zeros(n, np.float32)
    targets[::2] = 1
    places = np.column_stack([np.arange(n), np.zeros((n, 2), int)])
    return Boxes(list(images), 24, places, targets)


def quick(**changes):
    """A recipe for single windows that is done in seconds."""
    return dataclasses.replace(TRAINING_PRESETS["default"], **{"patch": 0, "batch": 32, "epochs": 12, "rate": 0.01, **changes})


def run(windows, validation=None, training_preset=None, **more):
    training_preset = training_preset or quick()
    examples = [BoxBatches(part, training_preset.batch) if part else None for part in (windows, validation)]
    return fit(*examples, GEOMETRY, training_preset, **more)


def test_network_learns_to_tell_blobs_from_noise():
    found = run(blob_windows(80), blob_windows(40, seed=1), seed=1)
    assert found.history[found.best_epoch - 1]["validation_accuracy"] > 0.95


def test_epoch_with_the_best_average_precision_on_validation_is_kept(monkeypatch):
    found_precisions = iter([0.5, 0.8, 0.6, 0.7])

    def assess(network, sample, training_preset):
        precision = next(found_precisions) if len(sample[0][0]) == 8 else 0.0
        return {"loss": 0.1, "relative_loss": 0.1, "accuracy": 0.9, "average_precision": precision}

    monkeypatch.setattr(training, "assess", assess)
    snapshots = []
    get_weights = training.get_weights
    monkeypatch.setattr(training, "get_weights", lambda *a: snapshots.append(get_weights(*a)) or snapshots[-1])
    found = run(blob_windows(16), blob_windows(8), epochs=4)
    assert found.best_epoch == 2
    assert found.weights is snapshots[2]  # the start, epoch 1, epoch 2
    assert [record["validation_average_precision"] for record in found.history] == [0.5, 0.8, 0.6, 0.7]


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    one, again, other = (run(blob_windows(40), seed=seed).weights
                         for seed in (1, 1, 2))
    for name, value in one.items():
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(one["conv1.kernel"], other["conv1.kernel"])


def test_run_on_the_plateau_is_begun_again_with_another_seed_and_says_so(monkeypatch, caplog):
    attempts = []

    def assess(network, sample, training_preset):
        return {"loss": 0.1, "relative_loss": 0.999 if attempts[-1] < 9 else 0.9, "accuracy": 0.5,
                "average_precision": 0.5}

    build = training.build_network
    monkeypatch.setattr(training, "build_network", lambda geometry, seed, **how: attempts.append(seed)
                        or build(geometry, seed, **how))
    monkeypatch.setattr(training, "assess", assess)
    found = run(blob_windows(16), epochs=2, seed=7)
    assert attempts == [7, 8, 9]
    assert found.seed == 9
    assert caplog.text.count("still on the plateau") == 2
    assert "starting again with seed 8" in caplog.text


def test_network_that_has_once_left_the_plateau_is_not_begun_again(monkeypatch):
    losses = iter([0.8, 0.999])
    monkeypatch.setattr(training, "assess", lambda *_: {"loss": 0.1, "relative_loss": next(losses), "accuracy": 0.5,
                                                        "average_precision": 0.5})
    assert run(blob_windows(16), epochs=2, seed=7).seed == 7


def test_network_that_cannot_learn_ends_with_an_error_that_tells_what_to_do():
    with pytest.raises(DeepEMError, match="did not leave the plateau.*Check coordinates"):
        run(blob_windows(16), training_preset=quick(rate=1e-9, wide_start=False, normalised=False), epochs=1)


@pytest.mark.parametrize("target, missing", [(0, "particles"), (1, "non-particles")])
def test_training_without_particles_or_without_others_is_refused(target, missing):
    windows = blob_windows(16)
    windows.targets[:] = target
    with pytest.raises(DeepEMError, match=f"no windows of {missing}"):
        run(windows)


def test_training_goes_on_from_given_weights():
    start = run(blob_windows(80), seed=1)
    further = run(blob_windows(80), training_preset=quick(later_rate=1e-6), epochs=1, seed=5, start=start.weights)
    np.testing.assert_allclose(further.weights["conv1.kernel"], start.weights["conv1.kernel"], atol=1e-3)


def test_losses_leave_out_what_is_unknown():
    targets = np.array([[1.0, -1.0], [0.0, -1.0]], np.float32)
    scores = np.array([[0.5, 0.9], [0.25, 0.1]], np.float32)
    assert float(training.half_mean_squared_error(targets, scores)) == pytest.approx((0.25 + 0.0625) / 4)
    assert float(training.crossentropy(targets, scores)) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
    assert float(training.crossentropy(np.full((2, 2), -1.0, np.float32), scores)) == 0


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_crossentropy_of_a_certain_score_is_finite(score):
    targets = np.array([0.0, 1.0], np.float32)
    assert np.isfinite(float(training.crossentropy(targets, np.full(2, score, np.float32))))


def test_accuracy_is_balanced_and_the_best_constant_answer_has_a_relative_loss_of_one():
    windows = blob_windows(20)
    windows.targets[:] = 0
    windows.targets[0] = 1
    network = build_network(GEOMETRY, fully_convolutional=True)
    kernel = np.zeros(network.get_layer("dense").kernel.shape)
    for training_preset in (TRAINING_PRESETS["paper"], TRAINING_PRESETS["default"]):
        network.get_layer("dense").set_weights([kernel, np.log([1 / 19])])
        found = training.assess(network, BoxBatches(windows, 8).sample(), training_preset)
        assert found["accuracy"] == 0.5
        assert found["relative_loss"] == pytest.approx(1, abs=1e-5)


def test_training_that_goes_on_from_weights_takes_smaller_steps():
    start = run(blob_windows(40), epochs=4).weights
    moved = [np.abs(run(blob_windows(40), training_preset=quick(later_rate=rate), epochs=1, start=start).weights["conv1.kernel"]
                    - start["conv1.kernel"]).max() for rate in (1e-4, 1e-2)]
    assert 0 < moved[0] < moved[1] / 10
