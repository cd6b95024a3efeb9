# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports for a browser, each in one file: of a picking run, of an evaluation, of a model."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.regions import Region
from ..coordinates.suppression import non_maximum_suppression
from ..errors import DeepEMError
from ..evaluation.matching import Matches, classify_picks, pool
from ..evaluation.metrics import curve, curve_from_points
from ..micrographs.micrograph import Micrograph, read_micrograph
from ..model.card import card_rows
from ..model.files import read_card
from ..picking.candidates import Candidates
from ..picking.results import PickingResults
from ..picking.selection import PICKED, REASON_LABELS
from ..picking.settings import RunSettings
from ..picking.summary import MicrographResult, RunSummary, summarise_run
from .page import TIME_FORM, Section, Table, charts_of, pictures_of, rows_at_most, thumbnail, write_page
from .plots import GREEN, VERMILION, draw_curve, draw_training
from .run_plots import draw_course, draw_distributions, draw_judged

T = TypeVar("T")
# Of the same palette as the others, and seen on grey.
YELLOW = "#F0E442"
_CURVES = ("Precision against recall, with the best F1 and F2 marked",
           "F1 and F2 against the threshold, with the best of each marked")


def report_picking(folder: str | Path, path: str | Path, model: str | Path | None = None) -> None:
    """Write the report of a picking run.

    Parameters
    ----------
    folder : results of `deepem pick`
    path : file to write
    model : file of the model, whose curves are shown, too

    Raises
    ------
    DeepEMError
        Where the folder holds no such results, the model cannot be read, or the report cannot be written. Micrographs
        that cannot be read are named without a picture.
    """
    results = PickingResults(folder)
    micrographs = results.read_micrographs()
    if not micrographs:
        raise DeepEMError(f"{folder}: expected the results of `deepem pick`, but there is no summary.tsv with "
                          "micrographs")
    micrographs = dict(sorted(micrographs.items(), key=lambda item: item[1].finished or 0))
    summary = summarise_run(micrographs)
    settings = _readable(results.read_settings)
    candidates = {name: found for name, micrograph in micrographs.items()
                  if micrograph.ok and (found := _readable(partial(results.read_candidates, name)))}
    odd = summary.outliers
    failed = {name: found.reason for name, found in micrographs.items() if not found.ok}
    times = [found.finished for found in micrographs.values() if found.finished is not None]
    when = dict.fromkeys(time.strftime(TIME_FORM, time.localtime(at)) for at in times[:1] + times[-1:])
    subject = (f"{len(micrographs)} micrographs" + f", {' to '.join(when)}" * bool(when)
               + f"; results in {results.folder.resolve()}")
    sections = [
        _course(micrographs, candidates, summary, settings),
        *([Section("Failed or unlike the others", tables=[
            *([rows_at_most("Failed micrographs", ("micrograph", "reason"), list(failed.items()), "failed.tsv")]
              if failed else []),
            *([rows_at_most("Micrographs unlike the others", ("micrograph", "what is unlike"), list(odd.items()),
                            "summary.json")] if odd else [])])] if failed or odd else []),
        Section("Micrographs with their picks", [
            "Best are the micrographs with the greatest sum of the scores of their picks, worst those with the "
            "smallest, typical those in the middle. A circle is as large as the particle; its colour goes from red "
            "at the threshold to yellow at a score of 1. Click on a picture to enlarge it."],
            pictures=pictures_of(
                {name: found.picks * (found.mean_score or 0.0) for name, found in micrographs.items() if found.ok},
                lambda name: _picked(micrographs[name], candidates.get(name), settings),
                lambda name: f"{micrographs[name].picks} picks, mean score {_number(micrographs[name].mean_score)}"
                + (f"; unlike the others: {odd[name]}" if name in odd else ""))),
        *(_model_sections(read_card(model), settings.limits.threshold if settings else None) if model else []),
        Section("Parameters and versions", tables=[
            Table("Parameters of picking", (), [*([("model", str(model))] if model else []),
                                                 *(_parameters(settings) if settings else [])]),
            *_versions(settings.versions if settings else {})]),
        Section("All micrographs", tables=[
            rows_at_most("All micrographs in the order of the run", (
                "micrograph", "picks", "mean score", "candidates", "seconds"), [
                    (name, *map(_number, (found.picks, found.mean_score, found.candidates, found.seconds) if found.ok
                                         else (None,) * 4))
                    for name, found in micrographs.items()], "summary.tsv")]),
    ]
    inverted = summary.contrast.warning(settings.model_contrast if settings else None) if summary.contrast else ""
    warnings = [f"{inverted}."] if inverted else []
    if failed:
        warnings.append(f"failed: {len(failed)} of {len(micrographs)} micrographs; a table below says why.")
    if odd:
        warnings.append(f"unlike the others: {len(odd)} of {len(micrographs)} micrographs; a table below says how.")
    write_page(path, "Report of picking", subject, {
        "micrographs picked": str(summary.picked), "failed": str(summary.failed),
        "picks": str(summary.picks), "picks per micrograph": _number(summary.picks_per_micrograph, ".1f"),
        "mean score": _number(summary.mean_score, ".3f"),
        "micrographs per minute": _number(summary.micrographs_per_minute, ".1f")}, sections, warnings)


