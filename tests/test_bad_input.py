# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of docs/bad-input.md that no other test is about, and that every row has its test."""

import ast
import bz2
import functools
import gzip
import os
import re
import shutil
import struct
from pathlib import Path

import imagecodecs
import mrcfile
import numpy as np
import pytest
import tifffile

from conftest import memory, nobody
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs import mrc, tiff
from deepem_scipion.deepem.micrographs.find import find_micrographs
from deepem_scipion.deepem.micrographs.micrograph import read_micrograph
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.picking.candidates import read_candidates
from deepem_scipion.deepem.picking.results import PickingResults

ROOT = Path(__file__).resolve().parents[1]


# ------------------------------------------------------------ the table itself
def rows():
    """The last cell of each row of the tables, where the test stands."""
    lines = (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|") and not line.startswith(("| Input", "|---"))]
    return [re.findall(r"`([\w/]+\.py)::(\w+)(?:\[([^]]+)\])?`", line.rsplit("|", 2)[1]) for line in tables]


@functools.cache
def content(file):
    """Names of the functions of a file, and the texts in it."""
    nodes = list(ast.walk(ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))))
    return ({node.name for node in nodes if isinstance(node, ast.FunctionDef)},
            {node.value for node in nodes if isinstance(node, ast.Constant)})


def test_every_row_of_the_table_names_tests_that_exist():
    assert len(rows()) > 50
    for tests in rows():
        assert tests
        for file, name, case in tests:
            functions, texts = content(file)
            assert name in functions and (not case or case in texts), (file, name, case)


def test_every_test_here_is_named_in_the_table():
    files = "test_bad_input.py", "test_bad_runs.py"
    named = {name for tests in rows() for file, name, _ in tests if file in files}
    here = {name for file in files for name in content(file)[0] if name.startswith("test_") and "_table" not in name}
    assert named == here


# ---------------------------------------------------------------- micrographs
def noise(rows=30, columns=50):
    return np.random.default_rng(1).normal(100, 10, (rows, columns)).astype(np.float32)


def write_mrc(path, pixels=None):
    with mrcfile.new(path, noise() if pixels is None else pixels, overwrite=True) as file:
        file.voxel_size = 4.0
    return path


def refused(path, words):
    with pytest.raises(DeepEMError) as caught:
        read_micrograph(path, pixel_size_angst=4.0)
    assert str(path) in str(caught.value) and words in str(caught.value)


def _extended(path):
    with mrcfile.new(path, noise(8, 9)) as file:
        file.set_extended_header(np.frombuffer(b"x" * 80, "V1"))


