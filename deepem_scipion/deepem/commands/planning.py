# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data and plan of a training from the arguments of `deepem train` and `deepem tune`."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import DeepEMError
from .assigning import read_assigned
from .micrographs import chosen_masks, chosen_micrographs
from .procedure import paper_plan

if TYPE_CHECKING:
    from pathlib import Path

    from ..coordinates.coordinates import Coordinates
    from ..network.geometry import Geometry
    from ..training.plan import Plan
    from ..training.training_set import TrainingSet

log = logging.getLogger("deepem")

# Options that have no effect where nothing is marked.
_OF_COORDINATES = ("negatives", "more_particles", "more_negatives", "incomplete", "coordinate_scale", "apply_shifts",
                   "overlaps_as_negatives")


def make_plan(options: argparse.Namespace) -> Plan:
    """Make the plan of a training from its arguments.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of a training.

    Returns
    -------
    Plan

    Raises
    ------
    DeepEMError
        Arguments contradict each other, or the model to fine-tune cannot be read.
    """
    from ..model.files import load_model
    from ..model.general import general_model
    from ..network.geometry import MAPS
    from ..training.plan import Plan
    from ..training.presets import TRAINING_PRESETS

    general = not options.continue_from and (options.coordinates is None or options.incomplete)
    if options.coordinates is None:
        given = {**vars(options), "coordinate_scale": options.coordinate_scale != 1}
        for name in _OF_COORDINATES:
            if given[name]:
                raise DeepEMError(f"--{name.replace('_', '-')} needs --coordinates; without them nothing is marked")
    if options.contrast and not general:
        raise DeepEMError("--contrast is for trainings that start from the general model: those without --coordinates, "
                          "or with --incomplete")
    if options.given_negatives_only and not (options.negatives or options.more_negatives):
        raise DeepEMError("--given-negatives-only needs --negatives or --more-negatives")
    if options.given_negatives_only and options.incomplete:
        raise DeepEMError("--given-negatives-only: with --incomplete the model from which the training starts finds "
                          "the background. Leave out one of them")
    if (options.continue_from or general) and any((options.preset, options.box, options.maps,
                                                   options.working_pixel_size)):
        raise DeepEMError(f"{'the general model' if general else '--continue-from'} determines network and working "
                          "pixel size: leave out --preset, --box, --maps and --working-pixel-size")
    epochs = options.epochs
    if general and epochs is None:
        epochs = TRAINING_PRESETS[options.training_preset].general_epochs
    return Plan(
        paper=paper_plan(options),
        diameter_angst=options.diameter, preset=options.preset, geometry=_geometry(options),
        maps=tuple(options.maps or MAPS), working_pixel_size_angst=options.working_pixel_size,
        pixel_size_angst=options.pixel_size, training_preset=options.training_preset,
        epochs=epochs, given_negatives_only=options.given_negatives_only, seed=options.seed,
        validation_fraction=options.validation_fraction, networks=options.networks, rounds=options.rounds,
        error_cutoff=options.error_cutoff,
        start=general_model(options.diameter, options.contrast or "dark") if general else
        load_model(options.continue_from) if options.continue_from else None)


def _geometry(options: argparse.Namespace) -> Geometry | None:
    """Return the geometry of --box, --kernels, --pools and --maps, completed from the preset; None for none."""
    from ..network.geometry import PRESETS, Geometry

    parts = (options.box, options.kernels, options.pools, options.maps)
    if not any(parts if options.preset else parts[:3]):
        return None
    if not options.preset and not all(parts[:3]):
        raise DeepEMError("--box, --kernels and --pools need each other: give all three, or a --preset to start from")
    start = PRESETS[options.preset] if options.preset else Geometry(40, (9, 5, 3), (2, 2, 2))
    return Geometry(options.box or start.box, *(tuple(given or default) for given, default in zip(
        parts[1:], (start.kernels, start.pools, start.maps))))


def read_training_set(options: argparse.Namespace) -> TrainingSet:
    """Find micrographs and read the coordinates of particles and negatives.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of a training.

    Returns
    -------
    TrainingSet
        Micrographs with particles or negatives of --more-particles and --more-negatives only are incomplete. Without
        --coordinates nothing is marked on any.

    Raises
    ------
    DeepEMError
        A file cannot be used, or a value makes no sense.
    """
    import numpy as np

    from ..coordinates.coordinates import merge
    from ..training.training_set import TrainingSet

    micrographs = chosen_micrographs(options)
    how = {"tiff_rows": options.tiff_rows, "max_mask": options.max_mask,
           "masks": chosen_masks(options, micrographs)}
    if options.coordinates is None:
        return TrainingSet.unmarked(micrographs, **how)
    scale = options.coordinate_scale
    if not 0 < scale < math.inf:
        raise DeepEMError(f"--coordinate-scale {scale:g}: expected a factor above 0, such as 2 for coordinates of "
                          "micrographs binned by 2")

    def read(path: Path, what: str, names: Collection[str], binning: float = 1.0) -> dict[str, Coordinates]:
        found = read_assigned(path, micrographs, options.apply_shifts, options.pixel_size, binning)
        _check_use(found, path, names, what)
        return found

    complete = read_assigned(options.coordinates, micrographs, options.apply_shifts, options.pixel_size, scale)
    others = [read(path, "particles", micrographs) for path in options.more_particles]
    particles = merge([complete, *others])
    if set(particles) & set(micrographs) and not any(len(found.scores) for found in particles.values()):
        raise DeepEMError(f"no particles in {options.coordinates}: it has {len(complete)} micrographs without any. "
                          "Expected coordinates of particles.")
    more_negatives = [read(path, "negatives", micrographs) for path in options.more_negatives]
    marked = set(particles) & set(micrographs) or set(micrographs)
    verified = [read(options.negatives, "negatives", marked, scale)] if options.negatives else []
    negatives = merge([*verified, *more_negatives])
    for name in {name for found in more_negatives for name in found} - set(particles):
        particles[name] = replace(negatives[name], centres_xy=np.empty((0, 2)), scores=np.empty(0))
    return TrainingSet(micrographs, particles, negatives, set(particles) - set(complete),
                       overlaps_as_negatives=options.overlaps_as_negatives, **how)


def _check_use(found: Mapping[str, Coordinates], path: Path, names: Collection[str], what: str) -> None:
    """Raise DeepEMError if coordinates are of other micrographs only; warn if there are none at all."""
    from ..coordinates.names import listed

    if not set(found) & set(names):
        raise DeepEMError(f"{path} has {what} of {listed(sorted(found))}, and of none of the {len(names)} micrographs "
                          f"that it is for ({listed(sorted(names))}). Expected the same path, or the same file name.")
    if not any(len(each.scores) for each in found.values()):
        log.warning("warning: no %s in %s: all of its %d micrographs are empty", what, path, len(found))
