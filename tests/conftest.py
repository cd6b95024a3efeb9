# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of all tests of the method."""

import fcntl
import logging
import os
import resource
import shutil
import venv
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.picking.candidates import Candidates
from deepem_scipion.deepem.studio.queue import Queue
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS

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


def candidates_of_blobs(path):
    """Candidates of a micrograph of `write_blobs`: its blobs with high scores, and others with low ones."""
    (blobs,) = read_coordinates(path.parent.parent / "boxes" / f"{path.stem}.box").values()
    rng = np.random.default_rng(len(path.stem))
    others = rng.uniform(10, 140, (12, 2)).round(2)
    n = len(blobs.centres_xy)
    scores = np.concatenate([rng.uniform(0.6, 0.9, n), rng.uniform(0.01, 0.2, len(others))])
    centres = np.concatenate([blobs.centres_xy, others])
    return Candidates(centres, scores, rng.uniform(0.8, 1.2, len(scores)), centres.min(axis=1))  # upper, left border


def show_stored(session):
    """Show the candidates that are stored, as the studio does at its start, but in this process."""
    Queue(session, SimpleNamespace(call=lambda function, *values: function(None, *values)))._load()


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


@contextmanager
def memory(more):
    """Limit the memory of this process to `more` bytes above the current use."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def nobody():
    """Lose the rights of the superuser, who may read and write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """Folder with micrographs/ and boxes/ of five micrographs a.mrc ... e.mrc, and their centres."""
    folder = tmp_path_factory.mktemp("blobs")
    return folder, write_blobs(folder, "abcde")


@pytest.fixture(scope="session")
def blob_model(blobs, tmp_path_factory):
    """Model file trained on a, b and c by the command line; once for all processes that share the tests."""
    from deepem_scipion.deepem.commands.main import main

    folder, _ = blobs
    base = tmp_path_factory.getbasetemp()
    trained = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    trained.mkdir(exist_ok=True)
    with open(trained / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (trained / "blobs.deepem").exists():
            micrographs = [str(folder / "micrographs" / f"{name}.mrc") for name in "abc"]
            assert main(["train", "--micrographs", *micrographs, "--coordinates", str(folder / "boxes"), "--diameter",
                         "64", "--output", str(trained / "blobs.deepem"), "--epochs", "4"]) == 0
    for path in trained.glob("blobs.deepem*"):
        shutil.copy(path, folder)
    return folder / "blobs.deepem"


@pytest.fixture
def few_updates(monkeypatch):
    """Trainings of a moment, for tests in which it does not matter what is learnt."""
    from deepem_scipion.deepem.training import fit
    from deepem_scipion.deepem.training.presets import TRAINING_PRESETS

    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], updates_per_epoch=5))
    monkeypatch.setattr(fit, "CONVERGENCE_LOSS", 9)  # a loss above it would start the training again


@pytest.fixture
def train(blobs, few_updates, tmp_path, capsys, monkeypatch):
    """Trains, for a moment only, on a and b with some coordinates; returns exit code and its output."""
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], updates_per_epoch=3, crop=2))

    def run(coordinates, *more):
        folder = tmp_path / "coordinates"
        folder.mkdir(exist_ok=True)
        for name, places in coordinates.items():
            write_box(folder / f"{name}.box", np.reshape(places, (-1, 2)), np.full(len(places), np.nan), 24)
        micrographs = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in "ab"]
        code = main(["train", "--micrographs", *micrographs, "--coordinates", str(folder), "--diameter", "64",
                     "--output", str(tmp_path / "m"), "--epochs", "1", *more])
        output = capsys.readouterr().err
        assert "internal error" not in output and (tmp_path / "m").exists() == (code == 0)
        return code, output

    return run


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """Interpreter of an environment without any package."""
    folder = tmp_path_factory.mktemp("bare python")
    venv.create(folder, symlinks=True)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def browser():
    """A browser that reaches nothing but this machine."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium in the search path; on Debian: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=[
            "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        yield found
        found.close()
