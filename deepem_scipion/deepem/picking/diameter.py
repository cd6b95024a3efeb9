# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Estimate of the particle's diameter from a few micrographs, with the general model at several scales."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DeepEMError
from ..micrographs.images import read_pixels
from ..micrographs.micrograph import Micrograph, read_pixel_size, read_shape
from ..model.general import general_model
from .agreement import radial_profiles
from .picker import Picker
from .scale import MIN_WIDTH_PX
from .selection import PICKED, Limits, select

log = logging.getLogger(__name__)

# Micrographs, spread over all, that an estimate is made from, and those that are tried if some cannot be read.
USED, TRIED = 3, 12
# Diameters that are tried, in angstrom, each larger than the next by about this factor.
DIAMETERS_ANGST, FACTOR = (60.0, 720.0), math.sqrt(2)
# Of each the middle is used, up to this many binned pixels: with small diameters there are more particles than needed.
SIDE_PX = 800
# A particle is at most this share of the shorter side of a micrograph wide.
MAX_SHARE = 0.2
# Images narrower than this share of the usual width are none of these micrographs, or parts of them.
MIN_WIDTH_SHARE = 0.5
# An outline counts where the logarithm of its diameter changes at most by this share of that of the diameter tried.
MAX_SLOPE = 0.4
# Picks with diameters that are about right cover at least this share of the largest area that picks cover.
PROMINENT = 0.5
# This many confident picks are needed for a profile: of those from 20 to 40 every second was wrong by a third.
# No more of a micrograph are averaged.
MIN_PICKS, MAX_PICKS = 40, 200
# Profiles reach this many assumed diameters from the centre.
REACH = 1.3
# The bright ring around a dark particle is on average at this many diameters from the centre of a pick: 0.39 to 0.60 on
# simulated fields and on real micrographs, depending on shape and defocus.
RING = 0.505
# Estimates are right to this share in two of three cases (docs/accuracy.md).
ERROR = 0.2
# The outline is found best with a diameter larger by this factor, where most picks are.
BEST = 1.15

HINT = ("Give the diameter in angstrom: the longest dimension of the particle, from its structure, or measured on a "
        "micrograph (the wizard in Scipion, or a viewer)")


@dataclass(frozen=True)
class DiameterEstimate:
    """Estimated diameter of the particle, and how it was found.

    Attributes
    ----------
    diameter_angst : float
        Its longest dimension.
    low_angst, high_angst : float
        Range in which it is in two of three cases.
    tried_angst : list of float
        Diameters that were tried, the largest first.
    covered : list of float
        Share of the area covered by what looks like particles of that diameter.
    radii_angst, profile : (n,) float64 array
        Mean radial profile of the confident picks, in standard deviations of the pixels.
    picks : int
        Number of picks in the profile.
    """

    diameter_angst: float
    low_angst: float
    high_angst: float
    tried_angst: list[float]
    covered: list[float]
    radii_angst: np.ndarray
    profile: np.ndarray
    picks: int


def estimate_diameter(paths: Mapping[str, Path], contrast: str = "dark",
                      pixel_size_angst: float | None = None) -> DiameterEstimate:
    """Estimate the diameter of the particle.

    Parameters
    ----------
    paths : mapping of str to Path
        Micrographs by name; at most `USED` of them are used.
    contrast : {"dark", "bright"}
        Whether particles are dark or bright.
    pixel_size_angst : float, optional
        Pixel size of the micrographs; default: from their headers.

    Returns
    -------
    DiameterEstimate

    Raises
    ------
    DeepEMError
        If no micrograph can be read, or the diameter cannot be determined: there are too few clear particles, they have
        no clear outline, or they may be larger than the largest diameter tried.

    Notes
    -----
    The general model, for which particles are always equally wide, is tried with several diameters. The mean radial
    profile of the confident picks shows an outline: a dark particle has a bright ring around it, from the contrast
    transfer function and from the normalisation. With diameters that are about right it hardly depends on the one that
    is tried. With others the picks are noise, parts of particles or groups of them, and the outline is proportional to
    the diameter tried. Of neighbouring diameters with which picks cover much those count that change it least.
    """
    names = list(paths)
    order = dict.fromkeys(names[round(at)] for number in (USED, TRIED)
                          for at in np.linspace(0, len(names) - 1, min(number, len(names))))
    usable, tried = _diameters([(name, paths[name]) for name in order], pixel_size_angst)
    scans = [_Scan.of(usable, diameter, contrast, pixel_size_angst) for diameter in tried]
    for scan in scans:
        log.debug("diameter %.0f A: %.3f covered, %d picks", scan.diameter_angst, scan.covered, scan.picks)
    scan, diameter, slope = _stable(scans)
    error = math.hypot(ERROR, slope * math.log(FACTOR))
    return DiameterEstimate(diameter, diameter / (1 + error), diameter * (1 + error), tried,
                            [scan.covered for scan in scans], scan.radii_angst, scan.profile, scan.picks)


