# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs: reading, resampling, geometry, and every error that a file can have."""

import bz2
import gzip
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepem_scipion.deepem import micrographs as m
from deepem_scipion.deepem.errors import DeepEMError

SHARED = Path(os.environ.get("DEEPEM_SHARED", Path(__file__).parents[2] / "shared"))
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared data sets are not here")


def noise(rows=30, columns=50, seed=1):
    return np.random.default_rng(seed).normal(100, 10, (rows, columns)).astype(np.float32)


def write_mrc(path, pixels, pixel_size=2.0):
    pixels = np.asarray(pixels)
    finite = pixels.dtype.kind == "c" or np.isfinite(pixels).all()
    valid = pixels if finite else np.zeros_like(pixels)  # mrcfile would warn about its statistics
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(valid)
        mrc.data[...] = pixels
        mrc.voxel_size = pixel_size
    return path


def patched(path, offset, number, dtype="<i4"):
    """Overwrite a number of the header."""
    content = bytearray(path.read_bytes())
    content[offset:offset + np.dtype(dtype).itemsize] = np.array(number, dtype).tobytes()
    path.write_bytes(content)
    return path


def standardised(pixels):
    pixels = pixels.astype(np.float64)
    return (pixels - pixels.mean()) / pixels.std()


# ------------------------------------------------------------------ reading
@pytest.mark.parametrize("dtype, mode", [("i1", 0), ("i2", 1), ("f4", 2), ("u2", 6), ("f2", 12)])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_every_real_mrc_mode_is_read_with_rows_and_columns_in_place(tmp_path, dtype, mode, byte_order):
    pixels = (noise(7, 12) / 2).astype(dtype).astype(byte_order + dtype)
    path = write_mrc(tmp_path / "a.mrc", pixels)
    with mrcfile.open(path) as mrc:
        assert mrc.header.mode == mode
    read = m.read_micrograph(path)
    assert read.pixels.dtype == np.float32 and read.pixels.shape == read.input_shape == (7, 12)
    np.testing.assert_allclose(read.pixels, standardised(pixels), atol=1e-5)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4", "f8"])
@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.mrc"])
def test_tiff_is_recognised_by_content_and_read(tmp_path, dtype, name):
    pixels = noise(9, 5).astype(dtype)
    tifffile.imwrite(tmp_path / name, pixels, resolution=(300, 300))
    assert m.read_pixel_size(tmp_path / name) is None
    assert m.read_shape(tmp_path / name) == (9, 5)
    read = m.read_micrograph(tmp_path / name, pixel_size_angst=1.5)
    np.testing.assert_allclose(read.pixels, standardised(pixels)[::-1], atol=1e-5)


@pytest.mark.parametrize("module, ending", [(gzip, "gz"), (bz2, "bz2")])
def test_compressed_mrc_is_read_and_its_name_loses_the_last_extension_only(tmp_path, module, ending):
    plain = write_mrc(tmp_path / "a.mrc", noise(), 1.25)
    packed = tmp_path / f"a.mrc.{ending}"
    packed.write_bytes(module.compress(plain.read_bytes()))
    read = m.read_micrograph(packed)
    np.testing.assert_array_equal(read.pixels, m.read_micrograph(plain).pixels)
    assert read.name == "a.mrc" and read.pixel_size_angst == m.read_pixel_size(packed) == 1.25
    assert m.read_shape(packed) == (30, 50)


def test_a_stack_of_one_image_is_an_image(tmp_path):
    write_mrc(tmp_path / "a.mrcs", noise(6, 9)[None])
    tifffile.imwrite(tmp_path / "a.tif", noise(6, 9)[None])
    assert m.read_micrograph(tmp_path / "a.mrcs").pixels.shape == (6, 9)
    assert m.read_shape(tmp_path / "a.tif") == (6, 9)


def test_normalised_by_boxes_ice_looks_the_same_beside_carbon_dirt_gradients_and_padding(tmp_path):
    ice, spoilt = noise(200, 300), noise(200, 300)
    spoilt[:, 240:] *= 4
    spoilt[40:80, 20:60] -= 8 * ice.std()
    spoilt += np.linspace(0, 3 * ice.std(), 200)[:, np.newaxis]
    spoilt[180:] = spoilt.mean()
    clean, dirty = (m.read_micrograph(write_mrc(tmp_path / f"{name}.mrc", 5 * pixels + 7), box_px=20).pixels
                    for name, pixels in (("a", ice), ("b", spoilt)))
    assert clean.std() == pytest.approx(1, rel=0.02) and clean.mean() == pytest.approx(0, abs=0.02)
    box = slice(90, 110), slice(100, 120)
    assert dirty[box].std() == pytest.approx(clean[box].std(), rel=0.1)
    whole = m.read_micrograph(tmp_path / "b.mrc").pixels
    assert whole[box].std() < 0.6 * clean[box].std()


