# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `deepem evaluate` says where its two sides, or its options, seem not to be what was meant."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..evaluation.matching import Matches
    from .assigning import Compared

log = logging.getLogger("deepem")

# From this many particles on, coordinates on the two sides that end at places that differ by this ratio are suspect.
MIN_TO_COMPARE, MAX_RATIO = 20, 1.6


def warn_before(options: argparse.Namespace, compared: Compared) -> None:
    """Warn of sides that seem to be exchanged, a distance that exceeds the boxes, or micrographs that were binned.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of the command; lengths are in pixels.
    compared : Compared
        Its two sides.
    """
    import numpy as np

    truth, picks = compared.truth, compared.picks
    scored = [[bool(np.isfinite(found.scores).any()) for found in side.values() if len(found.scores)]
              for side in (truth, picks)]
    if any(scored[0]) and scored[1] and not any(scored[1]):
        log.warning("warning: the reference coordinates, %s, have scores, and the picks, %s, have none. Check that the "
                    "two were not exchanged: --truth is what was marked or verified, --picks what is to be evaluated",
                    options.truth, options.picks)
    common = [name for name in truth if name in picks and len(truth[name].scores) and len(picks[name].scores)]
    sides = [box for name in common for box in (truth[name].box_px, picks[name].box_px) if box]
    if sides and options.distance > min(sides):
        log.warning("warning: --distance %g px is more than the side of the boxes, %g px, so that picks beside a "
                    "particle count as correct. Expected half the particle diameter in pixels", options.distance,
                    min(sides))
    whole = not (options.region or options.regions)
    if whole and sum(len(truth[name].scores) for name in common) >= MIN_TO_COMPARE:
        ends = [max(float(found[name].centres_xy.max()) for name in common) for found in (truth, picks)]
        if min(ends) > 0 and max(ends) > MAX_RATIO * min(ends):
            small, large = (options.truth, options.picks) if ends[0] < ends[1] else (options.picks, options.truth)
            log.warning("warning: the coordinates in %s end at %.4g px, those in %s at %.4g px: they may be those of "
                        "micrographs that were binned by %.2g; `deepem convert --coordinate-scale` multiplies them",
                        small, min(ends), large, max(ends), max(ends) / min(ends))


def warn_after(options: argparse.Namespace, compared: Compared, matches: Mapping[str, Matches],
               result: Mapping[str, Any]) -> None:
    """Warn of a region or threshold that leaves nothing, and of picks in another frame, or correct by chance.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of the command.
    compared : Compared
        Its two sides.
    matches : mapping of str to Matches
        Picks and particles that count, by name of the micrograph.
    result : mapping
        Figures.
    """
    from ..evaluation.frames import by_chance, other_frame, upside_down

    sides = compared.truth, compared.picks, options.distance
    particles, picks = (sum(len(found.scores) for found in side.values()) for side in sides[:2])
    scores = [score for found in matches.values() for score in found.scores]
    if particles and not result["overall"]["truth"]:
        log.warning("warning: none of the %d reference particles lies within the annotated part (--region, --regions), "
                    "which is in pixels", particles)
    elif scores and not result["overall"]["picks"]:
        log.warning("warning: none of the %d picks has a score of at least %.4g (--threshold); the highest is %.4g",
                    picks, result["threshold"], max(scores))
    if turned := upside_down(*sides):
        log.warning("warning: the picks seem to be upside down: %d fit as they are, %d if y is counted from the other "
                    "side. Convert them with `deepem convert --flip-y`", *turned)
    elif found := other_frame(*sides):
        change, before, after = found
        log.warning("warning: the picks seem to be in another frame than the reference coordinates: %d fit as they "
                    "are, %d %s. Check which of the two is right: corners or centres, columns or rows, binning", before,
                    after, change)
    elif chance := by_chance(*sides):
        log.warning("warning: %d picks are correct, and %.0f of their mirror images: no more than by chance. Check "
                    "that both sides are of the same micrographs, and in pixels of the same frame", *chance)
