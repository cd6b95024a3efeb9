# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import DeepEMError
from ..model.model import Model
from ..network.geometry import (
    BOX_PER_DIAMETER,
    MAPS,
    PRESET_STEP,
    PRESETS,
    Geometry,
    Triple,
    auto_binning,
    auto_geometry,
)
from .calibration import STD_MARGIN


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Attributes
    ----------
    diameter_angst : particle diameter
    preset : name in `PRESETS`, or None for the automatic geometry
    geometry : instead of the preset's or automatic one
    maps : feature maps of the three stages of the automatic geometry
    working_pixel_size_angst : instead of the automatic one
    pixel_size_angst : of the micrographs, instead of what their headers say
    recipe : name in `TRAINING_PRESETS`
    epochs : instead of the recipe's
    given_negatives_only : call non-particles only those that are given; otherwise also places far from particles
    seed : of everything random
    validation_fraction : share of the micrographs kept for validation of each network
    networks : how many are trained, each with other micrographs kept out, and their scores averaged
    rounds : of recursive training (see `recursion.Learner.train`); 1 for none
    error_cutoff : no further round where the error (1 - best F1) on validation micrographs is below
    std_margin : share by which the range of the deviation filter exceeds the training particles' on either side
    start : model to go on from; geometry and working pixel size are then its own
    """

    diameter_angst: float
    preset: str | None = None
    geometry: Geometry | None = None
    maps: Triple = MAPS
    working_pixel_size_angst: float | None = None
    pixel_size_angst: float | None = None
    training_preset: str = "default"
    epochs: int | None = None
    given_negatives_only: bool = False
    seed: int = 0
    validation_fraction: float = 0.2
    networks: int = 1
    rounds: int = 1
    error_cutoff: float = 0.01
    std_margin: float = STD_MARGIN
    start: Model | None = None


def check(plan: Plan) -> None:
    """Raise DeepEMError where a value makes no sense."""
    if not 0 < plan.diameter_angst < math.inf:
        raise DeepEMError(f"particle diameter {plan.diameter_angst}: expected angstrom, above 0")
    for name, size in (("pixel size", plan.pixel_size_angst), ("working pixel size", plan.working_pixel_size_angst)):
        if size is not None and not 0 < size < math.inf:
            raise DeepEMError(f"{name} {size}: expected angstrom, above 0")
    if plan.seed < 0:
        raise DeepEMError(f"seed {plan.seed}: expected a whole number, 0 or more")
    if not 0 <= plan.validation_fraction < 1:
        raise DeepEMError(f"validation fraction {plan.validation_fraction}: expected a value from 0 to below 1")
    if plan.epochs is not None and plan.epochs < 1:
        raise DeepEMError(f"epochs {plan.epochs}: expected at least 1")
    for name, value in (("networks", plan.networks), ("rounds", plan.rounds)):
        if value < 1:
            raise DeepEMError(f"{name} {value}: expected at least 1")
    if plan.rounds > 1 and plan.validation_fraction == 0:
        raise DeepEMError("rounds of recursive training need validation micrographs to tell whether they help; give a "
                          "validation fraction above 0")
    if not 0 <= plan.std_margin < math.inf:
        raise DeepEMError(f"margin of the deviation filter {plan.std_margin}: expected a share, 0 or more")


def choose_geometry(plan: Plan, pixel_size_angst: float) -> tuple[Geometry, float, int]:
    """Geometry, working pixel size in angstrom and scan step in working pixels for a plan.

    The working pixel size is a whole multiple of the micrographs' own: for the automatic geometry the one that
    makes the particle about `AUTO_DIAMETER_PX` pixels wide, for a given geometry or preset the one that makes the
    box about 1.5 diameters. The presets scan in steps of 20 px, others in steps of the side of their first
    pool.
    """
    if plan.start is not None:
        return plan.start.geometry, plan.start.working_pixel_size_angst, plan.start.scan_step
    geometry = plan.geometry or (PRESETS[plan.preset] if plan.preset else None)
    if plan.working_pixel_size_angst is not None:
        working = plan.working_pixel_size_angst
    elif geometry is None:
        working = pixel_size_angst * auto_binning(plan.diameter_angst, pixel_size_angst)
    else:
        working = pixel_size_angst * max(
            1, round(BOX_PER_DIAMETER * plan.diameter_angst / pixel_size_angst / geometry.box))
    if geometry is None:
        geometry = auto_geometry(plan.diameter_angst / working, plan.maps)
    return geometry, working, PRESET_STEP if plan.preset and not plan.geometry else geometry.default_step