WHOLE = {
    "MRC": lambda path: write_mrc(path, noise(8, 9)), "MRC with extended header": _extended,
    "gzip": lambda path: path.write_bytes(gzip.compress(write_mrc(path, noise(8, 9)).read_bytes())),
    "bzip2": lambda path: path.write_bytes(bz2.compress(write_mrc(path, noise(8, 9)).read_bytes())),
    "TIFF": lambda path: tifffile.imwrite(path, noise(8, 9)),
    "compressed TIFF": lambda path: tifffile.imwrite(path, noise(8, 9), compression="zlib"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_micrograph_that_ends_too_early_is_refused_wherever_it_ends(tmp_path, kind):
    WHOLE[kind](tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    read_micrograph(tmp_path / "whole", pixel_size_angst=4.0)
    # Compressed files end with checksums, which are not needed.
    for end in range(0, len(whole) - (16 if kind in ("gzip", "bzip2") else 0), 7):
        (tmp_path / "a.mrc").write_bytes(whole[:end])
        refused(tmp_path / "a.mrc", "")


def test_a_mode_that_does_not_match_the_length_of_the_file_is_refused(tmp_path):
    for mode in (1, 6, 12, 0):
        content = bytearray(write_mrc(tmp_path / "a.mrc").read_bytes())
        content[12] = mode
        (tmp_path / "a.mrc").write_bytes(content)
        refused(tmp_path / "a.mrc", f"holds 4 bytes per pixel, but its header gives mode {mode}")
    content[12] = 2
    (tmp_path / "a.mrc").write_bytes(content + b"more")  # data after the pixels are ignored
    assert read_micrograph(tmp_path / "a.mrc").input_shape == (30, 50)


def test_a_wrong_byte_order_is_recognised_or_refused(tmp_path):
    right = read_micrograph(write_mrc(tmp_path / "a.mrc", noise())).pixels
    for order, stamp in ((">", b"DD"), ("<", b"\x11\x11")):  # the stamp states the other byte order
        content = bytearray(write_mrc(tmp_path / "a.mrc", noise().astype(f"{order}f4")).read_bytes())
        content[212:214] = stamp
        (tmp_path / "a.mrc").write_bytes(content)
        np.testing.assert_array_equal(read_micrograph(tmp_path / "a.mrc").pixels, right)
    content = write_mrc(tmp_path / "a.mrc", noise(90, 90)).read_bytes()
    swapped = np.frombuffer(content[1024:], "<f4").byteswap().tobytes()
    (tmp_path / "a.mrc").write_bytes(content[:1024] + swapped)  # the header is correct, the pixels are not
    with pytest.raises(DeepEMError, match="not finite numbers|its byte order"):
        read_micrograph(tmp_path / "a.mrc")


def test_impossible_values_are_refused_but_a_few_hot_pixels_are_clipped(tmp_path):
    header = write_mrc(tmp_path / "a.mrc").read_bytes()[:1024]
    (tmp_path / "a.mrc").write_bytes(header + (1e30 * noise()).tobytes())
    refused(tmp_path / "a.mrc", "values of up to 1e+32")
    hot = noise()
    hot[3, 4] = 3e38
    (tmp_path / "a.mrc").write_bytes(header + hot.tobytes())
    assert abs(read_micrograph(tmp_path / "a.mrc").pixels).max() < 10


@pytest.mark.parametrize("columns, rows, words", [
    (32_000, 32_000, "32000 x 32000 pixels: the header is damaged"), (10**9, 1, "header is damaged"),
    (8_000, 8_000, "truncated")])
def test_absurd_dimensions_in_a_compressed_file_take_no_memory(tmp_path, columns, rows, words):
    content = bytearray(write_mrc(tmp_path / "a.mrc").read_bytes())
    content[:8] = np.array([columns, rows], "<i4").tobytes()
    (tmp_path / "a.mrc").write_bytes(gzip.compress(content))
    with memory(2**29):
        refused(tmp_path / "a.mrc", words)


COMPRESSIONS = ["lzw", "zlib", "packbits", "lzma", "zstd"]


@pytest.mark.slow
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tiff_that_inflates_beyond_its_sizes_takes_no_memory(tmp_path, compression):
    encode = getattr(imagecodecs, f"{compression}_encode")
    honest = noise(64, 64).astype(np.uint8)
    bomb = b"\x81\0" * 2**21 if compression == "packbits" else encode(bytes(2**28))  # each of its pairs is 128 bytes

    def write(strip):
        tifffile.imwrite(tmp_path / "a.tif", iter([strip]), shape=honest.shape, dtype="u1", compression=compression,
                         rowsperstrip=64)

    write(encode(honest.tobytes()))
    assert read_micrograph(tmp_path / "a.tif", pixel_size_angst=4.0).input_shape == (64, 64)
    write(bomb)
    with memory(2**27):
        refused(tmp_path / "a.tif", "")


def test_a_tiff_with_absurd_tiles_or_strips_that_overlap_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64), tile=(32, 32), compression="zlib")
    for tag, value, words in (("TileWidth", 2**18, "header is damaged"), ("TileByteCounts", None, "truncated")):
        shutil.copy(tmp_path / "a.tif", tmp_path / "b.tif")
        with tifffile.TiffFile(tmp_path / "b.tif", mode="r+b") as file:
            tags = file.pages[0].tags
            tags[tag].overwrite(value or [max(tags["TileOffsets"].value) - 8] * 4)
            if value is None:
                tags["TileOffsets"].overwrite([8] * 4)
        with memory(2**27):
            refused(tmp_path / "b.tif", words)


@pytest.mark.parametrize("pages", [1, 3, 150])
def test_a_tiff_whose_pages_form_a_cycle_is_refused(tmp_path, pages):
    images = noise(pages * 8, 8).reshape(pages, 8, 8)
    tifffile.imwrite(tmp_path / "a.tif", images, photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        first, last = file.pages[0].offset, file.pages[-1].offset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    following = last + 2 + 12 * int.from_bytes(content[last:last + 2], "little")
    assert content[following:following + 4] == bytes(4)
    content[following:following + 4] = first.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    with memory(2**27):
        refused(tmp_path / "a.tif", "form a cycle")


def test_a_tiff_of_more_pages_than_any_movie_has_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(1001 * 2, 2).reshape(1001, 2, 2), photometric="minisblack")
    refused(tmp_path / "a.tif", "more than 1000 images")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("name, kind, values",
                         [("ImageWidth", 4, 10**6), ("ImageLength", 2, 1), ("ImageLength", 1, 1),
                          ("SamplesPerPixel", 3, 2)])
def test_a_tiff_whose_sizes_are_several_numbers_or_text_takes_no_memory(tmp_path, name, kind, values, big):
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64), bigtiff=big, byteorder=">")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages[0].tags[name].offset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[place + 2:place + (12 if big else 8)] = struct.pack(">HQ" if big else ">HI", kind, values)
    (tmp_path / "a.tif").write_bytes(content)
    with memory(2**27):
        refused(tmp_path / "a.tif", f"{values} values of type {kind} for {name}")


