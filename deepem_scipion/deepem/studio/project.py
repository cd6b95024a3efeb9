# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a studio session: what it shows, the edits, models and picks; open in one studio at a time."""

from __future__ import annotations

import getpass
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ..atomic import atomic_write
from ..coordinates.read import SESSION
from ..errors import DeepEMError
from ..picking.results import PickingResults
from ..picking.selection import Limits

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
MAX_BOX_PX = 100_000
# Files that are named from the folder of the session if they are in it or beside it, so that all can be moved together.
_MAY_MOVE = ("model", "results", "reference", "regions")


@dataclass(frozen=True)
class StudioSettings:
    """What a session shows.

    Attributes
    ----------
    micrographs : mapping of str to str
        Absolute path of each micrograph by its name.
    pixel_size_angst, diameter_angst : float
        Of the micrographs and of the particle.
    limits : Limits
        Limits of the picks shown.
    model : str, optional
        Model that found the candidates; None: the general model.
    results : str, optional
        Results folder with the candidates to start from.
    reference : str, optional
        Reference coordinates, a file or a folder.
    regions : str, optional
        Table of the annotated regions of micrographs, within which picks are compared with the reference.
    compared : mapping of str to str
        Path of the figures of other evaluations by label.
    distance_angst : float, optional
        Maximum distance of a pick from its reference particle. Default: half a diameter.
    masks, defocus : mapping of str to str, of str to float
        Files of masks of contamination, and defocus in micrometres, by name of the micrograph, as far as known.
    box_px : int, optional
        Side of the boxes written, in pixels of the micrographs. Default: 1.5 diameters.
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of TIFF files.
    bright, assumed : bool
        Whether particles are brighter than the background, for the general model; whether nobody gave a diameter yet.
    turn : int
        How many times a model was learnt.
    score_range : tuple of (float, float)
        Scores of the coordinates that the session began with which are shown as 0 and 1.
    """

    micrographs: Mapping[str, str]
    pixel_size_angst: float
    diameter_angst: float
    limits: Limits
    model: str | None = None
    results: str | None = None
    reference: str | None = None
    regions: str | None = None
    compared: Mapping[str, str] = field(default_factory=dict)
    distance_angst: float | None = None
    masks: Mapping[str, str] = field(default_factory=dict)
    defocus: Mapping[str, float] = field(default_factory=dict)
    box_px: int | None = None
    tiff_rows: str = "bottom"
    bright: bool = False
    turn: int = 0
    score_range: tuple[float, float] = (0.0, 1.0)
    assumed: bool = False

    def __post_init__(self) -> None:
        for name in self.micrographs:
            if not name or name in (".", "..") or "/" in name or "\0" in name:
                raise DeepEMError(f"{name!r}: expected the name of a micrograph, without slash")
        for what, value in (("pixel size", self.pixel_size_angst), ("particle diameter", self.diameter_angst),
                            ("matching distance", self.distance_angst)):
            if value is not None and not 0 < value < math.inf:
                raise DeepEMError(f"{what} {value:g}: expected angstrom, above 0")
        if not all(map(math.isfinite, self.defocus.values())):
            raise DeepEMError("a defocus is not finite: expected micrometres")
        if self.box_px is not None and not 1 < self.box_px < MAX_BOX_PX:
            raise DeepEMError(f"box {self.box_px}: expected pixels, from 2 to {MAX_BOX_PX}")

    @property
    def source(self) -> tuple[Any, ...]:
        """What candidates depend on."""
        without = (self.diameter_angst, self.bright) if self.model is None and self.results is None else ()
        return (self.model, self.turn, *without)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> StudioSettings:
        """Return settings from plain values; raises TypeError, ValueError, LookupError or AttributeError."""
        found = plain["limits"]
        std_range, ranges = found["std_range"], found.get("ranges_angst")
        limits = Limits(**{key: float(found[key]) for key in ("threshold", "min_distance_angst", "border_angst",
                                                              "max_mask", "keep_best")},
                        std_range=None if std_range is None else (float(std_range[0]), float(std_range[1])),
                        at_least=int(found["at_least"]),
                        ranges_angst=None if ranges is None else (float(ranges[0]), float(ranges[1])))
        names = {str(name): str(path) for name, path in plain["micrographs"].items()}
        texts = {key: None if plain.get(key) is None else str(plain[key]) for key in _MAY_MOVE}
        distance, box = plain.get("distance_angst"), plain.get("box_px")
        return cls(
            names, float(plain["pixel_size_angst"]), float(plain["diameter_angst"]), limits, **texts,
            masks={str(name): str(path) for name, path in plain.get("masks", {}).items()},
            compared={str(label): str(path) for label, path in plain.get("compared", {}).items()},
            defocus={str(name): float(value) for name, value in plain.get("defocus", {}).items()},
            distance_angst=None if distance is None else float(distance), box_px=None if box is None else int(box),
            tiff_rows="top" if plain.get("tiff_rows") == "top" else "bottom", bright=bool(plain.get("bright")),
            turn=int(plain.get("turn", 0)), assumed=bool(plain.get("assumed")),
            score_range=(float(plain["score_range"][0]), float(plain["score_range"][1])))


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

    def results(self, turn: int) -> PickingResults:
        """Candidates that the model of a turn found."""
        return PickingResults(self.folder / "picks" / f"{turn}")

    @property
    def output(self) -> PickingResults:
        """Picks and model as they are saved at the end."""
        return PickingResults(self.folder / "output")

    def write_turn(self, settings: StudioSettings) -> None:
        """Keep what a turn shows, without the list of micrographs; raises DeepEMError where this is impossible."""
        self._write(self.folder / "turns" / f"{settings.turn}.json", replace(settings, micrographs={}))

    def read_turn(self, turn: int) -> StudioSettings:
        """Read what a turn showed; raises DeepEMError where this is impossible."""
        return self._read(self.folder / "turns" / f"{turn}.json")

    def exists(self) -> bool:
        """Whether a session was saved here."""
        return self._settings.exists()

    def is_edited(self) -> bool:
        """Whether somebody has edited something."""
        return self.edits.exists() and self.edits.stat().st_size > 0

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
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            who = " ".join(lock.read(500).split()) or "somebody"
            lock.close()
            raise DeepEMError(f"{self.folder} is open in another studio: {who}. Close it there, or give another "
                              "folder with --project.") from error
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
            return replace(settings, **{key: os.path.abspath(self.folder / value) for key in _MAY_MOVE
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
        for key in (key for key in _MAY_MOVE if plain[key] is not None):
            file, beside = Path(os.path.abspath(plain[key])), Path(os.path.abspath(self.folder)).parent
            plain[key] = os.path.relpath(file, self.folder) if beside in file.parents else str(file)
        with atomic_write(path) as handle:
            json.dump({"format": FORMAT, **plain}, handle, indent=1)

    def resume(self, wanted: StudioSettings) -> StudioSettings:
        """Return the settings saved here for the micrographs of others.

        Parameters
        ----------
        wanted : StudioSettings
            For a new session.

        Returns
        -------
        StudioSettings

        Raises
        ------
        DeepEMError
            The session saved here is one of other micrographs.
        """
        saved = self.read()
        if lost := sorted(set(saved.micrographs) - set(wanted.micrographs)):
            raise DeepEMError(f"{self.folder} holds a session of other micrographs ({', '.join(lost[:3])} ...). Give "
                              "these as well, or another folder with --project.")
        return replace(saved, micrographs=wanted.micrographs, reference=wanted.reference or saved.reference)

    @property
    def _settings(self) -> Path:
        return self.folder / SESSION
