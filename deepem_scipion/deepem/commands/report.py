# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem report`: write an HTML report of a picking run or of a model."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import DeepEMError
from . import console

log = logging.getLogger("deepem")

SUMMARY = "write an HTML report of a picking run or a model"
REQUIRED = ("DIR_OR_MODEL",)
DESCRIPTION = ("Write a report as one HTML file without external content. The report of a picking run has its figures, "
               "the distributions of picks and scores, the best, typical and worst micrographs, failures, parameters "
               "and versions; the report of a model has its card and its training and validation curves.")
EPILOG = """examples:
  deepem report picks --model apoferritin.deepem
  deepem report apoferritin.deepem"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem report` to its parser."""
    parser.add_argument("results", type=Path, metavar="DIR_OR_MODEL", help="output folder of `deepem pick`, or a model")
    parser.add_argument("--model", type=Path, metavar="MODEL", help="model used for the picking run, to add its card "
                        "and curves")
    parser.add_argument("--output", type=Path, metavar="FILE", help="report to write (default: DIR/report.html or "
                        "MODEL.html)")


def run(options: argparse.Namespace) -> int:
    """Run `deepem report`; returns the exit code."""
    from ..model.paths import ModelFiles
    from ..report.model_report import report_model
    from ..report.picking_report import report_picking
    from ..studio.saved import session_of

    if options.results.is_dir():
        if session_of(options.results):
            raise DeepEMError(f"{options.results}: this is a session of the studio, and only a picking run has a "
                              "report. Expected an output folder of `deepem pick`, or a model")
        path = options.output or report_path(options.results)
        report_picking(options.results, path, options.model)
        _warn_of_missing(options.results)
    elif not options.results.exists():
        raise DeepEMError(f"{options.results}: no such folder or file. Expected an output folder of `deepem pick`, or "
                          "a model")
    else:
        path = options.output or ModelFiles(options.results).report
        report_model(options.results, path)
    console.print_result(f"report written to {path}")
    return console.OK


def _warn_of_missing(folder: Path) -> None:
    """Warn of micrographs of which the report has no pictures because they are not where the run found them."""
    from ..coordinates.names import listed
    from ..picking.results import PickingResults

    picked = [result.path for result in PickingResults(folder).read_micrographs().values() if result.ok]
    if missing := [path for path in picked if not os.path.exists(path)]:
        relative = "" if os.path.isabs(missing[0]) else (" The paths are relative to the folder in which the run was "
                                                         "started: give the command there.")
        log.warning("warning: %d of %d micrographs are not found, and not shown in the report: %s.%s", len(missing),
                    len(picked), listed(missing), relative)


def report_path(folder: Path) -> Path:
    """Return the default path of the report of a picking run.

    Parameters
    ----------
    folder : Path
        Results folder of the run.

    Returns
    -------
    Path
    """
    from ..picking.results import PickingResults

    return PickingResults(folder).path("report")


def try_report(path: Path, write: Callable[[], None]) -> None:
    """Write the report of results that are already stored; a failure is logged as a warning.

    Parameters
    ----------
    path : Path
        File to write, for the messages.
    write : callable
        Writes the report.
    """
    try:
        write()
    except Exception as error:
        log.warning("warning: the report %s could not be written: %s", path, error)
        log.debug("%s failed", path, exc_info=True)
    else:
        console.print_result(f"report written to {path}")
