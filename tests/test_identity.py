# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which micrograph is which: names in folders, names of other programs, and files of coordinates read whole."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.formats import headers
from deepem_scipion.deepem.coordinates.formats.base import MicrographInfo
from deepem_scipion.deepem.coordinates.names import by_micrograph, copies, match_names, short_names
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.startables import quote

WHAT = ("first", "second")
COORDINATES = "\ndata_{0}\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"


# ---------------------------------------------------------------------- rules
@pytest.mark.parametrize("first, second, pairs, rule", [
    ("/p/Jul/a /p/Aug/a", "mics/Aug/a mics/Jul/a", {"/p/Jul/a": "mics/Jul/a", "/p/Aug/a": "mics/Aug/a"}, "path"),
    ("/p/Jul/a /p/Jul/b", "Jul/a Jul/b Aug/a Aug/b", {"/p/Jul/a": "Jul/a", "/p/Jul/b": "Jul/b"}, "path"),
    ("/p/Jul/a /p/Aug/a", "Jul/a", {"/p/Jul/a": "Jul/a"}, "path"),
    ("x/1/a x/2/a", "y/1/a y/2/a", {"x/1/a": "y/1/a", "x/2/a": "y/2/a"}, "path"),
    ("a Jul/a", "Jul/a a", {"a": "a", "Jul/a": "Jul/a"}, "path"),
    ("a b", "Movies/b Movies/a", {"a": "Movies/a", "b": "Movies/b"}, "file name"),
    ("a", r"..\average\a", {"a": r"..\average\a"}, "file name"),
    ("a", "m/a_DW", {"a": "m/a_DW"}, "file name without '_DW'"),
    ("a b", "a.mrc b.mrc", {"a": "a.mrc", "b": "b.mrc"}, "file name without '.mrc'"),
    ("a", "J3/motioncorrected/000010000000000000000_a_patch_aligned_doseweighted",
     {"a": "J3/motioncorrected/000010000000000000000_a_patch_aligned_doseweighted"},
     "file name without cryoSPARC's number and '_patch_aligned_doseweighted'"),
    ("a", "rawdata/a.frames", {"a": "rawdata/a.frames"}, "file name without '.frames'"),
    ("a", "a-DW", {"a": "a-DW"}, "file name without '-DW'"),
    ("a", "a_motion_corrected_particles", {"a": "a_motion_corrected_particles"},
     "file name without '_motion_corrected_particles'"),
    ("a_DW", "a_aligned_mic", {"a_DW": "a_aligned_mic"}, "file name without '_DW' and '_aligned_mic'"),
    ("Jul/a Aug/a", "Jul/a_DW Aug/a_DW", {"Jul/a": "Jul/a_DW", "Aug/a": "Aug/a_DW"}, "file name without '_DW'"),
])
def test_micrographs_are_the_same_by_path_then_by_name_then_without_known_endings(first, second, pairs, rule):
    found = match_names(first.split(), second.split(), WHAT)
    assert found.pairs == pairs and set(found.rules.values()) == {rule}
    assert set(found.only_first) == set(first.split()) - set(pairs)
    assert set(found.only_second) == set(second.split()) - set(pairs.values())
    assert rule in found.describe()
    back = match_names(second.split(), first.split(), WHAT)
    assert back.pairs == {right: left for left, right in pairs.items()}


@pytest.mark.parametrize("first, second, pairs", [
    ("x x_DW", "x_DW", {"x_DW": "x_DW"}), ("x x_DW", "x", {"x": "x"}), ("x x_DW", "x_DW x", {"x": "x", "x_DW": "x_DW"}),
    ("x y", "x x_DW y_DW", {"x": "x", "y": "y_DW"}), ("x", "y", {}), ("x_bin2", "x", {}), ("x_1", "x_2", {}),
    ("Jul/a Aug/a", "Jul/a Sep/a", {"Jul/a": "Jul/a"}), ("", "a", {}),
])
def test_an_ending_never_confuses_two_micrographs_that_are_both_there(first, second, pairs):
    assert match_names(first.split(), second.split(), WHAT).pairs == pairs


