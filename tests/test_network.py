# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of the network's layers, the network and its weights."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network.architecture import build_network, get_weights, scale_initial_weights, set_weights
from deepem_scipion.deepem.network.geometry import (
    AUTO_DIAMETER_PX,
    MIN_BOX_PX,
    PRESETS,
    Geometry,
    auto_binning,
    auto_geometry,
    layer_sizes,
    nearest_geometry,
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


def test_every_layer_has_sigmoids_and_mean_pooling():
    network = build_network(Geometry(40, (9, 5, 3), (2, 2, 2)))
    activations = [layer.activation.__name__ for layer in network.layers if hasattr(layer, "activation")]
    assert activations == ["sigmoid"] * 4
    assert [type(layer).__name__ for layer in network.layers if "pool" in layer.name] == ["AveragePooling2D"] * 3


def test_geometry_that_does_not_fit_is_rejected_with_the_nearest_sizes_that_fit():
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
def test_sizes_that_are_not_positive_integers_are_rejected(values):
    with pytest.raises(DeepEMError, match="expected"):
        Geometry(**{"box": 40, "kernels": (9, 5, 3), "pools": (2, 2, 2), **values})


@given(st.floats(8, 80))
def test_auto_geometry_has_a_box_of_about_one_and_a_half_diameters_for_any_diameter(diameter_px):
    geometry = auto_geometry(diameter_px)
    assert 0.85 <= geometry.box / (1.5 * diameter_px) <= 1.15
    assert geometry.layer_sizes[-1] >= 1
    assert geometry.kernels[0] >= geometry.kernels[1] >= geometry.kernels[2]


@pytest.mark.parametrize("diameter_px", [7.9, 0, -3, float("nan")])
def test_auto_geometry_rejects_particles_that_are_too_small(diameter_px):
    with pytest.raises(DeepEMError, match="at least 8"):
        auto_geometry(diameter_px)


# From an exhaustive search.
@pytest.mark.parametrize("diameter_px, box, kernels", [
    (8, 12, (3, 2, 1)), (12.5, 17, (4, 2, 2)), (16, 27, (4, 3, 2)), (27, 40, (9, 5, 3)), (40, 60, (13, 7, 4)),
    (63.7, 94, (21, 12, 6)), (120, 179, (40, 21, 12)), (200, 301, (66, 35, 19))])
def test_auto_geometry_has_known_sizes(diameter_px, box, kernels):
    assert auto_geometry(diameter_px) == Geometry(box, kernels, (2, 2, 2))


SHARES = st.tuples(st.floats(0.12, 0.35), st.floats(0.18, 0.5), st.floats(0.2, 0.7))


def input_sides(geometry):
    """Sides of the input maps of the three convolutions."""
    return geometry.box, geometry.layer_sizes[1], geometry.layer_sizes[3]


def cost(geometry, target, shares):
    """Sum of squared log ratios to the requested values."""
    ratios = np.array(geometry.kernels) / input_sides(geometry) / shares
    return 4 * np.log(geometry.box / target) ** 2 + (np.log(ratios) ** 2).sum()


@settings(max_examples=20, deadline=None)
@given(st.floats(8, 18), st.floats(1.2, 2.0), SHARES, st.sampled_from([(2, 2, 2), (3, 2, 2), (1, 1, 1), (2, 3, 1)]))
def test_nearest_geometry_is_at_least_as_near_as_any_other(diameter_px, box_share, shares, pools):
    found = nearest_geometry(diameter_px, box_share, shares, pools, (6, 12, 12))
    target = max(MIN_BOX_PX, box_share * diameter_px)
    assert found.pools == pools and abs(found.box - target) <= 0.1 * target + 1
    boxes = range(max(MIN_BOX_PX, int(0.9 * target)), int(np.ceil(1.1 * target)) + 1)
    all_that_fit = (Geometry(box, kernels, pools) for box in boxes for kernels in product(range(1, 13), repeat=3)
                    if layer_sizes(box, kernels, pools))
    # Kernels may be up to 1.8 times as large as requested.
    others = [other for other in all_that_fit
              if all(kernel <= np.ceil(1.8 * share * side)
                     for kernel, side, share in zip(other.kernels, input_sides(other), shares))]
    assert found in others or max(found.kernels) > 12
    assert cost(found, target, shares) <= min(cost(other, target, shares) for other in others) + 1e-9


@pytest.mark.parametrize("pools, message", [((30, 2, 2), "no box of about 12 px fits pools 30/2/2; give smaller ones"),
                                            ((0, 2, 2), "pools 0/2/2: expected whole numbers of at least 1")])
def test_pools_that_fit_no_box_are_rejected(pools, message):
    with pytest.raises(DeepEMError, match=message):
        nearest_geometry(8, 1.5, (0.22, 0.3, 0.45), pools, (6, 12, 12))


@given(st.floats(20, 2000), st.floats(0.3, 20))
def test_auto_binning_makes_the_diameter_about_the_automatic_one(diameter_angst, pixel_angst):
    factor = auto_binning(diameter_angst, pixel_angst)
    if factor > 1:
        assert 0.65 < diameter_angst / pixel_angst / factor / AUTO_DIAMETER_PX < 1.5


def test_weights_that_are_read_and_set_again_are_unchanged():
    geometry = Geometry(40, (9, 5, 3), (2, 2, 2))
    weights = get_weights(build_network(geometry, seed=1), geometry)
    assert {name: value.shape for name, value in weights.items()} == geometry.weight_shapes()
    other = build_network(geometry, seed=2)
    assert not np.array_equal(get_weights(other, geometry)["conv1.kernel"], weights["conv1.kernel"])
    set_weights(other, weights)
    for name, value in get_weights(other, geometry).items():
        np.testing.assert_array_equal(value, weights[name])


def test_initial_weights_are_glorot_uniform_and_depend_on_the_seed_only():
    geometry = Geometry(40, (9, 5, 3), (2, 2, 2))
    first, again = (get_weights(build_network(geometry, seed=5), geometry) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    limit = np.sqrt(6 / (81 * 1 + 81 * 6))
    assert 0.9 * limit < np.abs(first["conv1.kernel"]).max() <= limit
    assert not first["conv1.bias"].any()


def test_scaled_initial_weights_pass_on_the_contrast_of_the_input():
    geometry = Geometry(40, (9, 5, 3), (2, 2, 2))
    boxes = np.random.default_rng(0).normal(size=(200, 40, 40, 1)).astype(np.float32)
    plain, scaled = (build_network(geometry, seed=3) for _ in range(2))
    scale_initial_weights(scaled)
    spread = [float(np.asarray(network(boxes)).std()) for network in (plain, scaled)]
    assert spread[1] > 20 * spread[0]
    assert abs(np.asarray(scaled(boxes)).mean() - 0.5) < 0.3


def test_weights_of_a_batch_normalised_network_include_the_normalisation():
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2), (2, 3, 3))
    rng = np.random.default_rng(0)
    network = build_network(geometry, seed=1, fully_convolutional=True, batch_normalised=True)
    network.compile("sgd", "mse")
    batches = [rng.normal(2, 3, (8, 28, 28, 1)).astype(np.float32) for _ in range(40)]
    for batch in batches:
        network.train_on_batch(batch, np.ones((8, 1, 1, 1), np.float32))
    plain = build_network(geometry, seed=2)
    set_weights(plain, get_weights(network, geometry))
    scores = network.predict(batches[0], verbose=0)[:, 0, 0]
    assert len({layer.name for layer in network.layers if layer.name.startswith("norm")}) == 3
    np.testing.assert_allclose(plain.predict(batches[0], verbose=0), scores, atol=1e-5)
    initial = build_network(geometry, seed=1)
    assert np.abs(initial.predict(batches[0], verbose=0) - scores).max() > 0.01
