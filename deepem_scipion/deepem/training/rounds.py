# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recursive training (Fig. 2): the networks pick what they were trained on, and are trained on with their mistakes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..errors import DeepEMError
from ..model.model import Model
from ..picking.picker import Picker
from ..picking.selection import Limits
from .batches import Batches, BoxBatches, CropBatches
from .boxes import collect_boxes, corners_within
from .calibration import with_threshold
from .checkpoint import Checkpoint
from .fit import ATTEMPTS, TRAINING_PRESETS, Fit, fit
from .labels import NEGATIVE_DISTANCE, LabelledMicrograph
from .plan import Plan

log = logging.getLogger(__name__)

# Single windows of random non-particles for each particle's, as in the paper.
NEGATIVES_PER_PARTICLE = 1.0
# A later round takes this share of the epochs of the first.
LATER_EPOCHS = 0.5
# Of the false picks of a micrograph at most so many for each of its particles are added.
MAX_ADDED = 0.5

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Part:
    """The micrographs that one network is trained on, and those that it is judged by."""

    training: list[LabelledMicrograph]
    validation: list[LabelledMicrograph]


@dataclass(frozen=True)
class Learner:
    """Trains the networks of a model, round by round.

    Attributes
    ----------
    model : what is known of the model beforehand; without networks
    border_px : width, in working pixels, of the border in which nobody annotated
    plan : Plan
    progress : given the record of each epoch (see `training.fit`), with round, network (both from 1) and networks
    checkpoint : where the fits stand; they go on from there
    """

    model: Model
    border_px: float
    plan: Plan
    progress: Progress
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    def train(self, parts: Sequence[Part]) -> Model:
        """Train one network on each part, in as many rounds as the plan says.

        After each round the networks pick the micrographs that they were trained on; what they missed and what they
        picked wrongly (see `with_mistakes`) is shown more often in the next round, which goes on from the weights of
        the last one. A round whose error on the validation micrographs is not lower than that of the one before is
        thrown away, and ends the training, as do one that fails and one whose error is below the plan's cut-off. The
        error is 1 - best F1 of picks on whole micrographs, since nearly all windows can be right where many picks are
        false.

        Returns
        -------
        Model
            With the threshold for the best F2 and the figures of every round in its record.

        Raises
        ------
        DeepEMError
            Where there is nothing to train on, or no network leaves the plateau.
        """
        start = self.plan.start.networks if self.plan.start else (None,)
        best = self._round(1, parts, [start[number % len(start)] for number in range(len(parts))])
        for name in ("training", "validation"):
            log.info("%s: %s", name, ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in
                                               best.record[name].items() if isinstance(count, int)))
        rounds = [_figures(best, 1, {})]
        for number in range(2, self.plan.rounds + 1):
            if rounds[-1]["error"] is None or rounds[-1]["error"] < self.plan.error_cutoff:
                break
            taught, counts = self._taught(best, parts)
            try:
                later = self._round(number, taught, best.networks)
            except DeepEMError as error:
                log.warning("round %d failed and is left out: %s", number, error)
                break
            rounds.append(_figures(later, number, counts))
            log.info("round %d: %d false picks and %d missed particles shown more often, %d perhaps unmarked particles "
                     "left out; error %.4f, before %.4f", number, counts["false"], counts["missed"],
                     counts["doubtful"], rounds[-1]["error"], rounds[-2]["error"])
            history = best.record["history"] + later.record["history"]
            if rounds[-1]["error"] >= rounds[-2]["error"]:
                rounds[-1]["kept"] = False
                best = replace(best, record={**best.record, "history": history})
                break
            best, parts = replace(later, record={**later.record, "history": history}), taught
        return replace(best, record={**best.record, "rounds": rounds})

    def _round(self, number: int, parts: Sequence[Part], starts: Sequence[Mapping[str, np.ndarray] | None]) -> Model:
        """Networks trained on each part, with the threshold for their validation micrographs."""
        fits = [self._fit(number, index, part, start) for index, (part, start) in enumerate(zip(parts, starts))]
        held_out = all(part.validation for part in parts)
        record = {
            **self.model.record, "seeds_used": [found.seed for found in fits],
            "best_epochs": [found.best_epoch for found in fits],
            "history": [record for found in fits for record in found.history],
            **{name: self._counts([getattr(part, name) for part in parts]) for name in ("training", "validation")},
        }
        model = replace(self.model, networks=tuple(found.weights for found in fits), record=record)
        return with_threshold(model, [part.validation if held_out else part.training for part in parts], self.border_px,
                              held_out)

    def _fit(self, round_number: int, index: int, part: Part, start: Mapping[str, np.ndarray] | None) -> Fit:
        plan, training_preset = self.plan, TRAINING_PRESETS[self.plan.training_preset]
        seed = plan.seed + ATTEMPTS * index
        examples, held_out = (self._examples(items, np.random.default_rng([seed, kind]))
                              for kind, items in enumerate((part.training, part.validation)))
        if examples is None:
            raise DeepEMError("no particle of the training micrographs has its whole box within its micrograph; give "
                              "more micrographs, or check diameter and box")
        epochs = plan.epochs or training_preset.epochs
        if round_number > 1:
            epochs = max(1, round(LATER_EPOCHS * epochs))
        name = {"round": round_number, "network": index + 1, "networks": plan.networks}
        fit_name = f"round {round_number}, network {index + 1}"
        state = self.checkpoint.state(fit_name)
        if state is not None:
            log.info("%s: going on after epoch %d/%d", fit_name, len(state.history), epochs)
        found = fit(examples, held_out, self.model.geometry, training_preset, epochs, seed, start,
                    lambda record: self.progress({**name, **record}), state, partial(self.checkpoint.keep, fit_name))
        return replace(found, history=[{**name, **record} for record in found.history])

    def _counts(self, parts: Sequence[Sequence[LabelledMicrograph]]) -> dict[str, Any]:
        """Micrographs, their names, and particles of the parts of all networks together.

        Single windows leave out particles whose box leaves the micrograph.
        """
        items = {item.micrograph.name: item for part in parts for item in part}
        whole = [len(corners_within(item.particles_rc, self.model.geometry.box, item.pixels.shape))
                 for item in items.values()]
        particles = sum(len(item.particles_rc) for item in items.values())
        left_out = 0 if TRAINING_PRESETS[self.plan.training_preset].patch else particles - sum(whole)
        return {"micrographs": len(items), "names": sorted(items), "particles": particles - left_out,
                "left_out": left_out, "given_negatives": sum(len(item.negatives_rc) for item in items.values())}

    def _examples(self, labelled: list[LabelledMicrograph], rng: np.random.Generator) -> Batches | None:
        """What a network is shown of some micrographs; None where they show no particle."""
        training_preset, geometry, diameter_px = TRAINING_PRESETS[self.plan.training_preset], self.model.geometry, self.model.diameter_px
        if not any(len(corners_within(item.particles_rc, geometry.box, item.pixels.shape)) for item in labelled):
            return None
        if not training_preset.patch:
            return BoxBatches(collect_boxes(labelled, geometry.box, diameter_px, self.border_px,
                                                  NEGATIVES_PER_PARTICLE, rng), training_preset.batch)
        labelled = [item for item in labelled if min(item.pixels.shape) >= geometry.box]
        return CropBatches(labelled, geometry, diameter_px, self.border_px, training_preset.batch, training_preset.patch,
                             training_preset.updates_per_epoch, training_preset.augmented)

    def _taught(self, model: Model, parts: Sequence[Part]) -> tuple[list[Part], Counter[str]]:
        """Parts with the mistakes of the model on their training micrographs, and how many these were."""
        picker = Picker(model, replace(Limits.of_model(model), threshold=0.0))
        counts: Counter[str] = Counter(false=0, missed=0, doubtful=0)
        found: dict[int, LabelledMicrograph] = {}
        for item in [item for part in parts for item in part.training]:
            if id(item) not in found:
                found[id(item)] = with_mistakes(picker, item, self.border_px)
                counts.update({"false": len(found[id(item)].negatives_rc) - len(item.negatives_rc),
                               "missed": len(found[id(item)].missed_rc), "doubtful": len(found[id(item)].doubtful_rc)})
        return [Part([found[id(item)] for item in part.training], part.validation) for part in parts], counts


