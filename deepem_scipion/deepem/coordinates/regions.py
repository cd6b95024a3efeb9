# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The annotated parts of micrographs, and tables of them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..atomic import atomic_write
from ..errors import DeepEMError
from ..micrographs.find import micrograph_name

log = logging.getLogger(__name__)

# x0, y0, x1, y1: the part x0 <= x < x1, y0 <= y < y1, in pixels of the input micrograph.
Region = tuple[float, float, float, float]

_NUMBER = r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
_LINE = re.compile(rf"(.*?\S)\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}(?:\s*#.*)?")


def checked_region(values: Sequence[float], where: str) -> Region:
    """Four numbers as a Region; DeepEMError, beginning with `where`, if they are none."""
    if len(values) != 4 or not (values[0] < values[2] and values[1] < values[3]):
        raise DeepEMError(f"{where}: expected X0 Y0 X1 Y1 with X0 < X1 and Y0 < Y1, such as 20 20 1220 1180; found "
                          f"{' '.join(f'{value:g}' for value in values)!r}")
    x0, y0, x1, y1 = map(float, values)
    return x0, y0, x1, y1


def read_regions(path: str | Path, names: Mapping[str, str]) -> dict[str, Region]:
    """Read the annotated regions of some micrographs.

    Parameters
    ----------
    path : a table with the micrograph's name, x0, y0, x1 and y1 in every line, parted by tabs or blanks. What
        follows a # after the numbers, and a line that begins with one, is a comment.
    names : what a micrograph may be called -> its name in the result. In the table it may also have a folder and
        an extension.

    Returns
    -------
    Name of the micrograph -> region. Lines about micrographs that are not in `names` are left out, which is logged.

    Raises
    ------
    DeepEMError
        The file cannot be read, a line is no such line, two lines are about one micrograph, or no line is about any.
    """
    found: dict[str, Region] = {}
    lines: dict[str, int] = {}
    unknown: list[str] = []
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as handle:
            for number, line in enumerate(handle, 1):
                text = line.strip()
                if not text or text.startswith("#"):
                    continue
                fields = _LINE.fullmatch(text)
                if not fields:
                    raise DeepEMError(f"{path}, line {number}: expected 'micrograph x0 y0 x1 y1', found {text!r}")
                region = checked_region([float(word) for word in fields.groups()[1:]], f"{path}, line {number}")
                called = fields[1]
                file = os.path.basename(called)
                name = next((names[form] for form in (called, file, micrograph_name(file)) if form in names), None)
                if name is None:
                    unknown.append(called)
                elif name in found:
                    raise DeepEMError(f"{path}: lines {lines[name]} and {number} are both about micrograph {name!r}. "
                                      "Keep one of them.")
                else:
                    found[name], lines[name] = region, number
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error
    if not found:
        raise DeepEMError(f"{path}: expected lines 'micrograph x0 y0 x1 y1' about the micrographs "
                          f"({', '.join(sorted(set(names.values()))[:3])}, ...); found "
                          + (f"lines about {', '.join(unknown[:3])}" if unknown else "none"))
    if unknown:
        log.warning("%s: %d lines are about other micrographs and left out: %s", path, len(unknown),
                    ", ".join(unknown[:5]))
    return found


def write_regions(path: str | Path, regions: Mapping[str, Region]) -> None:
    """Write a table of regions, by name of the micrograph, that `read_regions` reads; names have no folder."""
    with atomic_write(path) as handle:
        for name, region in regions.items():
            numbers = "\t".join(f"{value:.6f}" for value in region)
            # The folder keeps a name that begins with a number sign from being taken for a comment.
            handle.write(f"./{name}\t{numbers}\n")
