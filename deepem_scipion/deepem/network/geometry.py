# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of the network's layers: the four networks of the paper (Table 1), and a rule for any other particle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Tuple

from ..errors import DeepEMError

Triple = Tuple[int, int, int]
# With automatic binning the particle is about this many pixels wide: enough to recognise it, and few enough for a scan
# in tenths of a second.
AUTO_DIAMETER_PX = 27
# Narrower particles cannot be recognised; wider ones would need networks as large as micrographs.
MIN_DIAMETER_PX, MAX_DIAMETER_PX = 8, 200
# The automatic geometry: side of the box in diameters, which includes the surroundings of the particle; width of each
# kernel as a share of the width of its input map; pools.
BOX_PER_DIAMETER = 1.5
KERNEL_SHARES = (0.22, 0.30, 0.45)
AUTO_POOLS: Triple = (2, 2, 2)
MIN_BOX_PX = 12
# Feature maps of the three stages (Fig. 1).
MAPS: Triple = (6, 12, 12)
# Boxes that fit are looked for within this distance of one that does not.
SEARCH_RANGE_PX = 1000
# For maps up to this width kernels of any size are tried, since few of them fit.
SMALL_MAP_PX = 40


@dataclass(frozen=True)
class Geometry:
    """Sizes of the network's layers.

    Parameters
    ----------
    box : int
        Side of the box, the input of the network, in binned pixels.
    kernels : tuple of three ints
        Side of the convolution kernels of the three stages.
    pools : tuple of three ints
        Side of the pooling cells of the three stages.
    maps : tuple of three ints
        Number of feature maps of the three stages.

    Raises
    ------
    DeepEMError
        If a stage does not fit without remainder; the message states the nearest sizes that fit.

    Examples
    --------
    >>> Geometry(272, (51, 21, 10), (3, 2, 2)).layer_sizes
    (222, 74, 54, 27, 18, 9)
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
                f"box {self.box} with kernels {_slashed(self.kernels)} and pools {_slashed(self.pools)} does not fit: "
                "after each convolution the side of the map must be a multiple of the pool. "
                + _nearest_sizes(self.box, self.kernels, self.pools))

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Sides of the maps of C1, S2, C3, S4, C5 and S6 in pixels (Table 1)."""
        sizes = layer_sizes(self.box, self.kernels, self.pools)
        assert sizes is not None  # __post_init__ has checked it
        return sizes

    @property
    def default_step(self) -> int:
        """Default scan step in binned pixels: the side of the first pool."""
        return self.pools[0]

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all weight arrays, in the layout of Keras.

        Returns
        -------
        dict of str to tuple of int
            By name: conv1.kernel, conv1.bias and so on for three convolutions, dense.kernel and dense.bias.
        """
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
        """Return the sizes as plain values, for the model card."""
        return {"box": self.box, "kernels": list(self.kernels), "pools": list(self.pools), "maps": list(self.maps)}


def layer_sizes(box: int, kernels: Triple, pools: Triple) -> tuple[int, ...] | None:
    """Compute the sides of the maps of the six hidden layers.

    Parameters
    ----------
    box : int
        Side of the box in binned pixels.
    kernels : tuple of three ints
        Sides of the convolution kernels.
    pools : tuple of three ints
        Sides of the pooling cells.

    Returns
    -------
    tuple of six ints or None
        None if a stage does not fit without remainder.

    """
    sizes = []
    side = box
    for kernel, pool in zip(kernels, pools):
        side = side - kernel + 1
        if side < pool or side % pool:
            return None
        sizes += [side, side // pool]
        side //= pool
    return tuple(sizes)


# Table 1 of the paper, and its scan step.
PRESETS: dict[str, Geometry] = {
    "klh": Geometry(272, (51, 21, 10), (3, 2, 2)),
    "19s": Geometry(160, (20, 10, 4), (3, 2, 2)),
    "26s": Geometry(150, (31, 15, 10), (2, 2, 2)),
    "inflammasome": Geometry(112, (15, 10, 7), (2, 2, 2)),
}
PRESET_STEP = 20


def auto_geometry(diameter_px: float, maps: Triple = MAPS) -> Geometry:
    """Find the geometry nearest to `BOX_PER_DIAMETER` and `KERNEL_SHARES`, with `AUTO_POOLS`; see `nearest_geometry`.

    Parameters
    ----------
    diameter_px : float
        Particle diameter in binned pixels.
    maps : tuple of three ints
        Feature maps of the three stages.

    Returns
    -------
    Geometry
        The nearest one that fits.

    Raises
    ------
    DeepEMError
        If the particle is too small or too large, see `check_diameter`, or a number of maps is below 1.
    """
    return nearest_geometry(diameter_px, BOX_PER_DIAMETER, KERNEL_SHARES, AUTO_POOLS, maps)


def nearest_geometry(diameter_px: float, box_share: float, kernel_shares: tuple[float, float, float], pools: Triple,
                     maps: Triple) -> Geometry:
    """Find the geometry that fits without remainder and comes closest to the requested proportions.

    Parameters
    ----------
    diameter_px : float
        Particle diameter in binned pixels.
    box_share : float
        Requested side of the box in particle diameters.
    kernel_shares : tuple of three floats
        Requested width of each kernel as a share of the width of its input map.
    pools : tuple of three ints
        Sides of the pooling cells.
    maps : tuple of three ints
        Feature maps of the three stages.

    Returns
    -------
    Geometry
        The one with the smallest sum of squared log ratios of actual to requested values, the box counted four times.

    Raises
    ------
    DeepEMError
        If the particle is too small or too large, see `check_diameter`, or no box of about this size fits the pools.
    """
    check_diameter(diameter_px)
    if min(pools) < 1:
        raise DeepEMError(f"pools {_slashed(pools)}: expected whole numbers of at least 1")
    target = max(MIN_BOX_PX, box_share * diameter_px)
    best: tuple[float, int, Triple] | None = None
    for box in range(max(MIN_BOX_PX, math.floor(0.9 * target)), math.ceil(1.1 * target) + 1):
        found = _nearest_kernels(box, kernel_shares, pools)
        if found is not None:
            cost = found[0] + 4 * math.log(box / target) ** 2
            if best is None or cost < best[0] - 1e-12:
                best = cost, box, found[1]
    if best is None:
        raise DeepEMError(f"no box of about {target:.0f} px fits pools {_slashed(pools)}; give smaller ones")
    return Geometry(best[1], best[2], pools, maps)


def check_diameter(diameter_px: float) -> None:
    """Check that a particle is neither too small nor too large for a network.

    Parameters
    ----------
    diameter_px : float
        Particle diameter in binned pixels.

    Raises
    ------
    DeepEMError
        If the diameter is below `MIN_DIAMETER_PX` or above `MAX_DIAMETER_PX`.
    """
    if not diameter_px >= MIN_DIAMETER_PX:
        raise DeepEMError(f"particle diameter {diameter_px:.1f} binned pixels: expected at least {MIN_DIAMETER_PX}. "
                          "Check the diameter and the pixel size, or use less binned micrographs.")
    if diameter_px > MAX_DIAMETER_PX:
        raise DeepEMError(f"particle diameter {diameter_px:.4g} binned pixels: expected at most {MAX_DIAMETER_PX}. "
                          "Check the diameter and the pixel size, or give a larger working pixel size.")


def auto_binning(diameter_angst: float, pixel_size_angst: float) -> int:
    """Compute the integer binning factor that makes the particle about `AUTO_DIAMETER_PX` pixels wide.

    Parameters
    ----------
    diameter_angst : float
        Particle diameter in angstrom.
    pixel_size_angst : float
        Pixel size of the micrographs in angstrom.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> auto_binning(120, 1.5)
    3
    """
    return max(1, round(diameter_angst / pixel_size_angst / AUTO_DIAMETER_PX))


def _nearest_kernels(box: int, shares: tuple[float, float, float], pools: Triple) -> tuple[float, Triple] | None:
    """Kernels that fit the box closest to the requested shares, after their distance from these; None if none fit."""
    def stage(side: int, share: float, pool: int) -> list[tuple[float, int, int]]:
        """Cost, kernel and side of the pooled map of all kernels that fit an input map, in ascending order of cost."""
        smallest = 1 if side <= SMALL_MAP_PX else max(1, math.floor(0.5 * share * side))
        kernels = range(smallest, min(side - pool + 1, math.ceil(1.8 * share * side)) + 1)
        return sorted((math.log(kernel / side / share) ** 2, kernel, (side - kernel + 1) // pool)
                      for kernel in kernels if (side - kernel + 1) % pool == 0)

    best: tuple[float, Triple] | None = None
    for cost1, first, side2 in stage(box, shares[0], pools[0]):
        for cost2, second, side3 in stage(side2, shares[1], pools[1]):
            if best is not None and cost1 + cost2 >= best[0]:
                break
            for cost3, third, _ in stage(side3, shares[2], pools[2])[:1]:
                if best is None or cost1 + cost2 + cost3 < best[0]:
                    best = cost1 + cost2 + cost3, (first, second, third)
    return best


def _nearest_sizes(box: int, kernels: Triple, pools: Triple) -> str:
    """Sentence with the nearest box for these kernels and the nearest kernels for this box."""
    found = []
    boxes = (b for d in range(SEARCH_RANGE_PX) for b in (box - d, box + d) if b > 0)
    if nearest := next((b for b in boxes if layer_sizes(b, kernels, pools)), None):
        found.append(f"with these kernels and pools the nearest box is {nearest}")
    ranges = [range(max(1, k - 6), k + 7) for k in kernels]
    fitting = [(a, b, c) for a, b, c in product(*ranges) if layer_sizes(box, (a, b, c), pools)]
    if fitting:
        best = min(fitting, key=lambda ks: sum(abs(a - b) for a, b in zip(ks, kernels)))
        found.append(f"with this box and pools the nearest kernels are {_slashed(best)}")
    return ("Nearest that fit: " + "; ".join(found) + ".") if found else "Choose a larger box or smaller kernels."


def _slashed(values: Triple) -> str:
    return "/".join(str(v) for v in values)
