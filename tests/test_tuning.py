# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The search for a network; most tests replace the training by a formula."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")

from deepem_scipion.deepem.commands.main import main  # noqa: E402
from deepem_scipion.deepem.coordinates.read import read_coordinates  # noqa: E402
from deepem_scipion.deepem.errors import DeepEMError  # noqa: E402
from deepem_scipion.deepem.micrographs.find import find_micrographs  # noqa: E402
from deepem_scipion.deepem.model.files import load_model  # noqa: E402
from deepem_scipion.deepem.model.model import Model  # noqa: E402
from deepem_scipion.deepem.model.paths import ModelFiles  # noqa: E402
from deepem_scipion.deepem.model.record import TrainingRecord, Validation  # noqa: E402
from deepem_scipion.deepem.network.geometry import Geometry, auto_geometry  # noqa: E402
from deepem_scipion.deepem.training import tuning  # noqa: E402
from deepem_scipion.deepem.training.plan import Plan  # noqa: E402
from deepem_scipion.deepem.training.training_set import TrainingSet  # noqa: E402
from deepem_scipion.deepem.training.tuning import tune_model  # noqa: E402

PLAN = Plan(64.0, pixel_size_angst=2.0)  # 32 px, scanned as they are or binned by 2


@pytest.fixture
def data(blobs):
    return TrainingSet(find_micrographs([blobs[0] / "micrographs"]), read_coordinates(blobs[0] / "boxes"))


@pytest.fixture
def files(tmp_path):
    return ModelFiles(tmp_path / "m.deepem")


