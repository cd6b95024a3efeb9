# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that limit the picks, of `deepem pick`, `deepem worker` and `deepem studio`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DeepEMError
from .arguments import add_max_mask, angst

if TYPE_CHECKING:
    from ..model.model import Model
    from ..picking.selection import Limits


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit the picks to a parser."""
    group = parser.add_argument_group("selection of picks")
    group.add_argument("--threshold", default="auto", metavar="T", help="minimum score: `auto` (default), the model's "
                       "own, with the best F2 in its validation (general model: 0.45); `F1`, that with the best F1 "
                       "there; `precision=P`, the lowest with a precision of at least P there; or a number from 0 (all "
                       "candidates) to 1")
    group.add_argument("--min-distance", type=angst, metavar="A", help="minimum distance of two picks in angstrom "
                       "(default: half the particle diameter; 0 by the paper's procedure, with its own suppression)")
    group.add_argument("--std-range", nargs="+", default=["auto"], metavar=("LO|auto|off", "HI"), help="range of the "
                       "local standard deviation of the normalised pixels, which excludes carbon and ice; `auto` "
                       "(default): the model's, `off`: no limits")
    add_max_mask(group)
    group.add_argument("--keep-best", type=float, default=1.0, metavar="FRACTION", help="of the picks of each "
                       "micrograph keep this share, those with the highest scores (default: all)")
    group.add_argument("--at-least", type=int, default=0, metavar="N", help="keep N picks of each micrograph whatever "
                       "--keep-best leaves, if it has as many (default: 0)")
    group.add_argument("--border", type=angst, default=0.0, metavar="A", help="minimum distance of a pick from the "
                       "border of the micrograph in angstrom (default: 0)")


def given_limits(options: argparse.Namespace, coordinates: bool = False) -> dict[str, Any]:
    """Return the limits of the picks that are given, see `Limits.changed`; coordinates have no threshold by a word."""
    found = {"min_distance_angst": options.min_distance, "border_angst": options.border, "max_mask": options.max_mask,
             "keep_best": options.keep_best, "at_least": options.at_least}
    found = {name: value for name, value in found.items() if value is not None}
    if options.threshold is not None:
        found["threshold"] = _given_threshold(options.threshold, coordinates)
    if options.std_range is not None:
        words = list(options.std_range)
        found["std_range"] = "auto" if words == ["auto"] else None if words == ["off"] else _numbers(words)
    return found


def _given_threshold(text: str, coordinates: bool) -> float | str:
    try:
        value = float(text)
    except ValueError:
        if coordinates:
            raise DeepEMError(f"--threshold {text}: with --coordinates expected a score") from None
        return text
    if not math.isfinite(value):
        raise DeepEMError(f"--threshold {text}: expected a number")
    return value


def chosen_limits(options: argparse.Namespace, model: Model) -> Limits:
    """Return the limits of the picks: the model's, replaced by those given."""
    from ..picking.selection import Limits

    if options.at_least > 0 and options.keep_best == 1:
        raise DeepEMError(f"--at-least {options.at_least}: without --keep-best all picks are kept. Give --keep-best as "
                          "well, or leave --at-least out.")
    return Limits.of_model(model).changed(given_limits(options), model)


def _numbers(words: Sequence[str]) -> tuple[float, float]:
    try:
        low, high = (float(word) for word in words)
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high:
        raise DeepEMError(f"--std-range {' '.join(words)}: expected `auto`, `off`, or two numbers, the smaller first")
    return low, high
