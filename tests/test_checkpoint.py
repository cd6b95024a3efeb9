# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training that was interrupted goes on from its last complete epoch and ends as if nothing had happened."""

import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_training import blob_windows, quick, run

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.training import fit as training
from deepem_scipion.deepem.training import rounds as recursion
from deepem_scipion.deepem.training import train as learning
from deepem_scipion.deepem.training.checkpoint import Checkpoint
from deepem_scipion.deepem.training.fit import ATTEMPTS, TRAINING_PRESETS, Fit, State
from deepem_scipion.deepem.training.plan import Plan
from deepem_scipion.deepem.training.train import train_model

pytestmark = pytest.mark.slow


class Killed(Exception):
    """Ends a training as a signal would."""


def until(number):
    """What raises `Killed` after so many epochs, and the records that it was given."""
    told = []

    def progress(record):
        told.append(record)
        if len(told) == number:
            raise Killed

    return progress, told


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def without_time(history):
    return [{key: value for key, value in record.items() if not key.startswith("seconds")} for record in history]


@pytest.mark.parametrize("training_preset", [quick(epochs=5), replace(TRAINING_PRESETS["paper"], epochs=5)], ids=["default", "paper"])
def test_fit_that_goes_on_from_a_file_ends_with_the_same_weights(training_preset, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CONVERGENCE_LOSS", 2.0)  # five epochs are few
    data = blob_windows(40), blob_windows(20, seed=1)
    whole = run(*data, training_preset=training_preset, seed=3)
    progress, _ = until(3)
    with pytest.raises(Killed):
        run(*data, training_preset=training_preset, seed=3, progress=progress,
            keep=lambda state: Checkpoint(tmp_path / "c").keep("a fit", state))
    state = Checkpoint(tmp_path / "c").state("a fit")
    assert len(state.history) == 3
    progress, told = until(9)
    found = run(*data, training_preset=training_preset, seed=3, progress=progress, state=state)
    assert_same(found.weights, whole.weights)
    assert without_time(found.history) == without_time(whole.history)
    assert (found.best_epoch, len(told)) == (whole.best_epoch, 2)
    assert found.history[3]["seconds"] > found.history[2]["seconds"] > 0


def test_attempt_that_was_on_the_plateau_is_not_gone_on_with(monkeypatch):
    monkeypatch.setattr(training, "assess", lambda *_: {"loss": 0.1, "relative_loss": 0.999, "accuracy": 0.5,
                                                        "average_precision": 0.5})
    monkeypatch.setattr(training, "ATTEMPTS", 2)

    def seeds(state=None):
        states = []
        with pytest.raises(DeepEMError, match="plateau"):
            run(blob_windows(16), training_preset=quick(epochs=2), seed=7, state=state, keep=states.append)
        return states, [state.seed for state in states]

    states, found = seeds()
    assert found == [7, 7, 8, 8]
    assert seeds(states[0])[1] == [7, 8, 8]
    assert seeds(states[1])[1] == [8, 8]


@pytest.fixture
def data(blobs):
    folder, _ = blobs
    return {name: folder / "micrographs" / f"{name}.mrc" for name in "abc"}, read_coordinates(folder / "boxes")


def test_training_goes_on_wherever_it_was_interrupted_and_repeats_no_finished_round(data, tmp_path, caplog,
                                                                                    monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], updates_per_epoch=40))
    plan = Plan(64.0, epochs=4, rounds=2, error_cutoff=0.0)
    whole = train_model(*data, plan)
    told = []
    for number in (3, 2):  # once in each round
        progress, some = until(number)
        with pytest.raises(Killed):
            train_model(*data, plan, progress=progress, checkpoint=tmp_path / "c")
        told += some
    progress, some = until(99)
    model = train_model(*data, plan, progress=progress, checkpoint=tmp_path / "c")
    assert without_time(told + some) == without_time(whole.record["history"]) == without_time(model.record["history"])
    assert "round 1, network 1: going on after epoch 3/4" in caplog.text
    assert "round 2, network 1: going on after epoch 1/2" in caplog.text
    assert_same(model.networks[0], whole.networks[0])
    assert {**model.card(), "history": None} == {**whole.card(), "history": None}


STATE = State(0, [{"epoch": 1}], 1, {"state": 2 ** 100}, [np.array(5), np.arange(6.0).reshape(2, 3).T],
              {"a": np.ones(2)})
PLAN = Plan(64.0, epochs=3)


@pytest.fixture
def goes_on(data, tmp_path, monkeypatch, caplog):
    """Trains for one epoch, without a network, and tells whether that went on from the file `c`."""
    def train(micrographs=data[0], particles=data[1], plan=PLAN):
        given = []

        def fit(*arguments):
            *_, state, keep = arguments
            given.append(state)
            keep(STATE)
            raise Killed

        caplog.clear()
        monkeypatch.setattr(recursion, "fit", fit)
        with pytest.raises(Killed):
            train_model(micrographs, particles, plan, checkpoint=tmp_path / "c")
        return given != [None]

    assert [train(), train()] == [False, True]
    return train


def test_each_network_goes_on_from_its_own_state(data, tmp_path, monkeypatch):
    given = []

    def fit(*arguments):
        seed, state, keep = arguments[5], *arguments[-2:]
        given.append(state and state.seed)
        keep(replace(STATE, seed=seed))
        if len(given) in (2, 5):
            raise Killed
        return Fit({}, [], 1, seed)

    monkeypatch.setattr(recursion, "fit", fit)
    monkeypatch.setattr(recursion, "with_threshold", lambda model, *_: model)
    for _ in range(2):
        with pytest.raises(Killed):
            train_model(*data, Plan(64.0, networks=3), checkpoint=tmp_path / "c")
    assert given == [None, None, 0, ATTEMPTS, None]


