# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem evaluate`: compare picks with reference coordinates."""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeepEMError
from . import console
from .arguments import COORDINATES, add_shifts, add_tiff_rows, angst
from .assigning import Compared, read_compared
from .doubts import warn_after, warn_before
from .lengths import USUAL, Length, known_sizes, length
from .report import try_report

if TYPE_CHECKING:
    from ..coordinates.regions import Region
    from ..evaluation.matching import Matches

log = logging.getLogger("deepem")

PLOTS = (".png", ".pdf", ".svg")
# Of boxes and discs, in pixels.
_MAX_SIZE = 10_000

SUMMARY = "compare picks with reference coordinates"
REQUIRED = ("--truth PATH", "--picks PATH")
DESCRIPTION = """\
Compare picks with reference coordinates.

Picks and reference particles are matched one to one: pairs within the distance are matched in descending order of the \
pick's score, closest first among equal scores. A second pick on the same particle is a false positive. If only a part \
of a micrograph was annotated, particles and unmatched picks outside of it do not count; a matched pick counts if its \
particle does. Micrographs with reference coordinates and without picks count; those with picks only do not. Which \
micrographs are the same is decided by the ends of their paths, by the file name where it occurs once on either side, \
and then without known endings such as _DW; the log states it.

Lengths are in pixels of the micrographs, as coordinates are, or in angstrom if they end with A. The pixel size is \
then that of the run, if --picks is an output folder of `deepem pick`, or that in the headers of --micrographs."""
EPILOG = """examples:
  deepem evaluate --truth boxes --picks picks
  deepem evaluate --truth boxes --picks coordinates.star --distance 40
  deepem evaluate --truth boxes --picks coordinates.star --distance 60A \\
      --pixel-size 1.5
  deepem evaluate --truth boxes --picks picks --distance 40 \\
      --json figures.json --plot curve.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem evaluate` to its parser."""
    group = parser.add_argument_group("files")
    group.add_argument("--truth", required=True, type=Path, metavar="PATH",
                       help=f"reference coordinates: {COORDINATES}")
    group.add_argument("--picks", required=True, type=Path, metavar="PATH", help=f"picks: {COORDINATES}")
    add_shifts(group)
    group = parser.add_argument_group("matching")
    group.add_argument("--distance", type=length, metavar="LENGTH", help="maximum distance of a correct pick from its "
                       "particle in pixels, or in angstrom as 60A, usually half the particle diameter (default: that, "
                       "if --picks is an output folder of `deepem pick`)")
    group.add_argument("--min-distance", type=length, default=Length(0.0, False), metavar="LENGTH", help="apply "
                       "non-maximum suppression before matching, as in picking: of picks closer to each other than "
                       "this, in pixels or as 60A, only the one with the highest score counts (default: all count)")
    group.add_argument("--pixel-size", type=angst, metavar="A", help="pixel size of the micrographs in angstrom, for "
                       "lengths in angstrom (default: that of the run or of --micrographs)")
    group.add_argument("--region", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="annotated part of the "
                       "micrographs, X0 <= x < X1 and Y0 <= y < Y1, in pixels (default: all)")
    group.add_argument("--regions", type=Path, metavar="FILE", help="annotated part of each micrograph: a table with "
                       "name, X0, Y0, X1 and Y1 per line, separated by tabs or blanks; # starts a comment; for "
                       "micrographs that are not listed --region applies")
    group.add_argument("--threshold", metavar="T", help="evaluate picks with at least this score; `F1` or `F2`: the "
                       "score with the best F1 or F2 on these micrographs (default: all picks)")
    group = parser.add_argument_group("other measures")
    group.add_argument("--box", type=length, metavar="LENGTH", help="also compare boxes of this side, in pixels or as "
                       "180A, which match if their intersection over union is at least that of --min-iou")
    group.add_argument("--min-iou", type=float, default=0.5, metavar="IOU", help="minimum intersection over union of "
                       "matching boxes (default: %(default)s)")
    group.add_argument("--diameter", type=length, metavar="LENGTH", help="also compare the pixels of discs of this "
                       "diameter, in pixels or as 120A")
    group = parser.add_argument_group("results")
    group.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a JSON file")
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw the precision-recall curve as PNG, PDF or SVG")
    group.add_argument("--report", type=Path, metavar="FILE", help="write an HTML report")
    group.add_argument("--micrographs", nargs="+", metavar="MICS", help="micrographs shown in the report, and "
                       "needed for formats that count y from the last row (default: those that were picked, if --picks "
                       "is an output folder of `deepem pick`)")
    add_tiff_rows(group)


