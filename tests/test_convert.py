# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem convert` and `deepem pick --write`: picks for other programs."""

import shutil
import signal
import subprocess
import sys

import mrcfile
import numpy as np
import pytest
from scipy.spatial import cKDTree

from deepem_scipion.deepem.commands.arguments import FORMAT_NAMES
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.parser import parse_arguments
from deepem_scipion.deepem.commands.planning import read_training_set
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.formats.base import MicrographInfo, MicrographPicks
from deepem_scipion.deepem.coordinates.formats.registry import FORMATS, read_file, write_files
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.micrographs.micrograph import read_shape
from deepem_scipion.deepem.picking.candidates import read_candidates
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.startables import read_tables
from deepem_scipion.deepem.studio.assigning import problems_of
from deepem_scipion.deepem.studio.opening import Wanted, open_session

needs_relion = pytest.mark.skipif(shutil.which("relion_preprocess") is None,
                                  reason="RELION is not installed (Debian: relion)")
OPTICS = ("\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n"
          "_rlnMicrographPixelSize #3\n_rlnMicrographOriginalPixelSize #4\n_rlnVoltage #5\n_rlnSphericalAberration #6\n"
          "_rlnAmplitudeContrast #7\nopticsGroup1 1 4.0 4.0 300 2.7 0.1\n"
          "\n# version 30001\n\ndata_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n")


@pytest.fixture(scope="module")
def picked(blobs, blob_model, tmp_path_factory):
    """Folder of a RELION project with mics/d.mrc and mics/e.mrc, and picks/ written in every format."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(blobs[0] / "micrographs", project / "mics", ignore=shutil.ignore_patterns("[abc].mrc"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["pick", "--model", str(blob_model), "--micrographs", "mics/d.mrc", "mics/e.mrc", "--output",
                     "picks", "--border", "60", "--write", FORMAT_NAMES]) == 0
    return project


def exact(project, name):
    """Picks of a micrograph with all decimals."""
    candidates, reasons = read_candidates(project / "picks" / "candidates" / f"{name}.tsv")
    return candidates.centres_xy[reasons == "picked"]


def test_the_formats_of_the_help_are_those_that_can_be_written():
    assert FORMAT_NAMES.split(", ") == [name for name, each in FORMATS.items() if each.write]


def test_picks_are_written_in_every_format_with_their_decimals(picked):
    assert {path.name for path in (picked / "picks" / "export").iterdir()} == set(FORMAT_NAMES.split(", "))
    export = picked / "picks" / "export"
    for path in (export / "relion/mics/d_autopick.star", export / "cryolo/d.cbox", export / "cryosparc/picks.cs"):
        found = {name.split("/")[-1].replace("_autopick", ""): each for name, each in read_file(path).items()}
        np.testing.assert_allclose(found["d"].centres_xy, exact(picked, "d"), atol=0.01)
        assert 0 < found["d"].scores.min() < found["d"].scores.max() <= 1
    assert set(read_coordinates(picked / "picks")) == {"d", "e"}
    assert main(["evaluate", "--truth", str(export / "cryolo"), "--picks", str(picked / "picks"), "--distance",
                 "2"]) == 0


def extracted(project, arguments, monkeypatch):
    """Particles that RELION extracts, at the micrograph's own scale."""
    monkeypatch.chdir(project)
    shutil.rmtree("particles", ignore_errors=True)
    (project / "mics.star").write_text(OPTICS + "mics/d.mrc 1\nmics/e.mrc 1\n")
    subprocess.run(["relion_preprocess", "--i", "mics.star", "--part_star", "particles.star", "--part_dir",
                    "particles/", "--extract", "--extract_size", "16", *arguments], check=True, capture_output=True)
    table = next(table for table in read_tables(project / "particles.star") if table.name == "particles")
    return [dict(zip(table.labels, fields)) for _, fields in table.rows]


@needs_relion
@pytest.mark.parametrize("arguments", [
    ["--coord_dir", "picks/export/relion/", "--coord_suffix", "_autopick.star"],
    ["--reextract_data_star", "picks/picks.star"]], ids=["folder", "one file"])
