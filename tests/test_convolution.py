# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Direct convolution and convolution by Fourier transforms equal the sum of products."""

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

from deepem_scipion.deepem.network import convolution
from deepem_scipion.deepem.network.convolution import (
    TILES,
    Convolution,
    columns_together,
    direct,
    direct_ns,
    fastest_tile,
    fourier_ns,
)


def plain(image, kernel, bias):
    """The sum of products, in double precision."""
    boxes = np.lib.stride_tricks.sliding_window_view(image.astype(float), kernel.shape[:2], (0, 1))
    return np.einsum("ijcyx,yxcm->ijm", boxes, kernel) + bias


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=5e-6 * max(1, np.abs(expected).max()))


def as_view(kind, image):
    """View with the same values whose memory is not contiguous."""
    rows, cols, channels = image.shape
    if kind == "rotated":
        return np.ascontiguousarray(np.rot90(image)).transpose(1, 0, 2)[:, ::-1]
    larger = np.full((rows + 3, 2 * cols, channels + 2), np.nan, np.float32)
    larger[2:-1, ::2, 1:-1] = image
    return larger[2:-1, ::2, 1:-1]


@st.composite
def cases(draw):
    """Image, kernel and bias of random sizes."""
    side, channels, maps = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    image = rng.normal(size=(side + draw(st.integers(0, 30)), side + draw(st.integers(0, 30)), channels))
    return [array.astype(np.float32)
            for array in (image, rng.normal(size=(side, side, channels, maps)), 10 * rng.normal(size=maps))]


@given(cases(), st.tuples(st.integers(0, 50), st.integers(0, 50)), st.sampled_from([1, 20_000, 4 * 2**20]))
def test_convolution_by_fourier_transforms_is_the_sum_of_products(case, more, cache_bytes):
    image, kernel, bias = case
    made = Convolution(kernel, bias)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "CACHE_BYTES", cache_bytes)
        for tile in (len(kernel) + number for number in more):
            found = made.by_fourier(image, tile)
            assert found.dtype == np.float32
            close(found, plain(image, kernel, bias)[np.newaxis])


@pytest.mark.parametrize("kind", ["rotated", "part"])
@given(cases(), st.integers(0, 20))
def test_convolution_by_fourier_transforms_accepts_views_of_any_memory_layout(kind, case, more):
    image, kernel, bias = case
    view = as_view(kind, image)
    np.testing.assert_array_equal(view, image)
    close(Convolution(kernel, bias).by_fourier(view, len(kernel) + more), plain(image, kernel, bias)[np.newaxis])


def test_convolution_by_fourier_transforms_is_exact_enough_for_the_largest_kernel_of_the_paper():
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(300, 333)).astype(np.float32), rng.normal(size=(51, 51)).astype(np.float32)
    found = Convolution(kernel[..., np.newaxis, np.newaxis], np.zeros(1)).by_fourier(image[..., np.newaxis], 128)
    close(found[0, ..., 0], scipy.signal.correlate(image.astype(float), kernel, "valid", "direct"))


# One column if more do not fill a vector better, or the kernel is too small for the number needed.
@pytest.mark.parametrize("side, maps, columns", [
    (9, 16, 1), (9, 48, 1), (9, 3, 1), (9, 6, 1), (9, 8, 2), (9, 24, 2), (9, 4, 4), (9, 12, 4), (4, 8, 2), (3, 8, 1),
    (8, 4, 4), (7, 4, 1), (1, 8, 1)])
def test_columns_are_computed_together_if_they_fill_vectors_and_the_kernel_is_large_enough(side, maps, columns):
    assert columns_together(side, maps) == columns
    made = Convolution(np.zeros((side, side, 2, maps)), np.zeros(maps))
    assert made.columns == columns
    assert made.shifted_kernels.shape == (side, side + columns - 1, 2, columns * maps)


@pytest.mark.parametrize("maps, columns", [(16, 1), (3, 1), (8, 2), (24, 2), (4, 4), (12, 4)])
@given(st.integers(8, 11), st.integers(1, 3), st.integers(0, 9), st.integers(1, 4))
def test_direct_convolution_is_the_sum_of_products(maps, columns, side, channels, more_rows, strips):
    rng = np.random.default_rng(side + 100 * more_rows)
    image = rng.normal(size=(side + more_rows, side - 1 + strips * columns, channels)).astype(np.float32)
    kernel = rng.normal(size=(side, side, channels, maps)).astype(np.float32)
    made = Convolution(kernel, rng.normal(size=maps))
    assert made.columns == columns
    found = np.asarray(direct(image[np.newaxis], made.shifted_kernels, made.bias, made.columns))
    close(found, plain(image, kernel, made.bias)[np.newaxis])


def test_largest_kernels_of_the_paper_are_convolved_by_fourier_transforms():
    assert fastest_tile((2048, 2048, 1), (51, 51, 1, 24)) in TILES


@pytest.mark.parametrize("shape, kernel", [
    ((2048, 2048, 1), (4, 4, 1, 24)), ((600, 600, 6), (3, 3, 6, 12)), ((2048, 2048, 1), (1, 1, 1, 1))])
def test_small_kernels_are_convolved_directly(shape, kernel):
    assert fastest_tile(shape, kernel) is None


def test_kernels_larger_than_all_tiles_are_convolved_directly():
    side = max(TILES) + 1
    assert fastest_tile((4096, 4096, 1), (side, side, 1, 24)) is None


@given(st.integers(1, 520), st.integers(0, 4000), st.integers(0, 4000), st.integers(1, 24), st.integers(1, 48))
def test_fastest_tile_is_at_least_as_large_as_the_kernel_and_has_the_lowest_estimate(side, rows, cols, channels, maps):
    shape, kernel = (side + rows, side + cols, channels), (side, side, channels, maps)
    tile = fastest_tile(shape, kernel)
    allowed = [number for number in TILES if number >= side]
    assert tile is None or tile in allowed
    costs = [direct_ns(shape, kernel), *(fourier_ns(shape, kernel, number) for number in allowed)]
    assert (costs[0] if tile is None else fourier_ns(shape, kernel, tile)) == min(costs)


@given(st.integers(1, 100), st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 12), st.integers(1, 24),
       st.sampled_from([128, 512]))
def test_estimated_times_grow_with_the_area(side, rows, cols, channels, maps, tile):
    shape, kernel = (side + rows, side + cols, channels), (side, side, channels, maps)
    further = tile - side + 1  # one more row of tiles
    for larger in ((shape[0] + further, *shape[1:]), (shape[0], shape[1] + further, channels)):
        assert direct_ns(larger, kernel) > direct_ns(shape, kernel) > 0
        assert fourier_ns(larger, kernel, tile) > fourier_ns(shape, kernel, tile) > 0