def run(options: argparse.Namespace) -> int:
    """Run `deepem evaluate`; returns the exit code."""
    from ..atomic import atomic_write, check_no_input
    from ..coordinates.formats.headers import MicrographHeaders
    from ..evaluation.matching import match_all, pool
    from ..evaluation.metrics import curve, summarise

    threshold = _threshold(options.threshold)
    if options.plot and options.plot.suffix.lower() not in PLOTS:
        raise DeepEMError(f"--plot {options.plot}: expected a name that ends with {', '.join(PLOTS)}")
    for output in filter(None, (options.json, options.plot, options.report)):
        check_no_input(output, options.truth, options.picks)
    options.files = _files(options)
    compared = read_compared(options.truth, options.picks, options.apply_shifts, MicrographHeaders(options.files))
    _set_lengths(options, compared)
    warn_before(options, compared)
    regions = _regions(options, compared)
    matches = match_all(compared.truth, compared.picks, options.distance, regions, options.min_distance)
    result = summarise(matches, threshold)
    console.print_always(_table(result))
    console.print_always(_method(options, result["threshold"]))
    result.update(_areas(options, compared, regions, result["threshold"]))
    warn_after(options, compared, matches, result)
    if options.json:
        with atomic_write(options.json) as handle:
            json.dump(result, handle, indent=1)
    if options.plot:
        from ..report.plots import draw_curve

        draw_curve(curve(pool(list(matches.values()))), options.plot, result["threshold"])
    if options.report:
        _report(options, result, matches, compared, regions)
    return console.OK


def _set_lengths(options: argparse.Namespace, compared: Compared) -> None:
    """Replace the lengths in the options by pixels, and check them."""
    boxes = [found.box_px for found in (*compared.truth.values(), *compared.picks.values()) if found.box_px]
    sizes = known_sizes(options.picks, options.files, options.pixel_size, boxes)
    for name in ("distance", "min_distance", "box", "diameter"):
        if (given := getattr(options, name)) is not None:
            option = name.replace("_", "-")
            setattr(options, name, sizes.in_pixels(option, given))
            if name in USUAL and getattr(options, name) > 0:
                sizes.warn(option, getattr(options, name))
    if options.distance is None:
        if sizes.diameter_px is None or sizes.guessed:
            raise DeepEMError("give --distance, in pixels or in angstrom (60A): half the particle diameter is usual, "
                              f"and {options.picks} does not state the diameter as the results of `deepem pick` do")
        options.distance = USUAL["distance"] * sizes.diameter_px
    if not 0 < options.distance < math.inf:
        raise DeepEMError(f"--distance {options.distance}: expected pixels, above 0")
    if not options.min_distance >= 0:
        raise DeepEMError(f"--min-distance {options.min_distance}: expected pixels, or 0 to keep all picks")
    _check_areas(options)


def _areas(options: argparse.Namespace, compared: Compared, regions: Mapping[str, Region] | None,
           threshold: float | None) -> dict[str, Any]:
    """Print and return the figures of boxes and of discs, if these are wanted."""
    from ..coordinates.formats.headers import MicrographHeaders
    from ..coordinates.parse import gather
    from ..evaluation.areas import box_counts, chosen_picks, disc_counts, summarise_counts

    picks, infos = chosen_picks(compared.picks, threshold, options.min_distance), MicrographHeaders(options.files)
    nothing = gather([], None)
    found: dict[str, Any] = {}
    for kind, size in (("boxes", options.box), ("discs", options.diameter)):
        if size is None:
            continue
        counts = {}
        for name, truth in compared.truth.items():
            region = (regions or {}).get(name)
            found_here = picks.get(name, nothing)
            if kind == "boxes":
                counts[name] = box_counts(truth.centres_xy, found_here.centres_xy, found_here.scores, size, region,
                                          options.min_iou)
            else:
                info = infos.get(compared.full_names[name])
                counts[name] = disc_counts(truth.centres_xy, found_here.centres_xy, size, region, info and info.shape)
        found[kind] = summarise_counts(counts)
        for over, figures in (("pooled", found[kind]["pooled"]), ("mean of micrographs", found[kind]["mean"])):
            console.print_always(f"{kind} of {size:g} px, {over}: " + ", ".join(
                f"{label} {figures[label]:.3f}" for label in ("precision", "recall", "dice", "iou")))
    return found


