# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that other programs write beside micrographs, and which are left out of a folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import DeepEMError
from .images import read_header

log = logging.getLogger(__name__)

# Power spectra (RELION, CTFFIND, Gctf), sums of the even and the odd frames, gain references, backgrounds, masks.
_BESIDE = re.compile(r"(.*_)?(ps|psd|fft|ctf|diag|evn|odd|gain|gainref|background|mask|thumb)|(countref|superref).*",
                     re.IGNORECASE)
_EXTENSIONS = re.compile(r"\.(mrcs?(\.gz|\.bz2)?|tiff?)$", re.IGNORECASE)
# Files named in a warning.
_LISTED = 10

AnyPath = TypeVar("AnyPath", str, Path)


def without_others(paths: Sequence[AnyPath]) -> list[AnyPath]:
    """Leave out power spectra and other images that are no micrographs, and name them in a warning.

    Parameters
    ----------
    paths : sequence of str or Path
        Files, folders or patterns.

    Returns
    -------
    list of str or Path
        Those without a name such as ``x_PS.mrc``; all, if all have one.
    """
    others = {path for path in paths if _EXTENSIONS.search(str(path))
              and _BESIDE.fullmatch(_EXTENSIONS.sub("", Path(path).name))}
    if len(others) == len(paths):
        return list(paths)
    _warn(sorted(others), "by their names power spectra, sums of half of the frames, gain references or masks; a "
                          "micrograph of such a name can be given in a list file")
    return [path for path in paths if path not in others]


def without_stacks(paths: Iterable[Path]) -> list[Path]:
    """Leave out .mrcs files that are not a single image, as stacks of particles and movies, and name them in a warning.

    Parameters
    ----------
    paths : iterable of Path
        Files.

    Returns
    -------
    list of Path
        All others.
    """
    kept, stacks, reasons = [], [], []
    for path in paths:
        try:
            if path.suffix.lower() == ".mrcs":
                read_header(path)
            kept.append(path)
        except DeepEMError as error:
            stacks.append(path)
            reasons.append(str(error))
    _warn(stacks, reasons[0] if reasons else "")
    return kept


def _warn(paths: Sequence[str | Path], why: str) -> None:
    if paths:
        more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
        log.warning("left out: %s%s (%s)", ", ".join(map(str, paths[:_LISTED])), more, why.rstrip("."))
