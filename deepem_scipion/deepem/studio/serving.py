# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serving a session: its address, its end, and the browser."""

from __future__ import annotations

import contextlib
import html
import logging
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeepEMError
from .choosing import Choice
from .project import StudioProject
from .queue import Queue
from .server import Api
from .session import Session
from .settings import StudioSettings
from .worker import Worker

log = logging.getLogger(__name__)

# The first free port from here on is used, so that the address is often the same.
FIRST_PORT, PORTS = 8642, 50
WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Address:
    """Where the page is.

    Attributes
    ----------
    host : str
    port : int
    token : str
        Whoever knows it may use the page.
    """

    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """The address to open."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "127.0.0.1") else self.host
        return f"http://{host}:{self.port}/#{self.token}"


def serve(project: StudioProject, settings: StudioSettings, host: str = "127.0.0.1", port: int | None = None,
          threads: int | None = None, save: bool = False, choice: Choice | None = None,
          ready: Callable[[Address], None] = lambda address: None) -> None:
    """Serve a session until it is closed, interrupted, or the process that started this one ends.

    Parameters
    ----------
    project : StudioProject
        Open; it is closed at the end.
    settings : StudioSettings
    host : str
        Interface to listen on; the default cannot be reached from other machines.
    port : int, optional
        Default: the first free one from `FIRST_PORT` on.
    threads : int, optional
        Number of CPU threads that find particles; default: all.
    save : bool
        Whether to save all picks at the end, also if none were saved before.
    choice : Choice, optional
        A button of the page that hands values back.
    ready : callable
        Called with the address once it can be opened.

    Raises
    ------
    DeepEMError
        There is no free port, or a file of the session cannot be read.
    """
    parent = os.getppid()  # before anybody knows of the address: it may end as soon as it does
    with contextlib.ExitStack() as last:
        last.callback(project.close)
        listening = last.enter_context(_listen(host, port))
        session = Session(project, settings)
        last.callback(session.close)
        queue = Queue(session, Worker(threads))
        last.callback(queue.close)
        address = Address(host, listening.getsockname()[1], secrets.token_urlsafe(24))

        ended = threading.Event()
        server = _Server(session, queue, address, ended, choice)
        last.callback(ended.wait)
        last.callback(server.stop)
        server.api.teacher.saves_at_end = save
        server.start(listening)
        queue.start()
        while not server.started and not ended.wait(0.02):
            pass
        ready(address)
        with contextlib.suppress(KeyboardInterrupt):
            while os.getppid() == parent and not ended.wait(WATCH_SECONDS):
                session.save_limits()
        if save or _is_outdated(session, queue):
            server.api.teacher.save()


def _is_outdated(session: Session, queue: Queue) -> bool:
    """Whether picks were saved, and those that are shown now may be others or of further micrographs."""
    project, output = session.project, session.project.output
    if not output.path("star").exists():
        return False
    queue.loaded.wait()
    session.save()
    if lost := [name for name in session.names if output.has_picks(name) and not session.collection.is_expected(name)]:
        log.warning("warning: %d micrographs, for instance %s, are not picked yet with the model in use: the picks "
                    "that were saved before stay. Open the session again to save those that it shows", len(lost),
                    lost[0])
        return False
    return project.saved_state() != project.state() or any(
        session.collection.found(name) and project.is_stated(name, session.settings) and not output.has_picks(name)
        for name in session.names)


class _Server:
    """Uvicorn in a thread, because here signals are for the program."""

    def __init__(self, session: Session, queue: Queue, address: Address, ended: threading.Event,
                 choice: Choice | None) -> None:
        import uvicorn

        self._session, self._ended = session, ended
        self.api = Api(session, queue, self.stop, choice)
        self._server = uvicorn.Server(uvicorn.Config(
            self.api.app(address.token, address.host), log_level="error", access_log=False, lifespan="off", ws="none",
            http="h11", server_header=False, proxy_headers=False, timeout_graceful_shutdown=2))

    @property
    def started(self) -> bool:
        """Whether the page can be opened."""
        return bool(self._server.started)

    def start(self, listening: socket.socket) -> None:
        """Begin; the event is set at the end: a signal that interrupts join() would make Python forget the thread."""
        threading.Thread(target=self._run, args=(listening,), daemon=True).start()

    def stop(self) -> None:
        """End, and answer pages that wait for a change."""
        self._server.should_exit = True
        self._session.touch()

    def _run(self, listening: socket.socket) -> None:
        try:
            self._server.run([listening])
        finally:
            self._ended.set()


def open_browser(address: Address, folder: Path) -> bool:
    """Open the page in the browser of the desktop, without showing the token to other users of the machine.

    Parameters
    ----------
    address : Address
    folder : Path
        A file that leads to the page is written there, which only its owner can read: a command line could be read by
        all.

    Returns
    -------
    bool
        Whether there is a desktop with a browser.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    path = folder / "open.html"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f'<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="refresh" content="0; '
                   f'url={html.escape(address.url)}"><title>DeepEM studio</title>')
    return webbrowser.open(path.absolute().as_uri())


@contextlib.contextmanager
def _listen(host: str, port: int | None) -> Iterator[socket.socket]:
    """A socket on the port, or on the first free one."""
    tried = [port] if port is not None else [*range(FIRST_PORT, FIRST_PORT + PORTS), 0]
    problem: OSError | None = None
    for each in tried:
        listening = socket.socket()
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, each))
            listening.listen()
        except OSError as error:
            problem = error
            listening.close()
            continue
        with listening:
            yield listening
        return
    raise DeepEMError(f"{host}, port {tried[0]}: cannot be used ({problem}); give another one with --port")
