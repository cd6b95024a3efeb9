# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Typical mistakes on the command line: none ends silently with exit status 0."""

import re
import shutil

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.parser import parse_arguments
from deepem_scipion.deepem.commands.planning import read_training_set
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.coordinates import scaled
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError


def warnings(capsys):
    return " ".join(line for line in capsys.readouterr().err.splitlines() if " warning: " in line)


@pytest.mark.parametrize("options, message", [
    (["--voltage", "300000"], "--voltage 300000: expected kilovolts"),
    (["--cs", "-1"], "--cs -1: expected millimetres"),
    (["--amplitude-contrast", "10"], "--amplitude-contrast 10: expected a fraction from 0 to 1"),
    (["--scan-step", "0"], "--scan-step 0: expected binned pixels"), (["--box", "0"], "--box 0: expected pixels"),
    (["--contrast-checks", "-3"], "--contrast-checks -3: expected a number"), (["--threshold", "50"], "--threshold 50"),
    (["--std-range", "2", "1"], "--std-range 2 1"), (["--threads", "0"], "threads 0: expected at least 1"),
    (["--max-mask", "0.2"], "--max-mask 0.2 needs --masks"), (["--min-distance", "-5"], "minimum distance -5"),
    (["--pixel-size", "nan"], "pixel size"),
    (["--tiff-rows", "upper"], "invalid choice: 'upper'")])
def test_a_number_that_makes_no_sense_in_picking_is_refused(blobs, blob_model, tmp_path, capsys, options, message):
    try:
        status = main(["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "d.mrc"),
                       "--output", str(tmp_path), *options])
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("options, said", [
    (["--min-distance", "500"], r"--min-distance 500 A is more than twice the particle diameter of the model, 64 A"),
    (["--scan-step", "12"], r"a scan step of 12 binned pixels is more than half of the particle diameter, 16"),
    (["--border", "400"], r"nothing was picked; the candidates are 100% too close to the border"),
    (["--std-range", "50", "60"], r"nothing was picked; the candidates are 100% local standard deviation out of range"),
    (["--threshold", "1"], r"nothing was picked; the candidates are .*% below the threshold")])
def test_limits_that_leave_little_are_said(blobs, blob_model, tmp_path, capsys, options, said):
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "d.mrc"),
                 "--contrast-checks", "0", "--output", str(tmp_path), *options]) == 0
    assert re.search(said, warnings(capsys))


@pytest.mark.parametrize("diameter, said", [("6.4", "6.4 A is unusual. Expected 40 to 2000 A: was it given in nm?"),
                                            ("640", "0.15 times the diameter of 640 A")])
def test_a_diameter_in_another_unit_is_said_before_training(blobs, tmp_path, capsys, few_updates, diameter, said):
    main(["train", "--micrographs", str(blobs[0] / "micrographs"), "--coordinates", str(blobs[0] / "boxes"),
          "--diameter", diameter, "--epochs", "1", "--output", str(tmp_path / "m.deepem")])
    assert said in warnings(capsys)


@pytest.mark.parametrize("command, said", [
    (["train", "--micrographs", "{boxes}", "--coordinates", "{boxes}", "--diameter", "64"], "holds no micrograph"),
    (["train", "--micrographs", "{mics}", "--coordinates", "{mics}", "--diameter", "64"], "holds no .box"),
    (["pick", "--micrographs", "{mics}", "--model", "{boxes}/a.box"], "a.box"),
    (["pick", "--micrographs", "{mics}", "--model", "{mics}/a.mrc"], "a.mrc")])
