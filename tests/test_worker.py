# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem worker`: the same picks as those of `deepem pick`, batch after batch, and an end together with the caller."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from deepem_scipion.program import Worker, WorkerDied

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, "-m", "deepem_scipion.deepem", "worker"]
ENVIRON = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("worker") / "log"


@pytest.fixture(scope="module")
def worker(log):
    pytest.importorskip("tensorflow")
    with log.open("w") as file:
        worker = Worker(PROGRAM, ENVIRON, file)
    yield worker
    worker.close()


def files(folder):
    """Content of the files in a folder by name, and the figures of the summary, both without times."""
    found = {str(path.relative_to(folder)): path.read_bytes()[1024 * (path.suffix == ".mrc"):]  # headers hold the time
             for path in folder.rglob("*") if path.is_file() and path.stem != "summary"}
    summary = json.loads((folder / "summary.json").read_text())
    return found, {name: [entry[key] for key in ("status", "picks", "candidates", "mean_score", "rejected")]
                   for name, entry in summary["micrographs"].items()}


def test_batch_after_batch_is_picked_as_by_the_program(worker, log, blobs, blob_model, tmp_path):
    model = tmp_path / "model.deepem"
    shutil.copy(blob_model, model)

    def arguments(names, output, threshold):
        return ["--micrographs", *[str(blobs[0] / "micrographs" / f"{name}.mrc") for name in names], "--model",
                str(model), "--threshold", threshold, "--score-maps", "--overwrite", "--output",
                str(tmp_path / output)]

    for names, threshold, more in (("abc", "auto", []), ("de", "0.1", ["--debug"]), ("abc", "auto", ["--quiet"])):
        assert worker.pick([*arguments(names, "warm", threshold), *more]) == (0, "")
        # In a process of its own, too: this one may have been started with another number of threads.
        subprocess.run([*PROGRAM[:-1], "pick", *arguments(names, "cold", threshold)], env=ENVIRON, check=True)
        found = files(tmp_path / "warm")
        assert all(entry[1] > 0 for entry in found[1].values()) and len(found[0]) > 3 * len(names)
        assert found == files(tmp_path / "cold")
    assert re.search(r"device: CPU, \d+ threads?", log.read_text().splitlines()[0])

    model.write_bytes(b"another one")
    status, message = worker.pick(arguments("a", "warm", "auto"))
    assert status == 2 and str(model) in message


@pytest.mark.parametrize("arguments, words", [
    (["--no-such-option"], "--no-such-option"), (["--threads", "2"], "--threads is an option of `deepem worker`")])
def test_a_request_that_cannot_be_met_is_answered_and_the_next_one_is_heard(worker, blobs, tmp_path, arguments, words):
    status, message = worker.pick(["--micrographs", str(blobs[0]), "--model", "none", "--output", str(tmp_path),
                                   *arguments])
    assert status == 2 and words in message


def test_the_worker_ends_during_a_batch_when_its_caller_is_gone(blobs, blob_model, tmp_path):
    pytest.importorskip("tensorflow")
    waiting = tmp_path / "waiting.mrc"
    os.mkfifo(waiting)  # whoever reads it waits
    listed = tmp_path / "list.txt"
    listed.write_text(f"{blobs[0] / 'micrographs' / 'a.mrc'}\n{waiting}\n")
    request = ["--micrographs", str(listed), "--model", str(blob_model), "--output", str(tmp_path)]
    process = subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    while not (tmp_path / "a.box").exists():
        assert process.poll() is None
        time.sleep(0.01)
    answer, _ = process.communicate(timeout=600)
    assert answer == b"" and process.returncode == 0
    assert not (tmp_path / "picks.star").exists()


def test_a_worker_that_dies_says_with_which_status(tmp_path):
    for command, status in (("import os; os.kill(os.getpid(), 9)", -9), ("raise SystemExit(2)", 2)):
        with pytest.raises(WorkerDied) as caught:
            Worker([sys.executable, "-c", command], os.environ).pick(["--box", "7"])
        assert caught.value.status == status


def test_a_request_that_is_no_list_of_words_ends_the_worker_with_the_reason():
    pytest.importorskip("tensorflow")
    with subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(b'{"box": 7}\n')
        process.stdin.flush()
        assert process.wait(timeout=600) == 2
        assert b'error: the request {"box": 7}: expected the arguments' in process.stderr.read()
        assert process.stdout.read() == b""
