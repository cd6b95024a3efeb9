# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of the `deepem` program."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

from ... import __version__

# Names only: what is behind them would take seconds to import.
TRAINING_PRESETS = ("default", "paper")
PRESETS = ("klh", "19s", "26s", "inflammasome")
SHELLS = ("bash", "zsh", "tcsh")
WIDEST = 100


def build_parser() -> argparse.ArgumentParser:
    """The command line as an argparse parser."""
    parser = _Parser(
        prog="deepem", usage="deepem [options] COMMAND ...", formatter_class=_Formatter,
        description="Find single particles in cryo-EM micrographs with DeepEM, a small convolutional network trained "
        "on particles that you show it.",
        epilog="`deepem COMMAND --help` tells the rest.\n\nexamples:\n"
        "  deepem demo\n"
        "  deepem train --micrographs 'mics/*.mrc' --coordinates boxes --diameter 120 --output apoferritin.deepem\n"
        "  deepem pick --model apoferritin.deepem --micrographs 'mics/*.mrc' --output picks")
    parser.add_argument("--version", action="version", version=f"deepem {__version__}")
    parser.add_argument("--print-completion", action=_PrintCompletion, choices=SHELLS, metavar="SHELL",
                        help=f"print what makes a shell complete words with Tab, for {', '.join(SHELLS)}, and exit")
    commands = parser.add_subparsers(prog=parser.prog, metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for title, adders in (("learn", (_add_train, _add_tune)), ("pick", (_add_pick, _add_evaluate)),
                          ("look", (_add_report, _add_info, _add_demo)), ("serve", (_add_worker,))):
        known = len(commands._choices_actions)
        for add in adders:
            add(commands)
        parser.add_argument_group(title, "\n".join(
            f"  {command.dest:<10}{command.help}" for command in commands._choices_actions[known:]))
    for command in commands.choices.values():
        command.formatter_class = _Formatter
        group = command.add_mutually_exclusive_group()
        group.add_argument("--quiet", action="store_true", help="tell nothing but warnings and errors")
        group.add_argument("--debug", action="store_true", help="tell more, and show where an error came from")
    return parser


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; `{self.prog} --help` tells what is expected\n")


class _Formatter(argparse.HelpFormatter):
    """Usage with what is required only; paragraphs of text, and lines that begin with a blank as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(WIDEST, shutil.get_terminal_size().columns - 2))

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        required = [action for action in actions if action.required or not action.option_strings]
        if len(required) < len(list(actions)):
            self._prog += " [options]"
        return super()._format_usage(usage, required, [], prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line if line.startswith(" ") else super(_Formatter, self)._fill_text(
            line, width, indent) for line in text.splitlines())


class _PrintCompletion(argparse.Action):
    """Prints a script for a shell; files are completed where an argument is one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        import shtab

        commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        commands.help = None  # else shtab would leave them out, as the list in the help does
        for command in commands.choices.values():
            for action in command._actions:
                if action.type is Path or action.dest == "micrographs":
                    action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
        sys.stdout.write(shtab.complete(parser, values) + "\n")
        parser.exit()


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train", help="train a model on micrographs with known particles",
        epilog="examples:\n"
        "  deepem train --micrographs 'mics/*.mrc' --coordinates boxes --diameter 120 \\\n"
        "      --output apoferritin.deepem\n\n"
        "with picks of that model that somebody looked through:\n"
        "  deepem train --micrographs 'mics/*.mrc' 'more/*.mrc' --coordinates boxes \\\n"
        "      --more-particles right --more-negatives wrong --diameter 120 --output better.deepem")
    parser.set_defaults(command="train")
    _add_learning(parser)


