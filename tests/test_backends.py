# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training and picking on the other backends of Keras give the numbers of TensorFlow."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from test_scoremap import random_weights
from test_training import blob_windows, quick

from deepem_scipion.deepem import scoremap, training
from deepem_scipion.deepem.cli import main
from deepem_scipion.deepem.coordinates import read_coordinates
from deepem_scipion.deepem.examples import WindowExamples
from deepem_scipion.deepem.network import Geometry

NAMES = {"jax": "JAX", "torch": "PyTorch"}
GEOMETRY = Geometry(28, (5, 3, 2), (2, 2, 2))
STEPS = 8, 5  # one class of windows, and several
# With a first kernel that is large enough for the layer that TensorFlow needs.
TRAINED = Geometry(24, (13, 3, 2), (2, 2, 1), (3, 4, 4))

PROGRAM = """
import json, sys
import numpy as np
from deepem_scipion.deepem import runtime
runtime.start(2)
import keras
from deepem_scipion.deepem import scoremap, training
from deepem_scipion.deepem.examples import WindowExamples
from deepem_scipion.deepem.network import Geometry
from deepem_scipion.deepem.training import Recipe
from deepem_scipion.deepem.windows import Windows
folder = sys.argv[1]
case = json.load(open(f"{folder}/case.json"))
arrays = np.load(f"{folder}/case.npz")
weights, start = ({name[len(kind):]: arrays[name] for name in arrays.files if name.startswith(kind)}
                  for kind in ("weight ", "start "))
geometry, trained = (Geometry(**case[name]) for name in ("geometry", "trained"))
found = {}
for step in case["steps"]:
    found[f"fast {step}"] = scoremap.Scanner(geometry, [weights], step).scan(arrays["pixels"])
    found[f"plain {step}"] = scoremap.score_map_by_windows(arrays["pixels"], geometry, [weights], step)
for tile in (None, 32):
    scoremap.fastest_tile = lambda shape, kernel: tile
    found[f"tile {tile}"] = scoremap.Scanner(geometry, [weights], case["steps"][0]).scan(arrays["pixels"])
windows = Windows(list(arrays["windows"]), trained.box, arrays["places"], arrays["targets"])
for loss, recipe in case["recipes"].items():
    recipe = Recipe(**recipe)
    fit = training.fit(WindowExamples(windows, recipe.batch), None, trained, recipe, start=start)
    found[f"loss {loss}"] = [record["loss"] for record in fit.history]
    found |= {f"{loss} {name}": value for name, value in fit.weights.items()}
found["backend"] = keras.backend.backend()
np.savez(f"{folder}/found.npz", **found)
"""


@pytest.fixture(scope="module", params=NAMES)
def backend(request):
    if find_spec(request.param) is None:
        pytest.skip(f"{NAMES[request.param]} is not installed (pip install {request.param})")
    return request.param


def run_on(backend, *arguments):
    environ = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def case():
    """Weights, images and recipes for the program above."""
    windows = blob_windows(64)
    windows.targets[1::8] = 1  # some are labelled wrongly, so that the loss does not end near 0
    recipes = {recipe.loss: vars(recipe) for recipe in (quick(epochs=4, wide_start=False, later_rate=0.01), quick(
        epochs=4, wide_start=False, loss="half_mse", optimiser="sgd", later_rate=1.0, decay=False))}
    pixels = np.random.default_rng(5).normal(size=(96, 110)).astype(np.float32)
    return {"weights": random_weights(GEOMETRY), "start": random_weights(TRAINED, seed=1), "windows": windows,
            "pixels": pixels, "recipes": recipes}


@pytest.fixture(scope="module")
def found(backend, case, tmp_path_factory):
    """What the program finds on the backend."""
    folder = tmp_path_factory.mktemp(backend)
    (folder / "case.json").write_text(json.dumps({"geometry": GEOMETRY.as_dict(), "trained": TRAINED.as_dict(),
                                                  "steps": STEPS, "recipes": case["recipes"]}))
    windows = case["windows"]
    np.savez(folder / "case.npz", pixels=case["pixels"], windows=np.stack(windows.images), places=windows.places,
             targets=windows.targets, **{f"weight {name}": value for name, value in case["weights"].items()},
             **{f"start {name}": value for name, value in case["start"].items()})
    run_on(backend, "-c", PROGRAM, folder)
    arrays = np.load(folder / "found.npz")
    assert str(arrays["backend"]) == backend
    return arrays


@pytest.mark.parametrize("step", STEPS)
def test_fast_scan_agrees_with_the_window_by_window_scan(found, step):
    assert found[f"plain {step}"].std() > 1e-2
    np.testing.assert_allclose(found[f"fast {step}"], found[f"plain {step}"], atol=1e-5)


@pytest.mark.parametrize("step", STEPS)
def test_scores_are_those_of_tensorflow(found, case, step):
    scores = scoremap.Scanner(GEOMETRY, [case["weights"]], step).scan(case["pixels"])
    np.testing.assert_allclose(found[f"fast {step}"], scores, atol=1e-5)


def test_direct_convolution_and_that_by_fourier_transforms_agree(found):
    np.testing.assert_allclose(found["tile None"], found["tile 32"], atol=1e-5)


@pytest.mark.parametrize("loss", training.LOSSES)
def test_training_lowers_the_loss_as_it_does_on_tensorflow(found, case, loss):
    recipe = training.Recipe(**case["recipes"][loss])
    examples = WindowExamples(case["windows"], recipe.batch)
    fit = training.fit(examples, None, TRAINED, recipe, start=case["start"])
    losses = found[f"loss {loss}"]
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, [record["loss"] for record in fit.history], rtol=1e-3)
    for name, value in fit.weights.items():
        np.testing.assert_allclose(found[f"{loss} {name}"], value, atol=1e-3)


def test_model_of_tensorflow_picks_the_same_particles(backend, blobs, blob_model, tmp_path):
    command = ["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs"), "--output"]
    done = run_on(backend, "-m", "deepem_scipion.deepem", *command, tmp_path / "other")
    assert f"threads ({NAMES[backend]})" in done.stderr
    assert main([*command, str(tmp_path / "tensorflow")]) == 0
    ours, other = (read_coordinates(tmp_path / name / "picks.star") for name in ("tensorflow", "other"))
    assert set(other) == set(ours) == set("abcde")
    for name, picks in ours.items():
        assert len(picks.scores) >= 10
        np.testing.assert_allclose(other[name].centres_xy, picks.centres_xy, atol=0.02)
        np.testing.assert_allclose(other[name].scores, picks.scores, atol=2e-4)
