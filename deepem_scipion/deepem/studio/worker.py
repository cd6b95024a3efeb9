# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process beside the server that finds candidates and trains, so that the page never waits for it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from ..coordinates.masks import read_mask
from ..errors import DeepEMError
from ..micrographs.micrograph import read_shape
from ..picking.candidates import Candidates
from ..picking.picker import Picker
from ..picking.results import PickingResults
from ..picking.review import Part, review_part

OK, PROGRESS, PROBLEM = "ok", "progress", "problem"


class Cancelled(Exception):
    """What is being done is no longer wanted."""


class Worker:
    """Starts the process, and calls functions in it, one at a time.

    The process stays, with libraries and model loaded, until `close` or until this process ends, however it ends.

    Parameters
    ----------
    threads : int, optional
        Number of CPU threads; default: all.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._process: Any = None
        self._connection: Connection | None = None

    def call(self, function: Callable[..., Any], *values: Any,
             progress: Callable[[Any], None] = lambda found: None) -> Any:
        """Call a function in the process.

        Parameters
        ----------
        function : callable
            At the top of a module. It is called with the state of the process, a `WorkerState`, and the values.
        *values
            Arguments that can be pickled.
        progress : callable
            Called with each object that the function reports; may raise `Cancelled`, which ends the process.

        Returns
        -------
        object
            What the function returns.

        Raises
        ------
        DeepEMError
            The function raised it, or the process ended.
        Cancelled
            `progress` raised it.
        """
        connection = self._started()
        try:
            connection.send((function, values))
            while True:
                kind, found = connection.recv()
                if kind == OK:
                    return found
                if kind == PROBLEM:
                    raise DeepEMError(found)
                progress(found)
        except (EOFError, OSError) as error:
            self.close()
            raise DeepEMError("the process that finds particles ended unexpectedly, perhaps for lack of memory; it is "
                              "started again when it is needed") from error
        except Cancelled:
            self.close()  # it would go on
            raise

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.join()

    def _started(self) -> Connection:
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
            self._process.start()
            theirs.close()
            self._connection = ours
        assert self._connection is not None
        return self._connection


class WorkerState:
    """What the process keeps between calls.

    Attributes
    ----------
    report : callable
        Sends an object to the `progress` of the call.
    """

    def __init__(self, threads: int | None, report: Callable[[Any], None]) -> None:
        self.report, self._threads = report, threads
        self._picker: tuple[object, Picker] | None = None
        self._keras = threading.Lock()

    def start(self) -> None:
        """Start the network backend, the first time."""
        from .. import runtime

        if not runtime.state.started:
            runtime.start(self._threads)

    def start_keras(self) -> None:
        """Start what trains networks, the first time; raises DeepEMError where it is not installed."""
        from .. import runtime

        self.start()
        with self._keras:
            runtime.ensure_keras_started()

    def picker(self, model: str) -> Picker:
        """Return the picker of a model file, which is loaded unless it was the last one."""
        from ..model.files import load_model

        self.start()
        key = model, os.stat(model).st_mtime if os.path.exists(model) else 0.0
        if self._picker is None or self._picker[0] != key:
            self._picker = key, Picker(load_model(model))
        return self._picker[1]

    def starting_picker(self, diameter_angst: float, bright: bool) -> Picker:
        """Return the picker of the general model."""
        from ..model.general import CONTRASTS, general_model

        self.start()
        key = diameter_angst, bright
        if self._picker is None or self._picker[0] != key:
            self._picker = key, Picker(general_model(diameter_angst, CONTRASTS[bright]))
        return self._picker[1]


def find(state: WorkerState, path: str, name: str, pixel_size_angst: float, diameter_angst: float, bright: bool,
         model: str | None, tiff_rows: str = "bottom", mask: str | None = None) -> Candidates:
    """Find the candidates of a micrograph with a model or, without one, with the general model."""
    picker = state.picker(model) if model else state.starting_picker(diameter_angst, bright)
    micrograph = picker.model.read_micrograph(path, pixel_size_angst, name, tiff_rows)
    return picker.candidates(micrograph, read_mask(mask, path, micrograph.input_shape, tiff_rows) if mask else None)[0]


def prepare(state: WorkerState) -> None:
    """Start in the background what trains networks, so that learning need not wait for it."""

    def run() -> None:
        with contextlib.suppress(DeepEMError):
            state.start_keras()

    threading.Thread(target=run, daemon=True).start()


def read_stored(state: WorkerState, results: PickingResults, names: list[str], max_distance_px: float,
                masks: Mapping[str, tuple[str | None, str]], tiff_rows: str = "bottom") -> dict[str, Part]:
    """Read stored candidates, of some with other masks (or none); micrographs that cannot be read are left out."""
    found = {}
    for name in names:
        with contextlib.suppress(DeepEMError):
            candidates, reasons = results.read_candidates(name)
            if name in masks:
                mask, micrograph = masks[name]
                masked = np.zeros(len(candidates.scores))
                if mask:
                    shape = read_shape(micrograph)
                    masked = read_mask(mask, micrograph, shape, tiff_rows).at(candidates.centres_xy, shape)
                candidates = replace(candidates, masked=masked)
            found[name] = review_part(candidates, reasons, max_distance_px)
    return found


def _serve(connection: Connection, threads: int | None) -> None:
    """Answer calls until the other process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    state = WorkerState(threads, lambda found: connection.send((PROGRESS, found)))
    while True:
        try:
            function, values = connection.recv()
        except EOFError:
            return
        try:
            connection.send((OK, function(state, *values)))
        except DeepEMError as error:
            connection.send((PROBLEM, str(error)))
        except Exception as error:  # one micrograph does not end the session
            connection.send((PROBLEM, f"{type(error).__name__}: {error}"))


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(0)
