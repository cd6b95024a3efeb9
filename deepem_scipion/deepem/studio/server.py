# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of the studio: the page, and what it asks for."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import DeepEMError
from .choosing import Choice
from .guard import Guard
from .pictures import Look, Pictures
from .queue import Queue
from .session import Session
from .teacher import Teacher
from .views import Views

log = logging.getLogger(__name__)

# Pages whose last answer is kept.
MAX_PAGES = 20
STATIC = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Api:
    """Answers of the server.

    Parameters
    ----------
    session : Session
    queue : Queue
        Learns what is in view.
    close : callable
        Ends the server.
    choice : Choice, optional
        The button that hands values back.
    """

    def __init__(self, session: Session, queue: Queue, close: Callable[[], None], choice: Choice | None = None) -> None:
        self.session, self.queue, self._close, self._choice = session, queue, close, choice
        self.teacher, self.pictures = Teacher(session, queue), Pictures(session.settings.tiff_rows)
        self.views = Views(session, self.teacher)
        queue.when_idle = lambda worker: self.teacher.when_all_found()

    def app(self, token: str, host: str = "127.0.0.1") -> Guard:
        """Return the ASGI application; see `Guard` for the parameters."""
        answers: Mapping[str, Callable[..., Any]] = {
            "session": self.describe, "changes": self.changes, "shown/{number:int}": self.shown,
            "micrograph/{number:int}": self.micrograph, "evaluation": self.evaluation,
            "tile/{number:int}/{level:int}/{column:int}/{row:int}": self.tile, "scores/{number:int}": self.score_map}
        actions: Mapping[str, Callable[..., Any]] = {
            "limits": self.limits, "edit/{number:int}": self.edit, "undo": self.undo, "redo": self.redo,
            "settings": self.settings, "learn": self.learn, "cancel": self.cancel, "take": self.take,
            "back": self.back, "save": self.save}
        ends = {"choose": self.choose, "close": self.close}
        once = _Once()
        routes = [Route("/", _static_file), Route("/static/{name}", _static_file)]
        routes += [Route(f"/api/{path}", _answer(function)) for path, function in answers.items()]
        routes += [Route(f"/api/{path}", _answer(function, once), methods=["POST"])
                   for path, function in actions.items()]
        # The page hears of the end before the server stops to answer.
        routes += [Route(f"/api/{path}", _answer(function, once, self._close), methods=["POST"])
                   for path, function in ends.items()]
        return Guard(Starlette(routes=routes), token, host)

    # -- what is shown

    def describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What does not change, and the list of micrographs."""
        choice = {"choice": self._choice.label if self._choice else None}
        return {**self.views.description(), **choice, **self.views.summary()}

    def changes(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until the version differs from `since`; returns the version."""
        self.session.wait(_whole(request, "since"))
        return {"version": self.session.version}

    def shown(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The list of micrographs, and the micrograph in view; -1 for none."""
        return self._both(_whole(request, "number"))

    def micrograph(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One micrograph with its circles; it and those after it are picked first."""
        number = _whole(request, "number")
        self.queue.view(self.session.name(number))
        return self.views.micrograph(number)

    def tile(self, request: Mapping[str, Any]) -> bytes:
        """A tile of a micrograph as JPEG file."""
        path = self.session.path(_whole(request, "number"))
        pixel_size, diameter = self.session.settings.pixel_size_angst, self.session.settings.diameter_angst
        low_pass = max(0.0, min(_number(request, "low_pass", 0.0), diameter)) / pixel_size
        look = Look(low_pass, diameter / pixel_size if _number(request, "flat", 0.0) else 0.0)
        level, column, row = (_whole(request, key) for key in ("level", "column", "row"))
        return self.pictures.tile(path, level, column, row, look)

    def score_map(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The score map of a micrograph: its place in pixels of the micrograph, and values from 0 to 255."""
        return self.views.score_map(_whole(request, "number"))

    def evaluation(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Figures and curves of the picks against the reference coordinates."""
        return self.views.comparison.figures()

    # -- what is done

    def limits(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Apply those of the limits that are sent; returns the list, and the micrograph in view."""
        if not {"threshold", "distance", "border", "ranged"} & request.keys():
            raise DeepEMError("expected threshold, distance, border, or ranged with low and high")
        number = _whole(request, "number")
        with self.session.changed:
            now = self.session.settings.limits
            std_range = now.std_range
            if "ranged" in request:
                std_range = (_number(request, "low"), _number(request, "high")) if request["ranged"] is True else None
            self.session.set_limits(_number(request, "threshold", now.threshold),
                                    _number(request, "distance", now.min_distance_angst), std_range,
                                    border_angst=_number(request, "border", now.border_angst))
        return self._both(number)

    def edit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Edit the marks of a micrograph; returns the list, the micrograph, and whether anything was there to edit."""
        number = _whole(request, "number")
        return {"changed": self.session.edit(number, request), **self._both(number)}

    def undo(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take back the last edit; returns the list, and its micrograph."""
        return self._both(self.session.undo())

    def redo(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Make the last edit again; returns the list, and its micrograph."""
        return self._both(self.session.undo(redo=True))

    def settings(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Change diameter, box or contrast of suggestions; returns the list, and the micrograph in view."""
        changes: dict[str, Any] = {}
        if "diameter" in request:
            changes["diameter_angst"] = _number(request, "diameter")
        if "box" in request:
            changes["box_px"] = _whole(request, "box")
        if "bright" in request:
            changes["bright"] = request["bright"] is True
        self.session.adjust(**changes)
        self.queue.wake()
        return self._both(_whole(request, "number"))

    def learn(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Learn from the marks; with `final` longer, and then pick and save everything."""
        self.teacher.learn(request.get("final") is True)
        return self._both(-1)

    def cancel(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Give up learning or finishing."""
        self.teacher.cancel()
        return self._both(-1)

    def take(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take the model that was worse."""
        self.teacher.take()
        return self._both(-1)

    def back(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return to the model before."""
        self.teacher.back()
        return self._both(-1)

    def save(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write picks and model; returns the folder."""
        return {"folder": str(self.teacher.save())}

    def choose(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Hand the values in force back, and end the server."""
        if self._choice is None:
            raise DeepEMError("nobody waits for values: the studio was opened without --choose")
        self._choice.write(self.session.settings)
        return self.close(request)

    def close(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """End the server after the answer; everything is saved. Returns where picks were saved, if they were."""
        view = self.teacher.view()
        return {"saved": view["saved"], "stored": view["stored"]}

    def _both(self, number: int) -> dict[str, Any]:
        return {"summary": self.views.summary(), "micrograph": self.views.micrograph(number) if number >= 0 else {}}


class _Once:
    """Does what a page asks for once, also if its browser sends the request again after a broken connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, tuple[str | None, Any]] = {}  # by page: number, answer

    def __call__(self, headers: Mapping[str, str], act: Callable[[], Any]) -> Any:
        """Act, or return what the last request of this page returned if it is the same one."""
        page, number = headers.get("x-page"), headers.get("x-number")
        if page is None:
            return act()
        with self._lock:
            known = self._last.pop(page, None)
            self._last[page] = found = known if known and known[0] == number else (number, act())
            if len(self._last) > MAX_PAGES:
                self._last.pop(next(iter(self._last)))
            return found[1]


def _answer(function: Callable[[Mapping[str, Any]], Any], once: _Once | None = None,
            after: Callable[[], None] | None = None) -> Callable[[Request], Awaitable[Response]]:
    """Endpoint of a function of the request's values, run in a thread, and of one that is run after a good answer."""

    async def endpoint(request: Request) -> Response:
        values: dict[str, Any] = dict(request.query_params)
        try:
            if request.method == "POST":
                sent = json.loads(await request.body() or b"{}")
                if not isinstance(sent, dict):
                    raise DeepEMError("expected a JSON object")
                values.update(sent)
            values.update(request.path_params)
            act = partial(function, values)
            found = await (run_in_threadpool(once, request.headers, act) if once else run_in_threadpool(act))
        except (DeepEMError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
            return _json({"problem": str(error)}, 400)
        except Exception as error:
            log.exception("the request %s failed", request.url.path)
            return _json({"problem": f"internal error ({type(error).__name__}: {error})"}, 500)
        answer = Response(found, media_type="image/jpeg") if isinstance(found, bytes) else _json(found)
        answer.background = BackgroundTask(after) if after else None
        return answer

    return endpoint


def _json(found: Any, status: int = 200) -> Response:
    # ASCII, because the names of files need not be valid UTF-8.
    return Response(json.dumps(found, allow_nan=False), status, media_type="application/json")


async def _static_file(request: Request) -> Response:
    """One of the files of the page, which belong to the package."""
    name = request.path_params.get("name", "index.html")
    folder = Path(__file__).parent / "static"
    if name not in {each.name for each in folder.iterdir()}:
        return Response("not found", 404)
    return Response((folder / name).read_bytes(), media_type=STATIC[Path(name).suffix])


def _number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    found = values.get(key, default)
    try:
        number = float(found)
        if not abs(number) < 1e9 or isinstance(found, bool):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DeepEMError(f"{key} {str(found)[:50]!r}: expected a number") from None
    return number


def _whole(values: Mapping[str, Any], key: str) -> int:
    return int(_number(values, key))
