# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page hands back to the program that opened it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..atomic import atomic_write
from .settings import StudioSettings


@dataclass(frozen=True)
class Choice:
    """A button of the page that writes the values in force to a file.

    Attributes
    ----------
    path : Path
    label : str
        Of the button.
    """

    path: Path
    label: str = "Use these values"

    def write(self, settings: StudioSettings) -> None:
        """Write the limits, diameter and box as JSON; raises DeepEMError where this is impossible."""
        limits = settings.limits
        with atomic_write(self.path) as handle:
            json.dump({"threshold": limits.threshold, "min_distance_angst": limits.min_distance_angst,
                       "border_angst": limits.border_angst, "std_range": limits.std_range,
                       "diameter_angst": settings.diameter_angst, "box_px": settings.box_px,
                       "turn": settings.turn}, handle)
