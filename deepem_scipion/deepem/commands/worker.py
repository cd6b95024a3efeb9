# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking of batch after batch by one process, which loads the libraries and compiles the network once.

`serve` is what `deepem worker` does; `Worker` is the side of the program that it works for. A request is a line with
the arguments of `deepem pick` as a JSON list, the answer a line with a JSON object: `status`, the exit status, and
`message`, the error in words or nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, NoReturn

from ..errors import DeepEMError


def serve(pick: Callable[[list[str]], tuple[int, str]]) -> NoReturn:
    """Answer requests from standard input, and leave the process as soon as that ends, even amid a batch.

    Whoever asked closes the input by being killed, too, and nobody wants the rest of the batch then. Standard output
    is for answers alone: what is printed otherwise goes to standard error.

    Parameters
    ----------
    pick : called with the arguments of a request; returns status and message

    Raises
    ------
    DeepEMError
        Where a request is no JSON list of strings.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    while True:
        status, message = pick(_arguments(requests.get()))
        print(json.dumps({"status": status, "message": message}), file=answers, flush=True)


def _receive(requests: SimpleQueue[bytes]) -> None:
    # Not sys.stdin: a thread that waits for it would stop Python from shutting down in order.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            requests.put(line)
    os._exit(0)


def _arguments(request: bytes) -> list[str]:
    try:
        found = json.loads(request)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise DeepEMError(f"the request {request.strip().decode(errors='replace')}: expected the arguments of `deepem "
                          "pick` as a JSON list")
    return found


class WorkerDied(RuntimeError):
    """A worker ended before it answered; `status` is that of its process, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the worker ended with status {status}")
        self.status = status


class Worker:
    """A `deepem worker` of this process, which ends together with it.

    Parameters
    ----------
    command : words of the command line
    environ : variables of its environment
    log : open file for what it tells; default: standard error
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: IO[str] | None = None) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                         env=environ)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def pick(self, arguments: Sequence[str]) -> tuple[int, str]:
        """Let it run `deepem pick` with some arguments; returns exit status and message.

        Raises
        ------
        WorkerDied
            Where it ends instead of answering.
        """
        assert self._process.stdin and self._process.stdout  # pipes
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(list(arguments)).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise WorkerDied(self.close())
        found = json.loads(answer)
        return found["status"], found["message"]

    def close(self) -> int:
        """Let it end; returns the status of its process."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()