@dataclass(frozen=True)
class _Scan:
    """Picks with an assumed diameter: share of the area covered, number and mean profile of the confident ones."""

    diameter_angst: float
    covered: float
    picks: int
    radii_angst: np.ndarray
    profile: np.ndarray

    @classmethod
    def of(cls, paths: list[tuple[str, Path]], diameter_angst: float, contrast: str,
           pixel_size_angst: float | None) -> _Scan:
        model = general_model(diameter_angst, contrast)
        picker = Picker(model, replace(Limits.of_model(model), threshold=0.0))
        covered, profiles, weights = [], [], []
        for name, path in paths:
            micrograph = _middle(model.read_micrograph(path, pixel_size_angst, name))
            candidates, _ = picker.candidates(micrograph)
            picked = select(candidates, picker.limits, micrograph.input_pixel_size_angst) == PICKED
            found = candidates.subset(picked)
            covered.append(np.square(found.scores).sum() * np.pi / 4 * model.diameter_px**2 / micrograph.pixels.size)
            sure = np.flatnonzero(found.scores >= model.threshold)[:MAX_PICKS]
            profiles.append(_profile(micrograph, found.centres_xy[sure], model.diameter_px))
            weights.append(len(sure))
        mean = np.average(profiles, axis=0, weights=weights) if sum(weights) else np.zeros(len(profiles[0]))
        radii = (np.arange(len(mean)) + 0.5) * model.working_pixel_size_angst
        return cls(diameter_angst, float(np.mean(covered)), sum(weights), radii, mean if contrast == "dark" else -mean)

    def outline(self) -> float | None:
        """Return the diameter of the particle that the profile shows, if it shows one."""
        edge = int(np.argmin(self.profile * np.sqrt(self.radii_angst)))
        outside = np.flatnonzero(self.profile[edge:] > 0)
        if self.picks < MIN_PICKS or self.profile[edge] >= 0 or not len(outside):
            return None
        begin = edge + outside[0]
        ring = begin + int(np.argmax(self.profile[begin:begin + max(3, begin // 2)]))
        return float(_vertex(self.radii_angst, self.profile, ring) / RING)


def _stable(scans: list[_Scan]) -> tuple[_Scan, float, float]:
    """The scan with a stable outline, the diameter, and the slope; raises DeepEMError if no outline is stable."""
    if max(scan.picks for scan in scans) < MIN_PICKS:
        best = max(scans, key=lambda scan: scan.covered)
        raise _undetermined(f"of the diameters tried, {best.diameter_angst:.0f} A fits best, but with only "
                            f"{best.picks} confident picks on the micrographs looked at. Expected at least {MIN_PICKS}")
    pairs = list(zip(scans, scans[1:]))
    prominent = PROMINENT * max(larger.covered + smaller.covered for larger, smaller in pairs)
    found = []
    for larger, smaller in pairs:
        covered, high, low = larger.covered + smaller.covered, larger.outline(), smaller.outline()
        if covered < prominent or high is None or low is None:
            continue
        slope = math.log(high / low) / math.log(larger.diameter_angst / smaller.diameter_angst)
        if abs(slope) <= MAX_SLOPE:
            # Where the outline, a power of the diameter tried, is smaller than it by the factor BEST.
            tried = math.exp((math.log(high * BEST) - slope * math.log(larger.diameter_angst)) / (1 - slope))
            if smaller.diameter_angst / FACTOR <= tried <= min(larger.diameter_angst * FACTOR, scans[0].diameter_angst):
                found.append((abs(slope), max(larger, smaller, key=lambda scan: scan.covered), tried / BEST, slope))
    if not found:
        raise _undetermined("the picks have no outline that is the same with different diameters tried")
    return min(found, key=lambda values: values[0])[1:]


def _middle(micrograph: Micrograph) -> Micrograph:
    """Return the middle of a micrograph, at most `SIDE_PX` binned pixels wide and high."""
    rows, columns = (slice(max(0, (side - SIDE_PX) // 2), max(0, (side - SIDE_PX) // 2) + SIDE_PX)
                     for side in micrograph.pixels.shape)
    return replace(micrograph, pixels=np.ascontiguousarray(micrograph.pixels[rows, columns]))


def _undetermined(why: str) -> DeepEMError:
    return DeepEMError(f"--diameter auto: it cannot be determined; {why}. {HINT}")


def _vertex(x: np.ndarray, y: np.ndarray, at: int) -> float:
    """Place of a maximum, from a parabola through it and its neighbours."""
    if not 0 < at < len(y) - 1:
        return float(x[at])
    left, middle, right = y[at - 1:at + 2]
    curvature = left - 2 * middle + right
    shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    return float(x[at] + shift * (x[1] - x[0]))


def _profile(micrograph: Micrograph, centres_xy: np.ndarray, diameter_px: float) -> np.ndarray:
    """Mean radial profile of places, in rings one binned pixel wide up to `REACH` diameters."""
    profiles, _ = radial_profiles(micrograph.pixels, micrograph.to_binned_rc(centres_xy), diameter_px, REACH)
    mean: np.ndarray = profiles.mean(axis=0) if len(profiles) else np.zeros(profiles.shape[1])
    return mean


def _usual_width(chosen: list[tuple[str, Path]], pixel_size_angst: float | None) -> float:
    """Median of the shorter sides of images in angstrom, as far as their headers give them; otherwise 0."""
    widths = []
    for _, path in chosen:
        with suppress(DeepEMError):
            if size := pixel_size_angst or read_pixel_size(path):
                widths.append(size * min(read_shape(path)))
    return float(np.median(widths)) if widths else 0.0


def _diameters(chosen: list[tuple[str, Path]],
               pixel_size_angst: float | None) -> tuple[list[tuple[str, Path]], list[float]]:
    """The first readable micrographs, and the diameters to try on them, the largest first."""
    usable: list[tuple[str, Path]] = []
    low, high = DIAMETERS_ANGST
    usual = _usual_width(chosen, pixel_size_angst)
    reason = "there are no micrographs"
    for name, path in chosen:
        if len(usable) == USED:
            break
        try:
            size, shape = pixel_size_angst or read_pixel_size(path), read_shape(path)
            read_pixels(path)
        except DeepEMError as error:
            reason = str(error)
            log.warning("left out: %s", error)
            continue
        if size is None:
            raise DeepEMError(f"{path}: no pixel size in the header; give it with --pixel-size")
        if (width := size * min(shape)) < MIN_WIDTH_SHARE * usual:
            log.warning("left out: %s: it is only %.0f A wide, the micrographs mostly %.0f A", path, width, usual)
            continue
        usable.append((name, path))
        low, high = max(low, MIN_WIDTH_PX * size), min(high, MAX_SHARE * width)
    if not usable:
        raise DeepEMError(reason)
    if low >= high:
        raise _undetermined("the micrographs are too small")
    number = max(1, math.ceil(math.log(high / low, FACTOR)))
    return usable, [high * (low / high) ** (index / number) for index in range(number + 1)]
