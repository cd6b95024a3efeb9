# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem worker`: pick batch after batch in one process, which loads the libraries once.

A request is a line with the arguments of `deepem pick` as a JSON list. The answer is a line with a JSON object:
`status`, the exit code, and `message`, the error message or nothing. With --model or --diameter a request is one
micrograph.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import DeepEMError
from . import console, pick
from .arguments import Parser, add_threads, add_verbosity, protect_files
from .limits import add_limits, chosen_limits
from .procedure import with_procedure

if TYPE_CHECKING:
    from ..picking.picker import Picker

log = logging.getLogger("deepem")

SUMMARY = "for programs: pick batch after batch without restarting"
REQUIRED = ()
DESCRIPTION = (
    "Pick batch after batch, for use by other programs: libraries stay loaded. Each line of standard input "
    "is a request, the arguments of `deepem pick` without --threads as a JSON list. When it is done, the answer is "
    "written to standard output as a line with a JSON object: `status`, the exit code of `deepem pick`, and `message`, "
    "the error message if there was an error. The log goes to standard error. The worker exits when its input ends, "
    "even while a batch is being picked: wait for the answer. With --model, or --diameter for the general model, a "
    "request is one micrograph instead, as a "
    "JSON object: `micrograph`, the file, and optionally `pixel_size` in angstrom, `name`, `picture`, a JPEG file to "
    "write, and `mask`. The answer is a JSON object with `status` (`ok`, also without a pick, or `failed`), `picks`, "
    "`scores`, `diameter_angst`, `box_px`, `picture` and others. Requests that came before the end of the input are "
    "then still answered.")
EPILOG = """examples:
  echo '{"micrograph": "mics/a.mrc", "picture": "a.jpg"}' |
      deepem worker --model apoferritin.deepem"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem worker` to its parser."""
    add_threads(parser)
    group = parser.add_argument_group("micrograph by micrograph")
    pick.add_model(group)
    pick.add_force(group)
    add_limits(parser)
    pick.add_scan(parser.add_argument_group("scan"))


def run(options: argparse.Namespace) -> NoReturn:
    """Run `deepem worker`, which ends the process itself."""
    from .. import runtime

    if options.model is None and options.diameter is None:
        runtime.start(options.threads)
        serve(lambda request: dict(zip(("status", "message"), run_pick(parse_request(request)))))
    from ..picking.picker import Picker

    model = with_procedure(pick.chosen_model(options), options)
    limits = chosen_limits(options, model)
    runtime.start(options.threads)
    picker = Picker(model, limits, options.scan_step, options.rotations)
    serve(lambda request: pick_one(picker, request, options.force), to_the_end=True)


def pick_one(picker: Picker, request: bytes, any_scale: bool = False) -> dict[str, Any]:
    """Pick the micrograph of a request.

    Parameters
    ----------
    picker : Picker
    request : bytes
        A line of standard input.
    any_scale : bool
        See `message.pick_message`.

    Returns
    -------
    dict
        See `message.pick_message`; with the status "failed" also for a request that cannot be understood.
    """
    from ..picking.message import pick_message

    try:
        found = json.loads(request)
    except (ValueError, RecursionError):
        found = None
    kinds: dict[Any, tuple[type, ...]] = {
        "micrograph": (str,), "name": (str,), "picture": (str,), "mask": (str,), "pixel_size": (int, float)}
    if not isinstance(found, dict) or "micrograph" not in found or not all(
            name in kinds and isinstance(value, kinds[name]) for name, value in found.items()):
        return {"status": "failed", "reason": f"the request {request.strip().decode(errors='replace')}: expected a "
                f"JSON object with `micrograph` and, optionally, {', '.join(f'`{name}`' for name in list(kinds)[1:])}"}
    size = found.pop("pixel_size", None)
    return pick_message(picker, found.pop("micrograph"), size, any_scale=any_scale, **found)


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


def serve(answer: Callable[[bytes], Mapping[str, Any]], to_the_end: bool = False) -> NoReturn:
    """Answer requests from standard input, and exit as soon as it ends, even while a batch is being picked.

    The input also ends when the calling process is killed, and then nobody needs the rest of the batch. Standard
    output is reserved for answers: other output goes to standard error.

    Parameters
    ----------
    answer : callable
        Called with a request; returns what is written as a JSON object.
    to_the_end : bool
        Whether requests that came before the end of the input are still answered.

    Raises
    ------
    DeepEMError
        A request is not a JSON list of strings.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: SimpleQueue[bytes | None] = SimpleQueue()
    threading.Thread(target=_receive, args=(requests, to_the_end), daemon=True).start()
    while (request := requests.get()) is not None:
        print(json.dumps(answer(request)), file=answers, flush=True)
    os._exit(0)


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


def _receive(requests: SimpleQueue[bytes | None], to_the_end: bool) -> None:
    # Not sys.stdin: a thread that waits for it would keep Python from shutting down.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            requests.put(line)
    if not to_the_end:
        os._exit(0)
    requests.put(None)
