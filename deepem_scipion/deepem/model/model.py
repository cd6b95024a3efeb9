# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A trained model: networks and what is needed to use them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeepEMError
from ..evaluation.metrics import curve_from_points, steady_threshold
from ..micrographs.micrograph import Micrograph, read_micrograph
from ..network.geometry import Geometry
from .card import MODEL_FORMAT


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
        return read_micrograph(path, self.working_pixel_size_angst, pixel_size_angst, name, self.window_px)

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
        curve = curve_from_points(points)
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
