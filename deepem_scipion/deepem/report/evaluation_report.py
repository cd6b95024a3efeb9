# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTML report of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.regions import Region
from ..coordinates.suppression import non_maximum_suppression
from ..errors import DeepEMError
from ..evaluation.matching import Matches, classify_picks, pool
from ..evaluation.metrics import curve
from ..micrographs.micrograph import read_micrograph
from .axes import YELLOW
from .model_report import CURVE_ALTS
from .page import Section, Table, format_number, limited_table, make_charts, write_page
from .plots import CLASSES, draw_curve
from .run_plots import draw_matches
from .thumbnails import make_pictures, thumbnail

# On grey, yellow is easier to see.
_CLASSES = {**CLASSES, "missed": (YELLOW, "dashed")}
_COLUMNS = {"reference": "truth", "picks": "picks", "true positives": "true_positives", "precision": "precision",
            "recall": "recall", "F1": "F1", "average precision": "AP"}


@dataclass(frozen=True)
class Comparison:
    """What was compared, and how.

    Attributes
    ----------
    truth, picks : mapping of str to Coordinates
        Reference coordinates and picks by name of the micrograph.
    distance_px : float
        Maximum distance of a correct pick from its particle in pixels.
    min_distance_px : float
        Minimum distance of two picks in pixels.
    threshold : float, optional
        Minimum score; None: all picks count.
    regions : mapping of str to Region
        Annotated parts by name of the micrograph; others count as a whole.
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of TIFF files.
    """

    truth: Mapping[str, Coordinates]
    picks: Mapping[str, Coordinates]
    distance_px: float
    min_distance_px: float = 0.0
    threshold: float | None = None
    regions: Mapping[str, Region] = field(default_factory=dict)
    tiff_rows: str = "bottom"

    def classify(self, name: str) -> dict[str, np.ndarray]:
        """Return true positives, false positives and missed particles of a micrograph, see `classify_picks`.

        Parameters
        ----------
        name : str

        Returns
        -------
        dict of str to (n, 2) array
        """
        found = self.picks.get(name, Coordinates(np.empty((0, 2)), np.empty(0), None))
        scores = np.where(np.isnan(found.scores), 0.0, found.scores)
        used = non_maximum_suppression(found.centres_xy, scores, self.min_distance_px)
        used &= scores >= (-math.inf if self.threshold is None else self.threshold)
        return classify_picks(found.centres_xy[used], scores[used], self.truth[name].centres_xy, self.distance_px,
                              self.regions.get(name))


def report_evaluation(path: str | Path, result: Mapping[str, Any], matches: Mapping[str, Matches],
                      comparison: Comparison, micrographs: Mapping[str, Path] | None = None) -> None:
    """Write the report of an evaluation.

    Parameters
    ----------
    path : str or Path
        HTML file to write.
    result : mapping of str to Any
        From `summarise`.
    matches : mapping of str to Matches
        From `match_all`.
    comparison : Comparison
        What the result was computed from.
    micrographs : mapping of str to Path, optional
        Files of the micrographs by name, for the pictures.

    Raises
    ------
    DeepEMError
        The report cannot be written. Micrographs that cannot be read are listed without a picture.
    """
    overall, pooled = result["overall"], pool(list(matches.values()))
    sections = [
        Section("Curves", charts=[
            *make_charts(draw_curve(curve(pooled), threshold=comparison.threshold), CURVE_ALTS),
            *make_charts(draw_matches(pooled, comparison.threshold), [
                "Histogram of the scores of true and false positives",
                "Histogram of the distances of true positives from their particles"])]),
        _micrographs(result, comparison, micrographs or {}),
        _table(result),
        _parameters(comparison),
    ]
    error_px = overall["error_px"]
    subject = (f"{overall['picks']} picks compared with {overall['truth']} reference particles on {len(matches)} "
               "micrographs")
    figures = {"precision": format_number(overall["precision"]), "recall": format_number(overall["recall"]),
               "F1": format_number(overall["F1"]), "average precision": format_number(overall["AP"]),
               "true positives": str(overall["true_positives"]),
               "mean distance of true positives": "-" if error_px is None else f"{error_px:.1f} px"}
    write_page(path, "Evaluation report", subject, figures, sections)


def _micrographs(result: Mapping[str, Any], comparison: Comparison, micrographs: Mapping[str, Path]) -> Section:
    figures = result["micrographs"]

    def draw(name: str) -> str:
        if name not in micrographs:
            raise DeepEMError("its file was not given, see --micrographs")
        groups = comparison.classify(name)
        micrograph = read_micrograph(micrographs[name], pixel_size_angst=1.0, tiff_rows=comparison.tiff_rows)
        return thumbnail(micrograph.pixels, 2 * comparison.distance_px,
                         [(groups[kind], {"edgecolors": colour, "linestyles": style})
                          for kind, (colour, style) in _CLASSES.items()], comparison.regions.get(name))

    def describe(name: str) -> str:
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in comparison.classify(name).items())
        return f"F1 {figures[name]['F1']:.3f}: {counts}"

    return Section("Micrographs", [
        "Best and worst are the micrographs with the highest and the lowest F1, typical those in the middle. The "
        "radius of a circle is the maximum distance of a correct pick: green for true positives, red for false "
        "positives, dashed yellow for missed particles. A blue frame is the annotated part. Click a picture to enlarge "
        "it."],
        pictures=make_pictures({name: row["F1"] for name, row in figures.items()}, draw, describe))


def _table(result: Mapping[str, Any]) -> Section:
    rows = [(name, *(format_number(row[key]) for key in _COLUMNS.values()), format_number(row["best_F1"]["F1"]),
             format_number(row["best_F1"]["threshold"]))
            for name, row in [("all micrographs", result["overall"]), *result["micrographs"].items()]]
    head = ("micrograph", *_COLUMNS, "best F1", "at threshold")
    table = limited_table("Figures of the micrographs", head, rows[1:], "the file of --json")
    return Section("All micrographs", tables=[replace(table, rows=[rows[0], *table.rows])])


def _parameters(comparison: Comparison) -> Section:
    threshold, regions = comparison.threshold, comparison.regions
    distance_px = comparison.min_distance_px
    return Section("Parameters", tables=[Table("Parameters of the comparison", (), [
        ("maximum distance of a correct pick", f"{comparison.distance_px:g} px"),
        ("minimum distance of two picks", f"{distance_px:g} px" if distance_px else "none"),
        ("threshold", "none: all picks count" if threshold is None else f"{threshold:.4g}"),
        ("annotated regions", f"of {len(regions)} micrographs" if regions else "whole micrographs")])])
