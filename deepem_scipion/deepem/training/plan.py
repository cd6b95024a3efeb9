# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a training, and the network that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import DeepEMError
from ..micrographs.preprocessing import Preprocessing
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
class PaperPlan:
    """Settings of a training by the paper's procedure.

    Attributes
    ----------
    particles : int
        Particles that are drawn in each round.
    scan_step : int, optional
        In binned pixels. Default: 20 for the presets, and as much in proportion to the box for other networks.
    ranges_px : tuple of (float, float), optional
        See `Model.ranges_px`. Default: those of the authors, see `paper.default_ranges`.
    std_range : tuple of (float, float), optional
        Range of the standard deviation of the grey values of a box. Default: that of most training particles.
    accuracy : float
        No further round starts if this share of the boxes of the test micrographs is on the right side of 0.5.
    """

    particles: int = 800
    scan_step: int | None = None
    ranges_px: tuple[float, float] | None = None
    std_range: tuple[float, float] | None = None
    accuracy: float = 0.95


@dataclass(frozen=True)
class Plan:
    """Settings of a training.

    Attributes
    ----------
    diameter_angst : float
        Diameter of the particle in angstrom.
    preset : str, optional
        Name in `PRESETS` (Table 1 of the paper). Default: the automatic geometry.
    geometry : Geometry, optional
        Overrides the preset and the automatic geometry.
    maps : tuple of int
        Feature maps of the three stages of the automatic geometry.
    working_pixel_size_angst : float, optional
        Pixel size, in angstrom, to which micrographs are resampled. Default: chosen for the geometry.
    pixel_size_angst : float, optional
        Pixel size of the micrographs in angstrom, which overrides their headers.
    training_preset : str
        Name in `TRAINING_PRESETS`.
    epochs : int, optional
        Number of epochs. Default: that of the training preset, which is smaller where a model is fine-tuned.
    given_negatives_only : bool
        Whether only the given negatives are used, instead of places far from particles, too.
    seed : int
        Seed of everything random.
    validation_fraction : float
        Share of the micrographs kept for validation of each network.
    networks : int
        Number of networks, each with other validation micrographs. Their scores are averaged.
    rounds : int
        Number of rounds of recursive training (Fig. 2 of the paper); 1 for no recursion.
    error_cutoff : float
        No further round starts if the error (1 - best F1) on the validation micrographs is below.
    std_margin : float
        Share by which the range of local standard deviations exceeds that of the training particles on either side.
    start : Model, optional
        Model to fine-tune from, which determines geometry, working pixel size and scan step.
    paper : PaperPlan, optional
        Settings of the paper's procedure; None trains by our own. `training_preset`, `error_cutoff` and `std_margin`
        then have no effect.
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
    paper: PaperPlan | None = None


class NetworkSetup(NamedTuple):
    """Network of a plan and the pixel size that it works at.

    Attributes
    ----------
    geometry : Geometry
        Sizes of the layers.
    working_pixel_size_angst : float
        Pixel size, in angstrom, to which micrographs are resampled.
    scan_step : int
        Distance between neighbouring boxes of the scan in binned pixels.
    raw : bool
        Whether micrographs keep their grey values, for the paper's procedure.
    """

    geometry: Geometry
    working_pixel_size_angst: float
    scan_step: int
    raw: bool = False

    @property
    def preprocessing(self) -> Preprocessing:
        """How micrographs are read for the network."""
        return Preprocessing(self.working_pixel_size_angst, self.geometry.box, self.raw)


def check(plan: Plan) -> None:
    """Check the values of a plan.

    Parameters
    ----------
    plan : Plan
        Settings.

    Raises
    ------
    DeepEMError
        If a value makes no sense.
    """
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
        raise DeepEMError("rounds of recursive training need validation micrographs that show whether they help; give "
                          "a validation fraction above 0")
    if not 0 <= plan.std_margin < math.inf:
        raise DeepEMError(f"margin of the local standard deviation filter {plan.std_margin}: expected a share, 0 or "
                          "more")
    if plan.start is not None and plan.start.ranges_px is not None:
        raise DeepEMError("the model to fine-tune was trained by the paper's procedure, which always starts from new "
                          "weights: train a new model")
    if plan.paper is not None:
        _check_paper(plan, plan.paper)


def _check_paper(plan: Plan, paper: PaperPlan) -> None:
    if plan.networks > 1 or plan.start is not None:
        raise DeepEMError("the paper's procedure trains one network from new weights: leave out the number of networks "
                          "and the model to fine-tune")
    for name, value in (("particles to draw", paper.particles), ("scan step", paper.scan_step)):
        if value is not None and value < 1:
            raise DeepEMError(f"{name} {value}: expected at least 1")
    if paper.ranges_px is not None and not all(0 <= value < math.inf for value in paper.ranges_px):
        raise DeepEMError("ranges of suppression {:g} and {:g}: expected binned pixels, 0 or more".format(
            *paper.ranges_px))
    if paper.std_range is not None and not 0 <= paper.std_range[0] < paper.std_range[1] < math.inf:
        raise DeepEMError("standard deviation of grey values from {:g} to {:g}: expected two numbers, the smaller "
                          "first".format(*paper.std_range))
    if not 0 < paper.accuracy <= 1:
        raise DeepEMError(f"accuracy {paper.accuracy:g} at which no further round starts: expected a share above 0, up "
                          "to 1")


def choose_geometry(plan: Plan, pixel_size_angst: float) -> NetworkSetup:
    """Choose the network of a plan.

    The working pixel size is a whole multiple of that of the micrographs: with the automatic geometry the one that
    makes the particle about `AUTO_DIAMETER_PX` pixels wide, with a given geometry or preset the one that makes the box
    about 1.5 diameters wide. The presets scan in steps of 20 px as in the paper, others in steps of the side of their
    first pool.

    Parameters
    ----------
    plan : Plan
        Settings.
    pixel_size_angst : float
        Pixel size of the micrographs in angstrom.

    Returns
    -------
    NetworkSetup

    Raises
    ------
    DeepEMError
        If the particle is too small or too large for the automatic geometry.
    """
    if plan.start is not None:
        return NetworkSetup(plan.start.geometry, plan.start.working_pixel_size_angst, plan.start.scan_step)
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
    step = PRESET_STEP if plan.preset and not plan.geometry else geometry.default_step
    if plan.paper is not None:
        in_proportion = max(1, round(PRESET_STEP * geometry.box / PRESETS["klh"].box))
        step = plan.paper.scan_step or (PRESET_STEP if plan.preset else in_proportion)
    return NetworkSetup(geometry, working, step, plan.paper is not None)
