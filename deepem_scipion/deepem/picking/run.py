# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking many micrographs into a results folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import runtime
from ..atomic import atomic_path, atomic_write
from ..coordinates.box import write_box
from ..coordinates.star import Optics, can_name, write_star
from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph
from ..network.geometry import BOX_PER_DIAMETER
from .candidates import Candidates, write_candidates
from .picker import Picker
from .selection import PICKED
from .summary import REJECTED, inverted, rejected, totals, write_table

log = logging.getLogger(__name__)
# Each takes some hundred megabytes.
MAX_AT_A_TIME = 8


@dataclass
class Summary:
    """What became of each micrograph: name -> entry, see `summaries`; `pixel_size_angst` as for `pick_micrographs`."""

    picker: Picker
    pixel_size_angst: float | None = None
    micrographs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, str]:
        """Name -> reason."""
        return {name: entry["reason"] for name, entry in self.micrographs.items() if entry["status"] == "failed"}

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "threshold": self.picker.threshold,
            "scan_step": self.picker.step,
            "working_pixel_size_angst": self.picker.model.working_pixel_size_angst,
            "min_distance_angst": self.picker.min_distance_angst,
            "std_range": self.picker.std_range,
            "border_angst": self.picker.settings.border_angst,
            "rotations": self.picker.settings.rotations,
            "diameter_angst": self.picker.model.diameter_angst,
            "pixel_size_angst": self.pixel_size_angst,
            "model_contrast": self.picker.model.record.get("contrast"),
            "versions": runtime.versions(),
            **totals(self.micrographs),
            "micrographs": self.micrographs,
        }

    def write(self, output: Path) -> None:
        """Write summary.json and summary.tsv into a folder."""
        with atomic_write(output / "summary.json") as handle:
            json.dump(self.as_dict(), handle, indent=1)
        write_table(output / "summary.tsv", self.micrographs)


def pick_micrographs(paths: Mapping[str, Path], picker: Picker, output: Path, box_px: int | None = None,
                     pixel_size_angst: float | None = None, score_maps: bool = False, optics: Optics | None = None,
                     contrast_checks: int = 0,
                     progress: Callable[[str, dict[str, Any]], None] = lambda name, entry: None) -> Summary:
    """Pick micrographs and write everything into a folder.

    Parameters
    ----------
    paths : name -> file
    picker : Picker
    output : folder; made where it does not exist
    box_px : side of the boxes written, in input pixels; default 1.5 particle diameters, made even
    pixel_size_angst : instead of what the headers say
    score_maps : write these, too
    optics : written into picks.star; default: 300 kV and what goes with it
    contrast_checks : the negatives of so many micrographs, the first ones, are scanned, too; where they look more like
        the particles of the training a warning is logged, see `summaries.contrast`
    progress : called with name and entry after each micrograph

    Returns
    -------
    Summary
        A micrograph that fails is recorded and does not stop the others. What is done is on disk even if the
        run is interrupted.

    Raises
    ------
    DeepEMError
        Where the folder cannot be made or written.
    """
    summary = Summary(picker, pixel_size_angst)
    _make_folders(output, score_maps)
    star: list[tuple[Path, np.ndarray, np.ndarray]] = []
    sizes: list[float] = []
    checked = list(paths)[:contrast_checks]

    def pick(name: str, path: Path) -> _Picked:
        began = time.perf_counter()
        micrograph = picker.model.read_micrograph(path, pixel_size_angst, name)
        candidates, reasons, scores = picker.pick(micrograph)
        _write_micrograph(output, micrograph, candidates, reasons, _box(picker, micrograph, box_px))
        if score_maps:
            _write_score_map(output / "scores" / f"{name}.mrc", scores, micrograph, picker.step)
        entry = _entry(path, candidates, reasons)
        if name in checked:
            negative = replace(micrograph, pixels=-micrograph.pixels)
            entry.update(evidence=round(picker.evidence(micrograph, candidates), 3),
                         negative_evidence=round(picker.evidence(negative), 3))
        entry.update(seconds=round(time.perf_counter() - began, 4), finished=round(time.time(), 2))
        return _Picked(entry,
                       micrograph.pixel_size_angst / micrograph.scale,
                       candidates.centres_xy[reasons == PICKED], candidates.scores[reasons == PICKED])

    pool = ThreadPoolExecutor(at_a_time())
    pending = {name: pool.submit(pick, name, path) for name, path in paths.items()}

    def record(name: str, path: Path) -> dict[str, Any]:
        try:
            picked = pending.pop(name).result()
        except Exception as error:  # the one place where a micrograph may fail without stopping the others
            reason = str(error) if isinstance(error, DeepEMError) else f"{path}: {type(error).__name__}: {error}"
            log.debug("%s failed", name, exc_info=True)
            entry = {"path": str(path), "status": "failed", "reason": reason, "finished": round(time.time(), 2)}
        else:
            entry = picked.entry
            sizes.append(picked.pixel_size_angst)
            if can_name(path):
                star.append((path, picked.centres_xy, picked.scores))
        summary.micrographs[name] = entry
        return entry

    try:
        for name, path in paths.items():
            wait([pending[name]])
            progress(name, record(name, path))
    finally:
        pool.shutdown(cancel_futures=True)
        for name in [name for name, result in pending.items() if not result.cancelled()]:
            record(name, paths[name])  # done or under way when the run was interrupted
        with ExitStack() as last:  # each is tried, whatever becomes of the others
            last.callback(summary.write, output)
            last.callback(_write_failed, output / "failed.tsv", summary.failed)
            last.callback(write_star, output / "picks.star", star,
                          sizes[0] if sizes else picker.model.working_pixel_size_angst, optics or Optics())
    if problem := inverted(summary.as_dict()):
        log.warning("warning: %s", problem)
    return summary


