# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lengths on the command line in pixels or in angstrom, and whether they suit the particle."""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DeepEMError

log = logging.getLogger("deepem")

# Where the diameter of the particle is known, and where it is taken to be two thirds of the boxes, lengths by other
# factors from those that are usual are suspect.
KNOWN_FACTORS, GUESSED_FACTORS = (0.4, 1.6), (1 / 6, 6.0)
# Usual lengths by the name of their option, in particle diameters.
USUAL = {"distance": 0.5, "diameter": 1.0, "box": 1.5}
_LENGTH = re.compile(r"([-+.\w]*?)\s*(px|A|\u00c5)?")


class Length(NamedTuple):
    """A length as given.

    Attributes
    ----------
    value : float
    angst : bool
        Whether it is in angstrom, otherwise in pixels.
    """

    value: float
    angst: bool


def length(text: str) -> Length:
    """Parse a length in pixels, such as 40 or 40px, or in angstrom, such as 60A; for argparse."""
    found = _LENGTH.fullmatch(text.strip())
    try:
        return Length(float(found[1]), found[2] in ("A", "\u00c5"))  # type: ignore[index]
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r}: expected pixels, such as 40, or angstrom, such as 60A") from None


@dataclass(frozen=True)
class Sizes:
    """What is known about the micrographs and the particle.

    Attributes
    ----------
    pixel_size_angst : float, optional
        Pixel size of the micrographs in angstrom, if it is known and the same for all.
    diameter_px : float, optional
        Particle diameter in pixels of the micrographs.
    guessed : bool
        Whether the diameter is only taken to be two thirds of the boxes.
    """

    pixel_size_angst: float | None = None
    diameter_px: float | None = None
    guessed: bool = False

    def in_pixels(self, option: str, given: Length) -> float:
        """Return a length in pixels; raises DeepEMError if it is in angstrom and the pixel size is not known."""
        if not given.angst:
            return given.value
        if self.pixel_size_angst is None:
            raise DeepEMError(f"--{option} {given.value:g}A: the micrographs have several pixel sizes, or none is "
                              "known. Give the length in pixels, or the pixel size (--pixel-size)")
        return given.value / self.pixel_size_angst

    def warn(self, option: str, value_px: float) -> None:
        """Warn of a length that does not suit the particle, probably because it is in another unit."""
        if self.diameter_px is None:
            return
        expected = USUAL[option] * self.diameter_px
        low, high = GUESSED_FACTORS if self.guessed else KNOWN_FACTORS
        if not low * expected <= value_px <= high * expected:
            log.warning("warning: --%s %.4g px is %.2g times what is usual: %g diameters of the particle, %.4g px%s. "
                        "Lengths are in pixels, unless followed by A for angstrom (60A)", option, value_px,
                        value_px / expected, USUAL[option], expected,
                        " if the boxes are 1.5 diameters wide" if self.guessed else "")


def known_sizes(picks: Path, micrographs: Mapping[str, Path], pixel_size_angst: float | None,
                boxes_px: Iterable[float]) -> Sizes:
    """Find out the sizes of micrographs and particle.

    Parameters
    ----------
    picks : Path
        Results folder of `deepem pick`, or any other folder or file.
    micrographs : mapping of str to Path
        Files whose headers may give the pixel size.
    pixel_size_angst : float, optional
        Given pixel size.
    boxes_px : iterable of float
        Sides of boxes around particles, if there are any.

    Returns
    -------
    Sizes

    Raises
    ------
    DeepEMError
        The given pixel size makes no sense.
    """
    from ..micrographs.scale import differ
    from ..network.geometry import BOX_PER_DIAMETER
    from ..picking.results import PickingResults

    if pixel_size_angst is not None and not 0 < pixel_size_angst < math.inf:
        raise DeepEMError(f"--pixel-size {pixel_size_angst:g}: expected angstrom, above 0")
    run, sizes, diameter_angst = PickingResults(picks), [pixel_size_angst] if pixel_size_angst else [], None
    with suppress(DeepEMError):  # otherwise no run, or a damaged one, of which the picks may be whole
        diameter_angst = run.read_settings().diameter_angst
        sizes = sizes or [found.pixel_size_angst for found in run.read_micrographs().values()
                          if found.pixel_size_angst]
    sizes = sizes or _header_sizes(micrographs)
    size = sizes[0] if sizes and not any(differ(size, sizes[0]) for size in sizes) else None
    if diameter_angst is not None and size is not None:
        return Sizes(size, diameter_angst / size)
    sides = list(boxes_px)
    return Sizes(size, min(sides) / BOX_PER_DIAMETER if sides else None, guessed=True)


def _header_sizes(micrographs: Mapping[str, Path]) -> list[float]:
    from ..micrographs.micrograph import read_pixel_size

    found = []
    for path in micrographs.values():
        with suppress(DeepEMError):  # reported where the micrograph is needed
            found.append(read_pixel_size(path))
    return [size for size in found if size]
