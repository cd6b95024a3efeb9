# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `deepem` program: runs one command and turns its outcome into an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import DeepEMError, StoppedAtOnce
from . import console
from .parser import build_parser, parse_arguments

log = logging.getLogger("deepem")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words of the command line after `deepem`. Default: those of this process.

    Returns
    -------
    int
        Exit code: 0 success, 1 some micrographs failed, 2 nothing could be done, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        build_parser().print_help(sys.stderr)
        return console.UNUSABLE
    options = parse_arguments(arguments)
    console.start_logging(options.debug, options.quiet)
    for name in ("SIGTERM", "SIGHUP"):  # the second: the terminal was closed; nohup ignores it
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        status: int = options.run(options)
        return status
    except KeyboardInterrupt as interrupt:
        how = "; continue with --resume" if hasattr(options, "existing") else ""
        log.error("interrupted; finished results are kept%s", how)
        if isinstance(interrupt, StoppedAtOnce):
            os._exit(console.INTERRUPTED)  # an ordinary exit waits for all threads
        return console.INTERRUPTED
    except Exception as error:
        log.error("error: %s", error if isinstance(error, DeepEMError) else console.describe_error(error),
                  exc_info=options.debug)
        return console.UNUSABLE


def _stop(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)