def _check_areas(options: argparse.Namespace) -> None:
    for name, value in (("box", options.box), ("diameter", options.diameter)):
        if value is not None and not 1 <= value <= _MAX_SIZE:
            raise DeepEMError(f"--{name} {value:g}: expected pixels, from 1 to {_MAX_SIZE}")
    if not 0 < options.min_iou <= 1:
        raise DeepEMError(f"--min-iou {options.min_iou:g}: expected a number above 0, up to 1")


def _report(options: argparse.Namespace, result: Mapping[str, Any], matches: Mapping[str, Matches],
            compared: Compared, regions: Mapping[str, Region] | None) -> None:
    from ..report.evaluation_report import Comparison, report_evaluation

    comparison = Comparison(compared.truth, compared.picks, options.distance, options.min_distance,
                            result["threshold"], regions or {}, options.tiff_rows)
    try_report(options.report, lambda: report_evaluation(options.report, result, matches, comparison,
                                                         _shown_micrographs(options, compared)))


def _shown_micrographs(options: argparse.Namespace, compared: Compared) -> dict[str, Path]:
    """Return the micrographs for the report by the names of the reference."""
    from ..coordinates.names import by_micrograph

    files: dict[str, Path] = options.files
    if not files:
        return {}
    assigned, _ = by_micrograph(files, {full: name for name, full in compared.full_names.items()}, options.truth)
    return {name: files[file] for file, name in assigned.items()}


def _files(options: argparse.Namespace) -> dict[str, Path]:
    """Return the micrographs: those given, or those of the picking run."""
    from ..micrographs.find import find_micrographs
    from ..picking.results import PickingResults

    if options.micrographs:
        return find_micrographs(options.micrographs)
    if not options.picks.is_dir():
        return {}
    return {name: Path(found.path) for name, found in PickingResults(options.picks).read_micrographs().items()}


def _threshold(text: str | None) -> float | str | None:
    """Return the threshold for `summarise`."""
    if text in (None, "F1", "F2"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DeepEMError(f"--threshold {text}: expected F1, F2 or a score")
    return value


def _regions(options: argparse.Namespace, compared: Compared) -> dict[str, Region] | None:
    """Return the annotated regions of the micrographs; None where all count as a whole."""
    from ..coordinates.regions import checked_region, read_regions

    names = {**{full: name for name, full in compared.full_names.items()}, **{name: name for name in compared.truth}}
    regions = dict.fromkeys(compared.truth, checked_region(options.region, "--region")) if options.region else {}
    if options.regions:
        regions.update(read_regions(options.regions, names))
    return regions or None


def _table(result: Mapping[str, Any]) -> str:
    """Format the figures of each micrograph and of all together."""
    rows = [*result["micrographs"].items(), ("all micrographs", result["overall"])]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'micrograph':<{width}}  reference  picks  true pos.  precision  recall     F1     AP  best F1  "
             "at threshold"]
    for name, row in rows:
        best, at = row["best_F1"]["F1"], row["best_F1"]["threshold"]
        lines.append(f"{name:<{width}}  {row['truth']:9d}  {row['picks']:5d}  {row['true_positives']:9d}  "
                     f"{row['precision']:9.3f}  {row['recall']:6.3f}  {row['F1']:5.3f}  {row['AP']:5.3f}  {best:7.3f}  "
                     f"{'-' if at is None else f'{at:.3f}':>12}")
    return "\n".join(lines)


def _method(options: argparse.Namespace, threshold: float | None) -> str:
    """Describe in a sentence how picks were matched."""
    return (f"one-to-one matching within {options.distance:g} px, in descending order of score, closest pairs first "
            "among equal scores"
            + (f"; of picks closer than {options.min_distance:g} px only the one with the highest score"
               if options.min_distance else "")
            + ("" if threshold is None else f"; scores of at least {threshold:.4g}"))
