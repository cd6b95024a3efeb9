# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles of random shape as clouds of points, whose projections are drawn without a density map."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .volumes import Volume

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

FloatArray = NDArray[Any]

KINDS = ("lumps", "ball", "shell", "ring", "rod", "cylinder", "box")
# Points of a cloud. Those of a density map are its voxels, or this many of them.
N_POINTS = 1500
MAX_POINTS = 3000
# Voxels below this share of the highest density are solvent.
SOLVENT = 0.15
# The extent of a cloud leaves out this share of the outermost points.
_OUTERMOST = 0.01


@dataclass(frozen=True)
class Shape:
    """A particle as points of equal or different mass.

    Attributes
    ----------
    points : (n, 3) float array
        Positions in particle diameters; the centre of mass is the origin, and the outermost points are half a diameter
        from it.
    masses : (n,) float array
        Mass of each point; their sum is 1.
    """

    points: FloatArray
    masses: FloatArray

    def cut(self, direction: FloatArray, offset: float) -> Shape:
        """Return what is left of a particle that broke along a plane.

        Parameters
        ----------
        direction : (3,) array
            Normal of the plane.
        offset : float
            Distance of the plane from the centre, in diameters; what lies further along the normal is lost.

        Returns
        -------
        Shape
            With the same scale, centre and masses.
        """
        kept = self.points @ direction <= offset
        return replace(self, points=self.points[kept], masses=self.masses[kept])


def shape_of_points(points: FloatArray, masses: FloatArray | None = None) -> Shape:
    """Centre points and scale them to a diameter of 1.

    Parameters
    ----------
    points : (n, 3) array
        Positions in any unit.
    masses : (n,) array, optional
        Mass of each point, positive. Default: equal ones.

    Returns
    -------
    Shape
    """
    masses = np.ones(len(points)) if masses is None else masses
    masses = masses / masses.sum()
    points = points - masses @ points
    reach = np.quantile(np.linalg.norm(points, axis=1), 1 - _OUTERMOST)
    return Shape(points / (2 * reach), masses)


def shape_of_volume(volume: Volume, rng: np.random.Generator) -> Shape:
    """Turn a density map into points.

    Parameters
    ----------
    volume : Volume
        Density map, protein positive.
    rng : numpy.random.Generator
        Source of the positions within the voxels.

    Returns
    -------
    Shape
        Voxels denser than `SOLVENT` of the maximum, at most `MAX_POINTS` of them.
    """
    places = np.argwhere(volume.values > SOLVENT * volume.values.max())
    if len(places) > MAX_POINTS:
        places = places[rng.choice(len(places), MAX_POINTS, replace=False)]
    return shape_of_points(places + rng.uniform(-0.5, 0.5, places.shape), volume.values[tuple(places.T)])


def random_shape(rng: np.random.Generator) -> Shape:
    """Draw a particle: a simple solid, or lumps that are placed at random or by a symmetry.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    Shape
        One of `KINDS`; half of the lumpy ones, and a third of the others, are modulated along or around their axis.
    """
    kind = KINDS[rng.choice(len(KINDS), p=(0.25, 0.10, 0.17, 0.12, 0.10, 0.18, 0.08))]
    if kind == "lumps":
        return _lumps(rng)
    points = _solid(kind, rng)
    masses = np.ones(len(points))
    if rng.random() < 0.5:  # subunits
        angle, turns = np.arctan2(points[:, 1], points[:, 0]), rng.integers(2, 9)
        bands = rng.uniform(0, 2 * np.pi) * rng.integers(1, 6) * points[:, 2] / np.ptp(points[:, 2])
        masses += rng.uniform(0.2, 0.9) * np.cos(turns * angle * rng.integers(0, 2) + bands)
    return shape_of_points(points, masses)


def _solid(kind: str, rng: np.random.Generator) -> FloatArray:
    """Points that fill a simple solid, its axis along the third coordinate."""
    cube = rng.uniform(-1, 1, (N_POINTS, 3))
    turn, radius = np.pi * cube[:, 0], np.sqrt(np.abs(cube[:, 1]))
    ring = np.column_stack([np.cos(turn), np.sin(turn)])
    if kind == "box":
        return np.asarray(cube * [1, rng.uniform(0.5, 1), rng.uniform(0.2, 1)])
    if kind in ("ball", "shell"):
        inner = rng.uniform(0.55, 0.85) if kind == "shell" else 0.0
        across = rng.standard_normal((N_POINTS, 3))
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        depth = np.cbrt(rng.uniform(inner**3, 1, (N_POINTS, 1)))
        return np.asarray(across * depth * [1, rng.uniform(0.75, 1), rng.uniform(0.6, 1)])
    inner, height = {"rod": (0.0, rng.uniform(1.8, 5)), "ring": (rng.uniform(0.35, 0.7), rng.uniform(0.25, 0.6)),
                     "cylinder": (rng.uniform(0, 0.65) * rng.integers(0, 2), rng.uniform(0.6, 1.8))}[kind]
    radius = np.sqrt(inner**2 + (1 - inner**2) * radius**2)
    return np.column_stack([ring * radius[:, None], height * cube[:, 2]])