def test_an_mrc_file_without_map_and_machine_stamp_is_read(tmp_path):
    path = patched(patched(write_mrc(tmp_path / "a.mrc", noise()), 208, 0), 212, 0)
    np.testing.assert_allclose(m.read_micrograph(path).pixels, standardised(noise()), atol=1e-5)


def test_extended_headers_are_skipped(tmp_path):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(noise())
        mrc.set_extended_header(np.frombuffer(b"x" * 160, "V1"))
        mrc.voxel_size = 1
    np.testing.assert_allclose(m.read_micrograph(path).pixels, standardised(noise()), atol=1e-5)


def test_the_given_name_is_used_and_the_path_is_kept(tmp_path):
    path = write_mrc(tmp_path / "a.b.mrc", noise())
    assert m.read_micrograph(path).name == "a.b"
    assert m.read_micrograph(str(path), name="x").name == "x"
    assert m.read_micrograph(str(path)).path == path


# --------------------------------------------------------------- pixel size
def test_the_pixel_size_comes_from_the_header_unless_given(tmp_path):
    path = write_mrc(tmp_path / "a.mrc", noise(), 1.77)
    assert m.read_pixel_size(path) == pytest.approx(1.77)
    assert m.read_micrograph(path).pixel_size_angst == pytest.approx(1.77)
    given = m.read_micrograph(path, 6.0, pixel_size_angst=2.0)
    assert (given.scale, given.pixel_size_angst, given.pixels.shape) == (3.0, 6.0, (10, 16))


@pytest.mark.parametrize("sizes", [0.0, (-1, -1, 1), (np.nan, 1, 1)])
def test_an_absent_pixel_size_must_be_given(tmp_path, sizes):
    path = write_mrc(tmp_path / "a.mrc", noise(), sizes)
    assert m.read_pixel_size(path) is None
    with pytest.raises(DeepEMError, match=r"a\.mrc.*--pixel-size"):
        m.read_micrograph(path)
    assert m.read_micrograph(path, pixel_size_angst=1.0).pixel_size_angst == 1.0


def test_pixels_that_are_not_square_ask_for_the_pixel_size(tmp_path):
    path = write_mrc(tmp_path / "a.mrc", noise(), (2.0, 2.03, 1))
    with pytest.raises(DeepEMError, match=r"a\.mrc.*2 x 2\.03.*--pixel-size"):
        m.read_micrograph(path)
    assert m.read_micrograph(path, pixel_size_angst=2.0).scale == 1
    assert m.read_pixel_size(write_mrc(path, noise(), (2.0, 2.01, 1))) == 2.0


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_pixel_size_is_refused(tmp_path, value):
    path = write_mrc(tmp_path / "a.mrc", noise())
    for arguments in ({"pixel_size_angst": value}, {"working_pixel_size_angst": value}):
        with pytest.raises(DeepEMError, match="above 0"):
            m.read_micrograph(path, **arguments)


@pytest.mark.parametrize("working", [100.0, 1e-4])
def test_incompatible_pixel_sizes_are_refused(tmp_path, working):
    with pytest.raises(DeepEMError, match=r"a\.mrc.*30 x 50.*--pixel-size"):
        m.read_micrograph(write_mrc(tmp_path / "a.mrc", noise()), working)


# ------------------------------------------------------------------- errors
def _truncated(path):
    path.write_bytes(write_mrc(path, noise()).read_bytes()[:-1])


def _truncated_gzip(path):
    path.write_bytes(gzip.compress(write_mrc(path, noise()).read_bytes())[:-400])


def _short_gzip(path):
    path.write_bytes(gzip.compress(write_mrc(path, noise()).read_bytes()[:-1]))


def _truncated_tiff(path):
    tifffile.imwrite(path, noise())
    path.write_bytes(path.read_bytes()[:-10])


