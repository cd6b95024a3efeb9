# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of micrographs from their headers, for formats that need them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...micrographs.micrograph import read_pixel_size, read_shape
from ..names import by_micrograph, core_of
from .base import MicrographInfo


def read_info(path: str | Path, pixel_size_angst: float | None = None) -> MicrographInfo:
    """Read the size of a micrograph from its header.

    Parameters
    ----------
    path : str or Path
        File of the micrograph.
    pixel_size_angst : float, optional
        Pixel size; default: from the header.

    Returns
    -------
    MicrographInfo

    Raises
    ------
    DeepEMError
        If the file cannot be used, or has pixels that are not square and `pixel_size_angst` is not given.
    """
    return MicrographInfo(read_shape(path), read_pixel_size(path) if pixel_size_angst is None else pixel_size_angst)


class MicrographHeaders(Mapping):  # without parameters, for Python 3.8
    """Sizes of micrographs by name, read from the headers when they are asked for.

    Parameters
    ----------
    paths : mapping of str to Path
        Files by name. A micrograph is also found by another name of it, see `names.match_names`.
    pixel_size_angst : float, optional
        Pixel size of all; default: from the headers.
    binning : float
        Factor by which the micrographs were binned before they got their coordinates: the sizes are those after it.
    """

    def __init__(self, paths: Mapping[str, Path], pixel_size_angst: float | None = None, binning: float = 1.0) -> None:
        self._paths = dict(paths)
        self._pixel_size_angst, self._binning = pixel_size_angst, binning
        self._found: dict[str, MicrographInfo | None] = {}
        self._alike: dict[str, dict[str, Path]] = defaultdict(dict)  # files that a name could belong to
        for name, path in self._paths.items():
            for text in (name, os.path.splitext(path)[0]):
                self._alike[core_of(text)][name] = path

    def __getitem__(self, name: str) -> MicrographInfo:
        if name not in self._found:
            alike = self._alike.get(core_of(name), {})
            assigned, _ = by_micrograph(alike, {name: name}, f"the coordinates of {name}")
            self._found[name] = next((self._read(self._paths[own]) for own in assigned), None)
        info = self._found[name]
        if info is None:
            raise KeyError(name)
        return info

    def _read(self, path: Path) -> MicrographInfo:
        info = read_info(path, self._pixel_size_angst)
        rows, columns = (round(size / self._binning) for size in info.shape)
        return MicrographInfo((rows, columns), info.pixel_size_angst and self._binning * info.pixel_size_angst)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
