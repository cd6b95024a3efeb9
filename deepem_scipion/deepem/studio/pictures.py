# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of micrographs in tiles, sharp at any zoom."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DeepEMError
from ..micrographs.images import read_pixels
from ..micrographs.normalisation import clip_outliers

TILE_PX, MARGIN_PX = 512, 1
# Micrographs kept in memory: four times these bytes each for 4 bytes a pixel.
MAX_KEPT_PIXELS = 80_000_000
JPEG_QUALITY = 90
# Of the pixels, this percentage at either end is shown black or white.
CLIPPED_PERCENT = 0.5
# A Gaussian falls to one half at the resolution r if its standard deviation is this times r.
SIGMA_PER_RESOLUTION = 0.1874
# The background is computed with the particle about this many pixels wide.
BACKGROUND_DIAMETER_PX = 8
_SAMPLE = 2**18


class Look(NamedTuple):
    """How a micrograph is filtered for display.

    Attributes
    ----------
    low_pass_px : float
        Resolution, in pixels of the file, at which a Gaussian low-pass falls to one half; 0 for none.
    flat_px : float
        Particle diameter in pixels of the file: slower changes of the background are removed; 0 for none.
    """

    low_pass_px: float = 0.0
    flat_px: float = 0.0


class Pictures:
    """Tiles of the micrographs shown last; may be used by several threads.

    Parameters
    ----------
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of TIFF files.
    """

    def __init__(self, tiff_rows: str = "bottom") -> None:
        self._tiff_rows = tiff_rows
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, _Levels] = OrderedDict()

    def tile(self, path: Path, level: int, column: int, row: int, look: Look) -> bytes:
        """Return a tile as JPEG file.

        Parameters
        ----------
        path : Path
            File of the micrograph.
        level : int
            The micrograph is shown binned by 2 to the power of this.
        column, row : int
            Place of the tile, in tiles of `TILE_PX` pixels. It has a margin of `MARGIN_PX` of the tiles around it, so
            that they can be interpolated without a seam.
        look : Look

        Returns
        -------
        bytes

        Raises
        ------
        DeepEMError
            The micrograph cannot be read, or has no such tile.
        """
        from PIL import Image

        picture = self._levels(path).picture(level, look)
        if min(row, column) < 0 or not picture[row * TILE_PX:, column * TILE_PX:].size:
            raise DeepEMError(f"{path} has no tile {column}, {row} at level {level}")
        part = np.ascontiguousarray(picture[_with_margin(row), _with_margin(column)])
        file = io.BytesIO()
        Image.fromarray(part).save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()

    def _levels(self, path: Path) -> _Levels:
        with self._lock:
            found = self._kept.get(path)
            if found is None:
                found = self._kept[path] = _Levels(path, self._tiff_rows)
            self._kept.move_to_end(path)
        found.read()
        with self._lock:
            while len(self._kept) > 1 and sum(each.size for each in self._kept.values()) > MAX_KEPT_PIXELS:
                self._kept.popitem(last=False)
        return found


def _with_margin(at: int) -> slice:
    """Rows, or columns, of a tile."""
    return slice(max(0, at * TILE_PX - MARGIN_PX), (at + 1) * TILE_PX + MARGIN_PX)


class _Levels:
    """One micrograph, binned by powers of two, and the pictures made of it."""

    def __init__(self, path: Path, tiff_rows: str) -> None:
        self._path, self._tiff_rows, self._lock = path, tiff_rows, threading.RLock()
        self._pixels: dict[int, np.ndarray] = {}
        self._pictures: dict[tuple[int, Look], np.ndarray] = {}

    @property
    def size(self) -> int:
        """Pixels of the file, 0 before it is read."""
        return self._pixels[0].size if self._pixels else 0

    def read(self) -> None:
        """Read the file, the first time; raises DeepEMError where that fails."""
        with self._lock:
            if not self._pixels:
                pixels = read_pixels(self._path, self._tiff_rows)
                clip_outliers(pixels)
                self._pixels[0] = pixels

    def picture(self, level: int, look: Look) -> np.ndarray:
        """Return the micrograph at a level as uint8 array."""
        from scipy.ndimage import gaussian_filter

        with self._lock:
            if (level, look) not in self._pictures:
                pixels = self._binned(level)
                sigma = SIGMA_PER_RESOLUTION * look.low_pass_px / 2**level
                if sigma > 0.3:  # binning and the screen filter as much
                    pixels = gaussian_filter(pixels, sigma, truncate=3)
                if look.flat_px:
                    pixels = pixels - self._background(look.flat_px, pixels.shape)
                if len(self._pictures) > 8:
                    self._pictures.clear()
                self._pictures[level, look] = _grey(pixels)
            return self._pictures[level, look]

    def _binned(self, level: int) -> np.ndarray:
        from PIL import Image

        if level not in self._pixels:
            smallest = min(self._pixels[0].shape)
            if not 0 <= level <= 20 or smallest >> level < 1:
                raise DeepEMError(f"{self._path} cannot be binned by 2 to the power of {level}")
            start = max(known for known in self._pixels if known < level)
            self._pixels[level] = np.asarray(Image.fromarray(self._pixels[start]).reduce(2 ** (level - start)))
        return self._pixels[level]

    def _background(self, diameter_px: float, shape: tuple[int, ...]) -> np.ndarray:
        """Slow changes of the background, in the shape of a level."""
        from PIL import Image
        from scipy.ndimage import gaussian_filter

        smallest = min(self._pixels[0].shape)
        level = max(0, min(round(np.log2(max(diameter_px / BACKGROUND_DIAMETER_PX, 1))), smallest.bit_length() - 1))
        coarse = gaussian_filter(self._binned(level), diameter_px / 2**level)
        return np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Map pixels to uint8, with few of them clipped."""
    step = max(1, int(np.sqrt(pixels.size / _SAMPLE)))
    low, high = np.percentile(pixels[::step, ::step], (CLIPPED_PERCENT, 100 - CLIPPED_PERCENT))
    scaled = (pixels - low) * (255 / max(float(high - low), 1e-12))
    grey: np.ndarray = np.clip(scaled, 0, 255).astype(np.uint8)
    return grey