def test_arguments_in_the_wrong_place_are_refused_by_name(blobs, tmp_path, capsys, command, said):
    places = {"boxes": blobs[0] / "boxes", "mics": blobs[0] / "micrographs"}
    assert main([word.format(**places) for word in command] + ["--output", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_a_distance_wider_than_the_boxes_and_coordinates_of_binned_micrographs_are_said(blobs, tmp_path, capsys):
    boxes = blobs[0] / "boxes"
    command = ["evaluate", "--truth", str(boxes), "--distance"]
    assert main([*command, "8", "--picks", str(boxes)]) == 0 and warnings(capsys) == ""
    assert main([*command, "80", "--picks", str(boxes)]) == 0
    assert "--distance 80 px is more than the side of the boxes, 24 px" in warnings(capsys)
    for name, found in scaled(read_coordinates(boxes), 0.5).items():
        write_box(tmp_path / f"{name}.box", found.centres_xy, np.ones(len(found.scores)), 12)
    assert main([*command, "8", "--picks", str(tmp_path)]) == 0
    assert re.search(rf"coordinates in {tmp_path} end at .* binned by 2", warnings(capsys))


def test_lengths_of_an_evaluation_are_in_pixels_or_angstrom_and_a_slip_is_said(blobs, blob_model, tmp_path, capsys):
    """Blobs are 64 A wide, 16 px of 4 A."""
    folder, picks = blobs[0], tmp_path / "picks"
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(folder / "micrographs" / "d.mrc"), "--output",
                 str(picks), "--contrast-checks", "0", "--border", "40"]) == 0
    said = capsys.readouterr().err
    assert "pixels of 4 A; particle diameter 64 A = 16 px; boxes of 24 px" in said
    command = ["evaluate", "--truth", str(folder / "boxes"), "--picks"]
    figures = {}
    for lengths in ([], ["--distance", "8"], ["--distance", "32A", "--min-distance", "16A", "--box", "96A"]):
        assert main([*command, str(picks), *lengths]) == 0
        printed = capsys.readouterr()
        assert "--distance" not in printed.err and "within 8 px" in printed.out
        figures[" ".join(lengths)] = printed.out.split("all micrographs")[1].split("one-to-one")[0]
    assert "only the one with the highest score" in printed.out and "boxes of 24 px" in printed.out
    assert len(set(figures.values())) == 1
    for slip, ratio in (("80", "10"), ("2", "0.25")):
        assert main([*command, str(picks), "--distance", slip]) == 0
        assert f"--distance {slip} px is {ratio} times what is usual: 0.5 diameters of the particle, 8 px" in warnings(
            capsys)
    boxes = str(folder / "boxes")  # states no diameter, but boxes of 24 px
    assert main([*command, boxes, "--distance", "0.8"]) == 0
    assert "0.1 times what is usual: 0.5 diameters of the particle, 8 px if the boxes are 1.5 diameters" in warnings(
        capsys)
    for lengths, message in (([], "give --distance"), (["--distance", "32A"], "Give the length in pixels"),
                             (["--distance", "32A", "--pixel-size", "-4"], "--pixel-size -4: expected angstrom")):
        assert main([*command, boxes, *lengths]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, boxes, "--distance", "32A", "--pixel-size", "4"]) == 0
    assert "within 8 px" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, boxes, "--distance", "32nm"])
    assert "expected pixels, such as 40, or angstrom, such as 60A" in capsys.readouterr().err


@pytest.mark.parametrize("padding", [0, 50])
def test_picks_whose_boxes_leave_the_micrograph_are_counted_and_can_be_left_out(
        blobs, blob_model, tmp_path, capsys, padding):
    shutil.copy(blobs[0] / "micrographs" / "d.mrc", tmp_path)
    with mrcfile.open(tmp_path / "d.mrc", "r+") as file:
        file.data[:, :padding] = 0
    command = ["pick", "--model", str(blob_model), "--micrographs", str(tmp_path / "d.mrc"), "--contrast-checks", "0",
               "--box", "60", "--output"]
    assert main([*command, str(tmp_path / "all")]) == 0
    (found,) = read_coordinates(tmp_path / "all").values()
    rows, columns = 150, 210
    outside = ((found.centres_xy < 30) | (found.centres_xy > np.array([columns, rows]) - 31)).any(axis=1).sum()
    said = re.findall(r" (\d+) of the picks .* \(with --border 120 they", capsys.readouterr().err)
    assert said == [str(outside)] * int(outside > 0) and (padding or 0 < outside < len(found.scores))
    assert main([*command, str(tmp_path / "whole"), "--border", "120"]) == 0
    (whole,) = read_coordinates(tmp_path / "whole").values()
    assert len(whole.scores) == len(found.scores) - outside or padding
    assert "so close to the border" not in capsys.readouterr().err


def test_micrographs_that_are_there_twice_are_said(blobs, blob_model, tmp_path, capsys):
    for name in ("d", "d_DW"):
        shutil.copy(blobs[0] / "micrographs" / "d.mrc", tmp_path / f"{name}.mrc")
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(tmp_path), "--contrast-checks", "0",
                 "--output", str(tmp_path / "out")]) == 0
    assert "seem to be the same micrographs, whose particles are then picked more than once: d and d_DW" in (
        warnings(capsys))


EMPTY = "data_\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"


def test_files_without_any_coordinates_are_refused_by_name_and_empty_sides_are_said(blobs, tmp_path, capsys):
    boxes, nothing, empty = blobs[0] / "boxes", tmp_path / "nothing.star", tmp_path / "boxes"
    nothing.write_text(EMPTY)
    empty.mkdir()
    (empty / "a.box").touch()
    for sides in ((boxes, nothing), (nothing, boxes)):
        assert main(["evaluate", "--distance", "8", "--truth", str(sides[0]), "--picks", str(sides[1])]) == 2
        assert f"{nothing} has no coordinates, and states no micrograph without any" in capsys.readouterr().err
    for command in (["train", "--coordinates", str(nothing), "--micrographs", str(blobs[0] / "micrographs"),
                     "--diameter", "64", "--output", str(tmp_path / "m.deepem")],
                    ["convert", str(nothing), str(tmp_path / "out"), "--to", "eman"]):
        assert main(command) == 2 and f"{nothing} has no coordinates" in capsys.readouterr().err
    assert main(["pick", "--diameter", "64", "--micrographs", str(nothing), "--output", str(tmp_path / "out")]) == 2
    assert f"{nothing}: the table with _rlnMicrographName has no row" in capsys.readouterr().err
    for name, sides in (("picks", (boxes, empty)), ("particles to compare with", (empty, boxes))):
        assert main(["evaluate", "--distance", "8", "--truth", str(sides[0]), "--picks", str(sides[1])]) == 0
        assert f"{empty} has no {name}: all of its 1 micrographs are empty" in warnings(capsys)
    # Of a run that picked nothing on any micrograph.
    (empty / "a.box").unlink()
    (empty / "picks.star").write_text(EMPTY)
    assert main(["evaluate", "--distance", "8", "--truth", str(boxes), "--picks", str(empty)]) == 2
    assert f"{empty} has no coordinates" in capsys.readouterr().err


