# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of all tests of the method."""

import logging
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from deepem_scipion.deepem.coordinates.box import write_box

# Speed belongs in benchmarks; a run of the tests must depend neither on chance nor on how busy the machine is.
settings.register_profile("project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _levels_of_logging():
    """What one test sets, as the program does with --quiet, is not there for the next."""
    yield
    for name in ("deepem", "deepem_scipion"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real annotated micrographs; tests that need it are skipped where it is absent."""
    shared = Path(os.environ.get("DEEPEM_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no shared data at {shared}; set DEEPEM_SHARED to the folder that holds data/")
    return shared / "data"


def write_blobs(folder, names, seed=0, shape=(150, 210), n=14, pixel_size=4.0):
    """Write small micrographs of dark blobs, 16 px wide, in noise, and their centres as .box files.

    Returns name -> (n, 2) x, y. The shape is not square, so that an exchange of axes shows.
    """
    rng = np.random.default_rng(seed)
    (folder / "micrographs").mkdir(parents=True, exist_ok=True)
    (folder / "boxes").mkdir(exist_ok=True)
    y, x = np.indices(shape)
    centres = {}
    for name in names:
        places = []
        while len(places) < n:
            place = rng.uniform([14, 14], [shape[1] - 15, shape[0] - 15])
            if all(np.hypot(*(place - other)) > 22 for other in places):
                places.append(place)
        image = rng.normal(100, 4, shape)
        for px, py in places:
            image -= 12 / (1 + np.exp(np.hypot(x - px, y - py) - 7))
        with mrcfile.new(folder / "micrographs" / f"{name}.mrc", image.astype(np.float32)) as file:
            file.voxel_size = pixel_size
        centres[name] = np.array(places)
        write_box(folder / "boxes" / f"{name}.box", centres[name], np.full(n, np.nan), 24)
    return centres


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """Folder with micrographs/ and boxes/ of five micrographs a.mrc ... e.mrc, and their centres."""
    folder = tmp_path_factory.mktemp("blobs")
    return folder, write_blobs(folder, "abcde")


@pytest.fixture(scope="session")
def blob_model(blobs):
    """Model file trained on a, b and c by the command line."""
    from deepem_scipion.deepem.commands.main import main

    folder, _ = blobs
    micrographs = [str(folder / "micrographs" / f"{name}.mrc") for name in "abc"]
    model = folder / "blobs.deepem"
    assert main(["train", "--micrographs", *micrographs, "--coordinates", str(folder / "boxes"), "--diameter", "64",
                 "--output", str(model), "--epochs", "4"]) == 0
    return model
