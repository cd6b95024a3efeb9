# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames and headers: which row of a file is y = 0, axes, signs and packing of pixels, and what is no micrograph."""

import bz2
import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import tifffile

from deepem_scipion.deepem import micrographs as m
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.coordinates.star import write_star
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.evaluation.metrics import evaluate
from deepem_scipion.deepem.micrographs.images import read_pixels
from deepem_scipion.deepem.startables import read_tables

needs_relion = pytest.mark.skipif(shutil.which("relion_preprocess") is None,
                                  reason="RELION is not installed (Debian: relion)")
MICS = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"


def noise(rows=31, columns=50, seed=1):
    return np.random.default_rng(seed).normal(100, 10, (rows, columns)).astype(np.float32)


def write_mrc(path, pixels, pixel_size=2.0):
    with mrcfile.new(path, np.asarray(pixels), overwrite=True) as mrc:
        mrc.voxel_size = pixel_size
    return path


def with_header(path, data=None, **numbers):
    """Overwrite numbers of an MRC header, each given as `at<offset>`, and perhaps the pixels that follow it."""
    content = bytearray(path.read_bytes())
    for place, number in numbers.items():
        at = int(place.removeprefix("at"))
        content[at:at + 4] = np.array(number, "<f4" if isinstance(number, float) else "<i4").tobytes()
    path.write_bytes(content if data is None else bytes(content[:1024]) + data.tobytes())
    return path


def relion_particles(folder, star, micrographs, box):
    """Images that RELION extracts at the coordinates of picks.star, (n, box, box)."""
    optics = star.read_text().split("data_particles")[0]
    groups = {fields[0]: fields[-1] for _, fields in read_tables(star)[1].rows}
    (folder / "mics.star").write_text(optics + MICS + "".join(f"{mic} {groups[str(mic)]}\n" for mic in micrographs))
    subprocess.run(["relion_preprocess", "--i", "mics.star", "--reextract_data_star", str(star), "--part_star",
                    "particles.star", "--part_dir", "particles/", "--extract", "--extract_size", str(box)],
                   check=True, capture_output=True, cwd=folder)
    stacks = sorted((folder / "particles").rglob("*.mrcs"))
    return np.concatenate([np.reshape(mrcfile.read(stack), (-1, box, box)) for stack in stacks]).astype(float)


# ------------------------------------------------------------------ TIFF
@pytest.mark.parametrize("options", [{}, {"extratags": [(274, 3, 1, 4, True)]}, {"extratags": [(274, 3, 1, 6, True)]},
                                     {"tile": (16, 16)}, {"rowsperstrip": 5}, {"compression": "zlib"}],
                         ids=["plain", "orientation 4", "orientation 6", "tiles", "strips", "compressed"])
def test_the_last_row_of_a_tiff_file_has_y_0_whatever_its_orientation(tmp_path, options):
    pixels = noise()
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), pixels[::-1])
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif", "top"), pixels)
    write_mrc(tmp_path / "a.mrc", pixels)
    for rows in m.images.TIFF_ROWS:
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.mrc", rows), pixels)


@needs_relion
def test_relion_finds_the_particle_at_the_pixel_that_is_read_from_mrc_and_tiff_files(tmp_path):
    pixels = noise(128, 160)
    pixels[29:32, 49:52] -= 200  # three by three pixels around row 30, column 50
    write_mrc(tmp_path / "a.mrc", pixels)
    tifffile.imwrite(tmp_path / "b.tif", pixels, extratags=[(274, 3, 1, 1, True)])
    for name, y in (("a.mrc", 30), ("b.tif", 128 - 1 - 30)):
        read = read_pixels(tmp_path / name)
        assert read[y - 1:y + 2, 49:52].max() < 0 < read[y, 60]
        write_star(tmp_path / "picks.star", [(name, np.array([[50, y]]), np.ones(1))], 2.0)
        (image,) = relion_particles(tmp_path, tmp_path / "picks.star", [name], 32)
        dark = np.argwhere(image < image.min() / 2)
        assert dark.mean(axis=0).tolist() == [16, 16] and len(dark) == 9
        shutil.rmtree(tmp_path / "particles")