@pytest.mark.parametrize("first, second", [
    ("Jul/a Aug/a", "a"), ("a", "Jul/a Aug/a"), ("Jul/a Aug/a", "Sep/a"), ("x/1/a y/1/a", "z/1/a"),
    ("x", "x_DW x_noDW"), ("Jul/a Aug/a", "Jul/a a"), ("x_DW x_aligned", "x"), ("Jul/x Aug/x", "x_DW"),
])
def test_what_could_be_several_micrographs_is_refused_with_both_sides(first, second):
    for left, right in ((first, second), (second, first)):
        with pytest.raises(DeepEMError, match="not clear which micrographs are the same: first: .* second: ") \
                as caught:
            match_names(left.split(), right.split(), WHAT)
        assert all(any(name in str(caught.value) for name in side.split()) for side in (left, right))


parts = st.sampled_from(["Jul", "Aug", "a", "b", "x_DW", "x"])
paths = st.lists(st.lists(parts, min_size=1, max_size=3).map("/".join), max_size=6, unique=True)


@given(first=paths, second=paths)
def test_no_two_names_share_a_partner_and_equal_paths_always_belong_together(first, second):
    try:
        found = match_names(first, second, WHAT)
    except DeepEMError:
        return
    assert len(set(found.pairs.values())) == len(found.pairs)
    assert sorted([*found.pairs, *found.only_first]) == sorted(first)
    assert sorted([*found.pairs.values(), *found.only_second]) == sorted(second)
    assert all(found.pairs[name] == name for name in set(first) & set(second))


@given(names=paths)
def test_short_names_are_ends_that_differ(names):
    short = short_names(names)
    assert len(set(short.values())) == len(names)
    assert all(f"/{name}".endswith(f"/{end}") for name, end in short.items())


def test_micrographs_that_are_there_twice_in_a_folder_are_found():
    files = {name: Path(path) for name, path in (
        ("x", "m/x.mrc"), ("x_DW", "m/x_DW.mrc"), ("y", "m/y.mrc"), ("y.mrc", "m/y.mrc.gz"), ("z", "m/z.mrc"),
        ("z_DW", "other/z_DW.mrc"), ("x_2", "m/x_2.mrc"))}
    assert copies(files) == [["x", "x_DW"], ["y", "y.mrc"]]


def test_links_to_one_micrograph_are_found(tmp_path):
    (tmp_path / "x.mrc").touch()
    (tmp_path / "other.mrc").symlink_to("x.mrc")
    assert copies({"x": tmp_path / "x.mrc", "other": tmp_path / "other.mrc"}) == [["x", "other"]]


def test_accents_may_be_written_in_two_ways():
    match = match_names(["a/gr\u00f6\u00dfe"], ["b/gro\u0308\u00dfe"], ("micrographs", "coordinates"))
    assert match.pairs == {"a/gr\u00f6\u00dfe": "b/gro\u0308\u00dfe"} and "by file name" in match.describe()


@pytest.mark.parametrize("ending", ["_extract", "_automatch"])
def test_files_of_picks_of_relion_and_gautomatch_belong_to_their_micrographs(tmp_path, ending):
    table = COORDINATES.format("").replace("_rlnMicrographName #1\n", "") + "1 2\n"
    for name in (f"a{ending}", "a_rejected"):
        (tmp_path / f"{name}.star").write_text(table)
    match = match_names(["mics/a"], read_coordinates(tmp_path), ("micrographs", "coordinates"))
    assert match.pairs == {"mics/a": f"a{ending}"} and match.only_second == ("a_rejected",)


def test_a_number_at_the_end_of_a_name_is_no_extension(tmp_path):
    (tmp_path / "all.star").write_text(COORDINATES.format("") + "May08_03.05.02 1 2\nm/May08_03.05.17 3 4\n")
    assert list(read_coordinates(tmp_path / "all.star")) == ["May08_03.05.02", "m/May08_03.05.17"]


