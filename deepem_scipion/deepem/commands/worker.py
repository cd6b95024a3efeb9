# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem worker`: pick batch after batch in one process, which loads the libraries once.

A request is a line with the arguments of `deepem pick` as a JSON list. The answer is a line with a JSON object:
`status`, the exit code, and `message`, the error message or nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import NoReturn

from ..errors import DeepEMError
from . import console, pick
from .arguments import Parser, add_threads, add_verbosity, protect_files

log = logging.getLogger("deepem")

SUMMARY = "for programs: pick batch after batch without restarting"
REQUIRED = ()
DESCRIPTION = (
    "Pick batch after batch, for use by other programs: libraries stay loaded. Each line of standard input "
    "is a request, the arguments of `deepem pick` without --threads as a JSON list. When it is done, the answer is "
    "written to standard output as a line with a JSON object: `status`, the exit code of `deepem pick`, and `message`, "
    "the error message if there was an error. The log goes to standard error. The worker exits when its input ends, "
    "even while a batch is being picked: wait for the answer.")
EPILOG = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem worker` to its parser."""
    add_threads(parser)


def run(options: argparse.Namespace) -> NoReturn:
    """Run `deepem worker`, which ends the process itself."""
    from .. import runtime

    runtime.start(options.threads)
    serve(run_pick)


def run_pick(arguments: Sequence[str]) -> tuple[int, str]:
    """Run `deepem pick` in a process that continues afterwards.

    Parameters
    ----------
    arguments : sequence of str
        Words after `deepem pick`.

    Returns
    -------
    status : int
        Exit code.
    message : str
        Error message; empty if there was no error.
    """
    parser = Parser(prog="deepem pick")
    pick.add_arguments(parser)
    add_verbosity(parser)
    try:
        options = parser.parse_args(protect_files(arguments))
    except SystemExit:
        return console.UNUSABLE, f"invalid arguments for `deepem pick`: {' '.join(arguments)}"
    try:
        if options.threads is not None:
            raise DeepEMError("--threads is an option of `deepem worker`, for all its batches; leave it out here")
        return pick.run(options, started=True), ""
    except DeepEMError as error:
        log.error("error: %s", error)
        return console.UNUSABLE, str(error)
    except Exception as error:
        log.exception("error: %s", error)
        return console.SOME_FAILED, f"{type(error).__name__}: {error}"


def serve(pick_batch: Callable[[list[str]], tuple[int, str]]) -> NoReturn:
    """Answer requests from standard input, and exit as soon as it ends, even while a batch is being picked.

    The input also ends when the calling process is killed, and then nobody needs the rest of the batch. Standard
    output is reserved for answers: other output goes to standard error.

    Parameters
    ----------
    pick_batch : callable
        Called with the arguments of a request; returns status and message.

    Raises
    ------
    DeepEMError
        A request is not a JSON list of strings.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    while True:
        status, message = pick_batch(parse_request(requests.get()))
        print(json.dumps({"status": status, "message": message}), file=answers, flush=True)


def parse_request(request: bytes) -> list[str]:
    """Parse a request; raises DeepEMError if it is not a JSON list of strings.

    Parameters
    ----------
    request : bytes
        A line of standard input.

    Returns
    -------
    list of str
        Arguments of `deepem pick`.
    """
    try:
        found = json.loads(request)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise DeepEMError(f"the request {request.strip().decode(errors='replace')}: expected the arguments of `deepem "
                          "pick` as a JSON list")
    return found


def _receive(requests: SimpleQueue[bytes]) -> None:
    # Not sys.stdin: a thread that waits for it would keep Python from shutting down.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            requests.put(line)
    os._exit(0)