def _colour_tiff(path):
    tifffile.imwrite(path, np.zeros((8, 9, 3), np.uint8), photometric="rgb")


def _absurd_gzip(path):
    path.write_bytes(gzip.compress(patched(write_mrc(path, noise()), 92, 2**31 - 1).read_bytes()))


FAULTY = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (lambda path: path.mkdir(), "directory"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("x y w h\n" * 200), "MAP string"),
    "shorter than a header": (lambda path: path.write_bytes(b"\0" * 100), "cannot be read"),
    "truncated": (_truncated, "truncated: 7023 bytes found, 7024 expected"),
    "header only": (lambda path: path.write_bytes(write_mrc(path, noise()).read_bytes()[:1024]), "truncated"),
    "absurd width": (lambda path: patched(write_mrc(path, noise()), 0, 2**31 - 1), "header is damaged"),
    "large width": (lambda path: patched(write_mrc(path, noise()), 0, 10**7), "truncated"),
    "negative width": (lambda path: patched(write_mrc(path, noise()), 0, -5), "header is damaged"),
    "absurd extended header": (lambda path: patched(write_mrc(path, noise()), 92, 2**31 - 1), "extended"),
    "negative extended header": (lambda path: patched(write_mrc(path, noise()), 92, -9), "extended"),
    "absurd extended header in gzip": (_absurd_gzip, "extended"),
    "unknown mode": (lambda path: patched(write_mrc(path, noise()), 12, 77), "mode 77"),
    "complex": (lambda path: write_mrc(path, noise().astype(np.complex64)), "mode 4"),
    "stack": (lambda path: write_mrc(path, np.stack([noise()] * 3)), "3 images of 30 x 50"),
    "nan": (lambda path: write_mrc(path, np.where(noise() > 120, np.nan, noise())), "finite"),
    "infinite": (lambda path: write_mrc(path, np.where(noise() > 120, np.inf, noise())), "finite"),
    "both infinities": (lambda path: write_mrc(path, np.sign(noise() - 100) * np.float32(np.inf)), "finite"),
    "constant": (lambda path: write_mrc(path, np.full((8, 9), 5, "i2")), "constant: every pixel is 5"),
    "damaged gzip": (_truncated_gzip, "cannot be read"),
    "gzip of a truncated file": (_short_gzip, "truncated"),
    "truncated tiff": (_truncated_tiff, "truncated"),
    "broken tiff": (lambda path: path.write_bytes(b"II*\0" + b"\xff" * 40), "a.mrc"),
    "tiff of several pages": (lambda path: tifffile.imwrite(path, np.stack([noise()] * 2)), "2 images of"),
    "tiff with colours": (_colour_tiff, "colour"),
    "complex tiff": (lambda path: tifffile.imwrite(path, noise().astype(np.complex64)), "complex64"),
    "tiff beyond float32": (lambda path: tifffile.imwrite(path, noise().astype(float) * 1e300), "finite"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_file_is_an_error_that_names_it(tmp_path, fault, capfd):
    path = tmp_path / "a.mrc"
    make, words = FAULTY[fault]
    make(path)
    with pytest.raises(DeepEMError) as caught:
        m.read_micrograph(path, pixel_size_angst=1.0)
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_image_that_is_constant_after_resampling_is_an_error(tmp_path):
    chequers = (np.indices((4, 4)).sum(axis=0) % 2).astype(np.float32)
    with pytest.raises(DeepEMError, match="constant once resampled"):
        m.read_micrograph(write_mrc(tmp_path / "a.mrc", chequers, 1.0), 4.0)


# ----------------------------------------------------------------- outliers
def test_hot_pixels_and_dirt_do_not_affect_the_normalisation(tmp_path):
    clean = noise(240, 320)
    dirty = clean.copy()
    dirty[5, 7], dirty[100, 200], dirty[50:56, 60:70] = 1e9, -1e9, -1e6
    a = m.read_micrograph(write_mrc(tmp_path / "a.mrc", clean), 8.0).pixels
    b = m.read_micrograph(write_mrc(tmp_path / "b.mrc", dirty), 8.0).pixels
    elsewhere = np.ones(a.shape, bool)
    elsewhere[:18, :22] = elsewhere[22:29, 47:54] = False  # the filter reaches three pixels beyond the outliers
    np.testing.assert_allclose(b[elsewhere], a[elsewhere], atol=0.15)
    assert np.abs(b).max() < 8


def test_clipping_leaves_ordinary_noise_alone_and_limits_outliers():
    pixels = noise()
    kept = pixels.copy()
    m.clip_outliers(kept)
    np.testing.assert_array_equal(kept, pixels)
    pixels[3, 4] = 1e6
    m.clip_outliers(pixels)
    assert pixels[3, 4] == pixels.max() == pytest.approx(100 + 6 * 10, rel=0.05)


def test_an_image_of_few_dots_on_a_flat_background_keeps_them():
    pixels = np.zeros((20, 30), np.float32)
    pixels[4, 5] = pixels[12, 3] = 1
    m.clip_outliers(pixels)
    assert 0 < pixels[4, 5] <= 1 and pixels[0, 0] == 0


# ----------------------------------------------------------------- geometry
@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0, 1.7, 2.5])
def test_a_dot_comes_back_where_it_was(tmp_path, scale):
    x, y, size = 77, 31, 5
    pixels = np.zeros((97, 151), np.float32)
    pixels[y - 2:y + 3, x - 2:x + 3] = 1
    read = m.read_micrograph(write_mrc(tmp_path / "a.mrc", pixels, 1.0), scale)
    assert read.scale == scale and read.pixels.shape == (int(97 / scale + 1e-9), int(151 / scale + 1e-9))
    weight = read.pixels - np.median(read.pixels)
    centre = (np.indices(weight.shape) * weight).sum(axis=(1, 2)) / weight.sum()
    np.testing.assert_allclose(read.to_input_xy(centre[None]), [[x, y]], atol=0.5 if scale > 1 else 1e-4)
    # The brightest pixel holds the dot's centre.
    row, column = np.unravel_index(np.argmax(read.pixels), read.pixels.shape)
    assert abs(read.to_input_xy([[row, column]]) - [[x, y]]).max() <= (size + scale) / 2


