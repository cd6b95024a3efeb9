# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text files of other programs, and of other systems."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import IO


def open_text(path: str | Path, newline: str | None = None) -> IO[str]:
    """Open a text file in UTF-8, or in UTF-16 if it begins with its mark, as files from Windows may.

    Parameters
    ----------
    path : str or Path
    newline : str, optional
        As for `open`.

    Returns
    -------
    text file object
        Bytes that are no text are kept as surrogates, as in names of files.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as file:
        mark = file.read(2)
    if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return open(path, encoding="utf-16", errors="replace", newline=newline)
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
