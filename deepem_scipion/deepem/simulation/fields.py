# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fields of view under random conditions: any particle, at a fixed number of pixels per diameter.

They are for training a model that has seen no real micrograph, so that everything that differs between data sets is
drawn at random, far beyond what is usual: shape, size, number and arrangement of the particles, dose, defocus, ice,
contamination, support film, and what other programs have done to the micrographs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..micrographs.micrograph import prepared_micrograph
from ..training.labels import LabelledMicrograph
from .imaging import draw_film, draw_ice, process, scatter, take_image
from .shapes import Shape, draw_shapes, orientations, random_shape

FloatArray = NDArray[Any]

# Share of the fields without particles.
EMPTY = 0.2
# The particle is this much (natural logarithm) smaller or larger than stated: users know its diameter to 20 %.
DIAMETER_ERROR = 0.2
# Particles cover up to this share of the area; half of the fields have less than a quarter of it.
COVERAGE = 0.7
# Range of the signal-to-noise ratio, see `Scene`.
SNR = 0.04, 8.0
# Places that are drawn for negatives, of which those on film are used.
FILM_POINTS = 8
# Negatives are at least this many diameters from the particles.
NEGATIVE_DISTANCE = 0.3
# Fields are drawn with a margin of this many diameters, so that particles are cut by the border.
_MARGIN = 1.0


@dataclass(frozen=True)
class Field:
    """A simulated field of view.

    Attributes
    ----------
    pixels : (rows, columns) float32 array
        Particles dark, in arbitrary units.
    particles_rc : (n, 2) float64 array
        Centres of whole single particles as row, column in pixels.
    doubtful_rc : (m, 2) float64 array
        Centres of what is neither a whole particle nor background: particles that lost a part, or lie outside.
    negatives_rc : (k, 2) float64 array
        Centres of what resembles particles, contaminants, fragments and aggregates, and some places on film.
    """

    pixels: NDArray[np.float32]
    particles_rc: FloatArray
    doubtful_rc: FloatArray
    negatives_rc: FloatArray


def simulate_field(rng: np.random.Generator, shape: Shape | None = None, side_px: int = 448, diameter_px: float = 27.0,
                   empty: bool | None = None, others: bool = True, few_others: bool = False) -> Field:
    """Simulate a field of view under random conditions.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of randomness.
    shape : Shape, optional
        The particle. Default: a random one.
    side_px : int
        Rows and columns.
    diameter_px : float
        Stated diameter in pixels, from which the real one differs by up to `DIAMETER_ERROR`.
    empty : bool, optional
        Whether no particles are drawn. Default: of a share `EMPTY` of the fields. A sparse field may have none in any
        case: they may be out of view, on film, or outside of the part of the field that has particles.
    others, few_others : bool
        Whether there may be fragments, other proteins and aggregates, and whether they are at most as many as particles
        where there are any.

    Returns
    -------
    Field
    """
    shape = random_shape(rng) if shape is None else shape
    empty = bool(rng.random() < EMPTY) if empty is None else empty
    diameter = diameter_px * math.exp(rng.uniform(-DIAMETER_ERROR, DIAMETER_ERROR))
    contrast = math.sqrt(math.exp(rng.uniform(math.log(SNR[0]), math.log(SNR[1]))))
    margin = round(_MARGIN * diameter_px)
    size = side_px + 2 * margin
    film = draw_film(size, diameter, rng)
    ice, crystals = draw_ice(size, diameter, contrast, rng)
    mass, whole, doubtful, negatives = _particles(shape, size, diameter, (film.share > 0.1) | (ice < -1), empty,
                                                others, few_others, rng)
    pixels = take_image(mass, film, whole, diameter, contrast, rng)
    pixels = process(pixels + ice, diameter, rng)[margin:-margin, margin:-margin]
    on_film = rng.uniform(0, size, (FILM_POINTS, 2))
    on_film = on_film[film.share[tuple(on_film.astype(int).T)] > 0.5]
    places = [points - margin for points in (whole, doubtful, np.concatenate([negatives, crystals, on_film]))]
    inside = [((points >= 0) & (points <= side_px - 1)).all(axis=1) for points in places]
    return Field(pixels.astype(np.float32), places[0][inside[0]],
                 np.concatenate([places[1], places[0][~inside[0]]]), places[2][inside[2]])


