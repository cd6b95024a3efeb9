# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads, and the start-up of TensorFlow for training."""

import json
import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from test_scoremap import random_weights

from deepem_scipion.deepem import runtime
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.network.geometry import PRESETS


@pytest.fixture
def state(monkeypatch):
    """Monkeypatch; the module is as in a new process, and restored afterwards."""
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
@pytest.mark.parametrize("start", ["start", "start_keras"])
def test_fewer_than_one_thread_are_rejected(state, start, threads):
    with pytest.raises(DeepEMError, match=f"threads {threads}: expected at least 1"):
        getattr(runtime, start)(threads)


def test_backends_other_than_tensorflow_are_rejected(state):
    state.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(DeepEMError, match="KERAS_BACKEND is 'jax': expected tensorflow; unset"):
        runtime.start_keras()


def test_missing_tensorflow_is_reported_with_the_command_that_installs_it(state):
    def missing(threads):
        raise ImportError("no such library")

    state.setattr(runtime, "start_tensorflow", missing)
    with pytest.raises(DeepEMError, match=r"imported .no such library.; .* pip install 'scipion-em-deepem\[program\]'"):
        runtime.start_keras()


@pytest.mark.slow
def test_number_of_threads_cannot_be_changed_once_tensorflow_is_running():
    output = python("from deepem_scipion.deepem import runtime\n"
                    "from deepem_scipion.deepem.errors import DeepEMError\n"
                    "runtime.start_keras(1)\n"
                    "import tensorflow as tf\n"
                    "tf.zeros(3) + 1\n"
                    "runtime.start_keras(1)\n"
                    "try:\n"
                    "    runtime.start_keras(2)\n"
                    "except DeepEMError:\n"
                    "    print('rejected', end='')\n", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
    assert output == "rejected"


@pytest.mark.parametrize("requested", [None, "", "-1"])
def test_cpu_is_used_without_a_hint_if_no_gpu_was_requested(no_gpu, requested):
    if requested is not None:
        no_gpu.setenv("CUDA_VISIBLE_DEVICES", requested)
    assert runtime.start_keras(3) == "CPU, 3 threads"
    assert not runtime.on_gpu()


def test_device_line_states_that_a_requested_gpu_is_missing_and_why(no_gpu, caplog):
    no_gpu.setenv("CUDA_VISIBLE_DEVICES", "1")
    caplog.set_level(logging.INFO)
    device = runtime.start_keras(2)
    assert device == ("CPU, 2 threads (GPU 1 was requested, but TensorFlow finds none; is tensorflow[and-cuda] "
                      "installed?)")
    assert f"device: {device}" in caplog.messages


@pytest.mark.slow
def test_gpu_that_does_not_exist_is_reported_missing_by_tensorflow_itself():
    output = python("from deepem_scipion.deepem import runtime; print(runtime.start_keras(1))",
                    CUDA_VISIBLE_DEVICES="99", KERAS_BACKEND="tensorflow")
    assert output.startswith("CPU, 1 thread (GPU 99 was requested, but TensorFlow finds none")


def test_gpu_is_used_for_training_and_the_cpu_for_picking(state):
    state.setattr(runtime, "start_tensorflow", lambda threads: "NVIDIA H200")
    state.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert runtime.start(1) == "CPU, 1 thread"
    assert runtime.start_keras() == "GPU NVIDIA H200"
    assert runtime.on_gpu()


def test_training_in_a_process_that_has_picked_keeps_its_number_of_threads(no_gpu):
    runtime.start(3)
    runtime.ensure_keras_started()
    assert runtime.state.keras_started and runtime.threads() == 3


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


@pytest.mark.slow
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
