# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Learning: micrographs and coordinates in, a model out."""

from __future__ import annotations

import logging
import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from .calibration import contrast_of, std_range_of, with_threshold
from .coordinates import Coordinates
from .errors import DeepEMError
from .examples import Examples, PatchExamples, WindowExamples
from .micrographs import Micrograph, read_micrograph, read_pixel_size
from .model import Model
from .network import BOX_PER_DIAMETER, PRESET_STEP, PRESETS, Geometry, auto_binning, auto_geometry
from .recognition import check_size
from .training import RECIPES, Fit, Recipe, fit
from .windows import LabelledMicrograph, Windows, annotated_border, collect_windows, split_by_area, split_micrographs

log = logging.getLogger(__name__)

# Single windows of random non-particles for each particle's, as in the paper.
NEGATIVES_PER_PARTICLE = 1.0
# A border in which nobody annotated is taken to be at most so many diameters wide; a wider one is chance.
MOST_BORDER = 2.0


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Attributes
    ----------
    diameter_angst : particle diameter
    preset : name in `PRESETS`, or None for the automatic geometry
    geometry : instead of the preset's or automatic one
    working_pixel_size_angst : instead of the automatic one
    pixel_size_angst : of the micrographs, instead of what their headers say
    recipe : name in `RECIPES`
    epochs : instead of the recipe's
    given_negatives_only : call non-particles only those that are given; otherwise also places far from particles
    seed : of everything random
    validation_fraction : share of the micrographs kept for validation
    start : model to go on from; geometry and working pixel size are then its own
    """

    diameter_angst: float
    preset: str | None = None
    geometry: Geometry | None = None
    working_pixel_size_angst: float | None = None
    pixel_size_angst: float | None = None
    recipe: str = "default"
    epochs: int | None = None
    given_negatives_only: bool = False
    seed: int = 0
    validation_fraction: float = 0.2
    start: Model | None = None


def train_model(micrographs: Mapping[str, Path], particles: Mapping[str, Coordinates], plan: Plan,
                negatives: Mapping[str, Coordinates] | None = None,
                progress: Callable[[dict[str, Any]], None] = lambda record: None) -> Model:
    """Train a model.

    Parameters
    ----------
    micrographs : name -> file; the order does not matter
    particles : name -> centres of particles
    plan : Plan
    negatives : name -> centres of verified non-particles
    progress : given the record of each epoch (see `training.fit`)

    Returns
    -------
    Model

    Raises
    ------
    DeepEMError
        Where no micrograph has coordinates or can be read, the geometry is impossible, or training fails.

    Notes
    -----
    Micrographs are divided into training and validation before windows are cut or turned; where there is only
    one, its area is divided. The threshold is the one with the best F2 (eq. 8) for whole validation micrographs.
    """
    _check(plan)
    geometry, working_angst, step = choose_geometry(plan, _first_pixel_size(micrographs, particles, plan))
    labelled = _read(micrographs, particles, negatives or {}, working_angst, plan.pixel_size_angst, geometry.box)
    rng = np.random.default_rng(plan.seed)
    training, validation = _divide(labelled, plan.validation_fraction, rng)
    recipe = RECIPES[plan.recipe]
    diameter_px = plan.diameter_angst / working_angst
    border = min(annotated_border(labelled), MOST_BORDER * diameter_px)
    drawn = 0.0 if plan.given_negatives_only else NEGATIVES_PER_PARTICLE
    windows, held_out = (collect_windows(part, geometry.box, diameter_px, border, drawn, rng)
                         for part in (training, validation))
    _report_windows(windows, held_out)
    examples, held_out_examples = (
        _examples(recipe, part, shown, geometry, diameter_px, border, plan.given_negatives_only)
        for part, shown in ((training, windows), (validation, held_out)))
    if examples is None:
        raise DeepEMError("no particle has its whole box within a micrograph; check that coordinates and micrographs "
                          "belong together, the diameter and the box")
    found = fit(examples, held_out_examples, geometry, recipe, plan.epochs, plan.seed,
                plan.start.weights if plan.start else None, progress)
    record = _record(plan, labelled, windows, held_out, found, border * working_angst)
    model = Model(geometry, found.weights, working_angst, plan.diameter_angst, step,
                  std_range_of(windows, held_out), 0.5, record)
    judged = training if held_out_examples is None else validation
    return with_threshold(model, judged, border, held_out_examples is not None)


def choose_geometry(plan: Plan, pixel_size_angst: float) -> tuple[Geometry, float, int]:
    """Geometry, working pixel size in angstrom and scan step in working pixels for a plan.

    The working pixel size is a whole multiple of the micrographs' own: for the automatic geometry the one that
    makes the particle about `AUTO_DIAMETER_PX` pixels wide, for a given geometry or preset the one that makes the
    box about 1.5 diameters. The presets scan in steps of 20 px, others in steps of the product of their first
    two pools.
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
        geometry = auto_geometry(plan.diameter_angst / working)
    return geometry, working, PRESET_STEP if plan.preset and not plan.geometry else geometry.default_step


def _check(plan: Plan) -> None:
    if not 0 < plan.diameter_angst < math.inf:
        raise DeepEMError(f"particle diameter {plan.diameter_angst}: expected angstrom, above 0")
    if not 0 <= plan.validation_fraction < 1:
        raise DeepEMError(f"validation fraction {plan.validation_fraction}: expected a value from 0 to below 1")
    if plan.epochs is not None and plan.epochs < 1:
        raise DeepEMError(f"epochs {plan.epochs}: expected at least 1")


