# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking one micrograph with one model."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph
from ..model.model import Model
from ..network.scan import Scanner
from .candidates import Candidates, find_candidates, pad
from .selection import MIN_DISTANCE, PICKED, Limits, select


@dataclass(frozen=True)
class Settings:
    """How micrographs are picked; None stands for what the model's card says.

    Attributes
    ----------
    threshold : least score
    scan_step : working pixels
    min_distance_angst : least distance of two picks; default half a particle diameter
    std_range : "auto" for the model's, "off", or (least, greatest)
    border_angst : least distance of a pick from the border
    rotations : 4 or 1
    """

    threshold: float | None = None
    scan_step: int | None = None
    min_distance_angst: float | None = None
    std_range: tuple[float, float] | str = "auto"
    border_angst: float = 0.0
    rotations: int = 4

    def __post_init__(self) -> None:
        for name, value in (("least distance", self.min_distance_angst), ("border", self.border_angst)):
            if value is not None and not value >= 0:
                raise DeepEMError(f"{name} {value}: expected angstrom, 0 or more")


class Picker:
    """Picks micrographs with one model."""

    def __init__(self, model: Model, settings: Settings = Settings()) -> None:
        self.model, self.settings = model, settings
        self.step = model.scan_step if settings.scan_step is None else settings.scan_step
        self.threshold = model.threshold if settings.threshold is None else settings.threshold
        self.min_distance_angst = (MIN_DISTANCE * model.diameter_angst if settings.min_distance_angst is None
                                     else settings.min_distance_angst)
        self._of_thread = threading.local()

    @property
    def std_range(self) -> tuple[float, float] | None:
        """Range of deviations in force."""
        if self.settings.std_range == "off":
            return None
        return self.model.std_range if isinstance(self.settings.std_range, str) else self.settings.std_range

    def limits(self, input_pixel_size_angst: float) -> Limits:
        """The limits in pixels of a micrograph."""
        return Limits(self.threshold, self.min_distance_angst / input_pixel_size_angst, self.std_range,
                      self.settings.border_angst / input_pixel_size_angst)

    def candidates(self, micrograph: Micrograph) -> tuple[Candidates, np.ndarray]:
        """All candidates of a micrograph, and the score map of the micrograph continued by half a box."""
        box = self.model.geometry.box
        check_size(micrograph, box)
        padded = pad(micrograph.pixels, box)
        if not hasattr(self._of_thread, "scanner"):  # each thread has its own, which keeps room for maps
            self._of_thread.scanner = Scanner(self.model.geometry, self.model.networks, self.step,
                                              self.settings.rotations)
        scores = self._of_thread.scanner.scan(padded)
        return find_candidates(micrograph, padded, scores, box, self.step), scores

    def pick(self, micrograph: Micrograph) -> tuple[Candidates, np.ndarray, np.ndarray]:
        """Candidates, the reason of each, and the score map."""
        candidates, scores = self.candidates(micrograph)
        return candidates, select(candidates, self.limits(micrograph.pixel_size_angst / micrograph.scale)), scores

    def evidence(self, micrograph: Micrograph, candidates: Candidates | None = None) -> float:
        """Sum of the squared scores of the picks with the model's own limits: how much looks like particles.

        `candidates` are those of the micrograph where they are known.
        """
        found = self.candidates(micrograph)[0] if candidates is None else candidates
        limits = Limits(self.model.threshold, MIN_DISTANCE * self.model.diameter_px * micrograph.scale,
                        self.model.std_range)
        return float(np.square(found.scores[select(found, limits) == PICKED]).sum())


def check_size(micrograph: Micrograph, box: int) -> None:
    """Raise DeepEMError where a micrograph is smaller than the network's window, `box` working pixels."""
    rows, cols = micrograph.pixels.shape
    if min(rows, cols) < box:
        raise DeepEMError(f"{micrograph.path}: {cols} x {rows} pixels of {micrograph.pixel_size_angst:g} A (width x "
                          f"height), smaller than the network's window of {box}; check pixel sizes and diameter")
