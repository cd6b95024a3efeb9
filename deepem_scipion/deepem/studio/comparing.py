# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picks of a session against reference coordinates: figures, curves, and what is right, false and missed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.regions import Region, read_regions
from ..errors import DeepEMError
from ..evaluation.matching import classify_picks, match_all
from ..evaluation.metrics import Curve, average_precision, curve_from_points, f_beta, summarise
from ..picking.selection import Limits
from .editing import SAME_PLACE
from .session import Session

# Points of a curve that the page draws.
MAX_POINTS = 400


class Comparison:
    """Compares the picks of a session, with what people marked, with its reference coordinates.

    Parameters
    ----------
    session : Session

    Raises
    ------
    DeepEMError
        The regions, or the figures of another evaluation, cannot be read.

    Notes
    -----
    Particles that people added have a score of 1. The curve is that of the limits in force with all thresholds, and
    without a share of the picks that is kept.
    """

    def __init__(self, session: Session) -> None:
        self._session, settings = session, session.settings
        self._regions: Mapping[str, Region] = (
            read_regions(settings.regions, {name: name for name in session.names}) if settings.regions else {})
        self._others = {label: _read_curve(Path(path)) for label, path in settings.compared.items()}

    @property
    def distance_px(self) -> float:
        """Maximum distance of a pick from its particle, in pixels of the micrographs."""
        session = self._session
        given = session.settings.distance_angst
        return given / session.settings.pixel_size_angst if given else SAME_PLACE * session.collection.diameter_px

    def of(self, name: str) -> dict[str, Any] | None:
        """Return number of true positives, and places of false positives and missed particles.

        None where there is no reference, or no candidates yet.
        """
        if name not in self._session.reference or not self._session.collection.found(name):
            return None
        picks = self._picks(name, None)
        found = classify_picks(picks.centres_xy, picks.scores, self._session.reference[name].centres_xy,
                               self.distance_px, self._regions.get(name))
        return {"true": len(found["true positives"]), "false": found["false positives"].tolist(),
                "missed": found["missed"].tolist(), "region": self._regions.get(name)}

    def figures(self) -> dict[str, Any]:
        """Return figures and curves for display.

        Returns
        -------
        dict
            `overall` and `micrographs` (by number) as from `metrics.evaluate` for the picks, but `AP`, `best_F1` and
            `best_F2` of all thresholds, and `curves`, the first of which is that of the session: dictionaries of
            `label`, `AP`, and lists `threshold`, `precision`, `recall`, `F1` and `F2`.
        """
        session, regions = self._session, self._regions or None
        with session.changed:
            numbers = {name: number for number, name in enumerate(session.names)}
            truth = {name: found for name, found in session.reference.items() if session.collection.found(name)}
            now = {name: self._picks(name, None) for name in truth}
            lowest = replace(session.settings.limits, threshold=0.0, keep_best=1.0)
            every = {name: self._picks(name, lowest) for name in truth}
        found = summarise(match_all(truth, now, self.distance_px, regions))
        all_thresholds = summarise(match_all(truth, every, self.distance_px, regions))
        micrographs = {numbers[name]: _complete(each, all_thresholds["micrographs"][name])
                       for name, each in found["micrographs"].items()}
        return {"overall": _complete(found["overall"], all_thresholds["overall"]), "micrographs": micrographs,
                "curves": [_points("", curve_from_points(all_thresholds["curve"])),
                           *(_points(label, each) for label, each in self._others.items())]}

    def _picks(self, name: str, limits: Limits | None) -> Coordinates:
        """What counts as particles at the limits in force or at others, as shown: with scores from 0 to 1."""
        x_y_score = self._session.shown(name, limits).particles
        return Coordinates(x_y_score[:, :2], np.nan_to_num(x_y_score[:, 2], nan=1.0), None)


def _complete(found: Mapping[str, Any], all_thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of picks, with those over all thresholds from the figures of all of them."""
    return {**found, **{key: all_thresholds[key] for key in ("AP", "best_F1", "best_F2")}}


def _read_curve(path: Path) -> Curve:
    """The curve among the figures that `deepem evaluate --json` wrote."""
    try:
        found = curve_from_points(json.loads(path.read_text(encoding="utf-8"))["curve"])
        values = np.array([found.thresholds, found.precision, found.recall])
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError("not lists of numbers of equal length")
        return found
    except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise DeepEMError(f"{path}: expected figures as written by `deepem evaluate --json` "
                          f"({type(error).__name__}: {error})") from error


def _points(label: str, curve: Curve) -> dict[str, Any]:
    """A curve with few points, and its F-scores."""
    n = len(curve.thresholds)
    kept = np.unique(np.linspace(0, n - 1, min(n, MAX_POINTS)).round().astype(int))
    columns = {"threshold": curve.thresholds, "precision": curve.precision, "recall": curve.recall,
               "F1": f_beta(curve.precision, curve.recall, 1), "F2": f_beta(curve.precision, curve.recall, 2)}
    return {"label": label, "AP": average_precision(curve),
            **{key: np.asarray(values)[kept].round(4).tolist() for key, values in columns.items()}}
