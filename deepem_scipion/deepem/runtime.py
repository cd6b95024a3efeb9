# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start of TensorFlow: threads, device, determinism, and silence about what does not concern the user."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import DeepEMError

log = logging.getLogger(__name__)


def start(threads: int | None = None) -> str:
    """Import TensorFlow, set its threads and let GPU memory grow; returns and logs the device in words.

    To be called once, before the network or the scan is used. Computations are set to be deterministic.

    Raises
    ------
    DeepEMError
        Where TensorFlow is not installed, cannot be imported, or was started with other settings already.
    """
    if threads is not None and threads < 1:
        raise DeepEMError(f"threads {threads}: expected at least 1")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _silent_stderr():
            import tensorflow as tf

            gpus = tf.config.list_physical_devices("GPU")
    except ImportError as error:
        raise DeepEMError(f"TensorFlow cannot be imported ({error}); try: pip install tensorflow") from error
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        device = f"GPU {details.get('device_name', gpus[0].name)}"
    else:
        device = f"CPU, {threads or len(os.sched_getaffinity(0))} threads"
        asked = os.environ.get("CUDA_VISIBLE_DEVICES")
        if asked:
            device += f" (GPU {asked} was asked for, but TensorFlow sees none; is tensorflow[and-cuda] installed?)"
    log.info("device: %s", device)
    return device


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep the start-up chatter of compiled libraries, which no log level reaches, off the terminal."""
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] < "2":
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
