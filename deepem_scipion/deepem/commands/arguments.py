# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The class of the parsers, and arguments that several commands share."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

MAX_WIDTH = 100
# What text programs make of two hyphens.
_LONG_DASHES = ("\u2013", "\u2014")
COORDINATES = ("a file of coordinates of any format (.box, .star, .cbox, .cs, ...), or a folder of them, with its "
               "subfolders")
FORMAT_NAMES = "eman, eman-json, relion, cryolo, topaz, cryosparc, cryoppp, xmipp, napari, warp"


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with the usage of the command, and a misspelt word with the one that was meant.

    Attributes
    ----------
    commands : dict of str to Parser
        The parser of each command by its name; empty in the parser of a command.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)
        self.register("type", float, _number)
        self.register("type", int, _whole_number)
        self.commands: dict[str, Parser] = {}
        self._words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; a command refuses those that it does not know, so that the message shows its own usage."""
        self._words = [] if args is None else list(args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage and a mistake in the arguments, and exit."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}; see `{self.prog} --help`\n{self._suggestions()}")

    def _suggestions(self) -> str:
        """Return a line for each word that seems to be a misspelt option or command."""
        commands = [word for word in self._words if not word.startswith("-")][:1]
        if self.commands and commands:
            kind, known, given = "a command", list(self.commands), commands
        else:
            kind, known = "an option", [name for action in self._actions for name in action.option_strings]
            given = [word.split("=")[0] for word in self._words if word.startswith(("--", *_LONG_DASHES))]
        unknown = [word for word in given if not any(name.startswith(word) for name in known)]
        return "".join(f"Did you mean {close[0]}? {word} is not {kind} of {self.prog}.\n" for word in unknown
                       if (close := get_close_matches(re.sub("^[\u2013\u2014-]+", "--", word), known, 1)))


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, up to `MAX_WIDTH`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=help_width())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, such as 1.5, without a unit") from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, without a unit") from None


def angst(text: str) -> float:
    """Parse a length in angstrom, such as 150 or 150A; for argparse."""
    try:
        return float(re.sub("\\s*[A\u00c5]$", "", text))
    except ValueError:
        hint = "; a diameter is estimated, and printed, by `deepem pick` and `deepem auto`" if text == "auto" else ""
        raise argparse.ArgumentTypeError(f"{text!r}: expected angstrom, such as 150 or 1.5{hint}") from None


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
    group.add_argument("--pixel-size", type=angst, metavar="A", help="pixel size of the micrographs in angstrom "
                       "(default: from their headers)")
    add_tiff_rows(group)


def add_tiff_rows(group: Any) -> None:
    """Add the option for the frame of coordinates in TIFF files.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add it.
    """
    group.add_argument("--tiff-rows", choices=("bottom", "top"), default="bottom", help="the row of TIFF files with "
                       "y = 0: `bottom`, the last one, as in RELION and EMAN2 (default), or `top`, the first one")


def add_masks(group: Any) -> None:
    """Add the options for masks.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add them.
    """
    group.add_argument("--masks", type=Path, metavar="DIR", help="masks of carbon film, ice or other contamination "
                       "(MRC, TIFF or PNG of any size, named like the micrographs): 1 or white where nothing is to be "
                       "used, 0 elsewhere, or a probability")


def add_max_mask(group: Any) -> None:
    """Add the option for the limit of masks.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add it.
    """
    group.add_argument("--max-mask", type=float, default=0.5, metavar="P", help="use nothing where the mask is above "
                       "this value, from 0 to 1 (default: 0.5)")


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