def _add_tune(commands: Any) -> None:
    parser = commands.add_parser(
        "tune", help="search for the network and recipe that suit your particles best",
        description="Train models with many settings and keep the one that picks the validation micrographs best. "
        "The first is what `deepem train` makes. Searched are working pixel size, box, kernels, pools, maps, recipe "
        "and the width of the deviation filter. MODEL.tuning.md tells what came of it, MODEL.tuning.png shows it.",
        epilog="examples:\n"
        "  deepem tune --micrographs 'mics/*.mrc' --coordinates boxes --diameter 120 --minutes 30 \\\n"
        "      --output apoferritin.deepem\n\n"
        "The same command again goes on with the search.")
    parser.set_defaults(command="tune", preset=None, box=None, kernels=None, continue_from=None)
    _add_learning(parser, searched=True)
    group = parser.add_argument_group("search")
    group.add_argument("--minutes", type=float, default=30.0, metavar="M", help="time for this run; the first model is "
                       "trained in any case, a later one is stopped after its epoch (default: %(default)g)")
    group.add_argument("--trials", type=int, metavar="N", help="train at most so many models in this run")
    group.add_argument("--study", type=Path, metavar="FILE", help="journal of the search, which goes on where the file "
                       "exists (default: MODEL.study)")


def _add_learning(parser: argparse.ArgumentParser, searched: bool = False) -> None:
    """What training needs; `searched`: without what a search finds, or with a search as its default."""
    group = _add_micrographs(parser)
    group.add_argument("--coordinates", required=True, metavar="DIR_OR_STAR", type=Path,
                       help="particles: a folder of .box or .star files, or one file")
    group.add_argument("--negatives", metavar="DIR_OR_STAR", type=Path, help="verified non-particles, likewise")
    for name in ("particles", "negatives"):
        what = name.replace("negatives", "non-particles")
        group.add_argument(f"--more-{name}", metavar="DIR_OR_STAR", type=Path, nargs="+", default=[], help="more "
                           f"verified {what}, e.g. from picks that you looked through; on micrographs that are not in "
                           "--coordinates only what is given here teaches anything")
    group.add_argument("--output", required=True, metavar="MODEL", type=Path, help="model file to write")
    group = parser.add_argument_group("particle and network")
    group.add_argument("--diameter", required=True, type=float, metavar="A", help="particle diameter in angstrom")
    sizes = {"kernels": "sides of the three kernels", "pools": "sides of the three pooling cells",
             "maps": f"feature maps of the three stages (default{': searched' if searched else ' 6 12 12'})"}
    if searched:
        del sizes["kernels"]
        sizes["pools"] += " (default: searched)"
    else:
        group.add_argument("--preset", choices=PRESETS, help="a network of the paper's Table 1 (default: one that fits "
                           "the diameter)")
        group.add_argument("--box", type=int, metavar="PX", help="side of the window in working pixels")
    for name, what in sizes.items():
        group.add_argument(f"--{name}", type=int, nargs=3, metavar="N", help=what)
    group.add_argument("--working-pixel-size", type=float, metavar="A", help="pixel size to which micrographs are "
                       f"brought (default: {'searched among multiples' if searched else 'a multiple'} of their own, "
                       "to suit the diameter)")
    group = parser.add_argument_group("training")
    group.add_argument("--training-preset", choices=TRAINING_PRESETS, default=None if searched else "default", help="how the network is "
                       "fitted: `paper` is plain gradient descent as published (default: "
                       f"{'searched' if searched else '%(default)s'})")
    group.add_argument("--epochs", type=int, metavar="N", help="passes over the windows (`paper`) or rounds of "
                       "150 updates (`default`); default: 20")
    group.add_argument("--given-negatives-only", action="store_true", help="call non-particles only those of "
                       "--negatives; default: also places far from all particles")
    group.add_argument("--validation-fraction", type=float, default=0.2, metavar="F", help="share of the micrographs "
                       "kept for choosing epoch and threshold (default: %(default)s)")
    group.add_argument("--networks", type=int, default=1, metavar="N", help="train so many networks, each with other "
                       "micrographs kept for validation, and average their scores: steadier, and N times slower "
                       "(default: %(default)s)")
    group.add_argument("--rounds", type=int, default=1, metavar="N", help="recursive training in at most so many "
                       "rounds: each shows the mistakes of the last one more often, and is kept if it makes fewer on "
                       "the validation micrographs (default: %(default)s)")
    group.add_argument("--error-cutoff", type=float, default=0.01, metavar="E", help="no further round where the error "
                       "(1 - best F1) on the validation micrographs is below (default: %(default)s)")
    if not searched:
        group.add_argument("--continue-from", type=Path, metavar="MODEL", help="go on from this model")
        group.add_argument("--fresh", action="store_true", help="begin anew; default: after an interruption the same "
                           "command goes on from the last complete epoch, kept in MODEL.checkpoint")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same model (default: 0)")
    _add_threads(group)


