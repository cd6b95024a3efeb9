# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The general model of the package: what it is, and what it picks without any training."""

import json
import re
from dataclasses import replace

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem import DeepEMError, general_model, load_model, save_model
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.evaluation.metrics import evaluate
from deepem_scipion.deepem.micrographs.micrograph import prepared_micrograph
from deepem_scipion.deepem.model.card import card_rows
from deepem_scipion.deepem.model.general import GENERAL_MODEL
from deepem_scipion.deepem.picking.diameter import _diameters, estimate_diameter
from deepem_scipion.deepem.picking.picker import Picker
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.simulation.dataset import write_dataset
from deepem_scipion.deepem.simulation.scene import Scene
from deepem_scipion.deepem.simulation.volumes import Volume

# Not as in the training of the model: another program draws these particles.
SCENE = Scene(shape=(400, 480), pixel_size_angst=10.0, n_particles=24, snr=0.3, defocus_angst=25000.0, spacing=1.1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("general")
    write_dataset(folder, SCENE, 2, seed=3)
    write_dataset(folder / "empty", replace(SCENE, n_particles=0, ice=2, carbon=0.2, gradient=1.0), 2, seed=4,
                  prefix="empty")
    return folder


def pick(*arguments):
    return main(["pick", *map(str, arguments), "--quiet", "--contrast-checks", "0"])


def test_the_file_is_small_and_its_card_names_what_made_it():
    assert GENERAL_MODEL.stat().st_size < 1_000_000
    model = load_model(GENERAL_MODEL)
    assert model.diameter_px == pytest.approx(27) and model.record.contrast == "dark"
    rows = dict(card_rows(model.card()))
    assert "benchmarks/general_model.py" in rows["made by"] and "simulated" in rows["made of"]
    found = model.record.validation  # at the threshold of the model, which is the best by F1
    above = sum(threshold >= model.threshold for threshold in found.curve["threshold"])
    assert [found.precision, found.recall] == [found.curve[name][above - 1] for name in ("precision", "recall")]
    assert f"{found.F1:.3f}" in rows["at that threshold"] and "simulated" in rows["at that threshold"]
    assert found.F1 == pytest.approx(found.best_F1, abs=0.01)


def test_particles_of_any_diameter_are_equally_wide():
    for diameter in (80.0, 400.0):
        model = general_model(diameter)
        assert model.diameter_angst == diameter and model.diameter_px == pytest.approx(27)
    for diameter in (0.0, -5.0, float("nan"), float("inf")):
        with pytest.raises(DeepEMError, match="particle diameter"):
            general_model(diameter)
    with pytest.raises(DeepEMError, match="expected dark or bright"):
        general_model(100, "grey")


def test_the_model_for_bright_particles_scores_the_negative_alike():
    pixels = np.random.default_rng(0).standard_normal((100, 120))
    dark, bright = (prepared_micrograph(sign * pixels, 1.0, "noise", 40) for sign in (1, -1))
    model = general_model(27.0)
    scores = Picker(model).candidates(dark)[1]
    np.testing.assert_allclose(Picker(model.inverted()).candidates(bright)[1], scores, atol=1e-5)
    assert model.inverted().record.contrast == "bright" and model.inverted().inverted().record.contrast == "dark"
    assert np.abs(Picker(model).candidates(bright)[1] - scores).max() > 1e-3


def test_it_picks_what_it_was_never_shown(dataset, tmp_path):
    assert pick("--micrographs", dataset / "micrographs", "--diameter", 400, "--output", tmp_path) == 0
    found = evaluate(read_coordinates(dataset / "boxes"), read_coordinates(tmp_path), SCENE.diameter_px / 2)
    assert found["overall"]["F1"] > 0.9


def test_the_diameter_is_estimated_and_shown_or_cannot_be_determined(dataset, tmp_path, capsys):
    """Of cylinders 400 A long and 350 A wide, whose longest dimension is their diagonal."""
    assert main(["pick", "--micrographs", str(dataset / "micrographs"), "--diameter", "auto", "--output",
                 str(tmp_path / "a"), "--contrast-checks", "0"]) == 0
    printed = capsys.readouterr().out
    said = re.search(r"diameter estimated from (\d+) picks: (\d+) A, probably (\d+) to (\d+) A", printed)
    picks, found, low, high = (int(number) for number in said.groups())
    diagonal = np.hypot(400, 350)
    assert picks >= 40 and abs(found - diagonal) < 0.15 * diagonal and low < found < high and low < diagonal < high
    assert load_model(tmp_path / "a" / "model.deepem").diameter_angst == found
    assert (tmp_path / "a" / "diameter.png").read_bytes().startswith(b"\x89PNG")
    assert PickingResults(tmp_path / "a").path("diameter") in PickingResults(tmp_path / "a").files()
    assert pick("--micrographs", dataset / "empty" / "micrographs", "--diameter", "auto", "--output",
                tmp_path / "b") == 2
    assert "--diameter auto: it cannot be determined; " in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert pick("--micrographs", dataset / "micrographs", "--diameter", "auto", "--model", GENERAL_MODEL, "--output",
                tmp_path / "c") == 2
    assert "--diameter is for the general model" in capsys.readouterr().err


def test_micrographs_that_cannot_be_read_or_are_tiny_are_replaced_by_others_for_the_estimate(tmp_path):
    pixels = np.random.default_rng(0).random((512, 512), np.float32)
    paths = {name: tmp_path / f"{name}.mrc" for name in "abcdefg"}
    for name, path in paths.items():
        mrcfile.new(path, 0 * pixels if name in "ag" else pixels[:64, :64] if name == "b" else pixels).close()
    usable, tried = _diameters(list(paths.items()), 4.0)
    assert [name for name, _ in usable] == ["c", "d", "e"] and tried[0] > tried[-1]


def test_the_diameter_of_balls_is_theirs(tmp_path):
    axis = 3.0 * np.arange(-20, 21)
    radius = np.sqrt(axis[:, None, None]**2 + axis[:, None]**2 + axis**2)
    ball = Volume(np.clip((50 - radius) / 3 + 0.5, 0, 1), 3.0)
    scene = replace(SCENE, pixel_size_angst=3.0, diameter_angst=100.0, defocus_angst=15000.0, voltage_kv=300.0)
    write_dataset(tmp_path, scene, 2, seed=3, volume=ball)
    paths = {name: tmp_path / "micrographs" / f"{name}.mrc" for name in ("mic_001", "mic_002")}
    assert estimate_diameter(paths).diameter_angst == pytest.approx(100, rel=0.15)
    with pytest.raises(DeepEMError, match="only 2[0-9] confident picks .* Expected at least 40"):
        estimate_diameter({"mic_001": paths["mic_001"]})


def test_there_are_nearly_no_picks_where_there_are_no_particles(dataset, tmp_path):
    assert pick("--micrographs", dataset / "empty" / "micrographs", "--diameter", 400, "--output", tmp_path) == 0
    assert sum(len(found.scores) for found in read_coordinates(tmp_path).values()) <= 4


def test_bright_particles_are_picked_as_dark_ones_on_the_negative(dataset, tmp_path):
    negative = tmp_path / "mic_001.mrc"
    with mrcfile.open(dataset / "micrographs" / "mic_001.mrc") as file, mrcfile.new(negative, -file.data) as other:
        other.voxel_size = SCENE.pixel_size_angst
    results = []
    for path, contrast in ((dataset / "micrographs" / "mic_001.mrc", "dark"), (negative, "bright")):
        assert pick("--micrographs", path, "--diameter", 400, "--contrast", contrast, "--output",
                    tmp_path / contrast) == 0
        results.append(read_coordinates(tmp_path / contrast)["mic_001"])
    np.testing.assert_allclose(results[1].centres_xy, results[0].centres_xy, atol=1)


def test_the_model_as_used_lies_in_the_results_and_picks_the_same(dataset, tmp_path):
    one = dataset / "micrographs" / "mic_002.mrc"
    assert pick("--micrographs", one, "--diameter", 400, "--output", tmp_path / "a", "--report") == 0
    used = tmp_path / "a" / "model.deepem"
    assert load_model(used).diameter_angst == 400 and (tmp_path / "a" / "report.html").exists()
    assert pick("--micrographs", one, "--model", used, "--output", tmp_path / "b") == 0
    assert (tmp_path / "b" / "mic_002.box").read_text() == (tmp_path / "a" / "mic_002.box").read_text()
    assert not (tmp_path / "b" / "model.deepem").exists()
    before = used.read_bytes()
    assert pick("--micrographs", one, "--model", used, "--output", tmp_path / "a", "--resume") == 0
    assert used.read_bytes() == before  # the model that is picked with


@pytest.mark.parametrize("arguments, message", [
    ([], "give --diameter .* or --model"),
    (["--model", GENERAL_MODEL, "--diameter", 100], "--diameter is for the general model"),
    (["--model", GENERAL_MODEL, "--contrast", "dark"], "--contrast is for the general model"),
    (["--diameter", "-3"], "particle diameter -3"),
])
def test_a_diameter_or_a_model_is_needed_and_not_both(dataset, tmp_path, capsys, arguments, message):
    assert pick("--micrographs", dataset / "micrographs", "--output", tmp_path / "none", *arguments) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "none").exists()


def test_weights_of_the_comparison_are_kept_in_the_file_and_checked(tmp_path):
    model = general_model(100)
    save_model(tmp_path / "kept.deepem", model)
    again = load_model(tmp_path / "kept.deepem")
    assert again.agreement is not None and model.agreement is not None
    for name, values in model.agreement.items():
        np.testing.assert_array_equal(again.agreement[name], values)
    save_model(tmp_path / "without.deepem", replace(model, agreement=None))
    assert load_model(tmp_path / "without.deepem").agreement is None
    card = json.dumps(model.card()).replace('"agreement": ', '"agreement": 1')
    from safetensors.numpy import load_file, save_file

    save_file(load_file(tmp_path / "kept.deepem"), tmp_path / "wrong.deepem", {"deepem_card": card})
    with pytest.raises(DeepEMError, match="agreement.hidden.kernel is"):
        load_model(tmp_path / "wrong.deepem")
