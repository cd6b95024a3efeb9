# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Preparation of micrographs for a network, the same in training and picking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .micrograph import Micrograph, read_micrograph


@dataclass(frozen=True)
class Preprocessing:
    """Resampling and normalisation of the micrographs of one model.

    Attributes
    ----------
    working_pixel_size_angst : float
        Pixel size, in angstrom, to which micrographs are resampled.
    box : int
        Side of the network's box in binned pixels. Micrographs are normalised so that the typical box of this size has
        mean 0 and standard deviation 1.
    raw : bool
        Whether the grey values are left as they are, for the paper's procedure.
    """

    working_pixel_size_angst: float
    box: int
    raw: bool = False

    def read(self, path: str | Path, pixel_size_angst: float | None = None, name: str | None = None,
             tiff_rows: str = "bottom") -> Micrograph:
        """Read a micrograph as the network sees it.

        Parameters
        ----------
        path, pixel_size_angst, name, tiff_rows
            As for `read_micrograph`.

        Returns
        -------
        Micrograph
            Resampled and, unless it is raw, normalised.

        Raises
        ------
        DeepEMError
            As for `read_micrograph`.
        """
        return read_micrograph(path, self.working_pixel_size_angst, pixel_size_angst, name, self.box,
                               tiff_rows, self.raw)
