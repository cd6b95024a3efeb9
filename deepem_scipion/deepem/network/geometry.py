# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of the network's layers: Table 1, and the rule for other particles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..errors import DeepEMError

Triple = tuple[int, int, int]
# An `auto` working image shows the particle about this many pixels wide: enough to tell
# particles from other things, and few enough for a scan in tenths of a second.
AUTO_DIAMETER_PX = 27
# Narrower particles cannot be told from anything else; for wider ones networks would be as large as micrographs.
MIN_DIAMETER_PX, MAX_DIAMETER_PX = 8, 200
# The box has room for the particle and a rim of its surroundings.
BOX_PER_DIAMETER = 1.5
# Width of each kernel over the width of the map that it is applied to (see `auto_geometry`).
KERNEL_SHARES = (0.22, 0.30, 0.45)
# No farther than this from a box that does not fit is one looked for that does.
NEAR_PX = 1000
# Feature maps of the three stages (Fig. 1).
MAPS: Triple = (6, 12, 12)


@dataclass(frozen=True)
class Geometry:
    """Sizes of the network's layers.

    Parameters
    ----------
    box : int
        Side of the input window, in working pixels.
    kernels, pools, maps : three ints each
        Side of the convolution kernels, side of the pooling cells and number of feature maps
        of the three stages.

    Raises
    ------
    DeepEMError
        Where a stage does not fit without remainder; the message names the nearest that fit.
    """

    box: int
    kernels: Triple
    pools: Triple
    maps: Triple = MAPS

    def __post_init__(self) -> None:
        for name in ("kernels", "pools", "maps"):
            values = getattr(self, name)
            if len(values) != 3 or any(int(v) != v or v < 1 for v in values):
                raise DeepEMError(f"{name} {values}: expected three whole numbers of at least 1")
            object.__setattr__(self, name, tuple(int(v) for v in values))
        if int(self.box) != self.box or self.box < 1:
            raise DeepEMError(f"box {self.box}: expected a whole number of pixels of at least 1")
        if layer_sizes(self.box, self.kernels, self.pools) is None:
            raise DeepEMError(
                f"box {self.box} with kernels {_words(self.kernels)} and pools {_words(self.pools)} does not fit: "
                "after each convolution the map's side must be a multiple of the pool. "
                + nearest_that_fit(self.box, self.kernels, self.pools)
            )

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Sides of C1, S2, C3, S4, C5, S6 in pixels (Table 1)."""
        sizes = layer_sizes(self.box, self.kernels, self.pools)
        assert sizes is not None  # checked when made
        return sizes

    @property
    def default_step(self) -> int:
        """Scan step in working pixels where none is given: the side of the first pool."""
        return self.pools[0]

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight array, in Keras's layout."""
        shapes: dict[str, tuple[int, ...]] = {}
        inputs = 1
        for number, (kernel, maps) in enumerate(zip(self.kernels, self.maps), 1):
            shapes[f"conv{number}.kernel"] = (kernel, kernel, inputs, maps)
            shapes[f"conv{number}.bias"] = (maps,)
            inputs = maps
        shapes["dense.kernel"] = (self.layer_sizes[-1] ** 2 * inputs, 1)
        shapes["dense.bias"] = (1,)
        return shapes

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the model card."""
        return {"box": self.box, "kernels": list(self.kernels), "pools": list(self.pools), "maps": list(self.maps)}


def layer_sizes(box: int, kernels: Triple, pools: Triple) -> tuple[int, ...] | None:
    """Sides of the six hidden layers, or None where a stage does not fit without remainder."""
    sizes = []
    side = box
    for kernel, pool in zip(kernels, pools):
        side = side - kernel + 1
        if side < pool or side % pool:
            return None
        sizes += [side, side // pool]
        side //= pool
    return tuple(sizes)


def nearest_that_fit(box: int, kernels: Triple, pools: Triple) -> str:
    """Sentence with the nearest box for these kernels and the nearest kernels for this box."""
    found = []
    near = next((b for d in range(NEAR_PX) for b in (box - d, box + d) if b > 0 and layer_sizes(b, kernels, pools)), 0)
    if near:
        found.append(f"with these kernels and pools the nearest box is {near}")
    spans = [range(max(1, k - 6), k + 7) for k in kernels]
    fitting = [k for k in product(*spans) if layer_sizes(box, k, pools)]  # type: ignore[arg-type]
    if fitting:
        best = min(fitting, key=lambda ks: sum(abs(a - b) for a, b in zip(ks, kernels)))
        found.append(f"with this box and pools the nearest kernels are {_words(best)}")  # type: ignore[arg-type]
    return ("Nearest that fit: " + "; ".join(found) + ".") if found else "Choose a larger box or smaller kernels."
# Table 1 of the paper; the scan step of 20 px is the paper's, too.
PRESETS: dict[str, Geometry] = {
    "klh": Geometry(272, (51, 21, 10), (3, 2, 2)),
    "19s": Geometry(160, (20, 10, 4), (3, 2, 2)),
    "26s": Geometry(150, (31, 15, 10), (2, 2, 2)),
    "inflammasome": Geometry(112, (15, 10, 7), (2, 2, 2)),
}
PRESET_STEP = 20


def auto_geometry(diameter_px: float, maps: Triple = MAPS) -> Geometry:
    """Geometry for a particle of a given diameter, in working pixels.

    The box is about 1.5 diameters, pools are 2, 2, 2, and the kernels are those which fit without
    remainder and whose shares of their input map are nearest to `KERNEL_SHARES`
    (sum of squared log ratios, the box's deviation from 1.5 diameters counted four times).

    Parameters
    ----------
    diameter_px : float
        Particle diameter in pixels of the working image.
    maps : three ints
        Feature maps of the three stages.

    Raises
    ------
    DeepEMError
        Where the particle is too small or too large, see `check_diameter`, or a number of maps is not at least 1.
    """
    check_diameter(diameter_px)
    target = BOX_PER_DIAMETER * diameter_px
    pools = (2, 2, 2)
    best: tuple[float, int, Triple] | None = None
    for box in range(max(12, math.floor(0.9 * target)), math.ceil(1.1 * target) + 1):
        for kernels in _fitting_kernels(box, pools):
            sizes = layer_sizes(box, kernels, pools)
            assert sizes is not None
            inputs = (box, sizes[1], sizes[3])
            cost = 4 * math.log(box / target) ** 2 + sum(
                math.log(k / n / share) ** 2 for k, n, share in zip(kernels, inputs, KERNEL_SHARES))
            if best is None or cost < best[0] - 1e-12:
                best = (cost, box, kernels)
    assert best is not None  # kernels of 1 to 3 px fit every box of 12 px and more
    return Geometry(best[1], best[2], pools, maps)


def check_diameter(diameter_px: float) -> None:
    """Raise DeepEMError where a particle has fewer than `MIN_DIAMETER_PX` or more than `MAX_DIAMETER_PX` pixels."""
    if not diameter_px >= MIN_DIAMETER_PX:
        raise DeepEMError(f"a particle of {diameter_px:.1f} working pixels was found; at least {MIN_DIAMETER_PX} are "
                          "needed. Check the diameter and the pixel size, or use less binned micrographs.")
    if diameter_px > MAX_DIAMETER_PX:
        raise DeepEMError(f"a particle of {diameter_px:.4g} working pixels was found; at most {MAX_DIAMETER_PX} are "
                          "possible. Check the diameter and the pixel size, or give a larger working pixel size.")


def _fitting_kernels(box: int, pools: Triple) -> list[Triple]:
    """All kernels that fit a box, near `KERNEL_SHARES`."""
    def near(side: int, share: float) -> range:
        return range(max(1, math.floor(0.5 * share * side)), math.ceil(1.8 * share * side) + 1)

    found = []
    for first in near(box, KERNEL_SHARES[0]):
        if (side := box - first + 1) % pools[0]:
            continue
        side //= pools[0]
        for second in near(side, KERNEL_SHARES[1]):
            if (inner := side - second + 1) < pools[1] or inner % pools[1]:
                continue
            inner //= pools[1]
            found += [(first, second, third) for third in near(inner, KERNEL_SHARES[2])
                      if inner - third + 1 >= pools[2] and (inner - third + 1) % pools[2] == 0]
    return found


def auto_binning(diameter_angst: float, pixel_size_angst: float) -> int:
    """Whole factor by which micrographs are reduced so that the particle is about `AUTO_DIAMETER_PX` wide."""
    return max(1, round(diameter_angst / pixel_size_angst / AUTO_DIAMETER_PX))


def _words(values: Triple) -> str:
    return "/".join(str(v) for v in values)
