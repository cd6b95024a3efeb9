# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same seed gives the same model and the same picks with any number of threads and any size of batches.

The tolerances are those of docs/reliability.md.
"""

import os
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.picking.picker import Picker
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.program import Worker

SCORES_OF_PICKING, SCORES_OF_TRAINING = 1e-5, 1e-3
PROGRAM = [sys.executable, "-m", "deepem_scipion.deepem"]
ENVIRON = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
TRAINING = """
import sys
from dataclasses import replace
from deepem_scipion.deepem.training import fit as training
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
from deepem_scipion.deepem.commands.main import main
TRAINING_PRESETS["default"] = replace(TRAINING_PRESETS["default"], updates_per_epoch=25)
training.CONVERGENCE_LOSS = 9  # this few updates do not converge
sys.exit(main(["train", *sys.argv[1:]]))
"""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


@pytest.fixture(scope="module")
def tensorflow():
    pytest.importorskip("tensorflow")


def assert_same_picks(folder, other):
    """Check that positions are equal, and scores and score maps are within the tolerance."""
    picks, others = read_coordinates(folder), read_coordinates(other)
    assert set(picks) == set(others) and sum(len(found.scores) for found in picks.values()) > 50
    for name, found in picks.items():
        np.testing.assert_array_equal(found.centres_xy, others[name].centres_xy)
        np.testing.assert_allclose(found.scores, others[name].scores, atol=SCORES_OF_PICKING)
        maps = [mrcfile.read(Path(place) / "scores" / f"{name}.mrc") for place in (folder, other)]
        np.testing.assert_allclose(*maps, atol=SCORES_OF_PICKING)


def test_picks_are_the_same_with_any_number_of_threads_and_any_size_of_batches(blobs, blob_model, tmp_path):
    def arguments(names, output):
        return ["--micrographs", *[str(blobs[0] / "micrographs" / f"{name}.mrc") for name in names], "--model",
                str(blob_model), "--score-maps", "--output", str(tmp_path / output)]

    for threads in (1, 3):
        subprocess.run([*PROGRAM, "pick", *arguments("abcde", f"threads{threads}"), "--threads", str(threads)],
                       env=ENVIRON, check=True)
    worker = Worker([*PROGRAM, "worker", "--threads", "2"], ENVIRON)
    batches = PickingResults(tmp_path / "batches")
    batches.make(further=["score_map"])
    for names in ("a", "bc", "d", "e"):
        assert worker.pick(arguments(names, names)) == (0, "")
        batches.absorb(PickingResults(tmp_path / names))
    assert worker.close() == 0
    assert_same_picks(tmp_path / "threads1", tmp_path / "threads3")
    assert_same_picks(tmp_path / "threads1", tmp_path / "batches")


def test_a_seed_gives_the_same_model_in_every_process_and_nearly_the_same_with_other_threads(blobs, tmp_path):
    models = []
    for name, threads in (("first", 2), ("again", 2), ("other", 1)):
        subprocess.run([sys.executable, "-c", TRAINING, "--micrographs", str(blobs[0] / "micrographs"), "--coordinates",
                        str(blobs[0] / "boxes"), "--diameter", "64", "--epochs", "1", "--threads", str(threads),
                        "--seed", "5", "--output", str(tmp_path / name)], env=ENVIRON, check=True)
        models.append(load_model(tmp_path / name))
    first, again, other = models
    for name, value in first.networks[0].items():
        np.testing.assert_array_equal(again.networks[0][name], value)
    assert (again.threshold, again.std_range) == (first.threshold, first.std_range)
    micrograph = first.read_micrograph(blobs[0] / "micrographs" / "a.mrc")
    maps = [Picker(model).candidates(micrograph)[1] for model in (first, other)]
    assert np.ptp(maps[0]) > 0.1
    np.testing.assert_allclose(*maps, atol=SCORES_OF_TRAINING)
