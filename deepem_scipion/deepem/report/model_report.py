# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTML report of a model, also a section of the report of a picking run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.metrics import curve_from_points
from ..model.card import card_rows
from ..model.files import load_model
from .page import Section, Table, format_number, make_charts, write_page
from .plots import draw_curve, draw_training

# Descriptions of the panels of `draw_curve`.
CURVE_ALTS = ("Precision against recall, with the best F1 and F2 marked",
              "F1 and F2 against the threshold, with the best of each marked")


def report_model(model: str | Path, path: str | Path) -> None:
    """Write the report of a model.

    Parameters
    ----------
    model : str or Path
        Model file.
    path : str or Path
        HTML file to write.

    Raises
    ------
    DeepEMError
        The model cannot be read, or the report cannot be written.
    """
    card = load_model(model).card()
    validation = card.get("validation", {})
    figures = {name: format_number(validation.get(key)) for name, key in (
        ("precision", "precision"), ("recall", "recall"), ("F1", "F1"), ("average precision", "AP"))}
    write_page(path, "Model report", str(Path(model).resolve()), figures, [
        model_section(card, card["threshold"]),
        Section("Versions", tables=versions_table(card.get("versions", {})))])


def model_section(card: Mapping[str, Any], threshold: float | None) -> Section:
    """Return the card of a model and the curves of its training and validation.

    Parameters
    ----------
    card : mapping of str to Any
    threshold : float, optional
        Marked in the curves.

    Returns
    -------
    Section
    """
    charts = []
    if card.get("history"):
        charts += make_charts(draw_training(card["history"]), ["Loss after each epoch", "Accuracy after each epoch"])
    if points := card.get("validation", {}).get("curve"):
        charts += make_charts(draw_curve(curve_from_points(points), threshold=threshold), CURVE_ALTS, [
            f"On the {card['validation'].get('on', 'validation micrographs')} of the training."] * 2)
    return Section("Model", charts=charts, tables=[Table("Card of the model", (), card_rows(card))])


def versions_table(versions: Mapping[str, str]) -> list[Table]:
    """Return a table of the versions of packages, or none if they are unknown.

    Parameters
    ----------
    versions : mapping of str to str

    Returns
    -------
    list of Table
    """
    return [Table("Versions", (), list(versions.items()))] if versions else []
