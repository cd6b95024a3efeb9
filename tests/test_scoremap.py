# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast scan gives the numbers of the plain one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem import scoremap
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network import PRESETS, Geometry


def random_weights(geometry, seed=0):
    """Weights large enough that scores spread over 0 to 1, so that every layer matters."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in geometry.weight_shapes().items():
        values = rng.normal(size=shape)
        if name.endswith("kernel"):
            values -= values.mean(axis=tuple(range(len(shape) - 1))) if values[..., 0].size > 1 else 0
            values *= {"conv1": 4, "dense": 10}.get(name.split(".")[0], 20) / np.sqrt(values[..., 0].size)
        weights[name] = (values * (name != "dense.bias")).astype(np.float32)
    return weights


@st.composite
def geometries(draw):
    """Any geometry that fits: built from the last layer backwards."""
    pools = draw(st.tuples(*[st.integers(1, 4)] * 3))
    kernels = draw(st.tuples(*[st.integers(1, 5)] * 3))
    side = draw(st.integers(1, 3))
    for kernel, pool in reversed(list(zip(kernels, pools))):
        side = side * pool + kernel - 1
    return Geometry(side, kernels, pools, draw(st.tuples(*[st.integers(1, 3)] * 3)))


@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(1, 30), st.integers(0, 25), st.integers(0, 25), st.sampled_from([1, 4]),
       st.integers(0, 9))
def test_fast_scan_agrees_with_the_window_by_window_scan(geometry, step, extra_rows, extra_cols, rotations, seed):
    shape = (geometry.box + extra_rows, geometry.box + extra_cols)
    pixels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    weights = random_weights(geometry, seed)
    fast = scoremap.Scanner(geometry, weights, step, rotations).scan(pixels)
    plain = scoremap.score_map_by_windows(pixels, geometry, weights, step, rotations)
    assert fast.shape == plain.shape
    np.testing.assert_allclose(fast, plain, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_fast_scan_agrees_for_the_presets_of_the_paper(name):
    geometry = PRESETS[name]
    pixels = np.random.default_rng(1).normal(size=(geometry.box + 45, geometry.box + 61)).astype(np.float32)
    weights = random_weights(geometry)
    fast = scoremap.Scanner(geometry, weights, 20).scan(pixels)
    plain = scoremap.score_map_by_windows(pixels, geometry, weights, 20)
    assert fast.shape == (3, 4)
    assert plain.std() > 1e-3
    np.testing.assert_allclose(fast, plain, atol=1e-5)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_scan_in_bands_gives_the_same_numbers(monkeypatch, step):
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2))
    pixels = np.random.default_rng(2).normal(size=(90, 57)).astype(np.float32)
    weights = random_weights(geometry)
    whole = scoremap.Scanner(geometry, weights, step).scan(pixels)
    monkeypatch.setattr(scoremap, "BAND_BYTES", 30 * 57 * 4 * 12)
    banded = scoremap.Scanner(geometry, weights, step).scan(pixels)
    np.testing.assert_allclose(banded, whole, atol=1e-6)


def test_scores_do_not_change_when_the_micrograph_is_turned():
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2))
    pixels = np.random.default_rng(3).normal(size=(48, 72)).astype(np.float32)
    scanner = scoremap.Scanner(geometry, random_weights(geometry), 4)
    turned = scanner.scan(np.rot90(pixels).copy())
    np.testing.assert_allclose(turned, np.rot90(scanner.scan(pixels)), atol=1e-6)


def test_one_rotation_is_the_plain_output_of_the_network():
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2))
    pixels = np.random.default_rng(3).normal(size=(30, 40)).astype(np.float32)
    weights = random_weights(geometry)
    one = scoremap.Scanner(geometry, weights, 1, 1).scan(pixels)
    four = scoremap.Scanner(geometry, weights, 1, 4).scan(pixels)
    assert np.abs(one - four).max() > 1e-3


def test_micrograph_smaller_than_the_box_is_refused():
    with pytest.raises(DeepEMError, match="smaller than the model's box"):
        scoremap.scan_shape((30, 50), 40, 4)


def test_scan_step_of_zero_is_refused():
    with pytest.raises(DeepEMError, match="scan step"):
        scoremap.scan_shape((50, 50), 40, 0)


def test_wrong_number_of_rotations_is_refused():
    geometry = PRESETS["19s"]
    with pytest.raises(DeepEMError, match="rotations"):
        scoremap.Scanner(geometry, random_weights(geometry), 20, 3)