def test_relion_extracts_the_particles_from_both_kinds_of_file(picked, arguments, monkeypatch):
    found = extracted(picked, arguments, monkeypatch)
    assert len(found) == sum(len(exact(picked, name)) for name in "de") > 10
    assert all(float(row["rlnAutopickFigureOfMerit"]) > 0 for row in found)
    for row in found[::5]:
        number, stack = row["rlnImageName"].split("@")
        stored = np.atleast_3d(mrcfile.read(picked / stack).T).T[int(number) - 1]
        micrograph = mrcfile.read(picked / row["rlnMicrographName"])
        x, y = (int(float(row[f"rlnCoordinate{axis}"])) for axis in "XY")  # RELION drops the decimals
        cut = micrograph[y - 8:y + 8, x - 8:x + 8]
        assert np.corrcoef(stored.ravel(), cut.ravel())[0, 1] > 0.999


@needs_relion
def test_the_folder_of_a_picking_job_of_relion_is_read(blobs, picked, monkeypatch):
    monkeypatch.chdir(picked)
    (picked / "list.star").write_text(OPTICS + "mics/d.mrc 1\nmics/e.mrc 1\n")
    subprocess.run(["relion_autopick", "--i", "list.star", "--odir", "AutoPick/job003/", "--pickname", "autopick",
                    "--LoG", "--LoG_diam_min", "54", "--LoG_diam_max", "74", "--pipeline_control", "AutoPick/job003/"],
                   check=True, capture_output=True)
    found = read_coordinates("AutoPick/job003")
    assert {name.split("/")[-1].removesuffix("_autopick") for name in found} == {"d", "e"}
    truth = dict(zip("de", (blobs[1]["d"], blobs[1]["e"])))
    for name, each in found.items():
        distances, _ = cKDTree(each.centres_xy).query(truth[name.split("/")[-1]])
        assert (distances < 4).mean() > 0.8 and np.isfinite(each.scores).all()