@pytest.fixture(scope="module")
def tiffs(blobs, tmp_path_factory):
    """Micrographs d and e of the blobs as TIFF files, and the centres in the frame of RELION."""
    folder, centres = blobs
    here = tmp_path_factory.mktemp("tiffs")
    found = {}
    for name in "de":
        pixels = mrcfile.read(folder / "micrographs" / f"{name}.mrc")
        tifffile.imwrite(here / f"{name}.tif", pixels)
        found[name] = centres[name] * [1, -1] + [0, len(pixels) - 1]
    return here, found


@needs_relion
def test_the_mean_of_the_particles_that_relion_extracts_from_tiff_files_shows_the_particle(
        tiffs, blob_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tiffs[0])
    assert main(["pick", "--model", str(blob_model), "--micrographs", "*.tif", "--pixel-size", "4", "--border", "64",
                 "--output", str(tmp_path)]) == 0
    for name in "de":
        (tmp_path / f"{name}.tif").symlink_to(tiffs[0] / f"{name}.tif")
    images = relion_particles(tmp_path, tmp_path / "picks.star", ["d.tif", "e.tif"], 32)
    assert len(images) > 10
    mean = images.mean(axis=0)
    y, x = np.indices(mean.shape)
    dark = mean < (mean.min() + np.median(mean)) / 2
    assert abs(x[dark].mean() - 16) < 1 and abs(y[dark].mean() - 16) < 1
    assert np.hypot(x - 16, y - 16)[dark].max() < 10


def test_picks_and_training_follow_the_chosen_row(tiffs, blobs, blob_model, tmp_path, few_updates):
    def score(*options):
        output = tmp_path / "-".join(("picks", *options))
        assert main(["pick", "--model", str(blob_model), "--micrographs", str(tiffs[0]), "--pixel-size", "4",
                     "--report", "--output", str(output), *options]) == 0
        return {frame: evaluate({name: read_coordinates(boxes / f"{name}.box")[name] for name in "de"},
                                {name: read_coordinates(output / f"{name}.box")[name] for name in "de"},
                                8)["overall"]["F1"] for frame, boxes in (("bottom", tmp_path / "bottom"),
                                                                         ("top", blobs[0] / "boxes"))}

    (tmp_path / "bottom").mkdir()
    for name in "de":
        np.savetxt(tmp_path / "bottom" / f"{name}.box", np.hstack([np.rint(tiffs[1][name]) - 12, np.full((14, 2), 24)]),
                   fmt="%d")
    bottom, top = score(), score("--tiff-rows", "top")
    assert bottom["bottom"] > 0.9 > bottom["top"] and top["top"] > 0.9 > top["bottom"]

    def contrast(boxes, *options):
        from deepem_scipion.deepem.model import read_card

        assert main(["train", "--micrographs", str(tiffs[0]), "--coordinates", str(boxes), "--pixel-size", "4",
                     "--diameter", "64", "--epochs", "1", "--output", str(tmp_path / "a.deepem"), *options]) == 0
        return read_card(tmp_path / "a.deepem")["contrast"]

    assert contrast(tmp_path / "bottom") == contrast(blobs[0] / "boxes", "--tiff-rows", "top") == "dark"


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_where_0_is_white_grey_values_are_inverted(tmp_path, dtype):
    pixels = noise().astype(dtype)
    tifffile.imwrite(tmp_path / "black.tif", pixels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "white.tif", pixels, photometric="miniswhite")
    black, white = (m.read_micrograph(tmp_path / f"{name}.tif", pixel_size_angst=1).pixels
                    for name in ("black", "white"))
    np.testing.assert_allclose(white, -black, atol=1e-5)


def test_a_table_of_colours_is_refused(tmp_path):
    pixels = np.clip(noise(), 0, 255).astype(np.uint8)
    ramp = np.tile(np.arange(255, -1, -1, dtype=np.uint16) * 257, (3, 1))  # bright is dark
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="palette", colormap=ramp)
    with pytest.raises(DeepEMError, match=r"a\.tif is an image with a table of colours"):
        m.read_micrograph(tmp_path / "a.tif", pixel_size_angst=1)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("metadata", [{}, None], ids=["of tifffile", "of others"])
