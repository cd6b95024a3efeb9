# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the studio learns from, and what comes of it, as it passes between the session and its worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..picking.candidates import Candidates
from ..picking.selection import Limits


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
        Those in force, with the threshold at which the new model picks as many particles as are shown and marked.
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
    limits : Limits
        Those in force. Where the mask is larger than `max_mask` nothing is picked, and nothing is a negative.
    of_coordinates : bool
        Whether the limits in force are those of coordinates, whose distances and local standard deviations say nothing.
    """

    diameter_angst: float
    pixel_size_angst: float
    model: str | None
    bright: bool
    output: str
    final: bool = False
    tiff_rows: str = "bottom"
    limits: Limits = Limits(0.5, 0.0)
    of_coordinates: bool = False
