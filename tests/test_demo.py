# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demonstration: its data, and the comparison with the ground truth. `make demo` runs all of it."""

from dataclasses import replace

import numpy as np
import pytest

from deepem_scipion.deepem.commands import demonstration as demo
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.model.record import TrainingRecord
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.picking.candidates import Candidates
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.headless import demo as scipion_demo

# The matplotlib that Scipion pins uses functions that its own dependencies have renamed since.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(demo, "SCENE", replace(demo.SCENE, shape=(160, 224), pixel_size_angst=16.0, n_particles=6,
                                               ice=0, carbon=0.0))
    monkeypatch.setattr(demo, "PARTS", {"training": (1, 1), "test": (2, 2)})


@pytest.mark.slow
def test_micrographs_of_an_earlier_run_are_used_again_unless_the_scene_changed(tmp_path, monkeypatch):
    micrograph = tmp_path / "data" / "test" / "micrographs" / "test_002.mrc"
    assert demo.write_demo_data(tmp_path / "data")
    before = micrograph.read_bytes()
    assert not demo.write_demo_data(tmp_path / "data")
    monkeypatch.setattr(demo, "SCENE", replace(demo.SCENE, snr=1.0))
    assert demo.write_demo_data(tmp_path / "data")
    assert micrograph.read_bytes() != before


def test_an_interrupted_simulation_is_made_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_dataset", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            demo.write_demo_data(tmp_path / "data")
    assert demo.write_demo_data(tmp_path / "data")


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DeepEMError, match="another output folder"):
        demo.write_demo_data(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def write_results(folder, centres):
    """Results of a picker that found the centres and, with a low score, a position close to the first of them."""
    results, micrographs = PickingResults(folder), {}
    results.make()
    for name, known in centres.items():
        found_xy = np.vstack([known.centres_xy, known.centres_xy[:1] + (0, 0.9 * demo.SCENE.diameter_px)])
        n = len(found_xy)
        candidates = Candidates(found_xy, np.append(np.full(n - 1, 0.9), 0.2), np.ones(n), np.full(n, 50.0))
        reasons = np.array(["picked"] * (n - 1) + ["threshold"])
        results.write_micrograph(name, candidates, reasons, 30)
        micrographs[name] = MicrographResult.of(f"{name}.mrc", candidates, reasons, seconds=0.25)
    results.write_table(micrographs)
    return results


@pytest.mark.slow
def test_the_comparison_reports_precision_and_recall_and_draws_three_pictures(tmp_path):
    demo.write_demo_data(tmp_path / "data")
    truth = read_coordinates(tmp_path / "data" / "test" / "boxes")
    write_results(tmp_path / "picks", truth)
    geometry = Geometry(38, (9, 6, 4), (2, 2, 2))
    weights = {name: np.zeros(shape) for name, shape in geometry.weight_shapes().items()}
    history = [{"loss": 0.5, "accuracy": 0.5}, {"loss": 0.1, "accuracy": 0.9}]
    save_model(tmp_path / "model", Model(geometry, (weights,), 16.0, 400.0, 4, (0.5, 1.5), 0.5,
                                        TrainingRecord(history=history)))
    picks = {name: Coordinates(known.centres_xy[:3], np.full(3, 0.9), None) for name, known in truth.items()}
    figures, lines = demo.compare(tmp_path, picks, tmp_path / "picks", tmp_path / "model")
    assert figures == {"precision": 1.0, "recall": 0.5, "F1": pytest.approx(2 / 3)}
    assert any("0.25 seconds per micrograph" in line for line in lines)
    for picture in ("picks.png", "curve.png", "training.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
        assert any(line.endswith(str(tmp_path / picture)) for line in lines)


def test_the_curve_includes_candidates_below_the_threshold(tmp_path):
    known = {"a": Coordinates(np.array([[60.0, 60.0], [150.0, 60.0]]), np.full(2, np.nan), None)}
    centres_xy, scores = demo.picks_without_threshold(write_results(tmp_path, known), "a")
    np.testing.assert_allclose(scores, [0.9, 0.9, 0.2])
    np.testing.assert_allclose(centres_xy[2], [60, 82.5])


def test_the_command_that_opens_the_project_has_all_of_its_environment(tmp_path):
    environment = scipion_demo.prepare_home(tmp_path / "a home")
    command = scipion_demo.opening_command(environment)
    assert f"'SCIPION_HOME={tmp_path}/a home'" in command
    assert " -O " in command and command.endswith(scipion_demo.PROJECT)
    assert (tmp_path / "a home" / "hosts.conf").read_text().startswith("[localhost]")
