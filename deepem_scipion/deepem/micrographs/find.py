# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding micrographs from files, folders, patterns and list files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import DeepEMError
from .others import without_others, without_stacks

LIST_SUFFIXES = (".txt", ".lst")
IMAGE_ENDINGS = (".mrc", ".mrcs", ".mrc.gz", ".mrc.bz2", ".tif", ".tiff")


def micrograph_name(path: str | Path) -> str:
    """Return the file name without folder and last extension.

    Examples
    --------
    >>> micrograph_name("mics/May08_03.05.02.mrc")
    'May08_03.05.02'
    """
    return os.path.splitext(os.path.basename(path))[0]


def find_micrographs(arguments: Sequence[str | Path]) -> dict[str, Path]:
    """Find micrographs from files, folders, glob patterns and list files.

    Parameters
    ----------
    arguments : sequence of str or Path
        Each is, in this order of precedence: a list file (.txt or .lst; one path per line, optionally a tab and the
        name to use); another file, which is a micrograph even if its name has glob characters; a folder, whose .mrc,
        .mrcs (of one image), .mrc.gz, .mrc.bz2, .tif and .tiff files are taken in alphabetical order; a glob pattern.
        Power spectra and the like are left out, see `others.without_others`.

    Returns
    -------
    dict of str to Path
        Paths by name, in the order found. A file found twice is taken once. Paths in list files are relative to the
        current folder and need not exist: reading them reports what is missing.

    Raises
    ------
    DeepEMError
        If an argument finds nothing, a list file cannot be read, two micrographs have the same name, or a name cannot
        be used for result files.
    """
    found: dict[str, Path] = {}
    for argument in without_others(list(map(str, arguments))):
        for name, path in _expand(argument):
            _check_name(name, path)
            known = found.setdefault(name, path)
            if os.path.abspath(known) != os.path.abspath(path):
                raise DeepEMError(f"Two micrographs are named {name!r}: {known} and {path}. Rename one, or "
                                  "give names in a list file (path, tab, name).")
    if not found:
        raise DeepEMError("No micrograph was given. Expected files, folders, glob patterns or list files.")
    return found


def _expand(argument: str | Path) -> Iterator[tuple[str, Path]]:
    try:
        yield from _found(argument)
    except OSError as error:
        raise DeepEMError(f"{argument} cannot be read: {error.strerror}.") from error


def _found(argument: str | Path) -> Iterator[tuple[str, Path]]:
    path = Path(argument)
    if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        yield from _read_list(path)
        return
    if path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.name.lower().endswith(IMAGE_ENDINGS) and p.is_file())
        paths = without_others(without_stacks(paths))
        if not paths:
            raise DeepEMError(f"The folder {path} holds no micrograph ({', '.join(IMAGE_ENDINGS)}).")
    else:
        paths = without_others(sorted(p for p in map(Path, glob.glob(str(argument), recursive=True)) if p.is_file()))
        if not paths:
            raise DeepEMError(f"{argument}: no such file or folder, and as a pattern it matches no file.")
    for found in paths:
        yield micrograph_name(found), found


def _read_list(path: Path) -> Iterator[tuple[str, Path]]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DeepEMError(f"The list file {path} cannot be read: {error.strerror}.") from error
    entries = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise DeepEMError(f"The list file {path} is empty. Expected one micrograph per line.")
    for number, fields in entries:
        if len(fields) > 2 or not all(fields):
            raise DeepEMError(f"{path}, line {number}: expected a path, or a path, a tab and a name; found "
                              f"{'<tab>'.join(fields)!r}.")
        yield fields[1] if len(fields) == 2 else micrograph_name(fields[0]), Path(fields[0])


def _check_name(name: str, path: Path) -> None:
    if not name or name in (".", "..") or re.search(r"[/\x00-\x1f\x7f]", name):
        raise DeepEMError(f"{path}: {name!r} cannot be used to name result files. Expected a name without "
                          "slash, tab or line break: rename the file, or give a name in a list file "
                          "(path, tab, name).")
