# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the plugin runs the `deepem` program, and what passes between the two."""

import json
import os
import shlex
import subprocess
import sys
import venv

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pwem.objects import Micrograph
from pyworkflow import Config
from pyworkflow.utils.process import buildRunCommand

from deepem_scipion import Plugin, convert
from deepem_scipion.constants import DEEPEM_PYTHON
from deepem_scipion.deepem.coordinates import write_box
from deepem_scipion.deepem.micrographs import find_micrographs
from deepem_scipion.protocols.protocol_base import ProgramError


@pytest.fixture(autouse=True)
def domain():
    Config.getDomain().getProtocols()


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """Interpreter of an environment without any package."""
    folder = tmp_path_factory.mktemp("bare python")
    venv.create(folder, symlinks=True)
    return str(folder / "bin" / "python")


def use_python(monkeypatch, path):
    monkeypatch.setitem(Plugin._vars, DEEPEM_PYTHON, str(path))


def micrograph(number, name, path=None):
    mic = Micrograph(str(path or f"Runs/000002_Import/extra/{name}"))
    mic.setMicName(name)
    mic.setObjId(number)
    return mic


def pick_protocol(folder, monkeypatch, **params):
    from deepem_scipion.protocols import ProtDeepEMPick

    monkeypatch.chdir(folder)
    return ProtDeepEMPick(workingDir="run", **params)


class Executor:
    def __init__(self, gpus):
        self.gpus = gpus

    def getGpuList(self):
        return self.gpus


# ---- interpreter and environment ----

def test_the_own_interpreter_is_complete_and_keeps_its_environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    assert Plugin.validateInstallation() == []
    before = dict(os.environ)
    environ = Plugin.getEnviron(threads=3)
    assert dict(os.environ) == before
    assert environ["PYTHONPATH"] == "/some/where"
    assert environ["OMP_NUM_THREADS"] == "3"
    assert environ["TF_CPP_MIN_LOG_LEVEL"] == "2"


def test_another_name_of_the_own_interpreter_is_not_foreign(monkeypatch):
    assert not Plugin.isForeignPython()
    other = os.path.join(os.path.dirname(sys.executable), "python3")
    use_python(monkeypatch, other)
    assert not Plugin.isForeignPython()


def test_a_foreign_interpreter_finds_this_package_and_nothing_else_of_ours(monkeypatch, bare_python):
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    monkeypatch.setenv("PYTHONHOME", "/some/home")
    use_python(monkeypatch, bare_python)
    assert Plugin.isForeignPython()
    environ = Plugin.getEnviron()
    assert "PYTHONHOME" not in environ
    assert os.listdir(environ["PYTHONPATH"]) == ["deepem_scipion"]
    code = "import deepem_scipion.deepem.errors as e, importlib.util as u; print(e.__name__, u.find_spec('numpy'))"
    done = subprocess.run(f"{shlex.quote(Plugin.getPython())} -c {shlex.quote(code)}", shell=True, env=environ,
                          capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["deepem_scipion.deepem.errors", "None"]


def test_an_interpreter_without_tensorflow_is_reported_with_the_way_out(monkeypatch, bare_python):
    use_python(monkeypatch, bare_python)
    problem, = Plugin.validateInstallation()
    assert "tensorflow" in problem and bare_python in problem and "pip install" in problem


@pytest.mark.parametrize("path", ["/nowhere/python", "/tmp", "/etc/hostname"])
def test_an_interpreter_that_cannot_run_is_reported(monkeypatch, path):
    use_python(monkeypatch, path)
    problem, = Plugin.validateInstallation()
    assert path in problem and DEEPEM_PYTHON in problem


# ---- command line ----

HOSTILE = ["--output", "a b;$(x)`y`'\"%(GPU)s%d\\", "100%"]


@pytest.mark.parametrize("gpus", [[], [0], [0, 2]])
def test_arguments_reach_the_program_unchanged(tmp_path, monkeypatch, gpus):
    protocol = pick_protocol(tmp_path, monkeypatch, binThreads=3)
    protocol._stepsExecutor = Executor(gpus)
    use_python(monkeypatch, "/opt/my python 100%/bin/python")
    monkeypatch.setattr(Plugin, "isForeignPython", classmethod(lambda cls: False))
    calls = []
    monkeypatch.setattr(protocol, "runJob", lambda *args, **kwargs: calls.append((args, kwargs)))
    protocol.runDeepEM("pick", HOSTILE)
    (program, arguments), options = calls[0]
    words = shlex.split(buildRunCommand(program, arguments, 1, gpuList=gpus))
    expected = ["/opt/my python 100%/bin/python", "-m", "deepem_scipion.deepem", "pick", *HOSTILE, "--threads", "3"]
    if gpus:
        expected.insert(0, "CUDA_VISIBLE_DEVICES=" + ",".join(map(str, gpus)))
    else:
        assert options["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert words == expected


def test_an_error_of_the_program_is_told_in_its_own_words(tmp_path, monkeypatch):
    protocol = pick_protocol(tmp_path, monkeypatch, useGpu=False)
    log = tmp_path / "run" / "logs" / "run.stderr"
    log.parent.mkdir(parents=True)
    log.write_text("12:00:00 error: of an earlier attempt\n")

    def run(*args, **kwargs):
        with log.open("a") as file:
            file.write("12:00:09 error: the model is damaged\nbye\n" if "good" not in args[1] else "killed\n")
        raise subprocess.CalledProcessError(2, "deepem")

    monkeypatch.setattr(protocol, "runJob", run)
    with pytest.raises(ProgramError, match="pick ended with status 2: the model is damaged$") as caught:
        protocol.runDeepEM("pick", [])
    assert caught.value.status == 2
    with pytest.raises(ProgramError, match="see the log of the run$"):
        protocol.runDeepEM("pick", ["good"])


def test_no_gpu_is_reserved_unless_it_is_used(tmp_path, monkeypatch):
    assert pick_protocol(tmp_path, monkeypatch, useGpu=False).getGpuList() == []
    assert list(pick_protocol(tmp_path, monkeypatch, useGpu=True, gpuList="1").getGpuList()) == [1]


# ---- names and lists of micrographs ----

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)


@given(st.lists(NAMES, min_size=1, max_size=8))
def test_names_of_results_are_unique_and_stay_when_more_micrographs_arrive(names):
    mics = [micrograph(number, name, f"Runs/{name}") for number, name in enumerate(names, 1)]
    found = convert.result_names(mics)
    assert len(set(found.values())) == len(mics)
    assert not any(set(name) & set("\t\r\n/") for name in found.values())
    first = convert.result_names(mics[:1])
    assert first[1] == found[1]


def test_names_of_results_lose_their_last_extension_only():
    mics = [micrograph(1, "May08_03.05.02.mrc"), micrograph(2, "May08_03.05.02.tif"), micrograph(7, "plain.mrc")]
    assert list(convert.result_names(mics).values()) == ["May08_03.05.02", "May08_03.05.02_000002", "plain"]


def test_the_program_reads_the_list_that_the_plugin_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["plain.mrc", " led and trailed .mrc", "tab\tnew\nline.mrc", "#comment.mrc", "star*[a-b]?.mrc"]
    mics = []
    for number, name in enumerate(names, 1):
        (tmp_path / name).write_text(name)
        mics.append(micrograph(number, name, name))
    results = convert.result_names(mics)
    convert.write_micrograph_list("lists/batch.txt", mics, results)
    found = find_micrographs(["lists/batch.txt"])
    assert list(found) == list(results.values())
    assert [path.read_text() for path in found.values()] == names


# ---- results ----

def test_picks_are_rounded_and_stay_inside_a_micrograph_that_is_not_square(tmp_path):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((30, 50), np.float32))
    write_box(tmp_path / "a.box", np.array([(0, 0), (48.6, 29), (60, 40), (-4, 3)]), np.array([0.9, 0.8, 0.7, 0.6]), 7)
    items = convert.read_picks(str(tmp_path / "a.box"), micrograph(3, "a.mrc", path))
    positions = np.array([item.getPosition() for item in items])
    assert np.abs(positions - [(0, 0), (49, 29), (49, 29), (0, 3)]).max() <= 1
    assert positions.min() >= 0 and (positions <= (49, 29)).all()
    assert [item._deepemScore.get() for item in items] == [0.9, 0.8, 0.7, 0.6]
    assert items[0].getMicId() == 3 and items[0].getMicName() == "a.mrc"


