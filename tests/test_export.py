# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exported network gives the scores of Keras and of the scan."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_pick_alone import model_of
from test_scoremap import random_weights

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.deepem.model.general import general_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.network.scan import Scanner, score_map_box_by_box

GEOMETRY = Geometry(29, (6, 3, 2), (3, 2, 2), (4, 3, 5))


@pytest.fixture
def exported(tmp_path):
    """Networks, the card, and a function from images to scores that runs the exported file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    networks = tuple(random_weights(GEOMETRY, seed) for seed in range(2))
    model = Model(GEOMETRY, networks, 4.0, 64.0, 2, (0.0, 9.0), 0.5)
    save_model(tmp_path / "m.deepem", model)
    assert main(["export", str(tmp_path / "m.deepem"), "--onnx", str(tmp_path / "m.onnx")]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map["deepem_card"])
    return networks, card, lambda pixels: session.run(["scores"], {"pixels": pixels})[0]


def test_scores_of_boxes_are_those_of_keras(exported):
    networks, card, run = exported
    boxes = np.random.default_rng(0).normal(size=(5, 1, 29, 29)).astype(np.float32)
    expected = [score_map_box_by_box(box[0], GEOMETRY, networks, 1)[0, 0] for box in boxes]
    found = run(boxes)
    assert found.shape == (5, 1, 1, 1) and np.std(expected) > 1e-3
    np.testing.assert_allclose(found[:, 0, 0, 0], expected, atol=1e-5)
    assert card["geometry"] == GEOMETRY.as_dict() and card["threshold"] == 0.5


def test_scores_of_an_image_are_those_of_the_scan_whose_step_is_the_product_of_the_pools(exported):
    networks, _, run = exported
    pixels = np.random.default_rng(1).normal(size=(80, 110)).astype(np.float32)
    expected = Scanner(GEOMETRY, networks, 12).scan(pixels)
    found = run(pixels[None, None])[0, 0]
    np.testing.assert_allclose(found[:expected.shape[0], :expected.shape[1]], expected, atol=1e-5)


def test_a_graph_that_has_other_scores_than_picking_is_refused_or_warned_of(tmp_path, capsys):
    pytest.importorskip("onnx")
    save_model(tmp_path / "paper.deepem", replace(model_of(GEOMETRY), ranges_px=(10.0, 5.0)))
    assert main(["export", str(tmp_path / "paper.deepem"), "--onnx", str(tmp_path / "m.onnx")]) == 2
    assert "normalises each box" in capsys.readouterr().err and not (tmp_path / "m.onnx").exists()
    save_model(tmp_path / "general.deepem", general_model(120))
    assert main(["export", str(tmp_path / "general.deepem"), "--onnx", str(tmp_path / "m.onnx")]) == 0
    assert "also compares the candidates" in capsys.readouterr().err and (tmp_path / "m.onnx").exists()


def test_a_graph_does_not_replace_the_model(tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "m.deepem", model_of(GEOMETRY))
    before = (tmp_path / "m.deepem").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(tmp_path / "m.deepem"), "--onnx", "m.deepem"]) == 2
    assert "m.deepem would replace" in capsys.readouterr().err
    assert (tmp_path / "m.deepem").read_bytes() == before


def test_without_the_package_onnx_the_message_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    save_model(tmp_path / "m.deepem", model_of(GEOMETRY))
    assert main(["export", str(tmp_path / "m.deepem"), "--onnx", str(tmp_path / "m.onnx")]) == 2
    errors = capsys.readouterr().err
    assert "package onnx" in errors and "pip install 'scipion-em-deepem[onnx]'" in errors
    assert not (tmp_path / "m.onnx").exists()
