# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the forms of the protocols make of their parameters: options of the program, files, warnings, summaries."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
from pwem.objects import CTFModel, SetOfCTF, SetOfMicrographs
from pyworkflow import Config
from pyworkflow.object import Pointer
from test_plugin_program import (
    SETTINGS,
    coordinate_set,
    micrograph,
    model,
    pick_form,
    pick_protocol,
    use_python,
    write_results,
)

from deepem_scipion import convert, studio
from deepem_scipion.convert import identity
from deepem_scipion.deepem.commands.parser import build_parser
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.micrographs.find import find_micrographs
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.studio.opening import open_session
from deepem_scipion.deepem.studio.starting import Wanted


@pytest.fixture(autouse=True)
def domain():
    Config.getDomain().getProtocols()


def of_option(arguments, option):
    """Words between an option and the next one; None without the option."""
    if option not in arguments:
        return None
    words = arguments[arguments.index(option) + 1:]
    return words[:next((at for at, word in enumerate(words) if word.startswith("--")), len(words))]


@pytest.mark.parametrize("params, word, origin", [
    ({}, "auto", "Threshold: 0.310 (best F2 in the validation of the model)"),
    ({"thresholdMode": 1}, "F1", "Threshold: not known yet (best F1 in the validation of the model)"),
    ({"thresholdMode": 2, "minPrecision": 0.85}, "precision=0.85",
     "Threshold: not known yet (lowest with a precision of at least 0.85 in the validation of the model)"),
    ({"thresholdMode": 3, "threshold": 0.6}, "0.6", "Threshold: 0.600 (given)")])
def test_the_threshold_is_passed_on_and_its_origin_reported(tmp_path, monkeypatch, params, word, origin):
    protocol = pick_form(tmp_path, monkeypatch, **params)
    assert of_option(protocol._getArguments(), "--threshold") == [word]
    assert origin in protocol.summary()
    options = build_parser().parse_args(["pick", "--micrographs", "m", "--output", "o", *protocol._getArguments()])
    assert options.threshold == word
    assert protocol._validate() == []


def test_an_improbable_pixel_size_is_an_error_of_the_form_unless_it_is_accepted(tmp_path, monkeypatch):
    protocol = pick_form(tmp_path, monkeypatch)
    protocol.inputMicrographs.set(coordinate_set(tmp_path, 2, {"a.mrc": []}, pixel_size=0.4).getMicrographs())
    (error,) = protocol._validate()
    assert "0.4 Å/px, those of the training 2 Å/px" in error and "--force" not in protocol._getArguments()
    protocol.anyScale.set(True)
    assert protocol._validate() == [] and "--force" in protocol._getArguments()
    assert "0.40 Å/px, those of the training 2.00 Å/px" in protocol._warnings()[0]


def test_a_pixel_size_within_two_percent_of_the_training_is_no_warning(tmp_path, monkeypatch):
    protocol = pick_form(tmp_path, monkeypatch)
    for number, size in enumerate((2.0, 1.97, 2.1), 2):
        protocol.inputMicrographs.set(coordinate_set(tmp_path, number, {"a.mrc": []}, size).getMicrographs())
        assert bool(protocol._warnings()) == (size == 2.1)


@pytest.mark.parametrize("name, number", [("a.mrc", 0), ("a.tif", 1), ("a.TIFF", 1)])
def test_tiff_micrographs_are_read_as_other_protocols_of_scipion_read_them_and_conversion_is_offered(
        tmp_path, monkeypatch, name, number):
    protocol = pick_form(tmp_path, monkeypatch)
    protocol.inputMicrographs.set(coordinate_set(tmp_path, 2, {name: []}).getMicrographs())
    warnings = protocol._warnings()
    assert len(warnings) == number and all("Convert the micrographs to MRC" in text for text in warnings)
    assert of_option(protocol._getArguments(), "--tiff-rows") == ["top"]


@pytest.mark.parametrize("name, number", [("a.mrc", 0), ("a.tif", 1)])
def test_the_studio_reads_tiff_micrographs_as_picking_does_and_says_it(tmp_path, monkeypatch, name, number):
    from deepem_scipion.protocols import ProtDeepEMStudio

    monkeypatch.chdir(tmp_path)
    protocol = ProtDeepEMStudio(workingDir="run")
    protocol.inputMicrographs.set(coordinate_set(tmp_path, 2, {name: []}).getMicrographs())
    Path(protocol._getExtraPath()).mkdir(parents=True)
    monkeypatch.setattr(protocol, "getProject", lambda: None)
    arguments = protocol._getArguments([micrograph(1, name)])
    assert protocol._validate() == [] and of_option(arguments, "--tiff-rows") == ["top"]
    frames = protocol._warnings()
    assert len(frames) == number and all("y counts from the first row" in text for text in frames)
    protocol.inputCoordinates.set(coordinate_set(tmp_path, 3, {name: [(1, 2)]}, pixel_size=4.0))
    *before, warning = protocol._warnings()
    assert before == frames and "4.00 Å/px, and will be scaled to those with 2.00 Å/px" in warning
    protocol.inputCoordinates.set(coordinate_set(tmp_path, 4, {name: [(1, 2)]}))
    assert protocol._warnings() == frames