def test_the_size_of_a_micrograph_is_found_by_every_name_of_it_and_not_by_comparing_all(monkeypatch):
    files = {"given": Path("m/a.mrc"), "b": Path("m/b_DW.mrc"), "Jul/c": Path("Jul/c.mrc"), "Aug/c": Path("Aug/c.mrc"),
             **{f"n{number}": Path(f"m/n{number}.mrc") for number in range(1000)}}
    monkeypatch.setattr(headers, "read_info", lambda path, size: MicrographInfo((len(str(path)), 1), None))
    compared = []
    monkeypatch.setattr(headers, "by_micrograph", lambda few, *others: compared.append(len(few)) or by_micrograph(
        few, *others))
    sizes = headers.MicrographHeaders(files)
    for name, path in (("given", "m/a.mrc"), ("x/a", "m/a.mrc"), ("b", "m/b_DW.mrc"), ("y/b_DW", "m/b_DW.mrc"),
                       ("p/Aug/c", "Aug/c.mrc"), ("m/n7.mrc", "m/n7.mrc")):
        assert sizes[name].shape == (len(path), 1), name
    assert sizes.get("nowhere") is None and max(compared) == 2
    with pytest.raises(DeepEMError, match="not clear"):
        sizes["c"]


def test_a_name_given_to_a_micrograph_comes_before_its_path():
    micrographs = {"one": Path("m/a.mrc"), "two": Path("m/b.mrc")}
    assert by_micrograph(micrographs, {"one": 1, "b": 2}, "file")[0] == {"one": 1, "two": 2}


# -------------------------------------------------------------------- reading
folders = st.lists(st.sampled_from(["Jul", "Aug 2", "it's", "d"]), max_size=2)
letters = st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters="/\\")
stems = st.one_of(st.sampled_from(["img_0001", "two words", "O'Neil", "#1", "data_x", "a.b"]),
                  st.text(letters, min_size=1, max_size=6)).filter(
    lambda name: name.strip(". ") == name and not ("'" in name and '"' in name) and name.lower() not in ("nan", "na"))
spots = st.lists(st.tuples(st.integers(-50, 4000), st.integers(-50, 4000)), max_size=5)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sets=st.lists(st.tuples(folders, stems, spots, st.sampled_from("bsm")), max_size=6,
                     unique_by=lambda item: ("/".join(item[0]).lower(), item[1].lower())), blocks=st.integers(1, 3))
def test_any_set_of_coordinates_is_read_back_whole_and_belongs_to_its_micrograph(tmp_path, sets, blocks):
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    written, joint = {}, [[] for _ in range(blocks)]
    for place, stem, xy, kind in sets:
        name = "/".join([*place, stem])
        target = tmp_path / "x" / f"{name}.box"
        if kind == "m" and not xy:  # a table cannot state that a micrograph has none
            continue
        written[name] = sorted(xy)
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "b":
            write_box(target, np.array(xy, float), np.full(len(xy), np.nan), 10)
        elif kind == "s":
            Path(f"{target.with_suffix('')}").parent.mkdir(exist_ok=True)
            text = COORDINATES.format("").replace("_rlnMicrographName #1\n", "")
            (target.parent / f"{stem}_coords.star").write_text(text + "".join(f"{x} {y}\n" for x, y in xy))
        for number, (x, y) in enumerate(xy * (kind == "m")):
            joint[number % blocks].append(f"{quote(f'{name}.mrc')} {x} {y}\n")
    if any(joint):
        (tmp_path / "x").mkdir(exist_ok=True)
        text = "".join(COORDINATES.format(number) + "".join(lines) for number, lines in enumerate(joint))
        (tmp_path / "x" / "particles 1.star").write_text(text)
    if not written:
        return
    different = len({name.split("/")[-1].lower() for name in written}) == len(written)
    try:
        found = read_coordinates(tmp_path / "x")
    except DeepEMError as error:  # img.box, and Jul/img in a table: perhaps the same
        assert not different and ("not clear" in str(error) or "are not the same" in str(error))
        return
    assert {name: sorted(map(tuple, each.centres_xy.tolist())) for name, each in found.items()} == written
    micrographs = {f"n{number}": tmp_path / "mics" / f"{name}.mrc" for number, name in enumerate(written)}
    try:
        assigned, match = by_micrograph(micrographs, found, "x")
    except DeepEMError as error:  # a name without folders, and another with them
        assert not different and "not clear" in str(error)
        return
    for number, name in enumerate(written):
        if f"n{number}" in assigned:
            assert sorted(map(tuple, assigned[f"n{number}"].centres_xy.tolist())) == written[name]
    if different:
        assert len(assigned) == len(written) and not match.only_second


