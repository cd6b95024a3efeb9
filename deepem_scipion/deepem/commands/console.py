# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Output of the program: lines in a log, or a progress bar and colours on a terminal."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

log = logging.getLogger("deepem")

# Exit codes of the program.
OK, SOME_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m"}
_PLAIN = "\x1b[0m"


class ShowProgress(Protocol):
    """Shows progress: the number of steps done, a text, and more text for logs only."""

    def __call__(self, done: float, text: str, more: str = "") -> None:
        """Show that a number of steps is done."""


def start_logging(debug: bool, quiet: bool) -> None:
    """Send log records to standard error.

    Parameters
    ----------
    debug : bool
        Include debug records of the program.
    quiet : bool
        Only warnings and errors. Those of other packages are always included, their other records never.
    """
    handler = _Handler()
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    if getattr(sys.stdout, "errors", None) == "strict":  # file names may have letters that the encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for name in ("deepem", "deepem_scipion"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)


def print_result(text: str) -> None:
    """Print a result to standard output, unless `start_logging` was called with `quiet`."""
    if log.isEnabledFor(logging.INFO):
        print_always(text)


def print_always(text: str) -> None:
    """Print to standard output, also with `quiet`; nothing is printed where its reader, such as `head`, has ended."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # files may still have to be written
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def on_terminal() -> bool:
    """Return whether standard error is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(total: int | None) -> Iterator[ShowProgress]:
    """Show progress, as a bar on a terminal and as lines in a log.

    Parameters
    ----------
    total : int, optional
        Number of steps. None: it is unknown, and the elapsed time is shown.

    Yields
    ------
    ShowProgress
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


def describe_error(error: Exception) -> str:
    """Return one sentence about an unexpected error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (f"deepem needs {error.name.partition('.')[0]}, which is not installed. In Python 3.10 to 3.12 install "
                "what the program needs with: pip install 'scipion-em-deepem[program]'")
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or use fewer --threads"
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (f"internal error ({what}); run the same command with --debug and send its output to the developers")


class _Handler(logging.StreamHandler):
    """Writes to the current standard error: the progress bar replaces it to print lines above itself."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class _Formatter(logging.Formatter):
    """Colours warnings and errors on a terminal, unless the variable NO_COLOR is set."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        colour = _COLOURS.get(record.levelno)
        return f"{colour}{text}{_PLAIN}" if colour and on_terminal() and not os.environ.get("NO_COLOR") else text
