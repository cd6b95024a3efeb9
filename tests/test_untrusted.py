# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files from elsewhere run no code, read no other files and take no memory beyond their size; nothing is sent anywhere.
"""

import ast
import json
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tifffile
from safetensors.numpy import save

import deepem_scipion
from deepem_scipion.deepem.atomic import atomic_path, atomic_write
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.images import read_pixels
from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.deepem.training.checkpoint import Checkpoint
from deepem_scipion.tests.no_network import guard

GEOMETRY = Geometry(28, (5, 3, 2), (2, 2, 2))
CARD = {"format": 1, "networks": 1, "geometry": GEOMETRY.as_dict(), "working_pixel_size_angst": 4.5,
        "diameter_angst": 120.0, "scan_step": 4, "std_range": [0.5, 1.5], "threshold": 0.75}
HEADER = '{"conv1.kernel": {"dtype": "F32", "shape": [%s], "data_offsets": [0, %d]}}'


class Intruder:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def with_header(text, length=None, data=b""):
    """A safetensors file with a header, which may claim another length than it has."""
    header = text.encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def with_card(text):
    """A safetensors file with a small array and a card."""
    return save({"conv1.bias": np.zeros(6, np.float32)}, metadata={"deepem_card": text})


def sizes(**changes):
    return json.dumps({**CARD, "geometry": {**CARD["geometry"], **changes}})


HOSTILE_MODELS = {
    "claims a header of 2^63 bytes": with_header("{}", 2**63),
    "claims a header of 90 MB": with_header("{}", 90_000_000),
    "claims an array of 2^60 numbers": with_header(HEADER % (2**60, 2**62), data=b"1234"),
    "claims a shape whose product is beyond 64 bits": with_header(HEADER % (f"{2**40}, {2**40}", 4), data=b"1234"),
    "has a header nested without end": with_header('{"a":' * 100_000),
    "has a card nested without end": with_card("[" * 200_000),
    "has a card with a number of a million digits": with_card('{"format": ' + "9" * 1_000_000 + "}"),
    "claims 10^9 networks": with_card(json.dumps({**CARD, "networks": 10**9})),
    "claims infinitely many networks": with_card(json.dumps({**CARD, "networks": float("inf")})),
    "claims an infinite scan step": with_card(json.dumps({**CARD, "scan_step": float("inf")})),
    "claims an infinite box": with_card(sizes(box=float("inf"))),
    "claims an infinite kernel": with_card(sizes(kernels=[float("inf"), 3, 2])),
    "claims a diameter of 10^400": with_card(json.dumps({**CARD, "diameter_angst": 10**400})),
    "claims a box of 10^12 pixels": with_card(sizes(box=10**12)),
    "claims pools of 10^12 pixels": with_card(sizes(pools=[10**12, 10**12, 2])),
    "claims kernels of 10^12 pixels": with_card(sizes(kernels=[10**12, 3, 2])),
    "claims 10^12 maps": with_card(sizes(maps=[10**12, 12, 12])),
}

# Loads each file with little memory and time, and prints what it did beside opening that file.
WATCHER = """
import json, resource, signal, sys, time
from deepem_scipion.deepem.coordinates import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.model import load_model

good, boxes, *paths = sys.argv[1:]
load_model(good), read_coordinates(boxes)  # so that the libraries are there
done, heard = [], False
QUIET = ("object.", "sys._getframe", "os.listdir", "os.scandir", "code.__new__", "cpython.")
def hear(event, arguments):
    if heard and not event.startswith(QUIET) and not (event == "open" and arguments[0] == path):
        done.append([event, str(arguments)[:200]])
sys.addaudithook(hear)
gigabyte = 2**30
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + gigabyte // 4,) * 2)
signal.setitimer(signal.ITIMER_VIRTUAL, 60)
answers = {}
for path in paths:
    heard = True
    try:
        (load_model if path.endswith(".deepem") else read_coordinates)(path)
        answers[path] = "accepted"
    except DeepEMError as error:
        answers[path] = str(error)
    heard = False
