# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks that end with the process that holds them."""

from __future__ import annotations

from contextlib import suppress
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


def try_lock(file: int | IO[Any]) -> bool:
    """Lock an open file or folder until it is closed.

    Parameters
    ----------
    file : int or file object
        File, or descriptor of a file or folder.

    Returns
    -------
    bool
        False if somebody else has locked it. True where the system or the file system has no locks.
    """
    if fcntl is None:
        return True
    with suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
