# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data of a training: micrographs and the coordinates on them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates, inside
from ..coordinates.masks import read_mask
from ..coordinates.names import listed
from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph, read_pixel_size
from ..micrographs.preprocessing import Preprocessing
from ..picking.picker import check_size
from ..picking.selection import MAX_MASK
from .labels import NO_CENTRES, POSITIVE_DISTANCE, LabelledMicrograph

log = logging.getLogger(__name__)

# More pairs of particles at nearly the same place are not duplicates of two sets, and would fill the memory.
MAX_PAIRS = 10_000_000


@dataclass(frozen=True)
class TrainingSet:
    """Micrographs and coordinates for a training; their order does not matter.

    Attributes
    ----------
    micrographs : mapping of str to Path
        Files by name.
    particles : mapping of str to Coordinates
        Centres of particles by name of the micrograph.
    negatives : mapping of str to Coordinates
        Centres of verified negatives by name of the micrograph.
    incomplete : collection of str
        Names of micrographs with particles that may be unmarked. On them only the given negatives count as negatives.
    tiff_rows : {"bottom", "top"}
        Whether y of the coordinates is counted from the last or from the first row of TIFF files.
    masks : mapping of str to Path
        Mask of contamination by name of the micrograph; in it are neither particles nor negatives, unless these are
        given.
    max_mask : float
        Maximum value of the mask where a micrograph is used, from 0 to 1.
    overlaps_as_negatives : bool
        Whether particles that overlap with others are negatives, so that the model avoids them.
    """

    micrographs: Mapping[str, Path]
    particles: Mapping[str, Coordinates]
    negatives: Mapping[str, Coordinates] = field(default_factory=dict)
    incomplete: Collection[str] = frozenset()
    tiff_rows: str = "bottom"
    masks: Mapping[str, Path] = field(default_factory=dict)
    max_mask: float = MAX_MASK
    overlaps_as_negatives: bool = False

    @classmethod
    def unmarked(cls, micrographs: Mapping[str, Path], **how: Any) -> TrainingSet:
        """Return micrographs on which nothing is marked.

        Parameters
        ----------
        micrographs : mapping of str to Path
            Files by name.
        **how
            Further attributes.

        Returns
        -------
        TrainingSet
        """
        nothing = Coordinates(np.empty((0, 2)), np.empty(0), None)
        return cls(micrographs, dict.fromkeys(micrographs, nothing), **how)

    @property
    def taught(self) -> bool:
        """Whether a model labels what is not marked."""
        return False

    @property
    def names(self) -> list[str]:
        """Sorted names of the micrographs that have coordinates."""
        return sorted(set(self.micrographs) & set(self.particles))

    def pixel_size_angst(self) -> float:
        """Read the pixel size of the first micrograph that gives it.

        Returns
        -------
        float
            Pixel size in angstrom.

        Raises
        ------
        DeepEMError
            If no micrograph has coordinates, can be read and gives its pixel size.
        """
        reasons = []
        for name in self.names:
            try:
                size = read_pixel_size(self.micrographs[name])
            except DeepEMError as error:
                reasons.append(str(error))
            else:
                if size:
                    return size
                reasons.append(f"{self.micrographs[name]}: no pixel size in the header; give it with --pixel-size")
        raise DeepEMError(reasons[0] if reasons else self._nothing_in_common())

    def read(self, preprocessing: Preprocessing, diameter_px: float, pixel_size_angst: float | None = None,
             given_negatives_only: bool = False) -> list[LabelledMicrograph]:
        """Read all micrographs that have coordinates; one that cannot be used is left out with a warning.

        Parameters
        ----------
        preprocessing : Preprocessing
            How micrographs are read for the network.
        diameter_px : float
            Diameter of the particle in binned pixels.
        pixel_size_angst : float, optional
            Pixel size of the micrographs in angstrom, which overrides their headers.
        given_negatives_only : bool
            Whether all micrographs count as incomplete.

        Returns
        -------
        list of LabelledMicrograph
            Sorted by name.

        Raises
        ------
        DeepEMError
            If no micrograph has coordinates and can be used.
        """
        self._log_unused()
        found, reasons = [], []
        close = POSITIVE_DISTANCE * diameter_px
        for name in self.names:
            try:
                item = self.read_unmarked(name, preprocessing, pixel_size_angst)
                particles, negatives = (
                    _usable(item.micrograph, centres[name].centres_xy, what, close) if name in centres else NO_CENTRES
                    for centres, what in ((self.particles, "particles"), (self.negatives, "negatives")))
            except DeepEMError as error:
                reasons.append(str(error))
                log.warning("left out: %s", error)
                continue
            complete = name not in self.incomplete and not given_negatives_only
            item = _without_masked(replace(item, particles_rc=particles, negatives_rc=negatives, complete=complete))
            found.append(_without_overlaps(item, diameter_px) if self.overlaps_as_negatives else item)
        if not found:
            raise DeepEMError(reasons[0] if reasons else self._nothing_in_common())
        return found

    def read_unmarked(self, name: str, preprocessing: Preprocessing,
                      pixel_size_angst: float | None = None) -> LabelledMicrograph:
        """Read a micrograph and its mask, without the coordinates.

        Parameters
        ----------
        name : str
            Name of the micrograph.
        preprocessing, pixel_size_angst
            As for `read`.

        Returns
        -------
        LabelledMicrograph

        Raises
        ------
        DeepEMError
            If one of them cannot be read, or the micrograph is smaller than the network's box.
        """
        micrograph = preprocessing.read(self.micrographs[name], pixel_size_angst, name, self.tiff_rows)
        check_size(micrograph, preprocessing.box)
        masked = None
        if name in self.masks:
            rows, columns = micrograph.pixels.shape
            mask = read_mask(self.masks[name], self.micrographs[name], micrograph.input_shape, self.tiff_rows)
            masked = mask.resized((rows, columns)) > self.max_mask
        return LabelledMicrograph(micrograph, NO_CENTRES, masked=masked)

    def _log_unused(self) -> None:
        unlabelled = sorted(set(self.micrographs) - set(self.particles))
        if unlabelled:
            log.warning("%d of %d micrographs have no coordinates and are left out: %s", len(unlabelled),
                        len(self.micrographs), listed(unlabelled))
        if elsewhere := sorted(set(self.particles) - set(self.micrographs)):
            log.info("coordinates of %d other micrographs are not used: %s", len(elsewhere), listed(elsewhere))

    def _nothing_in_common(self) -> str:
        return (f"none of the {len(self.micrographs)} micrographs ({', '.join(sorted(self.micrographs)[:3])} ...) has "
                f"coordinates; there are coordinates of {', '.join(sorted(self.particles)[:3]) or 'no micrograph'} ... "
                "Expected the same path, or the same file name: check --micrographs and --coordinates.")


