# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""TIFF files, read so that a damaged or hostile file takes neither time nor memory."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DeepEMError
from .limits import check_shape, format_shape
from .lzw import is_decodable

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Compressions whose output is bounded by the size of the strip or tile.
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 34925: "LZMA",
                 50000: "Zstandard"}
_LZW = 5
_MIN_IS_WHITE, _PALETTE = 0, 3  # of PhotometricInterpretation
# Of NewSubfileType: a copy of reduced resolution (a thumbnail), a transparency mask.
_NO_IMAGE = 1 | 4
_MAX_TILE_PIXELS = 2**22  # a tile that is larger than this and than the image is damage
_MAX_PAGES, _MAX_TAGS = 1000, 4096
# Tags from which sizes are computed, and the types of whole numbers. The library takes bytes for text.
_SIZE_TAGS = {256: "ImageWidth", 257: "ImageLength", 277: "SamplesPerPixel", 322: "TileWidth", 323: "TileLength",
              32997: "ImageDepth", 32998: "TileDepth"}
_WHOLE_NUMBER_TYPES = {3, 4, 16}


def is_tiff(path: Path) -> bool:
    """Recognise a TIFF file by its first bytes.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    bool
        Whether the file has the signature of a TIFF or BigTIFF.

    Raises
    ------
    DeepEMError
        If the file is empty.
    """
    with open(path, "rb") as handle:
        start = handle.read(4)
    if not start:
        raise DeepEMError(f"{path} is empty (0 bytes). Copy or write the file again.")
    return start in _SIGNATURES


def read_tiff_shape(path: Path) -> tuple[int, int]:
    """Read the shape of a TIFF image, and check all that can be checked without decoding it.

    Parameters
    ----------
    path : Path
        TIFF file.

    Returns
    -------
    tuple of int
        Rows and columns.

    Raises
    ------
    DeepEMError
        If the file is damaged or truncated, does not hold exactly one real-valued image, or has a compression that
        is not supported.
    """
    with _open_tiff(path) as tiff:
        image = _image(path, tiff)
        shape, dtype = image.shape, image.dtype
        page = image.keyframe
        end_of_data = max(map(sum, zip(page.dataoffsets, page.databytecounts)), default=0)
        data_bytes, compression, tile_shape = sum(page.databytecounts), int(page.compression), page.chunks
    if dtype is None or dtype.kind not in "uif":
        raise DeepEMError(f"{path} has pixels of type {dtype}. Expected integers or real numbers.")
    check_shape(path, shape)
    if compression not in _COMPRESSIONS:
        raise DeepEMError(f"{path} is a TIFF of compression {compression}. Expected one of "
                          f"{', '.join(sorted(set(_COMPRESSIONS.values())))}: write it again with one of these.")
    if math.prod(tile_shape) > max(math.prod(shape), _MAX_TILE_PIXELS):
        raise DeepEMError(f"{path} claims tiles of {format_shape(tile_shape)} pixels: the header is damaged. "
                          "Copy or write the file again.")
    n_bytes, expected = path.stat().st_size, max(end_of_data, data_bytes)  # the latter is larger where strips overlap
    if n_bytes < expected:
        raise DeepEMError(f"{path} is truncated: {n_bytes} bytes found, {expected} expected. "
                          "Copy or write the file again.")
    return shape[-2], shape[-1]


def read_tiff_pixels(path: Path) -> tuple[tuple[int, int], np.ndarray]:
    """Read the pixels of a TIFF file.

    Parameters
    ----------
    path : Path
        TIFF file.

    Returns
    -------
    shape : tuple of int
        Rows and columns that the header gives.
    data : float32 array
        Pixels, the first row of the file first; another number than `shape` requires if the file was replaced
        meanwhile. Where the file says that 0 is white (min-is-white) their sign is changed, as EMAN2 does.

    Raises
    ------
    DeepEMError
        As for `read_tiff_shape`, and if LZW data are damaged.

    Notes
    -----
    The tag for the orientation is ignored, as in RELION and EMAN2.
    """
    return read_tiff_shape(path), _read_data(path)


