# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start-up of TensorFlow, threads, and blocks that are halved if memory is short."""

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
from deepem_scipion.deepem.network import stage
from deepem_scipion.deepem.network.geometry import PRESETS, Geometry
from deepem_scipion.deepem.network.scan import Scanner

GEOMETRY = Geometry(28, (5, 3, 2), (2, 2, 2))
MIB = 2**20


@pytest.fixture
def state(monkeypatch):
    """Monkeypatch; the module is as on a CPU before the first error, and restored afterwards."""
    monkeypatch.setattr(runtime, "state", runtime.State())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    yield monkeypatch
    runtime.pool.cache_clear()


@pytest.fixture
def no_gpu(state):
    """TensorFlow finds no GPU, even if the machine has one."""
    state.setattr(runtime, "start_tensorflow", lambda threads: None)
    return state


def python(code, *arguments, **environ):
    """Run a program in a new process and return its standard output."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env={**os.environ, **environ},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Start


@pytest.mark.parametrize("threads", [0, -2])
def test_fewer_than_one_thread_are_rejected(state, threads):
    with pytest.raises(DeepEMError, match=f"threads {threads}: expected at least 1"):
        runtime.start(threads)


def test_backends_other_than_tensorflow_are_rejected(state):
    state.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(DeepEMError, match="KERAS_BACKEND is 'jax': expected tensorflow; unset"):
        runtime.start()


def test_missing_tensorflow_is_reported_with_the_command_that_installs_it(state):
    def missing(threads):
        raise ImportError("no such library")

    state.setattr(runtime, "start_tensorflow", missing)
    with pytest.raises(DeepEMError, match=r"imported .no such library.; .* pip install 'scipion-em-deepem\[program\]"):
        runtime.start()


def test_number_of_threads_cannot_be_changed_once_tensorflow_is_running():
    output = python("from deepem_scipion.deepem import runtime\n"
                    "from deepem_scipion.deepem.errors import DeepEMError\n"
                    "runtime.start(1)\n"
                    "import tensorflow as tf\n"
                    "tf.zeros(3) + 1\n"
                    "runtime.start(1)\n"
                    "try:\n"
                    "    runtime.start(2)\n"
                    "except DeepEMError:\n"
                    "    print('rejected', end='')\n", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
    assert output == "rejected"


@pytest.mark.parametrize("requested", [None, "", "-1"])
def test_cpu_is_used_without_a_hint_if_no_gpu_was_requested(no_gpu, requested):
    if requested is not None:
        no_gpu.setenv("CUDA_VISIBLE_DEVICES", requested)
    assert runtime.start(3) == "CPU, 3 threads"
    assert not runtime.on_gpu() and runtime.block_bytes() == runtime.CPU_BLOCK_BYTES


def test_device_line_states_that_a_requested_gpu_is_missing_and_why(no_gpu, caplog):
    no_gpu.setenv("CUDA_VISIBLE_DEVICES", "1")
    caplog.set_level(logging.INFO)
    device = runtime.start(2)
    assert device == ("CPU, 2 threads (GPU 1 was requested, but TensorFlow finds none; is tensorflow[and-cuda] "
                      "installed?)")
    assert f"device: {device}" in caplog.messages


def test_gpu_that_does_not_exist_is_reported_missing_by_tensorflow_itself():
    output = python("from deepem_scipion.deepem import runtime; print(runtime.start(1))", CUDA_VISIBLE_DEVICES="99",
                    KERAS_BACKEND="tensorflow")
    assert output.startswith("CPU, 1 thread (GPU 99 was requested, but TensorFlow finds none")


def test_gpu_is_named_and_has_larger_blocks(state):
    state.setattr(runtime, "start_tensorflow", lambda threads: "NVIDIA H200")
    state.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert runtime.start() == "GPU NVIDIA H200"
    assert runtime.on_gpu() and runtime.block_bytes() == runtime.GPU_BLOCK_BYTES


def test_pool_has_as_many_threads_as_requested(no_gpu):
    for n in (3, 2):
        runtime.start(n)
        assert runtime.threads() == n
        meeting = threading.Barrier(n)
        for found in [runtime.pool().submit(meeting.wait, 600) for _ in range(n)]:
            found.result()
        names = {runtime.pool().submit(lambda: threading.current_thread().name).result() for _ in range(50)}
        assert len(names) <= n


def test_default_number_of_threads_is_that_of_the_cores_that_the_process_may_use(no_gpu):
    runtime.start()
    assert runtime.threads() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("cores, expected", [(7, 7), (None, 1)])
def test_all_cores_are_used_on_systems_without_affinity(state, cores, expected):
    state.delattr(os, "sched_getaffinity")
    state.setattr(os, "cpu_count", lambda: cores)
    assert runtime.threads() == expected


MEASURE = """
import json, sys, time
import numpy as np
from deepem_scipion.deepem import runtime
threads = int(sys.argv[1])
runtime.start(threads)
from deepem_scipion.deepem.network import PRESETS, Scanner
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
def test_one_thread_uses_one_core_and_gives_the_scores_of_two(tmp_path):
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
    ValueError("no room for a box"),
]