def _without_masked(item: LabelledMicrograph) -> LabelledMicrograph:
    """Leave out particles in the mask."""
    masked = item.in_mask(item.particles_rc)
    if not masked.any():
        return item
    log.warning("%s: %d of %d particles lie in the mask and are left out", item.name, masked.sum(), len(masked))
    return replace(item, particles_rc=item.particles_rc[~masked])


def _without_overlaps(item: LabelledMicrograph, diameter_px: float) -> LabelledMicrograph:
    """Make negatives of particles that are less than a diameter from another one."""
    from scipy.spatial import cKDTree

    if len(item.particles_rc) < 2:
        return item
    overlapping = cKDTree(item.particles_rc).query(item.particles_rc, 2)[0][:, 1] < diameter_px
    log.info("%s: %d of %d particles overlap with others and are negatives", item.name, overlapping.sum(),
             len(overlapping))
    return replace(item, particles_rc=item.particles_rc[~overlapping],
                   negatives_rc=np.concatenate([item.negatives_rc, item.particles_rc[overlapping]]))


def _usable(micrograph: Micrograph, centres_xy: np.ndarray, what: str, close_px: float) -> np.ndarray:
    """Centres in binned pixels, without those outside the micrograph and without duplicates, e.g. of two sets."""
    from scipy.spatial import cKDTree

    centres_rc = micrograph.to_binned_rc(centres_xy)
    kept = inside(centres_rc, micrograph.pixels.shape)
    if not kept.all():
        log.warning("%s: %d of %d %s lie outside the micrograph and are left out", micrograph.name, (~kept).sum(),
                    len(kept), what)
    centres_rc = centres_rc[kept]
    if not len(centres_rc):
        return NO_CENTRES
    tree = cKDTree(centres_rc)
    if (pairs := (tree.count_neighbors(tree, close_px) - len(centres_rc)) // 2) > MAX_PAIRS:
        raise DeepEMError(f"{micrograph.path}: of {len(centres_rc)} {what} {pairs} pairs are within {close_px:.1f} "
                          "binned pixels. Expected each once: check the coordinates and the pixel size.")
    duplicates = np.unique(tree.query_pairs(close_px, output_type="ndarray")[:, 1])
    return np.delete(centres_rc, duplicates, axis=0)
