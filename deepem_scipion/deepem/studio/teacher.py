# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The teacher: turns the marks of a session into a better model, and at the end into the picks of all micrographs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.names import listed
from ..coordinates.star import Optics, can_name
from ..errors import DeepEMError
from ..model.files import load_model, save_model
from ..picking.box import count_cut, what_is_cut
from ..picking.selection import PICKED, REASONS
from ..training.calibration import at_threshold
from .learning import DOUBTFUL_SHARE, learn
from .lessons import Course, Learned, Lesson
from .marks import DONE, NEGATIVE, PARTICLE, REGION
from .queue import Queue
from .session import Session
from .settings import StudioSettings
from .worker import Cancelled, Worker

log = logging.getLogger(__name__)

# A training uses this many micrographs, those marked last: the model in hand has learnt from the others. The final one
# uses more.
MIN_MICROGRAPHS, MAX_MICROGRAPHS, MAX_FINAL = 3, 12, 100
# A candidate whose score is this close to the threshold is uncertain.
UNCERTAIN = 0.1


class Teacher:
    """Learns from the marks of a session.

    Parameters
    ----------
    session : Session
    queue : Queue
        In which it works.
    """

    def __init__(self, session: Session, queue: Queue) -> None:
        self._session, self._queue = session, queue
        self._offer: tuple[Learned, StudioSettings] | None = None
        self.busy, self.share, self._finishing, self._cancelled = False, 0.0, False, False
        self.outcome: dict[str, Any] = {}
        self.saves_at_end = False
        self._saved = 0, "", ""  # version of the session whose picks were saved, the folder, and what is cut

    def view(self) -> dict[str, Any]:
        """What the page shows of the teaching."""
        marks = self._session.log.marks
        version, *saved = self._saved
        folder, cut = saved if version == self._session.version else ("", "")
        return {"busy": self.busy, "finishing": self._finishing, "cancelled": self._cancelled,
                "share": round(self.share, 3), "outcome": self.outcome, "offer": bool(self._offer),
                "saved": folder, "cut": cut,
                "stored": self.saves_at_end or self._session.project.output.path("star").exists(),
                "marks": sum(mark.kind in (PARTICLE, NEGATIVE) for each in marks.values() for mark in each),
                "back": self._session.settings.turn > 0, **self._next()}

    def learn(self, final: bool = False) -> None:
        """Learn from all marks; the new model is taken unless it is worse."""
        if self.busy or self._finishing:
            raise DeepEMError("the studio is learning already, or picks all micrographs to finish")
        self.busy, self.share, self.outcome, self._offer = True, 0.0, {}, None
        self._finishing, self._cancelled = final, False
        self._session.report("Learning ...", "")
        self._queue.add(self._learn)

    def cancel(self) -> None:
        """Give up learning or finishing: the model before it stays in use, or is used again."""
        with self._session.changed:
            if self.busy:
                self._cancelled = True  # noticed after the epoch in work
            elif self._finishing:
                self.back()
                self.outcome = {"cancelled": True}
            else:
                raise DeepEMError("there is nothing to cancel: the learning is done")
            self._session.touch()

    def take(self) -> None:
        """Take a model that was worse after all."""
        if self._offer is None:
            raise DeepEMError("there is no other model to take")
        learned, before = self._offer
        self._offer = None
        self._take(learned, before)

    def back(self) -> None:
        """Return to the model before; the session is then not being finished any longer."""
        session = self._session
        turn = session.settings.turn - 1
        if turn < 0:
            raise DeepEMError("there is no model before this one")
        self.outcome, self._offer, self._finishing = {"back": turn}, None, False
        session.update(turn=turn, **self._history(turn))
        self._queue.reload()

    def save(self) -> Path:
        """Write the picks of all micrographs, with what people marked, and the model if it is not the general one.

        Micrographs that have neither candidates nor marks, and those without coordinates where these are shown, are
        left out, so that nobody takes them for empty ones.

        Returns
        -------
        Path
            The folder: .box files, `picks.star` and `model.deepem`.

        Raises
        ------
        DeepEMError
            A file cannot be written.
        """
        self._queue.loaded.wait()
        return self._save()

    def _save(self, finished: bool = False) -> Path:
        session = self._session
        with session.changed:
            settings = session.settings
            session.save()
            state = session.project.state()
            known = [name for name in session.names if session.log.marks.get(name)
                     or session.collection.found(name) and session.project.is_stated(name, settings)]
            picks = {name: session.picks(name) for name in known}
        results = session.project.output
        results.make()
        absent = [name for name in settings.micrographs if name not in picks]
        old = [results.path("box", name) for name in absent] + [results.path("model")] * (settings.model is None)
        results.remove(filter(Path.exists, old))
        for name, each in picks.items():
            results.write_picks(name, each.centres_xy, each.scores, settings.written_box_px)
        star = ((path, picks[name].centres_xy, picks[name].scores) for name, path in settings.micrographs.items()
                if name in picks and can_name(path))
        results.write_star(star, settings.pixel_size_angst, Optics())
        session.project.write_marks(session.log.marks, settings)
        if settings.model:
            model = at_threshold(load_model(settings.model), settings.limits.threshold)
            save_model(results.path("model"), model)
        session.project.note_saved(state)
        cut = what_is_cut(self._count_cut(picks, settings.written_box_px), settings.written_box_px)
        problem = (f"{len(absent)} micrographs without candidates are left out of the picks saved: {listed(absent)}"
                   if absent else "")
        if problem:
            log.warning("warning: %s", problem)
        with session.changed:
            if finished:
                self.outcome = {"finished": True, "threshold": session.settings.limits.threshold}
            session.report(problem=problem)
            self._saved = session.version, str(results.folder), cut
        return results.folder

    def _count_cut(self, picks: Mapping[str, Coordinates], box_px: int) -> int:
        """Number of picks whose boxes leave their micrographs; those of files that cannot be read are not counted."""
        session, found = self._session, 0
        for number, name in enumerate(session.names):
            with suppress(DeepEMError):
                if name in picks:
                    found += count_cut(picks[name].centres_xy, box_px, session.shape(number))
        return found

    def when_all_found(self) -> None:
        """Save after the last micrograph, if the session is being finished."""
        with self._session.changed:
            if not self._finishing or self.busy or self._session.waiting():  # somebody went back in this instant
                return
            self._finishing = False
        self._save(finished=True)

    # -- in the queue

    def _learn(self, worker: Worker) -> None:
        session = self._session
        before = session.settings
        turn = before.turn + 1
        output = session.project.model(turn)
        of_coordinates = before.turn == 0 and before.starts_with("coordinates")
        course = Course(before.diameter_angst, before.pixel_size_angst, before.model, before.bright,
                        str(output), self._finishing, before.tiff_rows, before.limits, of_coordinates)
        try:
            learned = worker.call(learn, self._lessons(), course, progress=self._progress)
            self._progress(1.0)
            self.outcome = {"marks": learned.marks, "held_out": learned.held_out, "before": learned.before,
                            "after": learned.after, "taken": self._finishing or not learned.worse}
            if learned.worse and not self._finishing:
                self._offer = learned, before
            else:
                self._take(learned, before)
                if session.settings.limits.threshold == learned.limits.threshold:  # nobody moved it meanwhile
                    self.outcome["threshold"] = learned.limits.threshold
            with session.changed:
                self._progress(1.0)
                self.busy = False  # from now on it is finished, or done
        except Cancelled:
            if session.settings.turn == turn:
                self.back()
            self._finishing, self.outcome, self._offer = False, {"cancelled": True}, None
        except BaseException:
            self._finishing = False
            raise
        finally:
            self.busy = False
            session.report("")

    def _progress(self, share: float) -> None:
        if self._cancelled:
            raise Cancelled
        self.share = share
        self._session.touch()

    def _take(self, learned: Learned, before: StudioSettings) -> None:
        self._session.project.write_turn(before)  # to which `back` may return
        earlier, now = asdict(before.limits), asdict(self._session.settings.limits)
        limits = replace(learned.limits, **{name: value for name, value in now.items() if value != earlier[name]})
        self._session.update(model=learned.path, turn=before.turn + 1, limits=limits)
        for name, candidates in learned.found.items():
            self._session.put(name, candidates, self._session.settings)
        self._queue.wake()

    def _history(self, turn: int) -> dict[str, Any]:
        saved = self._session.project.read_turn(turn)
        return {"model": saved.model, "limits": saved.limits}

    def _lessons(self) -> list[Lesson]:
        """What is known of the micrographs with marks and, if these are few, of some others."""
        session, most = self._session, MAX_FINAL if self._finishing else MAX_MICROGRAPHS
        with session.changed:
            marked = [name for name, marks in session.log.marks.items()
                      if marks and name in session.settings.micrographs]
            others = [name for name in session.names if name not in marked and session.collection.found(name)
                      and session.project.is_stated(name, session.settings)]
            wanted = max(0, MIN_MICROGRAPHS - len(marked))
            spread = np.unique(np.linspace(0, len(others) - 1, wanted).astype(int)) if others else []
            lessons = [self._lesson(name) for name in marked[-most:] + [others[at] for at in spread][:wanted]]
        if not lessons:
            raise DeepEMError("no micrograph has candidates yet: wait until some do")
        return lessons

    def _lesson(self, name: str) -> Lesson:
        session = self._session
        shown = session.shown(name)
        particles, negatives = (np.array([mark.values[:2] for mark in shown.of(kind)], float).reshape(-1, 2)
                                for kind in (PARTICLE, NEGATIVE))
        picked, shown_xy = shown.reasons == PICKED, None
        if session.collection.found(name):
            unmarked = session.collection.shown(name, [])
            shown_xy = unmarked.centres_xy[unmarked.reasons == PICKED]
        likely = np.isin(shown.reasons, REASONS) & ~picked
        likely &= shown.scores >= DOUBTFUL_SHARE * session.settings.limits.threshold
        return Lesson(session.settings.micrographs[name], name, particles, negatives, shown.centres_xy[picked],
                      shown.scores[picked], shown.centres_xy[likely], [mark.values for mark in shown.of(REGION)],
                      bool(shown.of(DONE)), shown_xy, session.settings.masks.get(name))

    def _next(self) -> dict[str, int]:
        """Number of the micrograph on which the model is least certain, away from those with marks; -1 for none.

        Away means of another defocus or, where that is not known, far in the list. Also the number of its candidates
        that are uncertain.
        """
        from scipy.spatial import cKDTree

        session = self._session
        touched = [number for number, name in enumerate(session.names) if session.log.marks.get(name)]
        found = np.array([session.collection.found(name) for name in session.names])
        found[touched] = False
        if not found.any():
            return {"next": -1, "uncertain": 0}
        defocus = session.settings.defocus
        usual = float(np.median(list(defocus.values()))) if defocus else 0.0
        keys = [defocus.get(name, usual) for name in session.names]
        places = np.argsort(np.argsort(keys, kind="stable")) / len(found)
        away = cKDTree(places[touched, None]).query(places[:, None])[0] if touched else np.ones(len(found))
        uncertain = session.collection.uncertain(UNCERTAIN)
        number = int(np.argmax(np.where(found, (uncertain + 1) * (0.5 + away), 0)))
        return {"next": number, "uncertain": int(uncertain[number])}
