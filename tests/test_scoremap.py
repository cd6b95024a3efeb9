# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fast scan computes the scores of the box-by-box scan."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem import runtime
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network import convolution, kernels, scan, stage
from deepem_scipion.deepem.network.geometry import PRESETS, Geometry


def random_weights(geometry, seed=0):
    """Weights large enough for scores to range from 0 to 1, so that every layer matters."""
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
    """Any geometry that fits, built backwards from the last layer."""
    pools = draw(st.tuples(*[st.integers(1, 4)] * 3))
    kernels = draw(st.tuples(*[st.integers(1, 5)] * 3))
    side = draw(st.integers(1, 3))
    for kernel, pool in reversed(list(zip(kernels, pools))):
        side = side * pool + kernel - 1
    return Geometry(side, kernels, pools, draw(st.tuples(*[st.integers(1, 3)] * 3)))


@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(1, 30), st.integers(0, 25), st.integers(0, 25), st.sampled_from([1, 4]),
       st.integers(0, 9))
def test_fast_scan_agrees_with_the_box_by_box_scan(geometry, step, extra_rows, extra_cols, rotations, seed):
    shape = (geometry.box + extra_rows, geometry.box + extra_cols)
    pixels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    weights = random_weights(geometry, seed)
    fast = scan.Scanner(geometry, [weights], step, rotations).scan(pixels)
    plain = scan.score_map_box_by_box(pixels, geometry, [weights], step, rotations)
    assert fast.shape == plain.shape
    np.testing.assert_allclose(fast, plain, atol=1e-5)


