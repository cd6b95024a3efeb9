# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Geometry of the network and the network itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network.architecture import build_network, get_weights, set_weights, widen_start
from deepem_scipion.deepem.network.geometry import (
    AUTO_DIAMETER_PX,
    PRESETS,
    Geometry,
    auto_binning,
    auto_geometry,
    layer_sizes,
)

# Table 1 of the paper: C1, S2, C3, S4, C5, S6
TABLE_1 = {
    "klh": (222, 74, 54, 27, 18, 9),
    "19s": (141, 47, 38, 19, 16, 8),
    "26s": (120, 60, 46, 23, 14, 7),
    "inflammasome": (98, 49, 40, 20, 14, 7),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_presets_have_the_map_sizes_of_table_1(name):
    assert PRESETS[name].layer_sizes == TABLE_1[name]


@pytest.mark.parametrize("name", TABLE_1)
def test_layers_of_the_network_have_the_sizes_of_table_1_and_6_12_12_maps(name):
    network = build_network(PRESETS[name])
    found = [layer.output.shape[1:] for layer in network.layers[1:7]]
    maps = (6, 6, 12, 12, 12, 12)
    assert found == [(side, side, m) for side, m in zip(TABLE_1[name], maps)]
    assert network.output.shape == (None, 1)


def test_every_layer_is_sigmoid_and_pools_by_the_mean():
    network = build_network(Geometry(40, (9, 5, 3), (2, 2, 2)))
    activations = [layer.activation.__name__ for layer in network.layers if hasattr(layer, "activation")]
    assert activations == ["sigmoid"] * 4
    assert [type(layer).__name__ for layer in network.layers if "pool" in layer.name] == ["AveragePooling2D"] * 3


def test_geometry_that_does_not_fit_is_refused_with_the_nearest_that_fit():
    with pytest.raises(DeepEMError) as caught:
        Geometry(100, (10, 9, 8), (3, 2, 2))
    message = str(caught.value)
    assert "box 100" in message
    box = int(message.split("nearest box is ")[1].split(";")[0])
    kernels = tuple(int(k) for k in message.split("nearest kernels are ")[1].rstrip(".").split("/"))
    assert layer_sizes(box, (10, 9, 8), (3, 2, 2)) and abs(box - 100) <= 6
    assert layer_sizes(100, kernels, (3, 2, 2))


@pytest.mark.parametrize("values", [
    {"kernels": (9, 5)}, {"kernels": (9, 5, 0)}, {"pools": (2, 2, -2)}, {"maps": (6, 0, 12)}, {"box": 0},
    {"box": 40.5}])
def test_sizes_that_are_no_whole_positive_numbers_are_refused(values):
    with pytest.raises(DeepEMError, match="expected"):
        Geometry(**{"box": 40, "kernels": (9, 5, 3), "pools": (2, 2, 2), **values})


@given(st.floats(8, 80))
def test_auto_geometry_fits_any_diameter_with_a_box_of_about_one_and_a_half(diameter_px):
    geometry = auto_geometry(diameter_px)
    assert 0.85 <= geometry.box / (1.5 * diameter_px) <= 1.15
    assert geometry.layer_sizes[-1] >= 1
    assert geometry.kernels[0] >= geometry.kernels[1] >= geometry.kernels[2]


@pytest.mark.parametrize("diameter_px", [7.9, 0, -3, float("nan")])
def test_auto_geometry_refuses_particles_too_small_to_be_seen(diameter_px):
    with pytest.raises(DeepEMError, match="at least 8"):
        auto_geometry(diameter_px)


@given(st.floats(20, 2000), st.floats(0.3, 20))
def test_auto_binning_brings_the_diameter_near_the_one_that_suits(diameter_angst, pixel_angst):
    factor = auto_binning(diameter_angst, pixel_angst)
    if factor > 1:
        assert 0.65 < diameter_angst / pixel_angst / factor / AUTO_DIAMETER_PX < 1.5


def test_weights_go_out_and_in_unchanged():
    geometry = Geometry(40, (9, 5, 3), (2, 2, 2))
    weights = get_weights(build_network(geometry, seed=1), geometry)
    assert {name: value.shape for name, value in weights.items()} == geometry.weight_shapes()
    other = build_network(geometry, seed=2)
    assert not np.array_equal(get_weights(other, geometry)["conv1.kernel"], weights["conv1.kernel"])
    set_weights(other, weights)
    for name, value in get_weights(other, geometry).items():
        np.testing.assert_array_equal(value, weights[name])


def test_start_is_glorot_uniform_and_depends_on_the_seed_alone():
    geometry = Geometry(40, (9, 5, 3), (2, 2, 2))
    first, again = (get_weights(build_network(geometry, seed=5), geometry) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    limit = np.sqrt(6 / (81 * 1 + 81 * 6))
    assert 0.9 * limit < np.abs(first["conv1.kernel"]).max() <= limit
    assert not first["conv1.bias"].any()


def test_wide_start_hands_on_what_each_stage_sees():
    geometry = Geometry(40, (9, 5, 3), (2, 2, 2))
    windows = np.random.default_rng(0).normal(size=(200, 40, 40, 1)).astype(np.float32)
    plain, wide = (build_network(geometry, seed=3) for _ in range(2))
    widen_start(wide)
    spread = [float(np.asarray(network(windows)).std()) for network in (plain, wide)]
    assert spread[1] > 20 * spread[0]
    assert abs(np.asarray(wide(windows)).mean() - 0.5) < 0.3


def test_weights_of_a_normalised_network_hold_its_normalisation():
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2), (2, 3, 3))
    rng = np.random.default_rng(0)
    network = build_network(geometry, seed=1, whole=True, normalised=True)
    network.compile("sgd", "mse")
    batches = [rng.normal(2, 3, (8, 28, 28, 1)).astype(np.float32) for _ in range(40)]
    for batch in batches:
        network.train_on_batch(batch, np.ones((8, 1, 1, 1), np.float32))
    plain = build_network(geometry, seed=2)
    set_weights(plain, get_weights(network, geometry))
    scores = network.predict(batches[0], verbose=0)[:, 0, 0]
    assert len({layer.name for layer in network.layers if layer.name.startswith("norm")}) == 3
    np.testing.assert_allclose(plain.predict(batches[0], verbose=0), scores, atol=1e-5)
    unlike = build_network(geometry, seed=1)
    assert np.abs(unlike.predict(batches[0], verbose=0) - scores).max() > 0.01
