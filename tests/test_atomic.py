# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are written atomically, and a run repeated after an interruption has the results of an undisturbed one."""

import ast
import json
import os
import re
import shutil
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from pwem.objects import Micrograph

import deepem_scipion
from deepem_scipion import convert
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.regions import write_regions
from deepem_scipion.deepem.coordinates.star import Optics, write_star
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.evaluation.metrics import Curve
from deepem_scipion.deepem.micrographs.micrograph import Micrograph as Pixels
from deepem_scipion.deepem.model.files import load_model, save_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.picking.candidates import Candidates, write_candidates
from deepem_scipion.deepem.picking.picker import Picker
from deepem_scipion.deepem.picking.results import ALWAYS, FURTHER, PickingResults
from deepem_scipion.deepem.picking.run import pick_micrographs
from deepem_scipion.deepem.picking.selection import Limits
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.picking.table import read_table, write_failures, write_table
from deepem_scipion.deepem.report import plots as report
from deepem_scipion.deepem.training import fit as training
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS

SHAPE, PIXEL_ANGST, DIAMETER_PX = (100, 140), 4.0, 16
GEOMETRY = Geometry(16, (3, 2, 2), (2, 2, 2), (2, 3, 3))
MODEL = Model(GEOMETRY, ({name: np.random.default_rng(1).normal(size=shape).astype(np.float32)
                          for name, shape in GEOMETRY.weight_shapes().items()},), 8.0, 64.0, 4, (0.0, 9.0), 0.3)
TIMES = ("seconds", "finished", "micrographs_per_minute", "seconds_left")


class Killed(BaseException):
    """The end of the process: nothing catches it, and nothing more is written."""


class DiskFull(OSError):
    """A file system that fails once."""


def centres_of(number):
    """Six places (x, y) that differ from micrograph to micrograph."""
    return [(22 + 47 * column + 5 * ((number + row) % 3), 24 + 50 * row + 4 * ((number + column) % 3))
            for row in range(2) for column in range(3)]


def pixels_of(number):
    """Dark discs in noise computed from integers, which is the same on every machine."""
    rows, cols = np.indices(SHAPE, np.uint64)
    pixels = np.zeros(SHAPE)
    for term in range(4):
        mixed = (rows * 73856093) ^ (cols * 19349663) ^ np.uint64(83492791 * (4 * number + term + 1))
        mixed = (mixed ^ (mixed >> np.uint64(13))) * np.uint64(2654435761) % np.uint64(2**32)
        mixed = (mixed ^ (mixed >> np.uint64(16))) * np.uint64(2246822519) % np.uint64(2**32)
        pixels += mixed / 2.0**32
    for x, y in centres_of(number):
        pixels -= 1.2 * (np.hypot(cols - float(x), rows - float(y)) < DIAMETER_PX / 2)
    return pixels.astype(np.float32)


def write_micrograph(folder, number):
    path = folder / f"mic{number}.mrc"
    with mrcfile.new(path, pixels_of(number)) as file:
        file.voxel_size = PIXEL_ANGST
    return path


@contextmanager
def failing(error, number=0):
    """Let this number of files be completed, and no more, or, if the disk is full, all but the next one."""
    os_replace, lock, left = os.replace, threading.Lock(), number

    def replace_or_fail(source, target):
        nonlocal left
        with lock:
            left -= 1
            fails = left == -1 if error is DiskFull else left < 0
        if fails:
            raise error
        os_replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_or_fail)
        yield