print(json.dumps([answers, done]))
"""


@pytest.fixture
def good(tmp_path):
    weights = {name: np.ones(shape, np.float32) for name, shape in GEOMETRY.weight_shapes().items()}
    save_model(tmp_path / "good.deepem", Model(GEOMETRY, (weights,), 4.5, 120.0, 4, (0.5, 1.5), 0.75))
    return str(tmp_path / "good.deepem")


def watch(good, *paths):
    """What a process with little memory says to each file, and what it did beside reading it."""
    boxes = Path(good).with_name("good.box")
    boxes.write_text("1 2 3 4\n")
    done = subprocess.run([sys.executable, "-c", WATCHER, good, *map(str, [boxes, *paths])], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_hostile_model_is_refused_without_memory_time_or_other_files(good, tmp_path):
    for number, content in enumerate(HOSTILE_MODELS.values()):
        (tmp_path / f"{number}.deepem").write_bytes(content)
    answers, done = watch(good, good, *(tmp_path / f"{number}.deepem" for number in range(len(HOSTILE_MODELS))))
    assert answers.pop(good) == "accepted"
    wrong = {what: answer for (what, _), (path, answer) in zip(HOSTILE_MODELS.items(), answers.items(), strict=True)
             if "damaged" not in answer and "conv" not in answer or path not in answer}
    assert wrong == {}
    assert done == []


def test_a_model_never_runs_the_code_that_is_in_it(good, tmp_path):
    intruded = tmp_path / "intruded"
    content = pickle.dumps(Intruder(intruded))
    np.save(tmp_path / "object.npy", np.array([Intruder(intruded)], object), allow_pickle=True)
    shutil.make_archive(str(tmp_path / "keras"), "zip", tmp_path, "object.npy")
    card = json.dumps({**CARD, "class_name": "Lambda", "config": {"function": content.hex()},
                       "py/object": "os.system", "training": content.hex()})
    hostile = {"pickle": content, "array": (tmp_path / "object.npy").read_bytes(),
               "archive": (tmp_path / "keras.zip").read_bytes(), "card": with_card(card)}
    for name, text in hostile.items():
        (tmp_path / f"{name}.deepem").write_bytes(text)
    answers, done = watch(good, *(tmp_path / f"{name}.deepem" for name in hostile))
    assert "accepted" not in answers.values()
    assert done == [] and not intruded.exists()
    pickle.loads(content).close()
    assert intruded.exists()  # it would have worked


def test_hostile_coordinates_read_no_other_files_and_take_no_more_memory_than_their_size(good, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("1 2 3 4\n")
    star = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n"
    hostile = {
        "one.box": "9" * 5_000_000, "two.box": "1 2 3 4\n" * 100_000, "three.box": f"{secret} 2 3 4\n",
        "four.box": f"1e999999999 {'9' * 10_000} 3 4\n", "five.star": f"{star}1 2 {secret}\n3 4 ../../../etc/passwd\n",
        "six.star": "data_" + "x" * 5_000_000, "seven.star": "loop_\n" + "_label\n" * 100_000,
        "eight.star": f"save_frame\n_include {secret}\n_file '`cat {secret}`'\n"}
    for name, text in hostile.items():
        (tmp_path / name).write_text(text)
    answers, done = watch(good, *(tmp_path / name for name in hostile))
    assert [name for name in hostile if answers[str(tmp_path / name)] == "accepted"] == ["two.box", "five.star"]
    assert done == []


@pytest.mark.parametrize("flavour", ["ome", "imagej", "plain"])
def test_a_micrograph_shows_only_what_is_in_its_own_file(tmp_path, flavour):
    own, secret = np.random.default_rng(0).integers(0, 200, (2, 16, 24), np.uint8)
    tifffile.imwrite(tmp_path / "secret.tif", secret)
    xml = ('<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:9">'
           '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="24" SizeY="16" '
           f'SizeZ="1" SizeC="1" SizeT="1"><TiffData IFD="0" PlaneCount="1"><UUID FileName="../'
           f'{tmp_path.name}/secret.tif">urn:uuid:0</UUID></TiffData></Pixels></Image></OME>')
    options = {"ome": {"description": xml}, "imagej": {"imagej": True}, "plain": {}}[flavour]
    tifffile.imwrite(tmp_path / "mic.tif", own, metadata=None if flavour != "imagej" else {}, **options)
    if flavour == "ome":  # the library alone goes by what the other file says
        assert not np.array_equal(tifffile.imread(tmp_path / "mic.tif"), own)
    np.testing.assert_array_equal(read_pixels(tmp_path / "mic.tif", "top"), own)


@pytest.mark.parametrize("content", [
    b"", pickle.dumps(1), b"[" * 100_000 + b"\n", b'{"op_code": 1e999}\n', b"null\n", b'{"op_code": 0}\n',
    b"\xff\xfe\n", b'{"op_code": 0, "study_name": [], "directions": "x", "worker_id": {}}\n'],
    ids=lambda content: content[:12].hex())
def test_a_damaged_study_is_refused_or_empty_and_nothing_else_happens(tmp_path, content):
    tuning = pytest.importorskip("deepem_scipion.deepem.training.tuning")
    (tmp_path / "study").write_bytes(content)
    try:
        assert tuning.open_study(tmp_path / "study", "data").get_trials() == []
    except DeepEMError as error:
        assert "not the journal of a search, or damaged" in str(error)


@pytest.mark.parametrize("notes", [
    "", "[" * 200_000, "[]", '{"began": 1e999}', '{"began": 1, "fingerprint": {}, "fits": []}',
    '{"began": 1, "fingerprint": [1], "fits": {}}',
    '{"began": 1, "fingerprint": {}, "fits": {"a": {"seed": 1, "history": 2, "best_epoch": 3, "random": {}, '
    '"variables": 1000000000000, "best": ["x"]}}}'], ids=lambda notes: notes[-12:])
def test_a_damaged_checkpoint_costs_no_more_than_a_start_from_scratch(tmp_path, notes, caplog):
    (tmp_path / "c").write_bytes(save({"x": np.zeros(2)}, metadata={"deepem_checkpoint": notes}))
    assert Checkpoint(tmp_path / "c").state("a") is None
    assert "training starts from scratch" in caplog.text


# Each would read more into a file than data, or take text for a command.
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "eval", "exec", "compile",
             "system", "popen", "extractall", "mktemp", "load_weights", "model_from_json", "from_config", "deserialize",
             "shell", "enable_unsafe_deserialization", "unsafe_load"}


def names_in(path):
    """Names that a source file imports, calls, or gives to parameters."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (part for alias in node.names for part in alias.name.split("."))
            yield from (getattr(node, "module", None) or "").split(".")
        elif isinstance(node, ast.Call):
            # re.compile and the compile method of Keras's models are harmless.
            yield getattr(node.func, "id", "") if getattr(node.func, "attr", "compile") == "compile" else node.func.attr
        elif isinstance(node, ast.keyword):
            yield node.arg or ""