def test_blocks_of_a_file_and_boxes_beside_tables_are_all_read(tmp_path):
    (tmp_path / "all.star").write_text(COORDINATES.format("one") + "m/a.mrc 1 2\nm/b.mrc 3 4\n"
                                       + COORDINATES.format("two") + "m/a.mrc 5 6\n")
    found = read_coordinates(tmp_path / "all.star")
    assert found["m/a"].centres_xy.tolist() == [[1, 2], [5, 6]] and found["m/b"].centres_xy.tolist() == [[3, 4]]
    write_box(tmp_path / "c.box", np.array([[7, 8]]), np.array([np.nan]), 4)
    write_box(tmp_path / "a.box", np.array([[5.4, 6], [1, 2]]), np.full(2, np.nan), 4)  # the same picks once more
    found = read_coordinates(tmp_path)
    assert {name: len(each.scores) for name, each in found.items()} == {"a": 2, "c": 1, "m/b": 1}
    write_box(tmp_path / "a.box", np.array([[50, 6], [1, 2]]), np.full(2, np.nan), 4)
    with pytest.raises(DeepEMError, match=r"all\.star has 2 coordinates of m/a, .*a\.box has 2, and they are not"):
        read_coordinates(tmp_path)


def test_an_index_of_relion_leads_to_its_files_and_gives_them_their_micrographs(tmp_path, monkeypatch):
    job = tmp_path / "AutoPick/job010"
    (job / "Movies").mkdir(parents=True)
    table = "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
    (job / "Movies/a_autopick.star").write_text(table + "1 2\n3 4\n")
    (job / "Movies/b_autopick.star").write_text(table)
    (job / "job.star").write_text("data_job\n_rlnJobTypeLabel relion.autopick\n")
    (job / "summary.star").write_text("data_\nloop_\n_rlnMicrographName #1\n_rlnGroupNrParticles #2\nm.mrc 2\n")
    (job / "autopick.star").write_text("data_coordinate_files\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates "
                                       "#2\n" + "".join(f"Micrographs/{name}.mrc AutoPick/job010/Movies/{name}_autopick"
                                                        ".star\n" for name in "ab"))
    for place in (job / "autopick.star", job):
        found = read_coordinates(place)
        assert {name: len(each.scores) for name, each in found.items()} == {"Micrographs/a": 2, "Micrographs/b": 0}
    (job / "Movies/b_autopick.star").unlink()
    with pytest.raises(DeepEMError, match="coordinates of Micrographs/b should be in .*b_autopick.star, and there is"):
        read_coordinates(job / "autopick.star")


def test_the_same_picks_in_two_formats_of_cryolo_do_not_count_twice(tmp_path):
    for folder in ("out/EMAN", "out/STAR", "other"):
        (tmp_path / folder).mkdir(parents=True)
    write_box(tmp_path / "out/EMAN/a.box", np.array([[50, 6]]), np.ones(1), 4)
    (tmp_path / "out/STAR/a.star").write_text("data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n50 6\n")
    for folder in (tmp_path, tmp_path / "out"):
        with pytest.raises(DeepEMError, match="out has the same picks of crYOLO .*give its folder CBOX"):
            read_coordinates(folder)
    (tmp_path / "out/STAR/a.star").rename(tmp_path / "other/a.star")
    assert set(read_coordinates(tmp_path)) == {"out/EMAN/a", "other/a"}


