# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem evaluate` from end to end."""

import json

import numpy as np
import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import write_box


def pick(blobs, model, names, output, *more):
    files = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in names]
    return main(["pick", "--model", str(model), "--micrographs", *files, "--output", str(output), *more])


def test_evaluate_prints_writes_and_draws(blobs, blob_model, tmp_path, capsys):
    pick(blobs, blob_model, "abcde", tmp_path / "out", "--threshold", "0")
    assert main(["evaluate", "--truth", str(blobs[0] / "boxes"), "--picks", str(tmp_path / "out"), "--distance", "6",
                 "--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.png")]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())["overall"]
    assert figures["truth"] == 70 and figures["AP"] > 0.9
    assert f"{figures['AP']:.3f}" in capsys.readouterr().out
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_counts_particles_without_picks_as_missed_and_warns(blobs, blob_model, tmp_path, capsys):
    pick(blobs, blob_model, "d", tmp_path / "out")
    assert main(["evaluate", "--truth", str(blobs[0] / "boxes"), "--picks", str(tmp_path / "out"), "--distance", "6",
                 "--json", str(tmp_path / "f.json")]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["overall"]["truth"] == 70
    assert "no picks for 4 of 5" in capsys.readouterr().err


def evaluate_folder(folder, *options):
    """Return the figures of `deepem evaluate` for folder/truth and folder/picks."""
    status = main(["evaluate", "--truth", str(folder / "truth"), "--picks", str(folder / "picks"), "--distance", "5",
                   "--json", str(folder / "figures.json"), *options])
    return json.loads((folder / "figures.json").read_text()) if status == 0 else status


@pytest.fixture()
def compared(tmp_path):
    """Return a folder with reference coordinates and picks of the micrographs a, empty (none) and missed (no pick)."""
    none = np.zeros((0, 2)), np.zeros(0)
    both = np.array([(20, 20), (60, 20), (100, 80)])
    for folder, found in (("truth", {"a": (both, np.full(3, np.nan)), "empty": none, "missed": (both, np.ones(3))}),
                          ("picks", {"a": ([(21, 20), (27, 20), (60, 22), (5, 5)], [0.6, 0.9, 0.8, 0.3]),
                                     "empty": ([(70, 70)], [0.2]), "missed": none})):
        (tmp_path / folder).mkdir()
        for name, (centres, scores) in found.items():
            write_box(tmp_path / folder / f"{name}.box", np.array(centres), np.array(scores), 10)
    return tmp_path


def test_evaluate_counts_empty_files_as_nothing_found_and_nothing_to_find(compared, capsys):
    found = evaluate_folder(compared)
    assert [found["overall"][key] for key in ("truth", "picks", "true_positives")] == [6, 5, 2]
    assert found["micrographs"]["empty"]["precision"] == found["micrographs"]["missed"]["recall"] == 0
    assert "one-to-one matching within 5 px, in descending order of score, closest pairs first among equal scores\n" \
        in capsys.readouterr().out


def test_evaluate_suppresses_close_picks_and_applies_the_best_threshold(compared, capsys):
    found = evaluate_folder(compared, "--min-distance", "6.5", "--threshold", "F1")
    assert [found["overall"][key] for key in ("picks", "true_positives")] == [2, 1] and found["threshold"] == 0.8
    text = capsys.readouterr().out
    assert "of picks closer than 6.5 px only the one with the highest score; scores of at least 0.8" in text


def test_evaluate_takes_the_region_of_each_micrograph(compared):
    (compared / "regions.txt").write_text("a.mrc 0 0 50 50\n")
    found = evaluate_folder(compared, "--regions", str(compared / "regions.txt"))
    assert (found["micrographs"]["a"]["truth"], found["micrographs"]["missed"]["truth"]) == (1, 3)
    found = evaluate_folder(compared, "--regions", str(compared / "regions.txt"), "--region", "0", "0", "70", "70")
    assert (found["micrographs"]["a"]["truth"], found["micrographs"]["missed"]["truth"]) == (1, 2)
    assert found["micrographs"]["empty"]["picks"] == 0


def test_evaluate_refuses_a_damaged_file_by_its_line_rather_than_leave_a_micrograph_out(compared, capsys):
    with open(compared / "picks" / "empty.box", "a") as file:
        file.write("12\tdamaged\t10\t10\n")
    assert evaluate_folder(compared) == 2
    assert "empty.box, line 2: expected a number, found 'damaged'" in capsys.readouterr().err


@pytest.mark.parametrize("options, message", [
    (["--distance", "inf", "--report", "report.html"], "--distance inf: expected pixels, above 0"),
    (["--min-distance", "-1"], "--min-distance -1.0"), (["--min-distance", "nan"], "--min-distance"),
    (["--threshold", "F3"], "--threshold F3: expected F1, F2 or a score"), (["--threshold", "nan"], "--threshold nan"),
    (["--region", "9", "0", "1", "1"], "--region: expected X0 Y0 X1 Y1"),
    (["--regions", "none"], "none cannot be read")])
def test_evaluate_refuses_impossible_options_with_a_message(compared, capsys, options, message):
    assert evaluate_folder(compared, *options) == 2
    assert message in capsys.readouterr().err
