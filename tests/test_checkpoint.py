# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interrupted training resumes after its last complete epoch, with the result of an undisturbed one."""

import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_fit import blob_boxes, quick, run

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.model.paths import ModelFiles
from deepem_scipion.deepem.training import fit as fitting
from deepem_scipion.deepem.training import rounds as recursion
from deepem_scipion.deepem.training import train as training
from deepem_scipion.deepem.training.checkpoint import Checkpoint
from deepem_scipion.deepem.training.fit import ATTEMPTS, FitResult, FitState
from deepem_scipion.deepem.training.plan import Plan
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
from deepem_scipion.deepem.training.train import train_model
from deepem_scipion.deepem.training.training_set import TrainingSet

pytestmark = pytest.mark.slow


class Killed(Exception):
    """Ends a training as a signal would."""


def until(number):
    """A function that raises `Killed` after this many epochs, and the list of the epochs that it is called with."""
    reported = []

    def progress(record):
        reported.append(record)
        if len(reported) == number:
            raise Killed

    return progress, reported


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def without_time(history):
    return [{key: value for key, value in record.items() if not key.startswith("seconds")} for record in history]


@pytest.mark.parametrize("preset", [quick(epochs=5), replace(TRAINING_PRESETS["paper"], epochs=5)],
                         ids=["default", "paper"])
def test_fit_resumed_from_a_file_ends_with_the_same_weights(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CONVERGENCE_LOSS", 2.0)  # five epochs are few
    data = blob_boxes(40), blob_boxes(20, seed=1)
    whole = run(*data, preset=preset, seed=3)
    progress, _ = until(3)
    with pytest.raises(Killed):
        run(*data, preset=preset, seed=3, progress=progress,
            keep=lambda state: Checkpoint(tmp_path / "c").keep("a fit", state))
    state = Checkpoint(tmp_path / "c").state("a fit")
    assert len(state.history) == 3
    progress, reported = until(9)
    found = run(*data, preset=preset, seed=3, progress=progress, state=state)
    assert_same(found.weights, whole.weights)
    assert without_time(found.history) == without_time(whole.history)
    assert (found.best_epoch, len(reported)) == (whole.best_epoch, 2)
    assert found.history[3]["seconds"] > found.history[2]["seconds"] > 0


def test_attempt_that_did_not_converge_is_not_resumed(monkeypatch):
    monkeypatch.setattr(fitting, "assess", lambda *_: {"loss": 0.1, "relative_loss": 0.999, "accuracy": 0.5,
                                                        "average_precision": 0.5})
    monkeypatch.setattr(fitting, "ATTEMPTS", 2)

    def seeds(state=None):
        states = []
        with pytest.raises(DeepEMError, match="did not converge"):
            run(blob_boxes(16), preset=quick(epochs=2), seed=7, state=state, keep=states.append)
        return states, [state.seed for state in states]

    states, found = seeds()
    assert found == [7, 7, 8, 8]
    assert seeds(states[0])[1] == [7, 8, 8]
    assert seeds(states[1])[1] == [8, 8]


@pytest.fixture
def data(blobs):
    folder, _ = blobs
    return TrainingSet({name: folder / "micrographs" / f"{name}.mrc" for name in "abc"},
                       read_coordinates(folder / "boxes"))


def test_training_resumes_wherever_it_was_interrupted_and_repeats_no_finished_round(data, tmp_path, caplog,
                                                                                   monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], updates_per_epoch=10))
    monkeypatch.setattr(fitting, "CONVERGENCE_LOSS", 9)  # this few updates do not converge
    plan = Plan(64.0, epochs=4, rounds=2, error_cutoff=0.0)
    whole = train_model(data, plan)
    reported = []
    for number in (3, 2):  # once in each round
        progress, some = until(number)
        with pytest.raises(Killed):
            train_model(data, plan, progress=progress, files=ModelFiles(tmp_path / "m"))
        reported += some
    progress, some = until(99)
    model = train_model(data, plan, progress=progress, files=ModelFiles(tmp_path / "m"))
    assert without_time(reported + some) == without_time(whole.record.history) == without_time(model.record.history)
    assert "round 1, network 1: resuming after epoch 3/4" in caplog.text
    assert "round 2, network 1: resuming after epoch 1/2" in caplog.text
    assert_same(model.networks[0], whole.networks[0])
    assert {**model.card(), "history": None} == {**whole.card(), "history": None}


STATE = FitState(0, [{"epoch": 1}], 1, {"state": 2 ** 100}, [np.array(5), np.arange(6.0).reshape(2, 3).T],
                 {"a": np.ones(2)})
PLAN = Plan(64.0, epochs=3)


@pytest.fixture
def resumes(data, tmp_path, monkeypatch, caplog):
    """A function that trains for one epoch, without a network, and returns whether it resumed from the checkpoint."""
    def train(data=data, plan=PLAN):
        given = []

        def fit(*arguments):
            *_, state, keep = arguments
            given.append(state)
            keep(STATE)
            raise Killed

        caplog.clear()
        monkeypatch.setattr(recursion, "fit", fit)
        with pytest.raises(Killed):
            train_model(data, plan, files=ModelFiles(tmp_path / "m"))
        return given != [None]

    assert [train(), train()] == [False, True]
    return train


