# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates in the formats of other programs.

The samples are written by hand as each program writes them, for one bright pixel in an image that is neither square nor
symmetric: what is read must point at this pixel.
"""

import io
import json
import math
import pickle
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.formats.base import MicrographInfo, MicrographPicks
from deepem_scipion.deepem.coordinates.formats.cryosparc import exposure_uid
from deepem_scipion.deepem.coordinates.formats.registry import FORMATS, format_of, read_file, write_files
from deepem_scipion.deepem.coordinates.formats.relion import name_in_project
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.startables import read_tables

ROWS, COLUMNS, X, Y = 90, 140, 30, 12
IMAGE = np.zeros((ROWS, COLUMNS))
IMAGE[Y, X] = 1
PIXEL_SIZE = 1.5
INFOS = {"May08_03.05.02": MicrographInfo((ROWS, COLUMNS), PIXEL_SIZE)}
NAME = "May08_03.05.02"

RELION_30 = "\ndata_\n\nloop_ \n_rlnCoordinateX #1 \n_rlnCoordinateY #2 \n_rlnAutopickFigureOfMerit #3 \n"
CBOX = f"""
data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
{X - 10.5} {Y - 10.5} <NA> 21 21 <NA> 18.5 19.5 0.75 <NA> <NA>

data_cryolo_include

