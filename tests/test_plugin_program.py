# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin runs the `deepem` program, and exchanges files with it."""

import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_protocols import micrograph, pick_form, pick_protocol, train_protocol, use_python, write_results
from pyworkflow import Config
from pyworkflow.protocol import Protocol
from pyworkflow.utils.process import buildRunCommand

from deepem_scipion import Plugin, convert, program
from deepem_scipion.constants import DEEPEM_PYTHON
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.micrographs.find import find_micrographs
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.program import ProgramError, WorkerDied
from deepem_scipion.protocols import protocol_base


@pytest.fixture(autouse=True)
def domain():
    Config.getDomain().getProtocols()


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


def test_an_interpreter_without_the_packages_is_reported_with_the_way_out(monkeypatch, bare_python):
    use_python(monkeypatch, bare_python)
    problem, = Plugin.validateInstallation()
    assert "llvmlite" in problem and bare_python in problem and "pip install" in problem


@pytest.mark.parametrize("path", ["/nowhere/python", "/tmp", "/etc/hostname"])
def test_an_interpreter_that_cannot_run_is_reported(monkeypatch, path):
    use_python(monkeypatch, path)
    problem, = Plugin.validateInstallation()
    assert path in problem and DEEPEM_PYTHON in problem


# ---- command line ----

HOSTILE = ["--output", "a b;$(x)`y`'\"%(GPU)s%d\\", "100%"]


@pytest.mark.parametrize("gpus", [[], [0], [0, 2]])
def test_arguments_reach_the_program_unchanged(tmp_path, monkeypatch, gpus):
    protocol = train_protocol(tmp_path, monkeypatch, numberOfThreads=3, useGpu=True)
    protocol._stepsExecutor = Executor(gpus)
    monkeypatch.setattr(protocol_base, "GPU_DEVICES", (os.devnull,))
    use_python(monkeypatch, "/opt/my python 100%/bin/python")
    monkeypatch.setattr(Plugin, "isForeignPython", classmethod(lambda cls: False))
    calls = []
    monkeypatch.setattr(protocol, "runJob", lambda *args, **kwargs: calls.append((args, kwargs)))
    protocol.runDeepEM("train", HOSTILE)
    (executable, arguments), options = calls[0]
    words = shlex.split(buildRunCommand(executable, arguments, 1, gpuList=gpus))
    expected = ["/opt/my python 100%/bin/python", "-m", "deepem_scipion.deepem", "train", *HOSTILE, "--threads", "3"]
    if gpus:
        expected.insert(0, "CUDA_VISIBLE_DEVICES=" + ",".join(map(str, gpus)))
    else:
        assert options["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert words == expected


def test_a_short_command_returns_its_output_or_its_error(tmp_path, monkeypatch):
    assert program.run("--help").output.startswith("usage: deepem")
    missing = program.run("report", str(tmp_path))
    assert missing.status == 2 and "expected the results of `deepem pick`" in missing.error
    use_python(monkeypatch, tmp_path / "python")
    assert program.run("--help") == (127, "", f"[Errno 2] No such file or directory: '{tmp_path / 'python'}'")


def test_a_card_that_cannot_be_read_is_refused_with_the_words_of_the_program(tmp_path):
    path = tmp_path / "model.deepem"
    path.write_text("a,b\n")
    with pytest.raises(RuntimeError, match="cannot be read as a DeepEM model: .*not a DeepEM model, or damaged"):
        convert.read_card(str(path))


def test_an_error_of_the_program_is_reported_in_its_own_words(tmp_path, monkeypatch):
    protocol = pick_protocol(tmp_path, monkeypatch)
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


@pytest.mark.parametrize("devices, use, queue, expected", [
    ((os.devnull,), False, False, []), ((os.devnull,), True, False, [1]), (("/nowhere/gpu[0-9]*",), True, False, []),
    (("/nowhere/gpu[0-9]*",), True, True, [1]), (("/nowhere/gpu[0-9]*",), False, True, [])])
def test_no_gpu_is_reserved_unless_it_is_used_and_there(tmp_path, monkeypatch, devices, use, queue, expected):
    monkeypatch.setattr(protocol_base, "GPU_DEVICES", devices)
    protocol = train_protocol(tmp_path, monkeypatch, useGpu=use, gpuList="1")
    protocol._useQueue.set(queue)
    assert list(protocol.getGpuList()) == expected
    assert not pick_protocol(tmp_path, monkeypatch).getGpuList()


class Workers:
    """Makes workers that give the answers listed; those that are a status end instead."""

    def __init__(self, *answers):
        self.answers, self.made, self.closed, self.asked = list(answers), [], 0, []

    def __call__(self, command, environ, log):
        self.made.append((command, environ["CUDA_VISIBLE_DEVICES"]))
        return SimpleNamespace(pid=len(self.made), pick=self.pick, close=self.close)

    def pick(self, arguments):
        self.asked.append(arguments)
        if isinstance(answer := self.answers.pop(0), int):
            raise WorkerDied(answer)
        return answer

    def close(self):
        self.closed += 1


def picking(folder, monkeypatch, *answers):
    """A protocol whose workers give the answers listed, and these workers."""
    workers = Workers(*answers)
    monkeypatch.setattr(protocol_base, "Worker", workers)
    return pick_protocol(folder, monkeypatch, binThreads=3), workers


def test_one_worker_picks_one_batch_after_the_other_and_sees_no_gpu(tmp_path, monkeypatch):
    protocol, workers = picking(tmp_path, monkeypatch, (0, ""), (0, ""))
    for number in (1, 2):
        protocol.runPick(HOSTILE, f"batch{number}")
    command = [Plugin.getPython(), "-m", "deepem_scipion.deepem", "worker", "--threads", "3"]
    assert workers.made == [(command, "")]
    assert workers.asked == [["--output", f"batch{number}", *HOSTILE] for number in (1, 2)]
    monkeypatch.setattr(Protocol, "run", lambda self: None)
    protocol.run()
    assert workers.closed == 1


def test_a_batch_whose_worker_died_is_tried_once_more_in_an_empty_folder(tmp_path, monkeypatch):
    protocol, workers = picking(tmp_path, monkeypatch, (0, ""), -9, (0, ""), 1, 1)
    protocol.runPick([], "first")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "half").touch()
    protocol.runPick([], "second")
    assert len(workers.made) == 2 and not (tmp_path / "second").exists()
    with pytest.raises(ProgramError, match="pick ended with status 1: see the log of the run$"):
        protocol.runPick([], "third")
    assert len(workers.made) == 3 and not workers.answers


