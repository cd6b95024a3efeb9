# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model file."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.preprocessing import Preprocessing
from deepem_scipion.deepem.model.card import MODEL_FORMAT, card_rows
from deepem_scipion.deepem.model.files import load_model, read_card, save_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.model.paths import ModelFiles
from deepem_scipion.deepem.model.record import Round, TrainingData, TrainingRecord, Validation
from deepem_scipion.deepem.network.geometry import Geometry

GEOMETRY = Geometry(28, (5, 3, 2), (2, 2, 2))
FULL = TrainingRecord(
    contrast="dark", training_preset="default", seed=3, seeds_used=[3, 9], training_pixel_size_angst=1.5,
    annotated_border_angst=40.0, versions={"numpy": "1"}, best_epochs=[2, 1], history=[{"epoch": 1, "loss": 0.1}],
    training=TrainingData(4, ["a", "b", "c", "d"], 50), validation=Validation(
        1, ["e"], 12, on="validation micrographs", precision=0.5, recall=0.75, F1=0.6, F2=0.7, best_F1=0.6, AP=0.8,
        curve={"threshold": [0.5], "precision": [0.5], "recall": [0.75]}),
    rounds=[Round(1), Round(2, kept=False, error=0.25, false_positives=7, missed=8)], tuning={"trials": 2})


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in GEOMETRY.weight_shapes().items()}
    return Model(GEOMETRY, (weights,), 4.5, 120.0, 4, (0.5, 1.5), 0.75,
                 TrainingRecord(training_preset="paper", history=[{"loss": 0.1}]))


def rewrite(path, model, weights=None, **changes):
    """Write a model file with a changed card or other weights, as a faulty program might."""
    card = {**model.card(), **changes}
    save_file(weights or model.networks[0], path, metadata={"deepem_card": json.dumps(card)})


def test_model_comes_back_as_it_was_saved(tmp_path, model):
    save_model(tmp_path / "m", model)
    again = load_model(tmp_path / "m")
    for field in dataclasses.fields(Model):
        if field.name != "networks":
            assert getattr(again, field.name) == getattr(model, field.name)
    for name, value in model.networks[0].items():
        np.testing.assert_array_equal(again.networks[0][name], value)


def test_record_comes_back_as_it_was_saved(tmp_path, model):
    save_model(tmp_path / "m", dataclasses.replace(model, record=FULL))
    assert load_model(tmp_path / "m").record == FULL


def test_model_without_a_record_and_with_unknown_keys_is_read(tmp_path, model):
    known = ("format", "geometry", "networks", "working_pixel_size_angst", "diameter_angst", "scan_step", "std_range",
             "threshold")
    card = {name: value for name, value in model.card().items() if name in known}
    save_file(model.networks[0], tmp_path / "m", metadata={"deepem_card": json.dumps(
        {**card, "comment": "by hand", "validation": {"comment": "none", "AP": None}})})
    assert load_model(tmp_path / "m").record == TrainingRecord()


def test_files_beside_a_model_begin_with_its_name():
    files = ModelFiles(Path("folder/a.deepem"))
    assert [path.name for path in (files.checkpoint, files.examples, files.study, files.tuning_report,
                                   files.report)] == [
        "a.deepem.checkpoint", "a.deepem.examples.npz", "a.deepem.study", "a.deepem.tuning.md",
        "a.deepem.html"]
    assert {path.parent for path in (files.checkpoint, files.report)} == {Path("folder")}


def test_micrographs_are_read_at_the_working_pixel_size_and_normalised_by_boxes(model):
    assert model.preprocessing == Preprocessing(4.5, GEOMETRY.box)


def test_model_of_several_networks_comes_back_with_all_of_them(tmp_path, model):
    several = dataclasses.replace(model, networks=tuple(
        {name: value + number for name, value in model.networks[0].items()} for number in range(3)))
    save_model(tmp_path / "m", several)
    again = load_model(tmp_path / "m")
    assert len(again.networks) == 3
    for written, read in zip(several.networks, again.networks):
        for name, value in written.items():
            np.testing.assert_array_equal(read[name], value)
    assert again.card() == several.card()