def with_mistakes(picker: Picker, item: LabelledMicrograph, border_px: float) -> LabelledMicrograph:
    """A micrograph with what its picks teach.

    Parameters
    ----------
    picker : Picker
        Of a model with a threshold; its own must be 0.
    item : LabelledMicrograph
    border_px : float
        Width of the border in which nobody annotated.

    Returns
    -------
    LabelledMicrograph
        Particles without a pick above the model's threshold are `missed_rc`. Picks above the threshold that are at
        least half a diameter from every particle are false: those with the highest scores, at most `MAX_ADDED` for
        each particle, are added to `negatives_rc`. A false pick that is surer than the median of the right ones may
        well be a particle that nobody marked: it becomes one of `doubtful_rc` instead, which nothing is learnt from.
        Where not all particles are marked, false picks teach nothing.
    """
    from scipy.spatial import cKDTree

    micrograph, model = item.micrograph, picker.model
    picks = picker.pick(micrograph).picks
    confident = picks.scores >= model.threshold
    picks_rc, scores = micrograph.to_binned_rc(picks.centres_xy[confident]), picks.scores[confident]
    near = NEGATIVE_DISTANCE * model.diameter_px
    if not len(item.particles_rc) or not len(picks_rc):
        return replace(item, missed_rc=item.particles_rc)
    missed = cKDTree(picks_rc).query(item.particles_rc)[0] >= near
    distances = cKDTree(item.particles_rc).query(picks_rc)[0]
    inside = ((picks_rc >= border_px) & (picks_rc <= np.array(item.pixels.shape) - 1 - border_px)).all(axis=1)
    false = (distances >= near) & inside & item.complete
    right = distances < near
    doubtful = false & (scores >= (np.median(scores[right]) if right.any() else np.inf))
    hard = np.flatnonzero(false & ~doubtful)[:round(MAX_ADDED * len(item.particles_rc))]  # by falling score
    return replace(item, missed_rc=item.particles_rc[missed], doubtful_rc=picks_rc[doubtful],
                   negatives_rc=np.concatenate([item.negatives_rc, picks_rc[hard]]))


def _figures(model: Model, number: int, counts: Mapping[str, int]) -> dict[str, Any]:
    """What is kept of a round."""
    judged = model.record["validation"]
    best = judged.get("best_F1")
    return {"round": number, "kept": True, "error": None if best is None else 1 - best, **counts,
            **{name: judged.get(name) for name in ("AP", "best_F1", "F2", "precision", "recall")}}
