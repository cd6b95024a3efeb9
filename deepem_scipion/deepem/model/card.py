# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The card of a model: its description in plain values."""

from __future__ import annotations

import math
from typing import Any

from ..network.geometry import Geometry

# Up to format 3 micrographs were resampled by area means, up to 2 normalised as a whole; format 1: one network.
MODEL_FORMAT = 4
_RECORD = {"training": dict, "validation": dict, "rounds": list, "history": list, "versions": dict}
CARD_NUMBERS = ("working_pixel_size_angst", "diameter_angst", "threshold")


def geometry_from_card(card: dict[str, Any]) -> Geometry:
    sizes = card["geometry"]
    return Geometry(sizes["box"], tuple(sizes["kernels"]), tuple(sizes["pools"]), tuple(sizes["maps"]))


def check_record(card: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where what the card tells besides is not what is made use of."""
    for name, kind in _RECORD.items():
        if not isinstance(card.get(name, kind()), kind):
            raise TypeError(f"{name} is {card[name]!r}")
    finite(card.get("training_pixel_size_angst", 0))
    validation = card.get("validation", {})
    for name in {"AP", "precision", "recall", "F1"} & set(validation):
        finite(validation[name])
    if curve := validation.get("curve"):
        lengths = {len([finite(value) for value in curve[name]]) for name in ("threshold", "precision", "recall")}
        if len(lengths) > 1:
            raise ValueError("the validation curve is incomplete")
    for done in card.get("rounds", [])[1:]:
        finite(done["error"])
        if missing := {"round", "false", "missed", "kept"} - set(done):
            raise KeyError(*missing)


def card_number(card: dict[str, Any], name: str) -> float:
    value = finite(card[name])
    if value < 0 or (value == 0 and name != "threshold"):
        raise ValueError(f"{name} is {value}")
    return value


def finite(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} where a number was expected")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} where a finite number was expected")
    return number
