# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""From micrographs and coordinates to a model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeepEMError
from ..model.card import MODEL_LABELS, MODEL_LABELS_WARNING
from ..model.model import Model
from ..model.paths import ModelFiles
from ..model.record import Epoch, TrainingRecord
from ..runtime import ensure_keras_started, versions
from .boxes import collect_boxes
from .calibration import contrast_of, std_range_of
from .checkpoint import Checkpoint
from .examples import keep_examples
from .labels import LabelledMicrograph, annotated_border
from .paper import PaperTrainer
from .paper_data import divide
from .plan import NetworkSetup, Plan, check, choose_geometry
from .plausibility import find_bright, find_invisible, find_problems
from .presets import TRAINING_PRESETS
from .rounds import RoundTrainer
from .split import split
from .training_set import TrainingSet

log = logging.getLogger(__name__)

# A border without annotation is taken to be at most this many diameters wide; a wider one is chance.
MAX_BORDER = 2.0


def train_model(data: TrainingSet, plan: Plan, progress: Callable[[Epoch], None] = lambda epoch: None,
                files: ModelFiles | None = None) -> Model:
    """Train a model.

    Parameters
    ----------
    data : TrainingSet
        Micrographs and coordinates.
    plan : Plan
        Settings.
    progress : callable
        Called with the figures of each epoch.
    files : ModelFiles, optional
        Files next to the model. After every epoch the state is written to the checkpoint, from which the training
        resumes if it belongs to the same data and plan; whoever has saved the model removes it. At the end the training
        examples are written. Default: nothing is written.

    Returns
    -------
    Model

    Raises
    ------
    DeepEMError
        If no micrograph has coordinates and can be read, the geometry is impossible, the training fails, or another run
        has taken over the checkpoint.

    Notes
    -----
    Micrographs are divided into training and validation before boxes are cut and rotated, for each network in another
    way; where there is only one micrograph, its area is divided. The threshold is the one with the best F2 (eq. 8 of
    the paper) on whole validation micrographs, each picked by the networks that were not trained on it.
    """
    check(plan)
    ensure_keras_started()
    pixel_size = data.pixel_size_angst() if plan.pixel_size_angst is None else plan.pixel_size_angst
    setup = choose_geometry(plan, pixel_size)
    diameter_px = plan.diameter_angst / setup.working_pixel_size_angst
    labelled = _read(data, plan, setup, diameter_px)
    border_px = _border(labelled, diameter_px)
    boxes = collect_boxes(labelled, setup.geometry.box, diameter_px, border_px, 0, np.random.default_rng(plan.seed))
    if not (boxes.targets == 1).any():
        raise DeepEMError("no particle has its whole box within a micrograph; check that coordinates and micrographs "
                          "belong together, the diameter and the box")
    shown = find_bright(labelled, diameter_px, plan.start.record.contrast if plan.start else None)
    shown += find_invisible(labelled, diameter_px)
    for problem in shown:
        log.warning("warning: %s", problem)
    record = TrainingRecord(
        contrast_of(boxes, diameter_px), plan.preset, "paper" if plan.paper else plan.training_preset, plan.seed,
        versions=versions(),
        training_pixel_size_angst=labelled[0].micrograph.input_pixel_size_angst,
        annotated_border_angst=border_px * setup.working_pixel_size_angst,
        warnings=find_problems(data, plan) + shown)
    checkpoint = Checkpoint(files.checkpoint, _fingerprint(labelled, plan)) if files else Checkpoint()
    model: Model
    if plan.paper is not None:
        model = PaperTrainer(plan, setup, border_px, record, progress, checkpoint).train(
            divide(labelled, plan.validation_fraction, plan.rounds, plan.seed))
    else:
        std_range = std_range_of(boxes, plan.std_margin)
        model = RoundTrainer(plan, setup, std_range, border_px, record, progress, checkpoint).train(
            split(labelled, plan.validation_fraction, plan.networks, plan.seed))
    checkpoint.check()
    if data.taught:
        model = _without_reference(model)
    if files:
        keep_examples(files.examples, model, labelled, border_px, plan.seed)
    return model


def write_examples(path: Path, model: Model, data: TrainingSet, plan: Plan) -> None:
    """Write training examples of a trained model.

    Parameters
    ----------
    path : Path
        File to write, see `ModelFiles.examples`.
    model : Model
        Trained model.
    data : TrainingSet
        Micrographs and coordinates.
    plan : Plan
        Settings of the training.

    Raises
    ------
    DeepEMError
        If no micrograph has coordinates and can be read.
    """
    setup = NetworkSetup(model.geometry, model.working_pixel_size_angst, model.scan_step, model.ranges_px is not None)
    labelled = _read(data, plan, setup, model.diameter_px)
    keep_examples(path, model, labelled, _border(labelled, model.diameter_px), plan.seed)


def _without_reference(model: Model) -> Model:
    """State in the record, and in the log, that the figures of a model do not compare it with reference coordinates."""
    found = model.record
    log.warning("warning: %s", MODEL_LABELS_WARNING)
    validation = replace(found.validation, on=found.validation.on and f"{found.validation.on} ({MODEL_LABELS})")
    return replace(model, record=replace(found, validation=validation,
                                         warnings=[*found.warnings, MODEL_LABELS_WARNING]))


def _read(data: TrainingSet, plan: Plan, setup: NetworkSetup, diameter_px: float) -> list[LabelledMicrograph]:
    return data.read(setup.preprocessing, diameter_px, plan.pixel_size_angst, plan.given_negatives_only)


def _border(labelled: list[LabelledMicrograph], diameter_px: float) -> float:
    """Width of the border without annotation in binned pixels."""
    return min(annotated_border(labelled), MAX_BORDER * diameter_px)


def _fingerprint(labelled: list[LabelledMicrograph], plan: Plan) -> dict[str, Any]:
    """All that determines the result of a training, by name."""
    found = {field.name: getattr(plan, field.name) for field in fields(plan)}
    if plan.start is not None:
        weights = (array for network in plan.start.networks for _, array in sorted(network.items()))
        found["start"] = _digest(weights), plan.start.scan_step
    return {
        **found, "values of the training preset": vars(TRAINING_PRESETS[plan.training_preset]), "versions": versions(),
        "names": [item.name for item in labelled],
        "pixels": _digest(item.pixels for item in labelled),
        "particles": _digest(item.particles_rc for item in labelled),
        "negatives": _digest(item.negatives_rc for item in labelled),
        "masks": _digest(item.masked for item in labelled if item.masked is not None),
        "incomplete": [item.name for item in labelled if not item.complete],
    }


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """Short digest of arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
