# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking of several micrographs at a time."""

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem import runtime
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.picking import run
from deepem_scipion.deepem.picking.earlier import EXISTING
from deepem_scipion.deepem.picking.picker import Picker
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.run import micrographs_at_a_time, pick_micrographs


@pytest.fixture
def picker(blob_model):
    return Picker(load_model(blob_model))


@pytest.fixture
def paths(blobs, tmp_path):
    """Five micrographs, not in the order of their names, and among them three that cannot be read."""
    found = {name: blobs[0] / "micrographs" / f"{name}.mrc" for name in "ebdac"}
    (tmp_path / "short.mrc").write_bytes(found["d"].read_bytes()[:3000])
    (tmp_path / "text.mrc").write_text("no micrograph\n")
    broken = {"short": tmp_path / "short.mrc", "absent": tmp_path / "absent.mrc", "text": tmp_path / "text.mrc"}
    return {name: {**found, **broken}[name] for name in ("short", "e", "b", "absent", "d", "a", "text", "c")}


def pick(monkeypatch, n, paths, picker, output, **more):
    """Pick n micrographs at a time."""
    monkeypatch.setattr(run, "micrographs_at_a_time", lambda: n)
    return pick_micrographs(paths, picker, output, further=["score_map"], **more)


def reasons(found):
    """Name of each micrograph that failed -> reason."""
    return {name: result.reason for name, result in found.items() if not result.ok}


