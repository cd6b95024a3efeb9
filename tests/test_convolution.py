# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiled weighted sums, and the convolution by Fourier transforms, equal sums in double precision."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem.network import kernels
from deepem_scipion.deepem.network.convolution import FOURIER_COST, TILES, FourierConvolution, fastest_tile, products
from deepem_scipion.deepem.network.kernels import Memory, WeightedSums
from deepem_scipion.deepem.network.stage import positions


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def room(values):
    """The same maps in memory made for the compiled function."""
    maps = Memory().maps("", *values.shape)
    maps[:, :, :values.shape[2]] = values
    return maps


def plain(image, kernel, bias):
    """The sum of products of an image (channels, rows, cols), in double precision."""
    boxes = np.lib.stride_tricks.sliding_window_view(image.astype(float), kernel.shape[:2], (1, 2))
    return np.einsum("cijyx,yxcm->mij", boxes, kernel) + np.asarray(bias, float)[:, None, None]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.sampled_from([1, 2, 3, 4, 5, 20]), st.booleans(), st.integers(1, 4), st.integers(1, 3),
       st.integers(1, 30), st.integers(0, 99))
def test_weighted_sums_are_those_of_double_precision(maps, stride, activated, side, channels, columns, seed):
    rng = np.random.default_rng(seed)
    rows = 3
    image = rng.normal(size=(channels, side + (rows - 1) * stride, side + (columns - 1) * stride)).astype(np.float32)
    kernel, bias = rng.normal(size=(side, side, channels, maps)), rng.normal(size=maps)
    source, target = room(image), Memory().maps("", maps, rows, columns)
    WeightedSums(kernel.reshape(-1, maps), bias, stride, activated)(
        target[None], source[:1], positions(source, side, 1), columns, stride)
    expected = plain(image, kernel, bias)[:, ::stride, ::stride]
    np.testing.assert_allclose(target[:, :, :columns], sigmoid(expected) if activated else expected, atol=2e-5)


@pytest.mark.parametrize("lanes, accumulators", [(4, 12), (4, 24), (8, 12), (16, 24)])
def test_sums_do_not_depend_on_the_width_of_vectors(lanes, accumulators):
    rng = np.random.default_rng(0)
    image, kernel, bias = rng.normal(size=(2, 9, 50)), rng.normal(size=(3, 3, 2, 6)), rng.normal(size=6)
    source, target = room(image), Memory().maps("", 6, 7, 48)
    with mock.patch.object(kernels, "vector_registers", lambda: (lanes, accumulators)):
        WeightedSums(kernel.reshape(-1, 6), bias)(target[None], source[:1], positions(source, 3, 1), 48)
    np.testing.assert_allclose(target[:, :, :48], plain(image, kernel, bias), atol=2e-5)


def test_sources_may_have_their_own_weights_and_bias():
    rng = np.random.default_rng(1)
    pixels, weights, bias = rng.normal(size=(5, 1, 40)), rng.normal(size=(5, 3, 2)), rng.normal(size=(5, 2))
    target = Memory().maps("", 10, 1, 38)
    WeightedSums(weights, bias)(target.reshape(5, 2, 1, -1), room(pixels), np.arange(3), 38)
    parts = np.lib.stride_tricks.sliding_window_view(pixels[:, 0], 3, 1)
    expected = np.einsum("nct,ntm->nmc", parts, weights) + bias[..., None]
    np.testing.assert_allclose(target[:, 0, :38].reshape(5, 2, 38), expected, atol=1e-5)


def test_sigmoid_is_exact_to_single_precision_from_0_to_1():
    x = np.concatenate([np.linspace(-100, 100, 20_001), [0, -1e30, 1e30, 1e-30]]).astype(np.float32)
    target = Memory().maps("", 1, 1, len(x))
    WeightedSums(np.ones((1, 1)), np.zeros(1), sigmoid=True)(target[None], room(x[None, None]), np.zeros(1, np.int64),
                                                            len(x))
    found = target[0, 0, :len(x)]
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, sigmoid(x.astype(float)), atol=2e-7)
    assert found.min() >= 0 and found.max() <= 1 and found[20_001] == 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 40),
       st.integers(1, 300), st.integers(0, 30), st.sampled_from([128, 512]), st.integers(0, 99))
def test_convolution_by_fourier_transforms_is_the_sum_of_products(side, channels, maps, spacing, rows, columns, more,
                                                                  chunk, seed):
    rng = np.random.default_rng(seed)
    margin = (side - 1) * spacing
    image = rng.normal(size=(channels, rows + margin, columns + margin)).astype(np.float32)
    kernel = rng.normal(size=(side, side, channels, maps)) / side
    bias = rng.normal(size=maps)
    spaced = np.zeros((margin + 1, margin + 1, channels, maps))
    spaced[::spacing, ::spacing] = kernel
    made = FourierConvolution(kernel, bias, spacing, side + more, Memory())
    target = Memory().maps("", maps, made.rows(rows), columns)
    with mock.patch("deepem_scipion.deepem.network.convolution.COLUMNS", chunk):
        made(target, room(image), rows, columns)
    np.testing.assert_allclose(target[:, :rows, :columns], sigmoid(plain(image, spaced, bias)), atol=5e-6)


def test_convolution_by_fourier_transforms_is_exact_enough_for_the_largest_kernel_of_the_paper():
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(1, 60, 160)), rng.normal(size=(51, 51, 1, 3)) / 51
    made = FourierConvolution(kernel, np.zeros(3), 1, 130, Memory())
    target = Memory().maps("", 3, made.rows(10), 110)
    made(target, room(image), 10, 110)
    np.testing.assert_allclose(target[:, :10, :110], sigmoid(plain(image, kernel, np.zeros(3))), atol=1e-6)


def test_large_kernels_are_convolved_by_fourier_transforms_and_small_ones_directly():
    assert fastest_tile((51, 51, 1, 24), 1, 128) in TILES
    assert fastest_tile((10, 10, 6, 12), 3, 130) in TILES
    assert fastest_tile((9, 9, 1, 24), 1, 128) is None
    assert fastest_tile((5, 5, 6, 12), 1, 64) is None


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 4000), st.integers(1, 24), st.integers(1, 48))
def test_fastest_tile_holds_the_kernel_and_needs_the_fewest_products(side, spacing, rows, channels, maps):
    kernel = (side, side, channels, maps)
    tile = fastest_tile(kernel, spacing, rows)
    allowed = [number for number in TILES if number >= side]
    assert tile is None or tile in allowed
    costs = [math.prod(kernel) / FOURIER_COST, *(products(kernel, spacing, rows, number) for number in allowed)]
    assert (costs[0] if tile is None else products(kernel, spacing, rows, tile)) == min(costs)


def test_memory_is_used_again_by_the_same_thread():
    memory = Memory()
    first = memory.maps("a", 3, 5, 70)
    assert np.shares_memory(first, memory.maps("a", 2, 5, 60))
    assert not np.shares_memory(first, memory.maps("b", 3, 5, 7))
    assert first.shape[2] >= 128 and first.shape[:2] == (3, 5)
