# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a training in the card of a model. Picking does not need it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict, TypeVar

_Counts = TypeVar("_Counts", bound="TrainingData")


class Epoch(TypedDict, total=False):
    """Figures of a network after an epoch.

    `round` and `network` count from 1. Loss, accuracy and average precision are those of `assessment.assess`, on the
    training sample and, with the prefix `validation_`, on the validation sample.
    """

    round: int
    network: int
    networks: int
    epoch: int
    epochs: int
    seed: int
    loss: float
    relative_loss: float
    accuracy: float
    average_precision: float
    validation_loss: float
    validation_relative_loss: float
    validation_accuracy: float
    validation_average_precision: float
    seconds: float
    seconds_left: float


@dataclass(frozen=True)
class TrainingData:
    """Micrographs and coordinates used for training or for validation.

    Attributes
    ----------
    micrographs : int
        Number of micrographs.
    names : list of str
        Their names.
    particles : int
        Number of particles.
    left_out : int
        Number of particles that were not used because their boxes leave the micrograph.
    given_negatives : int
        Number of negatives with given coordinates.
    """

    micrographs: int = 0
    names: list[str] = field(default_factory=list)
    particles: int = 0
    left_out: int = 0
    given_negatives: int = 0

    @classmethod
    def from_card(cls: type[_Counts], values: Any) -> _Counts:
        """Read and check the values of a card.

        Parameters
        ----------
        values : dict
            As written by `TrainingRecord.as_card`. Missing values keep their defaults, others are ignored.

        Returns
        -------
        TrainingData

        Raises
        ------
        TypeError, ValueError
            If a value is not of its type, or a number is not finite.
        """
        return cls(**_found(values, int, "micrographs", "particles", "left_out", "given_negatives"),
                   **_found(values, list, "names"))


@dataclass(frozen=True)
class Validation(TrainingData):
    """Validation micrographs, and figures of the picks on them at the model's threshold.

    Attributes
    ----------
    on : str, optional
        "validation micrographs", or "training micrographs" if none were kept for validation, followed by
        `card.MODEL_LABELS` in brackets where a model has labelled them; None if nothing was picked.
    precision, recall, F1, F2 : float, optional
        At the threshold of the model.
    best_F1 : float, optional
        Highest F1 of all thresholds.
    AP : float, optional
        Average precision.
    curve : dict of str to list of float, optional
        Points of precision and recall over the threshold: `threshold` in descending order, `precision`, `recall`.
    """

    on: str | None = None
    precision: float | None = None
    recall: float | None = None
    F1: float | None = None
    F2: float | None = None
    best_F1: float | None = None
    AP: float | None = None
    curve: dict[str, list[float]] | None = None

    @classmethod
    def from_card(cls, values: Any) -> Validation:
        """Read and check the values of a card, as `TrainingData.from_card` does."""
        counts, curve = TrainingData.from_card(values), _found(values, dict, "curve")
        for points in curve.values():
            lengths = {len([finite(value) for value in points[name]]) for name in ("threshold", "precision", "recall")}
            if len(lengths) > 1:
                raise ValueError("the validation curve is incomplete")
        return cls(**vars(counts), **curve, **_found(values, str, "on"),
                   **_found(values, (int, float), "precision", "recall", "F1", "F2", "best_F1", "AP"))


@dataclass(frozen=True)
class Round:
    """Figures of a round of recursive training (Fig. 2 of the paper).

    Attributes
    ----------
    round : int
        Number of the round, from 1.
    kept : bool
        Whether the networks of this round were kept.
    error : float, optional
        1 - best F1 of the picks on the validation micrographs.
    false_positives, missed, doubtful : int
        Picks and particles of the training micrographs that entered the round (see `rounds.with_mistakes`).
    AP, best_F1, F2, precision, recall : float, optional
        See `Validation`.
    accuracy : float, optional
        Of the paper's procedure: share of the boxes of the test micrographs on the right side of a score of 0.5.
    """

    round: int
    kept: bool = True
    error: float | None = None
    false_positives: int = 0
    missed: int = 0
    doubtful: int = 0
    AP: float | None = None
    best_F1: float | None = None
    F2: float | None = None
    precision: float | None = None
    recall: float | None = None
    accuracy: float | None = None

    @classmethod
    def from_card(cls, values: Any) -> Round:
        """Read and check the values of a card; raises TypeError or ValueError where they cannot be used."""
        return cls(**_found(values, int, "round", "false_positives", "missed", "doubtful"),
                   **_found(values, bool, "kept"),
                   **_found(values, (int, float), "error", "AP", "best_F1", "F2", "precision", "recall", "accuracy"))