def without_times(content):
    """JSON values without times."""
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if name not in TIMES}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def tree(folder):
    """Content of all files in a folder by name, without times."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".mrc":
            content = content[1024:]  # the header holds the time
        elif path.suffix == ".json":
            content = without_times(json.loads(content))
        elif path.name == "summary.tsv":
            content = {name: replace(result, seconds=None, finished=None)
                       for name, result in read_table(path).items()}
        found[str(path.relative_to(folder))] = content
    return found


def candidates():
    n = np.arange(4.0)
    return Candidates(np.stack([n, 2 * n], 1), n / 4, n, n), np.array(["picked"] * 4)


CURVE = Curve(*np.array([[0.9, 0.5], [1, 0.8], [0.4, 0.8], [2, 5], [2, 4]]))
RESULTS = {"a": MicrographResult("/a.mrc", "no such file", finished=1.0)}
SETTINGS = RunSettings(Limits(0.5, 32.0), 4, 4, 16, 8.0, 64.0)


WRITERS = {
    "boxes": lambda path: write_box(path, np.ones((3, 2)), np.ones(3), 8),
    "STAR file": lambda path: write_star(path, [("a.mrc", np.ones((3, 2)), np.ones(3))], 1.0),
    "candidates": lambda path: write_candidates(path, *candidates()),
    "table": lambda path: write_table(path, RESULTS),
    "regions": lambda path: write_regions(path, {"a": (0, 0, 5, 5)}),
    "failures": lambda path: write_failures(path, {"a": "no such file"}),
    "model": lambda path: save_model(path, MODEL),
    "picks drawn": lambda path: report.draw_picks(np.eye(20), np.ones((1, 2)), np.ones(1), 8.0, path),
    "curve drawn": lambda path: report.draw_curve(CURVE, path),
    "training drawn": lambda path: report.draw_training([{"loss": 1.0, "accuracy": 0.5}], path),
    "JSON of the plugin": lambda path: convert.write_json(path, {"a": list(range(10))}),
    "list of the plugin": lambda path: convert.write_micrograph_list(path, [LISTED], {1: "a"}),
    "model of the plugin": lambda path: convert.copy_model(__file__, path),
}
LISTED = Micrograph("a.mrc")
LISTED.setObjId(1)


@pytest.mark.parametrize("what", WRITERS)
def test_an_old_file_stays_until_the_new_one_is_complete(what, tmp_path):
    path = tmp_path / ("file.png" if "drawn" in what else "file")
    path.write_text("old")
    with failing(Killed), pytest.raises(Killed):
        WRITERS[what](path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == [path.name]
    WRITERS[what](path)
    assert path.read_bytes() != b"old" and os.listdir(tmp_path) == [path.name]


FILES = {
    "settings": lambda results: results.write_summary(SETTINGS, RESULTS),
    "failed": lambda results: results.write_failed(RESULTS),
    "star": lambda results: results.write_star([("a.mrc", np.ones((3, 2)), np.ones(3))], 1.0, Optics()),
    "box": lambda results: results.write_micrograph("a", *candidates(), 8),
    "candidates": lambda results: results.write_micrograph("a", *candidates(), 8),
    "score_map": lambda results: results.write_score_map("a", np.ones((3, 4), np.float32), 16.0),
    "json": lambda results: results.write_json("a", {"picks": []}),
    "picture": lambda results: results.write_picture(
        "a", Pixels(Path("a.mrc"), "a", pixels_of(0), 4.0, 1.0, SHAPE), np.ones((3, 2)), 9.0),
}


@pytest.mark.parametrize("kind", FILES)
def test_an_old_file_of_a_results_folder_stays_until_the_new_one_is_complete(kind, tmp_path):
    results = PickingResults(tmp_path)
    results.make(FURTHER)
    path = results.path(kind, "a" if kind in (*ALWAYS, *FURTHER) else "")
    path.write_text("old")
    with failing(Killed), pytest.raises(Killed):
        FILES[kind](results)
    assert path.read_text() == "old" and [each for each in tmp_path.rglob("*") if each.is_file()] == [path]
    FILES[kind](results)
    assert path.read_bytes() != b"old"


# Not written atomically, each for the reason given.
OTHERWISE = {
    "demo.py": "hosts.conf is written each time",
    "demonstration.py": "a mark says whether the simulated micrographs are complete",
    "dataset.py": "the same micrographs",
    "marks.py": "marks are added line by line, and a truncated line is not read",
    "program.py": "a log for people",
    "project.py": "a lock without content",
    "serving.py": "a page for the browser that is opened at once, in a new file",
    "table.py": "a table grows by lines, and a truncated line is not read",
}
WRITING = r"\.(write_text|write_bytes|tofile|savefig|save|savetxt|savez|savez_compressed)$|^mrcfile\.(new|write)$"


def writes(path):
    """Calls in a source file that write a file, apart from those to a path or handle of `atomic`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name, arguments = ast.unparse(node.func), [ast.unparse(argument) for argument in node.args]
        aside = arguments[:1] in (["aside"], ["handle"], ["file"], ["content"])
        opened = name == "open" and len(arguments) > 1 and re.search("[wax+]", arguments[1])
        if arguments and not aside and (opened or re.search(WRITING, name)):
            yield f"{name}({', '.join(arguments)})"


def test_every_file_that_a_step_reads_is_written_atomically():
    package = Path(deepem_scipion.__file__).parent
    found = {path.name: calls for path in package.rglob("*.py") if "tests" not in path.relative_to(package).parts
             and (calls := list(writes(path)))}
    assert set(found) == set(OTHERWISE), found


@pytest.fixture(scope="module")
def micrographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("micrographs")
    return {f"mic{number}": write_micrograph(folder, number) for number in range(4)}


@pytest.fixture(scope="module")
def picker():
    pytest.importorskip("tensorflow")
    return Picker(MODEL)


