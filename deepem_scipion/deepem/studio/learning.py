# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Learning from the marks of a session: a model is fine-tuned, or trained, and compared with the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..coordinates.masks import read_mask
from ..errors import DeepEMError
from ..picking.candidates import Candidates
from ..picking.selection import PICKED, Limits, select
from .editing import SAME_PLACE
from .lessons import Course, Learned, Lesson
from .worker import find

if TYPE_CHECKING:
    from ..model.model import Model
    from ..picking.picker import Picker
    from ..training.labels import LabelledMicrograph
    from ..training.plan import NetworkSetup
    from ..training.presets import TrainingPreset
    from .worker import WorkerState

# Of this many marks one is held out to compare models, if there are at least MIN_TO_HOLD_OUT.
HELD_OUT_EVERY, MIN_TO_HOLD_OUT = 5, 10
# Of the unmarked picks this share, those with the highest scores, count as particles until somebody objects.
TRUSTED_SHARE = 0.8
# Candidates above this share of the threshold may be particles, and are not taken for background.
DOUBTFUL_SHARE = 0.5
# Epochs and updates in each: to learn quickly, and for the final model.
QUICK, FINAL = (4, 60), (10, 150)


def learn(state: WorkerState, lessons: Sequence[Lesson], course: Course) -> Learned:
    """Fine-tune the model on the marks.

    Parameters
    ----------
    state : WorkerState
    lessons : sequence of Lesson
        With at least one particle, marked or picked.
    course : Course

    Returns
    -------
    Learned

    Raises
    ------
    DeepEMError
        There is nothing to learn from, or the training failed.
    """
    from ..model.files import save_model
    from ..training.calibration import at_threshold
    from ..training.plan import Plan, check, choose_geometry

    state.start_keras()
    start = _picker(state, course.model, course).model
    plan = Plan(course.diameter_angst, pixel_size_angst=course.pixel_size_angst, start=start)
    check(plan)
    setup = choose_geometry(plan, course.pixel_size_angst)
    n_marks = sum(lesson.marks for lesson in lessons)
    every = HELD_OUT_EVERY if n_marks >= MIN_TO_HOLD_OUT and not course.final else 0
    held_out = _held_out(lessons, every)
    labelled = [_labelled(setup, lesson, course, kept) for lesson, kept in zip(lessons, held_out)]
    model = _train(plan, setup, labelled, state, course)
    Path(course.output).parent.mkdir(parents=True, exist_ok=True)
    save_model(course.output, model)
    found = {lesson.name: _candidates(state, course.output, lesson, course) for lesson in lessons}
    limits = _limits(start, model, lessons, found, course)
    save_model(course.output, at_threshold(model, limits.threshold))
    compared = held_out if every else [np.ones(lesson.marks, dtype=bool) for lesson in lessons]
    before = after = 0
    for lesson, kept in zip(lessons, compared):
        if kept.any():
            shown_xy = lesson.shown_xy
            if shown_xy is None:
                shown_xy = _picks(_candidates(state, course.model, lesson, course), course.limits, course)
            before += _right(shown_xy, lesson, kept, course)
            after += _right(_picks(found[lesson.name], limits, course), lesson, kept, course)
    n_compared = sum(int(kept.sum()) for kept in compared)
    return Learned(course.output, limits, n_compared, bool(every), before, after, found)


def _held_out(lessons: Sequence[Lesson], every: int) -> list[np.ndarray]:
    """For each micrograph which of its marks, particles first, are held out: every fifth of all."""
    numbers = np.cumsum([0, *(lesson.marks for lesson in lessons)])
    return [(np.arange(lesson.marks) + first) % every == every - 1 if every else np.zeros(lesson.marks, dtype=bool)
            for lesson, first in zip(lessons, numbers)]


def _labelled(setup: NetworkSetup, lesson: Lesson, course: Course, held_out: np.ndarray) -> LabelledMicrograph:
    """The micrograph with what is known of it, without the marks that are held out."""
    from ..training.labels import LabelledMicrograph

    micrograph = setup.preprocessing.read(lesson.path, course.pixel_size_angst, lesson.name, course.tiff_rows)
    n, marked = len(lesson.particles_xy), np.concatenate([lesson.particles_xy, lesson.negatives_xy])
    unknown = lesson.unmarked(lesson.picks_xy)
    lowest = np.quantile(lesson.scores, 1 - TRUSTED_SHARE) if len(lesson.scores) else 0.0
    trusted = unknown & (lesson.scores >= lowest)
    candidates = lesson.candidates_xy[lesson.unmarked(lesson.candidates_xy)]
    particles = np.concatenate([lesson.particles_xy[~held_out[:n]], lesson.picks_xy[trusted]])
    doubtful = np.concatenate([marked[held_out], lesson.picks_xy[unknown & ~trusted], candidates])
    particles_rc, negatives_rc, doubtful_rc = (
        micrograph.to_binned_rc(places) for places in (particles, lesson.negatives_xy[~held_out[n:]], doubtful))
    masked = None
    if lesson.mask is not None:
        rows, columns = micrograph.pixels.shape
        mask = read_mask(lesson.mask, lesson.path, micrograph.input_shape, course.tiff_rows)
        masked = mask.resized((rows, columns)) > course.limits.max_mask
    return LabelledMicrograph(micrograph, particles_rc, negatives_rc, doubtful_rc=doubtful_rc, masked=masked)


