# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking many micrographs into a results folder."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Callable

from .. import runtime
from ..coordinates.masks import read_mask
from ..coordinates.star import Optics
from ..errors import DeepEMError, StoppedAtOnce
from ..micrographs.micrograph import Micrograph
from .box import count_cut, default_box_px
from .earlier import REFUSE, alone_in, prepare
from .export import write_star
from .message import as_message, failure, reason_of
from .picker import PickedMicrograph, Picker
from .results import PickingResults
from .scale import check_scale, scale_warnings
from .settings import RunSettings
from .summary import MicrographResult, contrast

log = logging.getLogger(__name__)

# Each takes some hundred megabytes.
MAX_AT_A_TIME = 8
# A signal that arrives just before a wait begins is noticed when it ends: waits are not longer than this.
INTERRUPTIBLE_SECONDS = 0.5

Progress = Callable[[str, MicrographResult], None]


def pick_micrographs(paths: Mapping[str, Path], picker: Picker, output: str | Path, box_px: int | None = None,
                     pixel_size_angst: float | None = None, further: Collection[str] = (), optics: Optics | None = None,
                     contrast_checks: int = 0, existing: str = REFUSE,
                     progress: Progress = lambda name, result: None, tiff_rows: str = "bottom",
                     any_scale: bool = False, masks: Mapping[str, Path] | None = None) -> dict[str, MicrographResult]:
    """Pick micrographs and write everything into a results folder.

    Parameters
    ----------
    paths : mapping of str to Path
        Name of the micrograph to its file.
    picker : Picker
    output : str or Path
        Results folder, see `PickingResults`; made where it does not exist.
    box_px : int, optional
        Side of the boxes written, in pixels of the input micrographs; default: 1.5 particle diameters, made even.
    pixel_size_angst : float, optional
        Pixel size of the micrographs, in angstrom; default: from their headers.
    further : collection of str
        Files to write besides the usual ones: "score_map", an MRC file; "json", what became of the micrograph, see
        `pick_message`; "picture", a JPEG with the picks.
    optics : Optics, optional
        Written into picks.star.
    contrast_checks : int
        This many first micrographs are scanned with inverted contrast as well, and a warning is logged if they then
        look more like the particles of the training, see `summary.contrast`.
    existing : {"refuse", "overwrite", "resume"}
        What to do about results of an earlier run in the folder: refuse them with an error, remove them, or keep those
        that this run would make again. Nothing else of them is left in the end.
    progress : callable
        Called with name and result after each micrograph.
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of TIFF files.
    any_scale : bool
        Whether to pick micrographs whose pixel size makes the particle improbable as well, see `scale.check_scale`.
    masks : mapping of str to Path, optional
        Mask of contamination by name of the micrograph; the others have none.

    Returns
    -------
    dict of str to MicrographResult
        By name. A micrograph that fails is recorded and does not stop the others. What is done is on disk even if the
        run is interrupted.

    Raises
    ------
    DeepEMError
        The folder cannot be made or written, has results of an earlier run, see `earlier.prepare`, or another run is
        writing into it.
    KeyboardInterrupt
        The run was interrupted, and the micrographs in work are done; `StoppedAtOnce` if they are not.
    """
    run = _Run(picker, PickingResults(output), box_px, pixel_size_angst, further, list(paths)[:contrast_checks],
               tiff_rows, any_scale, masks or {}, len(paths))
    with alone_in(run.results):
        run.kept = prepare(run.results, paths, run.settings, existing, further, run.checked)
        _pick_all(run, paths, progress, optics or Optics())
    check = contrast(run.micrographs)
    if check and (problem := check.warning(picker.model.record.contrast)):
        log.warning("warning: %s", problem)
    return run.micrographs


def _pick_all(run: _Run, paths: Mapping[str, Path], progress: Progress, optics: Optics) -> None:
    """Pick micrographs, several at a time, until all are done or the run is interrupted."""
    pool = ThreadPoolExecutor(micrographs_at_a_time())
    waiting: Iterator[tuple[str, Path]] = iter(paths.items())
    pending: dict[str, Future[MicrographResult]] = {}
    interrupted = False
    try:
        for name, path in paths.items():
            # Few at a time, so that the memory does not grow with the number of micrographs.
            for later, file in islice(waiting, 2 * micrographs_at_a_time() - len(pending)):
                pending[later] = pool.submit(run.pick, later, file)
            _wait_for([pending[name]])
            progress(name, run.record(name, path, pending.pop(name)))
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        try:
            if interrupted:
                log.warning("stopping after the micrographs in work; Ctrl-C again stops at once")
            _end(pool, pending.values())
        except KeyboardInterrupt:
            raise StoppedAtOnce from None
        finally:
            for name, future in pending.items():
                if future.done() and not future.cancelled():  # the others are picked by the next run
                    run.record(name, paths[name], future)
            run.finish(optics)


def _end(pool: ThreadPoolExecutor, futures: Collection[Future[MicrographResult]]) -> None:
    """Wait for the micrographs in work; no others are begun."""
    for future in futures:
        future.cancel()
    pool.shutdown(wait=False)
    _wait_for(future for future in futures if not future.cancelled())


def _wait_for(futures: Iterable[Future[MicrographResult]]) -> None:
    """Wait until all are done, or for a signal."""
    under_way = list(futures)
    while wait(under_way, INTERRUPTIBLE_SECONDS).not_done:
        pass