def test_converting_there_and_back_gives_the_same_coordinates(picked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mics = ["--micrographs", str(picked / "mics")]
    assert main(["convert", str(picked / "picks"), "first", "--to", "cryosparc", *mics]) == 0
    assert main(["convert", "first/picks.cs", "second", "--to", "cryolo,cryoppp", "--box", "24", *mics]) == 0
    assert main(["convert", "second/cryoppp", "third", "--to", "napari", *mics]) == 0
    assert main(["convert", "second/cryolo", "fourth", "--to", "napari"]) == 0
    for folder in ("third", "fourth"):
        found = read_coordinates(tmp_path / folder)
        assert set(found) == {"d", "e"}
        for name, each in found.items():
            np.testing.assert_allclose(each.centres_xy, exact(picked, name), atol=0.01)


def test_y_is_turned_and_boxes_get_a_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mrcfile.new("a.mrc", np.random.default_rng(0).normal(size=(30, 50)).astype("f4")).close()
    write_box("a.box", np.array([[10, 4]]), np.array([0.5]), 8)
    assert main(["convert", "a.box", "out", "--to", "eman", "--flip-y", "--micrographs", "a.mrc", "--box", "12"]) == 0
    assert (tmp_path / "out/a.box").read_text() == "4\t19\t12\t12\t0.5\n"  # y = 29 - 4 = 25


@pytest.mark.parametrize("form", ["eman", "cryolo"])
def test_a_micrograph_without_particles_needs_no_box(tmp_path, form):
    (tmp_path / "boxes").mkdir()
    write_box(tmp_path / "boxes" / "a.box", np.array([[10, 4]]), np.array([0.5]), 8)
    (tmp_path / "boxes" / "b.box").touch()
    assert main(["convert", str(tmp_path / "boxes"), str(tmp_path / "out"), "--to", form]) == 0
    found = read_coordinates(tmp_path / "out")
    assert found["a"].centres_xy.tolist() == [[10.0, 4.0]] and found["a"].box_px == 8
    assert len(found["b"].scores) == 0


def test_coordinates_of_binned_micrographs_are_multiplied(tmp_path):
    (tmp_path / "topaz.txt").write_text("image_name\tx_coord\ty_coord\tscore\na\t10\t20\t0.5\n")
    command = ["convert", str(tmp_path / "topaz.txt"), str(tmp_path / "out"), "--to", "relion", "--coordinate-scale"]
    assert main([*command, "8"]) == 0
    found = read_coordinates(tmp_path / "out" / "a_autopick.star")["a"]
    # Binned pixel 10 covers pixels 80 to 87.
    assert found.centres_xy.tolist() == [[83.5, 163.5]] and found.scores.tolist() == [0.5]


@pytest.mark.parametrize("arguments, words", [
    (["--to", "imod"], "no format that can be written"),
    (["--to", "cryosparc"], "Give the micrographs with --micrographs"),
    (["--to", "eman", "--box", "0"], "--box 0: expected"),
    (["--to", "eman", "--coordinate-scale", "0"], "--coordinate-scale 0: expected a number above 0"),
    (["--to", "eman", "--flip-y"], "--flip-y needs"),
])
def test_what_cannot_be_converted_is_refused_with_the_reason(tmp_path, arguments, words, capsys):
    write_box(tmp_path / "a.box", np.array([[10, 4]]), np.array([0.5]), 8)
    assert main(["convert", str(tmp_path / "a.box"), str(tmp_path / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_neither_the_input_nor_results_are_replaced(picked, capsys):
    for source, target in ((picked / "picks", picked / "picks"), (picked / "mics", picked / "picks"),
                           (picked / "picks" / "d.box", picked / "picks" / "d.box")):
        before = {path: path.read_bytes() for path in (picked / "picks").iterdir() if path.is_file()}
        assert main(["convert", str(source), str(target), "--to", "eman"]) == 2
        assert f"{target}: there are the input, or results" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in (picked / "picks").iterdir() if path.is_file()} == before


def test_a_folder_with_files_is_written_into_only_with_overwrite(picked, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["convert", str(picked / "picks"), str(out), "--to", "eman"]
    assert main(command) == 0
    (out / "other.box").write_text("0 0 8 8\n")
    (out / "d.box").write_text("old")
    assert main(command) == 2
    assert f"{out} has files, for instance d.box. Expected a new or empty folder" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert (out / "d.box").read_text() != "old" and (out / "other.box").read_text() == "0 0 8 8\n"
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/.DS_Store").touch()
    assert main([*command[:2], str(tmp_path / "hidden"), *command[3:]]) == 0
    assert main([*command[:2], str(out / "d.box"), *command[3:], "--overwrite"]) == 2
    assert f"{out / 'd.box'} is a file. Expected a folder" in capsys.readouterr().err
    (tmp_path / "two/relion").mkdir(parents=True)
    (tmp_path / "two/relion/x").touch()
    assert main(["convert", str(picked / "picks"), str(tmp_path / "two"), "--to", "eman,relion"]) == 2
    assert not (tmp_path / "two/eman").exists()


def test_neither_the_input_nor_a_run_is_replaced_with_overwrite(picked, tmp_path, capsys):
    shutil.copytree(picked / "picks", tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for place, words in (("run", "there are the input, or results"), ("run/sub", "would be read the next time"),
                         ("run/candidates", "would be read the next time")):
        assert main(["convert", str(tmp_path / "run"), str(tmp_path / place), "--to", "topaz", "--overwrite"]) == 2
        assert words in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "run/export"), "--to", "topaz"]) == 0
    (tmp_path / "run").rename(tmp_path / "eman")
    assert main(["convert", str(picked / "mics"), str(tmp_path), "--to", "eman,topaz", "--overwrite"]) == 2
    assert f"{tmp_path / 'eman'}: there are the input, or results" in capsys.readouterr().err
    (tmp_path / "a").mkdir()
    write_box(tmp_path / "a/x.box", np.array([[10, 4]]), np.array([0.5]), 8)
    for source in ("a", "a/x.box"):
        assert main(["convert", str(tmp_path / source), str(tmp_path / "a"), "--to", "eman", "--overwrite"]) == 2
    assert main(["convert", str(tmp_path / "a"), str(tmp_path), "--to", "topaz", "--overwrite"]) == 0


def test_a_run_that_was_ended_early_is_not_taken_for_a_complete_one(blobs, blob_model, tmp_path, capsys):
    mics = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in "abcde"]
    picks = ["pick", "--model", str(blob_model), "--micrographs", *mics, "--output", str(tmp_path / "picks")]
    killed = f"""
import os, signal
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.picked import PickProgress
def at_the_second(self, name, result):
    if name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
PickProgress.__call__ = at_the_second
main({picks!r} + ["--threads", "1"])
"""
    done = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr
    words = f"{tmp_path / 'picks'} has 2 of the 5 micrographs of its run, which was ended early"
    assert main(["convert", str(tmp_path / "picks"), str(tmp_path / "out"), "--to", "relion"]) == 0
    assert words in capsys.readouterr().err
    for given in ("picks", "picks/picks.star"):
        if (tmp_path / given).exists():
            assert main(["evaluate", "--truth", str(blobs[0] / "boxes"), "--picks", str(tmp_path / given),
                         "--distance", "6"]) == 0
            assert words in capsys.readouterr().err
    project, settings = open_session(Wanted([tmp_path / "picks"], tmp_path / "session"))
    assert words in " ".join(problems_of(settings, None))
    project.close()
    assert main(["report", str(tmp_path / "picks")]) == 0
    assert words in (tmp_path / "picks/report.html").read_text()
    assert main(["merge", str(tmp_path / "merged"), str(tmp_path / "picks")]) == 1
    assert words in capsys.readouterr().err
    assert PickingResults(tmp_path / "merged").what_is_missing().startswith(f"{tmp_path / 'merged'} has 2 of the 5")
    assert main([*picks, "--resume"]) == 0
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "picks"), str(tmp_path / "again"), "--to", "relion"]) == 0
    assert "ended early" not in capsys.readouterr().err


