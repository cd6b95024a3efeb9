# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the paper's procedure, of `deepem train`, `deepem pick` and `deepem worker`."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import DeepEMError

if TYPE_CHECKING:
    from ..model.model import Model
    from ..training.plan import PaperPlan

log = logging.getLogger("deepem")

PROCEDURES = ("default", "paper")
_OF_TRAINING = ("draw", "ranges", "raw_range", "scan_step", "accuracy_cutoff")


def add_procedure_of_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of the procedure to the parser of `deepem train`."""
    group = parser.add_argument_group("procedure")
    group.add_argument("--procedure", choices=PROCEDURES, default="default", help="`paper`: that of the paper and its "
                       "authors' program: single boxes, each normalised, as many of negatives as of particles; last "
                       "epoch; --rounds from new weights with the mistakes on further micrographs; picking without "
                       "padding (default: %(default)s)")
    group.add_argument("--draw", type=int, metavar="N", help="`paper`: particles to draw in each round (default: 800)")
    group.add_argument("--accuracy-cutoff", type=float, metavar="A", help="`paper`: no further round if this share of "
                       "the boxes of the test micrographs is correct at 0.5 (default: 0.95)")
    group.add_argument("--raw-range", type=float, nargs=2, metavar=("LO", "HI"), help="`paper`: range of the standard "
                       "deviation of the grey values of a box (default: the 1st to 99th percentile of the training "
                       "particles)")
    group.add_argument("--scan-step", type=int, metavar="PX", help="`paper`: step of the scan in binned pixels "
                       "(default: 20 for the presets, others in proportion to the box)")
    _add_ranges(group)


def add_procedure_of_picking(group: Any) -> None:
    """Add the options of the procedure to a group of options of a command that picks."""
    group.add_argument("--procedure", choices=PROCEDURES, help="`paper`: scan whole boxes, each normalised, without "
                       "padding, and suppress in two passes (default: that by which the model was trained)")
    _add_ranges(group)


def _add_ranges(group: Any) -> None:
    group.add_argument("--ranges", type=float, nargs=2, metavar="PX", help="`paper`: half sides, in binned pixels, of "
                       "the squares of the two passes of suppression (default: the authors' for KLH, 70 and 40 at a "
                       "box of 272, in proportion to the box)")


def paper_plan(options: argparse.Namespace) -> PaperPlan | None:
    """Return the settings of the paper's procedure; None for our own.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of a training.

    Returns
    -------
    PaperPlan or None

    Raises
    ------
    DeepEMError
        Options belong to another procedure.
    """
    from ..training.plan import PaperPlan

    given = {name: value for name in _OF_TRAINING if (value := getattr(options, name, None)) is not None}
    if getattr(options, "procedure", "default") == "default":
        if given:
            raise DeepEMError(f"--{next(iter(given)).replace('_', '-')} is for the paper's procedure: give --procedure "
                              "paper as well, or leave it out")
        return None
    if options.coordinates is None or options.incomplete:
        raise DeepEMError("--procedure paper needs --coordinates with all particles of the micrographs: leave out "
                          "--incomplete")
    plain = PaperPlan()
    return PaperPlan(
        given.get("draw", plain.particles), given.get("scan_step"), _pair(given.get("ranges")),
        _pair(given.get("raw_range")), given.get("accuracy_cutoff", plain.accuracy))


def with_procedure(model: Model, options: argparse.Namespace) -> Model:
    """Return a model that picks by the given procedure.

    Parameters
    ----------
    model : Model
    options : argparse.Namespace
        Arguments of a command that picks. The range of the local standard deviation becomes `off` where that of the
        model is of other values.

    Returns
    -------
    Model

    Raises
    ------
    DeepEMError
        The model cannot pick by it, or options belong to another procedure.
    """
    from ..picking.paper import default_ranges

    ranges = _pair(options.ranges)
    if options.procedure == "default" and model.ranges_px is not None:
        raise DeepEMError("--procedure default: the model was trained by the paper's procedure, and has seen "
                          "normalised boxes only: leave the option out")
    if ranges is not None and min(ranges) < 0:
        raise DeepEMError("--ranges {:g} {:g}: expected binned pixels, 0 or more".format(*ranges))
    if model.ranges_px is not None or options.procedure != "paper":
        if ranges is not None and model.ranges_px is None:
            raise DeepEMError("--ranges is for the paper's procedure: give --procedure paper as well, or leave it out")
        return replace(model, ranges_px=ranges or model.ranges_px)
    if model.agreement is not None:
        raise DeepEMError("--procedure paper: the general model compares the candidates of a micrograph with each "
                          "other, and has no place in it. Expected --model with a trained one")
    log.warning("warning: the model was not trained by the paper's procedure: its threshold was chosen for other "
                "scores, and it has no range of the standard deviation of grey values (--std-range LO HI)")
    if list(options.std_range) == ["auto"]:
        options.std_range = ["off"]
    return replace(model, ranges_px=ranges or default_ranges(model.record.preset, model.geometry.box))


def _pair(values: Any) -> tuple[float, float] | None:
    return None if values is None else (float(values[0]), float(values[1]))
