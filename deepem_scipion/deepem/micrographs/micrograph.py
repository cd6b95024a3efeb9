# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs as the network sees them: outliers clipped, resampled and normalised.

Training and picking read micrographs in the same way, hence see the same pixels (see `Preprocessing`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DeepEMError
from .find import micrograph_name
from .images import read_header, read_pixels
from .limits import MAX_PIXELS
from .normalisation import clip_outliers, normalise, normalise_boxes
from .resampling import resample

# Squares of larger values leave the range of float32. No detector counts that far.
_MAX_VALUE = 1e18
# Pixel sizes are rounded in headers: a ratio this close to a whole number is meant to be one.
_WHOLE_RATIO_TOLERANCE = 1e-4
_ANISOTROPY_TOLERANCE = 0.01


@dataclass(frozen=True)
class Micrograph:
    """A micrograph at the working pixel size.

    Attributes
    ----------
    path : Path
        File of the micrograph.
    name : str
        Name under which picks and coordinates are filed.
    pixels : (rows, columns) float32 array
        Normalised pixels at the working pixel size.
    pixel_size_angst : float
        Working pixel size in angstrom.
    scale : float
        Input pixels per binned pixel (working pixel size / input pixel size).
    input_shape : tuple of int
        Rows and columns of the file.
    header_pixel_size_angst : float, optional
        Pixel size in the header of the file, in angstrom, which a given one overrides.
    """

    path: Path
    name: str
    pixels: np.ndarray
    pixel_size_angst: float
    scale: float
    input_shape: tuple[int, int]
    header_pixel_size_angst: float | None = None

    @property
    def input_pixel_size_angst(self) -> float:
        """Pixel size of the file in angstrom."""
        return self.pixel_size_angst / self.scale

    def to_input_xy(self, points_rc: np.ndarray) -> np.ndarray:
        """Convert binned row, column to input x, y.

        Parameters
        ----------
        points_rc : (n, 2) array
            Points as row, column in binned pixels.

        Returns
        -------
        (n, 2) float64 array
            Points as x, y in pixels of the file.

        Notes
        -----
        Binned pixel j covers the input from j s to (j + 1) s, measured from the edge of the image, and the centre of a
        pixel has whole-number coordinates. Hence x = s (c + 1/2) - 1/2.
        """
        return self.scale * (_points(points_rc)[:, ::-1] + 0.5) - 0.5

    def to_binned_rc(self, points_xy: np.ndarray) -> np.ndarray:
        """Convert input x, y to binned row, column: the inverse of `to_input_xy`.

        Parameters
        ----------
        points_xy : (n, 2) array
            Points as x, y in pixels of the file.

        Returns
        -------
        (n, 2) float64 array
            Points as row, column in binned pixels.
        """
        return (_points(points_xy)[:, ::-1] + 0.5) / self.scale - 0.5


def read_micrograph(path: str | Path, working_pixel_size_angst: float | None = None,
                    pixel_size_angst: float | None = None, name: str | None = None,
                    box_px: int | None = None, tiff_rows: str = "bottom", raw: bool = False) -> Micrograph:
    """Read a micrograph, clip outliers, resample it to the working pixel size and normalise it.

    Parameters
    ----------
    path : str or Path
        MRC (also .gz, .bz2) or TIFF file with one image.
    working_pixel_size_angst : float, optional
        Pixel size to resample to, in angstrom. Default: that of the file.
    pixel_size_angst : float, optional
        Pixel size of the file in angstrom, which overrides its header.
    name : str, optional
        Name of the micrograph. Default: the file name without its last extension.
    box_px : int, optional
        Side, in binned pixels, of the boxes whose median mean and median standard deviation become 0 and 1. Default:
        the whole micrograph is normalised.
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last row of a TIFF file, as in RELION and EMAN2, or from the first.
    raw : bool
        Whether the grey values are left as they are, but for the resampling.

    Returns
    -------
    Micrograph
        Resampled and, unless it is raw, normalised.

    Raises
    ------
    DeepEMError
        If the file cannot be used (see `images.read_pixels`), its pixel size is unknown, or it is smaller than a
        binned pixel.

    Notes
    -----
    Values more than `CLIP_STDS` robust standard deviations from the median are clipped, first at the input pixel size,
    where hot pixels stand out, and again after resampling, where noise has decreased and gold or dirt stands out.
    Ratios of pixel sizes within 1e-4 of a whole number are taken as whole; `scale` and `pixel_size_angst` are the
    values that were used.

    Normalisation by boxes gives particles the same contrast whatever else the micrograph shows: carbon, dirt and slow
    changes of the background increase the standard deviation of the whole micrograph, but not that of most boxes.
    """
    path = Path(path)
    if pixel_size_angst is None:
        input_size = in_header = read_pixel_size(path)
    else:
        input_size, sizes = pixel_size_angst, read_header(path).pixel_sizes_angst
        in_header = sizes[0] if sizes else None
    if input_size is None:
        raise DeepEMError(f"{path} does not give its pixel size. Give it with --pixel-size (angstrom).")
    _check_positive("pixel size", input_size)
    if working_pixel_size_angst is not None:
        _check_positive("working pixel size", working_pixel_size_angst)
    pixels = read_pixels(path, tiff_rows)
    shape = pixels.shape[0], pixels.shape[1]
    scale = _scale(path, shape, input_size, working_pixel_size_angst)
    lowest, highest = (float(pixels.min()), float(pixels.max())) if raw else clip_outliers(pixels)
    # The limits of the clipping may lie beyond all values, whose search would take longer.
    if max(-lowest, highest) > _MAX_VALUE and (largest := float(np.abs(pixels).max())) > _MAX_VALUE:
        raise DeepEMError(f"{path} holds values of up to {largest:.1g}. Expected those of a micrograph: its header or "
                          "its byte order is wrong, or it is damaged. Write it again, or leave it out.")
    if scale != 1.0:
        pixels = resample(pixels, scale)
    if not raw:
        _normalise(path, pixels, scale, box_px)
    name = micrograph_name(path) if name is None else name
    return Micrograph(path, name, pixels, input_size * scale, scale, shape, in_header)


def _normalise(path: Path, pixels: np.ndarray, scale: float, box_px: int | None) -> None:
    if scale != 1.0:
        clip_outliers(pixels)
    normalise(path, pixels)
    if box_px is not None:
        normalise_boxes(pixels, box_px)


def prepared_micrograph(pixels: np.ndarray, pixel_size_angst: float, name: str, box_px: int) -> Micrograph:
    """Make a micrograph of pixels at the working pixel size, clipped and normalised as `read_micrograph` does.

    Parameters
    ----------
    pixels : (rows, columns) array
        Image in any units; it is copied.
    pixel_size_angst : float
        Working pixel size in angstrom.
    name : str
        Name of the micrograph.
    box_px : int
        As for `read_micrograph`.

    Returns
    -------
    Micrograph

    Raises
    ------
    DeepEMError
        If all pixels have the same value.
    """
    pixels = np.array(pixels, np.float32)
    clip_outliers(pixels)
    normalise(Path(name), pixels)
    normalise_boxes(pixels, box_px)
    return Micrograph(Path(name), name, pixels, pixel_size_angst, 1.0, (pixels.shape[0], pixels.shape[1]))


def read_pixel_size(path: str | Path) -> float | None:
    """Read the pixel size of a micrograph from its header.

    Parameters
    ----------
    path : str or Path
        File of the micrograph.

    Returns
    -------
    float or None
        Pixel size in angstrom; None if the header does not give it, as in any TIFF file.

    Raises
    ------
    DeepEMError
        If the file cannot be used, or its pixels are not square (x and y differ by more than 1 %).
    """
    sizes = read_header(Path(path)).pixel_sizes_angst
    if sizes is None:
        return None
    if abs(sizes[0] - sizes[1]) > _ANISOTROPY_TOLERANCE * max(sizes):
        raise DeepEMError(f"{path}: the header gives pixels of {sizes[0]:g} x {sizes[1]:g} A. Expected "
                          "square ones: give the true size with --pixel-size (angstrom).")
    return sizes[0]


def read_shape(path: str | Path) -> tuple[int, int]:
    """Read the shape of a micrograph from its header.

    Parameters
    ----------
    path : str or Path
        File of the micrograph.

    Returns
    -------
    tuple of int
        Rows and columns.

    Raises
    ------
    DeepEMError
        If the file cannot be used.
    """
    return read_header(Path(path)).shape


def _points(points: np.ndarray) -> np.ndarray:
    return np.asarray(points, dtype=np.float64).reshape(-1, 2)


def _check_positive(what: str, value_angst: float) -> None:
    if not (math.isfinite(value_angst) and value_angst > 0):
        raise DeepEMError(f"The {what} is {value_angst:g} A. Expected a number above 0.")


def _scale(path: Path, shape: tuple[int, int], input_size: float, working_size: float | None) -> float:
    """Input pixels per binned pixel; a ratio close to a whole number is taken as whole."""
    ratio = 1.0 if working_size is None else working_size / input_size
    if min(shape) < ratio * (1 - 1e-6) or not ratio or shape[0] / ratio * (shape[1] / ratio) > MAX_PIXELS:
        raise DeepEMError(f"{path}: {shape[0]} x {shape[1]} pixels of {input_size:g} A cannot be resampled "
                          f"to {working_size:g} A. Check both pixel sizes (--pixel-size).")
    whole = max(1, round(ratio))
    return float(whole) if abs(ratio - whole) <= _WHOLE_RATIO_TOLERANCE * whole else ratio
