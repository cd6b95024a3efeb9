# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Single grey images out of MRC and TIFF files; every fault becomes a `DeepEMError` that names the file.

The first row of the data is row 0 (y = 0), as in EMAN2 and RELION; nothing is flipped.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import math
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DeepEMError
from .lzw import can_be_decoded

# Five times the largest camera of today: a header that claims more is damaged, and must not take memory.
MAX_PIXELS = 2**29

MAX_EXTENDED_BYTES = 2**27

_MRC_HEADER_BYTES = 1024
_MRC_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
# Those whose output is bounded by what the strip or tile holds by its sizes.
_TIFF_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 34925: "LZMA",
                      50000: "Zstandard"}
_LZW = 5
_LARGEST_TILE = 2**22  # pixels; a tile that is larger than this and than the image is damage
_MAX_PAGES, _MAX_TAGS = 1000, 4096
# Tags that sizes are computed from, and the types of whole numbers; bytes the library takes for text.
_TIFF_SIZES = {256: "ImageWidth", 257: "ImageLength", 277: "SamplesPerPixel", 322: "TileWidth", 323: "TileLength",
               32997: "ImageDepth", 32998: "TileDepth"}
_TIFF_WHOLE_NUMBERS = {3, 4, 16}
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNPACKERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image says.

    Attributes
    ----------
    shape : (rows, columns)
    pixel_sizes_angst : (x, y) in angstrom, or None where the file does not give them.
    """

    shape: tuple[int, int]
    pixel_sizes_angst: tuple[float, float] | None


def read_header(path: Path) -> ImageHeader:
    """Read size and pixel sizes of an image without its pixels.

    Parameters
    ----------
    path : MRC (also .gz or .bz2) or TIFF file with one image; told apart by content, not by name.

    Returns
    -------
    ImageHeader; pixel sizes of TIFF files are None, since their resolution tags speak of printing.

    Raises
    ------
    DeepEMError
        The file is missing, empty, damaged, truncated, holds several images or no real numbers.
    """
    with _faults_naming(path):
        if _is_tiff(path):
            return _tiff_header(path)
        with _open_mrc(path) as (header, _, _):
            return header


def read_pixels(path: Path) -> np.ndarray:
    """Read an image.

    Parameters
    ----------
    path : as for `read_header`

    Returns
    -------
    (rows, columns) float32, finite and not constant

    Raises
    ------
    DeepEMError
        As for `read_header`, or the image is constant or not finite.
    """
    with _faults_naming(path):
        if _is_tiff(path):
            shape, data = _tiff_header(path).shape, _tiff_data(path)
        else:
            with _open_mrc(path) as (header, dtype, stream):
                shape = header.shape
                content = stream.read(math.prod(shape) * dtype.itemsize)
            data = np.frombuffer(content, dtype, len(content) // dtype.itemsize)
        if data.size != math.prod(shape):
            raise DeepEMError(f"{path} is truncated, or was changed while it was read: its header promises "
                              f"{_by(shape)} pixels. Copy or write the file again.")
        pixels: np.ndarray = data.reshape(shape).astype(np.float32)
        lowest, highest = float(pixels.min()), float(pixels.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise DeepEMError(f"{path} holds values that are not finite numbers (NaN or infinite). "
                          "Write the micrograph again without them, or leave it out.")
    if lowest == highest:
        raise DeepEMError(f"{path} is constant: every pixel is {lowest:g}. Leave it out.")
    return pixels


@contextmanager
def _faults_naming(path: Path) -> Iterator[None]:
    """Silence the warnings of the libraries and turn their exceptions into a DeepEMError."""
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
        raise DeepEMError(f"{path} does not fit into the memory ({error or 'no memory left'}). Use fewer threads, or a "
                          "computer with more memory.") from error
    except Exception as error:  # a damaged file can raise nearly anything inside the libraries
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise DeepEMError(f"{path} cannot be read as MRC or TIFF ({reason}). "
                          "Copy or write the file again.") from error


def _first_bytes(path: Path, count: int) -> bytes:
    with open(path, "rb") as handle:
        start = handle.read(count)
    if not start:
        raise DeepEMError(f"{path} is empty (0 bytes). Copy or write the file again.")
    return start


def _is_tiff(path: Path) -> bool:
    return _first_bytes(path, 4) in _TIFF_SIGNATURES


@contextmanager
def _open_mrc(path: Path) -> Iterator[tuple[ImageHeader, np.dtype[Any], IO[bytes]]]:
    """Header, type of the pixels, and the stream at the first of them; all of one file, should it be replaced."""
    start = _first_bytes(path, _MRC_HEADER_BYTES)
    unpack = None if start[208:212] == b"MAP " else _UNPACKERS.get(start[:2])
    with (unpack or open)(path, "rb") as stream:
        header, extended = _parse_mrc_header(stream.read(_MRC_HEADER_BYTES))
        columns, rows, images, mode = (int(header[key]) for key in ("nx", "ny", "nz", "mode"))
        if mode not in _MRC_DTYPES:
            hint = "" if bytes(header.map)[:3] == b"MAP" else (" and lacks the MAP stamp, so it may be no MRC file at "
                                                               "all")
            raise DeepEMError(f"{path} has MRC mode {mode}{hint}. Expected TIFF, or MRC of mode "
                              f"{', '.join(map(str, _MRC_DTYPES))} (real numbers).")
        _check_shape(path, (images, rows, columns))
        if not 0 <= extended <= MAX_EXTENDED_BYTES:
            raise DeepEMError(f"{path} claims an extended header of {extended} bytes: the header is damaged. "
                              "Copy or write the file again.")
        dtype = np.dtype(_MRC_DTYPES[mode]).newbyteorder(header.mode.dtype.byteorder)
        if not unpack:
            _check_length(path, (rows, columns), mode, _MRC_HEADER_BYTES + extended, os.stat(stream.fileno()).st_size)
        stream.seek(_MRC_HEADER_BYTES + extended)
        pixel_sizes = _pixel_size(header.cella.x, header.mx), _pixel_size(header.cella.y, header.my)
        yield ImageHeader((rows, columns), pixel_sizes if all(pixel_sizes) else None), dtype, stream


def _parse_mrc_header(start: bytes) -> tuple[Any, int]:
    """Return the main header and the length of the extended one, which is not read: it may be damaged."""
    from mrcfile.mrcinterpreter import MrcInterpreter

    without_extension = start[:92] + bytes(4) + start[96:]
    # Permissive: old programs leave the map or machine stamp out, and their images are sound.
    header = MrcInterpreter(io.BytesIO(without_extension), permissive=True, header_only=True).header
    return header, int(np.frombuffer(start, header.mode.dtype, count=1, offset=92)[0])


def _check_length(path: Path, shape: tuple[int, int], mode: int, headers: int, found: int) -> None:
    """Raise DeepEMError where a file of `found` bytes does not hold its headers and an image of this mode."""
    pixels, size = math.prod(shape), np.dtype(_MRC_DTYPES[mode]).itemsize
    if found < headers + pixels * size:
        raise DeepEMError(f"{path} is truncated: {found} bytes found, {headers + pixels * size} expected for "
                          f"{_by(shape)} pixels of mode {mode}. Copy or write the file again.")
    others = {np.dtype(dtype).itemsize for dtype in _MRC_DTYPES.values()} - {size}
    if found - headers in {pixels * other for other in others}:
        raise DeepEMError(f"{path} holds {(found - headers) // pixels} bytes for each pixel, but its header says mode "
                          f"{mode}, which has {size}: the header is damaged. Copy or write the file again.")


def _pixel_size(length_angst: float, intervals: int) -> float:
    size = float(length_angst) / int(intervals) if intervals else 0.0
    return size if math.isfinite(size) and size > 0 else 0.0


def _tiff_header(path: Path) -> ImageHeader:
    with _tiff(path) as tiff:
        if len(tiff.series) != 1:
            raise DeepEMError(f"{path} holds {len(tiff.series)} different images. Expected one.")
        shape, dtype = tiff.series[0].shape, tiff.series[0].dtype
        page = tiff.pages[0]
        last_byte = max(map(sum, zip(page.dataoffsets, page.databytecounts)), default=0)
        bytes_used, compression, piece = sum(page.databytecounts), int(page.compression), page.chunks
    if dtype is None or dtype.kind not in "uif":
        raise DeepEMError(f"{path} has pixels of type {dtype}. Expected integers or real numbers.")
    _check_shape(path, shape)
    if compression not in _TIFF_COMPRESSIONS:
        raise DeepEMError(f"{path} is a TIFF of compression {compression}. Expected one of "
                          f"{', '.join(sorted(set(_TIFF_COMPRESSIONS.values())))}: write it again with one of these.")
    if math.prod(piece) > max(math.prod(shape), _LARGEST_TILE):
        raise DeepEMError(f"{path} claims tiles of {_by(piece)} pixels: the header is damaged. "
                          "Copy or write the file again.")
    if path.stat().st_size < max(last_byte, bytes_used):
        raise DeepEMError(f"{path} is truncated: {path.stat().st_size} bytes found, "
                          f"{max(last_byte, bytes_used)} expected. "
                          "Copy or write the file again.")
    return ImageHeader((shape[-2], shape[-1]), None)


def _tiff_data(path: Path) -> np.ndarray:
    with _tiff(path) as tiff:
        for page in tiff.series[0].pages:
            if page is not None and int(page.compression) == _LZW:
                _check_lzw(path, page, tiff.filehandle)
        data: np.ndarray = tiff.series[0].asarray()
    return data


def _check_lzw(path: Path, page: Any, stream: Any) -> None:
    """Raise DeepEMError where a page has a strip that would make the decoder read beyond its memory."""
    sound = page.keyframe.fillorder == 1
    for offset, length in zip(page.dataoffsets, page.databytecounts):
        stream.seek(offset)
        sound = sound and can_be_decoded(stream.read(length))
    if not sound:
        raise DeepEMError(f"{path} cannot be read: its LZW compression is damaged. Copy or write the file again, or "
                          "write it without compression.")


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    import tifffile

    # What it would complain about is either harmless or raised by us with the file's name.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    with open(path, "rb") as stream:
        _check_tags(path, stream)
        # In the first three flavours a file may name others, which would be read in its place; the last has other tags.
        with tifffile.TiffFile(stream, is_ome=False, is_mmstack=False, is_ndtiff=False, is_ndpi=False) as tiff:
            yield tiff


def _check_tags(path: Path, stream: IO[bytes]) -> None:
    """Raise DeepEMError where pages never end or a size is no number, for which the library takes any time and memory.

    What ends too early is left to the library, which reads it or says what is wrong.
    """
    order, big = "<" if stream.read(2) == b"II" else ">", stream.read(2) in (b"+\0", b"\0+")
    count, entry, following = (struct.Struct(order + form) for form in (("Q", "HHQ8x", "Q") if big else
                                                                        ("H", "HHI4x", "I")))
    stream.seek(8 if big else 4)
    seen: set[int] = set()
    with suppress(struct.error):
        while offset := following.unpack(stream.read(following.size))[0]:
            if offset in seen:
                raise DeepEMError(f"{path} is a TIFF whose pages name one another in a circle: the header is damaged. "
                                  "Copy or write the file again.")
            if len(seen) == _MAX_PAGES:
                raise DeepEMError(f"{path} holds more than {_MAX_PAGES} images (a stack or a movie). Expected one "
                                  "grey image: average the frames, or split the stack.")
            seen.add(offset)
            stream.seek(offset)
            tags = stream.read(min(count.unpack(stream.read(count.size))[0], _MAX_TAGS) * entry.size)
            for tag, kind, values in entry.iter_unpack(tags):
                if tag in _TIFF_SIZES and (values != 1 or kind not in _TIFF_WHOLE_NUMBERS):
                    raise DeepEMError(f"{path} is a TIFF with {values} values of type {kind} for {_TIFF_SIZES[tag]}. "
                                      "Expected one whole number: the header is damaged. Copy or write the file again.")
    stream.seek(0)


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    *stack, rows, columns = (1, *shape)
    if min(rows, columns, *stack) < 1 or rows * columns > MAX_PIXELS:
        raise DeepEMError(f"{path} claims {_by(shape)} pixels: the header is damaged. "
                          "Copy or write the file again.")
    if math.prod(stack) > 1:
        raise DeepEMError(f"{path} holds {math.prod(stack)} images of {_by((rows, columns))} pixels "
                          "(a stack, a movie or a colour image). Expected one grey image: average the "
                          "frames, or split the stack.")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