@pytest.mark.parametrize("option, word, said", [
    ("--diameter", "15nm", "'15nm': expected angstrom, such as 150"), ("--pixel-size", "1,5", "'1,5': expected angst"),
    ("--at-least", "1.5", "'1.5': expected a whole number"), ("--max-mask", "50%", "'50%': expected a number")])
def test_a_word_that_is_no_number_is_refused_with_what_was_expected(capsys, option, word, said):
    with pytest.raises(SystemExit):
        main(["pick", "--micrographs", "a.mrc", "--output", "out", option, word])
    assert f"argument {option}: {said}" in capsys.readouterr().err


def test_a_command_that_does_not_estimate_the_diameter_names_one_that_does(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--micrographs", "a.mrc", "--diameter", "auto", "--output", "model"])
    assert "expected angstrom" in (said := capsys.readouterr().err) and "`deepem pick` and `deepem auto`" in said


@pytest.mark.parametrize("text", ["120", "120A", "120 A", "120 \u00c5", "1.2e2"])
def test_the_unit_of_a_diameter_may_be_given(text):
    command = ["--micrographs", "a.mrc", "--diameter", text, "--output", "out"]
    assert parse_arguments(["pick", *command]).diameter == parse_arguments(["train", *command]).diameter == 120.0


def test_an_unusual_diameter_is_said_in_picking(blobs, tmp_path, capsys):
    assert main(["pick", "--diameter", "6.4", "--micrographs", str(blobs[0] / "micrographs" / "d.mrc"), "--output",
                 str(tmp_path)]) == 2
    assert "particle diameter of 6.4 A is unusual. Expected 40 to 2000 A: was it given in nm?" in warnings(capsys)


def test_coordinates_given_twice_sides_exchanged_and_limits_that_leave_nothing_are_said(blobs, tmp_path, capsys):
    boxes = blobs[0] / "boxes"
    for name, found in read_coordinates(boxes).items():
        write_box(tmp_path / f"{name}.box", np.tile(found.centres_xy, (2, 1)), np.full(28, 0.5), 24)
    command = ["evaluate", "--distance", "8"]
    assert main([*command, "--truth", str(boxes), "--picks", str(tmp_path)]) == 0
    found = warnings(capsys)
    assert f"70 of the 140 coordinates in {tmp_path} are those of another one" in found and "exchanged" not in found
    assert main([*command, "--truth", str(tmp_path), "--picks", str(boxes)]) == 0
    assert f"the reference coordinates, {tmp_path}, have scores, and the picks, {boxes}, have none" in warnings(capsys)
    for option, said in ((["--threshold", "2"], "none of the 140 picks has a score of at least 2 (--threshold); the "
                          "highest is 0.5"),
                         (["--region", "900", "900", "999", "999"], "none of the 70 reference particles lies within")):
        assert main([*command, "--truth", str(boxes), "--picks", str(tmp_path), *option]) == 0
        assert said in warnings(capsys)


def test_a_plot_of_an_unknown_format_is_refused_before_the_evaluation(blobs, capsys):
    boxes = str(blobs[0] / "boxes")
    assert main(["evaluate", "--distance", "8", "--truth", boxes, "--picks", boxes, "--plot", "curve.foo"]) == 2
    printed = capsys.readouterr()
    assert "--plot curve.foo: expected a name that ends with .png, .pdf, .svg" in printed.err and printed.out == ""


def test_negatives_of_other_micrographs_are_refused_and_a_set_without_any_is_said(blobs, tmp_path, capsys):
    for name in ("elsewhere", "empty", "no folder of boxes"):
        (tmp_path / name).mkdir()
    shutil.copy(blobs[0] / "boxes" / "a.box", tmp_path / "elsewhere" / "x.box")
    (tmp_path / "empty" / "a.box").touch()

    def read(*options):
        read_training_set(parse_arguments(["train", "--micrographs", str(blobs[0] / "micrographs"), "--coordinates",
                                           str(blobs[0] / "boxes"), "--diameter", "64", "--output", "m", *options]))

    for option, what in (("--negatives", "negatives"), ("--more-negatives", "negatives"),
                         ("--more-particles", "particles")):
        with pytest.raises(DeepEMError, match=f"elsewhere has {what} of x, and of none of the 5 micrographs"):
            read(option, str(tmp_path / "elsewhere"))
        read(option, str(tmp_path / "empty"))
        assert f"no {what} in {tmp_path / 'empty'}: all of its 1 micrographs are empty" in capsys.readouterr().err
        with pytest.raises(DeepEMError, match="holds no .box"):
            read(option, str(tmp_path / "no folder of boxes"))
