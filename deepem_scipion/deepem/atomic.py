# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from .errors import DeepEMError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Let a file be written that takes its place only once it is complete.

    Parameters
    ----------
    path : the file; one that exists is replaced at the end

    Yields
    ------
    Where to write it: the same name in a folder beside it that only its owner may look into, and that is removed at
    the end even if the block raises.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    path = Path(path)
    try:
        with TemporaryDirectory(prefix=".deepem-", dir=path.parent) as folder:
            aside = Path(folder) / path.name
            yield aside
            os.replace(aside, path)
    except OSError as error:
        raise DeepEMError(f"{path} cannot be written ({error}). Check the folder, its permissions and the "
                          "space left.") from error


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that takes its place only once it is complete, see `atomic_path`.

    Parameters
    ----------
    path : the file; one that exists is replaced at the end
    mode : "w" (text, UTF-8, Unix line ends) or "wb"

    Yields
    ------
    The open file.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    # Names of files need not be valid UTF-8, and must come out as they came in.
    text: dict[str, Any] = {} if "b" in mode else {
        "encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    with atomic_path(path) as aside, open(aside, mode, **text) as handle:
        yield handle