def test_the_centre_of_a_block_of_input_pixels_is_the_centre_of_its_binned_pixel(tmp_path):
    pixels = standardised(noise(40, 60)).astype(np.float32)
    pixels[12:16, 20:24] += 4
    read = m.read_micrograph(write_mrc(tmp_path / "a.mrc", pixels, 1.0), 4.0)
    assert np.argwhere(read.pixels == read.pixels.max()).tolist() == [[3, 5]]
    np.testing.assert_array_equal(read.to_input_xy([[3, 5]]), [[21.5, 13.5]])
    np.testing.assert_array_equal(read.to_binned_rc([[21.5, 13.5]]), [[3, 5]])


@settings(deadline=None)
@given(scale=st.floats(0.1, 20),
       points=st.lists(st.tuples(st.floats(-100, 1e4), st.floats(-100, 1e4)), max_size=5))
def test_conversions_between_binned_and_input_coordinates_are_inverse(scale, points):
    micrograph = m.Micrograph(Path("a"), "a", np.zeros((2, 3)), 1.0, scale, (2, 3))
    there = micrograph.to_binned_rc(np.array(points))
    assert there.shape == (len(points), 2)
    np.testing.assert_allclose(micrograph.to_input_xy(there), np.reshape(points, (-1, 2)), atol=1e-7)


@pytest.mark.parametrize("input_size, working, scale", [
    (1.77, 3.54, 2), (1.77, 3.5401, 2), (1.77, 3.545, 3.545 / 1.77), (2.0, 1.0, 0.5), (0.6667, 2.0, 3)])
def test_ratios_within_rounding_of_a_whole_number_are_whole(tmp_path, input_size, working, scale):
    read = m.read_micrograph(write_mrc(tmp_path / "a.mrc", noise()), working, pixel_size_angst=input_size)
    assert read.scale == pytest.approx(scale, abs=1e-12)
    assert read.pixel_size_angst == pytest.approx(input_size * scale, abs=1e-12)


# --------------------------------------------------------------- resampling
def test_a_scale_of_1_changes_nothing(tmp_path):
    np.testing.assert_array_equal(m.resample(noise(), 1.0), noise())
    path = write_mrc(tmp_path / "a.mrc", noise())
    np.testing.assert_array_equal(m.read_micrograph(path, 2.0).pixels, m.read_micrograph(path).pixels)


def wave(shape, cycles_per_px):
    """A plane wave along both axes, and a constant."""
    rows, columns = np.indices(shape) + 0.5
    return (2 + np.cos(2 * np.pi * cycles_per_px * rows) + np.sin(2 * np.pi * cycles_per_px * columns)).astype("f4")


