# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model file: weights and a card that says what the model is, in one safetensors file.

The container holds plain arrays and text only, so that loading it runs no code, whatever is in it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DeepEMError
from .files import atomic_write
from .metrics import Curve, steady_threshold
from .micrographs import Micrograph, read_micrograph
from .network import Geometry
from .resampling import RESAMPLERS

# Up to format 3 micrographs were resampled by area means, up to 2 normalised as a whole; format 1: one network.
MODEL_FORMAT = 4
_CARD = "deepem_card"
_RECORD = {"training": dict, "validation": dict, "rounds": list, "history": list, "versions": dict}
_NUMBERS = ("working_pixel_size_angst", "diameter_angst", "threshold")


@dataclass(frozen=True)
class Model:
    """Trained networks and what is needed to use them.

    Attributes
    ----------
    geometry : Geometry
    networks : for each network whose scores are averaged, name -> float32 array, as in `Geometry.weight_shapes`
    working_pixel_size_angst : pixel size to which micrographs are brought
    diameter_angst : particle diameter
    scan_step : in working pixels
    std_range : least and greatest standard deviation of the windows of particles
    threshold : suggested least score (best F2, eq. 8, on validation micrographs)
    record : everything else the card tells: contrast, recipe, seed, history, validation, training, versions
    normalised_by : "windows", or "micrograph" for models of earlier formats (see `window_px`)
    resampled_by : "lanczos", or "area" for models of earlier formats (see `resampling.resample`)
    """

    geometry: Geometry
    networks: tuple[dict[str, np.ndarray], ...]
    working_pixel_size_angst: float
    diameter_angst: float
    scan_step: int
    std_range: tuple[float, float]
    threshold: float
    record: dict[str, Any] = field(default_factory=dict)
    normalised_by: str = "windows"
    resampled_by: str = "lanczos"

    @property
    def diameter_px(self) -> float:
        """Particle diameter in working pixels."""
        return self.diameter_angst / self.working_pixel_size_angst

    @property
    def window_px(self) -> int | None:
        """Side of the windows by which micrographs are normalised, see `micrographs.read_micrograph`."""
        return self.geometry.box if self.normalised_by == "windows" else None

    def read_micrograph(self, path: str | Path, pixel_size_angst: float | None = None,
                        name: str | None = None) -> Micrograph:
        """Read a micrograph as the networks want it; arguments and errors as for `micrographs.read_micrograph`."""
        return read_micrograph(path, self.working_pixel_size_angst, pixel_size_angst, name, self.window_px,
                               self.resampled_by)

    def threshold_for(self, wanted: str) -> float:
        """Threshold that did best by some measure on the validation micrographs.

        Parameters
        ----------
        wanted : {"auto", "F1", "precision=P"}
            `auto`: the model's own, for F2. `F1`: for F1. `precision=P`: the lowest whose precision is at least P.

        Raises
        ------
        DeepEMError
            Where `wanted` is none of these, the card has no curve, or the precision was never reached.
        """
        if wanted == "auto":
            return self.threshold
        kind, _, value = wanted.partition("=")
        try:
            precision = float(value) if kind == "precision" else 0.0
        except ValueError:
            precision = -1.0
        if wanted != "F1" and not (kind == "precision" and 0 <= precision <= 1):
            raise DeepEMError(f"threshold {wanted!r}: expected auto, F1, precision=P with P from 0 to 1, or a number "
                              "from 0 to 1")
        points = self.record.get("validation", {}).get("curve")
        if not points or not points["threshold"]:
            raise DeepEMError(f"threshold {wanted!r}: the model has no validation curve to find it from; give a number")
        thresholds, precisions, recalls = (np.array(points[name], float)
                                           for name in ("threshold", "precision", "recall"))
        not_kept = np.zeros(len(thresholds), int)
        curve = Curve(thresholds, precisions, recalls, not_kept, not_kept)
        if wanted == "F1":
            return steady_threshold(curve, 1)
        enough = np.flatnonzero(curve.precision >= precision)
        if not len(enough):
            raise DeepEMError(f"threshold {wanted!r}: on the validation micrographs the precision was at most "
                              f"{curve.precision.max():.3f}")
        return float(curve.thresholds[enough[-1]])

    def card(self) -> dict[str, Any]:
        """The card, ready for JSON."""
        return {
            "format": MODEL_FORMAT,
            "normalised_by": self.normalised_by,
            "resampled_by": self.resampled_by,
            "geometry": self.geometry.as_dict(),
            "networks": len(self.networks),
            "working_pixel_size_angst": self.working_pixel_size_angst,
            "diameter_angst": self.diameter_angst,
            "scan_step": self.scan_step,
            "std_range": list(self.std_range),
            "threshold": self.threshold,
            **self.record,
        }


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
        geometry = _geometry(card)
        numbers = {name: _number(card, name) for name in _NUMBERS}
        low, high = (_finite(value) for value in card["std_range"])
        step, count = int(card["scan_step"]), int(card.get("networks", 1))
        normalised_by = str(card.get("normalised_by", "micrograph"))
        resampled_by = str(card.get("resampled_by", "area"))
        _check_record(card)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeepEMError(f"{path}: the model's card is damaged ({error}); train the model again") from error
    if (not 1 <= step < 2**31 or count < 1 or low > high or normalised_by not in ("windows", "micrograph")
            or resampled_by not in RESAMPLERS):
        raise DeepEMError(f"{path}: the model's card is damaged (scan step {step}, {count} networks, deviations from "
                          f"{low} to {high}, normalised by {normalised_by!r}, resampled by {resampled_by!r}); train "
                          "the model again")
    networks = tuple({name: read(_array(name, number), shape) for name, shape in geometry.weight_shapes().items()}
                     for number in range(count))
    known = {"format", "geometry", "networks", "scan_step", "std_range", "normalised_by", "resampled_by", *_NUMBERS}
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


def _geometry(card: dict[str, Any]) -> Geometry:
    sizes = card["geometry"]
    return Geometry(sizes["box"], tuple(sizes["kernels"]), tuple(sizes["pools"]), tuple(sizes["maps"]))


def _check_record(card: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where what the card tells besides is not what is made use of."""
    for name, kind in _RECORD.items():
        if not isinstance(card.get(name, kind()), kind):
            raise TypeError(f"{name} is {card[name]!r}")
    _finite(card.get("training_pixel_size_angst", 0))
    validation = card.get("validation", {})
    for name in {"AP", "precision", "recall", "F1"} & set(validation):
        _finite(validation[name])
    if curve := validation.get("curve"):
        lengths = {len([_finite(value) for value in curve[name]]) for name in ("threshold", "precision", "recall")}
        if len(lengths) > 1:
            raise ValueError("the validation curve is incomplete")
    for done in card.get("rounds", [])[1:]:
        _finite(done["error"])
        if missing := {"round", "false", "missed", "kept"} - set(done):
            raise KeyError(*missing)


def _number(card: dict[str, Any], name: str) -> float:
    value = _finite(card[name])
    if value < 0 or (value == 0 and name != "threshold"):
        raise ValueError(f"{name} is {value}")
    return value


def _finite(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} where a number was expected")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} where a finite number was expected")
    return number