def test_a_thumbnail_in_a_tiff_file_is_no_second_image(tmp_path, first, metadata):
    pixels = noise(64, 80)
    small = {"subfiletype": 1, "metadata": metadata}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        if first:
            tiff.write((pixels[::8, ::8]).astype("u1"), **small)
        tiff.write(pixels, metadata=metadata)
        if not first:
            tiff.write((pixels[::8, ::8]).astype("u1"), **small)
    assert m.read_shape(tmp_path / "a.tif") == (64, 80)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), pixels[::-1])


# ------------------------------------------------------------------ MRC
@pytest.mark.parametrize("axes", [(2, 1), (1, 3), (3, 2), (1, 1)])
def test_axes_other_than_x_and_y_are_refused(tmp_path, axes):
    path = with_header(write_mrc(tmp_path / "a.mrc", noise()), at64=axes[0], at68=axes[1])
    with pytest.raises(DeepEMError, match=rf"a\.mrc: its header gives axis .* \(MAPC {axes[0]}, MAPR {axes[1]}\)"):
        m.read_micrograph(path)


@pytest.mark.parametrize("axes", [(0, 0), (1, 2), (77, -5)])
def test_axes_that_an_old_program_left_empty_are_those_of_an_image(tmp_path, axes):
    path = with_header(write_mrc(tmp_path / "a.mrc", noise()), at64=axes[0], at68=axes[1])
    np.testing.assert_array_equal(read_pixels(path), noise())


IMOD = 1146047817
BYTES = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("header, unsigned", [
    ({"at152": IMOD, "at156": 0}, True), ({"at152": IMOD, "at156": 1}, False), ({"at152": IMOD, "at156": 4}, True),
    ({"at152": IMOD, "at156": 5, "at76": 0.0, "at80": 255.0}, False), ({"at76": 0.0, "at80": 255.0}, True),
    ({"at76": 3.0, "at80": 140.5}, True), ({"at76": -128.0, "at80": 127.0}, False), ({"at76": 0.0, "at80": 0.0}, False),
    ({"at76": 0.0, "at80": -1.0}, False), ({"at76": 0.0, "at80": float("nan")}, False), ({"at156": 0}, False)])
def test_bytes_have_a_sign_unless_the_stamp_of_imod_or_the_range_in_the_header_says_otherwise(
        tmp_path, header, unsigned):
    path = with_header(write_mrc(tmp_path / "a.mrc", BYTES.view("i1")), **header)
    np.testing.assert_array_equal(read_pixels(path), BYTES if unsigned else BYTES.view("i1"))
    (tmp_path / "b.mrc.bz2").write_bytes(bz2.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_pixels(tmp_path / "b.mrc.bz2"), read_pixels(path))


@pytest.mark.parametrize("mean, kind", [(120, np.uint8), (0, np.int8)])
def test_bytes_of_which_the_header_does_not_give_the_range_get_the_sign_with_which_they_spread_less(
        tmp_path, mean, kind):
    pixels = np.rint(noise() + mean - 100).astype(kind)
    path = with_header(write_mrc(tmp_path / "a.mrc", pixels.view("i1")), at76=0.0, at80=0.0)
    np.testing.assert_array_equal(read_pixels(path), pixels)


@pytest.mark.parametrize("columns", [16, 17])
def test_pixels_of_4_bits_are_read(tmp_path, columns):
    pixels = np.random.default_rng(0).integers(0, 16, (9, columns), np.uint8)
    padded = np.pad(pixels, ((0, 0), (0, columns % 2)))  # each row begins with a whole byte
    packed = padded[:, ::2] | padded[:, 1::2] << 4  # the left pixel is the lower half
    path = with_header(write_mrc(tmp_path / "a.mrc", pixels.view("i1")), packed, at12=101)
    assert m.read_shape(path) == pixels.shape and m.read_pixel_size(path) == 2.0
    np.testing.assert_array_equal(read_pixels(path), pixels)
    (tmp_path / "b.mrc").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DeepEMError, match=r"b\.mrc is truncated"):
        read_pixels(tmp_path / "b.mrc")
    (tmp_path / "c.mrc.bz2").write_bytes(bz2.compress(path.read_bytes()[:-1]))
    with pytest.raises(DeepEMError, match=r"c\.mrc\.bz2 is truncated"):
        read_pixels(tmp_path / "c.mrc.bz2")