# A clear code, then a code that is not defined yet: the decoder would read wherever an old pointer leads.
@pytest.mark.parametrize("stream", [b"\x80\x4b\x20\x10\x0b\x4b", b"\0\x03\x10\xff"])
def test_a_tiff_whose_lzw_codes_would_make_the_decoder_leave_its_memory_is_refused(tmp_path, stream):
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64), compression="lzw")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages[0].dataoffsets[0]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[place:place + len(stream)] = stream
    (tmp_path / "a.tif").write_bytes(content)
    refused(tmp_path / "a.tif", "its LZW compression is damaged")


@pytest.mark.parametrize("compression", [6, 34712, 65000])
def test_a_tiff_whose_compressed_data_have_their_own_sizes_is_refused(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64).astype(np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(compression)
    refused(tmp_path / "a.tif", f"compression {compression}. Expected one of")


def test_what_follows_the_pixels_of_a_compressed_file_takes_no_memory(tmp_path):
    content = write_mrc(tmp_path / "a.mrc").read_bytes()
    with gzip.open(tmp_path / "a.mrc", "wb", compresslevel=1) as file:
        file.write(content)
        for _ in range(400):
            file.write(bytes(2**20))
    with memory(2**28):
        assert read_micrograph(tmp_path / "a.mrc").input_shape == (30, 50)


def test_a_file_without_permission_is_refused_with_that_reason(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    names = "a.mrc", "a.box", "a.star", "a.deepem", "a.tsv", "list.txt", "summary.tsv"
    paths = {name: closed / name for name in names}
    for path in paths.values():
        path.write_bytes(b"content")
        path.chmod(0)
    readers = [(read_micrograph, "a.mrc"), (read_coordinates, "a.box"), (read_coordinates, "a.star"),
               (load_model, "a.deepem"), (read_candidates, "a.tsv"),
               (lambda path: PickingResults(path.parent).read_micrographs(), "summary.tsv"),
               (lambda path: PickingResults(path.parent).append({}), "summary.tsv"),
               (lambda path: find_micrographs([path]), "list.txt")]
    tmp_path.chmod(0o755)
    with nobody():
        for reader, name in readers:
            with pytest.raises(DeepEMError, match=f"{name}.*(Permission denied|no such .*file)"):
                reader(paths[name])


def test_a_link_that_leads_nowhere_is_refused(tmp_path):
    (tmp_path / "a.mrc").symlink_to(tmp_path / "gone.mrc")
    refused(tmp_path / "a.mrc", "no such file")
    with pytest.raises(DeepEMError, match="holds no micrograph"):
        find_micrographs([tmp_path])


@pytest.mark.parametrize("ending", ["mrc", "tif"])
def test_a_file_that_is_changed_while_it_is_read_is_read_as_one_of_both_or_refused(tmp_path, monkeypatch, ending):
    first, other = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    write = write_mrc if ending == "mrc" else tifffile.imwrite
    module, name = (mrc, "_check_length") if ending == "mrc" else (tiff, "_read_data")
    unchanged = getattr(module, name)

    def read_while(change, number=1):
        """Read the file, which is changed as soon as it is opened this many times."""
        write(first, noise())
        write(other, noise(80, 90))
        changes = iter([bool] * (number - 1) + [change])
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *arguments: next(changes, bool)() or unchanged(*arguments))
            return read_micrograph(first, pixel_size_angst=4.0).input_shape

    for size in (0, 900, 2000, 6000):
        with pytest.raises(DeepEMError, match=f"{first}.*(truncated|cannot be read|is empty)"):
            read_while(lambda size=size: os.truncate(first, size))
    if ending == "mrc":
        # First the header is read, then the image: each from one file.
        assert read_while(lambda: os.replace(other, first)) == (80, 90)
        assert read_while(lambda: os.replace(other, first), 2) == (30, 50)
    else:
        with pytest.raises(DeepEMError, match="changed while it was read"):
            read_while(lambda: os.replace(other, first))


# ---------------------------------------------------------------- coordinates
def test_coordinates_outside_are_left_out_and_counted(train, blobs):
    far = [(5000, 20), (-900, 20), (1e14, -1e14)]
    code, output = train({"a": far, "b": far})
    assert code == 2 and "a: 3 of 3 particles lie outside the micrograph" in output
    assert "no particle has its whole box within a micrograph" in output


def test_coordinates_at_the_border_only_are_refused(train):
    code, output = train({"a": [(0, 0), (209, 149)], "b": [(0, 70)]})
    assert code == 2 and "no particle has its whole box within a micrograph" in output and "outside" not in output


def test_coordinates_of_some_other_micrographs_are_named_and_cost_nothing(train, blobs):
    code, output = train({**{name: blobs[1][name] for name in "ab"}, "x": [(50, 50)]}, "--validation-fraction", "0")
    assert "coordinates of 1 other micrographs are not used: x" in output
    assert code == 0 or "did not converge" in output


def test_particles_given_again_and_again_count_once(train, blobs, tmp_path):
    code, output = train({"a": np.tile(blobs[1]["a"], (50, 1)), "b": blobs[1]["b"]}, "--validation-fraction", "0")
    assert code == 0, output
    assert load_model(tmp_path / "m").record.training.particles == 28


def test_a_million_coordinates_are_read_and_a_micrograph_crowded_with_them_is_left_out(train, blobs, tmp_path):
    places = np.random.default_rng(0).integers([20, 20], [180, 110], (1_000_000, 2))
    text = "".join(f"{x}\t{y}\t24\t24\n" for x, y in places.tolist())
    (tmp_path / "coordinates").mkdir()
    (tmp_path / "coordinates" / "a.box").write_text(text)
    code, output = train({})
    assert code == 2 and "left out: " in output
    assert "a.mrc: of 1000000 particles" in output and "pairs are within" in output


def test_columns_of_a_star_file_may_have_any_order(tmp_path):
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnCoordinateY #1\n_rlnAutopickFigureOfMerit #2\n"
                                     "_rlnMicrographName #3\n_rlnCoordinateX #4\n7 0.5 m/b.mrc 3\n")
    found = read_coordinates(tmp_path / "a.star")["m/b"]
    assert found.centres_xy.tolist() == [[3, 7]] and found.scores.tolist() == [0.5]