@pytest.mark.parametrize("error", [Killed, DiskFull])
def test_picking_after_an_interruption_gives_the_results_of_an_undisturbed_run(micrographs, picker, tmp_path, error):
    def run(folder):
        return pick_micrographs({name: micrographs[name] for name in ("mic0", "mic1")}, picker, folder,
                                further=["score_map"], existing="resume")

    run(tmp_path / "clean")
    clean = tree(tmp_path / "clean")
    assert len(clean) == 10 and len(clean["mic0.box"].splitlines()) > 2
    for number in range(len(clean)):
        folder = tmp_path / str(number)
        with failing(error, number), suppress(Killed, DeepEMError):
            run(folder)
        left = tree(folder)
        assert len(left) == number if error is Killed else len(left) >= len(clean) - 3
        # Of the settings and the micrographs done, from which the next run goes on, nothing is wrong.
        summary, end = left.pop("summary.json", {}), clean["summary.json"]
        assert not summary or summary["threshold"] == end["threshold"]
        for done, all_done in ((left.pop("summary.tsv", {}), clean["summary.tsv"]),
                               (summary.get("micrographs", {}), end["micrographs"])):
            assert error is DiskFull or done == {name: all_done[name] for name in done}
        whole = left if error is Killed else {name: left[name] for name in left if name.endswith((".box", ".mrc"))}
        assert whole == {name: clean[name] for name in whole}
        run(folder)
        assert tree(folder) == clean


@pytest.mark.slow
def test_training_after_an_interruption_gives_the_results_of_an_undisturbed_run(micrographs, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], updates_per_epoch=3))
    monkeypatch.setattr(training, "CONVERGENCE_LOSS", 9)  # this few updates do not converge
    boxes, clean, killed = (tmp_path / name for name in ("boxes", "clean", "killed"))
    for folder in (boxes, clean, killed):
        folder.mkdir()
    for number in (1, 2, 3):
        write_box(boxes / f"mic{number}.box", np.array(centres_of(number), float), np.full(6, np.nan), 24)

    def run(folder):
        return main(["train", "--micrographs", *(str(micrographs[f"mic{n}"]) for n in (1, 2, 3)), "--coordinates",
                     str(boxes), "--diameter", "64", "--epochs", "2", "--output", str(folder / "model")])

    def outcome(folder):
        model = load_model(folder / "model")
        return without_times(model.card()), {name: value.tolist() for name, value in model.networks[0].items()}, sorted(
            path.name for path in folder.iterdir())

    written, os_replace = [], os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda source, target: (written.append(target), os_replace(source, target)))
        assert run(clean) == 0
    with failing(Killed, len(written) - 1), pytest.raises(Killed):
        run(killed)
    assert outcome(clean)[2] != sorted(os.listdir(killed))
    assert run(killed) == 0
    assert outcome(killed) == outcome(clean)


def test_evaluation_after_an_interruption_gives_the_results_of_an_undisturbed_run(tmp_path):
    for name in ("truth", "picks"):
        (tmp_path / name).mkdir()
        write_box(tmp_path / name / "a.box", np.array([[20, 30], [40, 50.0]]), np.array([0.5, 0.9]), 8)

    def run(folder):
        folder.mkdir(exist_ok=True)
        return main(["evaluate", "--truth", str(tmp_path / "truth"), "--picks", str(tmp_path / "picks"), "--distance",
                     "4", "--json", str(folder / "a.json"), "--plot", str(folder / "a.png")])

    assert run(tmp_path / "clean") == 0
    for number in (0, 1):
        with failing(Killed, number), pytest.raises(Killed):
            run(tmp_path / str(number))
        assert len(tree(tmp_path / str(number))) == number
        assert run(tmp_path / str(number)) == 0
        assert tree(tmp_path / str(number)) == tree(tmp_path / "clean")


def test_a_batch_that_is_collected_twice_gives_the_results_of_an_undisturbed_run(micrographs, picker, tmp_path):
    batches = {name: tmp_path / name for name in ("first", "second")}
    for folder, mics in zip(batches.values(), (("mic0", "mic1"), ("mic2",))):
        pick_micrographs({mic: micrographs[mic] for mic in mics}, picker, folder, further=["score_map"])

    def absorb(target, name):
        shutil.copytree(batches[name], tmp_path / "attempt", dirs_exist_ok=True)  # as if picked again
        PickingResults(target).absorb(PickingResults(tmp_path / "attempt"))
        shutil.rmtree(tmp_path / "attempt")

    def run(target):
        for name in batches:
            absorb(target, name)
        PickingResults(target).refresh()

    run(tmp_path / "clean")
    clean = tree(tmp_path / "clean")
    assert len(clean) == 11 and len(clean["summary.tsv"]) == 3
    for number in range(12):
        target = tmp_path / f"killed-{number}"
        with failing(Killed, number), pytest.raises(Killed):
            run(target)
        assert not {name for name in tree(target) if name not in clean}
        run(target)
        assert tree(target) == clean