def test_each_network_resumes_from_its_own_state(data, tmp_path, monkeypatch):
    given = []

    def fit(*arguments):
        seed, state, keep = arguments[5], *arguments[-2:]
        given.append(state and state.seed)
        keep(replace(STATE, seed=seed))
        if len(given) in (2, 5):
            raise Killed
        return FitResult({}, [], 1, seed)

    monkeypatch.setattr(recursion, "fit", fit)
    monkeypatch.setattr(recursion, "with_threshold", lambda model, *_: model)
    for _ in range(2):
        with pytest.raises(Killed):
            train_model(data, Plan(64.0, networks=3), files=ModelFiles(tmp_path / "m"))
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
    (lambda mics, boxes: {"data": TrainingSet({"a": mics["a"], "b": mics["b"]}, boxes)}, "(names, pixels, particles, "),
    (lambda mics, boxes: {"data": TrainingSet({**mics, "c": mics["a"]}, boxes)}, "(pixels)"),
    (lambda mics, boxes: {"data": TrainingSet(mics, {
        **boxes, "a": replace(boxes["a"], centres_xy=boxes["a"].centres_xy + 1)})}, "(particles)")])
def test_checkpoint_of_another_training_is_ignored_and_the_log_states_why(data, resumes, caplog, change, words):
    changed = change(data.micrographs, data.particles)
    assert not resumes(**changed)
    assert words in caplog.text and "training starts from scratch" in caplog.text
    assert resumes(**changed)


def test_checkpoint_of_another_version_or_training_preset_is_ignored(resumes, caplog, monkeypatch):
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], rate=0.5))
    assert not resumes() and "(values of the training preset)" in caplog.text
    monkeypatch.setattr(training, "versions", lambda: {"keras": "0"})
    assert not resumes() and "(versions)" in caplog.text


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-9], lambda content: b"x" * 200])
def test_damaged_checkpoint_is_ignored_and_the_log_states_why(resumes, tmp_path, caplog, damage):
    path = ModelFiles(tmp_path / "m").checkpoint
    path.write_bytes(damage(path.read_bytes()))
    assert not resumes()
    assert "cannot be read" in caplog.text and "training starts from scratch" in caplog.text
    assert resumes()


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


# The program, with epochs of a moment; with an argument in front it waits in the second epoch to be killed.
PROGRAM = """
import sys, time
from dataclasses import replace
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.training import fit
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
TRAINING_PRESETS["default"] = replace(TRAINING_PRESETS["default"], updates_per_epoch=10)
fit.CONVERGENCE_LOSS = 9
if sys.argv[1] == "wait":
    epochs, ahead = [], fit.ahead
    fit.ahead = lambda batches: time.sleep(600) if epochs else epochs.append(1) or ahead(batches)
sys.exit(main(sys.argv[2:]))
"""


def test_killed_program_resumes_and_writes_the_model_that_it_would_have_written(blobs, few_updates, monkeypatch,
                                                                                tmp_path):
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], updates_per_epoch=10))
    micrographs = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in "ab"]
    options = ["train", "--micrographs", *micrographs, "--coordinates", str(blobs[0] / "boxes"), "--diameter", "64",
               "--epochs", "2", "--output"]
    command = [sys.executable, "-c", PROGRAM, "run", *options, str(tmp_path / "m")]
    killed = subprocess.Popen([*command[:3], "wait", *command[4:]], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for line in killed.stderr:
        if b"epoch 1/2" in line:
            break
    killed.send_signal(signal.SIGKILL)
    killed.stderr.close()
    assert killed.wait(600) == -signal.SIGKILL
    assert (tmp_path / "m.checkpoint").exists() and not (tmp_path / "m").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "round 1, network 1: resuming after epoch " in done.stderr, done.stderr
    assert "epoch 1/2:" not in done.stderr and "epoch 2/2:" in done.stderr
    assert main([*options, str(tmp_path / "whole")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "m", "m.examples.npz", "whole", "whole.examples.npz"]
    one, other = (load_model(tmp_path / name) for name in ("m", "whole"))
    assert_same(one.networks[0], other.networks[0])
    assert without_time(one.record.history) == without_time(other.record.history)


@pytest.mark.parametrize("fresh", [True, False])
def test_option_fresh_ignores_what_an_interrupted_run_left(blobs, tmp_path, monkeypatch, fresh):
    found = []
    checkpoint = tmp_path / "m.checkpoint"
    monkeypatch.setattr(training, "train_model", lambda *arguments: found.append(checkpoint.exists()) or 1 / 0)
    checkpoint.touch()
    assert main(["train", "--micrographs", str(blobs[0] / "micrographs"), "--coordinates", str(blobs[0] / "boxes"),
                 "--diameter", "64", "--output", str(tmp_path / "m"), *["--fresh"] * fresh]) == 2
    assert found == [not fresh]