def model_of(plan, precision, names=("b",), on="validation micrographs"):
    """Return a model of zeros whose record states an average precision."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in plan.geometry.weight_shapes().items()}
    record = TrainingRecord(validation=Validation(names=list(names), on=on, AP=precision))
    return Model(plan.geometry, (weights,), plan.working_pixel_size_angst, plan.diameter_angst, 4, (0.5, 1.5), 0.5,
                 record)


@pytest.fixture
def trained(monkeypatch):
    """Plans that were trained; the average precision grows with the box."""
    plans = []

    def train(data, plan, progress=lambda epoch: None):
        plans.append(plan)
        precision = plan.geometry.box * plan.working_pixel_size_angst / 200
        for epoch in range(1, 6):
            progress({"epoch": epoch, "epochs": 5, "network": 1, "round": 1, "seed": plan.seed,
                      "validation_average_precision": precision * (1 - 0.3 / epoch)})
        return model_of(plan, precision)

    monkeypatch.setattr(tuning, "train_model", train)
    return plans


def trials_of(path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(study_name="deepem", storage=storage).get_trials()


@pytest.mark.slow
def test_a_search_writes_a_model_that_picks_and_a_report(blobs, few_updates, tmp_path, capsys):
    files = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in "abc"]
    output = tmp_path / "m.deepem"
    arguments = ["--micrographs", *files, "--coordinates", str(blobs[0] / "boxes"), "--diameter", "64", "--epochs", "2"]
    assert main(["tune", *arguments, "--output", str(output), "--trials", "2", "--maps", "6", "12", "12"]) == 0
    assert "optimistic" in capsys.readouterr().out
    found = load_model(output).record.tuning
    assert found["trials"] == 2 and found["AP"] >= found["baseline_AP"]
    assert "| 1" in ModelFiles(output).tuning_report.read_text()
    assert str(auto_geometry(16.0)) in trials_of(ModelFiles(output).study)[0].user_attrs["settings"]
    assert main(["train", *arguments, "--output", str(tmp_path / "plain")]) == 0
    assert load_model(tmp_path / "plain").record.validation.AP == found["baseline_AP"]
    assert main(["pick", "--model", str(output), "--micrographs", files[0], "--output", str(tmp_path / "picks")]) == 0


def test_the_first_trial_is_the_automatic_network_and_the_best_is_kept(data, trained, files):
    model = tune_model(data, PLAN, files, trials=8)
    assert trained[0].geometry == auto_geometry(32.0) and trained[0].working_pixel_size_angst == 2.0
    best = max(trained, key=lambda plan: plan.geometry.box * plan.working_pixel_size_angst)
    assert model.geometry == best.geometry == load_model(files.model).geometry
    assert model.record.tuning["AP"] == pytest.approx(best.geometry.box * best.working_pixel_size_angst / 200)
    assert {plan.working_pixel_size_angst for plan in trained} <= {2.0, 4.0}
    assert f"| {model.record.tuning['trial']} (chosen) |" in files.tuning_report.read_text()


def test_given_values_are_not_searched(data, trained, files):
    plan = replace(PLAN, working_pixel_size_angst=4.0)
    tune_model(data, plan, files, trials=6, fixed={"maps": "4/5/6", "pools": "3/2/2"})
    assert {(plan.geometry.maps, plan.geometry.pools, plan.working_pixel_size_angst) for plan in trained} == {
        ((4, 5, 6), (3, 2, 2), 4.0)}


@pytest.mark.slow
def test_a_resumed_search_continues_as_an_uninterrupted_one(data, trained, tmp_path):
    tune_model(data, PLAN, ModelFiles(tmp_path / "whole"), trials=6)
    whole = trained[:]
    trained.clear()
    for trials in (2, 4):
        tune_model(data, PLAN, ModelFiles(tmp_path / "parts"), trials=trials)
    assert trained == whole
    trained.clear()
    tune_model(data, replace(PLAN, seed=7), ModelFiles(tmp_path / "other"), trials=6)
    assert trained[1:] != whole[1:]


def test_a_killed_first_trial_is_repeated_and_a_killed_run_keeps_its_model(data, trained, files, monkeypatch):
    train = tuning.train_model

    def kill(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "train_model", kill)
    with pytest.raises(KeyboardInterrupt):
        tune_model(data, PLAN, files, trials=1)
    assert not files.model.exists()
    monkeypatch.setattr(tuning, "train_model", train)
    tune_model(data, PLAN, files, trials=1)
    assert trained[0].geometry == auto_geometry(32.0) and load_model(files.model).geometry == auto_geometry(32.0)
    study = tuning.open_study(files.study, trials_of(files.study) and tuning.fingerprint(data, PLAN, {}))
    study.ask()  # as a run leaves it that was killed during a trial
    tune_model(data, PLAN, files, trials=1)
    assert all(trial.state.is_finished() for trial in trials_of(files.study))


@pytest.mark.parametrize("change", [{"seed": 1}, {"diameter_angst": 70.0}, {"networks": 2}])
def test_a_study_of_other_options_or_data_is_refused(data, trained, files, change):
    tune_model(data, PLAN, files, trials=1)
    with pytest.raises(DeepEMError, match="other data or options"):
        tune_model(data, replace(PLAN, **change), files, trials=1)
    moved = {**data.particles, "a": replace(data.particles["a"], centres_xy=data.particles["a"].centres_xy + 1)}
    with pytest.raises(DeepEMError, match="other data or options"):
        tune_model(replace(data, particles=moved), PLAN, files, trials=1)


@pytest.mark.parametrize("change", [{"tiff_rows": "top"}, {"overlaps_as_negatives": True},
                                    {"micrographs": {name: Path("denoised", f"{name}.mrc") for name in "abcd"}}])
def test_a_search_on_other_data_has_another_fingerprint(data, change):
    assert tuning.fingerprint(replace(data, **change), PLAN, {}) != tuning.fingerprint(data, PLAN, {})


def test_a_file_that_is_no_study_is_refused(data, trained, files):
    files.study.write_text("no journal\n")
    with pytest.raises(DeepEMError, match="not the journal of a search"):
        tune_model(data, PLAN, files, trials=1)
    assert not trained


def test_failed_trials_are_recorded_and_do_not_stop_the_search(data, trained, files, monkeypatch):
    train, calls = tuning.train_model, []

    def fail_sometimes(data, plan, progress):
        calls.append(plan)
        if len(calls) == 2:
            raise DeepEMError("no room | at all")
        if len(calls) == 4:
            raise MemoryError("a box of 900 px")
        model = train(data, plan, progress)
        return model_of(plan, 0.5, names=("c",)) if len(calls) == 3 else model

    monkeypatch.setattr(tuning, "train_model", fail_sometimes)
    tune_model(data, PLAN, files, trials=4)
    first, second, third, fourth = trials_of(files.study)
    assert first.value is not None and second.user_attrs["reason"] == "no room | at all"
    assert "does not fit into all of them" in third.user_attrs["reason"]
    assert fourth.user_attrs["reason"] == "MemoryError: a box of 900 px"
    assert "no room / at all" in files.tuning_report.read_text()


def test_a_run_stops_when_another_takes_over_its_search(data, trained, files, monkeypatch):
    train, calls = tuning.train_model, []

    def overtaken(data, plan, progress):
        if not calls:
            calls.append(plan)
            tune_model(data, PLAN, files, trials=1)
        return train(data, plan, progress)

    monkeypatch.setattr(tuning, "train_model", overtaken)
    with pytest.raises(DeepEMError, match="another run has taken over the search in .*m.deepem.study; this one stops"):
        tune_model(data, PLAN, files, trials=1)
    assert [trial.state.name for trial in trials_of(files.study)] == ["FAIL", "COMPLETE"]
    assert load_model(files.model).geometry == auto_geometry(32.0)


def test_a_missing_model_of_a_search_is_an_error_before_the_next_trial(data, trained, files):
    tune_model(data, PLAN, files, trials=1)
    (files.study.with_name(files.study.name + ".models") / "0.deepem").unlink()
    with pytest.raises(DeepEMError, match="0.deepem: no such model file"):
        tune_model(data, PLAN, files, trials=1)
    assert len(trained) == 1


def test_data_that_cannot_be_used_end_the_search(data, files, monkeypatch):
    def fail(*arguments):
        raise DeepEMError("no particle has its whole box")

    monkeypatch.setattr(tuning, "train_model", fail)
    with pytest.raises(DeepEMError, match="whole box"):
        tune_model(data, PLAN, files, trials=3)
    assert len(trials_of(files.study)) == 1


def test_poor_trials_are_stopped_and_the_first_never(data, files, monkeypatch):
    epochs = []

    def train(data, plan, progress):
        number = len(epochs)
        epochs.append(0)
        for epoch in range(1, 11):
            epochs[-1] = epoch
            progress({"epoch": epoch, "epochs": 10, "network": 1, "round": 1, "seed": plan.seed,
                      "validation_average_precision": 0.1 if number in (0, 5) else 0.8})
        return model_of(plan, 0.8)

    monkeypatch.setattr(tuning, "train_model", train)
    tune_model(data, PLAN, files, trials=6)
    assert epochs == [10, 10, 10, 10, 10, 4]
    assert trials_of(files.study)[5].user_attrs["reason"] == "below the median after epoch 4"


def test_a_trial_is_stopped_when_the_time_is_over_or_it_does_not_converge(data, trained, files, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(tuning.time, "monotonic", lambda: clock[0])
    train = tuning.train_model

    def slow(data, plan, progress):
        clock[0] += 40.0
        if clock[0] == 80.0:
            progress({"epoch": 1, "epochs": 5, "network": 1, "round": 1, "seed": plan.seed + 1})
        return train(data, plan, progress)

    monkeypatch.setattr(tuning, "train_model", slow)
    tune_model(data, PLAN, files, minutes=1.0)
    tune_model(data, PLAN, files, minutes=0.5)
    reasons = [trial.user_attrs.get("reason") for trial in trials_of(files.study)]
    assert reasons == [None, "did not converge with the first seed", "the time was over after epoch 1"]


@pytest.mark.parametrize("options, message", [
    (["--minutes", "0"], "minutes above 0"), (["--trials", "0"], "at least 1 trial"),
    (["--validation-fraction", "0"], "validation micrographs"), (["--study", "m"], "would replace m, which is read")])
def test_unusable_options_are_refused_before_training(blobs, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--micrographs", str(blobs[0] / "micrographs"), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m"), *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "m").exists()


def test_a_plan_with_a_network_is_refused(data, files):
    with pytest.raises(DeepEMError, match="the network is searched"):
        tune_model(data, replace(PLAN, geometry=Geometry(40, (9, 5, 3), (2, 2, 2))), files)


def test_other_commands_do_not_import_optuna():
    code = ("import sys; from deepem_scipion.deepem.commands.main import main\n"
            "import deepem_scipion.deepem.training.train, deepem_scipion.deepem.picking.run\n"
            "sys.exit('optuna' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
