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
from plugin_protocols import (
    FIRST,
    SETTINGS,
    coordinate_set,
    micrograph,
    model,
    of_option,
    pick_form,
    pick_protocol,
    train_form,
    write_results,
)
from pwem.objects import CTFModel, SetOfCTF, SetOfMicrographs
from pyworkflow import Config
from pyworkflow.object import Pointer

from deepem_scipion import convert, studio
from deepem_scipion.deepem.commands.parser import build_parser
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.studio.opening import open_session
from deepem_scipion.deepem.studio.starting import Wanted


@pytest.fixture(autouse=True)
def domain():
    Config.getDomain().getProtocols()


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


def test_the_threshold_of_the_general_model_is_its_own(tmp_path, monkeypatch):
    protocol = pick_form(tmp_path, monkeypatch, particleDiameter=100)
    protocol.inputModel.set(None)
    assert "Threshold: 0.450 (that of the general model)" in protocol.summary()


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