def _lumps(rng: np.random.Generator) -> Shape:
    """Gaussian lumps, in a compact or loose arrangement, copied by a cyclic or dihedral symmetry."""
    order = int(rng.choice([1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 12]))
    n_lumps = max(1, round(rng.uniform(3, 24) / order))
    centres = rng.standard_normal((n_lumps, 3)) * [1, 1, rng.uniform(0.4, 1.2)]
    if order > 1:
        centres[:, 0] += rng.uniform(0.5, 2.5) * (order > 2)
    spread = rng.uniform(0.3, 0.9) * rng.uniform(0.7, 1.3, n_lumps)
    masses = rng.uniform(0.4, 1, n_lumps)
    copies = max(1, N_POINTS // (n_lumps * order))
    points = centres[:, None] + spread[:, None, None] * rng.standard_normal((n_lumps, copies, 3))
    points, masses = points.reshape(-1, 3), np.repeat(masses, copies)
    turned = [points @ _about_axis(2 * math.pi * step / order).T for step in range(order)]
    if rng.random() < 0.25:  # dihedral
        shift = np.array([0, 0, rng.uniform(0, 1.5)])
        turned += [(part + shift) * [1, -1, -1] for part in turned]
        turned[:order] = [part + shift for part in turned[:order]]
    return shape_of_points(np.concatenate(turned), np.tile(masses, len(turned)))


def _about_axis(angle: float) -> FloatArray:
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def orientations(n: int, n_preferred: int, rng: np.random.Generator) -> Rotation:
    """Draw orientations of the particles of one micrograph.

    Parameters
    ----------
    n : int
        Number of particles.
    n_preferred : int
        Number of preferred orientations, from which particles are tilted by about 8 degrees; 0 for none. The rotation
        about the direction of view is uniform in any case.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    scipy.spatial.transform.Rotation
        The n rotations, acting on (x, y, z) with z the direction of view.
    """
    from scipy.spatial.transform import Rotation

    if not n_preferred:
        return Rotation.random(n, rng)
    preferred = Rotation.random(n_preferred, rng)[rng.integers(n_preferred, size=n)]
    tilted = Rotation.from_rotvec(np.radians(8) * rng.standard_normal((n, 3)))
    return Rotation.from_euler("z", rng.uniform(0, 2 * np.pi, n)) * tilted * preferred


def draw_shapes(canvas: FloatArray, shape: Shape, centres_rc: FloatArray, rotations: Rotation, diameter_px: float,
                strength: float = 1.0) -> None:
    """Add the projections of particles to an image.

    Parameters
    ----------
    canvas : (rows, columns) float64 array
        Image, modified in place; points outside are left out.
    shape : Shape
        The particle.
    centres_rc : (n, 2) array
        Centres as row, column in pixels.
    rotations : scipy.spatial.transform.Rotation
        The n orientations.
    diameter_px : float
        Diameter of the particle in pixels.
    strength : float
        Mass of a particle, in units of a disc of its diameter with a value of 1.
    """
    matrices = np.atleast_3d(rotations.as_matrix()).reshape(-1, 3, 3)
    at = np.einsum("pij,nj->pni", diameter_px * matrices[:, :2], shape.points) + centres_rc[:, None]
    at, masses = at.reshape(-1, 2), np.tile(shape.masses, len(centres_rc))
    masses = strength * math.pi / 4 * diameter_px**2 * masses
    first = np.floor(at).astype(int)
    share = at - first
    for down in (0, 1):
        for right in (0, 1):
            row, column = first[:, 0] + down, first[:, 1] + right
            inside = (row >= 0) & (row < canvas.shape[0]) & (column >= 0) & (column < canvas.shape[1])
            weight = np.abs(1 - down - share[:, 0]) * np.abs(1 - right - share[:, 1]) * masses
            canvas += np.bincount(row[inside] * canvas.shape[1] + column[inside], weight[inside],
                                  canvas.size).reshape(canvas.shape)