def labelled_field(field: Field, diameter_px: float, box_px: int, name: str) -> LabelledMicrograph:
    """Prepare a field for the training of a network.

    Parameters
    ----------
    field : Field
    diameter_px : float
        Stated diameter in pixels, which are those of the network.
    box_px : int
        Side of the network's box.
    name : str
        Name of the field.

    Returns
    -------
    LabelledMicrograph
        At a pixel size of 1. The exact centres allow negatives at `NEGATIVE_DISTANCE` diameters from the particles, so
        that neither end of an elongated particle counts as one.
    """
    return LabelledMicrograph(prepared_micrograph(field.pixels, 1.0, name, box_px), field.particles_rc,
                              field.negatives_rc, doubtful_rc=field.doubtful_rc, negative_distance=NEGATIVE_DISTANCE)


def _particles(shape: Shape, size: int, diameter: float, blocked: NDArray[np.bool_], empty: bool, with_others: bool,
               few_others: bool, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Image of the projected mass of particles and others; centres of whole, doubtful and other particles."""
    centres = np.empty((0, 2)) if empty else _arrangement(size, diameter, rng)
    centres = centres[~blocked[tuple(centres.astype(int).T)]]
    broken = rng.random(len(centres)) < rng.choice([0.0, 0.0, 0.1, 0.25])
    whole, parts = centres[~broken], centres[broken]
    mass = np.zeros((size, size))
    _draw(mass, shape, whole, diameter, rng, n_preferred=int(rng.choice([0, 0, 0, 1, 2, 3])))
    offsets = rng.uniform(-0.1, 0.3, len(parts))
    for centre, offset in zip(parts, offsets):
        direction = rng.standard_normal(3)
        _draw(mass, shape.cut(direction / np.linalg.norm(direction), offset), centre[None], diameter, rng)
    others = _others(mass, shape, whole, diameter, few_others, rng) if with_others else []
    return mass, whole, parts[offsets > 0], np.concatenate([parts[offsets <= 0], *others])


def _arrangement(size: int, diameter: float, rng: np.random.Generator) -> FloatArray:
    """Centres of the particles: sparse or crowded, everywhere or only within or outside a round area."""
    spacing = diameter * rng.choice([rng.uniform(0.55, 0.85), rng.uniform(0.85, 1.3)])
    room = size**2 / (math.pi / 4 * diameter**2)
    centres = scatter(max(1, round(room * COVERAGE * rng.random() ** 2)), size, spacing, rng)
    if rng.random() < 0.2:
        near = np.linalg.norm(centres - rng.uniform(0, size, 2), axis=1) < rng.uniform(0.2, 0.5) * size
        centres = centres[near == bool(rng.integers(2))]
    return centres


def _others(mass: FloatArray, shape: Shape, whole: FloatArray, diameter: float, few: bool,
            rng: np.random.Generator) -> list[FloatArray]:
    """Add fragments, larger proteins and aggregates, none of them on a particle, and return their centres."""
    from scipy.spatial import cKDTree

    tree = cKDTree(np.vstack([whole, np.full((1, 2), 1e6)]))
    found = []

    def add(kind: Shape, points: FloatArray, scale: float, strength: float = 1.0) -> None:
        points = points[tree.query(points)[0] > 0.5 * (1 + scale) * diameter]
        _draw(mass, kind, points, scale * diameter, rng, strength=strength)
        found.append(points)

    size = len(mass)
    most = min(len(whole), 59) if few and len(whole) else 59  # fragments; of the others fewer in proportion
    if rng.random() < 0.5:
        add(random_shape(rng), scatter(rng.integers(min(3, most), 1 + most), size, 0.5 * diameter, rng),
            rng.uniform(0.15, 0.55), rng.uniform(0.5, 1.5))
    if rng.random() < 0.3:
        add(random_shape(rng), scatter(rng.integers(1, 2 + min(most // 8, 6)), size, 2 * diameter, rng),
            rng.uniform(1.6, 3.5), rng.uniform(0.5, 2))
    if rng.random() < 0.35:
        for middle in scatter(rng.integers(1, 2 + min(most // 8, 4)), size, 3 * diameter, rng):
            around = diameter * rng.uniform(0.3, 1.0) * rng.standard_normal((rng.integers(3, 16), 2))
            add(shape, middle + around, 1.0)
    return found


def _draw(canvas: FloatArray, shape: Shape, centres_rc: FloatArray, diameter: float, rng: np.random.Generator,
          n_preferred: int = 0, strength: float = 1.0) -> None:
    if len(centres_rc):
        draw_shapes(canvas, shape, centres_rc, orientations(len(centres_rc), n_preferred, rng), diameter, strength)
