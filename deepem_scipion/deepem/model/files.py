# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model files: weights and card in one safetensors file.

The container holds plain arrays and text only, so that loading it runs no code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_write
from ..errors import DeepEMError
from .card import CARD_NUMBERS, MODEL_FORMAT, card_number, check_record, finite, geometry_from_card
from .model import Model

_CARD = "deepem_card"


def save_model(path: str | Path, model: Model) -> None:
    """Write a model file, as a whole or not at all; raises DeepEMError where it cannot be written."""
    from safetensors.numpy import save

    arrays = {_array(name, number): np.ascontiguousarray(value, np.float32)
              for number, weights in enumerate(model.networks) for name, value in weights.items()}
    content = save(arrays, metadata={_CARD: json.dumps(model.card(), allow_nan=False)})
    with atomic_write(path, "wb") as handle:
        handle.write(content)


def load_model(path: str | Path) -> Model:
    """Read and check a model file.

    Raises
    ------
    DeepEMError
        Where the file is missing, damaged, no DeepEM model, of a newer format, or where card and weights do not
        belong together.
    """
    card, read = _open(Path(path))
    try:
        geometry = geometry_from_card(card)
        numbers = {name: card_number(card, name) for name in CARD_NUMBERS}
        low, high = (finite(value) for value in card["std_range"])
        step, count = int(card["scan_step"]), int(card.get("networks", 1))
        normalised_by = str(card.get("normalised_by", "micrograph"))
        resampled_by = str(card.get("resampled_by", "area"))
        check_record(card)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeepEMError(f"{path}: the model's card is damaged ({error}); train the model again") from error
    if (not 1 <= step < 2**31 or count < 1 or low > high or normalised_by not in ("windows", "micrograph")
            or resampled_by != "lanczos"):
        raise DeepEMError(f"{path}: the model's card is damaged (scan step {step}, {count} networks, deviations from "
                          f"{low} to {high}, normalised by {normalised_by!r}, resampled by {resampled_by!r}); train "
                          "the model again")
    networks = tuple({name: read(_array(name, number), shape) for name, shape in geometry.weight_shapes().items()}
                     for number in range(count))
    known = {"format", "geometry", "networks", "scan_step", "std_range", "normalised_by", "resampled_by", *CARD_NUMBERS}
    record = {key: value for key, value in card.items() if key not in known}
    return Model(geometry, networks, scan_step=step, std_range=(low, high), normalised_by=normalised_by,
                 resampled_by=resampled_by, record=record, **numbers)


def _array(name: str, network: int) -> str:
    """Name in the file of an array of a network, counted from 0."""
    return f"network{network + 1}.{name}" if network else name


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of a model file, without its weights; raises DeepEMError as `load_model` does."""
    return _open(Path(path))[0]


def _open(path: Path) -> tuple[dict[str, Any], Any]:
    """The card, and a function (name, shape) -> array that refuses other shapes before reading."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise DeepEMError(f"{path}: no such model file")
    try:
        opened = safe_open(str(path), framework="numpy")
        with opened as file:
            text = (file.metadata() or {}).get(_CARD)
        card = json.loads(text) if text is not None else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DeepEMError(f"{path}: not a DeepEM model, or damaged ({error})") from error
    if not isinstance(card, dict) or not isinstance(card.get("format"), int):
        raise DeepEMError(f"{path}: not a DeepEM model: it has no card")
    if card["format"] > MODEL_FORMAT:
        raise DeepEMError(f"{path}: the model's format is {card['format']}, this version reads up to {MODEL_FORMAT}; "
                          "install a newer scipion-em-deepem")

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        with safe_open(str(path), framework="numpy") as file:
            if name not in file.keys():  # noqa: SIM118 - not a mapping
                raise DeepEMError(f"{path}: {name} is missing; train the model again")
            found, kind = tuple(file.get_slice(name).get_shape()), file.get_slice(name).get_dtype()
            if found != shape or kind != "F32":
                raise DeepEMError(f"{path}: {name} is {kind} {found}, the card says F32 {shape}; train the model again")
            values: np.ndarray = file.get_tensor(name)
            if not np.isfinite(values).all():
                raise DeepEMError(f"{path}: {name} holds values that are not finite; train the model again")
            return values

    return card, read
