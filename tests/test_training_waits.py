# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The training protocol, without a project: waiting for input, and steps repeated by Continue."""

import json
import os

import pytest
from plugin_protocols import FIRST, coordinate_set, of_option, train_form
from pwem.objects import Coordinate, SetOfCoordinates
from pyworkflow.object import Set

from deepem_scipion.constants import MIN_PARTICLES
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.protocols.waiting import as_it_is_now


def grow(coordinates, places, state=Set.STREAM_OPEN):
    """Add coordinates, micrograph -> x, y, to the file of a set as another run would, and leave it in a state."""
    numbers = {mic.getMicName(): mic.clone() for mic in coordinates.getMicrographs()}
    other = SetOfCoordinates(filename=coordinates.getFileName())
    other.enableAppend()
    for name, each in places.items():
        for x, y in each:
            item = Coordinate(x=x, y=y)
            item.setMicrograph(numbers[name])
            other.append(item)
    other.setStreamState(state)
    other.write()
    other.close()


def growing_form(folder, monkeypatch, places, **params):
    """A form on a set that is open in its file, with an object that does not know it, and the commands that it runs."""
    protocol, commands = train_form(folder, monkeypatch, **params)
    coordinates = coordinate_set(folder, 7, {name: places.get(name, []) for name in FIRST})
    grow(coordinates, {})
    protocol.inputCoordinates.set(coordinates)
    return protocol, coordinates, commands


SOME = {"a.mrc": FIRST["a.mrc"][:9]}


