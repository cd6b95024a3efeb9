# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Learning from the marks of a session: a model is fine-tuned, or trained, and compared with the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..coordinates.masks import read_mask
from ..errors import DeepEMError
from ..picking.candidates import Candidates
from ..picking.selection import MAX_MASK, PICKED, Limits, select
from .editing import SAME_PLACE
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
# Epochs and updates in each: from a model, without one, and for the final model.
QUICK, FIRST, FINAL = (4, 60), (6, 100), (10, 150)


@dataclass(frozen=True)
class Lesson:
    """What is known about a micrograph; places are (n, 2) arrays of x, y in pixels of the file.

    Attributes
    ----------
    path, name : str
    particles_xy, negatives_xy : array
        Marked.
    picks_xy, scores : array
        Unmarked picks with their scores.
    candidates_xy : array
        Unmarked candidates that may be particles.
    regions : sequence of tuple of float
        x0, y0, x1, y1: all particles in it are marked.
    done : bool
        Whether all particles of the micrograph are marked.
    shown_xy : array, optional
        All picks as they are shown now, without what marks decide; None where they are not found yet.
    mask : str, optional
        File of the mask of contamination.
    """

    path: str
    name: str
    particles_xy: np.ndarray
    negatives_xy: np.ndarray
    picks_xy: np.ndarray
    scores: np.ndarray
    candidates_xy: np.ndarray
    regions: Sequence[tuple[float, ...]]
    done: bool
    shown_xy: np.ndarray | None = None
    mask: str | None = None

    @property
    def marks(self) -> int:
        """Number of marked particles and negatives."""
        return len(self.particles_xy) + len(self.negatives_xy)

    def unmarked(self, places_xy: np.ndarray) -> np.ndarray:
        """Select the places where it is not known whether there is a particle, an (n,) bool array."""
        unknown = np.full(len(places_xy), not self.done)
        for left, top, right, bottom in self.regions:
            x, y = places_xy.T
            unknown &= (x < left) | (x > right) | (y < top) | (y > bottom)
        return unknown


@dataclass(frozen=True)
class Learned:
    """A new model, and how it compares.

    Attributes
    ----------
    path : str
        Of the model file.
    limits : Limits
        That it suggests.
    marks : int
        Number of marks that both models were compared on.
    held_out : bool
        Whether the new model had not seen these marks.
    before, after : int
        Number of marks that what is shown and the new model get right: a pick at a particle, none at a negative.
    found : mapping of str to Candidates
        Those of the new model on the micrographs that were compared.
    """

    path: str
    limits: Limits
    marks: int
    held_out: bool
    before: int
    after: int
    found: Mapping[str, Candidates] = field(default_factory=dict)

    @property
    def worse(self) -> bool:
        """Whether the new model gets fewer marks right."""
        return self.after < self.before


@dataclass(frozen=True)
class Course:
    """How to learn.

    Attributes
    ----------
    diameter_angst, pixel_size_angst : float
        Of the particle and of the micrographs.
    model : str, optional
        Model to start from.
    bright : bool
        Whether particles are brighter than the background.
    output : str
        File of the new model.
    final : bool
        Whether to train longer, on all marks.
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of TIFF files.
    max_mask : float
        Where the mask has a larger value nothing is picked, and is no negative.
    """

    diameter_angst: float
    pixel_size_angst: float
    model: str | None
    bright: bool
    output: str
    final: bool = False
    tiff_rows: str = "bottom"
    max_mask: float = MAX_MASK


def learn(state: WorkerState, lessons: Sequence[Lesson], course: Course) -> Learned:
    """Fine-tune the model on the marks or, where there is none, train one.

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
    compared = held_out if every else [np.ones(lesson.marks, dtype=bool) for lesson in lessons]
    before, after, found = 0, 0, {}
    for lesson, kept in zip(lessons, compared):
        if kept.any():
            found[lesson.name] = _candidates(state, course.output, lesson, course)
            shown_xy = lesson.shown_xy
            if shown_xy is None:
                shown_xy = _picks(start, _candidates(state, course.model, lesson, course), course)
            before += _right(shown_xy, lesson, kept, course)
            after += _right(_picks(model, found[lesson.name], course), lesson, kept, course)
    n_compared = sum(int(kept.sum()) for kept in compared)
    return Learned(course.output, _limits(model, course), n_compared, bool(every), before, after, found)


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
        masked = mask.resized((rows, columns)) > course.max_mask
    return LabelledMicrograph(micrograph, particles_rc, negatives_rc, doubtful_rc=doubtful_rc, masked=masked)


def _train(plan: object, setup: NetworkSetup, labelled: list[LabelledMicrograph], state: WorkerState,
           course: Course) -> Model:
    """Train on all micrographs; the threshold is the best on them."""
    from ..model.record import TrainingRecord
    from ..runtime import versions
    from ..training.boxes import collect_boxes
    from ..training.calibration import contrast_of, std_range_of
    from ..training.plan import Plan
    from ..training.presets import TRAINING_PRESETS
    from ..training.rounds import RoundTrainer
    from ..training.split import Split

    assert isinstance(plan, Plan)
    epochs, updates = FINAL if course.final else FIRST if plan.start is None else QUICK
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


def _limits(model: Model, course: Course) -> Limits:
    return replace(Limits.of_model(model), max_mask=course.max_mask)


def _picks(model: Model, candidates: Candidates, course: Course) -> np.ndarray:
    """Centres of the candidates that are picks at the limits that a model suggests."""
    found: np.ndarray = candidates.centres_xy[
        select(candidates, _limits(model, course), course.pixel_size_angst) == PICKED]
    return found