def test_the_studio_refuses_micrographs_of_the_same_name(tmp_path, monkeypatch):
    from deepem_scipion.protocols import ProtDeepEMStudio

    monkeypatch.chdir(tmp_path)
    protocol = ProtDeepEMStudio(workingDir="run")
    mics = coordinate_set(tmp_path, 2, {"a.mrc": []}).getMicrographs()
    mics.append(micrograph(2, "a.mrc", tmp_path / "other" / "a.mrc"))
    mics.write()
    protocol.inputMicrographs.set(mics)
    assert "Several micrographs have the same name" in protocol._validate()[0]


def test_an_optional_input_that_a_scheduled_run_will_make_is_waited_for(tmp_path, monkeypatch):
    from deepem_scipion.protocols import ProtDeepEMImportCoordinates, ProtDeepEMStudio

    protocol, _ = train_form(tmp_path, monkeypatch)
    producer = ProtDeepEMImportCoordinates(workingDir="other")
    protocol.negativeCoordinates.set(producer)
    protocol.negativeCoordinates.setExtended("outputCoordinates")
    protocol.moreParticles.append(Pointer(producer, extended="outputCoordinates"))
    assert protocol._validate() == [f"*{label}* is not there yet: the run that makes it has not finished."
                                    for label in ("Background and contaminants", "More particles")]
    producer.outputCoordinates = coordinate_set(tmp_path, 2, FIRST)
    assert not any("not there yet" in error for error in protocol._validate())
    by_hand = ProtDeepEMStudio(workingDir="studio")
    by_hand.inputMicrographs.set(producer.outputCoordinates.getMicrographs())
    assert by_hand._validate() == []
    by_hand.inputModel.set(protocol)
    by_hand.inputModel.setExtended("outputModel")
    (error,) = by_hand._validate()
    assert "*Model* is not there yet" in error


def test_an_estimate_without_defocus_and_a_run_whose_files_are_gone_do_not_stop_the_studio(tmp_path):
    sets = []
    for number, defocus in ((1, None), (2, 11000.0), (3, 12000.0)):
        ctfs = SetOfCTF(filename=str(tmp_path / f"ctfs{number}.sqlite"))
        ctf = CTFModel(defocusU=defocus, defocusV=defocus)
        ctf.setMicrograph(micrograph(1, f"{number}.mrc"))
        ctfs.append(ctf)
        ctfs.write()
        sets.append(ctfs)
    sets[2].close()
    (tmp_path / "ctfs3.sqlite").unlink()
    runs = [SimpleNamespace(iterOutputAttributes=lambda kind: [("outputCTF", each) for each in sets])]
    assert studio.defocus_by_name(SimpleNamespace(getRuns=lambda: runs)) == {"2.mrc": 11000.0}
    assert not (tmp_path / "ctfs3.sqlite").exists()


def test_a_viewer_shows_what_it_has_seen_before_in_the_same_session_and_other_micrographs_in_another(tmp_path):
    mics = []
    for number, name in enumerate("abc", 1):
        mrcfile.write(tmp_path / f"{name}.mrc", np.zeros((60, 60), np.float32))
        mics.append(micrograph(number, f"{name}.mrc", tmp_path / f"{name}.mrc"))
    names, opened = convert.result_names(mics), []
    for shown in (mics[:2], mics[:2], mics, mics[1:], mics[1:]):
        opened.append(studio.session_folder(str(tmp_path), shown, names))
        session, settings = open_session(Wanted([mic.getFileName() for mic in shown], Path(opened[-1]),
                                                pixel_size_angst=2.0, diameter_angst=40.0))
        session.write(settings)
        session.close()
    assert len(set(opened[:3])) == 1 and len(set(opened[3:])) == 1 and opened[2] != opened[3]


def test_continue_is_refused_after_another_training_has_replaced_the_model(tmp_path, monkeypatch):
    protocol = pick_form(tmp_path, monkeypatch)
    (tmp_path / "run" / "extra" / "DONE").mkdir(parents=True)
    protocol._prepareContinue()
    (tmp_path / "run" / "extra" / "DONE" / "mic_000001.TXT").touch()
    assert protocol.isContinued() and protocol._validate() == []
    (tmp_path / "a model.safetensors").write_bytes(b"other weights")
    (error,) = protocol._validate()
    assert "the model differ from those of the micrographs picked before" in error