def report_evaluation(path: str | Path, result: Mapping[str, Any], matches: Mapping[str, Matches],
                      truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates], distance_px: float,
                      min_distance_px: float = 0.0, regions: Mapping[str, Region] | None = None,
                      micrographs: Mapping[str, Path] | None = None) -> None:
    """Write the report of an evaluation.

    Parameters
    ----------
    path : file to write
    result, matches : of `metrics.summarise` and `metrics.match_all`
    truth, picks, distance_px, min_distance_px, regions : what these were made from
    micrographs : name -> file, for the pictures

    Raises
    ------
    DeepEMError
        Where the report cannot be written. Micrographs that cannot be read are named without a picture.
    """
    overall, threshold, pooled = result["overall"], result["threshold"], pool(list(matches.values()))
    steps = curve(pooled)
    nothing = Coordinates(np.empty((0, 2)), np.empty(0), None)

    def judged(name: str) -> dict[str, np.ndarray]:
        found = picks.get(name, nothing)
        scores = np.where(np.isnan(found.scores), 0.0, found.scores)
        used = non_maximum_suppression(found.centres_xy, scores, min_distance_px)
        used &= scores >= (-math.inf if threshold is None else threshold)
        return classify_picks(found.centres_xy[used], scores[used], truth[name].centres_xy, distance_px,
                      (regions or {}).get(name))

    def draw(name: str) -> str:
        file = (micrographs or {}).get(name)
        if file is None:
            raise DeepEMError("its file was not given, see --micrographs")
        groups = judged(name)
        styles = {"true positives": (GREEN, "solid"), "false positives": (VERMILION, "solid"),
                  "missed": (YELLOW, "dashed")}
        return thumbnail(read_micrograph(file, pixel_size_angst=1.0).pixels, 2 * distance_px,
                         [(groups[kind], {"edgecolors": colour, "linestyles": style})
                          for kind, (colour, style) in styles.items()], (regions or {}).get(name))

    keys = ("truth", "picks", "true_positives", "precision", "recall", "F1", "AP")
    rows = [(name, *(_number(row[key]) for key in keys), _number(row["best_F1"]["F1"]),
             _number(row["best_F1"]["threshold"]))
            for name, row in [("all together", overall), *result["micrographs"].items()]]
    sections = [
        Section("Curves", charts=[
            *charts_of(draw_curve(steps, threshold=threshold), _CURVES),
            *charts_of(draw_judged(pooled, threshold), [
                "Histogram of the scores of right and of false picks",
                "Histogram of the distances of right picks from their particles"])]),
        Section("Micrographs", ["Best and worst are those with the highest and the lowest F1, typical those in the "
                                "middle. Circles have the radius within which a pick is right: green for right picks, "
                                "red for false ones, dashed yellow for missed particles. A blue frame is the annotated "
                                "part. Click on a picture to enlarge it."],
                pictures=pictures_of(
                    {name: row["F1"] for name, row in result["micrographs"].items()}, draw,
                    lambda name: f"F1 {result['micrographs'][name]['F1']:.3f}: "
                    + ", ".join(f"{len(found)} {kind}" for kind, found in judged(name).items()))),
        Section("All micrographs", tables=[rows_at_most("Figures of the micrographs", (
            "micrograph", "particles", "picks", "right", "precision", "recall", "F1", "average precision", "best F1",
            "at threshold"), rows, "the file of --json")]),
        Section("Parameters", tables=[Table("Parameters of the comparison", (), [
            ("greatest distance of a right pick", f"{distance_px:g} px"),
            ("least distance of two picks", f"{min_distance_px:g} px" if min_distance_px else "none"),
            ("threshold", _number(threshold, ".4g") if threshold is not None else "none: all picks count"),
            ("annotated regions", f"of {len(regions)} micrographs" if regions else "whole micrographs")])]),
    ]
    write_page(path, "Report of an evaluation", f"{overall['picks']} picks compared with {overall['truth']} particles "
               f"on {len(matches)} micrographs", {
                   "precision": _number(overall["precision"], ".3f"), "recall": _number(overall["recall"], ".3f"),
                   "F1": _number(overall["F1"], ".3f"), "average precision": _number(overall["AP"], ".3f"),
                   "right picks": str(overall["true_positives"]),
                   "mean distance of right picks": "-" if overall["error_px"] is None
                   else f"{overall['error_px']:.1f} px"}, sections)


