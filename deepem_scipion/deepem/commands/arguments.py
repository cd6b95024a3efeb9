# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The class of the parsers, and arguments that several commands share."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

MAX_WIDTH = 100
COORDINATES = "a folder of .box or .star files, with its subfolders, or one such file"


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


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, up to `MAX_WIDTH`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=help_width())


def help_width() -> int:
    """Return the width of help texts in columns."""
    return min(MAX_WIDTH, shutil.get_terminal_size().columns - 2)


def protect_files(words: Sequence[str]) -> list[str]:
    """Return a command line in which no existing file is taken for an option, even if its name begins with a dash."""
    return [f"./{word}" if word.startswith("-") and os.path.exists(word) else word for word in words]


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add --quiet and --debug to the parser of a command."""
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    verbosity.add_argument("--debug", action="store_true", help="print more, and the traceback of an error")


def add_micrographs(group: Any) -> None:
    """Add the options for the micrographs.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add them.
    """
    group.add_argument("--micrographs", required=True, nargs="+", metavar="MICS",
                       help="MRC or TIFF files, quoted patterns, folders, or lists: .txt with one path per line, "
                       "optionally followed by a tab and a name, or .star of RELION")
    group.add_argument("--pixel-size", type=float, metavar="A", help="pixel size of the micrographs in angstrom "
                       "(default: from their headers)")


def add_shifts(group: Any) -> None:
    """Add the option for the shifts of an alignment.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add it.
    """
    group.add_argument("--apply-shifts", action="store_true", help="subtract the shifts that RELION's alignment has "
                       "found (rlnOriginXAngst, rlnOriginX in .star files) from the coordinates")


def add_threads(group: Any) -> None:
    """Add the option for the number of threads.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add it.
    """
    group.add_argument("--threads", type=int, metavar="N", help="number of CPU threads (default: all)")
