# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `deepem` program from end to end, on micrographs of blobs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.train import PRESETS as PRESET_NAMES
from deepem_scipion.deepem.commands.train import TRAINING_PRESETS as TRAINING_PRESET_NAMES
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.evaluation.metrics import evaluate
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.network.geometry import PRESETS
from deepem_scipion.deepem.picking.candidates import read_candidates
from deepem_scipion.deepem.picking.selection import Limits, select
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS


def pick(model, micrographs, output, *more):
    files = map(str, micrographs)
    return main(["pick", "--model", str(model), "--micrographs", *files, "--output", str(output), *more])


def micrograph(blobs, name):
    return blobs[0] / "micrographs" / f"{name}.mrc"


def read_star(folder):
    """Particles in picks.star, which names micrographs with their folders, by the name of the file."""
    return {os.path.basename(name): found for name, found in read_coordinates(folder / "picks.star").items()}


def test_trained_model_finds_the_particles_of_other_micrographs_in_place(blobs, blob_model, tmp_path):
    assert pick(blob_model, [micrograph(blobs, "d"), micrograph(blobs, "e")], tmp_path) == 0
    truth = {name: blob for name, blob in read_coordinates(blobs[0] / "boxes").items() if name in "de"}
    figures = evaluate(truth, read_coordinates(tmp_path), 6.0)["overall"]
    assert figures["F1"] > 0.9
    assert figures["error_px"] < 2.5
    again = evaluate(truth, read_star(tmp_path), 6.0)["overall"]
    assert again["true_positives"] == figures["true_positives"]


def test_results_are_complete_and_agree_with_each_other(blobs, blob_model, tmp_path):
    pick(blob_model, [micrograph(blobs, "d")], tmp_path, "--score-maps")
    summary = json.loads((tmp_path / "summary.json").read_text())
    entry = summary["micrographs"]["d"]
    candidates, reasons = read_candidates(tmp_path / "candidates" / "d.tsv")
    assert entry["status"] == "ok" and entry["seconds"] > 0
    assert entry["candidates"] == len(candidates)
    assert entry["picks"] == (reasons == "picked").sum() == len((tmp_path / "d.box").read_text().splitlines())
    assert sum(entry["rejected"].values()) == len(candidates) - entry["picks"]
    assert (tmp_path / "failed.tsv").read_text() == "micrograph\treason\n"
    scores = mrcfile.read(tmp_path / "scores" / "d.mrc")
    assert scores.max() >= candidates.scores.max() - 1e-5


def test_stored_candidates_give_the_same_picks_as_picking_again(blobs, blob_model, tmp_path):
    pick(blob_model, [micrograph(blobs, "d")], tmp_path / "all", "--threshold", "0")
    pick(blob_model, [micrograph(blobs, "d")], tmp_path / "few", "--threshold", "0.8", "--min-distance", "100")
    candidates, _ = read_candidates(tmp_path / "all" / "candidates" / "d.tsv")
    _, reasons = read_candidates(tmp_path / "few" / "candidates" / "d.tsv")
    assert (select(candidates, Limits(0.8, 100.0, load_model(blob_model).std_range), 4.0) == reasons).all()


@pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="RELION is not installed (Debian: relion)")
def test_relion_extracts_particles_directly_from_the_star_file(blobs, blob_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pick(blob_model, [micrograph(blobs, "d"), micrograph(blobs, "e")], "out", "--border", "60")
    optics = (tmp_path / "out" / "picks.star").read_text().split("data_particles")[0]
    header = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
    mics = "".join(f"{micrograph(blobs, name)} 1\n" for name in "de")
    (tmp_path / "mics.star").write_text(optics + header + mics)
    subprocess.run(["relion_preprocess", "--i", "mics.star", "--reextract_data_star", "out/picks.star", "--part_star",
                    "particles.star", "--part_dir", "particles/", "--extract", "--extract_size", "16"], check=True,
                   capture_output=True)
    expected = sum(len(found.scores) for found in read_coordinates("out/picks.star").values())
    assert expected > 10
    assert (tmp_path / "particles.star").read_text().count(".mrcs") == expected


def test_a_name_that_a_star_file_cannot_hold_is_left_out_of_it_only(blobs, blob_model, tmp_path, capsys):
    odd = tmp_path / "a' b\" c.mrc"
    shutil.copy(micrograph(blobs, "d"), odd)
    assert pick(blob_model, [odd, micrograph(blobs, "e")], tmp_path / "out") == 0
    assert (tmp_path / "out" / "a' b\" c.box").exists()
    assert set(read_star(tmp_path / "out")) == {"e"}
    assert "left out of the STAR file" in capsys.readouterr().err


def test_threshold_zero_without_other_limits_picks_every_candidate(blobs, blob_model, tmp_path):
    everything = ["--threshold", "0", "--std-range", "off", "--min-distance", "0"]
    pick(blob_model, [micrograph(blobs, "d")], tmp_path, *everything)
    assert set(read_candidates(tmp_path / "candidates" / "d.tsv")[1]) == {"picked"}


def test_picks_do_not_depend_on_order_or_number_of_micrographs(blobs, blob_model, tmp_path):
    pick(blob_model, [micrograph(blobs, name) for name in "de"], tmp_path / "two")
    pick(blob_model, [micrograph(blobs, name) for name in "edab"], tmp_path / "four")
    for name in "de":
        assert (tmp_path / "two" / f"{name}.box").read_bytes() == (tmp_path / "four" / f"{name}.box").read_bytes()


@pytest.mark.slow
def test_same_seed_gives_the_same_model_whatever_the_order_of_micrographs(blobs, few_updates, tmp_path):
    models = []
    for order in ("ab", "ba"):
        out = tmp_path / order
        assert main(["train", "--micrographs", *(str(micrograph(blobs, name)) for name in order), "--coordinates",
                     str(blobs[0] / "boxes"), "--diameter", "64", "--output", str(out), "--epochs", "3"]) == 0
        models.append(load_model(out))
    for name, value in models[0].networks[0].items():
        np.testing.assert_array_equal(value, models[1].networks[0][name])
    assert models[0].threshold == models[1].threshold


def test_bad_micrograph_is_recorded_and_does_not_stop_the_rest(blobs, blob_model, tmp_path):
    bad = tmp_path / "bad.mrc"
    bad.write_bytes(micrograph(blobs, "d").read_bytes()[:5000])
    nan = tmp_path / "nan.mrc"
    with mrcfile.new(nan, np.zeros((50, 60), np.float32)) as file:
        file.voxel_size = 4.0
        file.data[20, 30] = np.nan
    small = tmp_path / "small.mrc"
    with mrcfile.new(small, np.random.default_rng(0).normal(size=(15, 60)).astype(np.float32)) as file:
        file.voxel_size = 4.0
    assert pick(blob_model, [bad, nan, micrograph(blobs, "d"), small], tmp_path / "out") == 1
    lines = (tmp_path / "out" / "failed.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == ["bad", "nan", "small"]
    assert all(str(tmp_path) in line for line in lines)
    assert (tmp_path / "out" / "d.box").exists() and not (tmp_path / "out" / "bad.box").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["picked"], summary["failed"]) == (1, 3)


def test_exit_code_is_two_if_every_micrograph_fails(blob_model, tmp_path):
    (tmp_path / "bad.mrc").write_bytes(b"nothing")
    assert pick(blob_model, [tmp_path / "bad.mrc"], tmp_path / "out") == 2


@pytest.mark.parametrize("name", [
    "with blank", "it's", 'say "hi"', "50%", "a;b", "Müller", "[x]*", "two.dots.here", "$(id)"])
def test_unusual_file_names_work(blobs, blob_model, tmp_path, name):
    shutil.copy(micrograph(blobs, "d"), tmp_path / f"{name}.mrc")
    assert pick(blob_model, [tmp_path / f"{name}.mrc"], tmp_path / "out") == 0
    assert (tmp_path / "out" / f"{name}.box").exists()
    assert name in read_star(tmp_path / "out")


def test_file_name_with_a_leading_dash_is_no_option(blobs, blob_model, tmp_path, monkeypatch):
    shutil.copy(micrograph(blobs, "d"), tmp_path / "-d.mrc")
    monkeypatch.chdir(tmp_path)
    assert pick(blob_model, ["-d.mrc"], "out") == 0
    assert (tmp_path / "out" / "-d.box").exists()


def test_list_file_gives_paths_and_names(blobs, blob_model, tmp_path):
    (tmp_path / "list.txt").write_text(f"{micrograph(blobs, 'd')}\tfirst one\n{micrograph(blobs, 'e')}\n")
    assert pick(blob_model, [tmp_path / "list.txt"], tmp_path / "out") == 0
    assert {p.name for p in (tmp_path / "out").glob("*.box")} == {"first one.box", "e.box"}


def test_model_picks_micrographs_of_another_pixel_size(blobs, blob_model, tmp_path):
    pixels = mrcfile.read(micrograph(blobs, "d"))
    fine = np.kron(pixels, np.ones((2, 2), np.float32))
    with mrcfile.new(tmp_path / "d.mrc", fine) as file:
        file.voxel_size = 2.0
    assert pick(blob_model, [tmp_path / "d.mrc"], tmp_path / "fine") == 0
    assert pick(blob_model, [micrograph(blobs, "d")], tmp_path / "coarse") == 0
    fine_xy = read_coordinates(tmp_path / "fine" / "d.box")["d"].centres_xy
    coarse_xy = read_coordinates(tmp_path / "coarse" / "d.box")["d"].centres_xy
    assert len(fine_xy) == len(coarse_xy)
    np.testing.assert_allclose(np.sort(fine_xy, axis=0), np.sort(2 * (coarse_xy + 0.5) - 0.5, axis=0), atol=2)


def test_border_and_box_are_obeyed(blobs, blob_model, tmp_path):
    pick(blob_model, [micrograph(blobs, "d")], tmp_path, "--border", "160", "--box", "30")
    found = read_coordinates(tmp_path / "d.box")["d"]
    assert found.box_px == 30 and len(found.centres_xy)
    assert found.centres_xy.min() >= 39 and (np.array([209, 149]) - found.centres_xy).min() >= 39


def test_pick_with_one_rotation_and_another_step_still_finds_particles(blobs, blob_model, tmp_path):
    assert pick(blob_model, [micrograph(blobs, "d")], tmp_path, "--rotations", "1", "--scan-step", "3") == 0
    truth = {"d": read_coordinates(blobs[0] / "boxes")["d"]}
    assert evaluate(truth, read_coordinates(tmp_path / "d.box"), 6.0)["overall"]["recall"] > 0.7


@pytest.mark.parametrize("arguments, message", [
    (["--threshold", "2"], "--threshold 2"), (["--threshold", "high"], "threshold 'high': expected"),
    (["--threshold", "precision=much"], "threshold 'precision=much': expected"),
    (["--std-range", "2", "1"], "--std-range 2 1"), (["--std-range", "off", "1", "2"], "--std-range"),
    (["--scan-step", "0"], "--scan-step 0"), (["--at-least", "20"], "--at-least 20: without --keep-best"),
    (["--box", "0"], "--box 0"), (["--threads", "0"], "threads 0")])
def test_impossible_options_are_refused_with_a_message(blobs, blob_model, tmp_path, capsys, arguments, message):
    assert pick(blob_model, [micrograph(blobs, "d")], tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


def test_missing_model_and_missing_micrographs_are_refused(blobs, blob_model, tmp_path, capsys):
    assert pick(tmp_path / "none", [micrograph(blobs, "d")], tmp_path / "out") == 2
    assert "no such model" in capsys.readouterr().err
    assert pick(blob_model, [tmp_path / "none.mrc"], tmp_path / "out") == 2
    assert "none.mrc" in capsys.readouterr().err


def test_unknown_command_exits_with_two():
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == 2


def test_card_lists_what_the_model_was_trained_on(blob_model, capsys):
    assert main(["info", str(blob_model), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["contrast"] == "dark"
    assert sorted(card["training"]["names"] + card["validation"]["names"]) == ["a", "b", "c"]
    assert card["training"]["particles"] + card["validation"]["particles"] + card["training"]["left_out"] \
        + card["validation"]["left_out"] == 3 * 14
    assert card["working_pixel_size_angst"] == 4.0 and card["diameter_angst"] == 64
    assert 0 < card["threshold"] < 1 and card["validation"]["F1"] > 0.8
    assert len(card["history"]) == 4 and set(card["versions"]) >= {"tensorflow", "numpy"}
    low, high = card["std_range"]
    assert 0 < low < high


def test_info_prints_the_card_as_a_table(blob_model, capsys):
    assert main(["info", str(blob_model)]) == 0
    text = capsys.readouterr().out
    assert "64 A" in text and "threshold" in text and "kernels" in text


@pytest.mark.slow
def test_paper_preset_and_explicit_geometry_reach_the_card(blobs, tmp_path):
    network = ["--box", "22", "--kernels", "5", "4", "2", "--pools", "2", "2", "2", "--maps", "3", "4", "5"]
    assert main(["train", "--micrographs", str(blobs[0] / "micrographs"), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m"), "--training-preset", "paper", *network,
                 "--epochs", "150", "--seed", "3"]) == 0
    model = load_model(tmp_path / "m")
    assert (model.geometry.box, model.geometry.kernels, model.geometry.maps) == (22, (5, 4, 2), (3, 4, 5))
    assert model.record.training_preset == "paper" and model.record.seed == 3


def test_fine_tuning_a_model_keeps_its_network(blobs, blob_model, few_updates, tmp_path):
    assert main(["train", "--micrographs", str(micrograph(blobs, "d")), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m"), "--continue-from", str(blob_model), "--epochs",
                 "1"]) == 0
    assert load_model(tmp_path / "m").geometry == load_model(blob_model).geometry
    assert load_model(tmp_path / "m").record.history[0]["accuracy"] > 0.85


@pytest.mark.slow
def test_one_micrograph_is_enough_to_train_on_and_the_next_step_is_said(blobs, few_updates, tmp_path, capsys):
    assert main(["train", "--micrographs", str(micrograph(blobs, "a")), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m"), "--epochs", "4", "--validation-fraction",
                 "0.3", "--maps", "4", "5", "6"]) == 0
    assert f"deepem pick --model {tmp_path / 'm'} --micrographs ... --output picks" in capsys.readouterr().err
    card = load_model(tmp_path / "m").card()
    assert card["validation"]["particles"] > 0 and card["geometry"]["maps"] == [4, 5, 6]


@pytest.mark.parametrize("arguments, message", [
    (["--diameter", "-5"], "diameter"), (["--diameter", "4"], "at least 8"), (["--box", "24"], "need each other"),
    (["--box", "25", "--kernels", "5", "4", "2", "--pools", "2", "2", "2"], "nearest"),
    (["--maps", "0", "5", "5"], "at least 1"), (["--epochs", "0"], "epochs 0"),
    (["--given-negatives-only"], "needs --negatives"),
    (["--preset", "klh", "--diameter", "3000"], "smaller than the network's box"),
    (["--validation-fraction", "1.5"], "validation fraction"), (["--diameter", "nan"], "diameter")])
def test_impossible_training_is_refused_with_a_message(blobs, tmp_path, capsys, arguments, message):
    assert main(["train", "--micrographs", str(micrograph(blobs, "a")), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("output", ["folder", "file/m"])
def test_model_that_could_not_be_written_is_refused_before_training(blobs, tmp_path, capsys, output):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert main(["train", "--micrographs", str(micrograph(blobs, "a")), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / output)]) == 2
    message = capsys.readouterr().err
    assert "--output" in message and "epoch" not in message


def test_only_a_model_is_replaced_by_a_model(blobs, tmp_path, capsys):
    boxes = shutil.copytree(blobs[0] / "boxes", tmp_path / "boxes")
    taken = next(boxes.iterdir())
    before = taken.read_bytes()
    assert main(["train", "--micrographs", str(micrograph(blobs, "a")), "--coordinates", str(boxes), "--diameter", "64",
                 "--output", str(taken)]) == 2
    assert f"--output {taken}: the file there is no model" in capsys.readouterr().err and taken.read_bytes() == before


def test_coordinates_of_other_micrographs_are_refused_with_both_names(blobs, tmp_path, capsys):
    shutil.copy(micrograph(blobs, "a"), tmp_path / "other.mrc")
    assert main(["train", "--micrographs", str(tmp_path / "other.mrc"), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m")]) == 2
    message = capsys.readouterr().err
    assert "other" in message and "a, b, c" in message


def test_choices_of_the_command_line_are_those_of_the_method():
    assert set(PRESET_NAMES) == set(PRESETS) and set(TRAINING_PRESET_NAMES) == set(TRAINING_PRESETS)


@pytest.mark.parametrize("command", ["", "train", "tune", "pick", "worker", "evaluate", "report", "info", "export",
                                     "demo"])
def test_help_imports_no_scientific_library(command):
    code = ("import sys; from deepem_scipion.deepem.commands.main import main\n"
            "try: main([*sys.argv[1:], '--help'])\n"
            "except SystemExit: assert not {'numpy', 'scipy', 'tensorflow', 'matplotlib', 'rich'} & set(sys.modules)")
    words = [command] if command else []
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(" ".join(["usage: deepem", *words, "[options]"]))


def test_tune_without_optuna_says_what_to_install(blobs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "deepem_scipion.deepem.training.tuning", raising=False)
    assert main(["tune", "--micrographs", str(blobs[0] / "micrographs"), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m")]) == 2
    errors = capsys.readouterr().err
    assert "`deepem tune` needs Optuna" in errors and "pip install 'scipion-em-deepem[tune]'" in errors
    assert len(errors.splitlines()) == 1


def test_info_starts_without_tensorflow(blob_model):
    code = ("import sys; from deepem_scipion.deepem.commands.main import main; main(['info', sys.argv[1]]);"
            "assert not {'tensorflow', 'keras', 'matplotlib', 'scipy'} & set(sys.modules), sys.modules.keys()")
    subprocess.run([sys.executable, "-c", code, str(blob_model)], check=True, stdout=subprocess.DEVNULL)


def test_terminated_run_keeps_what_was_finished(blobs, blob_model, tmp_path):
    listed = tmp_path / "many.txt"
    listed.write_text("".join(f"{micrograph(blobs, 'd')}\tm{i}\n" for i in range(3000)))
    process = subprocess.Popen([sys.executable, "-m", "deepem_scipion.deepem", "pick", "--model", str(blob_model),
                                "--micrographs", str(listed), "--output", str(tmp_path / "out")],
                               stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (tmp_path / "out" / "m1.box").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 128 + signal.SIGTERM
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert 2 <= summary["picked"] < 3000
    assert all((tmp_path / "out" / f"{name}.box").exists() for name in summary["micrographs"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_folder_that_cannot_be_made_is_refused(blobs, blob_model, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert pick(blob_model, [micrograph(blobs, "d")], tmp_path / "out") == 2
    assert "cannot be made" in capsys.readouterr().err


def labels_given_to_training(blobs, monkeypatch, *options):
    """Return particles, negatives and names of incomplete micrographs that `deepem train` passes on."""
    from deepem_scipion.deepem.training import train as learning

    class Enough(BaseException):  # no error of which the program would make a message
        pass

    def train(data, *others):
        raise Enough(data.particles, data.negatives, data.incomplete)

    monkeypatch.setattr(learning, "train_model", train)
    with pytest.raises(Enough) as caught:
        main(["train", "--micrographs", str(blobs[0] / "micrographs"), "--diameter", "64", "--output", "m", *options])
    return caught.value.args


def test_further_sets_are_added_and_mark_their_other_micrographs_as_incomplete(blobs, tmp_path, monkeypatch):
    for name, places in {"main/a": [[50, 50], [90, 90]], "right/a": [[120, 60]], "right/b": [[30, 30]],
                         "wrong/b": [[70, 70]], "wrong/c": [[20, 20], [40, 80]]}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_box(tmp_path / f"{name}.box", np.array(places, float), np.full(len(places), np.nan), 24)
    particles, negatives, incomplete = labels_given_to_training(
        blobs, monkeypatch, "--coordinates", str(tmp_path / "main"), "--more-particles", str(tmp_path / "right"),
        "--more-negatives", str(tmp_path / "wrong"))
    assert {name: len(found.centres_xy) for name, found in particles.items()} == {"a": 3, "b": 1, "c": 0}
    assert {name: len(found.centres_xy) for name, found in negatives.items()} == {"b": 1, "c": 2}
    assert incomplete == {"b", "c"}


@pytest.mark.slow
def test_training_uses_a_micrograph_with_negatives_only(blobs, few_updates):
    from deepem_scipion.deepem.training.plan import Plan
    from deepem_scipion.deepem.training.train import train_model
    from deepem_scipion.deepem.training.training_set import TrainingSet

    folder, centres = blobs
    particles = {name: Coordinates(centres[name], np.full(14, np.nan), 24.0) for name in "ab"}
    none = Coordinates(np.zeros((0, 2)), np.zeros(0), 24.0)
    twice = Coordinates(np.array([[60.0, 60.0], [60.5, 60.0], [100.0, 40.0]]), np.full(3, np.nan), 24.0)
    data = TrainingSet({name: micrograph((folder, centres), name) for name in "abc"}, {**particles, "c": none},
                       {"c": twice}, {"c"})
    model = train_model(data, Plan(64.0, epochs=1))
    assert model.record.training.names in (["a", "c"], ["b", "c"])
    assert model.record.training.given_negatives == 2  # of two at nearly the same place one counts