def test_a_micrograph_without_picks_is_no_problem(tmp_path):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((30, 50), np.float32))
    write_box(tmp_path / "a.box", np.empty((0, 2)), np.empty(0), 7)
    assert convert.read_picks(str(tmp_path / "a.box"), micrograph(1, "a.mrc", path)) == []


def write_summary(folder, **entries):
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"threshold": 0.4, "micrographs": entries}))


def test_results_of_batches_are_joined(tmp_path):
    for number, name in enumerate("ab"):
        source = tmp_path / name
        failed = {"status": "failed", "reason": "damaged"}
        write_summary(source, **{name: {"status": "ok", "picks": 5}, f"bad{number}": failed})
        (source / "candidates").mkdir()
        for file in (f"{name}.box", f"candidates/{name}.tsv", "picks.star", "failed.tsv"):
            (source / file).write_text(file)
        convert.collect_results(str(source), str(tmp_path / "all"))
    files = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert files == {"a.box", "b.box", "candidates/a.tsv", "candidates/b.tsv", "summary.json"}
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert set(summary["micrographs"]) == {"a", "b", "bad0", "bad1"}
    assert (summary["picked"], summary["failed"], summary["picks"], summary["threshold"]) == (2, 2, 10, 0.4)


def check(protocol, folder, status, present=(), failed=()):
    """Let the protocol judge what the program left for the micrographs a and b."""
    folder.mkdir(exist_ok=True)
    for name in present:
        (folder / f"{name}.box").write_text("")
    convert.write_failed(str(folder / "failed.tsv"), dict.fromkeys(failed, "damaged"))
    error = ProgramError(f"status {status}", status) if status else None
    mics = {name: micrograph(number, f"{name}.mrc") for number, name in enumerate("ab", 1)}
    protocol._checkResults(mics, str(folder), error)
    return list(protocol._getFailed())


def test_failed_micrographs_are_noted_and_tolerated(tmp_path, monkeypatch):
    protocol = pick_protocol(tmp_path, monkeypatch)
    assert check(protocol, tmp_path / "1", 0, present="ab") == []
    assert check(protocol, tmp_path / "2", 1, present="a", failed="b") == ["b"]
    assert check(protocol, tmp_path / "3", 2, failed="ab") == ["a", "b"]
    assert "damaged" in protocol.summary()[-1]


@pytest.mark.parametrize("status, present, failed", [(0, "a", ""), (1, "a", ""), (2, "", ""), (2, "a", "b"),
                                                     (137, "a", "b")])
def test_a_program_that_gives_no_account_of_a_micrograph_stops_the_run(tmp_path, monkeypatch, status, present, failed):
    protocol = pick_protocol(tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="no result" if status == 0 else f"status {status}"):
        check(protocol, tmp_path / "out", status, present, failed)