def _read_data(path: Path) -> np.ndarray:
    with _open_tiff(path) as tiff:
        image = _image(path, tiff)
        for page in image.pages:
            if page is not None and int(page.compression) == _LZW:
                _check_lzw(path, page, tiff.filehandle)
        data: np.ndarray = image.asarray().astype(np.float32)
        return np.negative(data, out=data) if int(image.keyframe.photometric) == _MIN_IS_WHITE else data


def _image(path: Path, tiff: Any) -> Any:
    """The one series of pages that is an image, not a copy or a mask of one; raises DeepEMError if there are others."""
    images = [series for series in tiff.series if not series.keyframe.subfiletype & _NO_IMAGE]
    if len(images) != 1:
        raise DeepEMError(f"{path} holds {len(images)} images of different sizes or kinds. Expected one: write the "
                          "micrograph alone, without others or thumbnails.")
    if int(images[0].keyframe.photometric) == _PALETTE:
        raise DeepEMError(f"{path} is an image with a table of colours. Expected grey values: write it again as such.")
    return images[0]


def _check_lzw(path: Path, page: Any, stream: Any) -> None:
    """Raise DeepEMError if a strip would make the decoder read outside its memory."""
    decodable = page.keyframe.fillorder == 1
    for offset, length in zip(page.dataoffsets, page.databytecounts):
        stream.seek(offset)
        decodable = decodable and is_decodable(stream.read(length))
    if not decodable:
        raise DeepEMError(f"{path} cannot be read: its LZW compression is damaged. Copy or write the file again, or "
                          "write it without compression.")


@contextmanager
def _open_tiff(path: Path) -> Iterator[Any]:
    import tifffile

    # Its warnings are either harmless or raised here with the name of the file.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    with open(path, "rb") as stream:
        _check_tags(path, stream)
        # Files of the first three flavours may refer to other files to be read in their place; NDPI has other tags.
        with tifffile.TiffFile(stream, is_ome=False, is_mmstack=False, is_ndtiff=False, is_ndpi=False) as tiff:
            yield tiff


def _check_tags(path: Path, stream: IO[bytes]) -> None:
    """Raise DeepEMError if pages form a cycle or a size is not a number: the library would take any time and memory.

    A file that ends too early is left to the library, which reads it or reports the error.
    """
    order, big = "<" if stream.read(2) == b"II" else ">", stream.read(2) in (b"+\0", b"\0+")
    count, entry, offset_of_next = (struct.Struct(order + form) for form in (("Q", "HHQ8x", "Q") if big else
                                                                             ("H", "HHI4x", "I")))
    stream.seek(8 if big else 4)
    seen: set[int] = set()
    with suppress(struct.error):
        while offset := offset_of_next.unpack(stream.read(offset_of_next.size))[0]:
            if offset in seen:
                raise DeepEMError(f"{path} is a TIFF whose pages form a cycle: the header is damaged. "
                                  "Copy or write the file again.")
            if len(seen) == _MAX_PAGES:
                raise DeepEMError(f"{path} holds more than {_MAX_PAGES} images (a stack or a movie). Expected one "
                                  "greyscale image: average the frames, or split the stack.")
            seen.add(offset)
            stream.seek(offset)
            tags = stream.read(min(count.unpack(stream.read(count.size))[0], _MAX_TAGS) * entry.size)
            for tag, kind, values in entry.iter_unpack(tags):
                if tag in _SIZE_TAGS and (values != 1 or kind not in _WHOLE_NUMBER_TYPES):
                    raise DeepEMError(f"{path} is a TIFF with {values} values of type {kind} for {_SIZE_TAGS[tag]}. "
                                      "Expected one whole number: the header is damaged. Copy or write the file again.")
    stream.seek(0)
