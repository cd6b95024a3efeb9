# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recursive training (Fig. 2 of the paper): networks pick their training micrographs and learn from their mistakes."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Callable

import numpy as np

from ..errors import DeepEMError
from ..model.model import Model
from ..model.record import Epoch, Round, TrainingData, TrainingRecord, Validation
from ..picking.picker import Picker
from ..picking.selection import Limits
from .batches import Batches, BoxBatches, CropBatches
from .boxes import collect_boxes, corners_within
from .calibration import far_from, with_threshold
from .checkpoint import Checkpoint
from .fit import ATTEMPTS, FitResult, fit
from .labels import NEGATIVE_DISTANCE, LabelledMicrograph
from .plan import NetworkSetup, Plan
from .presets import TRAINING_PRESETS, TrainingPreset
from .split import Split

log = logging.getLogger(__name__)

# Boxes of random negatives for each box of a particle, as in the paper.
NEGATIVES_PER_PARTICLE = 1.0
# A later round takes this share of the epochs of the first.
LATER_EPOCHS = 0.5
# At most this many false positives of a micrograph are added for each of its particles.
MAX_ADDED = 0.5
# Threshold of a model until one is found.
_PROVISIONAL_THRESHOLD = 0.5

Progress = Callable[[Epoch], None]


@dataclass(frozen=True)
class RoundTrainer:
    """Trains the networks of a model, round by round.

    Attributes
    ----------
    plan : Plan
        Settings of the training.
    setup : NetworkSetup
        Geometry, working pixel size and scan step.
    std_range : tuple of float
        Range of local standard deviations in which picks are accepted.
    border_px : float
        Width of the border without annotation in binned pixels.
    record : TrainingRecord
        What is recorded before the first round.
    progress : callable
        Called with the figures of each epoch.
    checkpoint : Checkpoint
        States of the fits, from which they resume.
    """

    plan: Plan
    setup: NetworkSetup
    std_range: tuple[float, float]
    border_px: float
    record: TrainingRecord
    progress: Progress
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    @property
    def preset(self) -> TrainingPreset:
        """Training preset of the plan."""
        return TRAINING_PRESETS[self.plan.training_preset]

    @property
    def diameter_px(self) -> float:
        """Diameter of the particle in binned pixels."""
        return self.plan.diameter_angst / self.setup.working_pixel_size_angst

    def train(self, splits: Sequence[Split]) -> Model:
        """Train a network on each split, in as many rounds as the plan states.

        After each round the networks pick the micrographs that they were trained on. Missed particles and false
        positives (see `with_mistakes`) are shown more often in the next round, which starts from the weights of the
        last one. A round whose error on the validation micrographs is not lower than that of the round before is
        discarded and ends the training, as do a round that fails and one whose error is below the plan's cutoff. The
        error is 1 - best F1 of picks on whole micrographs, because the accuracy on boxes can be nearly perfect while
        many picks are false.

        Parameters
        ----------
        splits : sequence of Split
            Training and validation micrographs of each network.

        Returns
        -------
        Model
            With the threshold for the best F2 (eq. 8 of the paper), and the figures of all rounds in its record.

        Raises
        ------
        DeepEMError
            If there is nothing to train on, or a network of the first round does not converge.
        """
        start = self.plan.start.networks if self.plan.start else (None,)
        best = self._train_round(1, splits, [start[number % len(start)] for number in range(len(splits))])
        self._log_data(best.record)
        rounds = [_figures(best, 1, Counter())]
        for number in range(2, self.plan.rounds + 1):
            before = rounds[-1].error
            if before is None or before < self.plan.error_cutoff:
                break
            next_splits, counts = self._with_mistakes(best, splits)
            try:
                later = self._train_round(number, next_splits, best.networks)
            except DeepEMError as error:
                log.warning("round %d failed and is left out: %s", number, error)
                break
            done = _figures(later, number, counts)
            after = math.inf if done.error is None else done.error
            log.info("round %d: %d false positives and %d missed particles shown more often, %d possibly unmarked "
                     "particles left out; error %.4f, before %.4f", number, done.false_positives, done.missed,
                     done.doubtful, after, before)
            history = best.record.history + later.record.history
            if after >= before:
                rounds.append(replace(done, kept=False))
                best = _recorded(best, history=history)
                break
            rounds.append(done)
            best, splits = _recorded(later, history=history), next_splits
        return _recorded(best, rounds=rounds)

    def _train_round(self, number: int, splits: Sequence[Split],
                     starts: Sequence[Mapping[str, np.ndarray] | None]) -> Model:
        """Train a network on each split, and find the threshold on their validation micrographs."""
        fits = [self._fit(number, index, part, start) for index, (part, start) in enumerate(zip(splits, starts))]
        kept_out = all(part.validation for part in splits)
        record = replace(
            self.record, seeds_used=[found.seed for found in fits], best_epochs=[found.best_epoch for found in fits],
            history=[epoch for found in fits for epoch in found.history],
            training=self._data([part.training for part in splits]),
            validation=Validation(**vars(self._data([part.validation for part in splits]))))
        model = Model(self.setup.geometry, tuple(found.weights for found in fits), self.setup.working_pixel_size_angst,
                      self.plan.diameter_angst, self.setup.scan_step, self.std_range, _PROVISIONAL_THRESHOLD, record,
                      self.plan.start.agreement if self.plan.start else None)
        return with_threshold(model, [part.validation if kept_out else part.training for part in splits],
                              self.border_px, kept_out)

    def _fit(self, round_number: int, index: int, part: Split, start: Mapping[str, np.ndarray] | None) -> FitResult:
        """Train one network, counted from 0, for a round, or resume that."""
        seed = self.plan.seed + ATTEMPTS * index
        examples, validation = (self._batches(items, np.random.default_rng([seed, kind]))
                                for kind, items in enumerate((part.training, part.validation)))
        if examples is None:
            raise DeepEMError("no particle of the training micrographs has its whole box within its micrograph; give "
                              "more micrographs, or check diameter and box")
        epochs = self.plan.epochs or (self.preset.later_epochs if self.plan.start else self.preset.epochs)
        if round_number > 1:
            epochs = max(1, round(LATER_EPOCHS * epochs))
        place: Epoch = {"round": round_number, "network": index + 1, "networks": self.plan.networks}
        name = f"round {round_number}, network {index + 1}"
        state = self.checkpoint.state(name)
        if state is not None:
            log.info("%s: resuming after epoch %d/%d", name, len(state.history), epochs)
        found = fit(examples, validation, self.setup.geometry, self.preset, epochs, seed, start,
                    lambda epoch: self.progress({**place, **epoch}), state, partial(self.checkpoint.keep, name))
        return replace(found, history=[{**place, **epoch} for epoch in found.history])

    def _batches(self, labelled: list[LabelledMicrograph], rng: np.random.Generator) -> Batches | None:
        """Training examples from some micrographs; None if these have no whole box of a particle."""
        preset, geometry = self.preset, self.setup.geometry
        if not any(len(corners_within(item.particles_rc, geometry.box, item.pixels.shape)) for item in labelled):
            return None
        if not preset.crop:
            return BoxBatches(collect_boxes(labelled, geometry.box, self.diameter_px, self.border_px,
                                            NEGATIVES_PER_PARTICLE, rng), preset.batch)
        labelled = [item for item in labelled if min(item.pixels.shape) >= geometry.box]
        return CropBatches(labelled, geometry, self.diameter_px, self.border_px, preset.batch, preset.crop,
                           preset.updates_per_epoch, preset.augmented)

    def _data(self, parts: Sequence[Sequence[LabelledMicrograph]]) -> TrainingData:
        """Count the data of all networks together. Single boxes leave out particles whose box leaves the micrograph."""
        items = {item.name: item for part in parts for item in part}
        whole = [len(corners_within(item.particles_rc, self.setup.geometry.box, item.pixels.shape))
                 for item in items.values()]
        particles = sum(len(item.particles_rc) for item in items.values())
        left_out = 0 if self.preset.crop else particles - sum(whole)
        return TrainingData(len(items), sorted(items), particles - left_out, left_out,
                            sum(len(item.negatives_rc) for item in items.values()))

    def _with_mistakes(self, model: Model, splits: Sequence[Split]) -> tuple[list[Split], Counter[str]]:
        """Add the mistakes of a model on the training micrographs, and count them."""
        picker = Picker(model, replace(Limits.of_model(model), threshold=0.0))
        counts: Counter[str] = Counter(false_positives=0, missed=0, doubtful=0)
        found: dict[str, LabelledMicrograph] = {}
        for item in [item for part in splits for item in part.training]:
            if item.name not in found:
                found[item.name] = taught = with_mistakes(picker, item, self.border_px)
                counts.update({"false_positives": len(taught.negatives_rc) - len(item.negatives_rc),
                               "missed": len(taught.missed_rc),
                               "doubtful": len(taught.doubtful_rc) - len(item.doubtful_rc)})
        return [Split([found[item.name] for item in part.training], part.validation) for part in splits], counts

    @staticmethod
    def _log_data(record: TrainingRecord) -> None:
        for name, data in (("training", record.training), ("validation", record.validation)):
            log.info("%s: micrographs %d, particles %d, left out %d, given negatives %d", name, data.micrographs,
                     data.particles, data.left_out, data.given_negatives)


