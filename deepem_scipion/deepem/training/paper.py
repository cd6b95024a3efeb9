# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training by the paper's procedure: as many boxes of negatives as of particles, and its recursion (Fig. 2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ..evaluation.matching import pool
from ..evaluation.metrics import f_beta
from ..model.model import Model
from ..model.record import Epoch, Round, TrainingData, TrainingRecord, Validation
from ..network.box_scan import BoxScanner
from ..picking.paper import THRESHOLDS, default_ranges
from ..picking.picker import Picker
from ..picking.selection import PICKED, Limits, select
from .batches import BoxBatches
from .boxes import Boxes
from .calibration import compare, far_from
from .checkpoint import Checkpoint
from .fit import fit
from .labels import NEGATIVE_DISTANCE, LabelledMicrograph
from .paper_data import Parts, draw
from .plan import NetworkSetup, Plan
from .presets import TRAINING_PRESETS
from .rounds import Progress

log = logging.getLogger(__name__)

# Boxes of particles whose standard deviation of grey values is between these percentiles are accepted.
STD_PERCENTILES = (1, 99)
_TEST_SEED, _VALIDATION_SEED, _TRAINING_SEED = range(3)


@dataclass(frozen=True)
class PaperTrainer:
    """Trains a network by the paper's procedure.

    Attributes
    ----------
    plan, setup, border_px, record, progress, checkpoint
        As for `RoundTrainer`; the plan has a `paper`.
    """

    plan: Plan
    setup: NetworkSetup
    border_px: float
    record: TrainingRecord
    progress: Progress
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    def train(self, parts: Parts) -> Model:
        """Train a network in as many rounds as the plan states, each from new weights.

        The first round shows boxes of the first part of the training micrographs. Each later one adds boxes of the
        next part, micrographs that no network has seen: what the network of the round before missed there, and its
        false positives, come first. There is no further round when enough boxes of the test micrographs are on the
        right side of a score of 0.5. The last epoch and the last round are kept.

        Parameters
        ----------
        parts : Parts
            Micrographs by their purpose.

        Returns
        -------
        Model
            With the one of `THRESHOLDS` that has the best F2 on the validation micrographs.

        Raises
        ------
        DeepEMError
            If there is nothing to train on, or the network does not converge.
        """
        assert self.plan.paper is not None
        shown: list[Boxes] = []
        rounds: list[Round] = []
        record, model = replace(self.record, test=_data(parts.test)), None
        for number, items in enumerate(parts.training, 1):
            taught = items if model is None else [with_mistakes(model, item, self.border_px) for item in items]
            shown.append(self._draw(taught, [_TRAINING_SEED, number]))
            used = [item for part in parts.training[:number] for item in part]
            model = self._train_round(number, together(shown), used, parts.validation, record)
            accuracy = self._accuracy(model, parts.test)
            rounds.append(_figures(model, number, accuracy, items, taught))
            record = replace(model.record, rounds=rounds)
            model = replace(model, record=record)
            log.info("round %d: %d boxes of particles and %d of negatives%s", number,
                     *((together(shown).targets == target).sum() for target in (1, 0)),
                     "" if accuracy is None else f"; {100 * accuracy:.1f} % of the test boxes correct at 0.5")
            if accuracy is not None and accuracy >= self.plan.paper.accuracy:
                break
        assert model is not None
        return model

    def _draw(self, items: Sequence[LabelledMicrograph], kind: Sequence[int]) -> Boxes:
        assert self.plan.paper is not None
        return draw(items, self.setup.geometry.box, self.plan.diameter_angst / self.setup.working_pixel_size_angst,
                    self.border_px, self.plan.paper.particles, np.random.default_rng([self.plan.seed, *kind]))

    def _train_round(self, number: int, shown: Boxes, used: Sequence[LabelledMicrograph],
                     validation: Sequence[LabelledMicrograph], record: TrainingRecord) -> Model:
        """Train a network on boxes, and find its threshold."""
        assert self.plan.paper is not None
        preset = replace(TRAINING_PRESETS["paper"], last_epoch=True)
        place: Epoch = {"round": number, "network": 1, "networks": 1}
        name = f"round {number}"
        checked = BoxBatches(self._draw(validation, [_VALIDATION_SEED]), preset.batch) if validation else None
        found = fit(BoxBatches(shown, preset.batch), checked, self.setup.geometry, preset, self.plan.epochs,
                    self.plan.seed, None, lambda epoch: self.progress({**place, **epoch}), self.checkpoint.state(name),
                    partial(self.checkpoint.keep, name))
        epochs: list[Epoch] = [{**place, **epoch} for epoch in found.history]
        model = Model(
            self.setup.geometry, (found.weights,), self.setup.working_pixel_size_angst, self.plan.diameter_angst,
            self.setup.scan_step, self.plan.paper.std_range or std_range_of(shown), 0.5,
            replace(record, history=record.history + epochs, seeds_used=[found.seed], best_epochs=[found.best_epoch],
                    training=replace(_data(used), particles=int((shown.targets == 1).sum()))),
            ranges_px=self.plan.paper.ranges_px or default_ranges(self.plan.preset, self.setup.geometry.box))
        return with_best_of_nine(model, validation or used, self.border_px, bool(validation))

    def _accuracy(self, model: Model, test: Sequence[LabelledMicrograph]) -> float | None:
        """Share of the test boxes, in their own orientation, on the right side of 0.5."""
        if not test:
            return None
        boxes = self._draw(test, [_TEST_SEED])
        scanner = BoxScanner(model.geometry, model.networks, model.scan_step, rotations=1)
        scores = scanner.score(boxes.cut(np.arange(len(boxes))))
        return float(((scores > 0.5) == (boxes.targets == 1)).mean())