def halve(error):
    return runtime.halve_blocks(error, runtime.block_bytes())


@pytest.mark.parametrize("error", SHORT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_blocks_are_halved_if_memory_is_short_and_the_new_size_is_logged(state, caplog, error):
    before = runtime.block_bytes()
    assert halve(error)
    assert runtime.block_bytes() == before // 2
    assert caplog.messages == [f"out of memory; continuing with blocks of {before / 2 / MIB:g} MiB"]


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_other_errors_do_not_change_the_blocks(state, caplog, error):
    before = runtime.block_bytes()
    assert not halve(error)
    assert runtime.block_bytes() == before and not caplog.messages


@pytest.mark.parametrize("gpu", [None, "NVIDIA H200"])
def test_halving_ends_at_the_minimum_size(state, gpu):
    runtime.state.gpu = gpu
    sizes = [runtime.block_bytes()]
    while halve(MemoryError()):
        sizes.append(runtime.block_bytes())
    assert all(two == one // 2 for one, two in zip(sizes, sizes[1:]))
    assert runtime.block_bytes() == sizes[-1] and MIB <= sizes[-1] < 2 * MIB


@pytest.fixture(params=[4, 3], ids=["one class", "several classes"])
def scan(request):
    """Scanner, image and its scores."""
    scanner = Scanner(GEOMETRY, [random_weights(GEOMETRY)], request.param)
    pixels = np.random.default_rng(1).normal(size=(90, 130)).astype(np.float32)
    return scanner, pixels, scanner.scan(pixels)


def limit_memory(monkeypatch, max_pixels):
    """Make blocks of more pixels run out of memory."""
    pooled = stage.Stage.pooled_block

    def limited(self, block, tile):
        if block.shape[0] * block.shape[1] > max_pixels:
            raise MemoryError
        return pooled(self, block, tile)

    monkeypatch.setattr(stage.Stage, "pooled_block", limited)


def test_scan_continues_with_smaller_blocks_after_one_error(state, caplog, scan):
    scanner, pixels, scores = scan
    pooled = stage.Stage.pooled_block
    errors = [MemoryError()]

    def once(self, block, tile):
        if errors:
            raise errors.pop()
        return pooled(self, block, tile)

    state.setattr(stage.Stage, "pooled_block", once)
    np.testing.assert_allclose(scanner.scan(pixels), scores, atol=1e-6)
    assert runtime.block_bytes() == 6 * MIB and len(caplog.messages) == 1


def test_scan_halves_blocks_until_they_fit_and_keeps_their_size(state, caplog, scan):
    scanner, pixels, scores = scan
    runtime.state.block_bytes = 1_600_000  # enough for the whole image
    state.setattr(runtime, "MIN_BLOCK_BYTES", 10_000)
    limit_memory(state, 3_000)
    np.testing.assert_allclose(scanner.scan(pixels), scores, atol=1e-6)
    size, times = runtime.block_bytes(), len(caplog.messages)
    assert size == 1_600_000 // 2**times and times >= 2
    np.testing.assert_allclose(scanner.scan(pixels), scores, atol=1e-6)
    assert runtime.block_bytes() == size and len(caplog.messages) == times


def test_scan_that_does_not_fit_in_the_smallest_blocks_raises_the_error(state, scan):
    scanner, pixels, scores = scan
    with state.context() as changes:
        limit_memory(changes, 0)
        with pytest.raises(MemoryError):
            scanner.scan(pixels)
    np.testing.assert_allclose(scanner.scan(pixels), scores, atol=1e-6)


def test_scans_that_run_out_of_memory_at_the_same_time_halve_the_blocks_once(state, caplog):
    n = 6
    scanners = [Scanner(GEOMETRY, [random_weights(GEOMETRY)], 4) for _ in range(n)]
    pixels = np.random.default_rng(1).normal(size=(60, 70)).astype(np.float32)
    scores = scanners[0].scan(pixels)
    runtime.state.threads = n
    runtime.pool.cache_clear()
    pooled, together = stage.Stage.pooled_block, threading.Barrier(n)
    first = threading.local()

    def fail(self, block, tile):
        if not hasattr(first, "done"):  # the first block of each thread: the whole image of one scan
            first.done = True
            together.wait(600)
            raise MemoryError
        return pooled(self, block, tile)

    state.setattr(stage.Stage, "pooled_block", fail)
    with ThreadPoolExecutor(n) as threads:
        for found in threads.map(lambda scanner: scanner.scan(pixels), scanners):
            np.testing.assert_allclose(found, scores, atol=1e-6)
    assert runtime.block_bytes() == 6 * MIB and len(caplog.messages) == 1