@pytest.mark.parametrize("text", ["<NA>", "nan", "NaN", "NA", "None"])
def test_a_missing_score_is_read_as_none(tmp_path, text):
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit "
                                     f"#3\n1 2 {text}\n3 4 0.5\n")
    np.testing.assert_array_equal(read_coordinates(tmp_path)["a"].scores, [np.nan, 0.5])
    (tmp_path / "a.star").write_text(f"data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n{text} 2\n")
    with pytest.raises(DeepEMError, match="line 5: expected a"):
        read_coordinates(tmp_path)


def test_ends_of_filaments_are_refused_and_such_scores_are_not(tmp_path):
    (tmp_path / "a.box").write_text("1 2 40 40 -1\n9 2 40 40 -2\n")
    with pytest.raises(DeepEMError, match=r"a\.box: the fifth column is -1 or -2 in all 2 lines.*ends of filaments"):
        read_coordinates(tmp_path)
    (tmp_path / "a.box").write_text("1 2 40 40 -1\n9 2 40 40 -2\n5 5 40 40 -1.5\n")
    assert read_coordinates(tmp_path)["a"].scores.tolist() == [-1, -2, -1.5]


def test_particles_without_a_micrograph_are_refused_by_that_label(tmp_path):
    (tmp_path / "a.star").write_text("data_particles\nloop_\n_rlnImageName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
                                     "1@x.mrcs 1 2\n")
    with pytest.raises(DeepEMError, match="'particles' has _rlnImageName and no _rlnMicrographName"):
        read_coordinates(tmp_path / "a.star")
    (tmp_path / "a.star").write_text(COORDINATES.format("") + "'' 1 2\n")
    with pytest.raises(DeepEMError, match="line 8: expected the name of a micrograph in _rlnMicrographName, found ''"):
        read_coordinates(tmp_path / "a.star")


OPTICS = "data_optics\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n1 2.0\n2 4.0\n"


def test_shifts_of_an_alignment_are_subtracted_on_request(tmp_path, caplog):
    angst = tmp_path / "angst.star"
    angst.write_text(OPTICS + "data_particles\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
                     "_rlnOriginXAngst #4\n_rlnOriginYAngst #5\n_rlnOpticsGroup #6\na.mrc 100 50 8 -4 1\n"
                     "b.mrc 100 50 8 -4 2\n")
    found = read_coordinates(angst, shifts=True)
    assert found["a"].centres_xy.tolist() == [[96, 52]] and found["b"].centres_xy.tolist() == [[98, 51]]
    assert not caplog.records and read_coordinates(angst)["a"].centres_xy.tolist() == [[100, 50]]
    assert "are not applied; --apply-shifts subtracts them" in caplog.text
    pixels = tmp_path / "pixels.star"
    pixels.write_text("data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnOriginX #3\n_rlnOriginY #4\n"
                      "9 9 1 -2\n")
    assert read_coordinates(pixels, shifts=True)["pixels"].centres_xy.tolist() == [[8, 11]]
    pixels.write_text("data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n9 9\n")
    with pytest.raises(DeepEMError, match="neither _rlnOriginXAngst"):
        read_coordinates(pixels, shifts=True)
    angst.write_text(angst.read_text().replace("_rlnMicrographPixelSize", "_rlnVoltage"))
    with pytest.raises(DeepEMError, match="no table has a pixel size"):
        read_coordinates(angst, shifts=True)


SHIFTED = ("data_particles\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
           "_rlnOriginXAngst #4\n_rlnOriginYAngst #5\n")


@pytest.mark.parametrize("optics, table, centre", [
    ("_rlnMicrographPixelSize #1\n0.5\n", "a.mrc 100 50 8 -4\n", [84, 58]),
    ("_rlnMicrographOriginalPixelSize #1\n2\n", "a.mrc 100 50 8 -4\n", [96, 52]),
    ("_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n7 4\n", "a.mrc 100 50 8 -4\n", [98, 51]),  # the only one
    ("_rlnImagePixelSize #1\n_rlnMicrographPixelSize #2\n4 2\n", "a.mrc 100 50 8 -4\n", [96, 52])])
