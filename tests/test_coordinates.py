# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates from and to .box and .star files, STAR tables, and atomic writing."""

import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem.atomic import atomic_write
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.coordinates import Coordinates, merge
from deepem_scipion.deepem.coordinates.formats.base import MicrographPicks
from deepem_scipion.deepem.coordinates.formats.registry import write_files
from deepem_scipion.deepem.coordinates.names import match_names
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.coordinates.star import write_star
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.startables import quote, read_tables

SHARED = Path(os.environ.get("DEEPEM_SHARED", Path(__file__).parents[2] / "shared"))
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared data sets are not here")

RELION_30 = """
data_

loop_
_rlnMicrographName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnOriginX #4
_rlnAutopickFigureOfMerit #5
mics/a.b.mrc 10.5 20.25 7 0.9
mics/c.mrc 1 2 7 0.5

mics/a.b.mrc 30 40 7 0.1
"""

RELION_31 = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
opticsGroup1 1

# version 30001

data_particles

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnMicrographName #3
 10.5  20.25  000001@mics/a.b.mrcs
 1 2 mics/c.mrc   # a remark
"""

COORDINATES_ONLY = "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"

points = st.lists(st.tuples(st.floats(-500, 20000), st.floats(-500, 20000), st.floats(0, 1)), max_size=8)
letters = st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters="/\"")
names = st.text(letters, min_size=1).filter(lambda name: name.strip("."))  # in "..mrc" the extension is the name


# --------------------------------------------------------------------- .box
@pytest.mark.parametrize("text, centre, score, box", [
    ("346\t-28\t120\t100\n", (406, 22), math.nan, None),
    ("1 2 41 41 0.75\n", (21.5, 22.5), 0.75, 41),
    ("  1.5  2.5  10  10  -3e-1  extra \r\n", (6.5, 7.5), -0.3, 10),
    ("# a remark\n\n1 2 4 4 nan # another\n", (3, 4), math.nan, 4),
    ("1 2 4 4 -3\n", (3, 4), math.nan, 4),  # EMAN 1 writes -3 in every line
])
def test_box_files_of_every_variant_give_centres(tmp_path, text, centre, score, box):
    (tmp_path / "May08_03.05.02.box").write_text(text, newline="")
    found = read_coordinates(tmp_path / "May08_03.05.02.box")
    assert list(found) == ["May08_03.05.02"]
    coordinates = found["May08_03.05.02"]
    assert coordinates.centres_xy.tolist() == [list(centre)] and coordinates.box_px == box
    np.testing.assert_array_equal(coordinates.scores, [score])


def test_boxes_of_several_sizes_keep_their_centres_and_have_no_common_size(tmp_path):
    (tmp_path / "a.box").write_text("0 0 10 10\n0 0 20 20\n")
    found = read_coordinates(tmp_path)["a"]
    assert found.centres_xy.tolist() == [[5, 5], [10, 10]] and found.box_px is None


def test_an_empty_box_file_is_a_micrograph_without_particles(tmp_path):
    (tmp_path / "a.box").write_text("")
    found = read_coordinates(tmp_path)["a"]
    assert found.centres_xy.shape == (0, 2) and found.scores.shape == (0,) and found.box_px is None


@pytest.mark.parametrize("text, words", [
    ("1 2 3\n", "line 1: expected 'x y width height"),
    ("1 2 4 4\n1 x 4 4\n", "line 2: expected a number, found 'x'"),
    ("1 2 4 4\n\n1 nan 4 4\n", "line 3: expected a finite number"),
    ("1 2 4 inf\n", "line 1: expected a finite number"),
    ("1 2 4 4\n1 2 0 0\n", "line 2: expected a width and a height above 0, found '1 2 0 0'"),
    ("1 2 4 4 inf\n", "line 1: expected a finite number"),
    ("1 2 4 4 0.5\n1 2 4 4\n", "line 1 has a score, line 2 has none"),
    ("\0\1\2", "line 1"),
])
def test_an_invalid_line_of_a_box_file_is_named(tmp_path, text, words):
    (tmp_path / "a.box").write_text(text)
    with pytest.raises(DeepEMError) as caught:
        read_coordinates(tmp_path)
    assert str(tmp_path / "a.box") in str(caught.value) and words in str(caught.value)


@settings(deadline=None, max_examples=50)
@given(points=points, box=st.integers(1, 500))
def test_box_files_keep_centres_to_half_a_pixel_for_even_and_odd_sizes(tmp_path_factory, points, box):
    path = tmp_path_factory.getbasetemp() / "round trip.box"
    table = np.reshape(points, (-1, 3))
    write_box(path, table[:, :2], table[:, 2], box)
    again = read_coordinates(path)["round trip"]
    np.testing.assert_allclose(again.centres_xy, table[:, :2], atol=0.5 + 1e-9)
    np.testing.assert_allclose(again.scores, table[:, 2], rtol=1e-5)
    assert again.box_px == (box if points else None)


def test_box_files_are_written_with_whole_corners_and_tabs(tmp_path):
    write_box(tmp_path / "a.box", np.array([[10.2, 20.9], [3, -4]]), np.array([0.123456789, 1]), 41)
    assert (tmp_path / "a.box").read_text() == "-10\t0\t41\t41\t0.123457\n-18\t-24\t41\t41\t1\n"
    write_box(tmp_path / "a.box", np.array([[10, 20]]), np.array([math.nan]), 40)
    assert (tmp_path / "a.box").read_text() == "-10\t0\t40\t40\n"


# -------------------------------------------------------------------- .star
def test_relion_30_files_are_split_by_micrograph(tmp_path):
    (tmp_path / "all.star").write_text(RELION_30)
    found = read_coordinates(tmp_path / "all.star")
    assert list(found) == ["mics/a.b", "mics/c"]
    assert found["mics/a.b"].centres_xy.tolist() == [[10.5, 20.25], [30, 40]]
    assert found["mics/c"].scores.tolist() == [0.5] and found["mics/c"].box_px is None


def test_relion_31_files_are_read_from_the_table_with_coordinates(tmp_path):
    (tmp_path / "all.star").write_text(RELION_31.replace("\n", "\r\n"), newline="")
    found = read_coordinates(tmp_path / "all.star")
    assert list(found) == ["mics/a.b", "mics/c"] and found["mics/a.b"].centres_xy.tolist() == [[10.5, 20.25]]
    assert np.isnan(found["mics/a.b"].scores).all()


def test_files_in_utf_16_are_read(tmp_path):
    (tmp_path / "all.star").write_text(RELION_31, encoding="utf-16")
    (tmp_path / "b.box").write_text("1 2 4 4 0.5\n", encoding="utf-16")
    assert read_coordinates(tmp_path / "all.star")["mics/a.b"].centres_xy.tolist() == [[10.5, 20.25]]
    assert read_coordinates(tmp_path / "b.box")["b"].centres_xy.tolist() == [[3, 4]]


def test_a_table_without_coordinates_is_refused_with_the_columns_it_has(tmp_path):
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlncoordinatex #1\n_rlncoordinatey #2\n1 2\n")
    with pytest.raises(DeepEMError, match="found _rlncoordinatex, _rlncoordinatey"):
        read_coordinates(tmp_path / "a.star")


def test_the_figure_of_merit_of_picks_by_hand_is_no_score(tmp_path):
    (tmp_path / "a_manualpick.star").write_text(
        COORDINATES_ONLY + "_rlnAutopickFigureOfMerit #3\n1 2 -999.000000\n3 4 0.25\n")
    np.testing.assert_array_equal(read_coordinates(tmp_path)["a"].scores, [math.nan, 0.25])


def test_picks_without_a_score_have_the_figure_of_merit_of_picks_by_hand_for_relion_reads_nan_as_0(tmp_path):
    picks = Coordinates(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.5, math.nan]), None)
    write_star(tmp_path / "all.star", [("a.mrc", picks.centres_xy, picks.scores)], 1.5)
    write_files("relion", tmp_path / "relion", [MicrographPicks("a", "a.mrc", picks)])
    for path in (tmp_path / "all.star", tmp_path / "relion" / "a_autopick.star"):
        assert "3.000000 4.000000 -999 " in path.read_text()
        (found,) = read_coordinates(path).values()
        np.testing.assert_array_equal(found.scores, picks.scores)


@pytest.mark.parametrize("suffix", ["", "_autopick", "_manualpick", "_coords", "_picks"])
def test_star_files_of_a_folder_are_distinguished_by_name(tmp_path, suffix):
    (tmp_path / f"May08_03.05.02{suffix}.star").write_text(COORDINATES_ONLY + "1 2\n3 4\n")
    (tmp_path / f"empty{suffix}.STAR").write_text(COORDINATES_ONLY)
    found = read_coordinates(tmp_path)
    assert set(found) == {"May08_03.05.02", "empty"} and len(found["empty"].centres_xy) == 0
    assert found["May08_03.05.02"].centres_xy.tolist() == [[1, 2], [3, 4]]


def test_two_files_for_one_micrograph_are_refused(tmp_path):
    for name in ("a.star", "a_autopick.star"):
        (tmp_path / name).write_text(COORDINATES_ONLY + "1 2\n")
    with pytest.raises(DeepEMError, match=r"a_autopick\.star.*'a'"):
        read_coordinates(tmp_path)


@pytest.mark.parametrize("text, words", [
    (COORDINATES_ONLY + "1 2\n1 x\n", "line 6: expected a number, found 'x'"),
    (COORDINATES_ONLY + "1 nan\n", "line 5: expected a finite number"),
    (COORDINATES_ONLY + "1\n", "line 5: 1 fields, expected 2"),
    (COORDINATES_ONLY + "1 2 3\n", "line 5: 3 fields, expected 2"),
    ("data_\nloop_\n_rlnVoltage #1\n300\n", "no table has _rlnCoordinateX"),
    ("1 2 40 40\n", "line 1: expected a STAR file"),
    ("", "no table"),
])
def test_an_invalid_line_of_a_star_file_is_named(tmp_path, text, words):
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(DeepEMError) as caught:
        read_coordinates(tmp_path / "a.star")
    assert str(tmp_path / "a.star") in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "missing.star", "notes.txt", "empty folder", "folder.star"])
def test_a_path_without_coordinates_is_an_error_that_names_it(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "folder.star").mkdir()
    with pytest.raises(DeepEMError, match=name):
        read_coordinates(tmp_path / name)


def test_tables_without_loop_have_one_row(tmp_path):
    (tmp_path / "a.star").write_text("data_general\n_rlnX 3 # three\n_rlnName 'two words'\n")
    (table,) = read_tables(tmp_path / "a.star")
    assert (table.name, table.labels, table.rows) == ("general", ["rlnX", "rlnName"], [(3, ["3", "two words"])])


UNUSUAL_NAMES = ["two words", "O'Neil", "O'Neil \"x\"", "100%", "a;b", "Größe", "-dash", "[1]", "#1", "a#1", "_x",
                 "data_x", "loop_", "'quoted'", "a' b", "x\u00a0y"]


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_unusual_names_survive_the_round_trip(tmp_path, name):
    path = tmp_path / "picks.star"
    write_star(path, [(f"{name}.mrc", np.array([[1, 2]]), np.array([0.5])),
                      (f"some folder/{name}.2.mrc", np.array([[3, 4]]), np.array([0.5]))], 1.0)
    assert list(read_coordinates(path)) == [name, f"some folder/{name}.2"]


@settings(deadline=None, max_examples=60)
@given(entries=st.dictionaries(names, points.filter(len), max_size=3))
def test_star_files_keep_names_centres_and_scores(tmp_path_factory, entries):
    path = tmp_path_factory.getbasetemp() / "round trip.star"
    tables = {name: np.reshape(rows, (-1, 3)) for name, rows in entries.items()}
    write_star(path, [(f"7@m/{name}.mrc", table[:, :2], table[:, 2]) for name, table in tables.items()], 1.5)
    again = read_coordinates(path)
    assert list(again) == [f"m/{name}" for name in tables]
    for name, table in tables.items():
        np.testing.assert_allclose(again[f"m/{name}"].centres_xy, table[:, :2], atol=1e-6)
        np.testing.assert_allclose(again[f"m/{name}"].scores, table[:, 2], rtol=1e-5)


@settings(deadline=None)
@given(text=st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=12))
def test_a_quoted_value_is_read_back_or_refused(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "quoted.star"
    try:
        quoted = quote(text)
    except DeepEMError:
        assert {"'", '"'} <= set(text)
        return
    path.write_text(f"data_\nloop_\n_a\n_b\n1 {quoted}\n", encoding="utf-8", newline="")
    assert read_tables(path)[0].rows == [(5, ["1", text])]


@pytest.mark.parametrize("text", ["a\nb", "a\r", "a' b\" c"])
def test_a_value_that_no_quotes_can_hold_is_refused(text):
    with pytest.raises(DeepEMError, match="cannot be written to a STAR file"):
        quote(text)


def test_other_readers_understand_the_star_files(tmp_path):
    starfile = pytest.importorskip("starfile")
    emtable = pytest.importorskip("emtable")
    path = tmp_path / "picks.star"
    write_star(path, [("m/a.mrc", np.array([[1.25, 2], [3, 4]]), np.array([0.5, 1e-7])),
                      ("m/b c.mrc", np.array([[5, 6]]), np.array([0.25]))], 1.77)
    blocks = starfile.read(path)
    assert blocks["particles"]["rlnMicrographName"].tolist() == ["m/a.mrc", "m/a.mrc", "m/b c.mrc"]
    assert blocks["particles"]["rlnCoordinateX"].tolist() == [1.25, 3, 5]
    assert blocks["optics"]["rlnMicrographPixelSize"].tolist() == [1.77]
    write_star(path, [("m/a.mrc", np.array([[1.25, 2], [3, 4]]), np.array([0.5, 1e-7]))], 1.77)
    rows = list(emtable.Table.iterRows(f"particles@{path}"))
    assert [(row.rlnMicrographName, row.rlnCoordinateY, row.rlnOpticsGroup) for row in rows] == [
        ("m/a.mrc", 2, 1), ("m/a.mrc", 4, 1)]


def test_a_star_file_of_no_particles_is_complete(tmp_path):
    path = tmp_path / "picks.star"
    write_star(path, [("a.mrc", np.zeros((0, 2)), np.zeros(0))], 1.77)
    optics, particles = read_tables(path)
    assert particles.labels[:3] == ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"]
    assert particles.rows == [] and optics.rows[0][1][:4] == ["opticsGroup1", "1", "1.770000", "1.770000"]
    assert read_coordinates(path) == {}


def test_a_hundred_thousand_particles_of_one_micrograph_survive_writing_and_reading(tmp_path):
    centres = np.random.default_rng(1).uniform(0, 4000, (100_000, 2))
    write_star(tmp_path / "a.star", [("a.mrc", centres, np.ones(len(centres)))], 1.0)
    np.testing.assert_allclose(read_coordinates(tmp_path / "a.star")["a"].centres_xy, centres, atol=0.006)


def test_the_same_picks_in_box_and_star_files_of_a_folder_count_once(tmp_path, caplog):
    caplog.set_level("INFO")
    write_box(tmp_path / "a.box", np.array([[30.0, 40], [80, 60]]), np.array([0.5, 0.6]), 20)
    (tmp_path / "a_autopick.star").write_text(COORDINATES_ONLY + "80.5 59.5\n31 39\n")  # another order, decimals
    (tmp_path / "b_autopick.star").write_text(COORDINATES_ONLY + "1 2\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c_autopick.star").write_text(COORDINATES_ONLY)
    found = read_coordinates(tmp_path)
    assert {name: each.centres_xy.tolist() for name, each in found.items()} == {
        "a": [[30, 40], [80, 60]], "b": [[1, 2]], "sub/c": []}
    assert (f"{tmp_path}: 1 micrographs from .box files, 2 more from .star files; 1 are in both and count once"
            in caplog.text)


@pytest.mark.parametrize("lines", ["30 40\n32.5 40\n", "30 40\n", "30 40\n31 40\n31 40\n", "30.5 40\n300 40\n"])
def test_different_picks_in_box_and_star_files_of_a_folder_are_refused(tmp_path, lines):
    write_box(tmp_path / "a.box", np.array([[30.0, 40], [31, 40]]), np.full(2, np.nan), 20)
    (tmp_path / "a.star").write_text(COORDINATES_ONLY + lines)
    with pytest.raises(DeepEMError, match=r"a\.star has \d coordinates of a, .*a\.box has 2, and they are not"):
        read_coordinates(tmp_path)


def test_files_of_other_formats_in_a_folder_are_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("image_name\tx_coord\ty_coord\tscore\nx\t3\t4\t0.5\n")
    assert list(read_coordinates(tmp_path)) == ["x"] and caplog.text == ""
    (tmp_path / "b_info.json").write_text('{"boxes": [[30, 40, "manual"]]}')
    (tmp_path / "c_info.json").write_text('{"boxes": [[30, 40, "manual"]]}')
    assert list(read_coordinates(tmp_path)) == ["x"]
    assert f"warning: {tmp_path / 'a.txt'} is read, with the other files of its format; left out: 2 of other formats" \
        in caplog.text
    caplog.clear()
    write_box(tmp_path / "d.box", np.array([[30.0, 40]]), np.array([0.5]), 20)
    assert list(read_coordinates(tmp_path)) == ["d"]  # any .json file may be there
    assert f"{tmp_path / 'd.box'} is read, with the other files of its format; left out: 1 of other" in caplog.text


# ----------------------------------------------------------- atomic writing
def test_a_file_appears_only_when_it_is_complete_and_readable_for_all(tmp_path):
    with atomic_write(tmp_path / "a.txt") as handle:
        handle.write("Größe\n")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_bytes() == "Größe\n".encode()
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    with atomic_write(tmp_path / "a.txt", mode="wb") as handle:
        handle.write(b"\0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "plain"]


def test_a_failure_leaves_the_old_file_and_no_temporary_files(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), atomic_write(tmp_path / "a.txt") as handle:
        handle.write("new")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DeepEMError, match=r"a\.box cannot be written"):
        write_box(tmp_path / "missing folder/a.box", np.zeros((1, 2)), np.zeros(1), 10)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DeepEMError, match="folder cannot be written"), atomic_write(tmp_path / "folder") as handle:
        handle.write("x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# -------------------------------------------------------------- shared data
@needs_shared
@pytest.mark.parametrize("data_set, particles, box", [("apoferritin", 1963, 120), ("empiar10017", 7483, 82)])
def test_boxes_and_star_file_of_the_shared_data_agree(data_set, particles, box):
    boxes = read_coordinates(SHARED / "data" / data_set / "boxes")
    stars = read_coordinates(SHARED / "data" / data_set / "particles.star")
    match = match_names(boxes, stars, ("boxes", "particles.star"))
    assert len(match.pairs) == len(boxes) == len(stars) == 12
    assert sum(len(coordinates.scores) for coordinates in boxes.values()) == particles
    for name, coordinates in boxes.items():
        assert coordinates.box_px == box
        np.testing.assert_allclose(coordinates.centres_xy, stars[match.pairs[name]].centres_xy, atol=0.5)


def test_importing_the_coordinates_loads_no_heavy_library():
    code = ("import sys, deepem_scipion.deepem.coordinates, deepem_scipion.deepem.evaluation.metrics;"
            "print([m for m in ('pandas', 'scipy', 'tensorflow', 'mrcfile', 'tifffile') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[1])
    assert done.stdout == "[]\n"


def test_sets_are_merged_by_name_in_order():
    first = {"a": Coordinates(np.array([[1.0, 2.0]]), np.array([0.5]), 24.0)}
    second = {"a": Coordinates(np.array([[3.0, 4.0]]), np.array([np.nan]), 30.0),
              "b": Coordinates(np.zeros((0, 2)), np.zeros(0), None)}
    together = merge([first, second])
    assert list(together) == ["a", "b"]
    np.testing.assert_array_equal(together["a"].centres_xy, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(together["a"].scores, [0.5, np.nan])
    assert together["a"].box_px == 24.0 and len(together["b"].centres_xy) == 0
    assert merge([]) == {}