def report_model(model: str | Path, path: str | Path) -> None:
    """Write the report of a model, from its card; raises DeepEMError where one cannot be read or written."""
    card = read_card(model)
    validation = card.get("validation", {})
    write_page(path, "Report of a model", str(Path(model).resolve()), {
        name: _number(validation.get(key), ".3f") for name, key in (
            ("precision", "precision"), ("recall", "recall"), ("F1", "F1"), ("average precision", "AP"))},
        [*_model_sections(card, card["threshold"]), Section("Versions", tables=_versions(card.get("versions", {})))])


def _picked(micrograph: MicrographResult, found: tuple[Candidates, np.ndarray] | None,
            settings: RunSettings | None) -> str:
    """Thumbnail of a micrograph with its picks, as the network sees it."""
    if found is None or settings is None:
        raise DeepEMError("its table of candidates, or the summary of the run, cannot be read")
    picks = found[0].subset(found[1] == PICKED)
    image = read_micrograph(micrograph.path, settings.working_pixel_size_angst, settings.pixel_size_angst)
    style = {"array": picks.scores, "cmap": "autumn", "clim": (settings.limits.threshold, 1.0)}
    return thumbnail(image.pixels, settings.diameter_angst / image.pixel_size_angst,
                     [(_working_xy(image, picks.centres_xy), style)])


def _working_xy(micrograph: Micrograph, points_xy: np.ndarray) -> np.ndarray:
    return micrograph.to_binned_rc(points_xy)[:, ::-1]


def _course(micrographs: Mapping[str, MicrographResult], candidates: Mapping[str, tuple[Candidates, np.ndarray]],
            summary: RunSummary, settings: RunSettings | None) -> Section:
    """Picks and scores in the course of the run and their distributions, and what became of the candidates."""
    picked = {name: found.scores[reasons == PICKED] for name, (found, reasons) in candidates.items()}
    scores = np.concatenate([np.empty(0), *(found.scores for found, _ in candidates.values())])
    reasons = np.concatenate([np.empty(0, "U9"), *(each for _, each in candidates.values())])
    done = [found for found in micrographs.values() if found.ok]
    number = sum(found.candidates for found in done)
    fates = Counter({REASON_LABELS[PICKED]: summary.picks})
    for found in done:
        fates.update({REASON_LABELS[reason]: count for reason, count in found.rejected.items()})
    rows = [(fate, str(count), f"{100 * count / number:.1f}" if number else "-") for fate, count in fates.items()]
    lost = len(done) - len(candidates)
    return Section("Picks and scores", [
        "Peaks of the score map are candidates; those that are left become picks.",
        *([f"Candidates that could not be read are missing in the charts of scores: those of {lost} of "
           f"{len(done)} micrographs."]
          if lost else [])], [
        *charts_of(draw_course(micrographs, picked, summary.outliers), [
            "Number of picks of each micrograph in the order of the run",
            "Median and spread of the scores of the picks in the order of the run"]),
        *charts_of(draw_distributions([found.picks for found in done], scores, reasons,
                                       settings.limits.threshold if settings else None), [
            "Histogram of the number of picks per micrograph", "Histogram of the scores of all candidates"])],
        tables=[Table("What became of the candidates", ("", "number", "%"), rows)])


def _model_sections(card: Mapping[str, Any], threshold: float | None) -> list[Section]:
    """Curves and card of a model."""
    validation = card.get("validation", {})
    charts = []
    if card.get("history"):
        charts += charts_of(draw_training(card["history"]), ["Loss after each epoch", "Accuracy after each epoch"])
    if validation.get("curve"):
        charts += charts_of(draw_curve(curve_from_points(validation["curve"]), threshold=threshold), _CURVES, [
            "On the validation micrographs of the training."] * 2)
    return [Section("Model", charts=charts, tables=[Table("Card of the model", (), card_rows(card))])]


def _parameters(settings: RunSettings) -> list[tuple[str, str]]:
    """Parameters of picking in words."""
    limits, pixel = settings.limits, settings.pixel_size_angst
    return [
        ("pixel size of the micrographs", f"{pixel:g} Å" if pixel else "from their headers"),
        ("particle diameter", f"{settings.diameter_angst:g} Å"),
        ("threshold", f"{limits.threshold:.4g}"),
        ("minimum distance of two picks", f"{limits.min_distance_angst:g} Å"),
        ("border", f"{limits.border_angst:g} Å"),
        ("working pixel size", f"{settings.working_pixel_size_angst:g} Å"),
        ("scan step", f"{settings.scan_step} binned pixels"),
        ("rotations averaged", str(settings.rotations)),
        ("range of the local standard deviation",
         "{:.3f} to {:.3f}".format(*limits.std_range) if limits.std_range else "off"),
    ]


def _versions(found: Mapping[str, str]) -> list[Table]:
    return [Table("Versions", (), list(found.items()))] if found else []


def _readable(read: Callable[[], T]) -> T | None:
    """Return what a function reads; None where it cannot be read."""
    try:
        return read()
    except DeepEMError:
        return None


def _number(value: float | None, form: str = ".3f") -> str:
    """A number in a few digits; a dash for none."""
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:{form}}"
