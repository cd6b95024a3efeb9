# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stored candidates of a picking run, what other limits would make of them, and pictures to show them on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.box import write_box
from ..coordinates.suppression import Neighbours, neighbours
from ..errors import DeepEMError
from ..micrographs.images import read_pixels
from ..micrographs.micrograph import read_micrograph, read_shape
from ..report.plots import DRAWN_LENGTH_PX, contrast_stretched
from .candidates import Candidates, pad_width, read_candidates
from .selection import PICKED, Limits, select
from .summary import REJECTED, read_table

HISTOGRAM_BINS = 50


@dataclass(frozen=True)
class Review:
    """The candidates of all micrographs of a run, one after the other.

    Attributes
    ----------
    entries : name -> entry as in `summaries`, of the run; also of micrographs that failed
    names : those with candidates
    first : (len(names) + 1,) int; the candidates of micrograph i are those from first[i] to before first[i + 1]
    candidates : Candidates of all
    reasons : (n,) str, see `picking.select`, as the run found them
    limits : Limits of the run
    near : pairs of candidates, for `select`
    """

    entries: Mapping[str, Mapping[str, Any]]
    names: tuple[str, ...]
    first: np.ndarray
    candidates: Candidates
    reasons: np.ndarray
    limits: Limits
    near: Neighbours

    def select(self, limits: Limits) -> np.ndarray:
        """Reasons of all candidates, see `picking.select`, with other limits; with those of the run its own.

        The least distance is at most the one that `read_review` was given.
        """
        # Files have fewer digits than the run had: at its own limits a candidate in thousands might change sides.
        return self.reasons if limits == self.limits else select(self.candidates, limits, self.near)

    def part(self, name: str) -> slice:
        """Which of the candidates are those of a micrograph; none where it has no candidates."""
        if name not in self.names:
            return slice(0, 0)
        at = self.names.index(name)
        return slice(int(self.first[at]), int(self.first[at + 1]))

    def summarise(self, reasons: np.ndarray) -> dict[str, Mapping[str, Any]]:
        """Entries, name -> entry as in `summaries` but without shares, with the numbers that these reasons give."""
        n, picked = len(self.names), reasons == PICKED
        candidates = np.diff(self.first)
        of = np.repeat(np.arange(n), candidates)
        picks = np.bincount(of[picked], minlength=n)
        scores = np.bincount(of[picked], self.candidates.scores[picked], minlength=n) / np.maximum(picks, 1)
        counts = np.array([np.bincount(of[reasons == reason], minlength=n) for reason in REJECTED]).T.tolist()
        found = {name: {"path": self.entries[name]["path"], "status": "ok", "candidates": each, "picks": picks,
                        "mean_score": round(score, 4) if picks else None, "rejected": dict(zip(REJECTED, row))}
                 for name, each, picks, score, row in zip(self.names, candidates.tolist(), picks.tolist(),
                                                          scores.tolist(), counts)}
        return {**self.entries, **found}

    def histogram(self, reasons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of picks, and of all candidates, in `HISTOGRAM_BINS` equal bins of the score from 0 to 1."""
        bins = np.minimum((self.candidates.scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        return (np.bincount(bins[reasons == PICKED], minlength=HISTOGRAM_BINS),
                np.bincount(bins, minlength=HISTOGRAM_BINS))

    def write_picks(self, name: str, reasons: np.ndarray, path: str | Path, box_px: float) -> None:
        """Write the picks of one micrograph among these reasons as the run writes them, see `write_box`."""
        part = self.part(name)
        picked = np.flatnonzero(reasons[part] == PICKED) + part.start
        write_box(path, self.candidates.centres_xy[picked], self.candidates.scores[picked], box_px)


def read_review(folder: str | Path, pixel_size_angst: float, most_distance_angst: float) -> Review:
    """Read what a run of `deepem pick` left in its folder.

    Parameters
    ----------
    folder : with summary.json, summary.tsv and candidates/
    pixel_size_angst : of the micrographs
    most_distance_angst : the largest least distance that will be asked for, beside that of the run

    Returns
    -------
    Review
        A micrograph whose candidates cannot be read counts as failed.

    Raises
    ------
    DeepEMError
        Where the folder holds no such summary.
    """
    limits = read_limits(folder, pixel_size_angst)
    most_distance_px = max(most_distance_angst / pixel_size_angst, limits.min_distance_px)
    entries: dict[str, Mapping[str, Any]] = dict(read_table(Path(folder) / "summary.tsv"))
    names, parts, reasons, near, first = [], [_NONE], [np.empty(0, "U9")], [neighbours(np.empty((0, 2)), _NO, 0)], [0]
    for name, entry in entries.items():
        if entry["status"] != "ok":
            continue
        try:
            found, stored = read_candidates(Path(folder) / "candidates" / f"{name}.tsv")
        except DeepEMError as error:
            entries[name] = {"path": entry["path"], "status": "failed", "reason": str(error)}
            continue
        pairs = neighbours(found.centres_xy, found.scores, most_distance_px)
        near.append(Neighbours(pairs.better + first[-1], pairs.worse + first[-1], pairs.distances))
        names.append(name)
        parts.append(found)
        reasons.append(stored)
        first.append(first[-1] + len(found))
    return Review(entries, tuple(names), np.array(first),
                  Candidates(*(np.concatenate([getattr(part, key) for part in parts])
                               for key in ("centres_xy", "scores", "local_stds", "border_px"))),
                  np.concatenate(reasons), limits,
                  Neighbours(*(np.concatenate([getattr(pairs, key) for pairs in near])
                               for key in ("better", "worse", "distances"))))


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What the summary.json of a run tells beside its micrographs; raises DeepEMError where there is none."""
    path = Path(folder) / "summary.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeepEMError(f"{path}: expected a summary as written by `deepem pick` ({error})") from error
    return {key: value for key, value in found.items() if key != "micrographs"}


def read_limits(folder: str | Path, pixel_size_angst: float) -> Limits:
    """Limits of a run from its summary.json, for micrographs with a pixel size; raises DeepEMError as above."""
    settings = read_settings(folder)
    try:
        std_range = settings["std_range"]
        return Limits(settings["threshold"], settings["min_distance_angst"] / pixel_size_angst,
                      tuple(std_range) if std_range else None, settings["border_angst"] / pixel_size_angst)
    except KeyError as error:
        raise DeepEMError(f"{folder}: its summary.json does not tell {error.args[0]}; pick the micrographs "
                          "again") from error


@dataclass(frozen=True)
class Picture:
    """An image to be shown in the coordinates of a micrograph.

    Attributes
    ----------
    pixels : (rows, columns) uint8, 0 for black
    scale : pixels of the micrograph per pixel
    edge_px : x, and y, of the left, and upper, edge in pixels of the micrograph; its own edge is at -1/2
    """

    pixels: np.ndarray
    scale: float
    edge_px: float = -0.5


def read_picture(path: str | Path, pixel_size_angst: float, diameter_angst: float) -> Picture:
    """Read a micrograph for the eye, see `report.contrast_stretched`; raises DeepEMError as `read_micrograph` does."""
    step = max(1, round(max(read_shape(path)) / DRAWN_LENGTH_PX))
    micrograph = read_micrograph(path, step * pixel_size_angst, pixel_size_angst)
    shown, more = contrast_stretched(micrograph.pixels, diameter_angst / micrograph.pixel_size_angst)
    return Picture(np.rint(255 * shown).astype(np.uint8), micrograph.scale * more)


def read_score_map(path: str | Path, box: int, scan_step: int, working_px: float) -> Picture:
    """Read a score map that `deepem pick` stored, score 1 in white; raises DeepEMError where it cannot be read.

    Parameters
    ----------
    path : MRC file
    box, scan_step : of the network, in working pixels
    working_px : pixels of the micrograph per working pixel
    """
    scores = read_pixels(Path(path))
    first_centre = (box - 1) / 2 - pad_width(box)
    return Picture(np.rint(255 * np.clip(scores, 0, 1)).astype(np.uint8), scan_step * working_px,
                   working_px * (first_centre + 0.5 - scan_step / 2) - 0.5)


_NO = np.empty(0)
_NONE = Candidates(np.empty((0, 2)), _NO, _NO, _NO)
