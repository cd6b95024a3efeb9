# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The general model, which is part of the package and needs nothing but the diameter of the particle."""

from __future__ import annotations

from pathlib import Path

from ..errors import DeepEMError
from .files import load_model
from .model import Model

# Made by benchmarks/general_model.py from simulated micrographs.
GENERAL_MODEL = Path(__file__).with_name("general.deepem")
CONTRASTS = ("dark", "bright")


def general_model(diameter_angst: float, contrast: str = "dark") -> Model:
    """Return the general model for a particle.

    Parameters
    ----------
    diameter_angst : float
        Diameter of the particle in angstrom: its longest dimension.
    contrast : {"dark", "bright"}
        Whether particles are darker or brighter than their surroundings.

    Returns
    -------
    Model
        Micrographs are resampled for it so that the particle is always equally wide.

    Raises
    ------
    DeepEMError
        If diameter or contrast make no sense, or the file of the model is missing from the installation.
    """
    if contrast not in CONTRASTS:
        raise DeepEMError(f"contrast {contrast!r}: expected dark or bright")
    model = load_model(GENERAL_MODEL).for_diameter(diameter_angst)
    return model if contrast == model.record.contrast else model.inverted()