def test_a_run_that_lost_its_table_is_not_taken_for_one_without_picks(picked, tmp_path, capsys):
    shutil.copytree(picked / "picks", tmp_path / "picks", ignore=shutil.ignore_patterns("summary.tsv"))
    assert main(["convert", str(tmp_path / "picks"), str(tmp_path / "out"), "--to", "relion"]) == 2
    assert "has no summary.tsv, the table of the micrographs of its run" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "merged"), str(tmp_path / "picks")]) == 2
    assert "has no summary.tsv" in capsys.readouterr().err and not (tmp_path / "merged").exists()


def test_a_format_that_does_not_exist_is_refused_before_picking(blobs, blob_model, tmp_path, capsys):
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "d.mrc"),
                 "--output", str(tmp_path / "out"), "--write", "relion,imod"]) == 2
    assert "'imod' is no format" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_coordinates_of_another_program_are_trained_on_and_evaluated(blobs, tmp_path):
    boxes = blobs[0] / "boxes"
    assert main(["convert", str(boxes), str(tmp_path / "cbox"), "--to", "cryolo"]) == 0
    options = parse_arguments(["train", "--micrographs", str(blobs[0] / "micrographs" / "a.mrc"), "--coordinates",
                               str(tmp_path / "cbox"), "--diameter", "64", "--output", str(tmp_path / "m.deepem")])
    np.testing.assert_array_equal(read_training_set(options).particles["a"].centres_xy,
                                  read_coordinates(boxes)["a"].centres_xy)
    assert main(["evaluate", "--truth", str(boxes), "--picks", str(tmp_path / "cbox"), "--distance", "2", "--json",
                 str(tmp_path / "f.json")]) == 0
    assert '"F1": 1.0' in (tmp_path / "f.json").read_text()


def test_y_from_the_last_row_of_a_binned_micrograph(blobs, tmp_path):
    micrograph = blobs[0] / "micrographs" / "a.mrc"
    rows, _ = read_shape(micrograph)
    (tmp_path / "a.csv").write_text(f"X-Coordinate,Y-Coordinate,Diameter\n20,{rows / 2 - 30:g},8\n")
    options = parse_arguments(["train", "--micrographs", str(micrograph), "--coordinates", str(tmp_path / "a.csv"),
                               "--coordinate-scale", "2", "--diameter", "64", "--output", str(tmp_path / "m.deepem")])
    found = read_training_set(options).particles["a"]
    assert found.centres_xy.tolist() == [[40.5, 60.5]] and found.box_px == 16


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.write])
def test_coordinates_of_binned_micrographs_come_back_from_every_format(name, blobs, tmp_path):
    micrograph, centres_xy = blobs[0] / "micrographs" / "a.mrc", np.array([[61.0, 8.0], [20.0, 30.0]])
    info = MicrographInfo(tuple(side // 2 for side in read_shape(micrograph)), 8.0)
    picks = MicrographPicks("a", "a.mrc", Coordinates(centres_xy, np.ones(2), 8.0), info)
    write_files(name, tmp_path / "binned", [picks])
    options = parse_arguments(["train", "--micrographs", str(micrograph), "--coordinates", str(tmp_path / "binned"),
                               "--coordinate-scale", "2", "--diameter", "64", "--output", str(tmp_path / "m.deepem")])
    found = read_training_set(options).particles["a"].centres_xy
    np.testing.assert_allclose(found[np.argsort(-found[:, 0])], [[122.5, 16.5], [40.5, 60.5]], atol=0.01)