def together(parts: Sequence[Boxes]) -> Boxes:
    """Join boxes of several rounds."""
    first = np.cumsum([0, *(len(part.images) for part in parts)])
    places = [part.places + [start, 0, 0] for start, part in zip(first, parts)]
    return Boxes([image for part in parts for image in part.images], parts[0].box, np.concatenate(places),
                 np.concatenate([part.targets for part in parts]), normalised=True,
                 stds=np.concatenate([part.stds for part in parts]))


def std_range_of(boxes: Boxes) -> tuple[float, float]:
    """Return the range of the standard deviation of grey values of most boxes of particles.

    Parameters
    ----------
    boxes : Boxes
        With standard deviations.

    Returns
    -------
    tuple of float
        The percentiles `STD_PERCENTILES`.
    """
    low, high = np.percentile(boxes.stds[boxes.targets == 1], STD_PERCENTILES)
    return float(low), float(high)


def with_mistakes(model: Model, item: LabelledMicrograph, border_px: float) -> LabelledMicrograph:
    """Add the mistakes of a model on a micrograph to what is known about it.

    Parameters
    ----------
    model : Model
        Of the paper's procedure.
    item : LabelledMicrograph
        Micrograph that the model was not trained on.
    border_px : float
        Width of the border without annotation, in binned pixels.

    Returns
    -------
    LabelledMicrograph
        `missed_rc` are the particles without a pick within half a diameter. Picks that are at least as far from all
        particles are added to `negatives_rc`, if all particles are marked, and they are not in the mask or border.
    """
    picks_rc = item.micrograph.to_binned_rc(Picker(model).pick(item.micrograph).picks.centres_xy)
    distance = NEGATIVE_DISTANCE * model.diameter_px
    inside = ((picks_rc >= border_px) & (picks_rc <= np.array(item.pixels.shape) - 1 - border_px)).all(axis=1)
    false = far_from(picks_rc, item.particles_rc, distance) & inside & item.complete & ~item.in_mask(picks_rc)
    return replace(item, missed_rc=item.particles_rc[far_from(item.particles_rc, picks_rc, distance)],
                   negatives_rc=np.concatenate([item.negatives_rc, picks_rc[false]]))


def with_best_of_nine(model: Model, items: Sequence[LabelledMicrograph], border_px: float, kept_out: bool) -> Model:
    """Choose the one of `THRESHOLDS` with the best F2 of the picks on whole micrographs.

    Parameters
    ----------
    model : Model
        Of the paper's procedure.
    items : sequence of LabelledMicrograph
        Micrographs to pick.
    border_px : float
        Width of the border without annotation, in binned pixels. Picks there do not count as false positives.
    kept_out : bool
        Whether these micrographs were kept out of the training.

    Returns
    -------
    Model
        With threshold and validation. Both passes of suppression are repeated for each threshold: the picks at a high
        one are not those at a low one that exceed it.
    """
    picker = Picker(model)
    found = [(item, picker.candidates(item.micrograph)[0]) for item in items]
    points = []
    for threshold in THRESHOLDS[::-1]:
        limits = replace(Limits.of_model(model), threshold=threshold)
        matches = pool([compare(candidates.subset(select(candidates, limits, item.micrograph.input_pixel_size_angst)
                                                  == PICKED), item, model.diameter_px, border_px)
                        for item, candidates in found])
        n_correct = int(matches.correct.sum())
        points.append((n_correct / max(len(matches.correct), 1), n_correct / max(matches.n_truth, 1)))
    precision, recall = np.array(points).T
    scores = f_beta(precision, recall, 2)
    best = int(np.argmax(scores))
    validation = Validation(
        **vars(_data(items)), on="validation micrographs" if kept_out else "training micrographs",
        precision=float(precision[best]), recall=float(recall[best]), F2=float(scores[best]),
        F1=float(f_beta(precision[best], recall[best], 1)), best_F1=float(f_beta(precision, recall, 1).max()),
        curve={"threshold": list(THRESHOLDS[::-1]), "precision": precision.tolist(), "recall": recall.tolist()})
    return replace(model, threshold=THRESHOLDS[::-1][best], record=replace(model.record, validation=validation))


def _data(items: Sequence[LabelledMicrograph]) -> TrainingData:
    return TrainingData(len(items), sorted(item.name for item in items), sum(len(item.particles_rc) for item in items),
                        0, sum(len(item.negatives_rc) for item in items))


def _figures(model: Model, number: int, accuracy: float | None, items: Sequence[LabelledMicrograph],
             taught: Sequence[LabelledMicrograph]) -> Round:
    found = model.record.validation
    return Round(number, error=None if found.best_F1 is None else 1 - found.best_F1, accuracy=accuracy,
                 false_positives=sum(len(item.negatives_rc) for item in taught) - sum(
                     len(item.negatives_rc) for item in items),
                 missed=sum(len(item.missed_rc) for item in taught), best_F1=found.best_F1, F2=found.F2,
                 precision=found.precision, recall=found.recall)
