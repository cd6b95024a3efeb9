# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start-up of TensorFlow: device, threads, determinism, memory, and its messages kept off the terminal."""

from __future__ import annotations

import functools
import logging
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .errors import DeepEMError

log = logging.getLogger(__name__)

# Bytes of feature maps that a CPU thread, or a GPU, convolves and pools at a time.
CPU_BLOCK_BYTES, GPU_BLOCK_BYTES = 12 * 2**20, 512 * 2**20
MIN_BLOCK_BYTES = 2**20


@dataclass
class State:
    """Settings of this process.

    Attributes
    ----------
    threads : int or None
        Number of threads given to `start`; None for one per available core.
    gpu : str or None
        Name of the GPU; None if the network is computed on the CPU.
    block_bytes : int or None
        Size of blocks after memory was short; None before.
    started : bool
        Whether `start` was called.
    """

    threads: int | None = None
    gpu: str | None = None
    block_bytes: int | None = None
    started: bool = False


state = State()
_halving = threading.Lock()


def start(number_of_threads: int | None = None) -> str:
    """Import TensorFlow, set its threads and make its computations deterministic.

    It is called once, before the network or the scan is used. GPU memory is allocated as needed.

    Parameters
    ----------
    number_of_threads : int, optional
        Threads of all libraries together; default is one per available core.

    Returns
    -------
    str
        Description of the device, which is also logged.

    Raises
    ------
    DeepEMError
        If TensorFlow cannot be imported, has been started with other settings, or is not Keras's backend.
    """
    if number_of_threads is not None and number_of_threads < 1:
        raise DeepEMError(f"threads {number_of_threads}: expected at least 1")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise DeepEMError(f"KERAS_BACKEND is {backend!r}: expected tensorflow; unset this environment variable")
    state.threads = number_of_threads
    pool.cache_clear()
    direct_convolution_slots.cache_clear()
    try:
        with _silent_stderr():
            state.gpu = start_tensorflow(number_of_threads)
    except ImportError as error:
        raise DeepEMError(f"TensorFlow cannot be imported ({error}); in Python 3.10 to 3.12 install what the program "
                          "needs with: pip install 'scipion-em-deepem[program]'") from error
    except RuntimeError as error:
        raise DeepEMError(f"TensorFlow cannot be started with these settings ({error}); use a new process") from error
    _limit_blas()
    pool(), direct_convolution_slots()  # created here, so that no two threads create one each
    state.started = True
    device = _device()
    log.info("device: %s", device)
    return device


def ensure_started() -> None:
    """Call `start` with its defaults unless it was called."""
    if not state.started:
        start()


def start_tensorflow(number_of_threads: int | None) -> str | None:
    """Import and configure TensorFlow; called by `start`.

    Parameters
    ----------
    number_of_threads : int or None
        Threads within an operation; None for TensorFlow's own choice.

    Returns
    -------
    str or None
        Name of the GPU; None if there is none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if number_of_threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(number_of_threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    if not gpus:
        return None
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on.

    Returns
    -------
    dict of str to str
        Version by package, "not installed" if it is missing.
    """
    found = {"python": platform.python_version()}
    for package in ("scipion-em-deepem", "tensorflow", "keras", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows


def threads() -> int:
    """Return the number of threads that computations may use."""
    return state.threads or available_cores()


@functools.lru_cache(maxsize=None)
def pool() -> ThreadPoolExecutor:
    """Return the `threads` threads that compute the blocks of all micrographs being scanned."""
    return ThreadPoolExecutor(threads(), "block")


@functools.lru_cache(maxsize=None)
def direct_convolution_slots() -> threading.Semaphore:
    """Return the semaphore to hold during a direct convolution.

    TensorFlow computes one with several threads, and more than one for every two threads would slow each other down.
    """
    return threading.Semaphore(max(1, threads() // 2))


def on_gpu() -> bool:
    """Return whether the network is computed on a GPU."""
    return state.gpu is not None


def block_bytes() -> int:
    """Return the number of bytes of feature maps that are computed at a time."""
    if state.block_bytes is not None:
        return state.block_bytes
    return GPU_BLOCK_BYTES if on_gpu() else CPU_BLOCK_BYTES


def halve_blocks(error: Exception, tried: int) -> bool:
    """Halve `block_bytes` after an out-of-memory error.

    Parameters
    ----------
    error : Exception
        Any error of a computation.
    tried : int
        Bytes of the blocks that did not fit. If another micrograph has had them halved in the meantime, they are not
        halved again.

    Returns
    -------
    bool
        Whether to try again with the new size; False for other errors, and if the blocks are small already.
    """
    text = f"{type(error).__name__} {error}".lower()
    if not re.search(r"memoryerror|out ?of ?memory|resource_?exhausted|\boom\b", text):
        return False
    with _halving:
        if block_bytes() < tried:
            return True
        smaller = tried // 2
        if smaller < MIN_BLOCK_BYTES:
            return False
        state.block_bytes = smaller
    log.warning("out of memory; continuing with blocks of %g MiB", smaller / 2**20)
    return True


def compiled(function: Callable[..., Any], *shapes: tuple[int | None, ...]) -> Callable[..., Any]:
    """Compile a function of tensors into a TensorFlow graph.

    Parameters
    ----------
    function : callable
        Function of float32 tensors.
    *shapes : tuple of int or None
        Shape of each argument; None stands for any length.

    Returns
    -------
    callable
        Function of tensors or arrays with the same result.
    """
    import tensorflow as tf

    traced = tf.function(function, [tf.TensorSpec(shape) for shape in shapes], autograph=False)
    graph: Callable[..., Any] = traced.get_concrete_function()
    return graph


def _device() -> str:
    """Describe the device, with a hint if a GPU was requested and is not found."""
    if state.gpu is not None:
        return f"GPU {state.gpu}"
    device = f"CPU, {threads()} thread{'s' * (threads() != 1)}"
    requested = os.environ.get("CUDA_VISIBLE_DEVICES")
    if requested and requested != "-1":
        device += (f" (GPU {requested} was requested, but TensorFlow finds none; is tensorflow[and-cuda] "
                   "installed?)")
    return device


def _limit_blas() -> None:
    """Limit NumPy's matrix products to one thread: they are small, and several are computed at a time."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Suppress the start-up messages of compiled libraries, which no log level suppresses."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") < "2":
        yield
        return
    saved = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(devnull)