# ------------------------------------------------------------------- training
def test_training_without_a_particle_is_refused(train):
    code, output = train({"a": [], "b": []})
    assert code == 2 and "no particles in" in output and "it has 2 micrographs without any" in output


def test_training_with_a_single_particle_ends_with_a_model_or_a_reason(train, blobs):
    code, output = train({"a": blobs[1]["a"][:1], "b": []})
    assert code == 0 or "did not converge" in output, output


def test_training_on_crowded_micrographs_without_room_for_others_is_refused(train):
    crowd = [(x, y) for x in range(4, 206, 8) for y in range(4, 146, 8)]
    code, output = train({"a": crowd, "b": crowd})
    assert code == 2 and "no boxes of negatives to train on" in output


@pytest.mark.parametrize("option, value, words", [
    ("--pixel-size", "0", "pixel size 0.0: expected angstrom, above 0"), ("--pixel-size", "-1", "pixel size -1"),
    ("--pixel-size", "nan", "pixel size nan"), ("--pixel-size", "1e-300", "cannot be resampled"),
    ("--pixel-size", "1e300", "particle diameter 0.0 binned pixels"),
    ("--working-pixel-size", "0", "working pixel size 0"), ("--working-pixel-size", "inf", "working pixel size inf"),
    ("--working-pixel-size", "1e-300", "expected at most 200"), ("--seed", "-1", "seed -1")])
def test_senseless_numbers_are_refused_before_training(train, blobs, option, value, words):
    code, output = train({name: blobs[1][name] for name in "ab"}, option, value)
    assert code == 2 and words in output
