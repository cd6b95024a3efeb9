# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import DeepEMError


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that takes its name only once it is complete.

    Parameters
    ----------
    path : the file; one that exists is replaced at the end
    mode : "w" (text, UTF-8, Unix line ends) or "wb"

    Yields
    ------
    The open file, which lies beside `path` under a temporary name; it is removed if the block raises.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    path = Path(path)
    # Not tempfile: its files are readable by their owner only.
    aside = path.with_name(f".deepem-{secrets.token_hex(8)}.tmp")
    # Names of files need not be valid UTF-8, and must come out as they came in.
    text: dict[str, Any] = {} if "b" in mode else {
        "encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    try:
        with open(aside, mode, **text) as handle:
            yield handle
        os.replace(aside, path)
    except OSError as error:
        raise DeepEMError(f"{path} cannot be written ({error}). Check the folder, its permissions and the "
                          "space left.") from error
    finally:
        aside.unlink(missing_ok=True)
