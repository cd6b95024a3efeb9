# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Annotated regions of micrographs, and tables of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Tuple

from ..atomic import atomic_write
from ..errors import DeepEMError
from ..micrographs.find import IMAGE_ENDINGS
from ..textfiles import open_text
from .names import match_names

log = logging.getLogger(__name__)

# x0, y0, x1, y1 of the part x0 <= x < x1, y0 <= y < y1 that was annotated, in pixels of the input micrograph.
Region = Tuple[float, float, float, float]

_NUMBER = r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
_LINE = re.compile(rf"(.*?\S)\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}(?:\s*#.*)?")


def checked_region(values: Sequence[float], where: str) -> Region:
    """Check that numbers make a region.

    Parameters
    ----------
    values : sequence of float
        Should be x0, y0, x1, y1.
    where : str
        Start of the message: the option or line that has the numbers.

    Returns
    -------
    Region
        The same numbers.

    Raises
    ------
    DeepEMError
        If they are not four, or x0 < x1 and y0 < y1 does not hold.
    """
    if len(values) != 4 or not (values[0] < values[2] and values[1] < values[3]):
        raise DeepEMError(f"{where}: expected X0 Y0 X1 Y1 with X0 < X1 and Y0 < Y1, such as 20 20 1220 1180; found "
                          f"{' '.join(f'{value:g}' for value in values)!r}")
    x0, y0, x1, y1 = map(float, values)
    return x0, y0, x1, y1


def read_regions(path: str | Path, names: Mapping[str, str]) -> dict[str, Region]:
    """Read the annotated regions of micrographs.

    Parameters
    ----------
    path : str or Path
        Table with the micrograph's name, x0, y0, x1 and y1 in each line, separated by tabs or blanks. Text after a `#`
        that follows the numbers, and lines that start with one, are comments.
    names : mapping of str to str
        Name in the result by name in the table, where it may also have a folder and an extension.

    Returns
    -------
    dict of str to Region
        Regions by name of the micrograph. Lines for micrographs that are not in `names` are left out and logged.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a line is invalid, two lines are for the same micrograph, or no line is for any.
    """
    lines = list(_read_lines(path))
    unknown = list(dict.fromkeys(_without_extension(called) for _, called, _ in lines if called not in names))
    match = match_names(unknown, [name for name in names if name not in {called for _, called, _ in lines}],
                        (path, "the micrographs"))
    known = {**match.pairs, **{name: name for name in names}}
    found: dict[str, Region] = {}
    numbers: dict[str, int] = {}
    for number, called, region in lines:
        name = names.get(known.get(called, known.get(_without_extension(called), "")))
        if name in found:
            raise DeepEMError(f"{path}: lines {numbers[name]} and {number} are both for micrograph {name!r}. "
                              "Keep one of them.")
        if name is not None:
            found[name], numbers[name] = region, number
    unknown = [name for name in unknown if name not in match.pairs]
    if not found:
        raise DeepEMError(f"{path}: expected lines 'micrograph x0 y0 x1 y1' for the micrographs "
                          f"({', '.join(sorted(set(names.values()))[:3])}, ...); found "
                          + (f"lines for {', '.join(unknown[:3])}" if unknown else "none"))
    if unknown:
        log.warning("%s: %d lines are for other micrographs and are left out: %s", path, len(unknown),
                    ", ".join(unknown[:5]))
    return found


def _without_extension(name: str) -> str:
    """Return a name in a table without the extension, if it has that of an image."""
    end = next((end for end in IMAGE_ENDINGS if name.lower().endswith(end)), "")
    return name[:-len(end)] if end else name


def _read_lines(path: str | Path) -> Iterator[tuple[int, str, Region]]:
    """Yield number, micrograph and region of each line."""
    try:
        with open_text(path) as handle:
            for number, line in enumerate(handle, 1):
                text = line.strip()
                if not text or text.startswith("#"):
                    continue
                fields = _LINE.fullmatch(text)
                if not fields:
                    raise DeepEMError(f"{path}, line {number}: expected 'micrograph x0 y0 x1 y1', found {text!r}")
                region = checked_region([float(word) for word in fields.groups()[1:]], f"{path}, line {number}")
                yield number, fields[1], region
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error


def write_regions(path: str | Path, regions: Mapping[str, Region]) -> None:
    """Write a table of regions that `read_regions` reads.

    Parameters
    ----------
    path : str or Path
        File to write, atomically.
    regions : mapping of str to Region
        Regions by name of the micrograph, without folder.

    Raises
    ------
    DeepEMError
        If the file cannot be written.
    """
    with atomic_write(path) as handle:
        for name, region in regions.items():
            numbers = "\t".join(f"{value:.6f}" for value in region)
            # With the folder, a name that starts with a number sign is not taken for a comment.
            handle.write(f"./{name}\t{numbers}\n")