@pytest.mark.parametrize("status", [-9, 137])
def test_a_micrograph_during_which_the_program_is_killed_fails_alone(tmp_path, monkeypatch, status):
    protocol, workers = picking(tmp_path, monkeypatch, *4 * [status])
    mics, picked, run = [micrograph(number, name) for number, name in enumerate("abc", 1)], [], protocol.runPick

    def together(some, arguments):
        picked.append([mic.getMicName() for mic in some])
        if mics[1] in some:
            run(arguments, "batch")

    monkeypatch.setattr(protocol, "_pickTogether", together)
    monkeypatch.setattr(protocol, "_getNames", lambda: {1: "a", 2: "b", 3: "c"})
    protocol._pickMicrographList(mics, [])
    assert picked == [["a", "b", "c"], ["a"], ["b"], ["c"]] and not workers.answers
    assert list(protocol._getFailed()) == ["b"]
    assert f"the worker ended with status {status} whenever it picked this micrograph" in protocol._getFailed()["b"]


def test_where_the_program_is_killed_whatever_it_picks_the_run_ends_and_no_micrograph_fails(tmp_path, monkeypatch):
    protocol, workers = picking(tmp_path, monkeypatch, *6 * [-9])
    monkeypatch.setattr(protocol, "_pickTogether", lambda some, arguments: protocol.runPick(arguments, "batch"))
    with pytest.raises(ProgramError, match="status -9 whichever of 2 micrographs it picked: is there too little mem"):
        protocol._pickMicrographList([micrograph(number, name) for number, name in enumerate("ab", 1)], [])
    assert not workers.answers and not protocol._getFailed()


