# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The search for hyper-parameters: with real training once, otherwise with a stand-in for it that takes no time."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.evaluation.metrics import evaluate
from deepem_scipion.deepem.micrographs.find import find_micrographs
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.network.geometry import Geometry, auto_geometry
from deepem_scipion.deepem.training import tuning
from deepem_scipion.deepem.training.plan import Plan, choose_geometry
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
from deepem_scipion.deepem.training.tuning import (
    Budget,
    choose,
    nearest_geometry,
    plan_of,
    scan_cost,
    search_space,
    tune_model,
)

PIXEL_ANGST = 2.0  # diameter 64 A: 32 px, to be searched as they are or reduced by 2
PLAN = Plan(64.0, pixel_size_angst=PIXEL_ANGST)


@pytest.fixture
def data(blobs):
    """Micrographs and particles."""
    return find_micrographs([blobs[0] / "micrographs"]), read_coordinates(blobs[0] / "boxes")


def model_of(plan, precision):
    """A model of zeros whose picks are said to have an average precision."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in plan.geometry.weight_shapes().items()}
    record = {"training": {"names": ["a"]},
              "validation": {"names": ["b"], "particles": 14, "on": "validation micrographs", "AP": precision}}
    return Model(plan.geometry, (weights,), plan.working_pixel_size_angst, plan.diameter_angst, 4, (0.5, 1.5),
                 0.5, record)


@pytest.fixture
def trained(monkeypatch):
    """Plans that were trained; training is replaced by a formula with its maximum at the widest box."""
    plans = []

    def train(micrographs, particles, plan, negatives=None, progress=lambda record: None, incomplete=()):
        plans.append(plan)
        precision = plan.geometry.box * plan.working_pixel_size_angst / 200
        for epoch in range(1, 6):
            progress({"epoch": epoch, "epochs": 5, "validation_average_precision": precision * (1 - 0.3 / epoch)})
        return model_of(plan, precision)

    monkeypatch.setattr(tuning, "train_model", train)
    monkeypatch.setattr(tuning, "draw_search", lambda *parts: None)
    return plans


@pytest.fixture
def brief(monkeypatch):
    """The recipe `default` with fewer updates: enough for blobs."""
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], updates_per_epoch=40, crop=4))


def trials_of(path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(study_name="deepem", storage=storage).get_trials()


def arguments(blobs, output, *more, names="abc"):
    files = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in names]
    return ["tune", "--micrographs", *files, "--coordinates", str(blobs[0] / "boxes"), "--diameter", "64", "--output",
            str(output), "--epochs", "3", *more]


@pytest.mark.slow
def test_search_writes_a_model_that_picks_its_card_and_a_report(blobs, brief, tmp_path, capsys):
    output = tmp_path / "m.deepem"
    assert main(arguments(blobs, output, "--trials", "2", "--training-preset", "default", "--maps", "6", "12", "12")) == 0
    assert "optimistic" in capsys.readouterr().out
    found = load_model(output).record["tuning"]
    assert found["trials"] == 2 and found["complete"] + found["stopped"] + found["failed"] == 2
    assert found["AP"] >= found["best_AP"] - tuning.EQUAL_AP and found["best_AP"] >= found["baseline_AP"] > 0.5
    assert found["parameters"]["training_preset"] == "default" and found["parameters"]["maps"] == "6/12/12"
    text = (tmp_path / "m.deepem.tuning.md").read_text()
    assert "optimistic" in text or "Nothing was gained" in text
    assert (tmp_path / "m.deepem.tuning.png").read_bytes().startswith(b"\x89PNG")
    trials = trials_of(tmp_path / "m.deepem.study")
    assert trials[0].user_attrs["geometry"] == auto_geometry(16.0).as_dict()
    assert main(["train", *arguments(blobs, tmp_path / "plain")[1:]]) == 0
    assert load_model(tmp_path / "plain").record["validation"]["AP"] == found["baseline_AP"]
    assert main(["pick", "--model", str(output), "--micrographs", str(blobs[0] / "micrographs" / "e.mrc"), "--output",
                 str(tmp_path / "picks")]) == 0
    truth = {"e": read_coordinates(blobs[0] / "boxes")["e"]}
    assert evaluate(truth, read_coordinates(tmp_path / "picks"), 6.0)["overall"]["F1"] > 0.6


@settings(max_examples=40)
@given(st.floats(8, 45))
def test_automatic_shares_give_the_automatic_geometry(diameter_px):
    shares = tuple(tuning.AUTOMATIC[f"kernel{i}"] for i in (1, 2, 3))
    found = nearest_geometry(diameter_px, tuning.AUTOMATIC["box"], shares, (2, 2, 2), (6, 12, 12))
    assert found == auto_geometry(diameter_px)


@settings(max_examples=60)
@given(st.floats(16, 500), st.floats(0.5, 6), st.integers(0, 1000))
def test_every_suggestion_is_a_geometry_that_fits_near_what_was_wanted(diameter_angst, pixel_angst, seed):
    plan = Plan(max(diameter_angst, 8 * pixel_angst))
    rng = np.random.default_rng(seed)
    values = {}
    for name, kind in search_space(plan, pixel_angst, {}).items():
        values[name] = (kind.choices[rng.integers(len(kind.choices))] if hasattr(kind, "choices")
                        else int(rng.integers(kind.low, kind.high + 1)) if name == "binning"
                        else float(rng.choice([kind.low, kind.high, rng.uniform(kind.low, kind.high)])))
    found = plan_of(values, plan, pixel_angst)
    geometry, diameter_px = found.geometry, plan.diameter_angst / found.working_pixel_size_angst
    assert "/".join(map(str, geometry.pools)) == values["pools"]
    wanted = max(12, values["box"] * diameter_px)
    assert abs(geometry.box - wanted) <= 0.1 * wanted + 1
    assert found.training_preset == values["training_preset"] and found.std_margin == values["std_margin"]


def test_working_pixel_sizes_are_whole_multiples_around_the_automatic_one():
    space = search_space(Plan(120.0), 1.5, {})
    assert (space["binning"].low, space["binning"].high) == (2, 4)
    _, automatic, _ = choose_geometry(Plan(120.0), 1.5)
    assert automatic == 3 * 1.5
    only = search_space(Plan(40.0), 4.0, {})["binning"]
    assert (only.low, only.high) == (1, 1)


def test_given_values_are_not_searched(data, trained, tmp_path):
    plan = replace(PLAN, working_pixel_size_angst=3.0)
    tune_model(*data, plan, tmp_path / "m", budget=Budget(trials=6), fixed={"pools": "3/2/2", "training_preset": "paper"})
    assert {plan.working_pixel_size_angst for plan in trained} == {3.0}
    assert {plan.training_preset for plan in trained} == {"paper"}
    assert {plan.geometry.pools for plan in trained} == {(3, 2, 2)}
    assert len({plan.geometry.maps for plan in trained}) > 1


def test_same_seed_gives_the_same_suggestions_and_another_seed_others(data, trained, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tune_model(*data, replace(PLAN, seed=seed), tmp_path / name, budget=Budget(trials=10))
    first, second, third = ([trial.params for trial in trials_of(tmp_path / f"{name}.study")] for name in "abc")
    assert first == second
    assert first[0] == third[0]  # the baseline
    assert all(one != other for one in first[1:] for other in third[1:])


def test_interrupted_search_goes_on_as_it_would_have_done(data, trained, tmp_path):
    whole = tune_model(*data, PLAN, tmp_path / "whole", budget=Budget(trials=10))
    for _ in range(2):
        parts = tune_model(*data, PLAN, tmp_path / "parts", budget=Budget(trials=5))
    one, other = (trials_of(tmp_path / f"{name}.study") for name in ("whole", "parts"))
    assert [trial.params for trial in one] == [trial.params for trial in other]
    assert sum(bool(trial.user_attrs.get("baseline")) for trial in other) == 1
    assert parts.geometry == whole.geometry
    assert parts.record["tuning"]["trials"] == 10


@pytest.mark.parametrize("change, message", [
    ({"diameter_angst": 60.0}, "diameter angst 64.0 there, 60.0 now"), ({"seed": 1}, "seed 0 there, 1 now"),
    ({"pixel_size_angst": 2.1}, "pixel size"), ({"epochs": 3}, "epochs null there, 3 now"),
    ({"working_pixel_size_angst": 4.0}, "working pixel size")])
def test_study_of_other_options_is_refused(data, trained, tmp_path, change, message):
    tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=1))
    with pytest.raises(DeepEMError, match=message):
        tune_model(*data, replace(PLAN, **change), tmp_path / "m", budget=Budget(trials=1))
    assert len(trials_of(tmp_path / "m.study")) == 1


def test_study_of_other_data_is_refused(data, trained, tmp_path):
    micrographs, particles = data
    tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=1))
    fewer = {name: path for name, path in micrographs.items() if name != "c"}
    with pytest.raises(DeepEMError, match=r"micrographs 5 \(a, b, c, ...\) there, 4 \(a, b, d, ...\) now.*particles"):
        tune_model(fewer, particles, PLAN, tmp_path / "m", budget=Budget(trials=1))
    moved = particles | {"a": replace(particles["a"], centres_xy=particles["a"].centres_xy + 1)}
    with pytest.raises(DeepEMError, match="coordinates"):
        tune_model(micrographs, moved, PLAN, tmp_path / "m", budget=Budget(trials=1))
    with pytest.raises(DeepEMError, match="negatives"):
        tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=1), negatives=particles)
    with pytest.raises(DeepEMError, match="fixed"):
        tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=1), fixed={"training_preset": "paper"})


def test_file_that_is_no_study_is_refused(data, trained, tmp_path):
    (tmp_path / "m.study").write_text("not a journal\nat all\n")
    with pytest.raises(DeepEMError, match="not the journal"):
        tune_model(*data, PLAN, tmp_path / "m")


def test_a_later_run_waits_for_an_earlier_one_which_stops_after_its_epoch(data, trained, tmp_path, monkeypatch):
    results, epochs, train, owner = [], [], tuning.train_model, tmp_path / "m.study.owner"

    def search():
        results.append(tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=4)))

    later = threading.Thread(target=search)

    def disturbed(micrographs, particles, plan, negatives=None, progress=lambda record: None, incomplete=()):
        if threading.current_thread() is not later and trained:
            own = owner.read_text()
            later.start()
            while owner.read_text() == own:
                time.sleep(0.01)
            for epoch in range(1, 21):
                epochs.append(epoch)
                progress({"epoch": epoch, "epochs": 20, "validation_average_precision": 0.5})
        return train(micrographs, particles, plan, negatives, progress, incomplete)

    monkeypatch.setattr(tuning, "train_model", disturbed)
    search()
    later.join(600)
    assert epochs == [1] and len(results) == 2
    assert [trial.state for trial in trials_of(tmp_path / "m.study")] == [
        TrialState.COMPLETE, TrialState.PRUNED, *[TrialState.COMPLETE] * 4]
    assert not owner.exists()


def test_running_trial_is_stopped_after_its_epoch_when_the_budget_ends(data, tmp_path, monkeypatch):
    clock, epochs = [0.0], []

    def train(micrographs, particles, plan, negatives=None, progress=lambda record: None, incomplete=()):
        epochs.append(0)
        for epoch in range(1, 21):
            clock[0] += 6.0
            epochs[-1] = epoch
            progress({"epoch": epoch, "epochs": 20, "validation_average_precision": 0.5})
        return model_of(plan, 0.9)

    monkeypatch.setattr(tuning, "train_model", train)
    monkeypatch.setattr(tuning.time, "monotonic", lambda: clock[0])
    model = tune_model(*data, PLAN, tmp_path / "m", budget=Budget(minutes=3.05))
    assert epochs == [20, 11]  # 120 s for the baseline, 63 s are left
    _, stopped = trials_of(tmp_path / "m.study")
    assert stopped.state == TrialState.PRUNED and "search ended after epoch 11" in stopped.user_attrs["reason"]
    assert (model.record["tuning"]["complete"], model.record["tuning"]["stopped"]) == (1, 1)


def test_baseline_is_trained_to_its_end_however_small_the_budget(data, trained, tmp_path):
    model = tune_model(*data, PLAN, tmp_path / "m", budget=Budget(minutes=1e-9))
    assert len(trained) == 1 and model.geometry == auto_geometry(32.0)


def test_failed_trials_are_recorded_with_their_reason_and_do_not_stop_the_search(data, trained, tmp_path, monkeypatch):
    train = tuning.train_model

    def fail(*parts):
        if len(trained) == 1:
            trained.append(parts[2])
            raise DeepEMError("training did not\nleave the plateau")
        if len(trained) == 2:
            trained.append(parts[2])
            raise MemoryError("much too large")
        return train(*parts)

    monkeypatch.setattr(tuning, "train_model", fail)
    model = tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=5), fixed={"maps": "6/12/12"})
    trials = trials_of(tmp_path / "m.study")
    assert [trial.state for trial in trials[1:3]] == [TrialState.FAIL] * 2
    assert trials[1].user_attrs["reason"] == "training did not leave the plateau"
    assert trials[2].user_attrs["reason"] == "MemoryError: much too large"
    assert model.record["tuning"]["failed"] == 2 and model.record["tuning"]["complete"] >= 1
    assert "| training did not leave the plateau |" in (tmp_path / "m.tuning.md").read_text()


def test_baseline_that_fails_in_training_is_told_and_the_search_goes_on(data, trained, tmp_path, monkeypatch):
    train = tuning.train_model

    def fail(*parts):
        if not trained:
            trained.append(parts[2])
            parts[4]({"epoch": 1, "epochs": 5})
            raise DeepEMError("plateau")
        return train(*parts)

    monkeypatch.setattr(tuning, "train_model", fail)
    for _ in range(2):
        model = tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=3))
    assert model.record["tuning"]["baseline_AP"] is None
    assert sum(bool(trial.user_attrs.get("baseline")) for trial in trials_of(tmp_path / "m.study")) == 1
    assert "baseline failed" in (tmp_path / "m.tuning.md").read_text()


def test_data_of_no_use_end_the_search_at_once(blobs, tmp_path, capsys):
    assert main(arguments(blobs, tmp_path / "m", "--diameter", "3000")) == 2
    assert "smaller than the network's window" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    assert [trial.state for trial in trials_of(tmp_path / "m.study")] == [TrialState.FAIL]


def test_killed_trial_is_no_result_and_a_killed_baseline_is_repeated(data, trained, tmp_path, monkeypatch):
    train = tuning.train_model

    def interrupt(*parts):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "train_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune_model(*data, PLAN, tmp_path / "m")
    monkeypatch.setattr(tuning, "train_model", train)
    study = optuna.load_study(study_name="deepem", storage=tuning.JournalStorage(
        tuning.JournalFileBackend(str(tmp_path / "m.study"))))
    study.ask()  # as a run leaves it that is killed outright
    tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=2))
    interrupted, killed, baseline, other = trials_of(tmp_path / "m.study")
    assert interrupted.state == killed.state == TrialState.FAIL
    assert baseline.user_attrs["baseline"] and baseline.state == TrialState.COMPLETE
    assert not other.user_attrs.get("baseline")
    assert (tmp_path / "m.tuning.md").read_text().count("| interrupted") == 2


@pytest.mark.slow
def test_outright_killed_run_keeps_the_best_model_and_can_go_on(blobs, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "MAX_COST", 1e9)
    options = arguments(blobs, tmp_path / "m", "--epochs", "1", "--training-preset", "default", names="ab")
    command = [sys.executable, "-m", "deepem_scipion.deepem", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (tmp_path / "m.tuning.md").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(600)
    before = trials_of(tmp_path / "m.study")
    assert load_model(tmp_path / "m").record["tuning"]["baseline_AP"] > 0
    assert main([*options, "--trials", "1"]) == 0 and len(trained) == 1
    after = trials_of(tmp_path / "m.study")
    assert len(after) == len(before) + 1
    assert all(trial.state.is_finished() for trial in after)
    assert all(trial.state == TrialState.FAIL for trial in after[:-1] if trial.value is None)


def test_of_models_that_are_as_good_the_cheapest_is_chosen():
    def trial(number, value, cost):
        return optuna.trial.create_trial(value=value, user_attrs={"cost": cost}, system_attrs={"number": number})

    dear, cheap, poor = trial(0, 0.9, 3.0), trial(1, 0.9 - 0.9 * tuning.EQUAL_AP, 1.0), trial(2, 0.8, 0.1)
    assert choose([dear, cheap, poor]) is cheap
    assert choose([dear, poor]) is dear
    assert choose([]) is None


def test_model_that_was_second_at_first_is_still_there_when_it_is_chosen(data, tmp_path, monkeypatch):
    precisions = iter([0.9, 0.9015, 0.9029])
    costs = iter([1.0, 1.0, 2.0, 3.0])  # the first one is the baseline's for comparison
    monkeypatch.setattr(tuning, "scan_cost", lambda *parts: next(costs))
    monkeypatch.setattr(tuning, "train_model", lambda *parts: model_of(parts[2], next(precisions)))
    chosen = [tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=3)).record["tuning"]["trial"]]
    assert chosen == [1]
    assert sorted(path.name for path in (tmp_path / "m.study.models").iterdir()) == ["1.deepem", "2.deepem"]
    assert load_model(tmp_path / "m").record["validation"]["AP"] == 0.9015


def test_trials_that_would_be_slow_to_pick_with_are_not_trained(data, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "MAX_COST", 1.0)
    tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=10))
    trials = trials_of(tmp_path / "m.study")
    slow = [trial for trial in trials if trial.user_attrs["cost"] > 1]
    assert slow and len(trained) == 10 - len(slow)
    assert all(trial.state == TrialState.PRUNED and "times as much" in trial.user_attrs["reason"] for trial in slow)


def test_cost_of_the_scan_grows_with_kernels_maps_and_fineness():
    plain = scan_cost(Geometry(40, (9, 5, 3), (2, 2, 2)), 27.0)
    assert scan_cost(Geometry(40, (9, 5, 3), (2, 2, 2), (12, 24, 24)), 27.0) > 1.5 * plain
    assert scan_cost(Geometry(44, (9, 7, 3), (2, 2, 2)), 27.0) > plain
    assert scan_cost(Geometry(40, (9, 5, 3), (2, 2, 2)), 54.0) > 3 * plain


def test_trial_is_stopped_where_it_is_below_the_median_of_its_recipe():
    study = optuna.create_study(direction="maximize")
    kind = {"training_preset": optuna.distributions.CategoricalDistribution(["default", "paper"])}

    def trial(training_preset, values, state=TrialState.COMPLETE):
        value = values[-1] if state == TrialState.COMPLETE else None
        return optuna.trial.create_trial(value=value, state=state, params={"training_preset": training_preset}, distributions=kind,
                                         intermediate_values=dict(zip((20, 40, 60), values)))

    def stops(training_preset, *values):
        return tuning.SameRecipePruner().prune(study, trial(training_preset, values, TrialState.RUNNING))

    study.add_trials([trial("default", (0.5, last - 0.1, last)) for last in (0.7, 0.8)])
    assert not stops("default", 0.1, 0.2)  # too few to compare with
    study.add_trial(trial("default", (0.5, 0.8, 0.9)))
    study.add_trials([trial("paper", (0.97, 0.98, 0.99))] * 3)
    assert stops("default", 0.1, 0.69) and not stops("default", 0.1, 0.71)
    assert not stops("default", 0.1)  # too early
    assert not stops("default", 0.75, 0.5)  # it was better before
    assert stops("paper", 0.9, 0.9)


def test_poor_trial_is_stopped_early_and_the_baseline_never(data, tmp_path, monkeypatch):
    levels, epochs = iter([0.2, 0.6, 0.7, 0.8, 0.1]), []

    def train(micrographs, particles, plan, negatives=None, progress=lambda record: None, incomplete=()):
        level = next(levels)
        epochs.append(0)
        for network, epoch in ((1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 1), (2, 2)):
            epochs[-1] += 1
            progress({"epoch": epoch, "epochs": 5, "network": network, "networks": 2, "seed": 5 * network,
                      "validation_average_precision": level})
        return model_of(plan, level)

    monkeypatch.setattr(tuning, "train_model", train)
    tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=5), fixed={"training_preset": "default", "maps": "6/12/12"})
    assert epochs == [7, 7, 7, 7, 2]
    states = [trial.state for trial in trials_of(tmp_path / "m.study")]
    assert states == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED]


def test_trial_on_the_plateau_is_stopped_and_the_baseline_begins_again(data, tmp_path, monkeypatch):
    epochs = []

    def train(micrographs, particles, plan, negatives=None, progress=lambda record: None, incomplete=()):
        epochs.append(0)
        for seed, epoch in ((0, 1), (0, 2), (1, 1), (1, 2)):
            epochs[-1] += 1
            progress({"epoch": epoch, "epochs": 2, "seed": seed, "validation_average_precision": 0.1})
        return model_of(plan, 0.9)

    monkeypatch.setattr(tuning, "train_model", train)
    tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=2), fixed={"maps": "6/12/12"})
    assert epochs == [4, 3]
    assert "plateau" in trials_of(tmp_path / "m.study")[1].user_attrs["reason"]


def test_trial_that_used_other_micrographs_than_the_baseline_is_failed(data, trained, tmp_path, monkeypatch):
    train = tuning.train_model

    def fewer(*parts):
        model = train(*parts)
        if len(trained) > 1:
            model.record["validation"]["names"] = ["a"]
        return model

    monkeypatch.setattr(tuning, "train_model", fewer)
    tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=2), fixed={"maps": "6/12/12"})
    assert "1 (a) instead of 1 (b)" in trials_of(tmp_path / "m.study")[1].user_attrs["reason"]


@pytest.mark.parametrize("options, message", [
    (["--minutes", "0"], "--minutes 0"), (["--trials", "0"], "--trials 0"), (["--minutes", "nan"], "--minutes nan"),
    (["--validation-fraction", "0"], "without validation micrographs"), (["--pools", "0", "2", "2"], "pools 0/2/2"),
    (["--pools", "30", "2", "2"], "give smaller ones"), (["--diameter", "8"], "at least 8"),
    (["--study", "/proc/none/s"], "--study /proc/none/s")])
def test_senseless_options_are_refused_before_training(blobs, tmp_path, capsys, options, message):
    assert main(arguments(blobs, tmp_path / "m", *options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_summary_is_plain_numbers_and_names_the_chosen_trial(data, trained, tmp_path):
    model = tune_model(*data, PLAN, tmp_path / "m", budget=Budget(trials=8))
    found = json.loads(json.dumps(load_model(tmp_path / "m").record["tuning"]))
    assert found == model.record["tuning"]
    chosen = trials_of(tmp_path / "m.study")[found["trial"]]
    assert chosen.value == found["AP"] and chosen.user_attrs["geometry"] == model.geometry.as_dict()
    assert found["baseline_AP"] == pytest.approx(auto_geometry(32.0).box * 2.0 / 200)
    assert found["AP"] > found["baseline_AP"]


def test_other_commands_do_not_import_the_search():
    code = ("import sys; from deepem_scipion.deepem.commands.main import main\n"
            "try: main(['tune', '--help'])\n"
            "except SystemExit: assert not {'optuna', 'tensorflow'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
