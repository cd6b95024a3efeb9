# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Masks of carbon film, ice and other contamination, from any program.

A mask is an image of the same field of view as its micrograph, with any number of pixels. It has two values, 0 where
there is no contamination and another one where there is, or is a probability: from 0 to 1, as MicrographCleaner writes
it, or in whole numbers from 0 to 255 or 65535. The first row of a PNG file is that of the micrograph's file, MRC or
TIFF, as any program shows them.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DeepEMError
from ..micrographs.find import IMAGE_ENDINGS, real_path
from ..micrographs.images import read_pixels
from ..micrographs.limits import check_shape, format_shape
from ..micrographs.tiff import is_tiff
from .names import by_micrograph, listed

log = logging.getLogger(__name__)

PNG = ".png"
ENDINGS = (*IMAGE_ENDINGS, ".mrcs", PNG)
# What programs append to the name of a micrograph.
_SUFFIX = re.compile(r"_(pred(icted)?_?)?masks?$", re.IGNORECASE)
# Height over width of mask and micrograph may differ by this factor, since binning cuts rows and columns.
_ASPECT_TOLERANCE = 0.03
# Interpolation may give a probability a little above 1, or below 0. Whole numbers up to the second may number kinds.
_MOST, _FEW = 1.5, 9
# Probability 1 as a whole number of 8 or 16 bits.
_FULL = (255, 65535)


@dataclass(frozen=True)
class Mask:
    """A mask of one micrograph.

    Attributes
    ----------
    values : (rows, columns) float32 array
        From 0, no contamination, to 1; of any size.
    """

    values: np.ndarray

    def at(self, points_xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return the values at some points.

        Parameters
        ----------
        points_xy : (n, 2) array
            Points as x, y in pixels of the micrograph.
        shape : tuple of int
            Rows and columns of the micrograph.

        Returns
        -------
        (n,) float64 array
            Of the closest pixel of the mask, also for points outside the micrograph.
        """
        size = np.array(self.values.shape)
        places = np.floor((points_xy[:, ::-1] + 0.5) * size / shape).astype(int)
        rows, columns = np.clip(places, 0, size - 1).T
        values: np.ndarray = self.values[rows, columns].astype(np.float64)
        return values

    def resized(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the mask with as many pixels as an image of the same field of view, by the closest pixel.

        Parameters
        ----------
        shape : tuple of int
            Rows and columns.

        Returns
        -------
        (rows, columns) float32 array
        """
        rows, columns = (np.floor((np.arange(n) + 0.5) * size / n).astype(int)
                         for n, size in zip(shape, self.values.shape))
        return self.values[np.ix_(rows, columns)]


def find_masks(folder: str | Path, micrographs: Mapping[str, Path]) -> dict[str, Path]:
    """Find the masks of micrographs by name; the log states how they were assigned and which micrographs have none.

    Parameters
    ----------
    folder : str or Path
        Folder with MRC, TIFF and PNG files, whose names are those of the micrographs, perhaps with _mask at the end.
    micrographs : mapping of str to Path
        Files by name.

    Returns
    -------
    dict of str to Path
        Files of masks by the name of the micrograph.

    Raises
    ------
    DeepEMError
        If the folder cannot be read, no mask is found, one is the micrograph itself, or it is not clear to which
        micrograph one belongs.
    """
    try:
        files = sorted(path for path in Path(folder).rglob("*")
                       if path.name.lower().endswith(ENDINGS) and path.is_file())
    except OSError as error:
        raise DeepEMError(f"{folder} cannot be read: {error.strerror}.") from error
    named: dict[str, Path] = {}
    for path in files:
        name = _SUFFIX.sub("", os.path.splitext(path.relative_to(folder).as_posix())[0])
        if name in named:
            raise DeepEMError(f"{named[name]} and {path} are both masks of {name!r}. Keep one of them.")
        named[name] = path
    masks, match = by_micrograph(micrographs, named, folder)
    if not masks:
        raise DeepEMError(f"{folder}: none of the {len(files)} images is a mask of one of the {len(micrographs)} "
                          f"micrographs. Expected files named like them ({', '.join(ENDINGS)}), perhaps with _mask at "
                          "the end.")
    if same := [path for name, path in masks.items() if real_path(path) == real_path(micrographs[name])]:
        raise DeepEMError(f"{same[0]} is the micrograph itself, which cannot be its mask. Expected a folder of masks.")
    log.info("%s: %s", folder, match.describe())
    if absent := [name for name in micrographs if name not in masks]:
        log.warning("no mask for %d of %d micrographs, on which nothing is masked: %s", len(absent), len(micrographs),
                    listed(absent))
    return masks


def read_mask(path: str | Path, micrograph: str | Path, shape: tuple[int, int], tiff_rows: str = "bottom") -> Mask:
    """Read a mask.

    Parameters
    ----------
    path : str or Path
        MRC, TIFF or PNG file.
    micrograph : str or Path
        File of the micrograph, whose rows are in the same order as those of a PNG file.
    shape : tuple of int
        Rows and columns of the micrograph.
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of TIFF files.

    Returns
    -------
    Mask

    Raises
    ------
    DeepEMError
        If the file cannot be read, has other values than a mask or a probability, or another aspect ratio than the
        micrograph.
    """
    path = Path(path)
    if path.suffix.lower() == PNG:
        values, full = _read_png(path)
        if tiff_rows == "bottom" and is_tiff(Path(micrograph)):
            values = values[::-1]
    else:
        values, full = read_pixels(path, tiff_rows, may_be_constant=True), None
    rows, columns = values.shape
    if abs(np.log(rows / columns * shape[1] / shape[0])) > _ASPECT_TOLERANCE:
        raise DeepEMError(f"{path}: a mask of {format_shape(values.shape)} pixels does not fit a micrograph of "
                          f"{format_shape(shape)} (rows x columns). Expected the same aspect ratio.")
    return Mask(_probabilities(path, values, full))


def _probabilities(path: Path, values: np.ndarray, full: int | None) -> np.ndarray:
    """Values from 0 to 1; `full` is the value of probability 1, if the file states it."""
    lowest, highest = float(values.min()), float(values.max())
    if lowest >= 1 - _MOST and highest <= _MOST:
        return np.clip(values, 0, 1, out=values)
    if np.all((values == 0) | (values == highest)):
        return values / np.float32(highest)
    full = full or next((each for each in _FULL if highest <= each), 0)
    if lowest < 0 or not full:
        raise DeepEMError(f"{path}: the mask has values {f'down to {lowest:g}' if lowest < 0 else f'up to {highest:g}'}"
                          ". Expected 0 and another value, or a probability: 0 to 1, 0 to 255 or 0 to 65535.")
    if highest <= _FEW:
        log.warning("warning: %s: the values of the mask from 0 to %g are read as probabilities of up to %.2g. If they "
                    "number kinds of contamination, write 0 and 1 instead", path, highest, highest / full)
    return values / np.float32(full)


def _read_png(path: Path) -> tuple[np.ndarray, int | None]:
    """Grey values, and the largest that is possible."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            check_shape(path, (image.height, image.width))
            deep = image.mode.startswith("I")  # those of 16 bits are "I" or "I;16"
            values = np.asarray(image if deep else image.convert("L")).astype(np.float32)
    except DeepEMError:
        raise
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a damaged file can raise nearly anything inside the library
        raise DeepEMError(f"{path} cannot be read as PNG ({type(error).__name__}: {error}).") from error
    if not np.isfinite(values).all():
        raise DeepEMError(f"{path} holds values that are not finite numbers.")
    return values, _FULL[deep]
