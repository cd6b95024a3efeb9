# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page shows of a session, as plain values."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeepEMError
from ..evaluation.matching import classify_picks
from ..picking.selection import REASON_LABELS, REASONS, Limits
from ..report.pictures import read_score_map
from .comparing import Comparison
from .editing import SAME_PLACE
from .marks import DONE, NEGATIVE, PARTICLE, REGION
from .session import Session
from .teacher import Teacher


class Views:
    """Answers questions about a session; may be used by several threads.

    Parameters
    ----------
    session : Session
    teacher : Teacher

    Attributes
    ----------
    comparison : Comparison
        With the reference coordinates.
    """

    def __init__(self, session: Session, teacher: Teacher) -> None:
        self._session, self._teacher = session, teacher
        self.comparison = Comparison(session)
        self._summary: dict[str, Any] = {}

    def description(self) -> dict[str, Any]:
        """Return what does not change while the page is open."""
        score_maps, settings = self._session.began_with(), self._session.settings
        return {"names": list(self._session.names), "labels": {reason: REASON_LABELS[reason] for reason in REASONS},
                "pixel_size": settings.pixel_size_angst, "has_reference": bool(self._session.reference),
                "has_score_maps": score_maps is not None and score_maps.has_score_maps,
                "has_results": settings.results is not None, "boxes": settings.box_px is not None,
                "defocus": [settings.defocus.get(name) for name in self._session.names] if settings.defocus else None,
                "title": self._session.project.folder.resolve().name}

    def summary(self) -> dict[str, Any]:
        """Return the list of micrographs, the limits and the histogram."""
        with self._session.changed:
            if self._summary.get("version") != self._session.version:
                self._summary = self._summarise()
            return self._summary

    def _summarise(self) -> dict[str, Any]:
        session, settings = self._session, self._session.settings
        return {"version": session.version, **session.collection.summary(session.log.marks),
                "limits": self._limits(settings.limits), "start": self._limits(session.collection.found_at),
                "score_range": session.score_range, "ranges": session.collection.ranges(),
                "diameter": settings.diameter_angst, "assumed": settings.assumed, "box": settings.written_box_px,
                "bright": settings.bright, "searches": settings.model is None and settings.results is None,
                "model": Path(settings.model).name if settings.model else None,
                "turn": settings.turn, "teaching": self._teacher.view(), "state": session.state,
                "problem": session.problem, "can_undo": session.log.can_undo, "can_redo": session.log.can_redo}

    def _limits(self, limits: Limits) -> dict[str, Any]:
        """Limits as the sliders show them."""
        low, high = limits.std_range or (0.0, self._session.collection.ranges()["std"])
        return {"threshold": limits.threshold, "distance": limits.min_distance_angst, "border": limits.border_angst,
                "low": low, "high": high, "ranged": limits.std_range is not None}

    def micrograph(self, number: int) -> dict[str, Any]:
        """Return what is shown on one micrograph.

        Parameters
        ----------
        number : int

        Returns
        -------
        dict
            Coordinates are in pixels of the micrograph; `reason` is the position in `REASONS`, -1 where a mark decides.

        Raises
        ------
        DeepEMError
            There is no such number.
        """
        with self._session.changed:
            name, version = self._session.name(number), self._session.version
            shown, stds = self._session.shown(name), self._session.collection.local_stds(name)
            failure, status = self._session.collection.failure(name), self._session.collection.status(name)
        try:
            shape = self._session.shape(number)
        except DeepEMError as error:
            shape, failure = (1, 1), str(error)
        codes = {reason: code for code, reason in enumerate(REASONS)}
        return {"number": number, "name": name, "version": version, "rows": shape[0], "columns": shape[1],
                "failure": failure, "status": status, "diameter_px": shown.diameter_px,
                "x": shown.centres_xy[:, 0].round(2).tolist(),
                "y": shown.centres_xy[:, 1].round(2).tolist(), "score": shown.scores.round(4).tolist(),
                "std": stds.round(4).tolist(), "reason": [codes.get(reason, -1) for reason in shown.reasons.tolist()],
                **{kind: [mark.as_list()[1:] for mark in shown.of(kind)] for kind in (PARTICLE, NEGATIVE, REGION)},
                "done": bool(shown.of(DONE)), "reference": self.comparison.of(name), **self._differences(name)}

    def score_map(self, number: int) -> dict[str, Any]:
        """Return the stored score map of a micrograph.

        Parameters
        ----------
        number : int

        Returns
        -------
        dict
            `left`, `top` and `scale` in pixels of the micrograph, `rows`, `columns`, and `values`, the scores from 0 to
            255 as base64.

        Raises
        ------
        DeepEMError
            No score map was stored, or it cannot be read.
        """
        results, pixel_size = self._session.began_with(), self._session.settings.pixel_size_angst
        if results is None or not results.has_score_maps:
            raise DeepEMError("no score maps were stored; pick with --score-maps")
        run = results.read_settings()
        picture = read_score_map(results.path("score_map", self._session.name(number)), run.box,
                                 run.scan_step, run.working_pixel_size_angst / pixel_size,
                                 run.limits.ranges_angst is None)
        rows, columns = picture.pixels.shape
        return {"left": picture.edge_px, "top": picture.edge_px, "scale": picture.scale, "rows": rows,
                "columns": columns, "values": base64.b64encode(picture.pixels.tobytes()).decode()}

    def _differences(self, name: str) -> dict[str, Any]:
        """Picks gained and lost when the model in use was learnt, once they are found."""
        if name not in self._session.before or not self._session.collection.found(name):
            return {"gained": [], "lost": []}
        before = self._session.before[name][:, :2]
        now = self._session.picks(name).centres_xy
        near = SAME_PLACE * self._session.collection.diameter_px
        marks = self._session.log.marks.get(name, ())
        negatives = np.array([mark.values[:2] for mark in marks if mark.kind == NEGATIVE])
        if len(negatives):  # removed by hand, not by the model
            before = before[np.hypot(*(before[:, None] - negatives).transpose(2, 0, 1)).min(axis=1) >= near]
        found = classify_picks(now, np.ones(len(now)), before, near)
        return {"gained": found["false positives"].tolist(), "lost": found["missed"].tolist()}