def test_state_in_a_file_is_the_one_that_was_kept(tmp_path):
    Checkpoint(tmp_path / "c").keep("a fit", STATE)
    found = Checkpoint(tmp_path / "c").state("a fit")
    assert (found.seed, found.history, found.best_epoch, found.random) == (0, [{"epoch": 1}], 1, {"state": 2 ** 100})
    for one, other in zip(found.variables, STATE.variables):
        assert one.dtype == other.dtype and one.shape == other.shape and (one == other).all()
    assert_same(found.best, STATE.best)


@pytest.mark.parametrize("change, words", [
    (lambda mics, boxes: {"plan": replace(PLAN, epochs=4)}, "other data or settings (epochs)"),
    (lambda mics, boxes: {"plan": replace(PLAN, seed=1, networks=2)}, "(seed, networks)"),
    (lambda mics, boxes: {"micrographs": {"a": mics["a"], "b": mics["b"]}}, "(names, pixels, particles, "),
    (lambda mics, boxes: {"micrographs": {**mics, "c": mics["a"]}}, "(pixels)"),
    (lambda mics, boxes: {"particles": {**boxes, "a": replace(boxes["a"], centres_xy=boxes["a"].centres_xy + 1)}},
     "(particles)")])
def test_checkpoint_of_another_training_is_left_aside_and_the_log_tells_why(data, goes_on, caplog, change, words):
    changed = change(*data)
    assert not goes_on(**changed)
    assert words in caplog.text and "training starts from the beginning" in caplog.text
    assert goes_on(**changed)


def test_checkpoint_of_another_version_or_recipe_is_left_aside(goes_on, caplog, monkeypatch):
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], rate=0.5))
    assert not goes_on() and "(values of the recipe)" in caplog.text
    monkeypatch.setattr(learning, "versions", lambda: {"keras": "0"})
    assert not goes_on() and "(versions)" in caplog.text


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-9], lambda content: b"x" * 200])
def test_damaged_checkpoint_is_left_aside_and_the_log_tells_why(goes_on, tmp_path, caplog, damage):
    path = tmp_path / "c"
    path.write_bytes(damage(path.read_bytes()))
    assert not goes_on()
    assert "cannot be read" in caplog.text and "training starts from the beginning" in caplog.text
    assert goes_on()


def test_earlier_run_stops_when_a_later_one_has_taken_over_or_the_file_is_gone(tmp_path):
    earlier = Checkpoint(tmp_path / "c")
    earlier.keep("fit", STATE)
    later = Checkpoint(tmp_path / "c")
    with pytest.raises(DeepEMError, match="taken over by a later run"):
        earlier.keep("fit", STATE)
    later.keep("fit", STATE)
    (tmp_path / "c").unlink()
    for each in (earlier, later):
        with pytest.raises(DeepEMError, match="was removed"):
            each.check()


def test_checkpoint_that_cannot_be_written_costs_a_warning_only(tmp_path, caplog):
    checkpoint = Checkpoint(tmp_path / "no folder" / "c")
    checkpoint.keep("fit", STATE)
    checkpoint.check()
    assert caplog.text.count("cannot be written") == 2
    (tmp_path / "no folder").mkdir()
    checkpoint.keep("fit", STATE)
    assert Checkpoint(tmp_path / "no folder" / "c").state("fit").history == STATE.history


def test_outright_killed_program_goes_on_and_writes_the_model_that_it_would_have_written(blobs, tmp_path):
    micrographs = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in "ab"]
    options = ["train", "--micrographs", *micrographs, "--coordinates", str(blobs[0] / "boxes"), "--diameter", "64",
               "--epochs", "2", "--output"]
    command = [sys.executable, "-m", "deepem_scipion.deepem", *options, str(tmp_path / "m")]
    killed = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for line in killed.stderr:
        if b"epoch 1/2" in line:
            break
    killed.send_signal(signal.SIGKILL)
    killed.stderr.close()
    assert killed.wait(600) == -signal.SIGKILL
    assert (tmp_path / "m.checkpoint").exists() and not (tmp_path / "m").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "round 1, network 1: going on after epoch " in done.stderr, done.stderr
    assert "epoch 1/2:" not in done.stderr and "epoch 2/2:" in done.stderr
    assert main([*options, str(tmp_path / "whole")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "m", "m.examples.npz", "whole", "whole.examples.npz"]
    one, other = (load_model(tmp_path / name) for name in ("m", "whole"))
    assert_same(one.networks[0], other.networks[0])
    assert without_time(one.record["history"]) == without_time(other.record["history"])


@pytest.mark.parametrize("fresh", [True, False])
def test_option_fresh_forgets_what_an_interrupted_run_left(blobs, tmp_path, monkeypatch, fresh):
    found = []
    checkpoint = tmp_path / "m.checkpoint"
    monkeypatch.setattr(learning, "train_model", lambda *arguments: found.append(checkpoint.exists()) or 1 / 0)
    checkpoint.touch()
    assert main(["train", "--micrographs", str(blobs[0] / "micrographs"), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m"), *["--fresh"] * fresh]) == 2
    assert found == [not fresh]


