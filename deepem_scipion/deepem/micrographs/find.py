# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding micrographs from files, folders, patterns and list files."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import DeepEMError
from ..startables import read_tables
from ..textfiles import open_text
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
        name to use; or a .star file of RELION with rlnMicrographName); another file, which is a micrograph even if its
        name has glob characters; a folder, whose .mrc, .mrcs (of one image), .mrc.gz, .mrc.bz2, .tif and .tiff files
        are taken in alphabetical order; a glob pattern. Power spectra and the like are left out, see
        `others.without_others`.

    Returns
    -------
    dict of str to Path
        Paths by name, in the order found: the name in the list file or else the file name without folder and last
        extension. If two files have the same one, their names begin with their folders, as from the folder that holds
        all micrographs. A file found twice under one name, also through links, is taken once, by its shortest path.
        Paths in list and STAR files are relative to the current folder or to a folder above the file; they need not
        exist: reading them reports what is missing.

    Raises
    ------
    DeepEMError
        If an argument is empty or finds nothing, a list file cannot be read, two micrographs have the same name
        although their folder is the same, or a name cannot be used for result files.
    """
    files: dict[tuple[str, str], Path] = {}
    for argument in without_others(list(map(str, arguments))):
        for name, path in _expand(argument):
            known = files.get((name, real_path(path)), path)
            files[name, real_path(path)] = min(known, path, key=lambda place: len(place.parts))
    given = {(name, os.path.abspath(path)): path for (name, _), path in files.items()}
    if not given:
        raise DeepEMError("No micrograph was given. Expected files, folders, glob patterns or list files.")
    derived = [place for name, place in given if name == micrograph_name(place)]
    repeated = len({name for name, _ in given}) < len(given) and derived
    folder = os.path.commonpath([os.path.dirname(place) for place in derived]) if repeated else None
    found: dict[str, Path] = {}
    for (name, place), path in given.items():
        _check_name(name, path)
        if folder is not None and name == micrograph_name(place):
            name = os.path.splitext(os.path.relpath(place, folder))[0]
            for part in name.split("/"):
                _check_name(part, path)
        known = found.setdefault(name, path)
        if os.path.abspath(known) != place:
            raise DeepEMError(f"Two micrographs are named {name!r}: {known} and {path}. Rename one, or "
                              "give names in a list file (path, tab, name).")
    return found


def real_path(path: str | Path) -> str:
    """Return the absolute path without links; a text that cannot be a path is returned as it is."""
    try:
        return os.path.realpath(path)
    except ValueError:  # a null character, from a damaged list
        return str(path)


def has_own_name(micrographs: Mapping[str, Path]) -> set[str]:
    """Return the names that say more than the file name of their micrograph.

    Parameters
    ----------
    micrographs : mapping of str to Path
        From `find_micrographs`.

    Returns
    -------
    set of str
        Those given in a list, and all of micrographs whose file name another has as well.
    """
    files = Counter(map(micrograph_name, micrographs.values()))
    return {name for name, path in micrographs.items() if name != micrograph_name(path) or files[name] > 1}


def _expand(argument: str | Path) -> Iterator[tuple[str, Path]]:
    try:
        yield from _found(argument)
    except OSError as error:
        raise DeepEMError(f"{argument} cannot be read: {error.strerror}.") from error


def _found(argument: str | Path) -> Iterator[tuple[str, Path]]:
    path = Path(argument)
    if not argument:
        raise DeepEMError("One of the micrographs is an empty name. Expected files, folders, patterns or lists.")
    if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        yield from _read_list(path)
        return
    if path.is_file() and path.suffix.lower() == ".star":
        yield from _read_star(path)
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
        with open_text(path) as handle:
            lines = [line.rstrip("\n") for line in handle]
    except OSError as error:
        raise DeepEMError(f"The list file {path} cannot be read: {error.strerror}.") from error
    entries = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise DeepEMError(f"The list file {path} is empty. Expected one micrograph per line.")
    for number, fields in entries:
        if len(fields) > 2 or not all(fields):
            raise DeepEMError(f"{path}, line {number}: expected a path, or a path, a tab and a name; found "
                              f"{'<tab>'.join(fields)!r}.")
        yield fields[1] if len(fields) == 2 else micrograph_name(fields[0]), find_listed(fields[0], path)


def _read_star(path: Path) -> Iterator[tuple[str, Path]]:
    label = "rlnMicrographName"
    table = next((table for table in read_tables(path) if label in table.labels), None)
    if table is None:
        raise DeepEMError(f"{path}: no table has _{label}. Expected micrographs as images, or a STAR file that lists "
                          "them.")
    if not table.rows:
        raise DeepEMError(f"{path}: the table with _{label} has no row. Expected one micrograph per row.")
    column = table.labels.index(label)
    for name in dict.fromkeys(fields[column] for _, fields in table.rows):
        place = find_listed(re.sub(r"^\d+@", "", name), path)
        yield micrograph_name(place), place


def find_listed(name: str, file: Path) -> Path:
    """Find a file that a list or a STAR file names.

    Parameters
    ----------
    name : str
        Path, relative to the project folder of RELION, for instance.
    file : Path
        The file that names it.

    Returns
    -------
    Path
        As from the current folder or, if it is not there, from the closest folder above that file. The path itself
        if there is no such file.
    """
    if os.path.exists(name):
        return Path(name)
    above = (folder / name for folder in Path(os.path.abspath(file)).parents)
    return next((place for place in above if os.path.exists(place)), Path(name))


def _check_name(name: str, path: Path) -> None:
    if not name or name in (".", "..") or re.search(r"[/\x00-\x1f\x7f]", name):
        raise DeepEMError(f"{path}: {name!r} cannot be used to name result files. Expected a name without "
                          "slash, tab or line break: rename the file, or give a name in a list file "
                          "(path, tab, name).")
