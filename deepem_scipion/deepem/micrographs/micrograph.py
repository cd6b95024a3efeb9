# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A micrograph as the network sees it: read, cleared of outliers, resampled and normalised.

Training and picking both read micrographs through `Model.read_micrograph`, hence see the same pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DeepEMError
from .find import micrograph_name
from .images import MAX_PIXELS, read_header, read_pixels
from .resampling import resample

# Of 10^8 normally distributed pixels none is expected beyond 6 spreads: what lies there is no ice and no
# particle, but a hot pixel, an X-ray, gold or dirt, and would otherwise rule the mean and the deviation.
CLIP_SPREADS = 6.0
# A few hundred thousand pixels give the percentiles to better than 1 % of the spread.
_PERCENTILE_SAMPLE = 2**18
# Squares of larger values leave the range of float32. No detector counts so far.
_LARGEST_VALUE = 1e18
# Pixel sizes carry rounding: a ratio this close to a whole number is meant to be one.
_WHOLE_RATIO_TOLERANCE = 1e-4
# Tiles of a normalised micrograph that deviate less are padding.
_MIN_TILE_DEVIATION = 0.01
_ANISOTROPY_TOLERANCE = 0.01


@dataclass(frozen=True)
class Micrograph:
    """A micrograph at working pixel size.

    Attributes
    ----------
    path : the file
    name : what picks and coordinates are filed under
    pixels : (rows, columns) float32, mean 0, deviation 1, at working pixel size
    pixel_size_angst : working pixel size in angstrom
    scale : input pixels per working pixel (working / input pixel size)
    input_shape : (rows, columns) of the file
    """

    path: Path
    name: str
    pixels: np.ndarray
    pixel_size_angst: float
    scale: float
    input_shape: tuple[int, int]

    @property
    def input_pixel_size_angst(self) -> float:
        """Pixel size of the file, in angstrom."""
        return self.pixel_size_angst / self.scale

    def to_input_xy(self, points_rc: np.ndarray) -> np.ndarray:
        """Turn working row, column into input x, y; (n, 2) float64 both.

        Working pixel j covers the input from j s to (j + 1) s, measured from the edge of the image, and the
        centre of a pixel has a whole-number coordinate: hence x = s (c + 1/2) - 1/2.
        """
        return self.scale * (_points(points_rc)[:, ::-1] + 0.5) - 0.5

    def to_binned_rc(self, points_xy: np.ndarray) -> np.ndarray:
        """Turn input x, y into working row, column; (n, 2) float64 both. The inverse of `to_input_xy`."""
        return (_points(points_xy)[:, ::-1] + 0.5) / self.scale - 0.5


def read_micrograph(path: str | Path, working_pixel_size_angst: float | None = None,
                    pixel_size_angst: float | None = None, name: str | None = None,
                    window_px: int | None = None, resampled_by: str = "lanczos") -> Micrograph:
    """Read a micrograph, clip outliers, resample it to the working pixel size and normalise it.

    Parameters
    ----------
    path : MRC (also .gz, .bz2) or TIFF file with one image
    working_pixel_size_angst : pixel size to resample to; default: that of the file
    pixel_size_angst : pixel size of the file, in place of what its header says
    name : default: the name of the file without its last extension
    window_px : side, in working pixels, of windows that are to have mean 0 and standard deviation 1, typically (in
        the median); default: the micrograph as a whole has
    resampled_by : {"lanczos", "area"}, see `resampling.resample`

    Raises
    ------
    DeepEMError
        The file is unusable (see `imagefiles.read_pixels`), its pixel size is unknown, or it is smaller than
        a working pixel.

    Notes
    -----
    Values beyond `CLIP_SPREADS` spreads of the median are clipped, first at input resolution, where hot
    pixels stand out, and again after resampling, where noise has gone down and gold or dirt stands out.
    Ratios of pixel sizes within 1e-4 of a whole number are taken as whole; `scale` and `pixel_size_angst` say
    what was really done.

    Normalised by windows, particles have the same contrast whatever else the micrograph shows: carbon, dirt and slow
    changes of the background make the deviation of the whole larger, but not that of most windows.
    """
    path = Path(path)
    input_size = pixel_size_angst if pixel_size_angst is not None else read_pixel_size(path)
    if input_size is None:
        raise DeepEMError(f"{path} does not say its pixel size. Give it with --pixel-size (angstrom).")
    _check_positive("pixel size", input_size)
    scale = 1.0
    if working_pixel_size_angst is not None:
        _check_positive("working pixel size", working_pixel_size_angst)
        scale = working_pixel_size_angst / input_size
    pixels = read_pixels(path)
    shape = pixels.shape[0], pixels.shape[1]
    if min(shape) < scale * (1 - 1e-6) or not scale or shape[0] / scale * (shape[1] / scale) > MAX_PIXELS:
        raise DeepEMError(f"{path}: {shape[0]} x {shape[1]} pixels of {input_size:g} A cannot be resampled "
                          f"to {working_pixel_size_angst:g} A. Check both pixel sizes (--pixel-size).")
    scale = _scale(scale)
    clip_outliers(pixels)
    largest = max(-float(pixels.min()), float(pixels.max()))
    if largest > _LARGEST_VALUE:
        raise DeepEMError(f"{path} holds values of up to {largest:.1g}. Expected those of a micrograph: its header or "
                          "the order of its bytes is wrong, or it is damaged. Write it again, or leave it out.")
    if scale != 1.0:
        pixels = resample(pixels, scale, resampled_by)
        clip_outliers(pixels)
    _normalise(path, pixels, window_px)
    name = micrograph_name(path) if name is None else name
    return Micrograph(path, name, pixels, input_size * scale, scale, shape)


