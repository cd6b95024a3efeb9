# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A trained model: networks and what is needed to pick with them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeepEMError
from ..evaluation.metrics import curve_from_points, steady_threshold
from ..micrographs.micrograph import Micrograph
from ..micrographs.preprocessing import Preprocessing
from ..network.geometry import Geometry
from .card import MODEL_FORMAT
from .record import TrainingRecord


@dataclass(frozen=True)
class Model:
    """Trained networks and what is needed to pick with them.

    Attributes
    ----------
    geometry : Geometry
        Sizes of the layers of the networks.
    networks : tuple of dict of str to float32 array
        Weights of each network, by the names of `Geometry.weight_shapes`. The scores of the networks are averaged.
    working_pixel_size_angst : float
        Pixel size, in angstrom, to which micrographs are resampled.
    diameter_angst : float
        Diameter of the particle in angstrom.
    scan_step : int
        Distance between neighbouring boxes of the scan, in binned pixels.
    std_range : tuple of float
        Minimum and maximum local standard deviation of a pick, from the boxes of the training particles.
    threshold : float
        Default minimum score of a pick: the one with the best F2 (eq. 8 of the paper) on the validation micrographs.
    record : TrainingRecord
        How the model was trained and validated.
    agreement : mapping of str to float32 array, optional
        Weights by which scores take the other candidates of the micrograph into account, see `picking.agreement`.
    ranges_px : tuple of (float, float), optional
        Of models of the paper's procedure, which see boxes of mean 0 and standard deviation 1: half sides of the
        squares of the two passes of suppression, in binned pixels. `std_range` is then that of grey values.
    """

    geometry: Geometry
    networks: tuple[dict[str, np.ndarray], ...]
    working_pixel_size_angst: float
    diameter_angst: float
    scan_step: int
    std_range: tuple[float, float]
    threshold: float
    record: TrainingRecord = field(default_factory=TrainingRecord)
    agreement: Mapping[str, np.ndarray] | None = None
    ranges_px: tuple[float, float] | None = None

    @property
    def diameter_px(self) -> float:
        """Diameter of the particle in binned pixels."""
        return self.diameter_angst / self.working_pixel_size_angst

    @property
    def preprocessing(self) -> Preprocessing:
        """How the networks' micrographs are read."""
        return Preprocessing(self.working_pixel_size_angst, self.geometry.box, self.ranges_px is not None)

    def read_micrograph(self, path: str | Path, pixel_size_angst: float | None = None,
                        name: str | None = None, tiff_rows: str = "bottom") -> Micrograph:
        """Read a micrograph as the networks see it.

        Parameters
        ----------
        path, pixel_size_angst, name, tiff_rows
            As for `read_micrograph` of `micrographs`.

        Returns
        -------
        Micrograph

        Raises
        ------
        DeepEMError
            If the file cannot be used, see `read_micrograph` of `micrographs`.
        """
        return self.preprocessing.read(path, pixel_size_angst, name, tiff_rows)

    def threshold_for(self, wanted: str) -> float:
        """Return the threshold that was best on the validation micrographs by some measure.

        Parameters
        ----------
        wanted : {"auto", "F1", "precision=P"}
            `auto`: the model's own, for F2. `F1`: for F1. `precision=P`: the lowest threshold with a precision of at
            least P.

        Returns
        -------
        float
            Minimum score.

        Raises
        ------
        DeepEMError
            If `wanted` is none of these, the card has no curve, or the precision was never reached.
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
        points = self.record.validation.curve
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

    def for_diameter(self, diameter_angst: float) -> Model:
        """Return the model for a particle of another diameter, which is as wide in binned pixels.

        Parameters
        ----------
        diameter_angst : float
            Diameter of the particle in angstrom.

        Returns
        -------
        Model
            With another working pixel size.

        Raises
        ------
        DeepEMError
            If the diameter is not a number above 0.
        """
        if not 0 < diameter_angst < math.inf:
            raise DeepEMError(f"particle diameter {diameter_angst}: expected angstrom, above 0")
        return replace(self, diameter_angst=diameter_angst, working_pixel_size_angst=diameter_angst / self.diameter_px)

    def inverted(self) -> Model:
        """Return the model for particles of the opposite contrast, which scores the negative of an image alike."""
        networks = tuple({**weights, "conv1.kernel": -weights["conv1.kernel"]} for weights in self.networks)
        contrast = {"dark": "bright", "bright": "dark"}.get(self.record.contrast or "")
        return replace(self, networks=networks, record=replace(self.record, contrast=contrast))

    def digest(self) -> str:
        """Return a digest of the weights of the networks."""
        digest = hashlib.sha256()
        for network in self.networks:
            for name in sorted(network):
                digest.update(name.encode() + np.ascontiguousarray(network[name]).tobytes())
        return digest.hexdigest()

    def card(self) -> dict[str, Any]:
        """Return the card: everything but the weights, ready for JSON."""
        return {
            "format": MODEL_FORMAT,
            "geometry": self.geometry.as_dict(),
            "networks": len(self.networks),
            "working_pixel_size_angst": self.working_pixel_size_angst,
            "diameter_angst": self.diameter_angst,
            "scan_step": self.scan_step,
            "std_range": list(self.std_range),
            "threshold": self.threshold,
            **({"agreement": len(self.agreement["hidden.bias"])} if self.agreement else {}),
            **({"ranges_px": list(self.ranges_px)} if self.ranges_px else {}),
            **self.record.as_card(),
        }
