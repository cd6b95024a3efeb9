# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a model is better than the one that it learned from, judged without reference coordinates."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import DeepEMError
from ..model.model import Model
from ..picking.agreement import radial_profiles
from ..picking.picker import Picker
from ..picking.selection import Limits
from .calibration import at_threshold, far_from
from .labels import LabelledMicrograph
from .training_set import TrainingSet

log = logging.getLogger(__name__)

# Micrographs on which two models are compared, at most.
COMPARED = 12
# A model whose picks have less in common with those of the one before has drifted.
DRIFTED = 0.6
# A model whose picks have this share in common with those of the one before is no other.
UNCHANGED = 0.97
# The average of the places that both pick is taken over this many at least.
MIN_COMMON = 5
# Of fewer places that only one of them picks nothing follows.
MIN_DISPUTED = 5
# The least resemblance, so that a few strong contaminants do not decide alone.
MIN_RESEMBLANCE = -1.0


@dataclass(frozen=True)
class Comparison:
    """Picks of two models on the same micrographs, as many of the one as of the other.

    Attributes
    ----------
    threshold : float
        That with which the model after picks as many places as the one before, if it has enough candidates.
    share : float
        Share of the picks that are common to both, at most half a diameter apart; 0 without picks.
    gain : float
        By how many standard errors the places that only the model after picks resemble the common ones more than those
        that only the model before picks; 0 where there are too few.
    marks_before, marks_after : int
        Numbers of marked particles on the validation micrographs that the models find.
    """

    threshold: float
    share: float
    gain: float
    marks_before: int = 0
    marks_after: int = 0

    def refusal(self, least: float = 0.0) -> str:
        """Return why the model before is to be kept, in words; empty if the gain exceeds the least that is wanted."""
        if self.share < DRIFTED:
            return f"only {self.share:.0%} of the picks are common to both models: it has drifted"
        if self.marks_after < self.marks_before:
            return (f"of the marked particles on the validation micrographs it finds {self.marks_after}, the model "
                    f"before {self.marks_before}")
        if self.gain > least:
            return ""
        return (f"{self.share:.0%} of the picks are common to both models, and what only the new one picks does not "
                f"resemble these more than what only the model before picks ({self.gain:+.1f} standard errors)")


class _Picks(NamedTuple):
    """Picks in a micrograph: (n, 2) centres in pixels of the input, (n,) scores, (n, n_rings) radial profiles."""

    centres_xy: np.ndarray
    scores: np.ndarray
    profiles: np.ndarray

    def subset(self, chosen: np.ndarray) -> _Picks:
        return _Picks(*(values[chosen] for values in self))


def compare(before: Model, after: Model, data: TrainingSet, pixel_size_angst: float | None,
            validation: Collection[str] = ()) -> Comparison:
    """Compare a model with the one that it learned from, on micrographs without reference coordinates.

    Parameters
    ----------
    before, after : Model
        With the same working pixel size. The particle is that of the model after.
    data : TrainingSet
        Micrographs, at most `COMPARED` of which are used, those for validation first; those that cannot be read are
        left out. Nothing is compared in their masks.
    pixel_size_angst : float, optional
        Pixel size of the micrographs, which overrides their headers.
    validation : collection of str
        Names of the validation micrographs, whose marked particles both models should find.

    Returns
    -------
    Comparison

    Notes
    -----
    Both models pick equally many places, so that neither looks better because it picks only where it is certain. Most
    picks are common to both, and the average of their radial profiles shows what the particles of a micrograph look
    like. The disputed places decide, those that only one model picks. The resemblance of a place is
    1 - |p - a|^2 / |a|^2 for its profile p and the average a, each less its mean: 1 for the average, about 0 for empty
    ice, and negative for what has a much stronger contrast, such as ice crystals and gold.
    """
    items = list(_readable(before, data, pixel_size_angst, validation))
    olds, news = ([_picks(picker, item, after.diameter_px) for item in items]
                  for picker in (picker_of(before, before.threshold), picker_of(after, 0.0)))
    number = sum(len(old.scores) for old in olds)
    scores = np.sort(np.concatenate([np.empty(0), *(new.scores for new in news)]))[::-1]
    threshold = float(scores[min(number, len(scores)) - 1]) if number and len(scores) else after.threshold
    common, marks, resemblances = 0, np.zeros(2, int), ([np.empty(0)], [np.empty(0)])
    for item, old, new in zip(items, olds, news):
        half_px = after.diameter_angst / item.micrograph.input_pixel_size_angst / 2
        new = new.subset(new.scores >= threshold)
        of_old = near(old.centres_xy, new.centres_xy, half_px)
        of_new = near(new.centres_xy, old.centres_xy, half_px)
        common += int(of_old.sum() + of_new.sum())
        if item.name in validation:
            marked_xy = data.particles[item.name].centres_xy
            marks += [near(marked_xy, some.centres_xy, half_px).sum() for some in (old, new)]
        average = np.concatenate([old.profiles[of_old], new.profiles[of_new]])
        if len(average) >= MIN_COMMON:
            for kept, profiles in zip(resemblances, (old.profiles[~of_old], new.profiles[~of_new])):
                kept.append(_resemblance(profiles, average.mean(axis=0)))
    gain = _standard_errors(*(np.concatenate(kept) for kept in resemblances))
    return Comparison(threshold, common / max(1, number + int((scores >= threshold).sum())), gain, *marks.tolist())