def test_no_source_file_unpickles_evaluates_or_uses_a_shell_itself():
    folder = Path(deepem_scipion.__file__).parent
    sources = [path for path in folder.rglob("*.py") if "tests" not in path.relative_to(folder).parts]
    assert len(sources) > 40
    assert {str(path): found for path in sources if (found := FORBIDDEN & set(names_in(path)))} == {}
    assert [str(path) for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load")
            and "allow_pickle=False" not in ast.unparse(node)] == []
    # The one command for a shell: the activation that the administrator's configuration gives.
    shells = [path.name for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
              if isinstance(node, ast.List) and any(ast.unparse(each) == "'-c'" for each in node.elts)
              and re.search(r"\b(ba|z|da)?sh\b", ast.unparse(node.elts[0]))]
    assert shells == ["environments.py"]


# ------------------------------------------------------------------ network

EVERYTHING = """
import sys
from dataclasses import replace
from pathlib import Path
from deepem_scipion.deepem.training import fit as training
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.training.tuning import open_study
TRAINING_PRESETS["default"] = replace(TRAINING_PRESETS["default"], updates_per_epoch=3)
training.CONVERGENCE_LOSS = 9  # so few updates lead nowhere
mics, boxes, model = sys.argv[1:]
train = ["--micrographs", *[f"{mics}/{name}.mrc" for name in "abc"], "--coordinates", boxes, "--diameter", "64"]
assert main(["train", *train, "--epochs", "1", "--output", "model"]) == 0
assert open_study(Path("study"), "data").get_trials() == []
assert main(["pick", "--model", model, "--micrographs", f"{mics}/d.mrc", "--output", "picks", "--score-maps"]) == 0
assert main(["evaluate", "--truth", boxes, "--picks", "picks", "--distance", "8", "--plot", "curve.png"]) == 0
assert main(["info", "model"]) == 0
"""