def read_pixel_size(path: str | Path) -> float | None:
    """Read the pixel size, in angstrom, of a micrograph; None where it is absent (always for TIFF).

    Raises
    ------
    DeepEMError
        The file is unusable, or its pixels are not square (x and y differ by more than 1 %).
    """
    sizes = read_header(Path(path)).pixel_sizes_angst
    if sizes is None:
        return None
    if abs(sizes[0] - sizes[1]) > _ANISOTROPY_TOLERANCE * max(sizes):
        raise DeepEMError(f"{path}: the header gives pixels of {sizes[0]:g} x {sizes[1]:g} A. Expected "
                          "square ones: give the true size with --pixel-size (angstrom).")
    return sizes[0]


def read_shape(path: str | Path) -> tuple[int, int]:
    """Read the (rows, columns) of a micrograph; raises DeepEMError where the file is unusable."""
    return read_header(Path(path)).shape


def clip_outliers(pixels: np.ndarray) -> None:
    """Clip, in place, (rows, columns) floats to the median plus or minus `CLIP_SPREADS` robust deviations.

    The robust deviation is half the distance of the 16th and 84th percentile, or, where that is 0 (more than
    two thirds of the pixels alike), the standard deviation.
    """
    step = max(1, math.isqrt(pixels.size // _PERCENTILE_SAMPLE))
    low, median, high = np.percentile(pixels[::step, ::step], [16, 50, 84])
    spread = (high - low) / 2 or float(pixels.std(dtype=np.float64))
    np.clip(pixels, median - CLIP_SPREADS * spread, median + CLIP_SPREADS * spread, out=pixels)


def _points(points: np.ndarray) -> np.ndarray:
    return np.asarray(points, dtype=np.float64).reshape(-1, 2)


def _check_positive(what: str, value_angst: float) -> None:
    if not (math.isfinite(value_angst) and value_angst > 0):
        raise DeepEMError(f"The {what} is {value_angst:g} A. Expected a number above 0.")


def _scale(ratio: float) -> float:
    whole = max(1, round(ratio))
    return float(whole) if abs(ratio - whole) <= _WHOLE_RATIO_TOLERANCE * whole else ratio


def _normalise(path: Path, pixels: np.ndarray, window_px: int | None) -> None:
    pixels -= pixels.mean(dtype=np.float64)
    deviation = math.sqrt(np.square(pixels).mean(dtype=np.float64))
    if not deviation > 0:
        raise DeepEMError(f"{path} is constant once resampled and cleared of outliers. Leave it out.")
    pixels /= deviation
    if window_px is None:
        return
    rows, cols = (size // window_px * window_px for size in pixels.shape)
    tiles = pixels[:rows, :cols].reshape(rows // window_px, window_px, cols // window_px, window_px)
    means, local_stds = tiles.mean(axis=(1, 3), dtype=np.float64), tiles.std(axis=(1, 3), dtype=np.float64)
    image = local_stds > _MIN_TILE_DEVIATION
    if image.any():
        pixels -= np.median(means[image])
        pixels /= np.median(local_stds[image])
