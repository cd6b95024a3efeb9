# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the form of the training makes of its parameters: options of the program, and files."""

import os
from pathlib import Path

import pytest
from plugin_protocols import FIRST, coordinate_set, model, of_option, train_form, use_python
from pyworkflow import Config

from deepem_scipion import convert
from deepem_scipion.convert import identity
from deepem_scipion.deepem.commands.parser import build_parser
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.micrographs.find import find_micrographs


@pytest.fixture(autouse=True)
def domain():
    Config.getDomain().getProtocols()


def run_steps(protocol):
    """What a launch does, without the output."""
    protocol.convertInputStep([])
    protocol.trainStep(protocol._getArguments(), protocol.doTune.get(), protocol.tuneMinutes.get())


def test_a_plain_form_trains_once_with_the_options_of_the_program(tmp_path, monkeypatch):
    protocol, commands = train_form(tmp_path, monkeypatch)
    assert protocol._validate() == []
    run_steps(protocol)
    command, = commands
    assert command[0] == "train" and not {"--rounds", "--networks", "--more-particles", "--negatives"} & set(command)
    options = build_parser().parse_args(command)
    assert (options.diameter, options.pixel_size, options.training_preset) == (40, 2, "default")


def test_without_coordinates_the_form_asks_for_the_contrast_and_passes_it_on(tmp_path, monkeypatch):
    protocol, _ = train_form(tmp_path, monkeypatch, particleDiameter=40, contrast=1)
    assert not protocol.evalParamCondition("contrast")  # with coordinates the network learns it from them
    assert "--contrast" not in protocol._getArguments()
    protocol.inputCoordinates.set(protocol.inputCoordinates.get().getMicrographs())
    assert protocol.evalParamCondition("contrast") and protocol._validate() == []
    options = build_parser().parse_args(["train", *protocol._getArguments()])
    assert (options.contrast, options.coordinates) == ("bright", None)
    protocol.doContinue.set(True)
    assert not protocol.evalParamCondition("contrast")  # that of the model to start from


def test_further_sets_on_other_micrographs_go_into_folders_of_their_own(tmp_path, monkeypatch):
    protocol, commands = train_form(tmp_path, monkeypatch, rounds=3, networks=4)
    # Of the files, which do not exist here, those of one name show the same.
    monkeypatch.setattr(identity, "same_image", lambda first, second: Path(first).name == Path(second).name)
    # All sets number their micrographs from 1; b is picked on binned micrographs, too.
    protocol.moreParticles.append(coordinate_set(tmp_path, 2, {"c.mrc": [(5, 6)], "empty.mrc": []}))
    protocol.moreParticles.append(coordinate_set(tmp_path, 3, {"b.mrc": [(10, 15)]}, pixel_size=4.0, box=15))
    protocol.moreNegatives.append(coordinate_set(tmp_path, 4, {"a.mrc": [(7, 8)], "d.mrc": [(50, 60)]}))
    protocol.negativeCoordinates.set(coordinate_set(tmp_path, 5, {"c.mrc": [(1, 1)], "a.mrc": [(2, 2)]}))
    assert protocol._validate() == []
    run_steps(protocol)
    command, = commands
    listed = find_micrographs([protocol._getListFile()])
    assert {name: str(path.relative_to(tmp_path / "files")) for name, path in listed.items()} == {
        "a": "1/a.mrc", "b": "1/b.mrc", "c": "2/c.mrc", "d": "4/d.mrc"}

    def found(folder):
        return {name: each.centres_xy.tolist() for name, each in read_coordinates(folder).items()}

    assert {name: len(places) for name, places in found(*of_option(command, "--coordinates")).items()} == {
        "a": 15, "b": 15}
    assert [found(folder) for folder in of_option(command, "--more-particles")] == [{"c": [[5, 6]]}, {"b": [[20, 30]]}]
    assert [found(folder) for folder in of_option(command, "--more-negatives")] == [{"a": [[7, 8]], "d": [[50, 60]]}]
    assert found(*of_option(command, "--negatives")) == {"a": [[2, 2]]}  # those on the same micrographs only
    options = build_parser().parse_args(command)
    assert (options.rounds, options.networks, len(options.more_particles)) == (3, 4, 2)
    assert len(protocol._getUsedInputs()) == 5
    summary = "\n".join(protocol.summary())
    assert "More particles: 1, 1" in summary and "More background and contaminants: 2" in summary