loop_
_slice_index #1
"""
XMIPP_HEAD = "# XMIPP_STAR_1 *\n#\ndata_header\nloop_\n _pickingMicrographState\nAuto\n"
VIA = ("filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
       f'{NAME}.png,-1,{{}},1,0,"{{""name"":""point"",""cx"":{X},""cy"":{Y}}}","{{""score"":""0.75""}}"\n')


def cs_array(**changes):
    """Records of a .cs file with one particle at X, Y: cryoSPARC counts y from the last row."""
    fields = {"uid": ("<u8", 7), "location/micrograph_uid": ("<u8", 5), "location/exp_group_id": ("<u4", 1),
              "location/micrograph_path": ("S60", b"J2/motioncorrected/" + NAME.encode() + b".mrc"),
              "location/micrograph_shape": (("<u4", (2,)), (ROWS, COLUMNS)),
              "location/center_x_frac": ("<f4", X / COLUMNS), "location/center_y_frac": ("<f4", 1 - Y / ROWS),
              "pick_stats/ncc_score": ("<f4", 0.75), **changes}
    fields = {name: field for name, field in fields.items() if field}
    types = [(name, *(kind if isinstance(kind, tuple) else (kind,))) for name, (kind, _) in fields.items()]
    table = np.zeros(1, types)
    for name, (_, value) in fields.items():
        table[name] = value
    return table


def npy(array, **how):
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


# What to read: format, file, content, score, box size.
SAMPLES = {
    "EMAN2 box": ("eman", f"{NAME}.box", f"{X - 10}\t{Y - 10}\t20\t20\n", None, 20),
    "crYOLO box": ("eman", f"{NAME}.box", f"{X - 10.5}\t{Y - 10.5}\t21\t21\n", None, 21),
    "EMAN2 json": ("eman-json", f"{NAME}_info.json", json.dumps(
        {"ctf_frame": [1024, "no"], "boxes": [[X, Y, "manual"]], "global.boxsize": 64}), None, None),
    "EMAN2 json with score": ("eman-json", f"{NAME}_info.json", json.dumps({"boxes": [[X, Y, "auto_local", 0.75]]}),
                              0.75, None),
    "EMAN2 json of tilt pairs": ("eman-json", f"{NAME}_info.json", json.dumps({"boxes_rct": [[X, Y, "untilted"]]}),
                                 None, None),
    "RELION 3.0": ("relion", f"{NAME}_autopick.star", f"{RELION_30}{X}.000000 {Y}.000000 0.75\n \n", 0.75, None),
    "RELION 3.1": ("relion", f"{NAME}_autopick.star", f"\n# version 30001\n{RELION_30}{X} {Y} 0.75\n", 0.75, None),
    "RELION 4 and 5": ("relion", f"{NAME}_autopick.star", f"\n# version 50001\n{RELION_30}{X} {Y} 0.75\n", 0.75, None),
    "crYOLO": ("cryolo", f"{NAME}.cbox", CBOX, 0.75, 21),
    "crYOLO before 1.8": ("cryolo", f"{NAME}.cbox", f"{X - 10}\t{Y - 10}\t20\t20\t0.75\t18\t19\n", 0.75, 20),
    "Topaz": ("topaz", "picks.txt", f"image_name\tx_coord\ty_coord\tscore\n{NAME}\t{X}\t{Y}\t0.75\n", 0.75, None),
    "Topaz, no score": ("topaz", "train.txt", f"image_name\tx_coord\ty_coord\n{NAME}.mrc\t{X}\t{Y}\n", None, None),
    "Topaz with commas": ("topaz", "picks.csv", f"image_name,x_coord,y_coord,score\n{NAME},{X},{Y},0.75\n", 0.75, None),
    "VIA": ("via", "picks.csv", VIA, 0.75, None),
    "VIA 1": ("via", "picks.csv", f"#{VIA}", 0.75, None),
    "cryoSPARC": ("cryosparc", "picked_particles.cs", npy(cs_array()), 0.75, None),
    "cryoSPARC, no score": ("cryosparc", "passthrough.cs", npy(cs_array(**{"pick_stats/ncc_score": None})), None, None),
    "CryoPPP": ("cryoppp", f"{NAME}.csv", f"X-Coordinate,Y-Coordinate,Diameter\n{X},{ROWS - Y},20\n", None, 20),
    "CryoPPP, all": ("cryoppp", "particles_selected.csv", "Particles Filename,Micrographs Filename,X-Coordinate,"
                     f"Y-Coordinate,Class Number\np.mrc,{NAME}.mrc,{X},{ROWS - Y},1\n", None, None),
    "Xmipp": ("xmipp", f"{NAME}.pos", f"{XMIPP_HEAD}data_particles\nloop_\n _xcoor\n _ycoor\n {X} {Y}\n", None, None),
    "Xmipp, automatic": ("xmipp", f"{NAME}.pos", f"{XMIPP_HEAD}data_particles_auto\nloop_\n _enabled\n _xcoor\n _ycoor"
                         f"\n _cost\n 1 {X} {Y} 0.75\n -1 50 50 0.9\n", 0.75, None),
    "Xmipp xmd": ("xmipp", "all.xmd", "# XMIPP_STAR_1 *\n#\ndata_noname\nloop_\n _image\n _micrograph\n _xcoor\n "
                  f"_ycoor\n 1@a.stk mics/{NAME}.mrc {X} {Y}\n", None, None),
    "napari": ("napari", f"{NAME}.csv", f"index,axis-0,axis-1\n0.0,{Y}.0,{X}.0\n", None, None),
    "napari, quoted, score": ("napari", f"{NAME}.csv", f'"index","axis-0","axis-1","score"\n0,{Y},{X},0.75\n', 0.75,
                              None),
    "Warp": ("relion", f"{NAME}_BoxNet2Mask_20180918.star", "\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
             f"_rlnMicrographName #3\n_rlnAutopickFigureOfMerit #4\n{X}.00\t{Y}.00\t{NAME}.mrc\t0.75\n", 0.75, None),
    "M": ("m", "goodparticles.star", "data_\n\nloop_\n_wrpCoordinateX1 #1\n_wrpCoordinateY1 #2\n_wrpCoordinateZ1 #3\n"
          f"_wrpSourceName #4\n{X * PIXEL_SIZE} {Y * PIXEL_SIZE} 0.0 {NAME}.mrc\n", None, None),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_files_of_every_program_point_at_the_particle(sample, tmp_path):
    name, file, content, score, box = SAMPLES[sample]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert format_of(path) == name
    ((micrograph, found),) = read_file(path, infos=INFOS).items()
    assert micrograph.split("/")[-1] == NAME
    (centre,) = found.centres_xy
    np.testing.assert_allclose(centre, (X, Y), atol=1e-4)
    assert IMAGE[tuple(np.rint(centre[::-1]).astype(int))] == 1
    np.testing.assert_allclose(found.scores, [math.nan if score is None else score])
    assert found.box_px == box
    ((micrograph, again),) = read_coordinates(tmp_path, infos=INFOS).items()  # the folder
    assert micrograph.split("/")[-1] == NAME and again.centres_xy.tolist() == found.centres_xy.tolist()


def picks_of(name, table, box=24.0, folder="mics", rows=ROWS, columns=COLUMNS):
    table = np.reshape(np.array(table, float), (-1, 3))
    return MicrographPicks(name, f"{folder}/{name}.mrc", Coordinates(table[:, :2], table[:, 2], box),
                           MicrographInfo((rows, columns), PIXEL_SIZE))


WRITTEN = [name for name, each in FORMATS.items() if each.write]
# Error of a position in pixels, whether scores are kept, and box sizes.
KEEPS = {"eman": (0.5, True, True), "eman-json": (1e-3, True, False), "relion": (1e-6, True, False),
         "cryolo": (1e-4, True, True), "topaz": (1e-3, True, False), "cryosparc": (2e-3, True, False),
         "cryoppp": (1e-3, False, True), "xmipp": (0.5, True, False), "napari": (1e-3, True, False),
         "warp": (1e-3, True, False)}
numbers = st.floats(-100, 8000, allow_nan=False)
tables = st.lists(st.tuples(numbers, numbers, st.floats(0, 1, width=32) | st.just(math.nan)), min_size=1, max_size=6)
letters = st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Zs"), blacklist_characters="/\"'\\@")
names = st.text(letters, min_size=1, max_size=12).filter(lambda name: name.strip(".") and not name.lower().endswith(
    (".mrc", "_autopick", "_info", "_picks", "_coords", "_manualpick", "_deepem")))


def read_written(written, picks):
    """Read what was written for some micrographs, without the files that only list others."""
    infos = {each.name: each.info for each in picks}
    found = {}
    for path in written:
        if path.suffix != ".csg" and path.name != "autopick.star":
            found.update(read_file(path, infos=infos))
    return {name.split("/")[-1]: coordinates for name, coordinates in found.items()}


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=25)
@given(st.dictionaries(names, tables, min_size=1, max_size=2))
def test_what_is_written_is_read_back_as_exactly_as_the_format_holds_it(tmp_path_factory, name, content):
    folder = tmp_path_factory.mktemp("formats")
    picks = [picks_of(each, table, rows=4092, columns=5760) for each, table in content.items()]
    found = read_written(write_files(name, folder, picks), picks)
    error, scored, boxed = KEEPS[name]
    assert set(found) == {each.name for each in picks}
    for each in picks:
        again = found[each.name]
        np.testing.assert_allclose(again.centres_xy, each.coordinates.centres_xy, atol=error + 1e-9, rtol=0)
        np.testing.assert_allclose(again.scores, each.coordinates.scores if scored else np.nan, rtol=1e-5, atol=1e-30)
        assert again.box_px == (24 if boxed else None)


def test_every_format_that_is_written_is_tried():
    assert set(KEEPS) == set(WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_micrographs_without_picks_are_written(name, tmp_path):
    picks = [picks_of("a", []), picks_of("b", [(1, 2, 0.5)])]
    found = read_written(write_files(name, tmp_path, picks), picks)
    assert len(found["b"].scores) == 1 and ("a" not in found or len(found["a"].scores) == 0)
    assert all(path.exists() for path in write_files(name, tmp_path / "nothing", []))


def test_unknown_formats_and_files_are_refused_with_what_is_possible(tmp_path):
    with pytest.raises(DeepEMError, match="'imod' is no format.*eman, eman-json, relion"):
        write_files("imod", tmp_path, [])
    for file, content, words in (("a.doc", "", "none of the formats"), ("a.csv", "x,y\n1,2\n", "names none of"),
                                 ("a.txt", "1 2 3\n", "names none of")):
        (tmp_path / file).write_text(content)
        with pytest.raises(DeepEMError, match=rf"{file}.*{words}"):
            read_file(tmp_path / file)
    with pytest.raises(DeepEMError, match=r"none\.csv cannot be read"):
        read_file(tmp_path / "none.csv")


@pytest.mark.parametrize("file, content, words", [
    ("a.cbox", "1 2 3 4\n", "line 1: expected 'x y width height confidence"),
    ("a.cbox", "data_global\n_x 1\n", "expected a table 'cryolo'"),
    ("a.cbox", CBOX.replace("<NA> 21 21", "x 21 21") + "", ""),
    ("a.cbox", CBOX.replace("0.75", "high"), "expected a number, found 'high'"),
    ("a_info.json", "{", "expected JSON"),
    ("a_info.json", "[]", "expected a list 'boxes'"),
    ("a_info.json", '{"boxes": [[1, "2"]]}', "box 1: expected"),
    ("a_info.json", '{"boxes": [[1, 1e999]]}', "box 1: expected"),
    ("a.txt", "image_name\tx_coord\n", "no column 'y_coord'"),
    ("a.txt", "image_name\tx_coord\ty_coord\nb\t1\n", "line 2: 2 fields, expected 3"),
    ("a.txt", "image_name\tx_coord\ty_coord\tz_coord\nb\t1\t2\t3\n", "not of tomograms"),
    ("a.csv", VIA.replace("cx", "x"), "line 2: expected a point or a circle"),
    ("a.csv", "X-Coordinate,Y-Coordinate\n1,2\n", "count y from the last row"),
    ("a.csv", "index,axis-0,axis-1,axis-2\n0,1,2,3\n", "points with three axes"),
    ("a.csv", "index,shape-type,vertex-index,axis-0,axis-1\n", "holds shapes"),
    ("a.pos", "data_header\nloop_\n _x\nManual\n", "no table has _xcoor and _ycoor"),
    ("a.star", "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n1 2 3\n1 2 4\n", "not of tomograms"),
    ("a.star", "data_\nloop_\n_wrpCoordinateX1\n_wrpCoordinateY1\n_wrpSourceName\n1 2 b.mrc\n", "in angstrom"),
    ("a.star", "data_\nloop_\n_wrpCoordinateX1\n_wrpCoordinateY1\n1 2\n", "no table has _wrpCoordinateX1"),
])
def test_a_faulty_file_is_an_error_that_names_it(tmp_path, file, content, words):
    (tmp_path / file).write_text(content)
    if not words:  # a z without a number is ignored, since there is only one
        assert len(read_file(tmp_path / file)) == 1
        return
    with pytest.raises(DeepEMError) as caught:
        read_file(tmp_path / file)
    assert file in str(caught.value) and words in str(caught.value)


def test_micrographs_of_an_eman2_project_that_nobody_has_marked_are_left_out(tmp_path):
    (tmp_path / "a_info.json").write_text('{"boxes": [[10, 20, "manual"]]}')
    (tmp_path / "b_info.json").write_text('{"ctf": [1.5], "quality": 5}')
    assert list(read_coordinates(tmp_path)) == ["a"]
    with pytest.raises(DeepEMError, match="b_info.json: no boxes"):
        read_coordinates(tmp_path / "b_info.json")


def test_micrographs_that_nobody_has_marked_in_xmipp_are_left_out(tmp_path):
    (tmp_path / "a.pos").write_text(SAMPLES["Xmipp"][2])
    (tmp_path / "b.pos").write_text(XMIPP_HEAD.replace("Auto", "Available"))
    assert list(read_coordinates(tmp_path)) == ["a"]
    with pytest.raises(DeepEMError, match="b.pos: no boxes. Expected those of a marked micrograph"):
        read_coordinates(tmp_path / "b.pos")


NUMBER = re.compile(r"(?<![\w.])\d+(\.\d+)?(?![\w.])")


@pytest.mark.parametrize("sample", [name for name, (kind, _, content, *_) in SAMPLES.items()
                                    if isinstance(content, str) and "json" not in kind])
def test_a_word_in_place_of_a_number_is_an_error_that_names_file_and_line(tmp_path, sample):
    _, file, content, score, _ = SAMPLES[sample]
    lines, errors = content.split("\n"), []
    at = max(range(len(lines)), key=lambda each: len(NUMBER.findall(lines[each])))  # the line of the particle
    for number in NUMBER.finditer(lines[at]):
        damaged = lines[at][:number.start()] + "word" + lines[at][number.end():]
        (tmp_path / file).write_text("\n".join([*lines[:at], damaged, *lines[at + 1:]]))
        try:
            read_file(tmp_path / file, infos=INFOS)  # not all numbers of a line are used
        except DeepEMError as error:
            errors.append(str(error))
    assert len(errors) >= (2 if score is None else 3)
    assert all(error.startswith(f"{tmp_path / file}, line {at + 1}: expected ") for error in errors), errors


def test_boxes_of_a_tomogram_are_refused(tmp_path):
    (tmp_path / "a.cbox").write_text(CBOX.replace(" <NA> 21 21", " 3 21 21").replace(
        "\n\ndata_cryolo_include", "\n1 2 4 21 21 <NA> 18 18 0.5 <NA> <NA>\n\ndata_cryolo_include"))
    with pytest.raises(DeepEMError, match="2 different z"):
        read_file(tmp_path / "a.cbox")


def test_what_a_format_needs_and_is_not_known_is_asked_for(tmp_path):
    bare = MicrographPicks("a", "a.mrc", Coordinates(np.ones((1, 2)), np.ones(1), None))
    for name, option in (("eman", "--box"), ("cryolo", "--box"), ("cryosparc", "--micrographs"),
                         ("cryoppp", "--micrographs")):
        with pytest.raises(DeepEMError, match=f"a:.*{option}"):
            write_files(name, tmp_path, [bare])


# -------------------------------------------------------------------- .cs
def header(descr, shape, order=False):
    text = str({"descr": descr, "fortran_order": order, "shape": shape}).encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


DESCR = cs_array().dtype.descr


class Harmful:
    """Would be called on unpickling."""

    def __reduce__(self):
        return pytest.fail, ("code of the file was run",)


def pickled():
    array = np.empty(1, object)
    array[0] = Harmful()
    return npy(array, allow_pickle=True)


@pytest.mark.parametrize("content, words", [
    (b"", "expected a .cs file"),
    (pickle.dumps(Harmful()), "expected a .cs file"),
    (pickled(), "Python objects (pickle)"),
    (npy(np.zeros(1, [*DESCR, ("x", "O")]), allow_pickle=True), "Python objects (pickle)"),
    (b"\x95CSDAT" + bytes(50), "is a compressed .cs file"),
    (npy(np.zeros(3)), "no field location/micrograph_path"),
    (header(DESCR, (10**12,)) + bytes(100), "found"),
    (header(DESCR, (10**30,)), "found"),
    (header(DESCR, (2**32, 2**32)), "found"),
    (header(DESCR, (0, 2**62)), "list of records"),
    (header(DESCR, (-1,)), "header of the .cs file is damaged"),
    (header(DESCR, (True,)), "header of the .cs file is damaged"),
    (header([("a", "<f4")] * 9, (1,)), "header of the .cs file is damaged"),
    (header("__import__('os')", (1,)), "header of the .cs file is damaged"),
    (b"\x93NUMPY\1\0\xff\xff" + b"[" * 65535, "header of the .cs file is damaged"),
    (b"\x93NUMPY\2\0\xff\xff\xff\x7f" + b" " * 100, "header of the .cs file is damaged"),
    (npy(cs_array())[:-1], "found"),
    (npy(cs_array()) + b"x", "found"),
    (npy(cs_array(**{"location/center_x_frac": ("<f4", math.nan)})), "record 0"),
    (npy(cs_array(**{"location/center_y_frac": ("<f4", 1e30)})), "record 0"),
    (npy(cs_array(**{"location/micrograph_shape": (("<u4", (2,)), (0, 5))})), "record 0"),
    (npy(cs_array(**{"location/center_x_frac": (("<f4", (3,)), 0)})), "type"),
    (npy(cs_array(**{"location/center_x_frac": ("S4", b"0.5")})), "type"),
    (npy(cs_array(**{"location/center_y_frac": None})), "passthrough_particles"),
])
def test_hostile_and_damaged_cs_files_are_refused_and_no_code_in_them_is_run(tmp_path, content, words):
    (tmp_path / "a.cs").write_bytes(content)
    with pytest.raises(DeepEMError) as caught:
        read_file(tmp_path / "a.cs")
    assert "a.cs" in str(caught.value) and words in str(caught.value)


def test_an_empty_cs_file_holds_no_picks(tmp_path):
    (tmp_path / "a.cs").write_bytes(npy(cs_array()[:0]))
    assert read_file(tmp_path / "a.cs") == {}


def test_numbers_of_exposures_are_those_in_the_names_of_cryosparc():
    name = "J2/motioncorrected/003324361586894234611_grid_a_doseweighted.mrc"
    assert exposure_uid(name) == 3324361586894234611
    assert exposure_uid("mics/a.mrc") == exposure_uid("mics/a.mrc") != exposure_uid("other/a.mrc")
    assert 0 < exposure_uid("999999999999999999999_a.mrc") < 2**64


def test_cryosparc_tools_read_the_locations_that_are_written(tmp_path):
    dataset = pytest.importorskip("cryosparc.dataset", reason="cryosparc-tools is not installed")
    picks = [picks_of("a", [(X, Y, 0.75), (1, 2, 0.5)]), picks_of("longer name", [(3, 4, 0.25)])]
    path, group = write_files("cryosparc", tmp_path, picks)
    found = dataset.Dataset.load(str(path))
    assert len(found) == 3 and len(set(found["uid"])) == 3
    assert list(found["location/micrograph_path"]) == ["mics/a.mrc", "mics/a.mrc", "mics/longer name.mrc"]
    assert found["location/micrograph_shape"].tolist() == [[ROWS, COLUMNS]] * 3
    np.testing.assert_allclose(found["location/micrograph_psize_A"], PIXEL_SIZE)
    np.testing.assert_allclose(found["location/center_x_frac"][0] * COLUMNS, X, rtol=1e-6)
    np.testing.assert_allclose((1 - found["location/center_y_frac"][0]) * ROWS, Y, rtol=1e-6)
    np.testing.assert_allclose(found["pick_stats/ncc_score"], [0.75, 0.5, 0.25])
    assert len(set(found["location/micrograph_uid"])) == 2
    found.save(str(tmp_path / "again.cs"))
    assert set(read_file(tmp_path / "again.cs")) == {"mics/a", "mics/longer name"}
    assert "metafile: '>picks.cs'\n    num_items: 3\n    type: particle.location" in group.read_text()


def test_other_readers_understand_the_tables_that_are_written(tmp_path):
    emtable = pytest.importorskip("emtable")
    pandas = pytest.importorskip("pandas")
    picks = [picks_of("a", [(X, Y, 0.75)])]
    (table,) = write_files("topaz", tmp_path / "topaz", picks)
    row = pandas.read_csv(table, sep="\t", dtype={"image_name": str}).iloc[0]
    assert (row.image_name, row.x_coord, row.y_coord, row.score) == ("a", X, Y, 0.75)
    (points,) = write_files("napari", tmp_path / "napari", picks)
    assert pandas.read_csv(points)[["axis-0", "axis-1"]].to_numpy().tolist() == [[Y, X]]
    (pos,) = write_files("xmipp", tmp_path / "xmipp", picks)
    (row,) = emtable.Table(fileName=str(pos), tableName="particles")
    assert (int(row.xcoor), int(row.ycoor), float(row.cost)) == (X, Y, 0.75)
    (info,) = write_files("eman-json", tmp_path / "eman", picks)
    assert info.parts[-2:] == ("info", "a_info.json")
    assert json.loads(info.read_text())["boxes"] == [[X, Y, "auto_deepem", 0.75]]


@pytest.mark.parametrize("path, name", [
    ("MotionCorr/job002/Movies/a.b.mrc", "Movies/a.b"), ("mics/sub/a.mrc", "mics/sub/a"), ("a.mrc", "a"),
    ("/data/a.mrc", "own"), ("../data/a.mrc", "own"), ("MotionCorr/job002/a.mrc", "a")])
def test_picks_for_relion_lie_where_relion_looks_for_them(path, name):
    assert name_in_project(MicrographPicks("own", path, Coordinates(np.zeros((0, 2)), np.zeros(0), None))) == name


def test_the_list_for_relion_names_each_micrograph_and_its_picks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picks = [picks_of("a", [(X, Y, 0.75)], folder="MotionCorr/job002/Movies"), picks_of("b", [], folder="mics")]
    write_files("relion", "relion", picks)
    (table,) = read_tables("relion/autopick.star")
    assert (table.name, table.labels) == ("coordinate_files", ["rlnMicrographName", "rlnMicrographCoordinates"])
    assert [fields for _, fields in table.rows] == [
        ["MotionCorr/job002/Movies/a.mrc", "relion/Movies/a_autopick.star"],
        ["mics/b.mrc", "relion/mics/b_autopick.star"]]
    (table,) = read_tables("relion/Movies/a_autopick.star")
    assert table.labels[:3] == ["rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"]
