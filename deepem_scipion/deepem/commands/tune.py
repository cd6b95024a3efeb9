# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem tune`: search for the network that picks best."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DeepEMError
from . import console
from .info import format_card
from .planning import make_plan, read_training_set
from .train import add_training_arguments, check_writable, warn_of_problems

SUMMARY = "search for the network that picks best"
REQUIRED = ("--micrographs MICS ...", "--coordinates PATH", "--diameter A", "--output MODEL")
DESCRIPTION = (
    "Train models with many settings and keep the one with the highest average precision on the validation "
    "micrographs. The first model is that of `deepem train`. The search covers working pixel size, box, kernels, "
    "pools, feature maps and the margin of the local standard deviation filter. MODEL.tuning.md lists the results. "
    "Needs Optuna: pip install 'scipion-em-deepem[tune]'")
EPILOG = """examples:
  deepem tune --micrographs 'mics/*.mrc' --coordinates boxes --diameter 120 \\
      --minutes 30 --output apoferritin.deepem

The same command again resumes the search."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem tune` to its parser."""
    parser.set_defaults(preset=None, box=None, kernels=None, continue_from=None, incomplete=False, contrast=None)
    add_training_arguments(parser, searched=True)
    group = parser.add_argument_group("search")
    group.add_argument("--minutes", type=float, default=30.0, metavar="M", help="time limit of this run; the first "
                       "model is always completed, a later one is stopped after its epoch (default: %(default)g)")
    group.add_argument("--trials", type=int, metavar="N", help="train at most N models in this run")
    group.add_argument("--study", type=Path, metavar="FILE", help="journal of the search; the search resumes if the "
                       "file exists (default: MODEL.study)")


def run(options: argparse.Namespace) -> int:
    """Run `deepem tune`; returns the exit code."""
    from .. import runtime
    from ..atomic import check_no_input
    from ..model.paths import ModelFiles
    from ..training.train import write_examples

    try:
        from ..training.tuning import tune_model
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise DeepEMError("`deepem tune` needs Optuna, which is not installed; install it with: "
                          "pip install 'scipion-em-deepem[tune]'") from error
    fixed = {name: "/".join(map(str, values)) for name in ("pools", "maps") if (values := getattr(options, name))}
    plan = make_plan(argparse.Namespace(**{**vars(options), "pools": None, "maps": None}))
    check_writable(options.output)
    if options.study is not None:
        check_no_input(options.output, options.study)
    data, files = read_training_set(options), ModelFiles(options.output)
    warn_of_problems(data, plan)
    runtime.start_keras(options.threads)
    with console.progress(None) as show:
        show(0, f"searching for {options.minutes:g} minutes")
        model = tune_model(data, plan, files, options.study, options.minutes, options.trials, fixed)
    write_examples(files.examples, model, data, plan)
    console.print_result(format_card(model.card()))
    found = model.record.tuning or {}
    console.print_result(f"average precision {found['AP']:.3f}, without a search {found['baseline_AP']:.3f}; the best "
                         f"of {found['complete']} models is optimistic, see {files.tuning_report}")
    console.print_result(f"model written to {options.output}")
    return console.OK