def test_set_is_seen_as_another_run_has_made_it_since(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coordinates = coordinate_set(tmp_path, 1, SOME | {"b.mrc": []})
    grow(coordinates, {"b.mrc": FIRST["b.mrc"]})
    found = as_it_is_now(coordinates)
    assert (coordinates.getSize(), found.getSize(), found.isStreamOpen(), found.getBoxSize()) == (9, 24, True, 30)
    assert found.getMicrographs().getSize() == 2
    grow(coordinates, {}, Set.STREAM_CLOSED)
    assert not as_it_is_now(coordinates).isStreamOpen()


@pytest.mark.parametrize("wanted, waiting", [
    ({}, ["the end of the particle coordinates", f"{MIN_PARTICLES} particles (9 so far)"]),
    ({"waitMicrographs": 2}, ["2 micrographs with particles (1 so far)", f"{MIN_PARTICLES} particles (9 so far)"]),
    ({"waitMicrographs": 1, "waitParticles": 40}, ["40 particles (9 so far)"])])
def test_form_on_a_growing_set_is_valid_and_says_what_it_waits_for(tmp_path, monkeypatch, wanted, waiting):
    protocol, _, _ = growing_form(tmp_path, monkeypatch, SOME, **wanted)
    assert protocol._validate() == []
    assert protocol._getWaiting() == waiting
    assert [f"Waiting for {words}" for words in waiting] == protocol._summary()[1:-1]


def test_empty_set_that_is_still_open_is_waited_for(tmp_path, monkeypatch):
    protocol, coordinates, _ = growing_form(tmp_path, monkeypatch, {}, waitMicrographs=1)
    coordinates.setStreamState(Set.STREAM_OPEN)  # the file of an empty set does not state it
    assert protocol._validate() == []
    assert "1 micrographs with particles (0 so far)" in protocol._getWaiting()
    coordinates.setStreamState(Set.STREAM_CLOSED)
    assert "0 particles were found" in protocol._validate()[0]


def test_training_begins_once_both_numbers_are_reached_and_keeps_to_what_was_there(tmp_path, monkeypatch):
    protocol, coordinates, commands = growing_form(tmp_path, monkeypatch, SOME, waitMicrographs=2, waitParticles=24)
    protocol._insertAllSteps()
    first, *others = protocol._steps
    assert first.isWaiting() and not any(step.isWaiting() for step in others)
    grow(coordinates, {"b.mrc": FIRST["b.mrc"][:10]})
    protocol._stepsCheck()
    assert first.isWaiting()
    grow(coordinates, {"b.mrc": FIRST["b.mrc"][10:]})
    protocol._stepsCheck()
    assert first.isNew()
    for step in protocol._steps[:2]:
        step._run()
    grow(coordinates, {"a.mrc": FIRST["a.mrc"][9:]})
    found = read_coordinates(*of_option(commands[0], "--coordinates"))
    assert {name: len(each.centres_xy) for name, each in found.items()} == {"a": 9, "b": 15}
    assert protocol._summary()[1] == ("Training started with 2 micrographs with 24 particles; the input was still "
                                      "growing.")


def test_input_that_ends_too_early_is_trained_on_if_it_is_enough(tmp_path, monkeypatch):
    protocol, coordinates, commands = growing_form(tmp_path, monkeypatch, SOME, waitMicrographs=3)
    protocol._insertAllSteps()
    first = protocol._steps[0]
    grow(coordinates, {"b.mrc": FIRST["b.mrc"]}, Set.STREAM_CLOSED)
    protocol._stepsCheck()
    assert first.isNew()
    first._run()
    assert protocol._summary()[1] == ("Training started with 2 micrographs with 24 particles at the end of the input, "
                                      "fewer than requested.")


def test_input_that_ends_with_too_little_fails_with_the_reason(tmp_path, monkeypatch):
    protocol, coordinates, _ = growing_form(tmp_path, monkeypatch, SOME, waitMicrographs=3)
    protocol._insertAllSteps()
    grow(coordinates, {}, Set.STREAM_CLOSED)
    protocol._stepsCheck()
    with pytest.raises(RuntimeError, match=f"9 particles were found; at least {MIN_PARTICLES} are required"):
        protocol._steps[0]._run()


def test_other_growing_sets_are_waited_for_to_their_end(tmp_path, monkeypatch):
    protocol, _ = train_form(tmp_path, monkeypatch)
    further = coordinate_set(tmp_path, 8, {"c.mrc": [(5, 6)]})
    protocol.moreNegatives.append(further)
    assert protocol._getWaiting() == []
    grow(further, {})
    assert protocol._getWaiting() == ["the end of the other sets of coordinates"]


def test_training_works_in_streaming_and_does_not_wait_for_complete_sets(tmp_path, monkeypatch):
    protocol, _ = train_form(tmp_path, monkeypatch, waitMicrographs=99)
    assert protocol.worksInStreaming()
    protocol._insertAllSteps()
    assert not any(step.isWaiting() for step in protocol._steps)


@pytest.mark.parametrize("name, value", [("epochs", 3), ("particleDiameter", 50), ("seed", 1), ("doTune", True),
                                         ("waitMicrographs", 1), ("inputCoordinates", None), ("trainingPreset", 1)])
def test_continue_after_a_change_does_everything_again_that_depends_on_it(tmp_path, monkeypatch, name, value):
    protocol, _ = train_form(tmp_path, monkeypatch)

    def steps():
        protocol._steps = []
        protocol._insertAllSteps()
        return protocol._steps

    before = steps()
    assert steps() == before
    getattr(protocol, name).set(value or coordinate_set(tmp_path, 9, FIRST))
    convert = name in ("waitMicrographs", "inputCoordinates")
    assert [one == other for one, other in zip(steps(), before)] == [not convert, False, False]


def test_training_leaves_the_checkpoint_and_tuning_does_not(tmp_path, monkeypatch):
    protocol, _ = train_form(tmp_path, monkeypatch)
    checkpoint = protocol._getModelFile() + ".checkpoint"
    for path in (checkpoint, protocol._getModelFile()):
        with open(path, "w") as file:
            json.dump({}, file)
    protocol.trainStep(protocol._getArguments(), False, 1)
    assert os.path.exists(checkpoint)
    protocol.trainStep(protocol._getArguments(), True, 1)
    assert not os.path.exists(checkpoint)


def test_model_that_the_program_finished_after_its_run_was_killed_is_not_trained_again(tmp_path, monkeypatch):
    protocol, commands = train_form(tmp_path, monkeypatch)
    protocol._insertAllSteps()
    convert, train, _ = protocol._steps
    convert._run()
    for count in (1, 1):
        train._run()
        assert len(commands) == count
    os.remove(protocol._getModelFile())
    train._run()
    assert len(commands) == 2
    protocol.trainStep(protocol._getArguments(), False, 1, [], "other inputs")
    convert._run()
    train._run()
    assert len(commands) == 4
