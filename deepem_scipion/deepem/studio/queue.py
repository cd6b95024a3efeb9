# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of the work behind the page: what is in view first, then the rest."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Callable

from ..errors import DeepEMError
from ..picking.results import PickingResults
from .session import Session
from .worker import Worker, find, prepare, read_stored

log = logging.getLogger(__name__)

# Micrographs whose stored candidates are read at a time.
READ_AT_ONCE = 100

Job = Callable[[Worker], None]


class Queue:
    """A thread that runs jobs and, between them, finds the candidates of one micrograph after the other.

    Parameters
    ----------
    session : Session
    worker : Worker

    Attributes
    ----------
    when_idle : callable
        Called with the worker when there is nothing left to do.
    loaded : threading.Event
        Set unless stored candidates are being read.
    """

    def __init__(self, session: Session, worker: Worker) -> None:
        self._session, self._worker = session, worker
        self._jobs: list[Job] = []
        self._view, self._closed = "", False
        self._prepared = False
        self.loaded = threading.Event()
        self.loaded.set()
        self.when_idle: Job = lambda worker: None
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self.loaded.clear()
        self._thread.start()

    def view(self, name: str) -> None:
        """Take a micrograph, and those after it, before all others."""
        with self._wake:
            self._view = name
            self._wake.notify()

    def wake(self) -> None:
        """Look for micrographs without candidates again."""
        self.view(self._view)

    def reload(self) -> None:
        """Read the candidates that are stored again."""
        self.loaded.clear()
        self.add(lambda worker: self._load())

    def add(self, job: Job) -> None:
        """Run a job before any further micrograph; it is called with the worker."""
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def close(self) -> None:
        """Stop, and end the worker."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._worker.close()

    def _load(self) -> None:
        """Show the candidates that are stored."""
        self.loaded.clear()
        try:
            self._read()
        finally:
            self._session.all_read()
            self.loaded.set()

    def _read(self) -> None:
        settings = self._session.settings
        for results, names in self._session.stored():
            masks = self._masks(results, names)
            for first in range(0, len(names), READ_AT_ONCE):
                some = {name: masks.get(name) for name in names[first:first + READ_AT_ONCE]}
                other = {name: mask for name, mask in some.items() if mask is not None}
                parts = self._worker.call(read_stored, results, list(some), self._session.collection.max_distance_px,
                                          other, settings.tiff_rows)
                self._session.put_stored(parts, other, settings)

    def _masks(self, results: PickingResults, names: list[str]) -> dict[str, tuple[str | None, str]]:
        """Mask (or none) and micrograph of those whose stored candidates may know another: all but those of a run."""
        settings, began = self._session.settings, self._session.began_with()
        own = began is None or began.folder != results.folder
        known = {} if own else results.read_settings().masks
        return {name: (settings.masks.get(name), settings.micrographs[name]) for name in names
                if own or settings.masks.get(name) != known.get(name)}

    def _run(self) -> None:
        self._try(self._load)
        while not self._closed:
            with self._wake:
                job = self._jobs.pop(0) if self._jobs else None
                name = "" if job else self._session.waiting(self._view)
            if not job and not name:
                self._try(partial(self.when_idle, self._worker))
                if not self._prepared:
                    self._prepared = True
                    self._try(partial(self._worker.call, prepare))
                with self._wake:
                    if not self._jobs and not self._session.waiting() and not self._closed:
                        self._wake.wait()
                continue
            self._try(partial(job, self._worker) if job else partial(self._find, name))

    def _try(self, work: Callable[[], None]) -> None:
        """Work; a failure is shown, and the rest continues."""
        try:
            work()
        except Exception as error:
            log.debug("failed", exc_info=True)
            if not self._closed:
                self._session.report(problem=str(error))

    def _find(self, name: str) -> None:
        """Find the candidates of a micrograph, unless the settings change meanwhile."""
        settings = self._session.settings
        try:
            found = self._worker.call(find, settings.micrographs[name], name, settings.pixel_size_angst,
                                      settings.diameter_angst, settings.bright, settings.model, settings.tiff_rows,
                                      settings.masks.get(name))
        except DeepEMError as error:
            if not self._closed:
                self._session.fail(name, str(error), settings)
        else:
            self._session.put(name, found, settings)