def test_card_is_read_without_the_weights_and_names_its_format(tmp_path, model):
    save_model(tmp_path / "m", model)
    card = read_card(tmp_path / "m")
    assert card == json.loads(json.dumps(model.card()))
    assert card["format"] == MODEL_FORMAT


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DeepEMError, match="no such model"):
        load_model(tmp_path / "none")
    with pytest.raises(DeepEMError, match="no such model file, but a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [
    b"", b"hello", b"\xff" * 100, pickle.dumps({"weights": 1}), b"\x89HDF\r\n\x1a\n" * 9])
def test_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(DeepEMError, match="not a DeepEM model"):
        load_model(tmp_path / "m")


def test_weights_without_a_card_are_refused(tmp_path, model):
    save_file(model.networks[0], tmp_path / "m")
    with pytest.raises(DeepEMError, match="no card"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_model_is_refused(tmp_path, model, share):
    save_model(tmp_path / "m", model)
    content = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(content[:int(share * len(content))])
    with pytest.raises(DeepEMError, match="damaged"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("number", [MODEL_FORMAT - 1, MODEL_FORMAT + 1])
def test_another_format_is_refused_and_the_message_states_both(tmp_path, model, number):
    rewrite(tmp_path / "m", model, format=number)
    with pytest.raises(DeepEMError, match=f"format of the model is {number}, this version reads format {MODEL_FORMAT}"):
        load_model(tmp_path / "m")
    with pytest.raises(DeepEMError, match="this version reads format"):
        read_card(tmp_path / "m")


@pytest.mark.parametrize("changes", [
    {"diameter_angst": -1}, {"diameter_angst": "wide"}, {"diameter_angst": None}, {"working_pixel_size_angst": 0},
    {"threshold": float("nan")}, {"std_range": [1]}, {"std_range": None}, {"scan_step": 0}, {"networks": 0},
    {"networks": None}, {"history": {}}, {"history": [1]}, {"training": []}, {"training": {"particles": "many"}},
    {"validation": {"AP": float("inf")}}, {"validation": {"curve": {"threshold": [1], "precision": [1], "recall": []}}},
    {"validation": {"curve": {"threshold": []}}}, {"rounds": [{"kept": True}]},
    {"rounds": [{"round": 1, "error": "?"}]}, {"seed": 0.5}, {"versions": []},
    {"training_pixel_size_angst": float("nan")}, {"geometry": {}},
    {"geometry": {"box": 29, "kernels": [5, 3, 2], "pools": [2, 2, 2], "maps": [6, 12, 12]}},
    {"geometry": {"box": 28, "kernels": "532", "pools": [2, 2, 2], "maps": [6, 12, 12]}}, {"geometry": [1, 2]}])
def test_senseless_card_is_refused(tmp_path, model, changes):
    rewrite(tmp_path / "m", model, **changes)
    with pytest.raises(DeepEMError, match="damaged"):
        load_model(tmp_path / "m")


def test_weights_of_another_shape_than_the_card_states_are_refused_before_they_are_read(tmp_path, model):
    weights = {**model.networks[0], "conv2.kernel": np.zeros((9, 9, 6, 12), np.float32)}
    rewrite(tmp_path / "m", model, weights)
    with pytest.raises(DeepEMError, match="conv2.kernel"):
        load_model(tmp_path / "m")


def test_weights_of_another_type_are_refused(tmp_path, model):
    rewrite(tmp_path / "m", model, {**model.networks[0], "conv2.bias": np.zeros(12)})
    with pytest.raises(DeepEMError, match="conv2.bias"):
        load_model(tmp_path / "m")


def test_missing_weights_are_refused(tmp_path, model):
    rewrite(tmp_path / "m", model, {k: v for k, v in model.networks[0].items() if k != "dense.bias"})
    with pytest.raises(DeepEMError, match="dense.bias is missing"):
        load_model(tmp_path / "m")


def test_weights_that_are_not_finite_are_refused(tmp_path, model):
    rewrite(tmp_path / "m", model, {**model.networks[0], "dense.bias": np.array([np.nan], np.float32)})
    with pytest.raises(DeepEMError, match="not finite"):
        load_model(tmp_path / "m")


def test_saving_over_a_model_never_leaves_a_part_of_one(tmp_path, model, monkeypatch):
    save_model(tmp_path / "m", model)
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(DeepEMError, match="disk full"):
        save_model(tmp_path / "m", dataclasses.replace(model, threshold=0.1))
    assert load_model(tmp_path / "m").threshold == 0.75
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.fixture
def validated(model):
    """A model with 3 correct validation picks: in descending order of score the first, third and fourth of seven."""
    curve = {"threshold": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
             "precision": [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5, 1 / 2, 3 / 7],
             "recall": [1 / 4, 1 / 4, 1 / 2, 3 / 4, 3 / 4, 3 / 4, 3 / 4]}
    return dataclasses.replace(model, record=TrainingRecord(validation=Validation(curve=curve)))


def test_thresholds_for_other_measures_come_from_the_validation_curve(validated):
    assert validated.threshold_for("auto") == 0.75
    assert 0.5 < validated.threshold_for("F1") <= 0.6
    assert validated.threshold_for("precision=0.7") == 0.6
    assert validated.threshold_for("precision=0.5") == 0.4
    assert validated.threshold_for("precision=0.95") == 0.9


def test_a_precision_that_was_never_reached_is_refused_with_the_highest(validated):
    curve = {**validated.record.validation.curve}
    curve["precision"] = [0.9 * value for value in curve["precision"]]
    poorer = dataclasses.replace(validated, record=TrainingRecord(validation=Validation(curve=curve)))
    with pytest.raises(DeepEMError, match="at most 0.900"):
        poorer.threshold_for("precision=0.95")


@pytest.mark.parametrize("wanted", ["F3", "precision", "precision=2", "precision=x", ""])
def test_unknown_measure_for_the_threshold_is_refused(validated, wanted):
    with pytest.raises(DeepEMError, match="expected auto, F1, precision=P"):
        validated.threshold_for(wanted)


def test_model_without_a_validation_curve_has_no_other_threshold(model):
    with pytest.raises(DeepEMError, match="no validation curve"):
        model.threshold_for("F1")


def test_rows_of_a_card_describe_the_model_and_leave_out_what_is_not_recorded(model):
    rows = dict(card_rows(dataclasses.replace(model, record=TrainingRecord()).card()))
    assert rows == {
        "particle": "120 A, 26.7 binned pixels, ?", "working pixel size": "4.5 A",
        "network": "box 28 px (126 A), kernels 5/3/2, pools 2/2/2, maps 6/12/12", "scan step": "4 px (18.0 A)",
        "local std": "0.500 to 1.500", "threshold": "0.750"}


def test_rows_of_a_card_describe_the_training(model):
    recorded = dataclasses.replace(model, networks=2 * model.networks, record=FULL)
    rows = dict(card_rows(recorded.card()))
    assert rows["particle"].endswith("dark") and rows["working pixel size"] == "4.5 A (trained on 1.5 A)"
    assert rows["scores"].startswith("mean of 2 networks")
    assert rows["trained on"] == "4 micrographs, 50 particles, 0 given negatives"
    assert rows["training"] == "preset default, seed 3"
    assert rows["round 2"] == "7 false positives, 8 missed particles shown again: error 0.2500, not kept"
    assert rows["at that threshold"] == (
        "precision 0.500, recall 0.750, F1 0.600; average precision 0.800 (validation micrographs)")
