# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model files: weights and card in one safetensors file.

The file contains only arrays and text, so that loading it runs no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_write
from ..errors import DeepEMError
from .card import MODEL_FORMAT, agreement_shapes, geometry_of, number_of, ranges_of
from .model import Model
from .record import TrainingRecord, finite

_CARD = "deepem_card"


def save_model(path: str | Path, model: Model) -> None:
    """Write a model file atomically.

    Parameters
    ----------
    path : str or Path
        File to write.
    model : Model

    Raises
    ------
    DeepEMError
        If the file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {_array(name, number): np.ascontiguousarray(value, np.float32)
              for number, weights in enumerate(model.networks) for name, value in weights.items()}
    arrays.update({f"agreement.{name}": np.ascontiguousarray(value, np.float32)
                   for name, value in (model.agreement or {}).items()})
    content = save(arrays, metadata={_CARD: json.dumps(model.card(), allow_nan=False)})
    with atomic_write(path, "wb") as handle:
        handle.write(content)


def load_model(path: str | Path) -> Model:
    """Read and check a model file.

    Parameters
    ----------
    path : str or Path
        Model file.

    Returns
    -------
    Model

    Raises
    ------
    DeepEMError
        If the file is missing, damaged, not a DeepEM model or of another format, or if card and weights do not match.
    """
    card, read = _open(Path(path))
    try:
        geometry = geometry_of(card)
        working, diameter, threshold = (number_of(card, name) for name in (
            "working_pixel_size_angst", "diameter_angst", "threshold"))
        low, high = (finite(value) for value in card["std_range"])
        step, count, hidden = int(card["scan_step"]), int(card["networks"]), int(card.get("agreement", 0))
        ranges = ranges_of(card)
        record = TrainingRecord.from_card(card)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeepEMError(f"{path}: the model's card is damaged ({error}); train the model again") from error
    if not 1 <= step < 2**31 or count < 1 or low > high:
        raise DeepEMError(f"{path}: the model's card is damaged (scan step {step}, {count} networks, local standard "
                          f"deviations from {low} to {high}); train the model again")
    networks = tuple({name: read(_array(name, number), shape) for name, shape in geometry.weight_shapes().items()}
                     for number in range(count))
    agreement = {name: read(f"agreement.{name}", shape)
                 for name, shape in agreement_shapes(hidden).items()} if hidden > 0 else None
    return Model(geometry, networks, working, diameter, step, (low, high), threshold, record, agreement,
                 ranges)


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the card of a model file without its weights.

    Parameters
    ----------
    path : str or Path
        Model file.

    Returns
    -------
    dict
        The card, see docs/model-format.md.

    Raises
    ------
    DeepEMError
        If the file is missing, damaged, not a DeepEM model or of another format.
    """
    return _open(Path(path))[0]


def _array(name: str, network: int) -> str:
    """Name in the file of an array of a network, counted from 0."""
    return f"network{network + 1}.{name}" if network else name


def _open(path: Path) -> tuple[dict[str, Any], Callable[[str, tuple[int, ...]], np.ndarray]]:
    """Read the card; return it with a function (name, shape) -> array that checks the shape before it reads."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        found = ", but a folder" if os.path.isdir(path) else ""
        raise DeepEMError(f"{path}: no such model file{found}. Expected a file of `deepem train`")
    try:
        opened = safe_open(str(path), framework="numpy")
        with opened as file:
            text = (file.metadata() or {}).get(_CARD)
        card = json.loads(text) if text is not None else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DeepEMError(f"{path}: not a DeepEM model, or damaged ({error})") from error
    if not isinstance(card, dict) or not isinstance(card.get("format"), int):
        raise DeepEMError(f"{path}: not a DeepEM model: it has no card")
    if card["format"] != MODEL_FORMAT:
        raise DeepEMError(f"{path}: the format of the model is {card['format']}, this version reads format "
                          f"{MODEL_FORMAT}; use the version of scipion-em-deepem that wrote it, or train the model "
                          "again")

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        with safe_open(str(path), framework="numpy") as file:
            if name not in file.keys():  # noqa: SIM118 - not a mapping
                raise DeepEMError(f"{path}: {name} is missing; train the model again")
            found, kind = tuple(file.get_slice(name).get_shape()), file.get_slice(name).get_dtype()
            if found != shape or kind != "F32":
                raise DeepEMError(f"{path}: {name} is {kind} {found}, the card states F32 {shape}; train the model "
                                  "again")
            values: np.ndarray = file.get_tensor(name)
            if not np.isfinite(values).all():
                raise DeepEMError(f"{path}: {name} holds values that are not finite; train the model again")
            return values

    return card, read
