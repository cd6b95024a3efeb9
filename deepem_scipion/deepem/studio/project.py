# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a studio session: what it shows, the edits, models and picks; open in one studio at a time."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np

from ..atomic import atomic_write
from ..coordinates.read import SESSION
from ..errors import DeepEMError
from ..locks import try_lock
from ..picking.results import PickingResults
from .marks import NEGATIVE, PARTICLE, Mark
from .settings import MAY_MOVE, StudioSettings

FORMAT = 1
# Folder of the session of a results folder, in it.
IN_RESULTS = "studio"


@dataclass
class StudioProject:
    """Files of a session.

    Attributes
    ----------
    folder : Path
        Made where it does not exist.
    """

    folder: Path
    _lock: IO[str] | None = field(default=None, repr=False)

    @property
    def edits(self) -> Path:
        """The log of edits."""
        return self.folder / "edits.jsonl"

    @property
    def particles(self) -> PickingResults:
        """Particles of the micrographs that have been edited, without candidates."""
        return PickingResults(self.folder / "particles")

    @property
    def negatives(self) -> PickingResults:
        """Positions that were marked as negatives, as picks."""
        return PickingResults(self.folder / "negatives")

    def model(self, turn: int) -> Path:
        """Path of the model that was learnt in a turn."""
        return self.folder / "models" / f"model-{turn}.deepem"

    @property
    def start(self) -> PickingResults:
        """Coordinates that a session began with, as candidates."""
        return PickingResults(self.folder / "start")

    def is_stated(self, name: str, settings: StudioSettings) -> bool:
        """Whether the picks of a micrograph, or that it has none, are known: not without coordinates to start with."""
        return settings.turn > 0 or not settings.starts_with("coordinates") or self.start.has_picks(name)

    def results(self, turn: int) -> PickingResults:
        """Candidates that the model of a turn found."""
        return PickingResults(self.folder / "picks" / f"{turn}")

    def write_marks(self, marks: Mapping[str, Sequence[Mark]], settings: StudioSettings) -> None:
        """Write the particles and negatives of all micrographs with marks as .box files; raises DeepEMError."""
        for name in (name for name in marks if name in settings.micrographs):
            for kind, results in ((PARTICLE, self.particles), (NEGATIVE, self.negatives)):
                values = np.array([mark.values for mark in marks[name] if mark.kind == kind], float).reshape(-1, 3)
                results.folder.mkdir(exist_ok=True)
                results.write_picks(name, values[:, :2], values[:, 2], settings.written_box_px)

    def keep_candidates(self, settings: StudioSettings) -> None:
        """Remove the candidates of a turn unless they were found as these settings say, or their model is lost.

        Raises
        ------
        DeepEMError
            They cannot be removed.
        """
        folder, note = self.results(settings.turn).folder, self._found_with(settings.turn)
        model_is_lost = settings.model is not None and not os.path.exists(settings.model)
        if not folder.exists() or model_is_lost or note.exists() and _read_note(note) == settings.found_with():
            return
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise DeepEMError(f"{folder}: candidates found with other settings cannot be removed ({error}). Remove "
                              "the folder.") from error

    def make_candidates(self, settings: StudioSettings) -> PickingResults:
        """Make the folder for the candidates of a turn, which are found as these settings say; see `keep_candidates`.

        Raises
        ------
        DeepEMError
            A folder or file cannot be written.
        """
        results, note = self.results(settings.turn), self._found_with(settings.turn)
        results.make()
        if not note.exists():
            with atomic_write(note) as handle:
                json.dump(settings.found_with(), handle)
        return results

    def _found_with(self, turn: int) -> Path:
        return self.results(turn).folder / "found_with.json"

    @property
    def output(self) -> PickingResults:
        """Picks and model as they are saved at the end."""
        return PickingResults(self.folder / "output")

    def state(self) -> str:
        """Return a digest of the settings and edits as they are on the disk."""
        files = (path.read_bytes() if path.exists() else b"" for path in (self._settings, self.edits))
        return hashlib.sha256(b"\n".join(files)).hexdigest()

    def note_saved(self, state: str) -> None:
        """Note the state whose picks were saved; raises DeepEMError where this is impossible."""
        with atomic_write(self._saved) as handle:
            json.dump(state, handle)

    def saved_state(self) -> object:
        """Return the state whose picks were saved last; None where this is not known."""
        return _read_note(self._saved)

    def write_turn(self, settings: StudioSettings) -> None:
        """Keep what a turn shows, without the list of micrographs; raises DeepEMError where this is impossible."""
        self._write(self.folder / "turns" / f"{settings.turn}.json", replace(settings, micrographs={}))

    def read_turn(self, turn: int) -> StudioSettings:
        """Read what a turn showed; raises DeepEMError where this is impossible."""
        return self._read(self.folder / "turns" / f"{turn}.json")

    def exists(self) -> bool:
        """Whether a session was saved here."""
        return self._settings.exists()

    def open(self) -> None:
        """Make the folder, and keep other studios out until `close`.

        Raises
        ------
        DeepEMError
            The folder cannot be made, or another studio has opened it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise DeepEMError(f"{self.folder}: the session cannot be saved there ({error.strerror}). Give another "
                              "folder with --project.") from error
        if not try_lock(lock):
            lock.seek(0)
            who = " ".join(lock.read(500).split()) or "somebody"
            lock.close()
            raise DeepEMError(f"{self.folder} is open in another studio: {who}. Close it there, or give another "
                              "folder with --project.")
        lock.seek(0)
        lock.truncate()
        lock.write(f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}, since "
                   f"{time.strftime('%Y-%m-%d %H:%M')}\n")
        lock.flush()
        self._lock = lock

    def close(self) -> None:
        """Let other studios in."""
        if self._lock is not None:
            self._lock.seek(0)
            self._lock.truncate()
            self._lock.close()
            self._lock = None

    def read(self) -> StudioSettings:
        """Read the settings.

        Returns
        -------
        StudioSettings

        Raises
        ------
        DeepEMError
            There are none, or they are damaged.
        """
        return self._read(self._settings)

    def _read(self, path: Path) -> StudioSettings:
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain["format"] != FORMAT:
                raise ValueError(f"format {plain['format']}, expected {FORMAT}")
            settings = StudioSettings.from_dict(plain)
            return replace(settings, **{key: os.path.abspath(self.folder / value) for key in MAY_MOVE
                                        if (value := getattr(settings, key)) is not None})
        except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise DeepEMError(f"{path}: expected the settings of a session as written by `deepem studio` "
                              f"({type(error).__name__}: {error})") from error

    def write(self, settings: StudioSettings) -> None:
        """Write the settings; raises DeepEMError where they cannot be written."""
        self._write(self._settings, settings)

    def _write(self, path: Path, settings: StudioSettings) -> None:
        path.parent.mkdir(exist_ok=True)
        plain = asdict(settings)
        for key in (key for key in MAY_MOVE if plain[key] is not None):
            file, beside = Path(os.path.abspath(plain[key])), Path(os.path.abspath(self.folder)).parent
            plain[key] = os.path.relpath(file, self.folder) if beside in file.parents else str(file)
        with atomic_write(path) as handle:
            json.dump({"format": FORMAT, **plain}, handle, indent=1)

    @property
    def _settings(self) -> Path:
        return self.folder / SESSION

    @property
    def _saved(self) -> Path:
        return self.folder / "saved.json"


def _read_note(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
