# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The card of a model: its description in plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..network.geometry import Geometry

if TYPE_CHECKING:
    from .model import Model

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


def card_rows(card: Mapping[str, Any] | Model) -> list[tuple[str, str]]:
    """Describe a model in rows of a label and a value, for people.

    Parameters
    ----------
    card : mapping or Model
        Card of a model, as returned by `read_card`, or the model.

    Returns
    -------
    list of (str, str)
        Labels and values. Rows on the training are left out if the card does not record it.
    """
    if not isinstance(card, Mapping):
        card = card.card()
    angst, diameter, step = card["working_pixel_size_angst"], card["diameter_angst"], card["scan_step"]
    sizes = card["geometry"]
    trained_at = card.get("training_pixel_size_angst")
    trained_on = f" (trained on {trained_at:g} A)" if trained_at else ""
    layers = ", ".join(f"{name} {'/'.join(map(str, sizes[name]))}" for name in ("kernels", "pools", "maps"))
    rows = [("particle", f"{diameter:g} A, {diameter / angst:.1f} binned pixels, {card.get('contrast', '?')}"),
            ("working pixel size", f"{angst:g} A{trained_on}"),
            ("network", f"box {sizes['box']} px ({sizes['box'] * angst:.0f} A), {layers}")]
    if (count := card.get("networks", 1)) > 1:
        rows.append(("scores", f"mean of {count} networks, each with other validation micrographs"))
    rows += [("scan step", f"{step} px ({step * angst:.1f} A)"),
             ("local std", "{:.3f} to {:.3f}".format(*card["std_range"]))]
    if training := card.get("training"):
        rows.append(("trained on", f"{training.get('micrographs')} micrographs, {training.get('particles')} particles, "
                                   f"{training.get('given_negatives', 0)} given negatives"))
    if "training_preset" in card:
        rows.append(("training", f"preset {card['training_preset']}, seed {card.get('seed')}"))
    rows.append(("threshold", f"{card['threshold']:.3f}"))
    rows += [(f"round {done['round']}", f"{done['false']} false positives, {done['missed']} missed particles shown "
              f"again: error {done['error']:.4f}{'' if done['kept'] else ', not kept'}")
             for done in card.get("rounds", [])[1:]]
    found = card.get("validation", {})
    if {"AP", "precision", "recall", "F1", "on"} <= set(found):
        rows.append(("at that threshold", f"precision {found['precision']:.3f}, recall {found['recall']:.3f}, F1 "
                     f"{found['F1']:.3f}; average precision {found['AP']:.3f} ({found['on']})"))
    return rows