def _train(plan: object, setup: NetworkSetup, labelled: list[LabelledMicrograph], state: WorkerState,
           course: Course) -> Model:
    """Train on all micrographs."""
    from ..model.record import TrainingRecord
    from ..runtime import versions
    from ..training.boxes import collect_boxes
    from ..training.calibration import contrast_of, std_range_of
    from ..training.plan import Plan
    from ..training.presets import TRAINING_PRESETS
    from ..training.rounds import RoundTrainer
    from ..training.split import Split

    assert isinstance(plan, Plan)
    epochs, updates = FINAL if course.final else QUICK
    quick = replace(TRAINING_PRESETS[plan.training_preset], epochs=epochs, later_epochs=epochs,
                    updates_per_epoch=updates)

    class Trainer(RoundTrainer):
        """With fewer updates than usual."""

        @property
        def preset(self) -> TrainingPreset:
            return quick

    diameter_px = plan.diameter_angst / setup.working_pixel_size_angst
    boxes = collect_boxes(labelled, setup.geometry.box, diameter_px, 0.0, 0, np.random.default_rng(plan.seed))
    if not (boxes.targets == 1).any():
        raise DeepEMError("there is no particle to learn from whose whole box lies within its micrograph; mark some "
                          "particles")
    record = TrainingRecord(contrast_of(boxes, diameter_px), plan.preset, plan.training_preset, plan.seed,
                            versions=versions(), training_pixel_size_angst=course.pixel_size_angst)
    trainer = Trainer(plan, setup, std_range_of(boxes, plan.std_margin), 0.0, record,
                      lambda epoch: state.report(int(epoch["epoch"]) / epochs))
    return trainer.train([Split(labelled, [])])


def _right(picks_xy: np.ndarray, lesson: Lesson, kept: np.ndarray, course: Course) -> int:
    """Number of the marks kept for it that some picks get right."""
    places = np.concatenate([lesson.particles_xy, lesson.negatives_xy])
    distances = np.hypot(*(places[:, None] - picks_xy[None]).transpose(2, 0, 1))
    found = (distances < SAME_PLACE * course.diameter_angst / course.pixel_size_angst).any(axis=1)
    return int((found == (np.arange(len(places)) < len(lesson.particles_xy)))[kept].sum())


def _picker(state: WorkerState, model: str | None, course: Course) -> Picker:
    """The picker of a model or, without one, of the general model."""
    return state.picker(model) if model else state.starting_picker(course.diameter_angst, course.bright)


def _candidates(state: WorkerState, model: str | None, lesson: Lesson, course: Course) -> Candidates:
    """Candidates of a model on a micrograph."""
    return find(state, lesson.path, lesson.name, course.pixel_size_angst, course.diameter_angst, course.bright, model,
                course.tiff_rows, lesson.mask)


def _limits(start: Model, model: Model, lessons: Sequence[Lesson], found: Mapping[str, Candidates],
            course: Course) -> Limits:
    """Limits for the new model, which has found some candidates."""
    own, mine = Limits.of_model(model), course.limits
    if course.of_coordinates:
        mine = replace(mine, min_distance_angst=own.min_distance_angst, std_range=own.std_range)
    elif mine.std_range == Limits.of_model(start).std_range:
        mine = replace(mine, std_range=own.std_range)
    mine = replace(mine, ranges_angst=own.ranges_angst)
    every = replace(mine, threshold=0.0, keep_best=1.0)
    scores = np.concatenate([each.scores[select(each, every, course.pixel_size_angst) == PICKED]
                             for each in found.values()])
    number = min(sum(len(lesson.picks_xy) + len(lesson.particles_xy) for lesson in lessons), len(scores))
    # In the middle between the last one that is picked and the next.
    last_two = np.append(np.sort(scores)[::-1], 0.0)[number - 1:number + 1]
    return replace(mine, threshold=float(last_two.mean()) if number else own.threshold)


def _picks(candidates: Candidates, limits: Limits, course: Course) -> np.ndarray:
    """Centres of the candidates that are picks at some limits."""
    found: np.ndarray = candidates.centres_xy[select(candidates, limits, course.pixel_size_angst) == PICKED]
    return found
