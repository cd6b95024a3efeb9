# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem auto`: train on the first micrographs without labels, then pick all."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import DeepEMError
from . import console, pick, train
from .arguments import Parser, add_micrographs, add_threads
from .estimating import diameter, draw_estimate, estimated
from .micrographs import chosen_micrographs

SUMMARY = "train without labels on the first micrographs, pick all"
REQUIRED = ("--micrographs MICS ...", "--diameter A", "--output DIR")
DESCRIPTION = ("Pick micrographs of which nothing is marked, with a model that learns from the confident picks of the "
               "general model on the first of them. The output folder is that of `deepem pick`; the model is "
               "written next to it.")
EPILOG = """example:
  deepem auto --micrographs 'mics/*.mrc' --diameter 120 --output picks

It does what these two commands do:
  deepem train --micrographs FIRST --diameter 120 --output picks.deepem
  deepem pick --micrographs ALL --model picks.deepem --output picks"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem auto` to its parser."""
    add_micrographs(parser)
    parser.add_argument("--diameter", required=True, type=diameter, metavar="A", help="particle diameter in angstrom; "
                        "`auto`: estimated from three micrographs")
    parser.add_argument("--contrast", choices=("dark", "bright"), default="dark", help="whether particles are dark or "
                        "bright (default: %(default)s)")
    parser.add_argument("--train", type=int, default=20, metavar="N", help="number of micrographs to learn from "
                        "(default: %(default)s)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="output folder")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: "
                        "%(default)s)")
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Run `deepem auto`; returns the exit code of `deepem pick`."""
    from .. import runtime
    from ..picking.earlier import check_names
    from ..picking.results import PickingResults

    if options.train < 1:
        raise DeepEMError(f"--train {options.train}: expected at least 1 micrograph")
    micrographs = chosen_micrographs(options)
    check_names(micrographs)
    paths = [os.path.join(os.curdir, path) for path in micrographs.values()]  # none is taken for an option
    model = Path(f"{os.path.abspath(options.output)}.deepem")
    if model.exists():
        raise DeepEMError(f"{model} exists, perhaps from an earlier run, and is not replaced. To pick with it, also to "
                          f"continue an interrupted run: deepem pick --model {model} --micrographs ... --output "
                          f"{options.output} --resume. Expected another --output to train another model.")
    if PickingResults(options.output).files():
        raise DeepEMError(f"--output {options.output}: the folder has results of an earlier run; expected a new or "
                          "empty one")
    runtime.start(options.threads)
    estimate = estimated(options)
    common = ["--tiff-rows", options.tiff_rows,
              *(["--pixel-size", str(options.pixel_size)] if options.pixel_size else []),
              *(["--threads", str(options.threads)] if options.threads else [])]
    status = train.run(_parsed(train, ["--micrographs", *paths[:options.train], "--diameter", str(options.diameter),
                                       "--contrast", options.contrast, "--seed", str(options.seed), "--output",
                                       str(model), *common]), picks_next=True)
    if status != console.OK:
        return status
    picking = _parsed(pick, ["--micrographs", *options.micrographs, "--model", str(model),
                             f"--output={options.output}", *common])
    status = pick.run(picking, started=True)
    if estimate is not None:
        draw_estimate(estimate, picking, micrographs)
    return status


def _parsed(command: object, words: list[str]) -> argparse.Namespace:
    parser = Parser(prog="deepem auto")
    command.add_arguments(parser)  # type: ignore[attr-defined]
    return parser.parse_args(words)
