# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking of batch after batch by one process, which loads the libraries and compiles the network once.

A request is a line with the arguments of `deepem pick` as a JSON list, the answer a line with a JSON object: `status`,
the exit status, and `message`, the error in words or nothing.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn

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
