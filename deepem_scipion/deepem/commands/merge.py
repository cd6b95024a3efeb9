# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem merge`: one results folder of a run that was picked in parts."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..errors import DeepEMError
from . import console

log = logging.getLogger("deepem")

SUMMARY = "put the parts of a picking run into one folder"
REQUIRED = ("OUT", "PART ...")
DESCRIPTION = """\
Put the results of `deepem pick --part I/N` into one results folder; the parts stay as they are.

With --micrographs and --parts the parts that lack micrographs are listed, for instance because their job was ended: \
pick those parts again, with --resume, and merge again, with --overwrite."""
EPILOG = """examples:
  deepem pick --micrographs list.txt --model apoferritin.deepem \\
      --part 3/100 --output parts/3
  deepem merge picks parts/* --micrographs list.txt --parts 100

The exit code is 0 if all micrographs were picked, 1 if some failed or are missing, 2 if nothing could be done."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem merge` to its parser."""
    parser.add_argument("output", type=Path, metavar="OUT", help="results folder to make")
    parser.add_argument("folders", type=Path, nargs="+", metavar="PART", help="output folders of the parts")
    parser.add_argument("--overwrite", action="store_true", help="replace the results that are in OUT")
    parser.add_argument("--micrographs", nargs="+", metavar="MICS", help="all micrographs, as for `deepem pick`, to "
                        "find those that are missing")
    parser.add_argument("--parts", type=int, metavar="N", help="number of parts (default: that of the folders)")


def run(options: argparse.Namespace) -> int:
    """Run `deepem merge`; returns the exit code."""
    from ..micrographs.find import find_micrographs
    from ..picking.merge import are_parts, merge_runs, missing_parts
    from ..picking.results import PickingResults

    n_parts = len(options.folders) if options.parts is None else options.parts
    if n_parts < 1:
        raise DeepEMError(f"--parts {n_parts}: expected the number of parts")
    expected = list(find_micrographs(options.micrographs)) if options.micrographs else []
    existing = [folder for folder in options.folders if PickingResults(folder).exists()]
    for folder in sorted(set(options.folders) - set(existing)):
        log.warning("warning: %s: no results of `deepem pick`; its part is missing", folder)
    ended = list(filter(None, (PickingResults(folder).what_is_missing() for folder in existing)))
    for problem in ended:
        log.warning("warning: %s", problem)
    found = merge_runs(options.output, existing, "overwrite" if options.overwrite else "refuse")
    failed = sum(not each.ok for each in found.values())
    console.print_result(f"{sum(each.picks for each in found.values())} picks on {len(found) - failed} micrographs, "
                         f"{failed} failed; {len(existing)} parts merged into {options.output}")
    missing = missing_parts(expected, found, n_parts)
    if missing and are_parts(expected, [PickingResults(folder).read_micrographs() for folder in existing], n_parts):
        for part, names in sorted(missing.items()):
            log.warning("part %d/%d lacks %d micrographs, for instance %s: pick it again with --part %d/%d --resume, "
                        "into its own folder", part, n_parts, len(names), names[0], part, n_parts)
        log.warning("to repeat in a job array: --array=%s", ",".join(map(str, sorted(missing))))
    elif missing:
        log.warning("%d micrographs are missing, for instance %s. The folders are not parts I/%d: to find those to "
                    "pick again, give the number of parts that were picked (--parts)", sum(map(len, missing.values())),
                    next(iter(missing.values()))[0], n_parts)
    incomplete = failed or missing or ended or len(existing) < len(options.folders)
    return console.UNUSABLE if found and failed == len(found) else console.SOME_FAILED if incomplete else console.OK
