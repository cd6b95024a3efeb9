# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start of the numerical libraries: threads, device, determinism, memory, and silence about what concerns nobody.

Network and scan are written with `keras.ops`. TensorFlow is the backend that is installed and tested throughout; where
the environment variable KERAS_BACKEND says `jax` or `torch`, training and picking run on those.
"""

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
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from .errors import DeepEMError

log = logging.getLogger(__name__)

# What a thread of a processor, or a GPU, convolves and pools at a time.
BLOCK_BYTES = {"CPU": 12 * 2**20, "GPU": 512 * 2**20}
MIN_BLOCK_BYTES = 2**20
_PACKAGES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
_GPU_HINTS = {"tensorflow": "is tensorflow[and-cuda] installed?", "jax": "is jax[cuda12] installed?",
              "torch": "was PyTorch installed with CUDA?"}

_threads: int | None = None
_kind = "CPU"
_block_bytes: int | None = None
_halving = threading.Lock()


def start(number_of_threads: int | None = None) -> str:
    """Import the backend, set its threads and let GPU memory grow; returns and logs the device in words.

    To be called once, before the network or the scan is used. Computations are set to be deterministic.

    Parameters
    ----------
    number_of_threads : int, optional
        For all libraries together; by default one for each core that the process may use.

    Raises
    ------
    DeepEMError
        Where the backend is not installed, cannot be imported, or was started with other settings already.
    """
    global _threads, _kind
    if number_of_threads is not None and number_of_threads < 1:
        raise DeepEMError(f"threads {number_of_threads}: expected at least 1")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in _PACKAGES:
        raise DeepEMError(f"KERAS_BACKEND is {backend!r}: expected one of {', '.join(_PACKAGES)}")
    _threads = number_of_threads
    pool.cache_clear()
    direct_at_a_time.cache_clear()
    try:
        with _silent_stderr():
            gpu = {"tensorflow": _start_tensorflow, "jax": _start_jax, "torch": _start_torch}[backend](_threads)
    except ImportError as error:
        raise DeepEMError(f"{_PACKAGES[backend]} cannot be imported ({error}); try: pip install {backend}") from error
    except RuntimeError as error:
        raise DeepEMError(f"{_PACKAGES[backend]} cannot be started with these settings ({error}); start it in a new "
                          "process") from error
    _limit_blas()
    pool(), direct_at_a_time()  # made here, so that no two threads make one
    _kind = "CPU" if gpu is None else "GPU"
    if gpu is None:
        device = f"CPU, {threads()} threads"
        asked = os.environ.get("CUDA_VISIBLE_DEVICES")
        if asked and asked != "-1":
            device += f" (GPU {asked} was asked for, but {_PACKAGES[backend]} sees none; {_GPU_HINTS[backend]})"
    else:
        device = f"GPU {gpu}"
    log.info("device: %s", device if backend == "tensorflow" else f"{device} ({_PACKAGES[backend]})")
    return device


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in ("scipion-em-deepem", os.environ.get("KERAS_BACKEND", "tensorflow"), "keras", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def threads() -> int:
    """Threads that computations may use."""
    return _threads or len(os.sched_getaffinity(0))


@functools.cache
def pool() -> ThreadPoolExecutor:
    """So many threads, which share the blocks of all micrographs that are being scanned."""
    return ThreadPoolExecutor(threads(), "block")


@functools.cache
def direct_at_a_time() -> threading.Semaphore:
    """To be held during a direct convolution: it uses several threads itself, and two would hinder one another."""
    return threading.Semaphore(max(1, threads() // 2))


def on_gpu() -> bool:
    """Whether the network is computed on a GPU."""
    return _kind == "GPU"


def block_bytes() -> int:
    """Bytes of a layer's maps that are worked on at a time."""
    return BLOCK_BYTES[_kind] if _block_bytes is None else _block_bytes


def halve_blocks(error: Exception, tried: int) -> bool:
    """Halve `block_bytes` if an error says that memory is short; False where it does not, or they are small already.

    `tried` are the bytes of the blocks that did not fit. Where another micrograph has had them halved in the meantime
    they stay as they are.
    """
    global _block_bytes
    text = f"{type(error).__name__} {error}".lower()
    if not re.search(r"memoryerror|out ?of ?memory|resource_?exhausted|\boom\b", text):
        return False
    with _halving:
        if block_bytes() < tried:
            return True
        smaller = tried // 2
        if smaller < MIN_BLOCK_BYTES:
            return False
        _block_bytes = smaller
    log.warning("out of memory; going on with blocks of %g MiB", smaller / 2**20)
    return True


def compiled(function: Callable[..., Any], *shapes: tuple[int | None, ...]) -> Callable[..., Any]:
    """A function of float32 tensors of given shapes as the backend's compiler makes it faster; None is any length."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        traced = tf.function(function, [tf.TensorSpec(shape) for shape in shapes], autograph=False)
        faster: Callable[..., Any] = traced.get_concrete_function()
        return faster
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor as an array, without a copy where it lies in the processor's memory."""
    import keras

    return keras.ops.convert_to_numpy(tensor) if on_gpu() else np.asarray(tensor)


def _start_tensorflow(threads: int | None) -> str | None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    if not gpus:
        return None
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name))


def _start_jax(threads: int | None) -> str | None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if threads is not None:
        flags = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    import jax

    # Else all blocks wait for one thread.
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]
    device = jax.devices()[0]
    return None if device.platform == "cpu" else str(device.device_kind)


def _start_torch(threads: int | None) -> str | None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _limit_blas() -> None:
    """One thread for NumPy's matrix products: they are small, and several are worked on at a time."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep the start-up chatter of compiled libraries, which no log level reaches, off the terminal."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") < "2":
        yield
        return
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
