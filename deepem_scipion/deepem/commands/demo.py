# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem demo`: simulate, train, pick and evaluate."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import console
from .arguments import add_threads

SUMMARY = "simulate micrographs, train, pick and evaluate, in about a minute"
REQUIRED = ()
DESCRIPTION = ("Simulate micrographs with known particles, train a model on some of them, pick the others, and compare "
               "the picks with the known centres. The commands that do the same are printed.")
EPILOG = """examples:
  deepem demo --output deepem-demo"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem demo` to its parser."""
    parser.add_argument("--output", type=Path, default=Path("deepem-demo"), metavar="DIR",
                        help="output folder (default: %(default)s)")
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Run `deepem demo`; returns the exit code."""
    from .. import runtime
    from .demonstration import run_demo

    runtime.start_keras(options.threads)
    run_demo(options.output, console.print_result)
    return console.OK