@pytest.fixture
def no_network(tmp_path):
    """Environment in which Python refuses and notes any use of the network."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, **guard(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "2"}


def test_the_guard_against_the_network_works(no_network, tmp_path):
    for code in ("socket.create_connection(('127.0.0.1', 9))", "socket.socket().connect(('127.0.0.1', 9))",
                 "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))"):
        done = subprocess.run([sys.executable, "-c", f"import socket; socket.socketpair(); {code}"], env=no_network,
                              capture_output=True, text=True)
        assert "no network in this test" in done.stderr
    assert len((tmp_path / "used").read_text().splitlines()) == 3


@pytest.mark.slow
def test_training_tuning_picking_and_evaluation_use_no_network(blobs, blob_model, no_network, tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("optuna")
    command = [sys.executable, "-c", EVERYTHING, *map(str, (blobs[0] / "micrographs", blobs[0] / "boxes", blob_model))]
    trace = tmp_path / "trace"
    if shutil.which("strace"):  # what libraries do without Python's knowledge
        command = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace),
                   *command]
    done = subprocess.run(command, env=no_network, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "used").exists(), (tmp_path / "used").read_text()
    if trace.exists():
        assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []
    assert os.listdir(tmp_path / "tmp") == []
    assert not list(tmp_path.rglob(".deepem-*"))


# ----------------------------------------------------------- temporary files

def test_a_file_that_is_being_written_is_its_owners_alone(tmp_path):
    with atomic_path(tmp_path / "file") as aside:
        assert stat.S_IMODE(aside.parent.stat().st_mode) == 0o700
        assert aside.parent.parent == tmp_path
        aside.write_text("x")
    with atomic_write(tmp_path / "file"):
        folder, = tmp_path.glob(".deepem-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_leaves_nothing_but_its_checkpoint(blobs, no_network, tmp_path):
    pytest.importorskip("tensorflow")
    output = tmp_path / "out"
    output.mkdir()
    code = textwrap.dedent("""
        import sys
        from dataclasses import replace
        from deepem_scipion.deepem.training import fit as training
        from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
        from deepem_scipion.deepem.commands.main import main
        TRAINING_PRESETS["default"] = replace(TRAINING_PRESETS["default"], updates_per_epoch=3)
        training.CONVERGENCE_LOSS = 9
        sys.exit(main(sys.argv[1:]))""")
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", "--micrographs", str(blobs[0] / "micrographs"), "--coordinates",
         str(blobs[0] / "boxes"), "--diameter", "64", "--epochs", "100000", "--output", str(output / "model")],
        env=no_network, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "epoch 2/" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    assert os.listdir(output) == ["model.checkpoint"]
    assert os.listdir(tmp_path / "tmp") == []