def test_links_to_micrographs_of_the_project_lead_there_after_it_was_moved(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    protocol = pick_protocol(tmp_path / "project", monkeypatch)
    inside, outside = Path("Runs", "000002_Import", "extra", "a.mrc"), tmp_path / "b.mrc"
    inside.parent.mkdir(parents=True)
    for path in (inside, outside):
        mrcfile.write(path, np.zeros((6, 8), np.float32))
    mics = SetOfMicrographs(filename="micrographs.sqlite")
    output = SetOfMicrographs(filename="output.sqlite")
    protocol.micDict = {mic.getMicName(): mic for mic in (micrograph(1, "a.mrc"), micrograph(2, "b.mrc", outside))}
    monkeypatch.setattr(protocol, "getInputMicrographs", lambda: mics)
    monkeypatch.setattr(protocol, "_createSetOfMicrographs", lambda: output)
    monkeypatch.setattr(protocol, "_updateOutputSet", lambda *args: None)
    monkeypatch.setattr(protocol, "_defineTransformRelation", lambda *args: None)
    protocol._updateMicrographs(None)
    links = [mic.getFileName() for mic in output]
    os.rename(tmp_path / "project", tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert [os.path.realpath(link) for link in links] == [str(tmp_path / "moved" / inside), str(outside)]


def test_micrographs_that_arrive_while_names_are_compared_do_not_stop_the_training(tmp_path):
    coordinates = coordinate_set(tmp_path, 1, FIRST)
    found = convert.micrographs_with_coordinates(coordinates, {1: "a.mrc"})
    assert list(found) == ["a.mrc"]


@pytest.mark.parametrize("name, attribute", [("ExportCoordinates", "inputCoordinates"),
                                             ("ImportCoordinates", "inputMicrographs")])
def test_continue_with_another_input_does_the_step_again(tmp_path, monkeypatch, name, attribute):
    from deepem_scipion import protocols

    monkeypatch.chdir(tmp_path)
    protocol = getattr(protocols, f"ProtDeepEM{name}")(workingDir="run", folder="out", path="in")

    def steps(coordinates):
        mics = coordinates.getMicrographs()
        mics.setObjId(1000 + coordinates.getObjId())
        getattr(protocol, attribute).set(coordinates if attribute == "inputCoordinates" else mics)
        protocol._steps = []
        protocol._insertAllSteps()
        return protocol._steps

    first, other = (coordinate_set(tmp_path, number, FIRST) for number in (2, 3))
    assert steps(first) == steps(first) != steps(other)


@pytest.mark.parametrize("box", [30, 31])
def test_training_gets_the_centres_of_odd_and_even_boxes(tmp_path, box):
    coordinates = coordinate_set(tmp_path, 2, {"a.mrc": [(40, 51), (17, 22)]}, box=box)
    assert convert.write_boxes(str(tmp_path / "boxes"), coordinates, {"a.mrc": "a"}, 2.0) == 2
    assert read_coordinates(tmp_path / "boxes")["a"].centres_xy.tolist() == [[40, 51], [17, 22]]


def test_pixel_sizes_that_disagree_are_in_the_summary(tmp_path, monkeypatch):
    protocol = pick_form(tmp_path, monkeypatch)
    results = PickingResults(tmp_path / "batch")
    results.make()
    results.write_summary(replace(SETTINGS, training_pixel_size_angst=3.0),
                          {"a": MicrographResult("a.mrc", "", 2, 1, 0.8, pixel_size_angst=2.0)})
    protocol.getResults().absorb(results)
    assert "*Warning:* a has 2 A per pixel as given, and the micrographs of the training had 3 A." in "\n".join(
        protocol.summary())


def test_the_summary_reports_the_threshold_that_the_program_used(tmp_path, monkeypatch):
    protocol = pick_form(tmp_path, monkeypatch, thresholdMode=1)
    write_results(protocol.getCoordsDir(), a=MicrographResult("m", picks=5))
    assert "Threshold: 0.400 (best F1 in the validation of the model)" in protocol.summary()


@pytest.mark.parametrize("mode", [1, 2])
def test_a_model_without_validation_has_no_threshold_to_be_found(tmp_path, monkeypatch, mode):
    protocol = pick_form(tmp_path, monkeypatch, thresholdMode=mode)
    protocol.inputModel.set(model(validation=False))
    assert "trained without validation" in protocol._validate()[0]
    protocol.thresholdMode.set(0)
    assert protocol._validate() == []


FIRST = {"a.mrc": [(20 + 10 * i, 40) for i in range(15)], "b.mrc": [(30, 20 + 10 * i) for i in range(15)]}


def train_form(folder, monkeypatch, **params):
    """A protocol for training on the micrographs a and b, and the commands that it runs."""
    from deepem_scipion.protocols import ProtDeepEMTrain

    monkeypatch.chdir(folder)
    protocol = ProtDeepEMTrain(workingDir="run", **params)
    protocol.inputCoordinates.set(coordinate_set(folder, 1, FIRST))
    (folder / "run" / "extra").mkdir(parents=True)
    commands = []

    def run(command, arguments):
        commands.append([command, *arguments])
        (folder / protocol._getModelFile()).touch()

    monkeypatch.setattr(protocol, "runDeepEM", run)
    return protocol, commands


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
