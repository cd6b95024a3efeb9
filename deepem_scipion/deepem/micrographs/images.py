# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Single greyscale images from MRC and TIFF files; every error is a `DeepEMError` that names the file.

Row 0 of an image has y = 0, as in RELION (3.1 and later) and EMAN2: the first row of an MRC file, but the last row of a
TIFF file, whatever its tag for the orientation says.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DeepEMError
from .limits import format_shape
from .mrc import open_mrc, read_mrc_pixels
from .tiff import is_tiff, read_tiff_pixels, read_tiff_shape

# Where y = 0 is in a TIFF file: in its last row, or in its first, for coordinates that count from there.
TIFF_ROWS = ("bottom", "top")


@dataclass(frozen=True)
class ImageHeader:
    """Contents of an image header.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    pixel_sizes_angst : tuple of float or None
        Pixel size along x and y in angstrom, None if the file does not give it.
    """

    shape: tuple[int, int]
    pixel_sizes_angst: tuple[float, float] | None


def read_header(path: Path) -> ImageHeader:
    """Read shape and pixel size of an image without its pixels.

    Parameters
    ----------
    path : Path
        MRC (also .gz or .bz2) or TIFF file with one image. The format is recognised by content, not by name.

    Returns
    -------
    ImageHeader
        Without pixel size for TIFF files, whose resolution tags are meant for printing.

    Raises
    ------
    DeepEMError
        If the file is missing, empty, damaged or truncated, or does not hold exactly one real-valued image.
    """
    with _naming_errors(path):
        if is_tiff(path):
            return ImageHeader(read_tiff_shape(path), None)
        with open_mrc(path) as (header, _):
            return ImageHeader(header.shape, header.pixel_sizes_angst)


def read_pixels(path: Path, tiff_rows: str = "bottom", may_be_constant: bool = False) -> np.ndarray:
    """Read an image.

    Parameters
    ----------
    path : Path
        As for `read_header`.
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of a TIFF file.
    may_be_constant : bool
        Whether an image of a single value is accepted, as masks may be.

    Returns
    -------
    (rows, columns) float32 array
        Finite and, unless `may_be_constant`, not constant.

    Raises
    ------
    DeepEMError
        As for `read_header`, and if the image is constant or has values that are not finite.
    """
    with _naming_errors(path):
        from_tiff = is_tiff(path)
        shape, data = read_tiff_pixels(path) if from_tiff else read_mrc_pixels(path)
        if data.size != math.prod(shape):
            raise DeepEMError(f"{path} is truncated, or was changed while it was read: its header promises "
                              f"{format_shape(shape)} pixels. Copy or write the file again.")
        rows = data.reshape(shape)
        pixels = np.require(rows[::-1] if from_tiff and tiff_rows == "bottom" else rows, np.float32, ["C", "W"])
        lowest, highest = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise DeepEMError(f"{path} holds values that are not finite numbers (NaN or infinite). "
                          "Write the micrograph again without them, or leave it out.")
    if lowest == highest and not may_be_constant:
        raise DeepEMError(f"{path} is constant: every pixel is {lowest:g}. Leave it out.")
    return pixels


@contextmanager
def _naming_errors(path: Path) -> Iterator[None]:
    """Silence the warnings of the libraries and turn their exceptions into a DeepEMError that names the file."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except DeepEMError:
        raise
    except FileNotFoundError as error:
        raise DeepEMError(f"{path}: no such file. Check the path.") from error
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DeepEMError(f"{path} does not fit into memory ({error or 'no memory left'}). Use fewer threads, or a "
                          "computer with more memory.") from error
    except Exception as error:  # a damaged file can raise nearly anything inside the libraries
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise DeepEMError(f"{path} cannot be read as MRC or TIFF ({reason}). "
                          "Copy or write the file again.") from error