@dataclass(frozen=True)
class TrainingRecord:
    """How a model was trained and validated; what is not recorded is None or empty.

    Attributes
    ----------
    contrast : str, optional
        "dark" or "bright" particles.
    preset : str, optional
        Preset of the geometry; None for the automatic or a given geometry.
    training_preset : str, optional
        Name in `TRAINING_PRESETS`.
    seed : int, optional
        Given seed.
    seeds_used : list of int
        Seed of each network, which differs from the given one if the network did not converge at first.
    training_pixel_size_angst : float, optional
        Pixel size of the training micrographs in angstrom.
    annotated_border_angst : float, optional
        Width, in angstrom, of the border without annotated particles.
    versions : dict of str to str
        Of Python and of the packages that results depend on.
    warnings : list of str
        What did not fit together before the training: pixel sizes, coordinates, diameter, contrast.
    best_epochs : list of int
        Epoch that was kept, of each network.
    history : list of Epoch
        All epochs of all networks and rounds.
    training, validation, test : TrainingData, Validation, TrainingData
        Data that all networks together were trained and validated on, with the figures, and, by the paper's procedure,
        data on which nothing is chosen but the end of the recursion.
    rounds : list of Round
        All rounds of recursive training.
    tuning : dict, optional
        Figures of the search, if there was one.
    origin : dict of str to str
        What a model that belongs to the package was made by and of.
    """

    contrast: str | None = None
    preset: str | None = None
    training_preset: str | None = None
    seed: int | None = None
    seeds_used: list[int] = field(default_factory=list)
    training_pixel_size_angst: float | None = None
    annotated_border_angst: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)
    training: TrainingData = field(default_factory=TrainingData)
    validation: Validation = field(default_factory=Validation)
    test: TrainingData = field(default_factory=TrainingData)
    rounds: list[Round] = field(default_factory=list)
    tuning: dict[str, Any] | None = None
    origin: dict[str, str] = field(default_factory=dict)

    def as_card(self) -> dict[str, Any]:
        """Return the recorded values, ready for JSON."""
        found: dict[str, Any] = asdict(self, dict_factory=_without_none)
        return found

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> TrainingRecord:
        """Read and check the record in a card.

        Parameters
        ----------
        card : mapping
            Card of a model. Missing values keep their defaults, keys that are not known are ignored.

        Returns
        -------
        TrainingRecord

        Raises
        ------
        TypeError, ValueError, KeyError
            If a value is not of its type, or a number is not finite.
        """
        history = _found(card, list, "history")
        if not all(isinstance(epoch, dict) for epoch in history.get("history", [])):
            raise TypeError("history holds entries that are no epochs")
        return cls(
            **history, **_found(card, str, "contrast", "preset", "training_preset"), **_found(card, int, "seed"),
            **_found(card, list, "seeds_used", "best_epochs", "warnings"),
            **_found(card, dict, "versions", "tuning", "origin"),
            **_found(card, (int, float), "training_pixel_size_angst", "annotated_border_angst"),
            training=TrainingData.from_card(card.get("training", {})),
            validation=Validation.from_card(card.get("validation", {})),
            test=TrainingData.from_card(card.get("test", {})),
            rounds=[Round.from_card(entry) for entry in _found(card, list, "rounds").get("rounds", [])])


def finite(value: Any) -> float:
    """Return a number as float.

    Parameters
    ----------
    value : object
        Value from a card.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError, OverflowError
        If the value is no number, not finite, or too large.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} where a number was expected")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} where a finite number was expected")
    return number


def _found(values: Any, kind: type | tuple[type, ...], *names: str) -> dict[str, Any]:
    """Values of a card that are present, checked for their type; numbers must be finite."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{values!r} where names and values were expected")
    found = {name: values[name] for name in names if values.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r}")
        if isinstance(value, (int, float)):
            finite(value)
    return found


def _without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value is not None}
