# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run in parts, each picked by its own process: which micrographs are of a part, and one results folder of all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..atomic import atomic_path
from ..coordinates.star import Optics
from ..errors import DeepEMError
from ..startables import read_tables
from .earlier import REFUSE, alone_in, prepare
from .export import write_star
from .results import ALWAYS, PickingResults
from .settings import RunSettings
from .summary import MicrographResult

T = TypeVar("T")


def part_of(micrographs: Mapping[str, T], text: str) -> dict[str, T]:
    """Return the micrographs of one part.

    Parameters
    ----------
    micrographs : mapping of str to T
        All micrographs, in the same order for each part.
    text : str
        "I/N": part I, from 1, of N. Every N-th micrograph is of it.

    Returns
    -------
    dict of str to T
        May be empty if there are more parts than micrographs.

    Raises
    ------
    DeepEMError
        If the text is not of this kind.

    Examples
    --------
    >>> part_of(dict.fromkeys("abcde"), "2/3")
    {'b': None, 'e': None}
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, n_parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= n_parts:
        raise DeepEMError(f"part {text!r}: expected I/N, for instance 3/10, with I from 1 to N")
    return dict(list(micrographs.items())[number - 1::n_parts])


def merge_runs(output: str | Path, folders: Sequence[str | Path],
               existing: str = REFUSE) -> dict[str, MicrographResult]:
    """Put the results of several runs, of different micrographs with the same settings, into one results folder.

    Parameters
    ----------
    output : str or Path
        Results folder to make. The parts stay as they are; files are linked where that is possible.
    folders : sequence of str or Path
        Results folders of the parts.
    existing : {"refuse", "overwrite"}
        What to do about results in the folder, see `earlier.prepare`.

    Returns
    -------
    dict of str to MicrographResult
        Results of all micrographs by name.

    Raises
    ------
    DeepEMError
        If a part has no results, was made with other settings, has a micrograph of another part, or is the output
        folder or in it; or a file cannot be read or written.
    """
    target = Path(os.path.realpath(output))
    for place in (Path(os.path.realpath(folder)) for folder in folders):
        if target in (place, *place.parents):
            raise DeepEMError(f"{place} is a part, and it is the output folder or in it. Expected an output folder "
                              "apart from the parts, which stay as they are: give another one, or leave out this part.")
    parts = [PickingResults(folder) for folder in folders]
    settings, micrographs, sources = _collect(parts)
    results = PickingResults(output)
    further = sorted({kind for part in parts for kind in part.further()})
    with alone_in(results):
        prepare(results, {name: Path(found.path) for name, found in micrographs.items()}, settings, existing, further)
        for name, part in sources.items():
            for kind in (*ALWAYS, *further):
                if part.path(kind, name).is_file():
                    _take(part.path(kind, name), results.path(kind, name))
        expected = max(len(micrographs), sum(part.read_expected() for part in parts))
        results.write_summary(settings, micrographs, expected)
        results.write_failed(micrographs)
        write_star(results, micrographs, settings, _optics(parts))
    return micrographs


def missing_parts(expected: Sequence[str], found: Mapping[str, object], n_parts: int) -> dict[int, list[str]]:
    """Return the micrographs that are missing by the number of the part that should have picked them.

    Parameters
    ----------
    expected : sequence of str
        Names of all micrographs, in the order in which they were divided.
    found : mapping of str to object
        By name, the micrographs that were picked or failed.
    n_parts : int
        Number of parts.

    Returns
    -------
    dict of int to list of str
    """
    missing: dict[int, list[str]] = {}
    for number, name in enumerate(expected):
        if name not in found:
            missing.setdefault(number % n_parts + 1, []).append(name)
    return missing


def are_parts(expected: Sequence[str], found: Sequence[Collection[str]], n_parts: int) -> bool:
    """Return whether some groups of micrographs can be parts, each another one.

    Parameters
    ----------
    expected, n_parts
        As for `missing_parts`.
    found : sequence of collection of str
        Names of the micrographs of each group.

    Returns
    -------
    bool
    """
    part = {name: number % n_parts for number, name in enumerate(expected)}
    numbers = [{part[name] for name in names if name in part} for names in found]
    return sum(map(len, numbers)) == len(set().union(*numbers)) and all(len(each) <= 1 for each in numbers)


def _collect(parts: Sequence[PickingResults]) -> tuple[RunSettings, dict[str, MicrographResult],
                                                         dict[str, PickingResults]]:
    """Settings of all parts; results, and the part they are from, by name of the micrograph."""
    settings: RunSettings | None = None
    micrographs: dict[str, MicrographResult] = {}
    sources: dict[str, PickingResults] = {}
    for part in parts:
        part.check()
        own = part.read_settings()
        first = settings or own
        changed = [name for name, value in own.as_dict().items() if first.as_dict()[name] != value and name != "masks"]
        if changed:
            raise DeepEMError(f"{part.folder} was picked with another {', '.join(changed)} than {parts[0].folder}. "
                              "Expected parts of one run: pick it again with the same options.")
        settings = replace(first, masks={**first.masks, **own.masks})
        for name, found in part.read_micrographs().items():
            if name in sources:
                raise DeepEMError(f"{sources[name].folder} and {part.folder} both have the micrograph {name}. Expected "
                                  "each in one part: leave out one of the folders.")
            micrographs[name], sources[name] = found, part
    if settings is None:
        raise DeepEMError("there is nothing to merge. Expected output folders of `deepem pick --part`.")
    return settings, micrographs, sources


def _take(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as aside:
            try:
                os.link(source, aside)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, aside)
    except OSError as error:
        raise DeepEMError(f"{target} cannot be written ({error}).") from error


def _optics(parts: Sequence[PickingResults]) -> Optics:
    """Parameters of the microscope in the first part's picks.star."""
    labels = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    for part in parts:
        for table in read_tables(part.path("star")) if part.path("star").is_file() else []:
            if set(labels) <= set(table.labels) and table.rows:
                return Optics(*(float(table.rows[0][1][table.labels.index(label)]) for label in labels))
    return Optics()