@dataclass(frozen=True)
class _Picked:
    """What is kept of a micrograph once its files are written."""

    entry: dict[str, Any]
    pixel_size_angst: float
    centres_xy: np.ndarray
    scores: np.ndarray


def at_a_time() -> int:
    """How many micrographs are worked on at a time.

    All threads take part in the convolutions of a micrograph, but reading, searching the score map and writing are done
    by one thread each; meanwhile the others go on with other micrographs.
    """
    return 1 if runtime.threads() == 1 else min(1 + runtime.threads() // 2, MAX_AT_A_TIME)


def _box(picker: Picker, micrograph: Micrograph, box_px: int | None) -> int:
    if box_px is not None:
        return box_px
    input_pixel_size_angst = micrograph.pixel_size_angst / micrograph.scale
    return 2 * round(BOX_PER_DIAMETER * picker.model.diameter_angst / input_pixel_size_angst / 2)


def _entry(path: Path, candidates: Candidates, reasons: np.ndarray) -> dict[str, Any]:
    picked = reasons == PICKED
    return {
        "path": str(path), "status": "ok", "candidates": len(candidates), "picks": int(picked.sum()),
        "mean_score": round(float(candidates.scores[picked].mean()), 4) if picked.any() else None,
        **rejected({reason: int((reasons == reason).sum()) for reason in REJECTED}, len(candidates)),
    }


def _make_folders(output: Path, score_maps: bool) -> None:
    try:
        for folder in (output, output / "candidates", *([output / "scores"] if score_maps else [])):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeepEMError(f"{output}: the output folder cannot be made ({error.strerror})") from error


def _write_micrograph(output: Path, micrograph: Micrograph, candidates: Candidates, reasons: np.ndarray,
                      box_px: int) -> None:
    picked = reasons == PICKED
    write_candidates(output / "candidates" / f"{micrograph.name}.tsv", candidates, reasons)
    write_box(output / f"{micrograph.name}.box", candidates.centres_xy[picked], candidates.scores[picked], box_px)


def _write_score_map(path: Path, scores: np.ndarray, micrograph: Micrograph, step: int) -> None:
    import mrcfile

    with atomic_path(path) as aside, mrcfile.new(aside, scores) as file:
        file.voxel_size = micrograph.pixel_size_angst * step


def _write_failed(path: Path, failed: Mapping[str, str]) -> None:
    with atomic_write(path) as handle:
        handle.write("micrograph\treason\n")
        for name, reason in failed.items():
            handle.write(f"{name}\t{' '.join(reason.split())}\n")