def _add_pick(commands: Any) -> None:
    parser = commands.add_parser(
        "pick", help="pick micrographs with a model",
        epilog="examples:\n"
        "  deepem pick --model apoferritin.deepem --micrographs 'mics/*.mrc' --output picks\n\n"
        "where nine of ten picks should be right:\n"
        "  deepem pick --model apoferritin.deepem --micrographs 'mics/*.mrc' --output picks \\\n"
        "      --threshold precision=0.9\n\n"
        "The exit status is 0 if all micrographs were picked, 1 if some failed, 2 if nothing could be done.")
    parser.set_defaults(command="pick")
    group = _add_micrographs(parser)
    group.add_argument("--model", required=True, type=Path, metavar="MODEL", help="from `deepem train`")
    group.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    group.add_argument("--box", type=int, metavar="PX", help="side of the boxes written, in pixels of the micrographs "
                       "(default: 1.5 particle diameters)")
    for name, default, what in (("voltage", 300.0, "voltage of the microscope in kV"),
                                ("cs", 2.7, "its spherical aberration in mm"),
                                ("amplitude-contrast", 0.1, "share of amplitude contrast")):
        group.add_argument(f"--{name}", type=float, default=default, metavar="X", help=f"{what}, for picks.star only, "
                           "as RELION demands it (default: %(default)s)")
    group.add_argument("--score-maps", action="store_true", help="write the score maps, too (DIR/scores)")
    group.add_argument("--report", type=Path, nargs="?", const="", metavar="FILE", help="write a report for a browser, "
                       "too (without FILE: DIR/report.html); see `deepem report`")
    group = parser.add_argument_group("what is picked")
    group.add_argument("--threshold", default="auto", metavar="auto|F1|precision=P|VALUE", help="least score: "
                       "the one that did best in the model's validation by F2 (auto, the default) or F1, the lowest "
                       "with a precision of at least P there, or a number from 0 (every candidate) to 1")
    group.add_argument("--min-distance", type=float, metavar="A", help="least distance of two picks in angstrom "
                       "(default: half the particle diameter)")
    group.add_argument("--std-range", nargs="+", default=["auto"], metavar="auto|off|LO HI", help="range of the "
                       "standard deviation of a window's normalised pixels; carbon and ice lie outside it (default: "
                       "the model's)")
    group.add_argument("--border", type=float, default=0.0, metavar="A", help="least distance of a pick from the "
                       "border in angstrom (default: %(default)s)")
    group = parser.add_argument_group("scan")
    group.add_argument("--scan-step", type=int, metavar="PX", help="step of the scan in working pixels (default: the "
                       "model's)")
    group.add_argument("--rotations", type=int, choices=(1, 4), default=4, help="average the score over this many "
                       "rotations of the window (default: %(default)s)")
    group.add_argument("--contrast-checks", type=int, default=3, metavar="N", help="scan the negatives of the first N "
                       "micrographs, too, and warn where they look more like the particles of the training; 0: none "
                       "(default: %(default)s)")
    _add_threads(group)


