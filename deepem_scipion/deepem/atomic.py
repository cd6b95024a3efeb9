# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Atomic writing: a file is complete or absent, never half written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from .errors import DeepEMError

# Files are in hidden folders whose names begin like this until they are complete.
UNFINISHED = ".deepem-"


def check_no_input(output: str | Path, *inputs: str | Path) -> None:
    """Check that a file to be written is none of those that are read.

    Parameters
    ----------
    output : str or Path
        File to write.
    *inputs : str or Path
        Files that must stay as they are.

    Raises
    ------
    DeepEMError
        If it is one of them, also by another path.
    """
    for path in inputs:
        if os.path.realpath(output) == os.path.realpath(path):
            raise DeepEMError(f"{output} would replace {path}, which is read. Expected the name of another file.")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Provide a temporary path whose file is moved to `path` when the block ends.

    Parameters
    ----------
    path : str or Path
        Final path. An existing file is replaced at the end.

    Yields
    ------
    Path
        Temporary path with the same file name, in a folder beside `path` that only its owner may enter. The folder is
        removed at the end, also if the block raises.

    Raises
    ------
    DeepEMError
        If the file cannot be written.
    """
    path = Path(path)
    try:
        with TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            os.replace(temporary, path)
    except OSError as error:
        raise DeepEMError(f"{path} cannot be written ({error}). Check the folder, its permissions and the "
                          "free space.") from error


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that appears at `path` only once it is complete, see `atomic_path`.

    Parameters
    ----------
    path : str or Path
        Final path. An existing file is replaced at the end.
    mode : {"w", "wb"}
        Text (UTF-8, Unix line ends) or binary.

    Yields
    ------
    file object
        The open temporary file.

    Raises
    ------
    DeepEMError
        If the file cannot be written.
    """
    # File names need not be valid UTF-8 and must be written as they were read.
    text: dict[str, Any] = {} if "b" in mode else {
        "encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    with atomic_path(path) as temporary, open(temporary, mode, **text) as handle:
        yield handle
