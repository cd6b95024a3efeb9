# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a run picked its micrographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .selection import MAX_MASK, Limits


@dataclass(frozen=True)
class RunSettings:
    """How a run picked its micrographs.

    Attributes
    ----------
    limits : Limits
    scan_step : int
        In binned pixels.
    rotations : int
        Rotations of the box over which the score is averaged.
    box : int
        Side of the network's box, in binned pixels.
    working_pixel_size_angst, diameter_angst : float
        Of the model, in angstrom.
    pixel_size_angst : float, optional
        Pixel size given for the micrographs, in angstrom; None: from their headers.
    model_contrast : str, optional
        Contrast of the particles in the training, "dark" or "bright".
    model : str, optional
        Digest of the weights of the model.
    written_box_px : int, optional
        Side of the boxes written, in pixels of the micrographs; None: 1.5 particle diameters.
    versions : mapping of str to str
        Versions of Python and of the packages that results depend on.
    tiff_rows : {"bottom", "top"}
        Whether y was counted from the last or from the first row of TIFF files.
    training_pixel_size_angst : float, optional
        Pixel size of the micrographs of the training, in angstrom.
    masks : mapping of str to str
        Mask of contamination by name of the micrograph.
    """

    limits: Limits
    scan_step: int
    rotations: int
    box: int
    working_pixel_size_angst: float
    diameter_angst: float
    pixel_size_angst: float | None = None
    model_contrast: str | None = None
    model: str | None = None
    written_box_px: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    tiff_rows: str = "bottom"
    training_pixel_size_angst: float | None = None
    masks: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = asdict(self)
        return {**plain.pop("limits"), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunSettings:
        """Return settings from plain values.

        Parameters
        ----------
        plain : mapping of str to object
            As `as_dict` returns them; others are ignored.

        Returns
        -------
        RunSettings

        Raises
        ------
        KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError
            A value is missing or is not what was expected.
        """
        std_range, ranges = plain["std_range"], plain.get("ranges_angst")
        limits = Limits(float(plain["threshold"]), float(plain["min_distance_angst"]),
                        None if std_range is None else (float(std_range[0]), float(std_range[1])),
                        float(plain["border_angst"]), float(plain.get("max_mask", MAX_MASK)),
                        float(plain.get("keep_best", 1)), int(plain.get("at_least", 0)),
                        None if ranges is None else (float(ranges[0]), float(ranges[1])))
        pixel_size, written = plain.get("pixel_size_angst"), plain.get("written_box_px")
        trained = plain.get("training_pixel_size_angst")
        return cls(limits, int(plain["scan_step"]), int(plain["rotations"]), int(plain["box"]),
                   float(plain["working_pixel_size_angst"]), float(plain["diameter_angst"]),
                   None if pixel_size is None else float(pixel_size), plain.get("model_contrast"),
                   plain.get("model"), None if written is None else int(written), dict(plain.get("versions", {})),
                   str(plain.get("tiff_rows", "bottom")), None if trained is None else float(trained),
                   dict(plain.get("masks", {})))
