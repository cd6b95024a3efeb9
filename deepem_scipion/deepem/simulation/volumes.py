# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Density maps of particles and their projections, for simulated micrographs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeepEMError

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

FloatArray = NDArray[Any]


@dataclass(frozen=True)
class Volume:
    """A density map.

    Attributes
    ----------
    values : (z, y, x) array
        Density, protein positive.
    voxel_size_angst : float
        Edge of a voxel in angstrom.
    """

    values: FloatArray
    voxel_size_angst: float


def klh_like_volume(voxel_size_angst: float = 8.0, length_angst: float = 400.0,
                    diameter_angst: float = 350.0, bands: int = 5) -> Volume:
    """Build a hollow banded cylinder that resembles keyhole limpet haemocyanin.

    Parameters
    ----------
    voxel_size_angst, length_angst, diameter_angst : float
        Edge of a voxel, length and outer diameter of the cylinder in angstrom.
    bands : int
        Number of bands along the cylinder.

    Returns
    -------
    Volume
        The axis of the cylinder is the first axis of the array, which holds the cylinder in any orientation. The side
        view is a rectangle with bands, the top view a ring.
    """
    half = math.ceil(0.55 * math.hypot(length_angst, diameter_angst) / voxel_size_angst)
    axis = voxel_size_angst * np.arange(-half, half + 1)
    z = axis[:, None, None]
    radius = np.hypot(axis[:, None], axis[None, :])[None]

    def inside(distance: FloatArray, limit: float) -> FloatArray:
        return np.asarray(np.clip((limit - distance) / voxel_size_angst + 0.5, 0.0, 1.0))

    wall = inside(radius, diameter_angst / 2) - inside(radius, diameter_angst / 4)
    banding = 0.75 + 0.25 * np.cos(2 * np.pi * z * bands / length_angst)
    values = wall * inside(np.abs(z), length_angst / 2) * banding
    return Volume(values.astype(np.float32), voxel_size_angst)


def read_volume(path: str | Path, voxel_size_angst: float | None = None) -> Volume:
    """Read a density map in MRC format.

    Parameters
    ----------
    path : str or Path
        File of three dimensions, density positive.
    voxel_size_angst : float, optional
        Edge of a voxel in angstrom. Default: that of the header.

    Returns
    -------
    Volume
        The map, scaled to a maximum of 1.

    Raises
    ------
    DeepEMError
        If the file is not a density map, or neither header nor caller gives the voxel size.
    """
    import mrcfile

    try:
        with mrcfile.open(path) as file:
            values = np.array(file.data, dtype=np.float32)
            voxel_size = float(file.voxel_size.x)
    except (OSError, ValueError) as error:
        raise DeepEMError(f"{path} cannot be read as a density map in MRC format: {error}") from error
    if values.ndim != 3 or not values.max() > 0:
        raise DeepEMError(f"{path} has shape {values.shape} and maximum {values.max():g}; a density map has "
                          "three dimensions and positive density.")
    voxel_size = voxel_size_angst or voxel_size
    if not voxel_size > 0:
        raise DeepEMError(f"The header of {path} has no voxel size; give it in angstrom.")
    return Volume(values / values.max(), voxel_size)


def random_orientations(n: int, rng: np.random.Generator) -> Rotation:
    """Draw orientations, uniform over all rotations.

    Parameters
    ----------
    n : int
        Number of orientations.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    scipy.spatial.transform.Rotation
        The n rotations.
    """
    from scipy.spatial.transform import Rotation

    return Rotation.random(n, rng)


def project(volume: Volume, orientations: Rotation, pixel_size_angst: float) -> FloatArray:
    """Project a density map along its first axis after rotating it about its centre of mass.

    Parameters
    ----------
    volume : Volume
        Density map.
    orientations : scipy.spatial.transform.Rotation
        The n rotations, acting on (z, y, x).
    pixel_size_angst : float
        Pixel size of the projections in angstrom.

    Returns
    -------
    (n, size, size) float32 array
        Projections, with the centre of mass at ((size - 1) / 2, (size - 1) / 2).
    """
    from scipy import ndimage

    shrink = pixel_size_angst / volume.voxel_size_angst
    n_voxels = max(volume.values.shape)
    size = math.ceil(n_voxels / shrink)
    middle = np.full(3, (n_voxels - 1) / 2)
    mass_centre = np.array(ndimage.center_of_mass(np.clip(volume.values, 0, None)))
    views = []
    for matrix in np.atleast_3d(orientations.as_matrix()).reshape(-1, 3, 3):
        rotated = ndimage.affine_transform(volume.values, matrix, mass_centre - matrix @ middle,
                                          output_shape=(n_voxels,) * 3, order=1)
        view = rotated.sum(axis=0)
        if shrink > 1:
            view = ndimage.gaussian_filter(view, 0.5 * math.sqrt(shrink**2 - 1))
        offset = (n_voxels - 1) / 2 - shrink * (size - 1) / 2
        views.append(ndimage.affine_transform(view, shrink * np.eye(2), offset, output_shape=(size, size)))
    return np.array(views, dtype=np.float32)
