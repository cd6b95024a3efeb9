# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of STAR files, with the number of each line.

The existing libraries alter or reject names of micrographs with blanks, apostrophes and number signs, and their errors
do not name the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .errors import DeepEMError
from .textfiles import open_text

_WORD = re.compile(r"\s*(\S+)")
# A quote opens at the start of a word and closes before a blank; within a word it is an ordinary character.
_CLOSING = {mark: re.compile(rf"{mark}(?!\S)") for mark in "\"'"}
_RESERVED = ("_", "#", "'", '"', "data_", "loop_", "save_", "$", "[", "]", ";")


@dataclass
class StarTable:
    """One table of a STAR file.

    Attributes
    ----------
    name : str
        Name of the table, the text after "data_".
    labels : list of str
        Names of the columns without the leading underscore.
    rows : list of (int, list of str)
        Line number and fields of each row. A table without "loop_" has one row.
    """

    name: str
    labels: list[str] = field(default_factory=list)
    rows: list[tuple[int, list[str]]] = field(default_factory=list)


def read_tables(path: Path) -> list[StarTable]:
    """Read all tables of a STAR file (RELION 3.0 and later, CIF quoting, no multi-line values).

    Parameters
    ----------
    path : Path
        STAR file.

    Returns
    -------
    list of StarTable
        Tables in the order of the file, at least one.

    Raises
    ------
    DeepEMError
        If the file cannot be read, a row does not have one field per label, or there is no table.
    """
    tables: list[StarTable] = []
    looping = False
    try:
        with open_text(path) as handle:
            for number, line in enumerate(handle, 1):
                fields = _split(line)
                if not fields:
                    continue
                alone = len(fields) == 1
                if alone and fields[0].startswith("data_"):
                    tables.append(StarTable(fields[0][5:]))
                    looping = False
                elif not tables:
                    raise DeepEMError(f"{path}, line {number}: expected a STAR file, which starts with "
                                      f"'data_'; found {line.strip()!r}.")
                elif alone and fields[0] == "loop_":
                    looping = True
                else:
                    _add_line(path, tables[-1], looping, number, fields)
    except OSError as error:
        raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error
    if not tables:
        raise DeepEMError(f"{path} holds no table. Expected a STAR file.")
    return tables


def quote(text: str) -> str:
    """Quote a value for a STAR file if needed.

    Parameters
    ----------
    text : str
        Value.

    Returns
    -------
    str
        The value, in quotes if it must be.

    Raises
    ------
    DeepEMError
        If no kind of quotes can hold the value.
    """
    if text and not re.search(r"\s", text) and not text.startswith(_RESERVED):
        return text
    for mark in sorted("\"'", key=text.count):
        if not re.search(r"[\r\n]", text) and _split(mark + text + mark) == [text]:
            return mark + text + mark
    raise DeepEMError(f"{text!r} cannot be written to a STAR file. Expected a name without line breaks and "
                      "without both kinds of quotes: rename the micrograph.")


def _split(line: str) -> list[str]:
    if not any(mark in line for mark in "\"'#"):
        return line.split()
    fields, at, closing = [], 0, dict(_CLOSING)
    while (word := _WORD.match(line, at)) and (mark := word[1][0]) != "#":
        at = word.end()
        if mark in closing:
            if end := closing[mark].search(line, word.start(1) + 1):
                at = end.end()
                fields.append(line[word.start(1) + 1:end.start()])
                continue
            del closing[mark]  # no later one is closed either
        fields.append(word[1])
    return fields


def _add_line(path: Path, table: StarTable, looping: bool, number: int, fields: list[str]) -> None:
    if looping and len(fields) == 1 and fields[0].startswith("_") and not table.rows:
        table.labels.append(fields[0][1:])
    elif looping and len(fields) == len(table.labels):
        table.rows.append((number, fields))
    elif not looping and len(fields) == 2 and fields[0].startswith("_"):
        table.labels.append(fields[0][1:])
        table.rows = [(number, [*(table.rows[0][1] if table.rows else []), fields[1]])]
    else:
        raise DeepEMError(f"{path}, line {number}: {len(fields)} fields, expected {len(table.labels)} in "
                          f"table {table.name!r}. Values that hold blanks must be in quotes; if it is the last line "
                          "the file may be truncated.")
