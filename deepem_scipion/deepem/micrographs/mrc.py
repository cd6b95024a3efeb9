# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""MRC files, plain or compressed by gzip or bzip2."""

from __future__ import annotations

import bz2
import gzip
import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DeepEMError
from .limits import check_shape, format_shape

MAX_EXTENDED_BYTES = 2**27
_HEADER_BYTES = 1024
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2", 101: "u1"}
_BYTES, _HALF_BYTES = 0, 101  # the second has two pixels of 4 bits, without sign, in each byte
# IMOD's mark of its own files, "IMOD", and the bits of its flags: bytes have a sign; bytes hold two pixels of 4 bits.
_IMOD_STAMP, _IMOD_SIGNED, _IMOD_HALF_BYTES = 1146047817, 1, 16
_IMOD_OFFSET = 152
_DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}


@dataclass(frozen=True)
class MrcHeader:
    """Header of an MRC file with one image.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    pixel_sizes_angst : tuple of float or None
        Pixel size along x and y in angstrom, None if the header does not give it.
    mode : int
        MRC mode of the pixels.
    dtype : numpy.dtype
        Type of the pixels, with byte order; of two pixels side by side in mode 101.
    data_offset : int
        Bytes before the first pixel.
    sign_unknown : bool
        Whether the header does not say if bytes have a sign.
    """

    shape: tuple[int, int]
    pixel_sizes_angst: tuple[float, float] | None
    mode: int
    dtype: np.dtype[Any]
    data_offset: int
    sign_unknown: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of all pixels."""
        rows, columns = self.shape
        return rows * ((columns + 1) // 2 if self.mode == _HALF_BYTES else columns * self.dtype.itemsize)


@contextmanager
def open_mrc(path: Path) -> Iterator[tuple[MrcHeader, IO[bytes]]]:
    """Open an MRC file at its first pixel.

    Parameters
    ----------
    path : Path
        MRC file, perhaps compressed.

    Yields
    ------
    header : MrcHeader
    stream : binary file object
        Positioned at the first pixel. Header and pixels belong to one file even if the path is replaced meanwhile.

    Raises
    ------
    DeepEMError
        If the header is damaged, or does not describe exactly one real-valued image that fits the file's length.
    """
    with open(path, "rb") as handle:
        start = handle.read(_HEADER_BYTES)
    decompress = None if start[208:212] == b"MAP " else _DECOMPRESSORS.get(start[:2])
    with (decompress or open)(path, "rb") as stream:
        header = _parse_header(path, stream.read(_HEADER_BYTES))
        if not decompress:
            _check_length(path, header, os.stat(stream.fileno()).st_size)
        stream.seek(header.data_offset)
        yield header, stream


def read_mrc_pixels(path: Path) -> tuple[tuple[int, int], np.ndarray]:
    """Read the pixels of an MRC file.

    Parameters
    ----------
    path : Path
        MRC file, perhaps compressed.

    Returns
    -------
    shape : tuple of int
        Rows and columns that the header gives.
    data : 1D array
        Pixels in the order of the file; fewer than `shape` requires if the file is truncated.

    Raises
    ------
    DeepEMError
        As for `open_mrc`.
    """
    with open_mrc(path) as (header, stream):
        data = _read(stream, header)
    if header.sign_unknown:
        data = _with_probable_sign(data)
    return header.shape, _unpack(data, header.shape) if header.mode == _HALF_BYTES else data


def _read(stream: IO[bytes], header: MrcHeader) -> np.ndarray:
    """All pixels, or those before the end of the stream."""
    size = header.dtype.itemsize
    if isinstance(stream, io.BufferedReader):  # not compressed
        return np.fromfile(stream, header.dtype, header.n_bytes // size)
    content = stream.read(header.n_bytes)
    return np.frombuffer(content, header.dtype, len(content) // size)


def _with_probable_sign(data: np.ndarray) -> np.ndarray:
    """Bytes without sign if their values, read so, spread less: with it the brightest would be the darkest."""
    without: np.ndarray = data.view(np.uint8)
    numbers, values = np.bincount(without, minlength=256), np.arange(256, dtype=np.uint8)
    spread, spread_with_sign = (np.cov(each.astype(float), fweights=numbers, ddof=0)
                                for each in (values, values.view(np.int8)))
    return without if spread < spread_with_sign else data


def _unpack(data: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels of 4 bits: the lower half of a byte comes first, and each row begins with a new byte."""
    row_bytes = (shape[1] + 1) // 2
    rows = data[:len(data) // row_bytes * row_bytes].reshape(-1, row_bytes, 1)
    pixels: np.ndarray = np.concatenate([rows & 15, rows >> 4], axis=2).reshape(-1, 2 * row_bytes)
    return pixels[:, :shape[1]].reshape(-1)


def _parse_header(path: Path, start: bytes) -> MrcHeader:
    """Parse the main header; the extended header is not read, since it may be damaged."""
    from mrcfile.mrcinterpreter import MrcInterpreter

    without_extension = start[:92] + bytes(4) + start[96:]
    # Permissive: old programs omit the map string or the machine stamp, and their images are fine.
    header = MrcInterpreter(io.BytesIO(without_extension), permissive=True, header_only=True).header
    extended = int(np.frombuffer(start, header.mode.dtype, count=1, offset=92)[0])
    columns, rows, images, mode = (int(header[key]) for key in ("nx", "ny", "nz", "mode"))
    stamp, flags = map(int, np.frombuffer(start, header.mode.dtype, count=2, offset=_IMOD_OFFSET))
    if stamp == _IMOD_STAMP and mode == _BYTES and flags & _IMOD_HALF_BYTES:
        mode, columns = _HALF_BYTES, 2 * columns
    if mode not in _DTYPES:
        hint = "" if bytes(header.map)[:3] == b"MAP" else " and lacks the MAP string, so it may not be an MRC file"
        raise DeepEMError(f"{path} has MRC mode {mode}{hint}. Expected TIFF, or MRC of mode "
                          f"{', '.join(map(str, _DTYPES))} (real numbers).")
    check_shape(path, (images, rows, columns))
    if not 0 <= extended <= MAX_EXTENDED_BYTES:
        raise DeepEMError(f"{path} claims an extended header of {extended} bytes: the header is damaged. "
                          "Copy or write the file again.")
    _check_axes(path, int(header.mapc), int(header.mapr))
    pixel_sizes = _pixel_size(header.cella.x, header.mx), _pixel_size(header.cella.y, header.my)
    sign_unknown = mode == _BYTES and stamp != _IMOD_STAMP and not header.dmin < header.dmax
    signed = bool(flags & _IMOD_SIGNED) if stamp == _IMOD_STAMP else sign_unknown or header.dmax <= 127
    kind = "u1" if mode == _BYTES and not signed else _DTYPES[mode]
    dtype = np.dtype(kind).newbyteorder(header.mode.dtype.byteorder)
    return MrcHeader((rows, columns), pixel_sizes if all(pixel_sizes) else None, mode, dtype, _HEADER_BYTES + extended,
                     sign_unknown)


def _check_axes(path: Path, column_axis: int, row_axis: int) -> None:
    """Raise DeepEMError if the header names other axes than x along the columns and y along the rows.

    Old programs leave the fields empty. RELION takes no notice of them, EMAN2 exchanges the axes: whatever the frame of
    the picks, it would be wrong for one of them.
    """
    axes = column_axis, row_axis
    if axes != (1, 2) and set(axes) < {1, 2, 3}:
        raise DeepEMError(f"{path}: its header gives axis {'.xyz'[column_axis]} along the columns and "
                          f"{'.xyz'[row_axis]} along the rows (MAPC {column_axis}, MAPR {row_axis}), and programs "
                          "disagree about the coordinates in such a file. Expected x and y (1, 2): write the "
                          "micrograph again, for instance with `e2proc2d.py`.")


def _check_length(path: Path, header: MrcHeader, n_bytes: int) -> None:
    """Raise DeepEMError unless a file of `n_bytes` bytes holds the image that its header describes."""
    n_pixels, size = math.prod(header.shape), header.n_bytes / math.prod(header.shape)
    expected, data_bytes = header.data_offset + header.n_bytes, n_bytes - header.data_offset
    if n_bytes < expected:
        raise DeepEMError(f"{path} is truncated: {n_bytes} bytes found, {expected} expected for "
                          f"{format_shape(header.shape)} pixels of mode {header.mode}. Copy or write the file again.")
    other_sizes = {np.dtype(dtype).itemsize for dtype in _DTYPES.values()} - {size}
    if data_bytes in {n_pixels * other for other in other_sizes}:
        raise DeepEMError(f"{path} holds {data_bytes // n_pixels} bytes per pixel, but its header gives mode "
                          f"{header.mode}, which has {size:g}: the header is damaged. Copy or write the file again.")


def _pixel_size(length_angst: float, intervals: int) -> float:
    size = float(length_angst) / int(intervals) if intervals else 0.0
    return size if math.isfinite(size) and size > 0 else 0.0
