# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program tells: lines in a log, or a progress bar and colours where somebody sits at a terminal."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

log = logging.getLogger("deepem")

_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m"}
_PLAIN = "\x1b[0m"


class Tell(Protocol):
    """Tells how far something is: steps done, text for people, and more text that only a log shows."""

    def __call__(self, done: float, text: str, more: str = "") -> None: ...


def start(debug: bool, quiet: bool) -> None:
    """Send log records to standard error: those of others from warnings on, the program's own as asked for."""
    handler = _Handler()
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("deepem", "deepem_scipion"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)


def say(text: str) -> None:
    """Print a result, unless the program was asked to be quiet."""
    if log.isEnabledFor(logging.INFO):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def on_terminal() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(total: int | None) -> Iterator[Tell]:
    """Show how far something is: by a bar on a terminal, by lines in a log otherwise.

    Parameters
    ----------
    total : steps of the whole, or None where the end is not known: then the time that has passed is shown.
    """
    if not (on_terminal() and log.isEnabledFor(logging.INFO)):
        yield lambda done, text, more="": log.info("%s%s", text, more)
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column

    numbers: tuple[bars.ProgressColumn, ...] = (bars.TimeElapsedColumn(),)
    if total is not None:
        numbers = (bars.TaskProgressColumn(), bars.TimeRemainingColumn())
    text_column = bars.TextColumn("{task.description}", markup=False,
                                  table_column=Column(no_wrap=True, overflow="ellipsis"))
    with bars.Progress(bars.BarColumn(24), *numbers, text_column, console=Console(stderr=True), transient=True,
                       redirect_stdout=False, speed_estimate_period=math.inf) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text, more="": bar.update(task, completed=done, description=text)


def reason(error: Exception) -> str:
    """One sentence about an error that nobody foresaw."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "there is not enough memory; close other programs, or give fewer --threads"
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (f"deepem stopped by a fault of its own ({what}); the same command with --debug shows where, please send "
            "that to the developers")


class _Handler(logging.StreamHandler):
    """Writes to what is standard error at the moment: the progress bar puts lines above itself by replacing it."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class _Formatter(logging.Formatter):
    """Colours warnings and errors on a terminal, unless the variable NO_COLOR forbids it."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        colour = _COLOURS.get(record.levelno)
        return f"{colour}{text}{_PLAIN}" if colour and on_terminal() and not os.environ.get("NO_COLOR") else text
