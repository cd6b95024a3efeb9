# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Learning: micrographs and coordinates in, a model out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph, read_pixel_size
from ..model.model import Model
from ..picking.picker import check_size
from ..runtime import versions
from .boxes import collect_boxes
from .calibration import contrast_of, std_range_of
from .checkpoint import Checkpoint
from .examples import keep_examples
from .fit import TRAINING_PRESETS
from .labels import NOWHERE, POSITIVE_DISTANCE, LabelledMicrograph, annotated_border
from .plan import Plan, check, choose_geometry
from .rounds import Learner, Part
from .split import split_by_area, split_micrographs

log = logging.getLogger(__name__)

# A border in which nobody annotated is taken to be at most so many diameters wide; a wider one is chance.
MAX_BORDER = 2.0
# More pairs of particles at nearly the same place are no doublets of two sets, and would fill the memory.
MAX_PAIRS = 10_000_000


def train_model(micrographs: Mapping[str, Path], particles: Mapping[str, Coordinates], plan: Plan,
                negatives: Mapping[str, Coordinates] | None = None,
                progress: Callable[[dict[str, Any]], None] = lambda record: None,
                incomplete: Collection[str] = frozenset(), checkpoint: Path | None = None,
                sample: Path | None = None) -> Model:
    """Train a model.

    Parameters
    ----------
    micrographs : name -> file; the order does not matter
    particles : name -> centres of particles
    plan : Plan
    negatives : name -> centres of verified non-particles
    progress : given the record of each epoch (see `recursion.Learner`)
    incomplete : names of micrographs on which particles may be unmarked: there only what is given counts as a
        non-particle
    checkpoint : file in which every epoch is kept, and from which the training goes on where it exists and belongs to
        the same data and plan; whoever has saved the model removes it
    sample : file for some of the windows and their scores (see `samples.TrainingExamples`)

    Returns
    -------
    Model

    Raises
    ------
    DeepEMError
        Where no micrograph has coordinates or can be read, the geometry is impossible, training fails, or another run
        has taken over the checkpoint.

    Notes
    -----
    Micrographs are divided into training and validation, for each network in another way, before windows are cut or
    turned; where there is only one, its area is divided. The threshold is the one with the best F2 (eq. 8) for whole
    validation micrographs, each picked by the networks that were not trained on it.
    """
    check(plan)
    geometry, working_angst, step = choose_geometry(plan, first_pixel_size(micrographs, particles, plan))
    diameter_px = plan.diameter_angst / working_angst
    model = Model(geometry, (), working_angst, plan.diameter_angst, step, (0.0, 0.0), 0.5)
    if plan.start:
        model = replace(model, normalised_by=plan.start.normalised_by, resampled_by=plan.start.resampled_by)
    labelled = _read(micrographs, particles, negatives or {}, incomplete, plan, model)
    border = _border(labelled, model)
    windows = collect_boxes(labelled, geometry.box, diameter_px, border, 0, np.random.default_rng(plan.seed))
    if not (windows.targets == 1).any():
        raise DeepEMError("no particle has its whole box within a micrograph; check that coordinates and micrographs "
                          "belong together, the diameter and the box")
    first = labelled[0].micrograph
    record = {
        "contrast": contrast_of(windows, diameter_px),
        "preset": plan.preset, "training_preset": plan.training_preset, "seed": plan.seed,
        "training_pixel_size_angst": first.pixel_size_angst / first.scale,
        "annotated_border_angst": border * working_angst,
        "versions": versions(),
    }
    model = replace(model, std_range=std_range_of(windows, share=plan.std_margin), record=record)
    kept = Checkpoint(checkpoint, _fingerprint(labelled, plan) if checkpoint else None)
    model = Learner(model, border, plan, progress, kept).train(_divide(labelled, plan))
    kept.check()
    if sample is not None:
        keep_examples(sample, model, labelled, border, plan.seed)
    return model


def write_examples(model: Model, micrographs: Mapping[str, Path], particles: Mapping[str, Coordinates], plan: Plan,
                   negatives: Mapping[str, Coordinates], incomplete: Collection[str], sample: Path) -> None:
    """Write some of the windows of a trained model with their scores; parameters as for `train_model`."""
    labelled = _read(micrographs, particles, negatives, incomplete, plan, model)
    keep_examples(sample, model, labelled, _border(labelled, model), plan.seed)


def _border(labelled: list[LabelledMicrograph], model: Model) -> float:
    """Width of the border in which nobody annotated, in working pixels."""
    return min(annotated_border(labelled), MAX_BORDER * model.diameter_px)


