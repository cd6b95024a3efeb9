# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognition: micrographs and a model in, coordinates out."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import runtime
from .coordinates import Optics, can_name, write_box, write_star
from .errors import DeepEMError
from .files import atomic_path, atomic_write
from .micrographs import Micrograph
from .model import Model
from .network import BOX_PER_DIAMETER
from .picking import LEAST_DISTANCE, PICKED, Candidates, Limits, find_candidates, pad, select, write_candidates
from .scoremap import Scanner
from .summaries import REJECTED, inverted, rejected, totals, write_table

log = logging.getLogger(__name__)

# Each takes some hundred megabytes.
MOST_AT_A_TIME = 8


@dataclass(frozen=True)
class Settings:
    """How micrographs are picked; None stands for what the model's card says.

    Attributes
    ----------
    threshold : least score
    scan_step : working pixels
    least_distance_angst : least distance of two picks; default half a particle diameter
    std_range : "auto" for the model's, "off", or (least, greatest)
    border_angst : least distance of a pick from the border
    rotations : 4 or 1
    """

    threshold: float | None = None
    scan_step: int | None = None
    least_distance_angst: float | None = None
    std_range: tuple[float, float] | str = "auto"
    border_angst: float = 0.0
    rotations: int = 4

    def __post_init__(self) -> None:
        for name, value in (("least distance", self.least_distance_angst), ("border", self.border_angst)):
            if value is not None and not value >= 0:
                raise DeepEMError(f"{name} {value}: expected angstrom, 0 or more")


class Picker:
    """Picks micrographs with one model."""

    def __init__(self, model: Model, settings: Settings = Settings()) -> None:
        self.model, self.settings = model, settings
        self.step = model.scan_step if settings.scan_step is None else settings.scan_step
        self.threshold = model.threshold if settings.threshold is None else settings.threshold
        self.least_distance_angst = (LEAST_DISTANCE * model.diameter_angst if settings.least_distance_angst is None
                                     else settings.least_distance_angst)
        self._of_thread = threading.local()

    @property
    def std_range(self) -> tuple[float, float] | None:
        """Range of deviations in force."""
        if self.settings.std_range == "off":
            return None
        return self.model.std_range if isinstance(self.settings.std_range, str) else self.settings.std_range

    def limits(self, input_pixel_size_angst: float) -> Limits:
        """The limits in pixels of a micrograph."""
        return Limits(self.threshold, self.least_distance_angst / input_pixel_size_angst, self.std_range,
                      self.settings.border_angst / input_pixel_size_angst)

    def candidates(self, micrograph: Micrograph) -> tuple[Candidates, np.ndarray]:
        """All candidates of a micrograph, and the score map of the micrograph continued by half a box."""
        box = self.model.geometry.box
        check_size(micrograph, box)
        padded = pad(micrograph.pixels, box)
        if not hasattr(self._of_thread, "scanner"):  # each thread has its own, which keeps room for maps
            self._of_thread.scanner = Scanner(self.model.geometry, self.model.networks, self.step,
                                              self.settings.rotations)
        scores = self._of_thread.scanner.scan(padded)
        return find_candidates(micrograph, padded, scores, box, self.step), scores

    def pick(self, micrograph: Micrograph) -> tuple[Candidates, np.ndarray, np.ndarray]:
        """Candidates, the reason of each, and the score map."""
        candidates, scores = self.candidates(micrograph)
        return candidates, select(candidates, self.limits(micrograph.pixel_size_angst / micrograph.scale)), scores

    def evidence(self, micrograph: Micrograph, candidates: Candidates | None = None) -> float:
        """Sum of the squared scores of the picks with the model's own limits: how much looks like particles.

        `candidates` are those of the micrograph where they are known.
        """
        found = self.candidates(micrograph)[0] if candidates is None else candidates
        limits = Limits(self.model.threshold, LEAST_DISTANCE * self.model.diameter_px * micrograph.scale,
                        self.model.std_range)
        return float(np.square(found.scores[select(found, limits) == PICKED]).sum())


def check_size(micrograph: Micrograph, box: int) -> None:
    """Raise DeepEMError where a micrograph is smaller than the network's window, `box` working pixels."""
    rows, cols = micrograph.pixels.shape
    if min(rows, cols) < box:
        raise DeepEMError(f"{micrograph.path}: {cols} x {rows} pixels of {micrograph.pixel_size_angst:g} A (width x "
                          f"height), smaller than the network's window of {box}; check pixel sizes and diameter")


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
            "least_distance_angst": self.picker.least_distance_angst,
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
    return 1 if runtime.threads() == 1 else min(1 + runtime.threads() // 2, MOST_AT_A_TIME)


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
