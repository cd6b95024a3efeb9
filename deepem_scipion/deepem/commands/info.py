# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem info`: print the card of a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import console

SUMMARY = "print the card of a model"
REQUIRED = ("MODEL",)
DESCRIPTION = ("Print the card of a model: particle and pixel size, network, data and settings of the training, and "
               "the results on the validation micrographs.")
EPILOG = """examples:
  deepem info apoferritin.deepem
  deepem info apoferritin.deepem --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem info` to its parser."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model file")
    parser.add_argument("--json", action="store_true", help="print the complete card as JSON")


def run(options: argparse.Namespace) -> int:
    """Run `deepem info`; returns the exit code."""
    from ..model.files import load_model

    card = load_model(options.model).card()  # the weights are checked as well
    console.print_always(json.dumps(card, indent=1) if options.json else format_card(card))
    return console.OK


def format_card(card: Mapping[str, Any]) -> str:
    """Format the card of a model as a table of two columns.

    Parameters
    ----------
    card : mapping of str to Any
        Card of a valid model.

    Returns
    -------
    str
        One line for each row of `card_rows`.
    """
    from ..model.card import card_rows

    rows = card_rows(card)
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
