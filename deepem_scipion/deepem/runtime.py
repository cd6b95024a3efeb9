# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads of this process; for training also the start-up of TensorFlow: device, determinism, quiet start."""

from __future__ import annotations

import functools
import logging
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .errors import DeepEMError

log = logging.getLogger(__name__)


@dataclass
class State:
    """Settings of this process.

    Attributes
    ----------
    threads : int or None
        Number of threads given to `start`; None for one per available core.
    gpu : str or None
        Name of the GPU on which networks are trained; None for the CPU.
    started : bool
        Whether `start` was called.
    keras_started : bool
        Whether `start_keras` was called.
    """

    threads: int | None = None
    gpu: str | None = None
    started: bool = False
    keras_started: bool = False


state = State()


def start(number_of_threads: int | None = None) -> str:
    """Set the number of threads; called once before micrographs are scanned, which is done on the CPU.

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
        If the number is below 1.
    """
    _set_threads(number_of_threads)
    return _log_device(_cpu())


def start_keras(number_of_threads: int | None = None) -> str:
    """Import TensorFlow, set its threads and make its computations deterministic; called once before training.

    GPU memory is allocated as needed.

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
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise DeepEMError(f"KERAS_BACKEND is {backend!r}: expected tensorflow; unset this environment variable")
    _set_threads(number_of_threads)
    try:
        with _silent_stderr():
            state.gpu = start_tensorflow(number_of_threads)
    except ImportError as error:
        raise DeepEMError(f"training needs TensorFlow, which cannot be imported ({error}); in Python 3.10 to 3.12 "
                          "install it with: pip install 'scipion-em-deepem[program]'") from error
    except RuntimeError as error:
        raise DeepEMError(f"TensorFlow cannot be started with these settings ({error}); use a new process") from error
    state.keras_started = True
    return _log_device(_training_device())


def ensure_started() -> None:
    """Call `start` with its defaults unless it was called."""
    if not state.started:
        start()


def ensure_keras_started() -> None:
    """Call `start_keras` unless it was called, with the number of threads given to `start`."""
    if not state.keras_started:
        start_keras(state.threads)


def start_tensorflow(number_of_threads: int | None) -> str | None:
    """Import and configure TensorFlow; called by `start_keras`.

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
    for package in ("scipion-em-deepem", "tensorflow", "keras", "numpy", "llvmlite"):
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
    """Return the `threads` threads that compute the strips of all micrographs being scanned."""
    return ThreadPoolExecutor(threads(), "strip")


def on_gpu() -> bool:
    """Return whether networks are trained on a GPU."""
    return state.gpu is not None


def _set_threads(number: int | None) -> None:
    if number is not None and number < 1:
        raise DeepEMError(f"threads {number}: expected at least 1")
    state.threads = number
    pool.cache_clear()
    pool()  # created here, so that no two threads create one each
    _limit_blas()
    state.started = True


def _log_device(device: str) -> str:
    log.info("device: %s", device)
    return device


def _cpu() -> str:
    return f"CPU, {threads()} thread{'s' * (threads() != 1)}"


def _training_device() -> str:
    """Describe the device, with a hint if a GPU was requested and is not found."""
    if state.gpu is not None:
        return f"GPU {state.gpu}"
    requested = os.environ.get("CUDA_VISIBLE_DEVICES")
    if requested and requested != "-1":
        return (f"{_cpu()} (GPU {requested} was requested, but TensorFlow finds none; is tensorflow[and-cuda] "
                "installed?)")
    return _cpu()


def _limit_blas() -> None:
    """Limit NumPy's matrix products to one thread: they are small, and several micrographs are read at a time."""
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