def test_shifts_in_angstrom_are_divided_by_the_pixel_size_of_the_micrographs(tmp_path, optics, table, centre):
    (tmp_path / "p.star").write_text(f"data_optics\nloop_\n{optics}{SHIFTED}{table}")
    for path in (tmp_path / "p.star", tmp_path):
        assert read_coordinates(path, shifts=True)["a"].centres_xy.tolist() == [centre]


@pytest.mark.parametrize("optics, table, message", [
    ("1 2.0\n2 4.0\n", "a.mrc 100 50 8 -4\n", "line 14: no pixel size for optics group ''. Expected it in the table"),
    ("1 2.0\n", "_rlnOpticsGroup #6\na.mrc 100 50 8 -4 3\n", "line 14: no pixel size for optics group '3'. Expected"),
    ("1 2.0\n", "a.mrc 100 50 8 left\n", "line 13: expected a number, found 'left'"),
    ("1 wide\n", "a.mrc 100 50 8 -4\n", "line 5: expected a number, found 'wide'"),
    ("1 2.0\n2 0\n", "a.mrc 100 50 8 -4\n", "no table has a pixel size above 0 (_rlnMicrographPixelSize). Expected")])
def test_shifts_that_cannot_be_used_are_an_error_that_names_file_and_line(tmp_path, optics, table, message):
    head = "data_optics\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n"
    (tmp_path / "p.star").write_text(head + optics + SHIFTED + table)
    with pytest.raises(DeepEMError) as caught:
        read_coordinates(tmp_path / "p.star", shifts=True)
    assert str(caught.value).startswith(str(tmp_path / "p.star")) and message in str(caught.value)


# ------------------------------------------------------------------- programs
@pytest.fixture(scope="module")
def twins(blobs, tmp_path_factory):
    """Folders Jul and Aug with micrographs img_1 and img_2 each, and particles.star with the centres in all four."""
    folder = tmp_path_factory.mktemp("twins")
    lines = []
    for source, name in zip("abcd", ("Jul/img_1", "Jul/img_2", "Aug/img_1", "Aug/img_2")):
        place = folder / "mics" / f"{name}.mrc"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(blobs[0] / "micrographs" / f"{source}.mrc", place)
        # A different number on each.
        lines += [f"mics/{name}.mrc {x:.2f} {y:.2f}\n" for x, y in blobs[1][source][:"abcd".index(source) + 7]]
    (folder / "particles.star").write_text(COORDINATES.format("particles") + "".join(lines))
    (folder / "jul.star").write_text(COORDINATES.format("particles") + "".join(x for x in lines if "Jul" in x))
    return folder


def trained_on(monkeypatch, *options):
    """Return the number of particles of each micrograph that `deepem train` passes on."""
    from deepem_scipion.deepem.training import train as learning

    class Enough(BaseException):
        pass

    def train(data, *others):
        raise Enough({name: len(data.particles[name].scores) for name in data.names})

    monkeypatch.setattr(learning, "train_model", train)
    with pytest.raises(Enough) as caught:
        main(["train", "--diameter", "64", "--output", "m", *map(str, options)])
    return caught.value.args[0]


def test_training_takes_for_each_micrograph_the_particles_of_its_own_path(twins, monkeypatch, tmp_path):
    monkeypatch.chdir(twins)
    assert trained_on(monkeypatch, "--micrographs", "mics/Jul/*.mrc", "--coordinates", "particles.star") \
        == {"img_1": 7, "img_2": 8}
    all_four = {"Jul/img_1": 7, "Jul/img_2": 8, "Aug/img_1": 9, "Aug/img_2": 10}
    coordinates = ("--coordinates", twins / "particles.star")
    assert trained_on(monkeypatch, "--micrographs", "mics/Jul", "mics/Aug", *coordinates) == all_four
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"mics/{name}.mrc\t{name.replace('/', ' ')}\n" for name in all_four))
    assert trained_on(monkeypatch, "--micrographs", listed, "--coordinates", "particles.star") \
        == {name.replace("/", " "): number for name, number in all_four.items()}
    monkeypatch.chdir(twins / "mics/Aug")  # the path of a micrograph does not depend on the current folder
    assert trained_on(monkeypatch, "--micrographs", "img_1.mrc", *coordinates) == {"img_1": 9}