@pytest.mark.parametrize("step", [3, 8])
def test_score_of_several_networks_is_the_mean_of_their_scores(step):
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2), (2, 3, 3))
    pixels = np.random.default_rng(0).normal(size=(60, 71)).astype(np.float32)
    networks = [random_weights(geometry, seed) for seed in range(3)]
    together = scan.Scanner(geometry, networks, step).scan(pixels)
    each = [scan.Scanner(geometry, [weights], step).scan(pixels) for weights in networks]
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(together, scan.score_map_box_by_box(pixels, geometry, networks, step), atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 1e-3


def divided(crop, boxes=1, band=1, block=1, tile=None):
    """Make strips, bands and blocks this small; with `tile`, use Fourier transforms for all convolutions."""
    crop.setattr(scan, "MIN_STRIP_BOXES", boxes)
    crop.setattr(scan, "BAND_ROWS", band)
    crop.setattr(stage, "CACHE_BYTES", block)
    if tile is not None:
        crop.setattr(convolution, "COLUMNS", 128)
        crop.setattr(stage, "FOURIER_BYTES", block)
        crop.setattr(stage, "fastest_tile", lambda kernel, spacing, rows: max(tile, kernel[0]))


@settings(max_examples=30, deadline=None)
@given(geometries(), st.integers(1, 30), st.integers(0, 25), st.integers(0, 25), st.sampled_from([1, 4]),
       st.integers(0, 9), st.integers(1, 40), st.sampled_from([1, 10_000]), st.sampled_from([None, 4, 10, 17]))
def test_scan_in_bands_and_blocks_agrees_with_the_box_by_box_scan_both_directly_and_by_fourier_transforms(
        geometry, step, extra_rows, extra_cols, rotations, seed, band, block, tile):
    shape = (geometry.box + extra_rows, geometry.box + extra_cols)
    pixels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    weights = random_weights(geometry, seed)
    with pytest.MonkeyPatch.context() as crop:
        divided(crop, 1, band, block, tile)
        fast = scan.Scanner(geometry, [weights], step, rotations).scan(pixels)
    plain = scan.score_map_box_by_box(pixels, geometry, [weights], step, rotations)
    np.testing.assert_allclose(fast, plain, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_fast_scan_agrees_for_the_presets_of_the_paper(name):
    geometry = PRESETS[name]
    pixels = np.random.default_rng(1).normal(size=(geometry.box + 45, geometry.box + 61)).astype(np.float32)
    weights = random_weights(geometry)
    fast = scan.Scanner(geometry, [weights], 20).scan(pixels)
    plain = scan.score_map_box_by_box(pixels, geometry, [weights], 20)
    assert fast.shape == (3, 4)
    assert plain.std() > 1e-3
    np.testing.assert_allclose(fast, plain, atol=1e-5)


@pytest.mark.parametrize("step", [1, 4, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_scores_do_not_depend_on_strips_and_bands(monkeypatch, step, threads):
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2))
    pixels = np.random.default_rng(2).normal(size=(130, 57)).astype(np.float32)
    scanner = scan.Scanner(geometry, [random_weights(geometry)], step)
    monkeypatch.setattr(scan, "MIN_STRIP_BOXES", 99)
    whole = scanner.scan(pixels)
    monkeypatch.setattr(runtime.state, "threads", threads)
    divided(monkeypatch, 1, 11)
    np.testing.assert_array_equal(scanner.scan(pixels), whole)


BLOBS = Geometry(28, (5, 3, 2), (2, 2, 2))
WITH_CLASSES = Geometry(29, (6, 3, 2), (3, 2, 2), (4, 3, 5))


def noise(rows, cols, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)


def scanner_for(geometry, step):
    return scan.Scanner(geometry, [random_weights(geometry)], step)


@pytest.mark.parametrize("geometry, step", [(BLOBS, 8), (BLOBS, 3), (WITH_CLASSES, 4)])
def test_scanner_used_for_images_of_different_sizes_gives_the_scores_of_new_scanners(geometry, step):
    images = [noise(80, 61, 1), noise(50, 90, 2), noise(90, 50, 3), noise(80, 61, 4)]
    one = scanner_for(geometry, step)
    found = [one.scan(image) for image in images]
    for scores, image in zip(found, images):
        np.testing.assert_array_equal(scores, scanner_for(geometry, step).scan(image))


def test_scanner_used_by_two_threads_gives_the_scores_of_one(monkeypatch):
    monkeypatch.setattr(runtime.state, "threads", 2)
    divided(monkeypatch)
    scanner = scanner_for(WITH_CLASSES, 5)
    cases = [[noise(70 + 3 * n, 90, n) for n in range(4)], [noise(60, 110 - 2 * n, n + 4) for n in range(4)]]
    alone = [[scanner.scan(image) for image in images] for images in cases]
    begin = threading.Barrier(2)

    def scan_images(images):
        begin.wait(600)
        return [scanner.scan(image) for image in images]

    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(scan_images, cases))
    for found, expected in zip(together, alone):
        for scores, scores_alone in zip(found, expected):
            np.testing.assert_array_equal(scores, scores_alone)


@pytest.mark.parametrize("failing", [0, 1, 7])
def test_error_in_one_strip_is_raised_after_all_have_ended_and_the_next_scan_is_correct(monkeypatch, failing):
    monkeypatch.setattr(runtime.state, "threads", 3)
    divided(monkeypatch, 1, 30)
    scanner, pixels = scanner_for(BLOBS, 4), noise(90, 120)
    apply = stage.Stage.__call__
    begun, ended = [], []

    def counted(self, *arguments):
        begun.append(number := len(begun))
        try:
            if number == failing:
                raise ValueError("this stage")
            time.sleep(0.02)  # others are still running when the error occurs
            return apply(self, *arguments)
        finally:
            ended.append(number)

    expected = scanner.scan(pixels)
    with monkeypatch.context() as crop:
        crop.setattr(stage.Stage, "__call__", counted)
        with pytest.raises(ValueError, match="this stage"):
            scanner.scan(noise(90, 120, seed=1))
        assert len(ended) == len(begun) > failing
    np.testing.assert_array_equal(scanner.scan(pixels), expected)


def test_memory_does_not_grow_with_the_height_of_the_micrograph(monkeypatch):
    monkeypatch.setattr(runtime.state, "threads", 1)
    sizes = []
    for rows in (400, 1200):
        runtime.pool.cache_clear()  # a thread without any memory
        scanner = scanner_for(BLOBS, 2)
        peak, wanted = [], kernels.Memory.maps

        def measured(self, *arguments, peak=peak, wanted=wanted):
            found = wanted(self, *arguments)
            peak.append(found.nbytes)
            return found

        with monkeypatch.context() as crop:
            crop.setattr(kernels.Memory, "maps", measured)
            scanner.scan(noise(rows, 100))
        sizes.append(max(peak))
    assert sizes[0] == sizes[1]


def test_scores_rotate_with_the_micrograph():
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2))
    pixels = np.random.default_rng(3).normal(size=(48, 72)).astype(np.float32)
    scanner = scan.Scanner(geometry, [random_weights(geometry)], 4)
    rotated = scanner.scan(np.rot90(pixels).copy())
    np.testing.assert_allclose(rotated, np.rot90(scanner.scan(pixels)), atol=1e-6)


def test_scores_without_rotation_differ_from_those_over_four_rotations():
    geometry = Geometry(28, (5, 3, 2), (2, 2, 2))
    pixels = np.random.default_rng(3).normal(size=(30, 40)).astype(np.float32)
    weights = random_weights(geometry)
    one = scan.Scanner(geometry, [weights], 1, 1).scan(pixels)
    four = scan.Scanner(geometry, [weights], 1, 4).scan(pixels)
    assert np.abs(one - four).max() > 1e-3


def test_micrograph_smaller_than_the_box_is_rejected():
    with pytest.raises(DeepEMError, match="smaller than the model's box"):
        scan.scan_shape((30, 50), 40, 4)


def test_scan_step_of_zero_is_rejected():
    with pytest.raises(DeepEMError, match="scan step"):
        scan.scan_shape((50, 50), 40, 0)


def test_wrong_number_of_rotations_is_rejected():
    geometry = PRESETS["19s"]
    with pytest.raises(DeepEMError, match="rotations"):
        scan.Scanner(geometry, [random_weights(geometry)], 20, 3)