def with_mistakes(picker: Picker, item: LabelledMicrograph, border_px: float) -> LabelledMicrograph:
    """Add the mistakes of a model on a micrograph to what is known about it.

    Parameters
    ----------
    picker : Picker
        Picker with a threshold of 0; its model has another one.
    item : LabelledMicrograph
        Micrograph with marked particles.
    border_px : float
        Width of the border without annotation in binned pixels.

    Returns
    -------
    LabelledMicrograph
        `missed_rc` are the particles without a pick above the threshold of the model. False positives are picks above
        the threshold at least half a diameter from every particle. The most confident of them, at most `MAX_ADDED` for
        each particle, are added to `negatives_rc`. A false positive that is more confident than the median of the true
        positives may be a particle that nobody marked: it is added to `doubtful_rc` instead, and not used for training.
        False positives are ignored where not all particles are marked, in the mask, and at places that are doubtful
        already.
    """
    from scipy.spatial import cKDTree

    micrograph, model = item.micrograph, picker.model
    picks = picker.pick(micrograph).picks
    confident = picks.scores >= model.threshold
    picks_rc, scores = micrograph.to_binned_rc(picks.centres_xy[confident]), picks.scores[confident]
    distance = NEGATIVE_DISTANCE * model.diameter_px
    if not len(item.particles_rc) or not len(picks_rc):
        return replace(item, missed_rc=item.particles_rc)
    missed = cKDTree(picks_rc).query(item.particles_rc)[0] >= distance
    distances = cKDTree(item.particles_rc).query(picks_rc)[0]
    inside = ((picks_rc >= border_px) & (picks_rc <= np.array(item.pixels.shape) - 1 - border_px)).all(axis=1)
    true = distances < distance
    undoubted = far_from(picks_rc, item.doubtful_rc, distance)
    false = ~true & undoubted & inside & item.complete & ~item.in_mask(picks_rc)
    doubtful = false & (scores >= (np.median(scores[true]) if true.any() else np.inf))
    # Picks are in descending order of score.
    hard = np.flatnonzero(false & ~doubtful)[:round(MAX_ADDED * len(item.particles_rc))]
    return replace(item, missed_rc=item.particles_rc[missed],
                   doubtful_rc=np.concatenate([item.doubtful_rc, picks_rc[doubtful]]),
                   negatives_rc=np.concatenate([item.negatives_rc, picks_rc[hard]]))


def _figures(model: Model, number: int, counts: Counter[str]) -> Round:
    """Figures of a finished round."""
    found = model.record.validation
    return Round(number, error=None if found.best_F1 is None else 1 - found.best_F1,
                 false_positives=counts["false_positives"], missed=counts["missed"], doubtful=counts["doubtful"],
                 AP=found.AP, best_F1=found.best_F1, F2=found.F2, precision=found.precision, recall=found.recall)


def _recorded(model: Model, *, history: list[Epoch] | None = None, rounds: list[Round] | None = None) -> Model:
    record = model.record
    return replace(model, record=replace(record, history=record.history if history is None else history,
                                         rounds=record.rounds if rounds is None else rounds))