def test_evaluation_compares_each_micrograph_with_itself(twins, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    assert main(["evaluate", "--truth", str(twins / "jul.star"), "--picks", str(twins / "particles.star"), "--distance",
                 "4", "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert [found["overall"][key] for key in ("truth", "picks", "true_positives")] == [15, 15, 15]
    assert "picks of 2 micrographs without reference coordinates do not count" in capsys.readouterr().err
    (tmp_path / "img_1.box").write_text("1 2 4 4\n")
    both = ["--truth", str(twins / "particles.star"), "--picks", str(tmp_path)]
    assert main(["evaluate", *both, "--distance", "4"]) == 2
    message = capsys.readouterr().err
    assert "not clear which micrographs are the same" in message and "img_1" in message and "mics/Aug/img_1" in message


def test_micrographs_of_one_name_are_picked_in_one_run_into_subfolders(twins, blobs, blob_model, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(twins / "mics/*/*.mrc"), "--output", str(out),
                 "--score-maps", "--report"]) == 0
    names = {"Jul/img_1", "Jul/img_2", "Aug/img_1", "Aug/img_2"}
    assert set(read_coordinates(out)) == names
    for kind in ("{}.box", "candidates/{}.tsv", "scores/{}.mrc"):
        assert all((out / kind.format(name)).is_file() for name in names)
    star = read_coordinates(out / "picks.star")
    for source, name in zip("abcd", ("Jul/img_1", "Jul/img_2", "Aug/img_1", "Aug/img_2")):
        picks = star[str(twins / "mics" / name)].centres_xy
        assert len(picks) == len(read_coordinates(out)[name].scores) > 9
        distances = np.hypot(*(blobs[1][source][:, None] - picks).transpose(2, 0, 1))
        assert (distances.min(axis=1) < 4).mean() > 0.8  # of its own micrograph
    figures = tmp_path / "figures.json"
    assert main(["evaluate", "--truth", str(twins / "particles.star"), "--picks", str(out), "--distance", "4", "--json",
                 str(figures), "--report", str(tmp_path / "r.html")]) == 0
    found = json.loads(figures.read_text())
    assert found["overall"]["truth"] == 34 and found["overall"]["recall"] > 0.8
    assert set(found["micrographs"]) == names
    flat = tmp_path / "jul"  # a subfolder by itself is a folder of coordinates as any other
    shutil.copytree(out / "Jul", flat)
    assert main(["evaluate", "--truth", str(twins / "jul.star"), "--picks", str(flat), "--distance", "4"]) == 0


@pytest.mark.parametrize("name, ignored", [
    ("J3/motioncorrected/000010000000000000000_{}_patch_aligned_doseweighted.mrc",
     "cryoSPARC's number and '_patch_aligned_doseweighted'"), ("MotionCorr/job002/Movies/{}_DW.mrc", "'_DW'"),
    ("..\\average\\{}.mrc", None), ("{}.mrc.gz", "'.mrc'")])
def test_names_of_other_programs_are_recognised_and_the_log_states_what_was_ignored(blobs, tmp_path, capsys, name,
                                                                                   ignored):
    star = tmp_path / "picks.star"
    star.write_text(COORDINATES.format("") + "".join(f"{name.format(mic)} {x} {y}\n" for mic in "ab"
                                                     for x, y in blobs[1][mic]))
    assert main(["evaluate", "--truth", str(blobs[0] / "boxes"), "--picks", str(star), "--distance", "4", "--json",
                 str(tmp_path / "f.json")]) == 0
    found = json.loads((tmp_path / "f.json").read_text())["micrographs"]
    assert found["a"]["F1"] == found["b"]["F1"] == 1 and found["c"]["picks"] == 0
    message = capsys.readouterr().err
    assert f"2 by file name{' without ' + ignored if ignored else ''} (a is " in message
