# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments that several commands share."""

from __future__ import annotations

from typing import Any

COORDINATES = "a folder of .box or .star files, or one such file"


def add_micrographs(group: Any) -> None:
    """Add the options for the micrographs.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add them.
    """
    group.add_argument("--micrographs", required=True, nargs="+", metavar="MICS",
                       help="MRC or TIFF files, quoted patterns, folders, or .txt lists with one path per line, "
                       "optionally followed by a tab and a name")
    group.add_argument("--pixel-size", type=float, metavar="A", help="pixel size of the micrographs in angstrom "
                       "(default: from their headers)")


def add_threads(group: Any) -> None:
    """Add the option for the number of threads.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add it.
    """
    group.add_argument("--threads", type=int, metavar="N", help="number of CPU threads (default: all)")