def test_pixels_of_4_bits_in_a_file_of_bytes_are_read_by_the_flag_of_imod(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 16, (9, 16), np.uint8)
    packed = pixels[:, ::2] | pixels[:, 1::2] << 4
    path = with_header(write_mrc(tmp_path / "a.mrc", packed.view("i1"), 1.5), at152=IMOD, at156=16)
    np.testing.assert_array_equal(read_pixels(path), pixels)
    assert m.read_pixel_size(path) == 1.5


# ------------------------------------------------------------------ what is no micrograph
def test_images_beside_micrographs_in_a_folder_are_left_out_and_named(tmp_path, caplog):
    names = ["a.mrc", "a_DW.mrc", "b.mrcs", "c_ps.tif", "a_PS.mrc", "a_EVN.mrc", "gain.mrc", "movie.mrcs", "ctf_7.mrc"]
    for name in names:
        if name.endswith("tif"):
            tifffile.imwrite(tmp_path / name, noise())
        else:
            write_mrc(tmp_path / name, noise()[np.newaxis] if name == "b.mrcs" else
                      np.stack([noise()] * 3) if name == "movie.mrcs" else noise())
    assert list(m.find_micrographs([tmp_path])) == ["a", "a_DW", "b", "ctf_7"]
    assert all(name in caplog.text for name in ("c_ps.tif", "a_PS.mrc", "a_EVN.mrc", "gain.mrc", "movie.mrcs"))
    assert "holds 3 images" in caplog.text and "b.mrcs" not in caplog.text
    assert list(m.find_micrographs([str(tmp_path / "*.mrc")])) == ["a", "a_DW", "ctf_7"]
    # A pattern that a shell has expanded is left with the same; whoever asks for them has them.
    assert list(m.find_micrographs(sorted(tmp_path.glob("a*.mrc")))) == ["a", "a_DW"]
    assert list(m.find_micrographs([tmp_path / "a_PS.mrc"])) == ["a_PS"]
    assert list(m.find_micrographs([str(tmp_path / "*_PS.mrc")])) == ["a_PS"]
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.mrc\n{tmp_path}/a_PS.mrc\n")
    assert list(m.find_micrographs([tmp_path / "list.txt"])) == ["a", "a_PS"]


# ------------------------------------------------------------------ several pixel sizes
def test_micrographs_of_several_pixel_sizes_have_an_optics_group_each(blobs, blob_model, tmp_path):
    sizes = {"d": 4.0, "e": 3.2, "f": 4.0001}
    (tmp_path / "mics").mkdir()
    for name, size in sizes.items():
        pixels = mrcfile.read(blobs[0] / "micrographs" / f"{'d' if name == 'f' else name}.mrc")
        write_mrc(tmp_path / "mics" / f"{name}.mrc", pixels, size)
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(tmp_path / "mics"), "--output",
                 str(tmp_path / "picks")]) == 0
    optics, particles = read_tables(tmp_path / "picks" / "picks.star")
    size_of = {row[optics.labels.index("rlnOpticsGroup")]: float(row[optics.labels.index("rlnMicrographPixelSize")])
               for _, row in optics.rows}
    assert size_of == {"1": 4.0, "2": pytest.approx(3.2)}
    groups = {}
    for _, row in particles.rows:
        path, group = (row[particles.labels.index(label)] for label in ("rlnMicrographName", "rlnOpticsGroup"))
        groups.setdefault(m.find.micrograph_name(path), set()).add(group)
    assert groups == {"d": {"1"}, "e": {"2"}, "f": {"1"}}


@needs_relion
def test_relion_takes_the_optics_group_of_each_micrograph(tmp_path):
    for name, size in (("a", 2.0), ("b", 3.0)):
        write_mrc(tmp_path / f"{name}.mrc", noise(128, 160), size)
    centres = np.array([[60, 50], [80, 70]])
    write_star(tmp_path / "picks.star", [(f"{name}.mrc", centres, np.ones(2)) for name in "ab"], [2.0, 3.0])
    assert len(relion_particles(tmp_path, tmp_path / "picks.star", ["a.mrc", "b.mrc"], 32)) == 4
    optics, particles = read_tables(tmp_path / "particles.star")
    sizes = [float(row[optics.labels.index("rlnImagePixelSize")]) for _, row in optics.rows]
    groups = [int(row[particles.labels.index("rlnOpticsGroup")]) for _, row in particles.rows]
    assert [sizes[group - 1] for group in groups] == [2.0, 2.0, 3.0, 3.0]
