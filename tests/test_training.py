# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fitting the network."""

import dataclasses

import numpy as np
import pytest

from deepem_scipion.deepem import training
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network import Geometry
from deepem_scipion.deepem.training import RECIPES, fit
from deepem_scipion.deepem.windows import Windows

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
    return Windows(list(images), 24, places, targets)


def quick(**changes):
    return dataclasses.replace(RECIPES["default"], **{"least_updates": 60, "batch": 32, **changes})


def test_network_learns_to_tell_blobs_from_noise():
    found = fit(blob_windows(80), blob_windows(40, seed=1), GEOMETRY, quick(rate=0.01), 16, seed=1)
    assert found.history[found.best_epoch - 1]["validation_accuracy"] > 0.95


def test_epoch_with_the_least_validation_loss_is_kept(monkeypatch):
    losses = iter([0.5, 0.2, 0.4, 0.3])
    monkeypatch.setattr(training, "assess", lambda network, windows, recipe: (
        {"loss": next(losses), "accuracy": 0.9} if len(windows) == 8 else {"loss": 0.0, "accuracy": 0.9}))
    snapshots = []
    get_weights = training.get_weights
    monkeypatch.setattr(training, "get_weights", lambda *a: snapshots.append(get_weights(*a)) or snapshots[-1])
    found = fit(blob_windows(16), blob_windows(8), GEOMETRY, quick(), 16, epochs=4)
    assert found.best_epoch == 2
    assert found.weights is snapshots[2]  # the start, epoch 1, epoch 2
    assert [record["validation_loss"] for record in found.history] == [0.5, 0.2, 0.4, 0.3]


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    one, again, other = (fit(blob_windows(40), None, GEOMETRY, quick(rate=0.01), 16, seed=seed).weights
                         for seed in (1, 1, 2))
    for name, value in one.items():
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(one["conv1.kernel"], other["conv1.kernel"])


def test_run_on_the_plateau_is_begun_again_with_another_seed_and_says_so(monkeypatch, caplog):
    attempts = []

    def assess(network, windows, recipe):
        return {"loss": 0.1, "accuracy": 0.5 if attempts[-1] < 9 else 0.9}

    build = training.build_network
    monkeypatch.setattr(training, "build_network", lambda *given: attempts.append(given[1]) or build(*given))
    monkeypatch.setattr(training, "assess", assess)
    found = fit(blob_windows(16), None, GEOMETRY, quick(), 16, epochs=2, seed=7)
    assert attempts == [7, 8, 9]
    assert found.seed == 9
    assert caplog.text.count("still on the plateau") == 2
    assert "starting again with seed 8" in caplog.text


def test_network_that_cannot_learn_ends_with_an_error_that_tells_what_to_do():
    with pytest.raises(DeepEMError, match="did not leave the plateau.*Check coordinates"):
        fit(blob_windows(16), None, GEOMETRY, quick(rate=1e-9), 16, epochs=1)


@pytest.mark.parametrize("target, missing", [(0, "particles"), (1, "non-particles")])
def test_training_without_particles_or_without_others_is_refused(target, missing):
    windows = blob_windows(16)
    windows.targets[:] = target
    with pytest.raises(DeepEMError, match=f"no windows of {missing}"):
        fit(windows, None, GEOMETRY, quick(), 16)


def test_training_goes_on_from_given_weights():
    start = fit(blob_windows(80), None, GEOMETRY, quick(rate=0.01), 16, seed=1)
    further = fit(blob_windows(80), None, GEOMETRY, quick(rate=1e-6), 16, epochs=1, seed=5, start=start.weights)
    np.testing.assert_allclose(further.weights["conv1.kernel"], start.weights["conv1.kernel"], atol=1e-3)


def test_few_windows_get_more_epochs():
    assert RECIPES["paper"].epochs_for(10) == RECIPES["paper"].epochs_for(10**6) == 20
    recipe = quick(epochs=5, least_updates=100, batch=8)
    assert recipe.epochs_for(2) == 100
    assert recipe.epochs_for(10**6) == 5


def test_accuracy_is_balanced_between_particles_and_others():
    from deepem_scipion.deepem.network import build_network

    windows = blob_windows(20)
    windows.targets[:] = 0
    windows.targets[0] = 1
    network = build_network(GEOMETRY)
    network.get_layer("dense").set_weights([np.zeros(network.get_layer("dense").weights[0].shape), np.array([-5.0])])
    assert training.assess(network, windows, RECIPES["paper"])["accuracy"] == 0.5
