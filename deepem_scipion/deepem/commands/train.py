# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem train`: train a model; with the arguments and helpers that `deepem tune` shares."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeepEMError
from . import console
from .arguments import COORDINATES, add_masks, add_max_mask, add_micrographs, add_shifts, add_threads, angst
from .info import format_card
from .planning import make_plan, read_training_set
from .procedure import add_procedure_of_training
from .unlabelled import add_unlabelled, keep_better, train_unlabelled

if TYPE_CHECKING:
    from ..model.record import Epoch
    from ..training.plan import Plan
    from ..training.training_set import TrainingSet

log = logging.getLogger("deepem")

# Stated here as well because the modules that define them take seconds to import.
TRAINING_PRESETS = ("default", "paper")
PRESETS = ("klh", "19s", "26s", "inflammasome")

SUMMARY = "train a model on micrographs with marked particles"
REQUIRED = ("--micrographs MICS ...", "[--coordinates PATH]", "--diameter A", "--output MODEL")
DESCRIPTION = ("Train a model on micrographs with reference coordinates of their particles. Some micrographs are kept "
               "for validation, on which the best epoch and the threshold are chosen. Without coordinates the model "
               "learns from the confident picks of the general model.")
EPILOG = """examples:
  deepem train --micrographs 'mics/*.mrc' --coordinates boxes --diameter 120 \\
      --output apoferritin.deepem

with a few clicks on some micrographs, or with none at all:
  deepem train --micrographs 'mics/*.mrc' --coordinates clicks --incomplete \\
      --diameter 120 --output few.deepem
  deepem train --micrographs 'mics/*.mrc' --diameter 120 --output none.deepem

with manually curated picks of that model:
  deepem train --micrographs 'mics/*.mrc' 'more/*.mrc' --coordinates boxes \\
      --more-particles accepted --more-negatives rejected --diameter 120 \\
      --output better.deepem"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem train` to its parser."""
    add_training_arguments(parser)


def add_training_arguments(parser: argparse.ArgumentParser, searched: bool = False) -> None:
    """Add the arguments of a training.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of a command.
    searched : bool
        Whether the command searches for the network: arguments that conflict with a search are left
        out, and others have the search as their default.
    """
    _add_files(parser, searched)
    _add_network(parser, searched)
    _add_fit(parser, searched)
    if not searched:
        add_procedure_of_training(parser)


def _add_files(parser: argparse.ArgumentParser, searched: bool) -> None:
    group = parser.add_argument_group("files")
    add_micrographs(group)
    group.add_argument("--coordinates", required=searched, metavar="PATH", type=Path,
                       help=f"reference coordinates of the particles: {COORDINATES}"
                       + ("" if searched else " (default: none are needed, see below)"))
    if not searched:
        add_unlabelled(group)
    group.add_argument("--negatives", metavar="PATH", type=Path,
                       help=f"verified negatives (background and contaminants): {COORDINATES}")
    group.add_argument("--coordinate-scale", type=float, default=1.0, metavar="F", help="multiply --coordinates and "
                       "--negatives by F, for coordinates of micrographs binned by F (default: %(default)g)")
    for name in ("particles", "negatives"):
        group.add_argument(f"--more-{name}", metavar="PATH", type=Path, nargs="+", default=[],
                           help=f"more verified {name}, e.g. from manually curated picks; micrographs that are not in "
                           "--coordinates count as incompletely annotated, and only what is given is used for training")
    group.add_argument("--overlaps-as-negatives", action="store_true", help="particles less than a diameter from "
                       "another one are negatives, so that overlapping particles are avoided")
    add_shifts(group)
    add_masks(group)
    add_max_mask(group)
    group.add_argument("--output", required=True, metavar="MODEL", type=Path, help="model file to write")


def _add_network(parser: argparse.ArgumentParser, searched: bool) -> None:
    group = parser.add_argument_group("particle and network")
    group.add_argument("--diameter", required=True, type=angst, metavar="A", help="particle diameter in angstrom")
    if not searched:
        group.add_argument("--preset", choices=PRESETS, help="network of the paper's Table 1 (default: one that fits "
                           "the diameter)")
        group.add_argument("--box", type=int, metavar="PX", help="side of the network's box in binned pixels, those "
                           "of the working pixel size; requires --kernels and --pools, or --preset")
        group.add_argument("--kernels", type=int, nargs=3, metavar="N", help="sides of the three convolution kernels")
    group.add_argument("--pools", type=int, nargs=3, metavar="N", help="sides of the three pooling cells"
                       + (" (default: searched)" if searched else ""))
    group.add_argument("--maps", type=int, nargs=3, metavar="N", help="feature maps of the three stages (default: "
                       f"{'searched' if searched else '6 12 12'})")
    group.add_argument("--working-pixel-size", type=angst, metavar="A", help="pixel size to which micrographs are "
                       f"resampled (default: {'searched among multiples' if searched else 'a multiple'} of their own "
                       f"that suit{'' if searched else 's'} the diameter)")


