# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of a picking run: one line per micrograph, or per micrograph that failed."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..atomic import atomic_write
from ..errors import DeepEMError
from .summary import REJECTED, MicrographResult

_NUMBERS = {"picks": int, "mean_score": float, "candidates": int, "seconds": float, "finished": float,
            "evidence": float, "negative_evidence": float, "pixel_size_angst": float,
            "header_pixel_size_angst": float, "cut": int}
_COLUMNS = ("micrograph", "status", *_NUMBERS, *(f"rejected_{reason}" for reason in REJECTED),
            *(f"share_{reason}" for reason in REJECTED), "path", "reason")
_HEADING = "\t".join(_COLUMNS) + "\n"
_BLANKS = str.maketrans("\t\r\n", "   ")
# Numbers in a table are below this.
_MAX_NUMBER = 2.0**53


def write_table(path: str | Path, micrographs: Mapping[str, MicrographResult]) -> None:
    """Write a table with one micrograph per line.

    Parameters
    ----------
    path : str or Path
    micrographs : mapping of str to MicrographResult
        By name. Tabs and line ends in names, paths and reasons are replaced by blanks.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    with atomic_write(path) as handle:
        handle.writelines([_HEADING, *map(_line, micrographs, micrographs.values())])


def append_table(path: str | Path, micrographs: Mapping[str, MicrographResult]) -> None:
    """Add lines to a table, in a time that does not depend on its length; see `write_table`.

    The table is made where it does not exist. The write is not atomic: `read_table` leaves out a truncated line.
    """
    if not os.path.exists(path):
        return write_table(path, micrographs)
    try:
        with open(path, "a+b", buffering=0) as handle:
            start, size = _HEADING, handle.seek(0, os.SEEK_END)
            if size:
                handle.seek(-1, os.SEEK_END)
                start = "" if handle.read(1) == b"\n" else "\n"  # a truncated line ends here
            lines = "".join(map(_line, micrographs, micrographs.values()))
            content = (start + lines).encode(errors="surrogateescape")
            if handle.write(content) < len(content):
                handle.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise DeepEMError(f"{path} cannot be written ({error}). Check the folder, its permissions and the space "
                          "left.") from error


def read_table(path: str | Path) -> dict[str, MicrographResult]:
    """Read a table with one micrograph per line.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict of str to MicrographResult
        By name, in the order of the table; empty where there is no such file. Truncated and damaged lines are left out.
        Of several lines about one micrograph, as after another attempt, the last one counts.

    Raises
    ------
    DeepEMError
        The file cannot be read.
    """
    found = {}
    for line in _lines(path):
        row = line.split("\t")
        if len(row) == len(_COLUMNS):
            with suppress(ValueError):
                found[row[0]] = _result(dict(zip(_COLUMNS, row)))
    return found


def write_failures(path: str | Path, failed: Mapping[str, str]) -> None:
    """Write a table of failed micrographs.

    Parameters
    ----------
    path : str or Path
    failed : mapping of str to str
        Name of the micrograph to the reason.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    with atomic_write(path) as handle:
        handle.writelines(["micrograph\treason\n",
                           *(f"{name}\t{' '.join(reason.split())}\n" for name, reason in failed.items())])


def read_failures(path: str | Path) -> dict[str, str]:
    """Read a table of failed micrographs, name to reason; empty where there is no such file.

    Raises
    ------
    DeepEMError
        The file cannot be read.
    """
    return dict(line.split("\t", 1) for line in _lines(path) if "\t" in line)


def _lines(path: str | Path) -> list[str]:
    """Return the lines below the heading; what follows the last line end was truncated and is left out."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape").split("\n")[1:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error


def _line(name: str, found: MicrographResult) -> str:
    fields = {**found.as_dict(), "micrograph": name}
    if found.ok:
        fields.update({f"rejected_{reason}": number for reason, number in found.rejected.items()})
        fields.update({f"share_{reason}": share for reason, share in found.rejected_share.items()})
    values = ("" if fields.get(column) is None else str(fields[column]) for column in _COLUMNS)
    return "\t".join(value.translate(_BLANKS) for value in values) + "\n"


def _result(fields: Mapping[str, str]) -> MicrographResult:
    """Return the result of a line; raises ValueError where it is damaged."""
    numbers = {name: _checked(kind(fields[name])) for name, kind in _NUMBERS.items() if fields[name]}
    if fields["status"] != "ok":
        return MicrographResult(fields["path"], fields["reason"] or "unknown reason", finished=numbers.get("finished"))
    if "picks" not in numbers:
        raise ValueError("the number of picks is missing")
    rejected = {reason: _checked(int(fields[f"rejected_{reason}"] or 0)) for reason in REJECTED}
    return MicrographResult(fields["path"], rejected=rejected, **numbers)


def _checked(value: Any) -> Any:
    if not abs(value) < _MAX_NUMBER:
        raise ValueError(f"{value} is too large for a micrograph")
    return value
