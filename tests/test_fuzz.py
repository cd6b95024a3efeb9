# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged and random files: every reader gives a result or a DeepEMError, in bounded time and memory.

With DEEPEM_FUZZ=long in the environment many times more inputs are tried, different ones each time.
"""

import bz2
import gzip
import io
import json
import os
import resource
import signal
import struct
from contextlib import contextmanager, suppress

import numpy as np
import optuna
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from deepem_scipion.deepem.commands.info import format_card
from deepem_scipion.deepem.commands.worker import parse_request
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.coordinates.regions import read_regions
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.find import find_micrographs
from deepem_scipion.deepem.micrographs.images import read_header, read_pixels
from deepem_scipion.deepem.micrographs.micrograph import read_micrograph
from deepem_scipion.deepem.model.files import load_model, read_card, save_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.model.record import Round, TrainingData, TrainingRecord, Validation
from deepem_scipion.deepem.network import scan as scoremap
from deepem_scipion.deepem.network.geometry import Geometry, layer_sizes
from deepem_scipion.deepem.picking.candidates import Candidates, read_candidates, write_candidates
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import Limits, select
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult, summarise_run
from deepem_scipion.deepem.picking.table import append_table, read_failures, read_table, write_table
from deepem_scipion.deepem.startables import read_tables
from deepem_scipion.deepem.training import tuning
from deepem_scipion.deepem.training.checkpoint import Checkpoint
from deepem_scipion.deepem.training.examples import TrainingExamples, load_examples, save_examples
from deepem_scipion.deepem.training.fit import FitState

LONG = os.environ.get("DEEPEM_FUZZ") == "long"
LONGER = 30
# Far more than any of these inputs needs, even on a slow machine.
MAX_SECONDS, MAX_BYTES = 20, 4 * 2**30


def tried(number):
    """Try this many inputs, the same ones each time, unless the run is a long one."""
    return settings(max_examples=number * (LONGER if LONG else 1), derandomize=not LONG, deadline=None, database=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@contextmanager
def bounded():
    """Raise TimeoutError after MAX_SECONDS of computing and MemoryError beyond MAX_BYTES more than now."""
    def stop(number, frame):
        raise TimeoutError

    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def read(reader, path, content, *more):
    """Read a file with this content; None if the reader raises a DeepEMError, which must name the file."""
    path.write_bytes(content)
    with bounded():
        try:
            return reader(path, *more)
        except DeepEMError as error:
            assert path.name in str(error) and "memory" not in str(error)
    return None


NUMBERS = [struct.pack(order + kind, value) for order in "<>"
           for kind, values in (("b", (0, -1)), ("h", (0, 1, -1, 2**15 - 1)), ("q", (0, 2**62, -1)),
                                ("i", (0, 1, 2, -1, 6, 255, 2**16, 10**9, 2**31 - 1, -2**31)),
                                ("f", (0, 1, -1, 1e-45, 3e38, float("nan"), float("inf"))))
           for value in values]


@st.composite
def damaged(draw, originals, pieces):
    """Damage one of the contents: overwrite, insert, delete or repeat bytes, or cut the end."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.one_of(st.integers(0, len(content)), st.integers(0, min(len(content), 256))))
        to = at + draw(st.integers(0, 40))
        piece = draw(st.one_of(st.sampled_from(pieces), st.binary(min_size=1, max_size=8)))
        content = {"overwrite": content[:at] + piece + content[at + len(piece):],
                   "insert": content[:at] + piece + content[at:], "delete": content[:at] + content[to:],
                   "repeat": content[:to] + content[at:], "cut": content[:at]}[
            draw(st.sampled_from(["overwrite", "overwrite", "insert", "delete", "repeat", "cut"]))]
    return content


