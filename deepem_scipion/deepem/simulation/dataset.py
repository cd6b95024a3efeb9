# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data sets of simulated micrographs, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..coordinates.box import write_box
from .scene import FloatArray, Scene, simulate_micrograph
from .volumes import Volume, klh_like_volume, project, random_orientations

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation


def write_dataset(folder: str | Path, scene: Scene, n_micrographs: int, seed: int,
                  volume: Volume | None = None, n_views: int = 48,
                  prefix: str = "mic", orientations: Rotation | None = None) -> dict[str, FloatArray]:
    """Write simulated micrographs as `micrographs/*.mrc` and their particles as `boxes/*.box`.

    Parameters
    ----------
    folder : str or Path
        Folder for both; created if missing.
    scene : Scene
        Contents and imaging conditions, the same for all micrographs.
    n_micrographs : int
        Number of micrographs.
    seed : int
        Seed of the random numbers.
    volume : Volume, optional
        Density map of the particle. Default: `klh_like_volume()`.
    n_views : int
        Number of directions from which the particle is seen, drawn at random.
    prefix : str
        Micrographs are named by the prefix and a number from 001.
    orientations : scipy.spatial.transform.Rotation, optional
        Orientations of the particle, see `project`, instead of random ones.

    Returns
    -------
    dict of str to (n, 2) array
        Exact centres as x, y in pixels by name of the micrograph. The box files have rounded ones.

    Raises
    ------
    DeepEMError
        If there is no room for all particles.
    """
    import mrcfile

    rng = np.random.default_rng(seed)
    if orientations is None:
        orientations = random_orientations(n_views, rng)
    views = project(volume or klh_like_volume(), orientations, scene.pixel_size_angst)
    for name in ("micrographs", "boxes"):
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
    centres = {}
    for index in range(n_micrographs):
        name = f"{prefix}_{index + 1:03d}"
        pixels, centres[name] = simulate_micrograph(scene, views, rng)
        with mrcfile.new(Path(folder) / "micrographs" / f"{name}.mrc", pixels, overwrite=True) as file:
            file.voxel_size = scene.pixel_size_angst
        write_box(Path(folder) / "boxes" / f"{name}.box", centres[name], np.full(len(centres[name]), np.nan),
                  round(1.2 * scene.diameter_px))
    return centres