def micrographs_at_a_time() -> int:
    """Return how many micrographs are processed at a time.

    All threads take part in the convolutions of a micrograph, but reading, searching the score map and writing take
    one thread each; meanwhile the others process other micrographs.
    """
    return 1 if runtime.threads() == 1 else min(1 + runtime.threads() // 2, MAX_AT_A_TIME)


@dataclass
class _Run:
    """One call of `pick_micrographs`."""

    picker: Picker
    results: PickingResults
    box_px: int | None
    pixel_size_angst: float | None
    further: Collection[str]
    checked: Collection[str]
    tiff_rows: str
    any_scale: bool
    masks: Mapping[str, Path]
    expected: int
    kept: Mapping[str, MicrographResult] = field(default_factory=dict)
    micrographs: dict[str, MicrographResult] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def settings(self) -> RunSettings:
        """How the run picks its micrographs."""
        model = self.picker.model
        return RunSettings(
            self.picker.limits, self.picker.scan_step, self.picker.rotations, model.geometry.box,
            model.working_pixel_size_angst, model.diameter_angst, self.pixel_size_angst, model.record.contrast,
            model.digest(), self.box_px, runtime.versions(), self.tiff_rows, model.record.training_pixel_size_angst,
            {name: os.path.abspath(path) for name, path in self.masks.items()})

    def pick(self, name: str, path: Path) -> MicrographResult:
        """Pick one micrograph and write its files, unless an earlier run did it."""
        if name in self.kept:
            return replace(self.kept[name], path=str(path))
        began = time.perf_counter()
        micrograph = self.picker.model.read_micrograph(path, self.pixel_size_angst, name, self.tiff_rows)
        if not self.any_scale:
            check_scale(micrograph, self.picker.model)
        mask = None
        if name in self.masks:
            mask = read_mask(self.masks[name], path, micrograph.input_shape, self.tiff_rows)
        found = self.picker.pick(micrograph, mask)
        pixel_size = micrograph.input_pixel_size_angst
        box_px = self._box_px(pixel_size)
        self.results.write_micrograph(name, found.candidates, found.reasons, box_px)
        self._write_further(name, micrograph, found, box_px, time.perf_counter() - began)
        evidence = negative = None
        if name in self.checked:
            evidence = round(self.picker.evidence(micrograph, found.candidates), 3)
            negative = round(self.picker.evidence(replace(micrograph, pixels=-micrograph.pixels), mask=mask), 3)
        return MicrographResult.of(
            str(path), found.candidates, found.reasons, seconds=round(time.perf_counter() - began, 4),
            finished=round(time.time(), 2), evidence=evidence, negative_evidence=negative,
            pixel_size_angst=round(pixel_size, 6), header_pixel_size_angst=micrograph.header_pixel_size_angst,
            cut=count_cut(found.picks.centres_xy, box_px, micrograph.input_shape))

    def record(self, name: str, path: Path, future: Future[MicrographResult]) -> MicrographResult:
        """Note what became of a micrograph."""
        try:
            result = future.result()
        except Exception as error:  # the one place where a micrograph may fail without stopping the others
            log.debug("%s failed", name, exc_info=True)
            reason = reason_of(error, path)
            result = MicrographResult(str(path), reason, finished=round(time.time(), 2))
            if "json" in self.further:
                with suppress(DeepEMError):  # it is listed in failed.tsv as well
                    self.results.write_json(name, failure(path, name, reason))
        self.micrographs[name] = result
        if result.ok and not self.warnings:
            self._warn({name: result})
        with suppress(DeepEMError):  # reported at the end, when the whole table is written
            self.results.append({name: result})
        return result

    def _write_further(self, name: str, micrograph: Micrograph, found: PickedMicrograph, box_px: int,
                       seconds: float) -> None:
        """Write the files of one micrograph that are written on request."""
        if "score_map" in self.further:
            self.results.write_score_map(name, found.score_map, micrograph.pixel_size_angst * self.picker.scan_step)
        picture = None
        if "picture" in self.further:
            self.results.write_picture(name, micrograph, found.picks.centres_xy, self.picker.model.diameter_angst)
            picture = self.results.path("picture", name).relative_to(self.results.folder).as_posix()
        if "json" in self.further:
            self.results.write_json(name, as_message(self.picker, micrograph, found.picks, name, box_px, picture,
                                                     seconds))

    def finish(self, optics: Optics) -> None:
        """Write the files about all micrographs; each is tried, whatever becomes of the others."""
        self._warn(self.micrographs)
        with ExitStack() as last:
            last.callback(self.results.write_summary, self.settings, self.micrographs, self.expected)
            last.callback(self.results.write_failed, self.micrographs)
            last.callback(write_star, self.results, self.micrographs, self.settings, optics)

    def _warn(self, micrographs: Mapping[str, MicrographResult]) -> None:
        """Log what is wrong with the pixel sizes: as soon as it shows, and at the end if it concerns others as well."""
        for problem in scale_warnings(micrographs, self.settings):
            if problem not in self.warnings:
                self.warnings.append(problem)
                log.warning("warning: %s", problem)

    def _box_px(self, pixel_size_angst: float) -> int:
        if self.box_px is not None:
            return self.box_px
        return default_box_px(self.picker.model.diameter_angst, pixel_size_angst)
