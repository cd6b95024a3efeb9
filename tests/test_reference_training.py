# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The training preset `paper` is the arithmetic of the toolbox on which DeepEM was written."""

import dataclasses

import numpy as np
import pytest

from deepem_scipion.deepem.network.architecture import build_network, get_weights, set_weights
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.training.losses import compile_network, half_mean_squared_error
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS

pytestmark = pytest.mark.slow

GEOMETRIES = {"box40_pools222": Geometry(40, (9, 5, 3), (2, 2, 2)),
              "box44_pools322": Geometry(44, (9, 5, 3), (3, 2, 2))}


def reference_weights(reference, when):
    """Weights of the reference under our names."""
    weights = {}
    for layer in ("conv1", "conv2", "conv3", "dense"):
        weights[f"{layer}.kernel"] = reference[f"{when}_{layer}_kernel"]
        weights[f"{layer}.bias"] = reference[f"{when}_{layer}_bias"].reshape(-1)
    weights["dense.kernel"] = weights["dense.kernel"].reshape(-1, 1)
    return weights


@pytest.mark.parametrize("name", GEOMETRIES)
def test_ten_updates_agree_with_the_toolbox_of_the_authors(name, shared_data):
    geometry, reference = GEOMETRIES[name], np.load(shared_data / "reference_training" / f"{name}.npz")
    network = build_network(geometry)
    set_weights(network, reference_weights(reference, "initial"))
    compile_network(network, TRAINING_PRESETS["paper"], 10)
    boxes = reference["windows"][..., np.newaxis].astype(np.float32)
    targets = reference["targets"][:, np.newaxis].astype(np.float32)
    np.testing.assert_allclose(np.asarray(network(boxes))[:, 0], reference["output_initial"], atol=1e-5)
    losses = [float(network.train_on_batch(boxes, targets)) for _ in range(10)]
    np.testing.assert_allclose(np.asarray(network(boxes))[:, 0], reference["output_final"], atol=1e-5)
    for key, value in reference_weights(reference, "final").items():
        np.testing.assert_allclose(get_weights(network, geometry)[key], value, atol=1e-5)
    np.testing.assert_allclose(losses, reference["loss"], atol=1e-5)


def test_one_update_goes_down_the_slope_found_by_finite_differences():
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2), (2, 3, 3))
    rng = np.random.default_rng(0)
    boxes = rng.normal(size=(6, 28, 28, 1)).astype(np.float32)
    targets = np.array([0, 1, 0, 1, 1, 0], np.float32)[:, np.newaxis]
    network = build_network(geometry, seed=1)
    before = get_weights(network, geometry)
    preset = dataclasses.replace(TRAINING_PRESETS["paper"], batch=6)
    compile_network(network, preset, 1)
    network.train_on_batch(boxes, targets)
    moved = {key: value - before[key] for key, value in get_weights(network, geometry).items()}

    def loss(weights):
        set_weights(network, weights)
        return float(half_mean_squared_error(targets, network(boxes)))

    for key, value in before.items():
        direction = np.random.default_rng(1).choice([-1, 1], value.shape).astype(np.float32)
        step = 1e-2
        slope = (loss({**before, key: value + step * direction}) - loss({**before, key: value - step * direction}))
        expected = -preset.rate * slope / (2 * step)
        assert (moved[key] * direction).sum() == pytest.approx(expected, rel=0.02, abs=2e-5), key