def better(before: Model, after: Model, found: Comparison, least: float = 0.0) -> Model:
    """Return the better one of two models.

    Parameters
    ----------
    before, after : Model
    found : Comparison
        Of the two.
    least : float
        The model after is kept if it gains more standard errors.

    Returns
    -------
    Model
        The model after, with the threshold of the comparison; or that before, with a warning in its card and the log
        unless both are as good as the same.
    """
    if not (why := found.refusal(least)):
        return at_threshold(after, found.threshold)
    if found.share >= UNCHANGED and found.marks_after >= found.marks_before:
        log.info("the training changed nothing that matters: %.0f %% of the picks are common to both models; the model "
                 "before is kept", 100 * found.share)
        return before
    text = f"what was learned is refused, and the model before is kept: {why}"
    log.warning("warning: %s", text)
    return replace(before, record=replace(before.record, warnings=[*before.record.warnings, text]))


def near(places_xy: np.ndarray, others_xy: np.ndarray, distance: float) -> np.ndarray:
    """Return which of some places, (n, 2), are within a distance of one of the others, (m, 2), as (n,) bool array."""
    return ~far_from(places_xy, others_xy, np.nextafter(distance, np.inf))


def picker_of(model: Model, threshold: float) -> Picker:
    """Return a picker with the limits of a model except for the threshold."""
    return Picker(model, replace(Limits.of_model(model), threshold=threshold))


def _readable(model: Model, data: TrainingSet, pixel_size_angst: float | None,
              validation: Collection[str]) -> Iterator[LabelledMicrograph]:
    for name in sorted(data.names, key=lambda name: name not in validation)[:COMPARED]:
        try:
            yield data.read_unmarked(name, model.preprocessing, pixel_size_angst)
        except DeepEMError as error:
            log.warning("left out: %s", error)


def _picks(picker: Picker, item: LabelledMicrograph, diameter_px: float) -> _Picks:
    """Picks and their radial profiles, multiplied by the roots of the areas of the rings and without their mean."""
    micrograph = item.micrograph
    picks = picker.pick(micrograph, item.mask).picks
    profiles, areas = radial_profiles(micrograph.pixels, micrograph.to_binned_rc(picks.centres_xy), diameter_px)
    return _Picks(picks.centres_xy, picks.scores, (profiles - (profiles @ areas)[:, np.newaxis]) * np.sqrt(areas))


def _resemblance(profiles: np.ndarray, average: np.ndarray) -> np.ndarray:
    """Resemblance of (n, n_rings) profiles to an average one, (n,)."""
    differences = np.square(profiles - average).sum(axis=1)
    resemblance: np.ndarray = np.maximum(1 - differences / max(float(average @ average), 1e-12), MIN_RESEMBLANCE)
    return resemblance


def _standard_errors(before: np.ndarray, after: np.ndarray) -> float:
    """By how many standard errors the mean of the second exceeds that of the first; 0 where they are too few."""
    if min(len(before), len(after)) < MIN_DISPUTED:
        return 0.0
    error = np.sqrt(before.var() / len(before) + after.var() / len(after))
    return float((after.mean() - before.mean()) / max(error, 1e-12))