def _add_worker(commands: Any) -> None:
    parser = commands.add_parser(
        "worker", help="for programs: pick batch after batch without starting anew",
        description="Pick batch after batch, for programs: what takes seconds to start stays loaded. Each line of the "
        "standard input is a request, the arguments of `deepem pick` as a JSON list without --threads. Each is "
        "answered, when it is done, by a line with a JSON object on the standard output: `status`, the exit status of "
        "`deepem pick`, and `message`, the error if there was one. The log goes to the standard error. When the "
        "input ends, so does the worker, even amid a batch: wait for the answer.")
    parser.set_defaults(command="worker")
    _add_threads(parser)


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate", help="compare picks with known particles",
        description="Compare picks with known particles. Matching is one to one: pairs of a pick and a particle within "
        "the distance are taken by falling score of the pick, the nearest pair first among equal scores; a second pick "
        "on the same particle is a wrong one. Where a part of a micrograph was annotated only, particles outside of it "
        "are not missed and picks outside not wrong; a pick outside that belongs to a particle inside is right. "
        "Micrographs with particles and without picks count; those with picks only do not.",
        epilog="examples:\n"
        "  deepem evaluate --truth boxes --picks picks --distance 40\n"
        "  deepem evaluate --truth boxes --picks picks --distance 40 --json figures.json --plot curve.png")
    parser.set_defaults(command="evaluate")
    group = parser.add_argument_group("files")
    group.add_argument("--truth", required=True, type=Path, metavar="DIR_OR_STAR", help="true particles")
    group.add_argument("--picks", required=True, type=Path, metavar="DIR_OR_STAR", help="picks")
    group = parser.add_argument_group("matching")
    group.add_argument("--distance", required=True, type=float, metavar="PX", help="greatest distance of a right pick "
                        "from its particle, in pixels; half the particle diameter is usual")
    group.add_argument("--min-distance", type=float, default=0.0, metavar="PX", help="thin the picks before matching: "
                        "of those nearer to each other than this, in pixels, only the one with the highest score "
                        "counts, as in picking (default: all count)")
    group.add_argument("--region", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="annotated part of the "
                        "micrographs, X0 <= x < X1 and Y0 <= y < Y1, in pixels")
    group.add_argument("--regions", type=Path, metavar="FILE", help="annotated part of each micrograph: a table with "
                        "the name and X0 Y0 X1 Y1 per line, parted by tabs or blanks, # begins a comment; for "
                        "micrographs that are not in it --region holds, or the whole")
    group.add_argument("--threshold", metavar="F1|F2|T", help="plain figures for picks with at least this score, or "
                        "with that of the best F1 or F2 on these micrographs (default: for all)")
    group = parser.add_argument_group("results")
    group.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    group.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the precision-recall curve here")
    group.add_argument("--report", type=Path, metavar="FILE", help="write a report for a browser here")
    group.add_argument("--micrographs", nargs="+", metavar="PATTERN_OR_LIST", help="micrographs that the report shows "
                       "(default: where the picks are a folder of `deepem pick`, those that it picked)")


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report", help="show a picking run or a model in a browser",
        description="Write a report for a browser: one HTML file with the figures of a picking run, how picks and "
        "scores went and are distributed, its best, typical and worst micrographs, what failed, parameters and "
        "versions; or with the curves of a model. Nothing is fetched from a network when it is looked at.",
        epilog="examples:\n"
        "  deepem report picks --model apoferritin.deepem\n"
        "  deepem report apoferritin.deepem")
    parser.set_defaults(command="report")
    parser.add_argument("results", type=Path, metavar="DIR_OR_MODEL", help="folder of `deepem pick`, or a model")
    parser.add_argument("--model", type=Path, metavar="MODEL", help="model that a folder was picked with, to show its "
                        "curves, too")
    parser.add_argument("--output", type=Path, metavar="FILE", help="report to write (default: DIR/report.html or "
                        "MODEL.html)")


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="print the card of a model",
                                 epilog="examples:\n  deepem info apoferritin.deepem")
    parser.set_defaults(command="info")
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--json", action="store_true", help="as JSON, complete")


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="simulate micrographs, train, pick and evaluate, in about a minute",
                                 epilog="examples:\n  deepem demo --output deepem-demo")
    parser.set_defaults(command="demo")
    parser.add_argument("--output", type=Path, default=Path("deepem-demo"), metavar="DIR",
                        help="folder for everything (default: %(default)s)")
    _add_threads(parser)


def _add_micrographs(parser: argparse.ArgumentParser) -> Any:
    group = parser.add_argument_group("files")
    group.add_argument("--micrographs", required=True, nargs="+", metavar="PATTERN_OR_LIST", help="MRC or TIFF files, "
                       "quoted patterns, folders, or .txt lists with a path (and after a tab a name) per line")
    group.add_argument("--pixel-size", type=float, metavar="A", help="pixel size of the micrographs in angstrom "
                       "(default: from their headers)")
    return group


def _add_threads(group: Any) -> None:
    group.add_argument("--threads", type=int, metavar="N", help="processor threads (default: all)")