def _first_pixel_size(micrographs: Mapping[str, Path], particles: Mapping[str, Coordinates], plan: Plan) -> float:
    """Pixel size of the first micrograph that tells it."""
    if plan.pixel_size_angst is not None:
        return plan.pixel_size_angst
    reasons = []
    for name in sorted(set(micrographs) & set(particles)):
        try:
            size = read_pixel_size(micrographs[name])
        except DeepEMError as error:
            reasons.append(str(error))
        else:
            if size:
                return size
            reasons.append(f"{micrographs[name]}: no pixel size in the header; give it with --pixel-size")
    raise DeepEMError(reasons[0] if reasons else _nothing_in_common(micrographs, particles))


def _nothing_in_common(micrographs: Mapping[str, Path], particles: Mapping[str, Coordinates]) -> str:
    return (f"none of the {len(micrographs)} micrographs ({', '.join(sorted(micrographs)[:3])} ...) has coordinates; "
            f"there are coordinates of {', '.join(sorted(particles)[:3]) or 'no micrograph'} ... Files belong together "
            "by their names without folder and extension.")


def _read(micrographs: Mapping[str, Path], particles: Mapping[str, Coordinates], negatives: Mapping[str, Coordinates],
          working_angst: float, pixel_size_angst: float | None, box: int) -> list[LabelledMicrograph]:
    """Read all micrographs that have coordinates, by name; one that cannot be read is left out with a warning."""
    unlabelled = sorted(set(micrographs) - set(particles))
    if unlabelled:
        log.warning("%d of %d micrographs have no coordinates and are left out: %s", len(unlabelled),
                    len(micrographs), ", ".join(unlabelled[:5]))
    found, reasons = [], []
    for name in sorted(set(micrographs) & set(particles)):
        try:
            micrograph = read_micrograph(micrographs[name], working_angst, pixel_size_angst, name)
            check_size(micrograph, box)
        except DeepEMError as error:
            reasons.append(str(error))
            log.warning("left out: %s", error)
            continue
        centres_rc = micrograph.to_working_rc(particles[name].centres_xy)
        inside = _inside(micrograph, centres_rc)
        if not inside.all():
            log.warning("%s: %d of %d particles lie outside the micrograph and are left out", name, (~inside).sum(),
                        len(inside))
        given = negatives.get(name)
        found.append(LabelledMicrograph(micrograph, centres_rc[inside],
                                        None if given is None else micrograph.to_working_rc(given.centres_xy)))
    if not found:
        raise DeepEMError(reasons[0] if reasons else _nothing_in_common(micrographs, particles))
    return found


def _inside(micrograph: Micrograph, centres_rc: np.ndarray) -> np.ndarray:
    inside: np.ndarray = ((centres_rc >= -0.5) & (centres_rc < np.array(micrograph.pixels.shape) - 0.5)).all(axis=1)
    return inside


def _divide(labelled: list[LabelledMicrograph], fraction: float,
            rng: np.random.Generator) -> tuple[list[LabelledMicrograph], list[LabelledMicrograph]]:
    """Training and validation micrographs; those without any particle are good for training only."""
    shown = [item for item in labelled if len(item.particles_rc)]
    empty = [item for item in labelled if not len(item.particles_rc)]
    if len(shown) == 1 and fraction > 0:
        large, small = split_by_area(shown[0], fraction)
        return [large, *empty], [small]
    training, validation = split_micrographs(len(shown), fraction, rng)
    return [shown[i] for i in training] + empty, [shown[i] for i in validation]


def _examples(recipe: Recipe, labelled: list[LabelledMicrograph], windows: Windows, geometry: Geometry,
              diameter_px: float, border_px: float, given_only: bool) -> Examples | None:
    """What the network is shown of some micrographs; None where they show no particle."""
    if not (windows.targets == 1).any():
        return None
    if not recipe.patch:
        return WindowExamples(windows, recipe.batch)
    labelled = [item for item in labelled if min(item.pixels.shape) >= geometry.box]
    return PatchExamples(labelled, geometry, diameter_px, border_px, given_only, recipe.batch, recipe.patch,
                         recipe.updates_per_epoch)


def _report_windows(training: Windows, validation: Windows) -> None:
    for name, windows in (("training", training), ("validation", validation)):
        positives = int((windows.targets == 1).sum())
        log.info("%s: %d micrographs, %d particles, %d non-particles; %d particles left out as their box leaves the "
                 "micrograph", name, len(windows.images), positives, len(windows) - positives, windows.left_out)


def _record(plan: Plan, labelled: list[LabelledMicrograph], training: Windows, validation: Windows, found: Fit,
            border_angst: float) -> dict[str, Any]:
    """What the card tells beside the model's own numbers."""
    counts = {name: {"micrographs": len(windows.images), "particles": int((windows.targets == 1).sum()),
                     "non_particles": int((windows.targets == 0).sum()), "left_out": windows.left_out}
              for name, windows in (("training", training), ("validation", validation))}
    if RECIPES[plan.recipe].patch:  # patches show non-particles wherever labels allow: there is no number of them
        for count in counts.values():
            del count["non_particles"]
    first = labelled[0].micrograph
    return {
        "contrast": contrast_of(training, plan.diameter_angst / first.pixel_size_angst),
        "preset": plan.preset, "recipe": plan.recipe, "seed": plan.seed, "seed_used": found.seed,
        "best_epoch": found.best_epoch, "history": found.history,
        "training_pixel_size_angst": first.pixel_size_angst / first.scale,
        "annotated_border_angst": border_angst,
        "training": {**counts["training"], "names": [item.micrograph.name for item in labelled]},
        "validation": counts["validation"],
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("scipion-em-deepem", os.environ.get("KERAS_BACKEND", "tensorflow"), "keras", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
