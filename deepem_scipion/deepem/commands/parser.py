# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of the `deepem` program, built from the modules of its commands."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from ... import __version__
from . import auto, convert, demo, evaluate, export, info, merge, pick, report, studio, train, tune, worker
from .arguments import Parser, add_verbosity, help_width, protect_files

# Groups of the help; a module has the texts of its command's help, `add_arguments` and `run`.
GROUPS = {
    "train": {"train": train, "tune": tune},
    "pick": {"pick": pick, "auto": auto, "evaluate": evaluate, "convert": convert, "merge": merge},
    "inspect": {"studio": studio, "report": report, "info": info},
    "more": {"export": export, "demo": demo, "worker": worker},
}
_DESCRIPTION = ("Pick single particles in cryo-EM micrographs with DeepEM, a small convolutional network: its general "
                "model, or one trained on your particles.")
_EPILOG = """`deepem COMMAND --help` describes a command.

examples:
  deepem demo
  deepem train --micrographs 'mics/*.mrc' --coordinates boxes \\
      --diameter 120 --output apoferritin.deepem
  deepem pick --micrographs 'mics/*.mrc' --model apoferritin.deepem \\
      --output picks"""


def build_parser() -> Parser:
    """Build the parser of the program with all commands.

    Returns
    -------
    Parser
        Its namespace has the name of the command as `command` and the function that runs it as `run`.
    """
    parser = Parser(prog="deepem", usage="deepem [options] COMMAND ...", description=_wrapped(_DESCRIPTION),
                    epilog=_wrapped(_EPILOG))
    parser.add_argument("--version", action="version", version=f"deepem {__version__}")
    subparsers = parser.add_subparsers(prog=parser.prog, dest="command", metavar="COMMAND", required=True,
                                       help=argparse.SUPPRESS)
    for title, modules in GROUPS.items():
        parser.add_argument_group(title, "\n".join(f"{name:<10}{module.SUMMARY}" for name, module in modules.items()))
        for name, module in modules.items():
            command = subparsers.add_parser(
                name, help=module.SUMMARY, usage=_usage(name, module.REQUIRED), epilog=_wrapped(module.EPILOG),
                description=_wrapped(module.DESCRIPTION))
            module.add_arguments(command)
            add_verbosity(command)
            command.set_defaults(run=module.run)
            parser.commands[name] = command
    return parser


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; raises SystemExit after a mistake or `--help`.

    Parameters
    ----------
    words : sequence of str
        Words after `deepem`. The name of an existing file is never taken for an option, even if it begins with a dash.

    Returns
    -------
    argparse.Namespace
        See `build_parser`.
    """
    return build_parser().parse_args(protect_files(words))


def _wrapped(text: str) -> str:
    """Wrap paragraphs; lines that begin with a blank stay as they are."""
    return "\n".join(line if line.startswith(" ") else textwrap.fill(line, help_width()) for line in text.splitlines())


def _usage(name: str, required: Sequence[str]) -> str:
    """Return the usage of a command with its required arguments, each of them unbroken."""
    words = [f"deepem {name} [options]", *required]
    lines = textwrap.wrap(" ".join(word.replace(" ", "\u00a0") for word in words), help_width() - len("usage: "),
                          subsequent_indent=" " * len(f"usage: deepem {name} "), break_on_hyphens=False)
    return "\n".join(lines).replace("\u00a0", " ")