def test_further_sets_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    protocol, _ = train_form(tmp_path, monkeypatch)
    protocol.moreParticles.append(coordinate_set(tmp_path, 2, {"c.mrc": []}))
    protocol.moreNegatives.append(coordinate_set(tmp_path, 3, {"c.mrc": [(5, 6)]}, pixel_size=4.0))
    protocol.moreNegatives.append(protocol.inputCoordinates.get())
    errors = protocol._validate()
    assert len(errors) == 3
    for words in ("More particles: a set without coordinates", "4 Å/px instead of 2 Å/px",
                  "as particles and as background"):
        assert any(words in error for error in errors), words


def test_particles_of_all_sets_together_must_be_enough(tmp_path, monkeypatch):
    protocol, _ = train_form(tmp_path, monkeypatch)
    protocol.inputCoordinates.set(coordinate_set(tmp_path, 6, {"a.mrc": [(9, 9)]}))
    assert "1 particles were found" in protocol._validate()[0]
    protocol.moreParticles.append(coordinate_set(tmp_path, 2, FIRST))
    assert protocol._validate() == []


def test_tuning_is_resumed_until_anything_but_the_time_changes(tmp_path, monkeypatch):
    protocol, commands = train_form(tmp_path, monkeypatch, doTune=True, tuneMinutes=25, trainingPreset=1, rounds=3)
    assert protocol._validate() == []
    run_steps(protocol)
    study, = of_option(commands[0], "--study")
    assert commands[0][0] == "tune" and of_option(commands[0], "--minutes") == ["25"]
    assert not {"--training-preset", "--preset", "--box", "--continue-from"} & set(commands[0])
    options = build_parser().parse_args(commands[0])
    assert (options.diameter, options.minutes, options.rounds, options.training_preset) == (40, 25, 3, "default")
    assert os.path.dirname(study) == protocol._getExtraPath()

    def kept():
        """Whether the files of an earlier search are kept."""
        os.makedirs(study + ".models", exist_ok=True)
        for path in (study, study + ".models/1"):
            with open(path, "w") as file:
                file.write("journal")
        protocol.trainStep(protocol._getArguments(), True, protocol.tuneMinutes.get())
        return [os.path.exists(path) for path in (study, study + ".models/1")]

    protocol.tuneMinutes.set(90)
    assert kept() == [True, True] and of_option(commands[-1], "--minutes") == ["90"]
    protocol.seed.set(5)
    assert kept() == [False, False]
    assert kept() == [True, True]
    protocol.convertInputStep([])  # other coordinates
    assert not os.path.exists(study) and not os.path.exists(study + ".models")
    protocol.outputModel = model()
    assert protocol.summary()[-1] == f"Report of the tuning: {protocol._getModelFile()}.tuning.md"


def test_rounds_without_validation_are_refused(tmp_path, monkeypatch):
    protocol, _ = train_form(tmp_path, monkeypatch, rounds=2, validationFraction=0)
    error, = protocol._validate()
    assert "set the rounds of training to 1" in error


@pytest.mark.parametrize("params, words", [
    ({"doContinue": True}, "that of the existing model"), ({"validationFraction": 0}, "validation fraction above 0")])
def test_tuning_is_refused_together_with_what_it_looks_for(tmp_path, monkeypatch, params, words):
    protocol, _ = train_form(tmp_path, monkeypatch, doTune=True, **params)
    error, = protocol._validate()
    assert words in error
    protocol.doTune.set(False)
    assert protocol._validate() == []


def test_tuning_is_refused_where_the_interpreter_lacks_optuna(tmp_path, monkeypatch, bare_python):
    protocol, _ = train_form(tmp_path, monkeypatch, doTune=True)
    use_python(monkeypatch, bare_python)
    error, = protocol._validate()
    assert "lacks: tensorflow, keras, optuna" in error


def test_micrographs_that_arrive_while_names_are_compared_do_not_stop_the_training(tmp_path):
    coordinates = coordinate_set(tmp_path, 1, FIRST)
    found = convert.micrographs_with_coordinates(coordinates, {1: "a.mrc"})
    assert list(found) == ["a.mrc"]


@pytest.mark.parametrize("box", [30, 31])
def test_training_gets_the_centres_of_odd_and_even_boxes(tmp_path, box):
    coordinates = coordinate_set(tmp_path, 2, {"a.mrc": [(40, 51), (17, 22)]}, box=box)
    assert convert.write_boxes(str(tmp_path / "boxes"), coordinates, {"a.mrc": "a"}, 2.0) == 2
    assert read_coordinates(tmp_path / "boxes")["a"].centres_xy.tolist() == [[40, 51], [17, 22]]