@pytest.mark.parametrize("scale", [0.6, 1.6, 2.0, 3.3])
def test_resampling_keeps_waves_well_below_the_nyquist_frequency_and_removes_those_well_above(scale):
    cut = 0.5 / max(scale, 1)  # cycles per input pixel
    inside = np.s_[6:-6, 6:-6]  # the filter does not reach the edge from there
    kept = m.resample(wave((96, 128), 0.6 * cut), scale)
    np.testing.assert_allclose(kept[inside], wave(kept.shape, 0.6 * cut * scale)[inside], atol=0.06)
    if scale >= 1.6:
        gone = m.resample(wave((96, 128), 1.6 * cut), scale)
        np.testing.assert_allclose(gone[inside], 2, atol=0.06)


@pytest.mark.parametrize("scale", [0.37, 0.5, 1.0003, 2.0, 3.21, 40.0])
def test_resampling_is_that_of_pillow_up_to_the_border(scale):
    pixels = noise(97, 113)
    found = m.resample(pixels, scale)
    rows, columns = found.shape
    covered = 0, 0, min(columns * scale, 113), min(rows * scale, 97)
    expected = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.LANCZOS, box=covered)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.4, 0.5, 1.3, 1.77, 2.0, 3.21])
def test_resampling_keeps_the_centre_of_a_blob(scale):
    y, x = np.indices((80, 110))
    blob = np.exp(-((x - 61.3)**2 + (y - 33.8)**2) / 60).astype(np.float32)
    small = m.resample(blob, scale)
    centre_rc = (np.indices(small.shape) * small).sum(axis=(1, 2)) / small.sum()
    micrograph = m.Micrograph(Path("a"), "a", small, scale, scale, (80, 110))
    np.testing.assert_allclose(micrograph.to_input_xy(centre_rc[None]), [[61.3, 33.8]], atol=0.02)


# ------------------------------------------------------------------ padding
def padded(pixels, top, bottom, left, right, **how):
    return np.pad(pixels, ((top, bottom), (left, right)), **how)


@pytest.mark.parametrize("how", [{"mode": "edge"}, {"mode": "constant", "constant_values": 77.0}])
def test_padding_is_measured_on_each_side(how):
    assert m.padding_margins(padded(noise(60, 90), 3, 5, 7, 11, **how)) == (3, 5, 7, 11)
    assert m.padding_margins(padded(noise(60, 90), 0, 4, 0, 0, **how)) == (0, 4, 0, 0)


def test_padding_is_found_in_spite_of_noise_and_compression():
    pixels = padded(noise(60, 90), 6, 0, 0, 9, mode="edge") + noise(66, 99, seed=2) / 5
    assert m.padding_margins(pixels) == (6, 0, 0, 9)


def test_a_gradient_and_a_carbon_edge_are_no_padding():
    x = np.arange(90)
    assert m.padding_margins(noise(60, 90) + 3 * x + 200 * (x > 40)) == (0, 0, 0, 0)


def test_an_image_of_equal_lines_is_padding_up_to_the_middle():
    assert m.padding_margins(np.tile(noise(1, 40), (20, 1)))[:2] == (9, 9)


@needs_shared
def test_micrographs_of_apoferritin_have_no_padding():
    for path in sorted((SHARED / "data/apoferritin/micrographs").glob("*.mrc"))[:4]:
        assert max(m.padding_margins(m.read_micrograph(path, 3.0).pixels)) <= 1


@needs_shared
def test_the_padding_of_empiar_10017_is_found():
    for path in sorted((SHARED / "data/empiar10017/micrographs").glob("*.mrc"))[:4]:
        found = m.padding_margins(m.read_micrograph(path, 2 * 3.54).pixels)
        # The table of the data set's README: from where the streaks begin to blur to where they end.
        for lines, narrow, wide in zip(found, (40, 48, 32, 54), (49, 56, 40, 62), strict=True):
            assert narrow / 2 - 1 <= lines <= wide / 2 + 1


@needs_shared
def test_header_values_of_the_shared_micrographs_are_read():
    path = SHARED / "data/apoferritin/micrographs/May08_03.05.02.mrc"
    assert m.read_shape(path) == (1200, 1240) and m.read_pixel_size(path) == pytest.approx(1.5)