def test_a_worker_that_met_an_error_is_not_used_again(tmp_path, monkeypatch):
    protocol, workers = picking(tmp_path, monkeypatch, (2, "the model is damaged"), (0, ""))
    with pytest.raises(ProgramError, match="pick ended with status 2: the model is damaged$") as caught:
        protocol.runPick([], "batch")
    assert caught.value.status == 2 and workers.closed == 1
    protocol.runPick([], "batch")
    assert len(workers.made) == 2


def test_each_batch_is_a_command_of_its_own_where_each_command_is_a_job(tmp_path, monkeypatch):
    protocol, workers = picking(tmp_path, monkeypatch)
    commands = []
    monkeypatch.setattr(protocol, "useQueueForSteps", lambda: True)
    monkeypatch.setattr(protocol, "runDeepEM", lambda *words: commands.append(words))
    protocol.runPick(["--box", "7"], "batch")
    assert commands == [("pick", ["--output", "batch", "--box", "7"])] and not workers.made


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
    names = ["plain.mrc", " led and trailed .mrc", "tab\tnew\nline.mrc", "other\x0b\x85\u2028lines\x7f.mrc",
             "#comment.mrc", "star*[a-b]?.mrc"]
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


def test_picks_of_a_micrograph_that_was_moved_away_meanwhile_are_kept(tmp_path):
    write_box(tmp_path / "a.box", np.array([(5, 6), (700, 3)]), np.array([0.9, 0.8]), 8)
    items = convert.read_picks(str(tmp_path / "a.box"), micrograph(1, "a.mrc", tmp_path / "a.mrc"))
    assert [item.getPosition() for item in items] == [(5, 6), (700, 3)]


def test_a_micrograph_without_picks_is_no_problem(tmp_path):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((30, 50), np.float32))
    write_box(tmp_path / "a.box", np.empty((0, 2)), np.empty(0), 7)
    assert convert.read_picks(str(tmp_path / "a.box"), micrograph(1, "a.mrc", path)) == []


def test_progress_and_outliers_are_reported_while_micrographs_are_picked(tmp_path, monkeypatch):
    protocol = pick_form(tmp_path, monkeypatch)
    assert "Micrographs" not in "\n".join(protocol.summary())
    rejected = {"border": 0, "mask": 0, "local_std": 0, "threshold": 90, "distance": 10, "rank": 0}
    micrographs = {f"mic{n}": MicrographResult("m", "", 200, 100, 0.8, rejected, finished=10.0 * n) for n in range(12)}
    micrographs["empty"] = MicrographResult("m", "", 200, 0, None, rejected, finished=0.0, evidence=0.0,
                                            negative_evidence=90.0)
    micrographs["bad"] = MicrographResult("m", "damaged")
    protocol.getResults().absorb(write_results(tmp_path / "batch", **micrographs))
    summary = "\n".join(protocol.summary())
    for words in ("Micrographs: 13 of 1 done, 92.3 picks each, mean score 0.80, 6.5 per minute",
                  "Candidates not picked: 45.0 % below the threshold, 5.0 % too close to a better pick",
                  "*1 micrographs are outliers:* empty: few picks (0, median 100)",
                  "*Warning:* the contrast seems to be inverted: the model was trained on dark particles"):
        assert words in summary


def check(protocol, folder, status, present=(), failed=()):
    """Let the protocol check the results of the program for the micrographs a and b."""
    results = PickingResults(folder)
    results.make()
    for name in present:
        results.path("box", name).touch()
    results.write_failed({name: MicrographResult("m", "damaged") for name in failed})
    error = ProgramError("pick", status, "") if status else None
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
def test_a_program_without_a_result_for_a_micrograph_stops_the_run(tmp_path, monkeypatch, status, present, failed):
    protocol = pick_protocol(tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="no result" if status == 0 else f"status {status}"):
        check(protocol, tmp_path / "out", status, present, failed)
