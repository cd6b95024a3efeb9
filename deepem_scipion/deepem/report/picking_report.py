# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTML report of a picking run."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import DeepEMError
from ..micrographs.micrograph import read_micrograph
from ..model.files import load_model
from ..picking.candidates import Candidates
from ..picking.results import PickingResults
from ..picking.scale import scale_warnings
from ..picking.selection import PICKED, REASON_LABELS
from ..picking.settings import RunSettings
from ..picking.summary import MicrographResult, RunSummary, summarise_run
from .model_report import model_section, versions_table
from .page import TIME_FORMAT, Section, Table, format_number, limited_table, make_charts, write_page
from .run_plots import draw_course, draw_distributions
from .thumbnails import make_pictures, thumbnail

T = TypeVar("T")


@dataclass(frozen=True)
class _Run:
    """A picking run, its micrographs in the order in which they were picked.

    Candidates that cannot be read are missing, and so may be the settings.
    """

    results: PickingResults
    micrographs: dict[str, MicrographResult]
    candidates: dict[str, tuple[Candidates, np.ndarray]]
    summary: RunSummary
    settings: RunSettings | None

    @property
    def picked(self) -> dict[str, MicrographResult]:
        return {name: found for name, found in self.micrographs.items() if found.ok}

    @property
    def failed(self) -> dict[str, str]:
        return {name: found.reason for name, found in self.micrographs.items() if not found.ok}

    @property
    def threshold(self) -> float | None:
        return self.settings.limits.threshold if self.settings else None


def report_picking(folder: str | Path, path: str | Path, model: str | Path | None = None) -> None:
    """Write the report of a picking run.

    Parameters
    ----------
    folder : str or Path
        Results folder of `deepem pick`.
    path : str or Path
        HTML file to write.
    model : str or Path, optional
        Model file of the run, whose card and curves are added.

    Raises
    ------
    DeepEMError
        The folder has no such results, the model cannot be read or is another one than that of the run, or the report
        cannot be written. Micrographs that cannot be read are listed without a picture.
    """
    run = _read_run(PickingResults(folder))
    sections = [_course(run)]
    if run.failed or run.summary.outliers:
        sections.append(_unusual(run))
    sections.append(_pictures(run))
    if model:
        sections.append(model_section(_card_of_run(model, run), run.threshold))
    parameters = [("model", str(model))] if model else []
    if run.settings:
        parameters += _parameters(run.settings)
    sections.append(Section("Parameters and versions", tables=[
        Table("Parameters of picking", (), parameters),
        *versions_table(run.settings.versions if run.settings else {})]))
    sections.append(_all_micrographs(run))
    summary = run.summary
    write_page(path, "Picking report", _subject(run), {
        "micrographs picked": str(summary.picked), "failed": str(summary.failed), "picks": str(summary.picks),
        "picks per micrograph": format_number(summary.picks_per_micrograph, ".1f"),
        "mean score": format_number(summary.mean_score),
        "micrographs per minute": format_number(summary.micrographs_per_minute, ".1f")}, sections, _warnings(run))


def _card_of_run(path: str | Path, run: _Run) -> dict[str, Any]:
    """Card of the model that the run was picked with; raises DeepEMError for another model."""
    model, settings = load_model(path), run.settings
    if settings and settings.model and (settings.model != model.digest()
                                        or not math.isclose(settings.diameter_angst, model.diameter_angst)):
        raise DeepEMError(f"{path}: not the model that {run.results.folder} was picked with. Give that one, or leave "
                          "it out.")
    return model.card()


def _read_run(results: PickingResults) -> _Run:
    micrographs = results.read_micrographs()
    if not micrographs:
        raise DeepEMError(f"{results.folder}: expected the results of `deepem pick`, but there is no "
                          f"{results.path('table').name} with micrographs")
    micrographs = dict(sorted(micrographs.items(), key=lambda item: item[1].finished or 0))
    candidates = {name: found for name, micrograph in micrographs.items()
                  if micrograph.ok and (found := _readable(partial(results.read_candidates, name)))}
    return _Run(results, micrographs, candidates, summarise_run(micrographs), _readable(results.read_settings))


def _readable(read: Callable[[], T]) -> T | None:
    """Return what a function reads; None if it cannot be read."""
    try:
        return read()
    except DeepEMError:
        return None


def _subject(run: _Run) -> str:
    times = [found.finished for found in run.micrographs.values() if found.finished is not None]
    when = dict.fromkeys(time.strftime(TIME_FORMAT, time.localtime(at)) for at in times[:1] + times[-1:])
    return (f"{len(run.micrographs)} micrographs" + f", {' to '.join(when)}" * bool(when)
            + f"; results in {run.results.folder.resolve()}")


def _warnings(run: _Run) -> list[str]:
    total, contrast = len(run.micrographs), run.summary.contrast
    inverted = contrast.warning(run.settings.model_contrast if run.settings else None) if contrast else ""
    warnings = [f"{inverted}."] if inverted else []
    if run.settings is None:
        warnings.append(f"{run.results.path('settings').name} is missing or damaged: the parameters of the "
                        "run are unknown.")
    else:
        problems = [run.results.what_is_missing(), *scale_warnings(run.micrographs, run.settings)]
        warnings += [f"{problem}." for problem in problems if problem]
    if run.failed:
        warnings.append(f"{len(run.failed)} of {total} micrographs failed; the reasons are listed below.")
    if run.summary.outliers:
        warnings.append(f"{len(run.summary.outliers)} of {total} micrographs are outliers; they are listed below.")
    return warnings