def _add_fit(parser: argparse.ArgumentParser, searched: bool) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--training-preset", choices=TRAINING_PRESETS, default="default",
                       help="method of training; `paper` is plain gradient descent as published (default: %(default)s)")
    group.add_argument("--epochs", type=int, metavar="N", help="number of epochs: passes over the particle images "
                       "(`paper`), or 150 updates each (`default`); default: 20; 5 where `default` fine-tunes a "
                       "model, and 2 where that is the general model")
    group.add_argument("--given-negatives-only", action="store_true", help="use only the given negatives (default: "
                       "places far from all particles as well)")
    group.add_argument("--validation-fraction", type=float, default=0.2, metavar="F", help="fraction of the "
                       "micrographs kept for validation (default: %(default)s)")
    group.add_argument("--networks", type=int, default=1, metavar="N", help="train N networks, each with other "
                       "micrographs kept for validation, and average their scores; more robust, and N times slower "
                       "(default: %(default)s)")
    group.add_argument("--rounds", type=int, default=1, metavar="N", help="recursive training in at most N rounds: "
                       "each shows the mistakes of the previous one more often, and is kept if it makes fewer on the "
                       "validation micrographs (default: %(default)s)")
    group.add_argument("--error-cutoff", type=float, default=0.01, metavar="E", help="stop the rounds when the error "
                       "(1 - best F1) on the validation micrographs is below E (default: %(default)s)")
    if not searched:
        group.add_argument("--continue-from", type=Path, metavar="MODEL", help="fine-tune this model")
        group.add_argument("--fresh", action="store_true", help="start from scratch (default: resume an interrupted "
                           "training from its last complete epoch, kept in MODEL.checkpoint)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random numbers; the same seed "
                       "gives the same model (default: %(default)s)")
    add_threads(group)


def run(options: argparse.Namespace, picks_next: bool = False) -> int:
    """Run `deepem train`; returns the exit code.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of the command.
    picks_next : bool
        Whether the caller picks with the model, so that the user need not know how.

    Returns
    -------
    int
    """
    from .. import runtime
    from ..model.files import save_model
    from ..model.paths import ModelFiles
    from ..training.teacher import with_teacher
    from ..training.train import train_model

    plan = make_plan(options)
    check_writable(options.output)
    data, files = read_training_set(options), ModelFiles(options.output)
    if plan.start and (options.incomplete or options.coordinates is None):
        data = with_teacher(data, plan.start)
    warn_of_problems(data, plan)
    if options.fresh:
        files.checkpoint.unlink(missing_ok=True)
    runtime.start_keras(options.threads)
    if options.coordinates is None:
        model = train_unlabelled(data, plan, show_epoch)
    else:
        with console.progress(plan.networks * plan.rounds) as show:
            model = train_model(data, plan, lambda record: show_epoch(record, show), files)
    if options.incomplete and plan.start:
        model = keep_better(plan.start, model, data, plan)
        if model.networks is plan.start.networks:  # then these are of the model that is not kept
            files.examples.unlink(missing_ok=True)
    save_model(options.output, model)
    files.checkpoint.unlink(missing_ok=True)
    console.print_result(format_card(model.card()))
    console.print_result(f"model written to {options.output}")
    if not picks_next:
        log.info("pick with it: deepem pick --model %s --micrographs ... --output picks", options.output)
    return console.OK


def warn_of_problems(data: TrainingSet, plan: Plan) -> None:
    """Log what does not fit together, before the training takes time; see `plausibility.find_problems`."""
    from ..training.plausibility import find_problems

    for problem in find_problems(data, plan):
        log.warning("warning: %s", problem)


def check_writable(path: Path) -> None:
    """Check before a long computation that its result can be written.

    Parameters
    ----------
    path : Path
        Value of --output. Its folder is made.

    Raises
    ------
    DeepEMError
        The folder cannot be made or written to, or the path is a folder or a file that is no model.
    """
    from ..model.files import load_model

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeepEMError(f"--output {path}: the folder cannot be made ({error.strerror})") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise DeepEMError(f"--output {path}: expected the name of a file in a folder that can be written to")
    if path.exists():
        try:
            load_model(path)
        except DeepEMError as error:
            raise DeepEMError(f"--output {path}: the file there is no model that can be read, and only a model is "
                              "replaced. Give another name, or remove it.") from error


def show_epoch(record: Epoch, show: console.ShowProgress) -> None:
    """Show the progress of a training after an epoch.

    Parameters
    ----------
    record : Epoch
        Figures that `train_model` passes to its progress function.
    show : callable
        From `console.progress`.
    """
    of = f"network {record['network']}/{record['networks']}, " if record["networks"] > 1 else ""
    if record["round"] > 1:
        of = f"round {record['round']}, {of}"
    validation = (f", validation loss {record['validation_loss']:.4f}, {100 * record['validation_accuracy']:.1f} % "
                  "correct" if "validation_loss" in record else "")
    done = (record["round"] - 1) * record["networks"] + record["network"] - 1 + record["epoch"] / record["epochs"]
    show(done, f"{of}epoch {record['epoch']}/{record['epochs']}: loss {record['loss']:.4f}, "
         f"{100 * record['accuracy']:.1f} % correct{validation}", f"; {record['seconds_left']:.0f} s left")
