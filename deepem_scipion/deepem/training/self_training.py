# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training without labels: a model learns from the confident picks of the general one, and then from its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..errors import DeepEMError
from ..evaluation.matching import match
from ..model.model import Model
from ..model.record import Epoch
from ..picking.picker import Picker
from .plan import Plan
from .teacher import TaughtSet
from .train import train_model

log = logging.getLogger(__name__)

# Maximum number of rounds, and the share of common picks from which on a further round would change nothing.
ROUNDS, UNCHANGED = 3, 0.97
# A model whose picks have less in common with those of its teacher has drifted.
DRIFTED = 0.6
# Micrographs on which both are compared, at most.
COMPARED = 6


@dataclass(frozen=True)
class Comparison:
    """Picks of two models on the same micrographs.

    Attributes
    ----------
    before, after : int
        Numbers of picks of the teacher and of the model that learned from it.
    common : int
        Number of picks of both that are at most half a diameter apart.
    """

    before: int
    after: int
    common: int

    @property
    def share(self) -> float:
        """F1 of the picks of the one model with respect to those of the other; 0 without picks."""
        return 2 * self.common / max(1, self.before + self.after)


def self_train(paths: Mapping[str, Path], plan: Plan, progress: Callable[[Epoch], None] = lambda epoch: None) -> Model:
    """Train a model on micrographs without labels.

    Parameters
    ----------
    paths : mapping of str to Path
        Micrographs by name.
    plan : Plan
        Settings; `start` is the general model for the particle's diameter, or another model of it.
    progress : callable
        Called with the figures of each epoch.

    Returns
    -------
    Model
        That of the last round whose picks had enough in common with those before; `plan.start` if already the first
        had not, after a warning.

    Raises
    ------
    DeepEMError
        If no micrograph can be read, or the general model picks next to nothing.

    Notes
    -----
    There is no ground truth to show whether a round helps. The criterion is that the picks change little (F1 of the
    new picks with respect to the earlier ones, at half a diameter): a model that is taken over by ice or carbon finds
    other things, and one that collapses finds nothing. A refused round costs time only.
    """
    if plan.start is None:
        raise DeepEMError("self-training starts from a model: give the general one, or another")
    unmarked = {name: Coordinates(np.empty((0, 2)), np.empty(0), None) for name in paths}
    best = plan.start
    for number in range(1, ROUNDS + 1):
        data = TaughtSet(paths, unmarked, incomplete=frozenset(paths), teacher=best)
        model = train_model(data, replace(plan, start=best), progress)
        model = replace(model, threshold=model.threshold_for("F1"))
        found = compare(best, model, dict(list(paths.items())[:COMPARED]), plan.pixel_size_angst)
        log.info("round %d of self-training: %d picks, before %d, %.0f %% in common", number, found.after,
                 found.before, 100 * found.share)
        if found.share < DRIFTED:
            log.warning("round %d of self-training is refused: its picks have only %.0f %% in common with those of "
                        "the model before; %s is kept", number, 100 * found.share,
                        "the general model" if best is plan.start else "that model")
            break
        best = model
        if found.share >= UNCHANGED:
            break
    return best


def compare(before: Model, after: Model, paths: Mapping[str, Path], pixel_size_angst: float | None) -> Comparison:
    """Pick micrographs with two models and count the picks that they have in common.

    Parameters
    ----------
    before, after : Model
        Of the same particle.
    paths : mapping of str to Path
        Micrographs by name; those that cannot be read are left out.
    pixel_size_angst : float, optional
        Pixel size of the micrographs, which overrides their headers.

    Returns
    -------
    Comparison
    """
    pickers, counts = (Picker(before), Picker(after)), np.zeros(3, int)
    for name, path in paths.items():
        try:
            micrographs = [picker.model.read_micrograph(path, pixel_size_angst, name) for picker in pickers]
        except DeepEMError as error:
            log.warning("left out: %s", error)
            continue
        old, new = (picker.pick(micrograph).picks for picker, micrograph in zip(pickers, micrographs))
        half_px = after.diameter_angst / micrographs[0].input_pixel_size_angst / 2
        counts += len(old.scores), len(new.scores), match(new.centres_xy, new.scores, old.centres_xy,
                                                          half_px).correct.sum()
    return Comparison(*counts.tolist())