def _course(run: _Run) -> Section:
    """Return picks and scores over the run, their distributions, and the reasons of rejection."""
    scores = {name: found.scores[reasons == PICKED] for name, (found, reasons) in run.candidates.items()}
    all_scores = np.concatenate([np.empty(0), *(found.scores for found, _ in run.candidates.values())])
    all_reasons = np.concatenate([np.empty(0, "U9"), *(reasons for _, reasons in run.candidates.values())])
    text = ["Local maxima of the score map are candidates; those that pass all limits become picks."]
    if missing := len(run.picked) - len(run.candidates):
        text.append(f"The candidates of {missing} of {len(run.picked)} micrographs cannot be read; they are missing in "
                    "the charts of scores.")
    return Section("Picks and scores", text, [
        *make_charts(draw_course(run.micrographs, scores, run.summary.outliers), [
            "Number of picks of each micrograph in the order of the run",
            "Median and spread of the scores of the picks in the order of the run"]),
        *make_charts(draw_distributions([found.picks for found in run.picked.values()], all_scores, all_reasons,
                                        run.threshold), [
            "Histogram of the number of picks per micrograph", "Histogram of the scores of all candidates"])],
        tables=[_reasons(run)])


def _reasons(run: _Run) -> Table:
    """Count the candidates that were picked, and rejected for each reason."""
    total = sum(found.candidates for found in run.picked.values())
    counts = Counter({REASON_LABELS[PICKED]: run.summary.picks})
    for found in run.picked.values():
        counts.update({REASON_LABELS[reason]: count for reason, count in found.rejected.items()})
    return Table("Candidates", ("", "number", "%"), [
        (label, str(count), f"{100 * count / total:.1f}" if total else "-") for label, count in counts.items()])


def _unusual(run: _Run) -> Section:
    tables = []
    if run.failed:
        tables.append(limited_table("Failed micrographs", ("micrograph", "reason"), list(run.failed.items()),
                                    run.results.path("failed").name))
    if outliers := run.summary.outliers:
        tables.append(limited_table("Outliers", ("micrograph", "unusual"), list(outliers.items()),
                                    run.results.path("settings").name))
    return Section("Failures and outliers", tables=tables)


def _pictures(run: _Run) -> Section:
    """Return the best, typical and worst micrographs with their picks."""
    def describe(name: str) -> str:
        found, unusual = run.picked[name], run.summary.outliers.get(name)
        return (f"{found.picks} picks, mean score {format_number(found.mean_score)}"
                + (f"; outlier: {unusual}" if unusual else ""))

    return Section("Micrographs with their picks", [
        "Best are the micrographs with the highest sum of the scores of their picks, worst those with the lowest, "
        "typical those in the middle. A circle has the diameter of the particle; its colour goes from red for a score "
        "at the threshold to yellow for a score of 1. Click a picture to enlarge it."],
        pictures=make_pictures(
            {name: found.picks * (found.mean_score or 0.0) for name, found in run.picked.items()},
            lambda name: _draw_micrograph(run, name), describe))


def _draw_micrograph(run: _Run, name: str) -> str:
    """Draw a micrograph with its picks, downsampled as for the network."""
    if name not in run.candidates or run.settings is None:
        raise DeepEMError("its table of candidates, or the summary of the run, cannot be read")
    candidates, reasons = run.candidates[name]
    picks, settings = candidates.subset(reasons == PICKED), run.settings
    image = read_micrograph(run.picked[name].path, settings.working_pixel_size_angst, settings.pixel_size_angst,
                            tiff_rows=settings.tiff_rows)
    style = {"array": picks.scores, "cmap": "autumn", "clim": (settings.limits.threshold, 1.0)}
    return thumbnail(image.pixels, settings.diameter_angst / image.pixel_size_angst,
                     [(image.to_binned_rc(picks.centres_xy)[:, ::-1], style)])


def _parameters(settings: RunSettings) -> list[tuple[str, str]]:
    limits, pixel = settings.limits, settings.pixel_size_angst
    return [
        ("pixel size of the micrographs", f"{pixel:g} Å" if pixel else "from their headers"),
        ("particle diameter", f"{settings.diameter_angst:g} Å"),
        ("threshold", f"{limits.threshold:.4g}"),
        ("minimum distance of two picks", f"{limits.min_distance_angst:g} Å"),
        ("minimum distance from the border", f"{limits.border_angst:g} Å"),
        ("working pixel size", f"{settings.working_pixel_size_angst:g} Å"),
        ("scan step", f"{settings.scan_step} binned pixels"),
        ("rotations averaged", str(settings.rotations)),
        ("range of the local standard deviation",
         "{:.3f} to {:.3f}".format(*limits.std_range) if limits.std_range else "off"),
    ]


def _all_micrographs(run: _Run) -> Section:
    rows = [(name, *map(format_number, (found.picks, found.mean_score, found.candidates, found.seconds) if found.ok
                        else (None,) * 4)) for name, found in run.micrographs.items()]
    return Section("All micrographs", tables=[limited_table(
        "All micrographs in the order of the run", ("micrograph", "picks", "mean score", "candidates", "seconds"), rows,
        run.results.path("table").name)])
