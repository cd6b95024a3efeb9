# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The card of a model: its description in plain values, stored as JSON in the model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..network.geometry import Geometry
from .record import TrainingRecord, finite

MODEL_FORMAT = 1
# Number of values by which a candidate is compared with others of its micrograph, see `picking.agreement`.
AGREEMENT_FEATURES = 10
# Added to the name of validation micrographs on which a model labelled what nobody marked, and the warning about them.
MODEL_LABELS = "labelled by a model"
MODEL_LABELS_WARNING = ("precision, recall, F1 and average precision were measured on micrographs that the model from "
                        "which the training started had labelled itself: they show how far the two models agree, not "
                        "how accurate the picks are")


def geometry_of(card: Mapping[str, Any]) -> Geometry:
    """Return the geometry that a card states.

    Parameters
    ----------
    card : mapping
        Card of a model.

    Returns
    -------
    Geometry

    Raises
    ------
    KeyError, TypeError, ValueError, OverflowError
        If sizes are missing, or do not fit.
    """
    sizes = card["geometry"]
    return Geometry(sizes["box"], tuple(sizes["kernels"]), tuple(sizes["pools"]), tuple(sizes["maps"]))


def agreement_shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights that compare candidates with each other.

    Parameters
    ----------
    hidden : int
        Number of hidden units.

    Returns
    -------
    dict of str to tuple of int
        By name.
    """
    return {"hidden.kernel": (AGREEMENT_FEATURES, hidden), "hidden.bias": (hidden,), "output.kernel": (hidden,),
            "output.bias": (1,)}


def number_of(card: Mapping[str, Any], name: str) -> float:
    """Return a number that a card must state: above 0, or at least 0 for the threshold.

    Parameters
    ----------
    card : mapping
        Card of a model.
    name : {"working_pixel_size_angst", "diameter_angst", "threshold"}
        Key.

    Returns
    -------
    float

    Raises
    ------
    KeyError, TypeError, ValueError, OverflowError
        If the number is missing, or makes no sense.
    """
    value = finite(card[name])
    if value < 0 or (value == 0 and name != "threshold"):
        raise ValueError(f"{name} is {value}")
    return value


def ranges_of(card: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the ranges of suppression that the card of a model of the paper's procedure states; None for others.

    Parameters
    ----------
    card : mapping
        Card of a model.

    Returns
    -------
    tuple of float, or None
        In binned pixels.

    Raises
    ------
    TypeError, ValueError, OverflowError
        If they are not two numbers of 0 or more.
    """
    if card.get("ranges_px") is None:
        return None
    first, second = (finite(value) for value in card["ranges_px"])
    if min(first, second) < 0:
        raise ValueError(f"ranges_px is {first}, {second}")
    return first, second


def card_rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Describe a model in rows of a label and a value, for people.

    Parameters
    ----------
    card : mapping
        Card of a model, as returned by `read_card` or `Model.card`.

    Returns
    -------
    list of (str, str)
        Labels and values. Rows on the training are left out if the card does not record it.
    """
    record, geometry = TrainingRecord.from_card(card), geometry_of(card)
    angst, diameter, step = card["working_pixel_size_angst"], card["diameter_angst"], card["scan_step"]
    trained_at = record.training_pixel_size_angst
    layers = ", ".join(f"{name} {'/'.join(map(str, getattr(geometry, name)))}" for name in ("kernels", "pools", "maps"))
    rows = [("particle", f"{diameter:g} A, {diameter / angst:.1f} binned pixels, {record.contrast or '?'}"),
            ("working pixel size", f"{angst:g} A" + (f" (trained on {trained_at:g} A)" if trained_at else "")),
            ("network", f"box {geometry.box} px ({geometry.box * angst:.0f} A), {layers}")]
    if card["networks"] > 1:
        rows.append(("scores", f"mean of {card['networks']} networks, each with other validation micrographs"))
    rows += [("scan step", f"{step} px ({step * angst:.1f} A)"),
             ("local std", "{:.3f} to {:.3f}".format(*card["std_range"]))]
    if (ranges := ranges_of(card)) is not None:
        rows.append(("procedure", f"paper: suppression within {ranges[0]:.3g} and {ranges[1]:.3g} px, local std of "
                                  "grey values"))
    if (used := record.training).micrographs:
        rows.append(("trained on", f"{used.micrographs} micrographs, {used.particles} particles, "
                                   f"{used.given_negatives} given negatives"))
    rows += [(f"made {name}", str(value)) for name, value in record.origin.items()]
    if record.training_preset:
        rows.append(("training", f"preset {record.training_preset}, seed {record.seed}"))
    rows += [("warning", str(text)) for text in record.warnings]
    rows.append(("threshold", f"{card['threshold']:.3f}"))
    rows += [(f"test, round {done.round}", f"{100 * done.accuracy:.1f} % of {record.test.particles} particles and as "
              "many negatives correct at 0.5") for done in record.rounds if done.accuracy is not None]
    rows += [(f"round {done.round}", f"{done.false_positives} false positives, {done.missed} missed particles shown "
              f"again: error {_figure(done.error, 4)}{'' if done.kept else ', not kept'}")
             for done in record.rounds[1:]]
    if (found := record.validation).on:
        rows.append(("at that threshold", f"precision {_figure(found.precision)}, recall {_figure(found.recall)}, F1 "
                     f"{_figure(found.F1)}; average precision {_figure(found.AP)} ({found.on})"))
    return rows


def _figure(value: float | None, digits: int = 3) -> str:
    return "?" if value is None else f"{value:.{digits}f}"