WORDS = [word.encode() for word in (
    "nan", "inf", "-inf", "1e999", "1e308", "-1", "0", "1_0", "٣", "9" * 400, "1." * 50, "\t", " ", "\n", "\r", "\r\n",
    "\0", "\x0b", "\x85", "\u2028", "\ufeff", "#", "'", "\"", "' \"", "\"a " * 9, ",", "{", "[", "[" * 200, "}", "]",
    ":", "null", "true", "1e400", "-0.0", "../", "/", "*", "ok", "failed", "loop_", "data_", "_rlnCoordinateX", "_a",
    ";")] + [b"\xff\xfe", b"\xc3", b"\xed\xa0\x80"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# ------------------------------------------------------------- micrographs
def noise(rows=6, columns=9):
    return np.random.default_rng(0).normal(0, 30, (rows, columns)).astype(np.float32)


def mrc(dtype="<f4", extended=b""):
    """Make an MRC file by hand."""
    order = dtype[0]
    mode = {"i1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}[dtype[1:]]
    header = bytearray(1024)
    struct.pack_into(f"{order}10i6f3i", header, 0, 9, 6, 1, mode, 0, 0, 0, 9, 6, 1, 13.5, 9, 1, 90, 90, 90, 1, 2, 3)
    struct.pack_into(f"{order}i", header, 92, len(extended))
    header[208:216] = b"MAP " + (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    return bytes(header) + extended + noise().astype(dtype).tobytes()


def tiff(**how):
    stream = io.BytesIO()
    tifffile.imwrite(stream, noise().astype(how.pop("dtype", "f4")), **how)
    return stream.getvalue()


MRCS = [mrc(), mrc(">f4"), mrc("<i1"), mrc("<i2"), mrc(">u2"), mrc("<f2"), mrc(extended=b"x" * 48)]
TIFFS = [tiff(), tiff(byteorder=">"), tiff(bigtiff=True), tiff(dtype="u2", rowsperstrip=2), tiff(compression="zlib"),
         tiff(compression="lzw"), tiff(tile=(16, 16)), tiff(compression="packbits"), tiff(compression="lzma"),
         tiff(compression="zstd"), tiff(compression="lzw", dtype="u2", predictor=True, rowsperstrip=2),
         tiff(dtype="u1", description="a", metadata={"axes": "YX"})]


def both(path):
    """Check that header and pixels of an image agree."""
    shape = read_header(path).shape
    pixels = read_pixels(path)
    assert pixels.shape == shape and pixels.dtype == np.float32 and np.isfinite(pixels).all() and np.ptp(pixels) > 0
    for size in (None, 3.0):
        with suppress(DeepEMError):
            assert np.isfinite(read_micrograph(path, size, box_px=3).pixels).all()


@tried(150)
@given(damaged(MRCS, NUMBERS))
def test_damaged_mrc_files_are_read_or_refused(place, content):
    read(both, place / "a.mrc", content)


@tried(60)
@given(damaged(MRCS, NUMBERS), st.sampled_from([gzip.compress, bz2.compress]), st.booleans(), st.data())
def test_damaged_compressed_mrc_files_are_read_or_refused(place, content, pack, outside, data):
    content = pack(content)
    if outside:
        content = data.draw(damaged([content], NUMBERS))
    read(both, place / "a.mrc.gz", content)


@tried(100)
@given(damaged(TIFFS, NUMBERS))
def test_damaged_tiff_files_are_read_or_refused(place, content):
    read(both, place / "a.tif", content)


@tried(40)
@given(st.binary(max_size=3000))
def test_random_bytes_are_read_as_a_micrograph_or_refused(place, content):
    read(both, place / "a.mrc", content)


# ------------------------------------------------------- tables and lists
BOXES = [b"346\t-28\t120\t100\n", b"1 2 41 41 0.75\r\n3 4 41 41 nan\r\n", b"# a\n\n1e2 2 4 4 # b\n"]
STARS = [b"data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 2\n3 4\n",
         b"\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n1\n\ndata_particles\n\nloop_\n"
         b"_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnAutopickFigureOfMerit #4\n"
         b"1@'m/a b.mrc' 1.5 2 0.5\n\"m/c'd.mrc\" 3 4 nan\n",
         b"data_general\n_rlnCoordinateX 3 # three\n_rlnCoordinateY 'two words'\n"]


def check_coordinates(path):
    for name, found in read_coordinates(path).items():
        assert isinstance(name, str) and found.centres_xy.shape == (len(found.scores), 2)
        assert np.isfinite(found.centres_xy).all() and not np.isinf(found.scores).any()


@tried(200)
@given(damaged(BOXES, WORDS))
@example(b"1e308 0 1.7e308 4\n")  # its centre was infinite
def test_damaged_box_files_are_read_or_refused(place, content):
    read(check_coordinates, place / "a.box", content)


@tried(200)
@given(damaged(STARS, WORDS))
@example(b"data_\nloop_\n_a\n" + b'"a ' * 20000)  # none of its quotes is closed: this took hours
def test_damaged_star_files_are_read_or_refused(place, content):
    read(check_coordinates, place / "a.star", content)
    read(read_tables, place / "a.star", content)


@tried(150)
@given(damaged([b"# name x0 y0 x1 y1\na 1 2 30 40\nmics/b.mrc\t0\t0\t9.5\t1e2 # c\n"], WORDS))
@example(b"a 1 2 3 " + b"4" * 20000 + b"x")  # all divisions of the digits were tried
def test_damaged_tables_of_regions_are_read_or_refused(place, content):
    found = read(read_regions, place / "regions.txt", content, {"a": "a", "b": "b"})
    assert not found or set(found) <= {"a", "b"}


@tried(150)
@given(damaged([b"a.mrc\nb.mrc\tname\r\n\n", "sub folder/Größe.mrc\tx\n".encode()], WORDS))
def test_damaged_lists_of_micrographs_are_read_or_refused(place, content):
    (place / "list.txt").write_bytes(content)
    with bounded(), suppress(DeepEMError):
        for name in find_micrographs([place / "list.txt"]):
            # Where names are repeated they begin with their folders.
            assert all(part not in ("", ".", "..") and not set(part) & set("\0\t\n\r") for part in name.split("/"))


@pytest.fixture(scope="module")
def summary(place):
    counts = {"border": 1, "mask": 0, "local_std": 0, "threshold": 3, "distance": 0, "rank": 0}
    results = {str(number): MicrographResult("m/a b.mrc", "", 9, number, 0.5, counts, 0.25, 7.0 + number, 2.0, 3.0)
               for number in range(11)}
    write_table(place / "t.tsv", {**results, "bad": MicrographResult("b", "no", finished=3.0)})
    return (place / "t.tsv").read_bytes()


@tried(150)
@given(st.data())
def test_damaged_lines_of_a_summary_are_left_out_and_the_rest_is_counted(place, summary, data):
    found = read(read_table, place / "t.tsv", data.draw(damaged([summary], WORDS)))
    figures = summarise_run(found)
    assert json.dumps(figures.as_dict(), allow_nan=False)
    assert figures.contrast is None or isinstance(figures.contrast.warning("dark"), str)
    append_table(place / "t.tsv", {"new": MicrographResult("c", "no")})
    assert read_table(place / "t.tsv")["new"].reason == "no"


@tried(100)
@given(damaged([b"micrograph\treason\na\tno such file\nb c\tis truncated\n"], WORDS))
def test_damaged_lists_of_failures_are_read(place, content):
    assert isinstance(read(read_failures, place / "f.tsv", content), dict)


@pytest.fixture(scope="module")
def candidates(place):
    rng = np.random.default_rng(0)
    found = Candidates(rng.uniform(0, 400, (9, 2)), *rng.uniform(size=(3, 9)))
    write_candidates(place / "c.tsv", found, select(found, Limits(0.5, 10.0), 1.0))
    return (place / "c.tsv").read_bytes()


@tried(150)
@given(st.data())
def test_damaged_tables_of_candidates_are_read_and_selected_or_refused(place, candidates, data):
    found = read(read_candidates, place / "c.tsv", data.draw(damaged([candidates], WORDS)))
    if found is not None:
        assert len(select(found[0], Limits(0.2, 30.0, (0.0, 1.0), 5.0), 1.0)) == len(found[1])


# ---------------------------------------------------- models and checkpoints
GEOMETRY = Geometry(16, (3, 2, 2), (2, 2, 2), (2, 3, 3))
CURVE = {"threshold": [0.9, 0.5], "precision": [1.0, 0.5], "recall": [0.5, 1.0]}
MODEL = Model(
    GEOMETRY, ({name: np.ones(shape, np.float32) for name, shape in GEOMETRY.weight_shapes().items()},), 4.5, 120.0, 4,
    (0.5, 1.5), 0.75, TrainingRecord(
        training_preset="paper", contrast="dark", seed=0, history=[{"loss": 0.1}], versions={"numpy": "1"},
        training=TrainingData(2, ["a", "b"], 9), rounds=[Round(1, error=0.1), Round(2, True, 0.1, 1, 2)],
        training_pixel_size_angst=1.5, validation=Validation(
            1, ["c"], 4, on="validation micrographs", AP=0.5, precision=0.5, recall=0.5, F1=0.5, curve=CURVE)))
plain = st.sampled_from([None, True, 0, 1, -1, 0.5, 10**30, 10**400, float("nan"), float("inf"), "", "0.5", "x", 2.5])
values = plain | st.lists(plain, max_size=3) | st.dictionaries(st.sampled_from(["a", "AP", "box"]), plain, max_size=2)


@st.composite
def changed(draw, original):
    """Replace or delete one of nested plain values, at any depth."""
    if not isinstance(original, (dict, list)) or not original or draw(st.integers(0, 3)) == 0:
        return draw(values)
    copy = original.copy()
    key = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
    if draw(st.integers(0, 4)) == 0:
        del copy[key]
    else:
        copy[key] = draw(changed(copy[key]))
    return copy


def use(path):
    """Do everything with a model except picking."""
    model = load_model(path)
    json.dumps(model.card())
    assert isinstance(format_card(model.card()), str)
    for wanted in ("auto", "F1", "precision=0.7"):
        with suppress(DeepEMError):
            assert 0 <= model.threshold_for(wanted)


SETTINGS = RunSettings(Limits(0.5, 30.0, (0.5, 1.5), 5.0), 4, 4, 16, 4.5, 60.0, 2.0, "dark", {"numpy": "2"})


@tried(150)
@given(changed(SETTINGS.as_dict()))
@example({**SETTINGS.as_dict(), "scan_step": float("inf")})
@example({**SETTINGS.as_dict(), "diameter_angst": 10**400})
def test_summaries_with_any_settings_are_read_or_refused(place, plain):
    found = read(lambda path: PickingResults(path.parent).read_settings(), PickingResults(place).path("settings"),
                 json.dumps(plain).encode())
    assert found is None or isinstance(found, RunSettings)


@pytest.fixture(scope="module")
def model(place):
    save_model(place / "m", MODEL)
    return (place / "m").read_bytes()


@tried(150)
@given(st.data())
def test_damaged_models_are_read_or_refused(place, model, data):
    content = data.draw(damaged([model], NUMBERS + WORDS))
    read(use, place / "m", content)
    read(read_card, place / "m", content)


@tried(250)
@given(changed(MODEL.card()))
@example({**MODEL.card(), "scan_step": float("inf")})
@example({**MODEL.card(), "scan_step": 10**400})
@example({**MODEL.card(), "validation": []})
@example({**MODEL.card(), "validation": {"curve": {**CURVE, "recall": [1]}}})
def test_models_with_any_card_are_read_or_refused(place, card):
    read(use, place / "m", save(MODEL.networks[0], metadata={"deepem_card": json.dumps(card)}))


@pytest.fixture(scope="module")
def checkpoint(place):
    state = FitState(0, [{"epoch": 1}], 1, {"state": 2**100}, [np.array(5), np.arange(6.0)], {"a": np.ones(2)})
    Checkpoint(place / "c", {"seed": 0}).keep("a fit", state)
    return (place / "c").read_bytes()


@tried(150)
@given(st.data())
def test_damaged_checkpoints_are_used_or_ignored(place, checkpoint, data):
    content = data.draw(damaged([checkpoint], NUMBERS + WORDS))
    found = read(Checkpoint, place / "c", content, {"seed": 0}).state("a fit")
    assert found is None or (len(found.variables) == 2 and set(found.best) == {"a"})


@tried(100)
@given(st.data())
def test_checkpoints_with_any_notes_are_used_or_ignored(place, checkpoint, data):
    fits = {"a fit": {"seed": 0, "history": [{"epoch": 1}], "best_epoch": 1, "random": {}, "variables": 1, "best": []}}
    notes = data.draw(changed({"began": 5, "fingerprint": {"seed": 0}, "fits": fits}))
    content = save({"a fit/variables/0": np.ones(2)}, metadata={"deepem_checkpoint": json.dumps(notes)})
    assert isinstance(read(Checkpoint, place / "c", content, {"seed": 0}), Checkpoint)


@pytest.fixture(scope="module")
def sample(place):
    parts = {name: np.ones(3) for name in TrainingExamples.__dataclass_fields__}
    save_examples(place / "s.npz", TrainingExamples(**{**parts, "pixels": np.ones((3, 4, 4), np.float32)}))
    return (place / "s.npz").read_bytes()


@tried(100)
@given(st.data())
def test_damaged_training_examples_are_read_or_refused(place, sample, data):
    found = read(load_examples, place / "s.npz", data.draw(damaged([sample], NUMBERS)))
    assert found is None or found.pixels.ndim == 3


@pytest.fixture(scope="module")
def journal(place):
    """A study of three trials as `deepem tune` leaves it."""
    study = tuning.open_study(place / "s.study", "data")
    for value in (0.5, 0.7, None):
        trial = study.ask({"box": optuna.distributions.FloatDistribution(*tuning.BOX_SHARES)})
        trial.report(0.5, 50)
        trial.set_user_attr("settings", "4 A")
        study.tell(trial, value, None if value else optuna.trial.TrialState.FAIL)
    return (place / "s.study").read_bytes()


@tried(60)
@given(st.data())
def test_damaged_studies_are_resumed_or_refused(place, journal, data):
    read(lambda path: tuning.open_study(path, "data"), place / "s.study", data.draw(damaged([journal], WORDS)))


# ------------------------------------------------------------------- worker
@tried(100)
@given(damaged([b'["--model", "m", "--output", "o"]\n', b'{"a": [1]}\n'], WORDS))
@example(b"[" * 100_000)
def test_requests_to_a_worker_are_lists_of_words_or_refused(content):
    with bounded(), suppress(DeepEMError):
        assert all(isinstance(word, str) for word in parse_request(content))


# --------------------------------------------------------------- properties
sizes = st.tuples(*[st.integers(1, 12)] * 3)


@tried(100)
@given(st.integers(1, 80), sizes, st.tuples(*[st.integers(1, 4)] * 3))
def test_a_geometry_fits_without_remainder_or_names_one_that_does(box, kernels, pools):
    try:
        found = Geometry(box, kernels, pools).layer_sizes
    except DeepEMError as error:
        if "nearest box is " in str(error):
            assert layer_sizes(int(str(error).split("nearest box is ")[1].split(";")[0].rstrip(".")), kernels, pools)
        return
    side = box
    for number, (kernel, pool) in enumerate(zip(kernels, pools)):
        image = np.ones((side, side))
        convolved = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel))
        assert convolved.shape[0] == found[2 * number] == pool * found[2 * number + 1]
        side = found[2 * number + 1]


@tried(15)
@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from([3, 4]), st.integers(0, 99))
def test_the_score_map_of_a_shifted_image_is_the_shifted_score_map(rows, columns, step, seed):
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in GEOMETRY.weight_shapes().items()}
    pixels = rng.normal(size=(40, 47)).astype(np.float32)
    scanner = scoremap.Scanner(GEOMETRY, [weights], step)
    whole = scanner.scan(pixels)
    part = scanner.scan(np.ascontiguousarray(pixels[rows * step:, columns * step:]))
    np.testing.assert_allclose(part, whole[rows:, columns:], atol=1e-5)


finite = st.floats(-1e4, 1e4)


@tried(60)
@given(st.lists(st.tuples(finite, finite, st.floats(0, 1), st.floats(0, 9), finite), max_size=9))
def test_candidates_survive_writing_and_reading(place, rows):
    table = np.reshape(rows, (-1, 5))
    found = Candidates(table[:, :2], table[:, 2], table[:, 3], table[:, 4])
    write_candidates(place / "c.tsv", found, select(found, Limits(0.5, 10.0), 1.0))
    again, _ = read_candidates(place / "c.tsv")
    np.testing.assert_allclose(again.centres_xy, found.centres_xy, atol=0.0051)
    np.testing.assert_allclose(again.scores, found.scores, rtol=1e-5, atol=1e-9)
