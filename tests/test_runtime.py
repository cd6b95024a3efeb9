# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start of the numerical libraries, threads, and blocks that shrink where memory is short."""

import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from test_scoremap import random_weights

from deepem_scipion.deepem import runtime
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network import scan as scoremap
from deepem_scipion.deepem.network.geometry import PRESETS, Geometry

GEOMETRY = Geometry(28, (5, 3, 2), (2, 2, 2))
MIB = 2**20


@pytest.fixture
def state(monkeypatch):
    """The module's state as on a processor before the first error; put back afterwards."""
    for name, value in {"_threads": None, "_kind": "CPU", "_block_bytes": None}.items():
        monkeypatch.setattr(runtime, name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    yield monkeypatch
    runtime.pool.cache_clear()


@pytest.fixture
def no_gpu(state):
    """TensorFlow finds no GPU, whatever the machine has."""
    state.setattr(runtime, "_start_tensorflow", lambda threads: None)
    return state


def python(code, *arguments, **environ):
    """Run a program in a process of its own; returns its standard output."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env={**os.environ, **environ},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Start


@pytest.mark.parametrize("threads", [0, -2])
def test_fewer_than_one_thread_is_refused(state, threads):
    with pytest.raises(DeepEMError, match=f"threads {threads}: expected at least 1"):
        runtime.start(threads)


def test_unknown_backend_is_refused_with_those_that_are_known(state):
    state.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(DeepEMError, match="'theano': expected one of tensorflow, jax, torch"):
        runtime.start()


@pytest.mark.parametrize("backend, name", [("tensorflow", "TensorFlow"), ("jax", "JAX"), ("torch", "PyTorch")])
def test_backend_that_cannot_be_imported_is_named_with_what_to_install(state, backend, name):
    def missing(threads):
        raise ImportError("no such library")

    state.setenv("KERAS_BACKEND", backend)
    state.setattr(runtime, f"_start_{backend}", missing)
    with pytest.raises(DeepEMError, match=f"{name} cannot be imported .no such library.; try: pip install {backend}"):
        runtime.start()


def test_other_threads_than_those_of_a_running_tensorflow_are_refused():
    said = python("from deepem_scipion.deepem import runtime\n"
                  "from deepem_scipion.deepem.errors import DeepEMError\n"
                  "runtime.start(1)\n"
                  "import tensorflow as tf\n"
                  "tf.zeros(3) + 1\n"
                  "runtime.start(1)\n"
                  "try:\n"
                  "    runtime.start(2)\n"
                  "except DeepEMError:\n"
                  "    print('refused', end='')\n", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
    assert said == "refused"


@pytest.mark.parametrize("asked", [None, "", "-1"])
def test_processor_is_used_without_a_word_where_no_gpu_was_asked_for(no_gpu, asked):
    if asked is not None:
        no_gpu.setenv("CUDA_VISIBLE_DEVICES", asked)
    assert runtime.start(3) == "CPU, 3 threads"
    assert not runtime.on_gpu() and runtime.block_bytes() == runtime.BLOCK_BYTES["CPU"]


def test_device_line_says_that_a_gpu_was_asked_for_and_why_there_may_be_none(no_gpu, caplog):
    no_gpu.setenv("CUDA_VISIBLE_DEVICES", "1")
    caplog.set_level(logging.INFO)
    device = runtime.start(2)
    assert device == ("CPU, 2 threads (GPU 1 was asked for, but TensorFlow sees none; is tensorflow[and-cuda] "
                      "installed?)")
    assert f"device: {device}" in caplog.messages


def test_gpu_that_does_not_exist_is_said_to_be_missing_by_the_library_itself():
    said = python("from deepem_scipion.deepem import runtime; print(runtime.start(1))", CUDA_VISIBLE_DEVICES="99",
                  KERAS_BACKEND="tensorflow")
    assert said.startswith("CPU, 1 threads (GPU 99 was asked for, but TensorFlow sees none")


def test_gpu_is_named_and_gets_larger_blocks(state):
    state.setattr(runtime, "_start_tensorflow", lambda threads: "NVIDIA H200")
    state.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert runtime.start() == "GPU NVIDIA H200"
    assert runtime.on_gpu() and runtime.block_bytes() == runtime.BLOCK_BYTES["GPU"]


def test_pool_has_as_many_threads_as_were_asked_for(no_gpu):
    for n in (3, 2):
        runtime.start(n)
        assert runtime.threads() == n
        meeting = threading.Barrier(n)
        for found in [runtime.pool().submit(meeting.wait, 600) for _ in range(n)]:
            found.result()
        names = {runtime.pool().submit(lambda: threading.current_thread().name).result() for _ in range(50)}
        assert len(names) <= n


def test_threads_are_by_default_the_cores_that_the_process_may_use(no_gpu):
    runtime.start()
    assert runtime.threads() == len(os.sched_getaffinity(0))


MEASURE = """
import json, sys, time
import numpy as np
from deepem_scipion.deepem import runtime
threads = int(sys.argv[1])
runtime.start(threads)
from deepem_scipion.deepem.network import PRESETS
from deepem_scipion.deepem.scoremap import Scanner
case = dict(np.load(sys.argv[2]))
pixels = case.pop("pixels")
scanner = Scanner(PRESETS["26s"], [case], 20)
scanner.scan(pixels[:500])
cpu, wall = time.process_time(), time.perf_counter()
for _ in range(3 - threads):
    scores = scanner.scan(pixels)
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
np.save(sys.argv[3], scores)
print(json.dumps(cpu / wall))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_one_thread_uses_one_core_and_finds_the_scores_of_two(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(1500, 1500)).astype(np.float32)
    np.savez(tmp_path / "case.npz", pixels=pixels, **random_weights(PRESETS["26s"]))
    cores = {n: json.loads(python(MEASURE, n, tmp_path / "case.npz", tmp_path / f"{n}.npy",
                                  CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")) for n in (1, 2)}
    assert cores[1] < 1.3
    one, two = (np.load(tmp_path / f"{n}.npy") for n in (1, 2))
    assert one.shape == (68, 68) and one.std() > 1e-3
    np.testing.assert_allclose(one, two, atol=1e-5)


# Memory


def too_large_for_numpy():
    try:
        np.empty(2**55)
    except MemoryError as error:
        return error


SHORT_OF_MEMORY = [
    MemoryError(), MemoryError("std::bad_alloc"), too_large_for_numpy(),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[1,2048,2048,24]"),
    type("XlaRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
    type("OutOfMemoryError", (RuntimeError,), {})("CUDA error"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
]
OTHERS = [
    ValueError("Negative dimension size"), KeyError("conv1.kernel"), RuntimeError(), OSError("No space left on device"),
    tf.errors.InvalidArgumentError(None, None, "input depth must be evenly divisible by filter depth"),
    ValueError("no room for a window"),
]


def halve(error):
    return runtime.halve_blocks(error, runtime.block_bytes())


@pytest.mark.parametrize("error", SHORT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_blocks_are_halved_where_memory_is_short_and_the_new_size_is_said(state, caplog, error):
    before = runtime.block_bytes()
    assert halve(error)
    assert runtime.block_bytes() == before // 2
    assert caplog.messages == [f"out of memory; going on with blocks of {before / 2 / MIB:g} MiB"]


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_blocks_are_left_as_they_are_by_other_errors(state, caplog, error):
    before = runtime.block_bytes()
    assert not halve(error)
    assert runtime.block_bytes() == before and not caplog.messages


@pytest.mark.parametrize("kind", runtime.BLOCK_BYTES)
def test_halving_ends_at_the_least_size(state, kind):
    state.setattr(runtime, "_kind", kind)
    sizes = [runtime.block_bytes()]
    while halve(MemoryError()):
        sizes.append(runtime.block_bytes())
    assert all(two == one // 2 for one, two in zip(sizes, sizes[1:]))
    assert runtime.block_bytes() == sizes[-1] and MIB <= sizes[-1] < 2 * MIB


@pytest.fixture(params=[4, 3], ids=["one class", "several classes"])
def scan(request):
    """Scanner, image and its scores."""
    scanner = scoremap.Scanner(GEOMETRY, [random_weights(GEOMETRY)], request.param)
    pixels = np.random.default_rng(1).normal(size=(90, 130)).astype(np.float32)
    return scanner, pixels, scanner.scan(pixels)


def small_memory(monkeypatch, most_pixels):
    """Let a block of more pixels than that run out of memory."""
    pooled = scoremap._Stage._pooled

    def limited(stage, block, tile):
        if block.shape[0] * block.shape[1] > most_pixels:
            raise MemoryError
        return pooled(stage, block, tile)

    monkeypatch.setattr(scoremap._Stage, "_pooled", limited)


def test_scan_goes_on_with_smaller_blocks_after_one_error(state, caplog, scan):
    scanner, pixels, scores = scan
    pooled = scoremap._Stage._pooled
    errors = [MemoryError()]

    def once(stage, block, tile):
        if errors:
            raise errors.pop()
        return pooled(stage, block, tile)

    state.setattr(scoremap._Stage, "_pooled", once)
    np.testing.assert_allclose(scanner.scan(pixels), scores, atol=1e-6)
    assert runtime.block_bytes() == 6 * MIB and len(caplog.messages) == 1


def test_scan_makes_blocks_smaller_until_they_fit_and_keeps_to_that(state, caplog, scan):
    scanner, pixels, scores = scan
    state.setattr(runtime, "_block_bytes", 1_600_000)  # holds the image whole
    state.setattr(runtime, "LEAST_BLOCK_BYTES", 10_000)
    small_memory(state, 3_000)
    np.testing.assert_allclose(scanner.scan(pixels), scores, atol=1e-6)
    size, times = runtime.block_bytes(), len(caplog.messages)
    assert size == 1_600_000 // 2**times and times >= 2
    np.testing.assert_allclose(scanner.scan(pixels), scores, atol=1e-6)
    assert runtime.block_bytes() == size and len(caplog.messages) == times


def test_scan_that_does_not_fit_in_the_smallest_blocks_raises_the_error(state, scan):
    scanner, pixels, scores = scan
    with state.context() as patch:
        small_memory(patch, 0)
        with pytest.raises(MemoryError):
            scanner.scan(pixels)
    np.testing.assert_allclose(scanner.scan(pixels), scores, atol=1e-6)


def test_scans_that_run_out_of_memory_together_halve_the_blocks_once(state, caplog):
    n = 6
    scanners = [scoremap.Scanner(GEOMETRY, [random_weights(GEOMETRY)], 4) for _ in range(n)]
    pixels = np.random.default_rng(1).normal(size=(60, 70)).astype(np.float32)
    scores = scanners[0].scan(pixels)
    state.setattr(runtime, "_threads", n)
    runtime.pool.cache_clear()
    pooled, together = scoremap._Stage._pooled, threading.Barrier(n)
    first = threading.local()

    def fail(stage, block, tile):
        if not hasattr(first, "done"):  # the first block of each thread: the whole image of one scan
            first.done = True
            together.wait(600)
            raise MemoryError
        return pooled(stage, block, tile)

    state.setattr(scoremap._Stage, "_pooled", fail)
    with ThreadPoolExecutor(n) as threads:
        for found in threads.map(lambda scanner: scanner.scan(pixels), scanners):
            np.testing.assert_allclose(found, scores, atol=1e-6)
    assert runtime.block_bytes() == 6 * MIB and len(caplog.messages) == 1