def everything(folder):
    """Path -> content of the file, without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if path.name == "summary.json":
            content = re.sub(rb'"(seconds|finished|micrographs_per_minute)": [\d.]+', b"", content)
        elif path.name == "summary.tsv":
            results = PickingResults(folder).read_micrographs()
            content = repr([replace(result, seconds=0, finished=0) for result in results.values()]).encode()
        elif path.suffix == ".mrc":
            content = content[:224] + content[1024:]  # without the labels of the header
        found[str(path.relative_to(folder))] = content
    return found


def test_results_do_not_depend_on_how_many_micrographs_are_picked_at_a_time(paths, picker, monkeypatch, tmp_path):
    found = {n: pick(monkeypatch, n, paths, picker, tmp_path / str(n)) for n in (1, 3)}
    one, three = everything(tmp_path / "1"), everything(tmp_path / "3")
    assert {"a.box", "candidates/a.tsv", "scores/a.mrc", "picks.star", "failed.tsv", "summary.json",
            "summary.tsv"} <= set(one)
    assert b'"seconds"' not in one["summary.json"]
    assert one == three
    assert reasons(found[1]) == reasons(found[3])
    assert list(reasons(found[3])) == ["short", "absent", "text"]


def test_summary_star_file_and_progress_have_the_order_of_the_input(paths, picker, monkeypatch, tmp_path):
    """The first one takes longest: it waits for two others."""
    others, written = threading.Semaphore(0), PickingResults.write_micrograph

    def write(results, name, *more):
        if name == "e":
            assert others.acquire(timeout=600) and others.acquire(timeout=600)
        written(results, name, *more)
        others.release()

    monkeypatch.setattr(PickingResults, "write_micrograph", write)
    reported = []
    pick(monkeypatch, 3, paths, picker, tmp_path / "out", progress=lambda *result: reported.append(result))
    order = list(paths)
    assert [name for name, _ in reported] == order
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["picked"] == 5 and summary["failed"] == 3
    assert list(summary["micrographs"]) == order
    assert [result.as_dict() for _, result in reported] == list(summary["micrographs"].values())
    failed = (tmp_path / "out" / "failed.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in failed] == ["short", "absent", "text"]
    picks = read_coordinates(tmp_path / "out" / "picks.star")
    assert [os.path.basename(name) for name in picks] == ["e", "b", "d", "a", "c"]


def test_micrographs_are_processed_in_parallel(blobs, picker, monkeypatch, tmp_path):
    together, read = threading.Barrier(3), Model.read_micrograph

    def meet(*arguments):
        together.wait(600)  # broken, and so an error, unless three come
        return read(*arguments)

    monkeypatch.setattr(Model, "read_micrograph", meet)
    paths = {str(n): blobs[0] / "micrographs" / "a.mrc" for n in range(6)}
    assert not reasons(pick(monkeypatch, 3, paths, picker, tmp_path))


def test_scores_do_not_depend_on_the_sizes_of_micrographs_picked_at_the_same_time(blobs, picker, monkeypatch, tmp_path):
    pixels = mrcfile.read(blobs[0] / "micrographs" / "d.mrc")
    paths = {}
    for number in range(6):
        paths[str(number)] = tmp_path / f"{number}.mrc"
        with mrcfile.new(paths[str(number)], np.rot90(pixels[number * 10:, number * 7:], number).copy()) as file:
            file.voxel_size = 4.0
    pick(monkeypatch, 3, paths, picker, tmp_path / "all")
    for name, path in paths.items():
        pick(monkeypatch, 1, {name: path}, Picker(picker.model), tmp_path / name)
        alone, among = (mrcfile.read(folder / "scores" / f"{name}.mrc") for folder in (tmp_path / name,
                                                                                      tmp_path / "all"))
        np.testing.assert_array_equal(among, alone)


@pytest.mark.parametrize("threads, micrographs", [(1, 1), (2, 2), (3, 2), (4, 3), (16, 8), (1000, 8)])
def test_micrographs_at_a_time_follow_the_threads_up_to_a_limit(monkeypatch, threads, micrographs):
    monkeypatch.setattr(runtime.state, "threads", threads)
    assert micrographs_at_a_time() == micrographs


def test_program_prints_only_its_own_lines(blobs, blob_model, tmp_path):
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
    environ.pop("TF_CPP_MIN_LOG_LEVEL", None)  # TensorFlow sets it when it is imported, as it is in this process
    done = subprocess.run([sys.executable, "-m", "deepem_scipion.deepem", "pick", "--model", str(blob_model),
                           "--micrographs", str(blobs[0] / "micrographs"), "--output", str(tmp_path), "--threads", "8"],
                          env=environ, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d device: CPU, 8 threads", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d pixels of 4 A; particle diameter 64 A = 16 px; boxes of 24 px", lines[1])
    for number, (line, name) in enumerate(zip(lines[2:], "abcde"), 1):
        assert re.fullmatch(rf"\d\d:\d\d:\d\d {number}/5 {name}: \d+ picks in [\d.]+ s", line)
    assert len(lines) == 7 and len(done.stdout.splitlines()) == 1


def test_what_is_finished_when_a_run_is_interrupted_is_listed(blobs, picker, monkeypatch, tmp_path):
    paths = {name: blobs[0] / "micrographs" / f"{name}.mrc" for name in "abcde"}
    written = threading.Semaphore(0)
    write = PickingResults.write_micrograph

    def count(*arguments):
        write(*arguments)
        written.release()

    def interrupt(name, result):
        assert all(written.acquire(timeout=600) for _ in range(3))  # the first and two that were not waited for yet
        raise KeyboardInterrupt

    monkeypatch.setattr(PickingResults, "write_micrograph", count)
    with pytest.raises(KeyboardInterrupt):
        pick(monkeypatch, 2, paths, picker, tmp_path, progress=interrupt)
    boxes = {path.stem for path in tmp_path.glob("*.box")}
    assert len(boxes) >= 3
    listed = json.loads((tmp_path / "summary.json").read_text())
    assert set(listed["micrographs"]) == boxes and listed["failed"] == 0
    assert {os.path.basename(name) for name in read_coordinates(tmp_path / "picks.star")} == boxes


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks of folders")
@pytest.mark.parametrize("existing", EXISTING)
def test_a_run_in_a_folder_in_which_another_is_at_work_is_refused(blobs, picker, tmp_path, existing):
    paths = {name: blobs[0] / "micrographs" / f"{name}.mrc" for name in "ab"}
    one, other = ({name: paths[name]} for name in "ab")
    refused = []

    def start_another(name, result):
        with pytest.raises(DeepEMError, match="another run is writing its results there"):
            pick_micrographs(other, picker, tmp_path, existing=existing)
        refused.append(name)

    pick_micrographs(one, picker, tmp_path, progress=start_another)
    assert refused == ["a"] and set(PickingResults(tmp_path).read_micrographs()) == {"a"}
    assert set(pick_micrographs(paths, picker, tmp_path, existing="resume")) == set("ab")  # it has ended


def test_few_micrographs_are_begun_before_earlier_ones_are_done(monkeypatch, paths, picker, tmp_path):
    begun, done, ahead = [], [], []
    begin = run._Run.pick

    def counted(self, name, path):
        begun.append(name)
        return begin(self, name, path)

    def progress(name, result):
        done.append(name)
        ahead.append(len(begun) - len(done))

    monkeypatch.setattr(run._Run, "pick", counted)
    many = {f"{name}-{number}": path for number in range(3) for name, path in paths.items()}
    pick(monkeypatch, 1, many, picker, tmp_path / "few", progress=progress)
    assert done == begun == list(many) and max(ahead) <= 2
    assert set(read_coordinates(tmp_path / "few" / "picks.star"))
