# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training from few labels or none: a model in hand labels what nobody marked."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace

import numpy as np

from ..errors import DeepEMError
from ..micrographs.preprocessing import Preprocessing
from ..model.model import Model
from ..picking.picker import Picker
from ..picking.selection import MIN_DISTANCE, PICKED, Limits, select
from .labels import LabelledMicrograph
from .training_set import TrainingSet

log = logging.getLogger(__name__)

# Candidates that score at least this share of the teacher's threshold are not background.
BACKGROUND_SHARE = 0.2
# Fewer confident picks on all micrographs together are too few to learn from.
MIN_PICKS = 10
# A model that learned from marks is kept unless it is worse by this many standard errors, see `drift.compare`; where
# hardly a pick changes, but for those that somebody marked as wrong, it has to be better.
MIN_GAIN = -2.0


@dataclass(frozen=True)
class TaughtSet(TrainingSet):
    """Micrographs of which a model labels what is not marked.

    On the micrographs in `incomplete`, picks of the teacher above its threshold count as particles, in addition to the
    marked ones. What scores less, but at least `BACKGROUND_SHARE` of the threshold, may be a particle, and is used
    neither way. All other places are background. Marked particles and negatives overrule the teacher.

    Attributes
    ----------
    teacher : Model
        For the diameter of the particle.
    """

    teacher: Model | None = None

    @property
    def taught(self) -> bool:
        """See `TrainingSet`."""
        return True

    def read(self, preprocessing: Preprocessing, diameter_px: float, pixel_size_angst: float | None = None,
             given_negatives_only: bool = False) -> list[LabelledMicrograph]:
        """See `TrainingSet.read`.

        Raises
        ------
        DeepEMError
            If, in addition, none of the given particles is left, or neither the user nor the teacher has found
            `MIN_PICKS` particles.
        """
        assert self.teacher is not None
        found = super().read(preprocessing, diameter_px, pixel_size_angst, given_negatives_only)
        before = sum(len(item.particles_rc) for item in found)
        given = sum(len(self.particles[name].scores) for name in self.names)
        if given and not before:
            raise DeepEMError(f"none of the {given} particles given lies within a micrograph that can be used; check "
                              "that coordinates and micrographs belong together, and their frame and scale "
                              "(--tiff-rows, --coordinate-scale)")
        picker = Picker(self.teacher, replace(Limits.of_model(self.teacher),
                                              threshold=BACKGROUND_SHARE * self.teacher.threshold))
        labelled = [taught(picker, item) if item.name in self.incomplete else item for item in found]
        after = sum(len(item.particles_rc) for item in labelled)
        if before:
            log.info("%d particles are marked; the model in hand adds %d picks", before, after - before)
        else:
            log.info("no particle is marked: learning from %d confident picks of the model in hand", after)
        if after < MIN_PICKS:
            raise DeepEMError(f"only {after} particles are marked, or picked with confidence by the general model, on "
                              f"{len(labelled)} micrographs; expected at least {MIN_PICKS}. Check the diameter and the "
                              "contrast, give more micrographs, or mark some particles.")
        return labelled


def with_teacher(data: TrainingSet, teacher: Model) -> TaughtSet:
    """Return training data in which a model labels what is not marked.

    Parameters
    ----------
    data : TrainingSet
        With some of the particles, or none.
    teacher : Model

    Returns
    -------
    TaughtSet
    """
    values = {field.name: getattr(data, field.name) for field in fields(TrainingSet)}
    return TaughtSet(**{**values, "incomplete": frozenset(data.names)}, teacher=teacher)


def taught(picker: Picker, item: LabelledMicrograph) -> LabelledMicrograph:
    """Let a model label what is not marked on a micrograph.

    Parameters
    ----------
    picker : Picker
        Its threshold divides background and doubt, that of its model doubt and particles.
    item : LabelledMicrograph
        Micrograph as the networks of the model see it, with the particles and negatives that are marked.

    Returns
    -------
    LabelledMicrograph
        With further particles, and with doubtful places, so that all others are background, except in the mask.
    """
    from scipy.spatial import cKDTree

    candidates, _ = picker.candidates(item.micrograph, item.mask)
    reasons = select(candidates, picker.limits, item.micrograph.input_pixel_size_angst)
    candidates = candidates.subset(reasons == PICKED)
    centres_rc = item.micrograph.to_binned_rc(candidates.centres_xy)
    marked = np.concatenate([item.particles_rc, item.negatives_rc])
    if len(marked) and len(centres_rc):
        free = cKDTree(marked).query(centres_rc)[0] >= MIN_DISTANCE * picker.model.diameter_px
    else:
        free = np.ones(len(centres_rc), bool)
    confident = free & (candidates.scores >= picker.model.threshold)
    return replace(item, particles_rc=np.concatenate([item.particles_rc, centres_rc[confident]]),
                   doubtful_rc=np.concatenate([item.doubtful_rc, centres_rc[free & ~confident]]), complete=True)