def first_pixel_size(micrographs: Mapping[str, Path], particles: Mapping[str, Coordinates], plan: Plan) -> float:
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
          incomplete: Collection[str], plan: Plan, model: Model) -> list[LabelledMicrograph]:
    """Read all micrographs that have coordinates, by name; one that cannot be read is left out with a warning."""
    unlabelled = sorted(set(micrographs) - set(particles))
    if unlabelled:
        log.warning("%d of %d micrographs have no coordinates and are left out: %s", len(unlabelled),
                    len(micrographs), ", ".join(unlabelled[:5]))
    if elsewhere := sorted(set(particles) - set(micrographs)):
        log.info("coordinates of %d other micrographs are not used: %s", len(elsewhere), ", ".join(elsewhere[:5]))
    found, reasons = [], []
    near = POSITIVE_DISTANCE * model.diameter_px
    for name in sorted(set(micrographs) & set(particles)):
        try:
            micrograph = model.read_micrograph(micrographs[name], plan.pixel_size_angst, name)
            check_size(micrograph, model.geometry.box)
            known, others = (_usable(micrograph, coordinates[name].centres_xy, what, near) if name in coordinates
                             else NOWHERE for coordinates, what in ((particles, "particles"),
                                                                    (negatives, "non-particles")))
        except DeepEMError as error:
            reasons.append(str(error))
            log.warning("left out: %s", error)
            continue
        complete = name not in incomplete and not plan.given_negatives_only
        found.append(LabelledMicrograph(micrograph, known, others, complete))
    if not found:
        raise DeepEMError(reasons[0] if reasons else _nothing_in_common(micrographs, particles))
    return found


def _usable(micrograph: Micrograph, centres_xy: np.ndarray, what: str, near_px: float) -> np.ndarray:
    """Centres in working pixels, without those outside the micrograph and those given twice, e.g. by two sets."""
    from scipy.spatial import cKDTree

    centres_rc = micrograph.to_binned_rc(centres_xy)
    inside = _inside(micrograph, centres_rc)
    if not inside.all():
        log.warning("%s: %d of %d %s lie outside the micrograph and are left out", micrograph.name, (~inside).sum(),
                    len(inside), what)
    centres_rc = centres_rc[inside]
    if not len(centres_rc):
        return NOWHERE
    tree = cKDTree(centres_rc)
    if (pairs := (tree.count_neighbors(tree, near_px) - len(centres_rc)) // 2) > MAX_PAIRS:
        raise DeepEMError(f"{micrograph.path}: of {len(centres_rc)} {what} {pairs} pairs are within {near_px:.1f} "
                          "working pixels. Expected each once: check the coordinates and the pixel size.")
    again = np.unique(tree.query_pairs(near_px, output_type="ndarray")[:, 1])
    return np.delete(centres_rc, again, axis=0)


def _inside(micrograph: Micrograph, centres_rc: np.ndarray) -> np.ndarray:
    inside: np.ndarray = ((centres_rc >= -0.5) & (centres_rc < np.array(micrograph.pixels.shape) - 0.5)).all(axis=1)
    return inside


def _divide(labelled: list[LabelledMicrograph], plan: Plan) -> list[Part]:
    """Training and validation micrographs of each network.

    Those without any particle, and those on which not all are marked, are good for training only, unless there are no
    others.
    """
    shown = [item for item in labelled if len(item.particles_rc)]
    judged = [item for item in shown if item.complete] or shown
    others = [item for item in labelled if not any(item is one for one in judged)]
    n, fraction = plan.networks, plan.validation_fraction
    if len(judged) == 1 and fraction > 0:
        large, small = split_by_area(judged[0], fraction)
        return [Part([large, *others], [small])] * n
    return [Part([item for number, item in enumerate(judged) if number not in held_out] + others,
                 [judged[number] for number in held_out])
            for held_out in split_micrographs(len(judged), fraction, n, np.random.default_rng(plan.seed))]


def _fingerprint(labelled: list[LabelledMicrograph], plan: Plan) -> dict[str, Any]:
    """What decides the result of a training, by name."""
    found = {field.name: getattr(plan, field.name) for field in fields(plan)}
    if plan.start is not None:
        weights = (array for network in plan.start.networks for _, array in sorted(network.items()))
        found["start"] = _digest(weights), plan.start.scan_step
    return {
        **found, "values of the recipe": vars(TRAINING_PRESETS[plan.training_preset]), "versions": versions(),
        "names": [item.micrograph.name for item in labelled],
        "pixels": _digest(item.pixels for item in labelled),
        "particles": _digest(item.particles_rc for item in labelled),
        "non-particles": _digest(item.negatives_rc for item in labelled),
        "incomplete": [item.micrograph.name for item in labelled if not item.complete],
    }


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """A few letters that tell arrays from others."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
