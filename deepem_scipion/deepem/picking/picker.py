# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking one micrograph with one model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.masks import Mask
from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph
from ..model.model import Model
from ..network.box_scan import BoxScanner
from ..network.scan import Scanner
from ..runtime import ensure_started
from .agreement import MIN_BORDER, MIN_SCORE, features, rescore
from .candidates import Candidates, find_candidates, pad
from .paper import grid_candidates
from .selection import PICKED, Limits, select


@dataclass(frozen=True)
class PickedMicrograph:
    """What was found in one micrograph.

    Attributes
    ----------
    candidates : Candidates
        In descending order of score.
    reasons : (n,) str array
        "picked", or why a candidate is not picked, see `selection.select`.
    score_map : (n_rows, n_cols) float32 array
        Scores of the mirror-padded micrograph at every scan step; by the paper's procedure without padding.
    """

    candidates: Candidates
    reasons: np.ndarray
    score_map: np.ndarray

    @property
    def picks(self) -> Coordinates:
        """The candidates that are picked: centres in pixels of the input micrograph, and scores."""
        picked = self.reasons == PICKED
        return Coordinates(self.candidates.centres_xy[picked], self.candidates.scores[picked], None)


class Picker:
    """Picks micrographs with one model; may be used by several threads.

    A model with `ranges_px` picks by the paper's procedure: whole boxes, each normalised, are the candidates.

    Parameters
    ----------
    model : Model
    limits : Limits, optional
        Default: those that the model suggests.
    scan_step : int, optional
        In binned pixels; default: the model's.
    rotations : {4, 1}
        Average the score over four rotations of the box, or score the box as it is.

    Examples
    --------
    >>> from deepem_scipion.deepem import Picker, load_model
    >>> picker = Picker(load_model("apoferritin.deepem"))  # doctest: +SKIP
    >>> picker.pick(picker.model.read_micrograph("mic.mrc")).picks.centres_xy  # doctest: +SKIP
    """

    def __init__(self, model: Model, limits: Limits | None = None, scan_step: int | None = None,
                 rotations: int = 4) -> None:
        ensure_started()
        self.model, self.rotations = model, rotations
        self.limits = Limits.of_model(model) if limits is None else limits
        self.scan_step = model.scan_step if scan_step is None else scan_step
        scanner = Scanner if model.ranges_px is None else BoxScanner
        self._scanner: Scanner | BoxScanner = scanner(model.geometry, model.networks, self.scan_step, rotations)

    def candidates(self, micrograph: Micrograph, mask: Mask | None = None) -> tuple[Candidates, np.ndarray]:
        """Find all candidates of a micrograph.

        Parameters
        ----------
        micrograph : Micrograph
            As `Model.read_micrograph` returns it.
        mask : Mask, optional
            Of contamination on this micrograph.

        Returns
        -------
        candidates : Candidates
        score_map : (n_rows, n_cols) float32 array
            Of the mirror-padded micrograph, or by the paper's procedure of the micrograph.

        Raises
        ------
        DeepEMError
            The micrograph is smaller than the network's box.
        """
        box = self.model.geometry.box
        check_size(micrograph, box)
        if isinstance(self._scanner, BoxScanner):
            scores, stds = self._scanner.scan(micrograph.pixels, self.limits.std_range)
            found = grid_candidates(micrograph, scores, stds, box, self.scan_step, self.limits.std_range)
        else:
            padded = pad(micrograph.pixels, box)
            scores = self._scanner.scan(padded)
            found = find_candidates(micrograph, padded, scores, box, self.scan_step)
            if self.model.agreement is not None:
                found = compared(found, micrograph, self.model)
        if mask is not None:
            found = replace(found, masked=mask.at(found.centres_xy, micrograph.input_shape))
        return found, scores

    def pick(self, micrograph: Micrograph, mask: Mask | None = None) -> PickedMicrograph:
        """Pick a micrograph; parameters and errors as for `candidates`."""
        candidates, scores = self.candidates(micrograph, mask)
        return PickedMicrograph(candidates, select(candidates, self.limits, micrograph.input_pixel_size_angst), scores)

    def evidence(self, micrograph: Micrograph, candidates: Candidates | None = None,
                 mask: Mask | None = None) -> float:
        """Measure how much in a micrograph looks like particles.

        Parameters
        ----------
        micrograph : Micrograph
        candidates : Candidates, optional
            Of the micrograph, where they are known.
        mask : Mask, optional
            Of contamination on this micrograph.

        Returns
        -------
        float
            Sum of the squared scores of the picks with the limits that the model suggests.
        """
        found = self.candidates(micrograph, mask)[0] if candidates is None else candidates
        limits = Limits.of_model(self.model)
        if self.model.ranges_px is not None:  # of grey values, in place of the range of normalised pixels of the model
            limits = replace(limits, std_range=self.limits.std_range)
        picked = select(found, limits, micrograph.input_pixel_size_angst) == PICKED
        return float(np.square(found.scores[picked]).sum())


def compared(candidates: Candidates, micrograph: Micrograph, model: Model) -> Candidates:
    """Return the `comparable` candidates with scores that take the others into account, see `agreement`.

    Parameters
    ----------
    candidates : Candidates
        With the scores of the network.
    micrograph : Micrograph
    model : Model
        With weights for the comparison.

    Returns
    -------
    Candidates
        In descending order of the new scores.
    """
    assert model.agreement is not None
    candidates = comparable(candidates, micrograph, model)
    centres_rc, diameter_px = micrograph.to_binned_rc(candidates.centres_xy), model.diameter_px
    found = features(micrograph.pixels, centres_rc, candidates.scores, candidates.local_stds, diameter_px)
    scores = rescore(model.agreement, found, candidates.scores)
    order = np.lexsort((candidates.centres_xy[:, 0], candidates.centres_xy[:, 1], -scores))
    return replace(candidates, scores=scores).subset(order)


def comparable(candidates: Candidates, micrograph: Micrograph, model: Model) -> Candidates:
    """Return the candidates that are compared with each other.

    Parameters
    ----------
    candidates : Candidates
        With the scores of the network.
    micrograph : Micrograph
    model : Model

    Returns
    -------
    Candidates
        Those above `agreement.MIN_SCORE` and at least `agreement.MIN_BORDER` diameters from the border.
    """
    border_px = MIN_BORDER * model.diameter_angst / micrograph.input_pixel_size_angst
    return candidates.subset((candidates.scores > MIN_SCORE) & (candidates.border_px >= border_px))


def check_size(micrograph: Micrograph, box: int) -> None:
    """Raise DeepEMError where a micrograph is smaller than the network's box, `box` binned pixels wide."""
    rows, cols = micrograph.pixels.shape
    if min(rows, cols) < box:
        raise DeepEMError(f"{micrograph.path}: {cols} x {rows} pixels of {micrograph.pixel_size_angst:g} A (width x "
                          f"height), smaller than the network's box of {box}; check pixel sizes and diameter")
