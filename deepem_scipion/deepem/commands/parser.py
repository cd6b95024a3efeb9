# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of the `deepem` program, built from the modules of its commands."""

from __future__ import annotations

import argparse
import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from ... import __version__
from . import demo, evaluate, info, pick, report, train, tune, worker

# Groups of the help; a module has the texts of its command's help, `add_arguments` and `run`.
GROUPS = {
    "train": {"train": train, "tune": tune},
    "pick": {"pick": pick, "evaluate": evaluate},
    "inspect": {"report": report, "info": info},
    "more": {"demo": demo, "worker": worker},
}
MAX_WIDTH = 100
_DESCRIPTION = ("Pick single particles in cryo-EM micrographs with DeepEM, a small convolutional network trained on "
                "particles that you mark.")
_EPILOG = """`deepem COMMAND --help` describes a command.

examples:
  deepem demo
  deepem train --micrographs 'mics/*.mrc' --coordinates boxes \\
      --diameter 120 --output apoferritin.deepem
  deepem pick --micrographs 'mics/*.mrc' --model apoferritin.deepem \\
      --output picks"""


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line.

    Attributes
    ----------
    commands : dict of str to Parser
        The parser of each command by its name; empty in the parser of a command.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        """Print a mistake in the arguments in one line and exit."""
        self.exit(2, f"{self.prog}: error: {message}; see `{self.prog} --help`\n")


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
            verbosity = command.add_mutually_exclusive_group()
            verbosity.add_argument("--quiet", action="store_true", help="print warnings and errors only")
            verbosity.add_argument("--debug", action="store_true", help="print more, and the traceback of an error")
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
    return build_parser().parse_args([f"./{word}" if word.startswith("-") and os.path.exists(word) else word
                                      for word in words])


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, up to `MAX_WIDTH`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width())


def _width() -> int:
    return min(MAX_WIDTH, shutil.get_terminal_size().columns - 2)


def _wrapped(text: str) -> str:
    """Wrap paragraphs; lines that begin with a blank stay as they are."""
    return "\n".join(line if line.startswith(" ") else textwrap.fill(line, _width()) for line in text.splitlines())


def _usage(name: str, required: Sequence[str]) -> str:
    """Return the usage of a command with its required arguments, each of them unbroken."""
    words = [f"deepem {name} [options]", *required]
    lines = textwrap.wrap(" ".join(word.replace(" ", "\u00a0") for word in words), _width() - len("usage: "),
                          subsequent_indent=" " * len(f"usage: deepem {name} "), break_on_hyphens=False)
    return "\n".join(lines).replace("\u00a0", " ")
