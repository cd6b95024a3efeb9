# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session of the studio: micrographs, candidates, limits and marks, and what the page shows of them."""

from __future__ import annotations

import threading
from collections.abc import Collection as Names
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..errors import DeepEMError
from ..micrographs.micrograph import read_shape
from ..picking.candidates import Candidates
from ..picking.results import PickingResults
from ..picking.review import Part
from ..picking.selection import PICKED, Limits
from .assigning import problems_of, read_assigned
from .collection import Collection
from .editing import MARKED, Shown, by_hand, change, outside
from .marks import EditLog
from .project import StudioProject
from .settings import StudioSettings

# A change that nobody waits for is shown after at most this many seconds.
POLL_SECONDS = 20.0


class Session:
    """An open session; may be used by several threads.

    Parameters
    ----------
    project : StudioProject
        Open.
    settings : StudioSettings

    Attributes
    ----------
    settings : StudioSettings
    names : tuple of str
        Micrographs; pages and requests call them by their number.
    log : EditLog
    collection : Collection
        Candidates.
    before : dict of str to (n, 3) array
        Particles (x, y, score) before the model in use was learnt; empty at first and after a return to a model.
    reference : mapping of str to Coordinates
        Reference coordinates by name of the micrograph.
    version : int
        Increases with every change.
    state, problem : str
        What is being done, and what went wrong last.
    changed : threading.Condition
        Held while something changes.

    Raises
    ------
    DeepEMError
        A file of the session or the reference coordinates cannot be read.
    """

    def __init__(self, project: StudioProject, settings: StudioSettings) -> None:
        self.project, self.settings = project, settings
        self.names = tuple(settings.micrographs)
        self.log = EditLog(project.edits)
        self.reference = (read_assigned(settings.reference, settings.micrographs, settings.pixel_size_angst)
                          if settings.reference else {})
        self.problem = " ".join(problems_of(settings, settings.pixel_size_angst))
        self.version, self.state = 1, ""
        self.changed = threading.Condition(threading.RLock())
        self.before: dict[str, np.ndarray] = {}
        self.collection = self._new_collection()
        self._shapes: dict[int, tuple[int, int]] = {}
        self.save()

    def close(self) -> None:
        """Close the files, and write particles and negatives as .box files."""
        with self.changed:
            self.log.close()
            self.save()
            self.project.write_marks(self.log.marks, self.settings)

    # -- candidates

    def stored(self) -> list[tuple[PickingResults, list[str]]]:
        """Return the results folders with candidates to be read, and the micrographs; these are listed from now on."""
        found = []
        for results in (self.began_with(), self.project.results(self.settings.turn)):
            if results is not None:
                micrographs = {name: result for name, result in results.read_micrographs().items()
                               if name in self.settings.micrographs}
                with self.changed:
                    self.collection.expect(micrographs)
                found.append((results, [name for name, result in micrographs.items() if result.ok]))
        self.touch()
        return found

    def put_stored(self, parts: Mapping[str, Part], other: Names[str], settings: StudioSettings) -> None:
        """Show stored candidates, unless they were read for other settings; of some the reasons are of other masks."""
        with self.changed:
            if settings.source != self.settings.source:
                return
            for name, part in parts.items():
                if name in other:
                    self.collection.put(name, settings.micrographs[name], part[0])
                else:
                    self.collection.put_part(name, settings.micrographs[name], part)
            self.touch()

    def all_read(self) -> None:
        """Let micrographs be picked again whose stored candidates cannot be read; what a session began with is not."""
        with self.changed:
            for name in self.collection.forget_missing():
                if self.began_with() is not None:
                    self.fail(name, "its stored candidates, or its mask, cannot be read", self.settings)
            self.touch()

    def put(self, name: str, candidates: Candidates, settings: StudioSettings) -> None:
        """Show new candidates of a micrograph, and store them, unless they were found with other settings."""
        with self.changed:
            if settings.source != self.settings.source:
                return
            self.collection.put(name, settings.micrographs[name], candidates)
            shown = self.shown(name)
            reasons = np.where(shown.reasons == MARKED, PICKED, shown.reasons)
            results = self.project.make_candidates(settings)
            results.write_micrograph(name, candidates, reasons, settings.written_box_px)
            results.append({name: self.collection.result(name)})
            self.touch()

    def fail(self, name: str, reason: str, settings: StudioSettings) -> None:
        """Note why candidates of a micrograph cannot be found, unless they were sought with other settings."""
        with self.changed:
            if settings.source == self.settings.source:
                self.collection.fail(name, settings.micrographs[name], reason)
                self.touch()

    def waiting(self, first: str = "") -> str:
        """Return the next micrograph without candidates: the one given, those after it, then those before it."""
        with self.changed:
            start = self.names.index(first) if first in self.settings.micrographs else 0
            ordered = self.names[start:] + self.names[:start]
            return next((name for name in ordered if not self.collection.is_expected(name)), "")

    def began_with(self) -> PickingResults | None:
        """The results folder that the session began with, unless a model was learnt since."""
        return None if self.settings.results is None or self.settings.turn else PickingResults(self.settings.results)

    def _new_collection(self) -> Collection:
        self.project.keep_candidates(self.settings)
        stored = self.began_with()
        limits = stored.read_settings().limits if stored is not None and stored.exists() else self.settings.limits
        found = Collection(self.names, self.settings.pixel_size_angst, self.settings.diameter_angst, limits)
        found.limits = self.settings.limits
        return found

    # -- what is changed

    def touch(self) -> None:
        """Let all pages know that something has changed."""
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    def report(self, state: str | None = None, problem: str | None = None) -> None:
        """Show what is being done, or what went wrong."""
        with self.changed:
            self.state = self.state if state is None else state
            self.problem = self.problem if problem is None else problem
            self.touch()

    def wait(self, version: int, seconds: float = POLL_SECONDS) -> None:
        """Wait until the version is another one, for a number of seconds at most."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != version, seconds)

    def update(self, **changes: Any) -> None:
        """Change settings and save them; another diameter or contrast discards suggested candidates.

        Limits alone are saved by the next `save_limits`, because a moving slider must not wait for the disk.

        Parameters
        ----------
        **changes
            Fields of `StudioSettings`.

        Raises
        ------
        DeepEMError
            A value makes no sense, or the settings cannot be saved.
        """
        with self.changed:
            before, self.settings = self.settings, replace(self.settings, **changes)
            self._unsaved = True
            if changes.keys() != {"limits"}:
                self.save()
            if before.source != self.settings.source:
                self.before = ({name: self.shown(name).particles for name in self.names if self.collection.found(name)}
                               if before.turn < self.settings.turn else {})
                self.collection = self._new_collection()
            elif before.diameter_angst != self.settings.diameter_angst:
                self.collection.set_diameter(self.settings.diameter_angst)
            self.collection.limits = self.settings.limits
            self.touch()

    def adjust(self, **changes: Any) -> None:
        """Change settings as `update`; limits that are those of the general model then follow it."""
        with self.changed:
            wanted = self.settings.adjusted(**changes)
            self.update(**{**changes, "limits": wanted.limits, "assumed": wanted.assumed})

    def save(self) -> None:
        """Write the settings; raises DeepEMError where this is impossible."""
        with self.changed:
            self.project.write(self.settings)
            self._unsaved = False

    def save_limits(self) -> None:
        """Write the settings if limits have changed since the last time; a failure is shown, and tried again."""
        try:
            if self._unsaved:
                self.save()
        except DeepEMError as error:
            if str(error) != self.problem:
                self.report(problem=str(error))

    def set_limits(self, threshold: float, min_distance_angst: float, std_range: tuple[float, float] | None,
                   border_angst: float = 0.0) -> None:
        """Apply other limits to all micrographs; raises DeepEMError where they make no sense."""
        with self.changed:
            distance = min(min_distance_angst, self.collection.ranges()["distance"])
            self.update(limits=replace(self.settings.limits, threshold=threshold, std_range=std_range,
                                       min_distance_angst=distance, border_angst=border_angst))

    def edit(self, number: int, request: Mapping[str, Any]) -> bool:
        """Edit the marks of a micrograph, see `editing.change`; returns whether there was anything to change.

        Raises
        ------
        DeepEMError
            The request is not understood, a particle would be outside of the micrograph, or the edit cannot be saved.
        """
        with self.changed:
            name = self.name(number)
            removed, added = change(self.shown(name), request)
            set_there = by_hand(request["action"], added)
            if set_there and outside(set_there, self.shape(number)):
                raise DeepEMError(f"{name} has no particle there, outside of the micrograph")
            self.log.do(name, removed, added)
            self.touch()
            return bool(removed or added)

    def undo(self, redo: bool = False) -> int:
        """Take back the last edit, or make it again; returns the number of its micrograph, -1 where there is none."""
        with self.changed:
            name = self.log.redo() if redo else self.log.undo()
            self.touch()
            return self.names.index(name) if name in self.settings.micrographs else -1

    # -- what is shown

    def name(self, number: int) -> str:
        """Return the name of a micrograph; raises DeepEMError where there is no such number."""
        if not 0 <= number < len(self.names):
            raise DeepEMError(f"micrograph {number}: there are {len(self.names)}")
        return self.names[number]

    def path(self, number: int) -> Path:
        """Return the file of a micrograph; raises DeepEMError where there is no such number."""
        return Path(self.settings.micrographs[self.name(number)])

    def shape(self, number: int) -> tuple[int, int]:
        """Return rows and columns of a micrograph; raises DeepEMError where it cannot be read."""
        if number not in self._shapes:
            self._shapes[number] = read_shape(self.path(number))
        return self._shapes[number]

    def shown(self, name: str, limits: Limits | None = None) -> Shown:
        """Return candidates and marks of a micrograph, at the limits in force or at others."""
        with self.changed:
            return self.collection.shown(name, self.log.marks.get(name, []), limits)

    @property
    def score_range(self) -> tuple[float, float]:
        """The scores that are shown as 0 and 1."""
        return (0.0, 1.0) if self.settings.turn else self.settings.score_range

    def picks(self, name: str) -> Coordinates:
        """Return what counts as particles on a micrograph: the picks, and the particles that people marked."""
        values, (low, high) = self.shown(name).particles, self.score_range
        return Coordinates(values[:, :2], low + (high - low) * values[:, 2], self.settings.written_box_px)
