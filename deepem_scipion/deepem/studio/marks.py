# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people marked on micrographs, and the log of their edits: saved at once, undone and redone without limit."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from ..errors import DeepEMError

# Kinds of marks: a particle and a negative are x, y, score; a region, within which every particle is marked, is x0, y0,
# x1, y1; done, the micrograph was checked, has no numbers.
PARTICLE, NEGATIVE, REGION, DONE = "particle", "negative", "region", "done"
_NUMBERS = {PARTICLE: 3, NEGATIVE: 3, REGION: 4, DONE: 0}


@dataclass(frozen=True)
class Mark:
    """One mark on a micrograph.

    Attributes
    ----------
    kind : {"particle", "negative", "region", "done"}
    values : tuple of float
        In pixels of the input micrograph: x, y and the score of the candidate there (NaN where there was none), or the
        corners x0, y0, x1, y1 of a region.

    Raises
    ------
    ValueError
        The kind is unknown, or its numbers are missing or not finite.
    """

    kind: str
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # One NaN for all, so that marks without a score compare equal.
        object.__setattr__(self, "values", tuple(math.nan if math.isnan(value) else value for value in self.values))
        values = self.values[:2] if self.kind in (PARTICLE, NEGATIVE) else self.values
        if _NUMBERS.get(self.kind, -1) != len(self.values) or not all(map(math.isfinite, values)):
            raise ValueError(f"{self.kind} with {len(self.values)} numbers")

    def as_list(self) -> list[Any]:
        """Return plain values for JSON: the kind and the numbers, None for NaN."""
        return [self.kind, *(None if math.isnan(value) else round(value, 6) for value in self.values)]

    @classmethod
    def from_list(cls, plain: Sequence[Any]) -> Mark:
        """Return the mark of plain values; raises TypeError, ValueError or LookupError where they are none."""
        return cls(str(plain[0]), tuple(math.nan if value is None else float(value) for value in plain[1:]))


@dataclass(frozen=True)
class Edit:
    """One change, which undo takes back as a whole.

    Attributes
    ----------
    name : str
        Name of the micrograph.
    removed, added : tuple of Mark
    """

    name: str
    removed: tuple[Mark, ...]
    added: tuple[Mark, ...]

    @property
    def inverse(self) -> Edit:
        """The edit that takes this one back."""
        return Edit(self.name, self.added, self.removed)


class EditLog:
    """The marks of all micrographs, and a file with one line for each edit, undo and redo.

    Parameters
    ----------
    path : str or Path
        The file is read if it exists. A truncated last line, as after a crash, is left out.

    Attributes
    ----------
    marks : dict of str to list of Mark
        By name of the micrograph, the one edited last at the end; an edit replaces the list.

    Raises
    ------
    DeepEMError
        The file cannot be read, or a line before the last is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.marks: dict[str, list[Mark]] = {}
        self._done: list[Edit] = []
        self._undone: list[Edit] = []
        self._end = self._replay()
        try:
            self._file: FileIO = open(self.path, "ab", buffering=0)  # noqa: SIM115
            self._file.truncate(self._end)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def of(self, name: str, kind: str) -> list[Mark]:
        """Return the marks of one kind on a micrograph."""
        return [mark for mark in self.marks.get(name, ()) if mark.kind == kind]

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether an edit was undone last."""
        return bool(self._undone)

    def do(self, name: str, removed: Iterable[Mark], added: Iterable[Mark]) -> None:
        """Make an edit and write it to the file; one that changes nothing is left out.

        Parameters
        ----------
        name : str
            Name of the micrograph.
        removed, added : iterable of Mark

        Raises
        ------
        DeepEMError
            The file cannot be written; the marks are as before.
        """
        edit = Edit(name, tuple(removed), tuple(added))
        if edit.removed or edit.added:
            self._write([name, *([mark.as_list() for mark in marks] for marks in (edit.removed, edit.added))])
            self._do(edit)

    def undo(self) -> str:
        """Take back the last edit, or nothing; returns the name of its micrograph. Raises DeepEMError as `do`."""
        return self._step(self._done, "undo")

    def redo(self) -> str:
        """Make the last edit that was undone again, or nothing; returns the name of its micrograph."""
        return self._step(self._undone, "redo")

    def _step(self, edits: list[Edit], word: str) -> str:
        if not edits:
            return ""
        self._write(word)
        return self._move(word)

    def _move(self, word: str) -> str:
        source, target = (self._done, self._undone) if word == "undo" else (self._undone, self._done)
        edit = source.pop()
        self._apply(edit.inverse if word == "undo" else edit)
        target.append(edit)
        return edit.name

    def _do(self, edit: Edit) -> None:
        self._apply(edit)
        self._done.append(edit)
        self._undone.clear()

    def _apply(self, edit: Edit) -> None:
        marks = list(self.marks.pop(edit.name, ()))  # what was edited last is the last in order
        for mark in edit.removed:
            if mark in marks:
                marks.remove(mark)
        self.marks[edit.name] = [*marks, *edit.added]

    def _write(self, plain: Any) -> None:
        line = json.dumps(plain).encode() + b"\n"
        try:
            self._file.truncate(self._end)
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # done again before the next line
                self._file.truncate(self._end)
            raise self._unwritable(error) from error
        self._end += len(line)

    def _unwritable(self, error: OSError) -> DeepEMError:
        return DeepEMError(f"{self.path} cannot be written ({error.strerror}): the edit is not saved. Check the "
                           "folder, its permissions and the space left.")

    def _replay(self) -> int:
        """Make all edits of the file again; returns the length of its complete lines in bytes."""
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise DeepEMError(f"{self.path} cannot be read: {error.strerror}.") from error
        end = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:end].splitlines(), 1):
            try:
                self._replay_line(json.loads(line))
            except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
                raise DeepEMError(f"{self.path}, line {number}: expected an edit as written by `deepem studio` "
                                  f"({error}). Remove this line and those below to keep the edits before.") from error
        return end

    def _replay_line(self, plain: Any) -> None:
        if plain in ("undo", "redo"):
            self._move(plain)
            return
        name, removed, added = plain
        if not isinstance(name, str):
            raise TypeError("the name of a micrograph is no text")
        self._do(Edit(name, *(tuple(map(Mark.from_list, marks)) for marks in (removed, added))))
