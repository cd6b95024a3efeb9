# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`deepem pick`: pick micrographs with a model, trained or general."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeepEMError
from . import console
from .arguments import FORMAT_NAMES, add_masks, add_micrographs, add_threads
from .estimating import diameter, draw_estimate, estimated
from .limits import add_limits, chosen_limits
from .micrographs import chosen_masks, chosen_micrographs
from .picked import PickProgress, say_what_is_cut
from .procedure import add_procedure_of_picking, with_procedure
from .report import report_path, try_report

if TYPE_CHECKING:
    from ..model.model import Model
    from ..picking.summary import MicrographResult

EXPORT_FOLDER = "DIR/export/FORMAT"

log = logging.getLogger("deepem")

# Larger boxes and steps are mistakes: no camera has as many pixels.
MAX_BOX_PX = 2**15

SUMMARY = "pick micrographs with the general model or a trained one"
REQUIRED = ("--micrographs MICS ...", "--diameter A | --model MODEL", "--output DIR")
DESCRIPTION = ("Pick particles in micrographs, with the general model, which needs nothing but their diameter, or with "
               "a model trained on them. The output folder gets a .box file for each micrograph, "
               "picks.star with the picks of all, the candidates with the reason why each was rejected, and the "
               "figures of the run.")
EPILOG = """examples:
  deepem pick --micrographs 'mics/*.mrc' --diameter 150 --output picks

with a trained model:
  deepem pick --micrographs 'mics/*.mrc' --model apoferritin.deepem \\
      --output picks

if nine of ten picks should be correct:
  deepem pick --micrographs 'mics/*.mrc' --model apoferritin.deepem \\
      --output picks --threshold precision=0.9

The exit code is 0 if all micrographs were picked, 1 if some failed, 2 if nothing could be done."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepem pick` to its parser."""
    _add_files(parser)
    add_limits(parser)
    group = parser.add_argument_group("scan")
    add_scan(group)
    group.add_argument("--contrast-checks", type=int, default=3, metavar="N", help="also scan the contrast-inverted "
                       "first N micrographs, and warn if they look more like the particles of the training; 0: none "
                       "(default: %(default)s)")
    add_threads(group)


def add_scan(group: Any) -> None:
    """Add the options of the scan to a group of options."""
    group.add_argument("--scan-step", type=int, metavar="PX", help="step of the scan in binned pixels (default: the "
                       "model's)")
    group.add_argument("--rotations", type=int, choices=(1, 4), default=4, help="number of rotations of the box over "
                       "which the score is averaged (default: %(default)s)")
    add_procedure_of_picking(group)


def add_model(group: Any) -> None:
    """Add the options that choose a model to a group of options."""
    group.add_argument("--model", type=Path, metavar="MODEL", help="model from `deepem train` (default: the general "
                       "model; requires --diameter)")
    group.add_argument("--diameter", type=diameter, metavar="A", help="for the general model: particle diameter in "
                       "angstrom, that of the longest view; `auto`: estimated from three micrographs")
    group.add_argument("--contrast", choices=("dark", "bright"), help="for the general model: whether particles are "
                       "dark (default) or bright, as in some images of negative stain")


def add_force(group: Any) -> None:
    """Add the option that picks at any scale to a group of options."""
    group.add_argument("--force", action="store_true", help="pick even if the pixel sizes of micrographs and training "
                       "differ by a factor of more than 4, or the particle is wider than half of the micrograph")


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    add_micrographs(group)
    add_model(group)
    group.add_argument("--output", required=True, type=Path, metavar="DIR", help="output folder")
    earlier = group.add_mutually_exclusive_group()
    for name, what in (("overwrite", "replace the results of an earlier run in the output folder"),
                       ("resume", "keep the results of an earlier run with the same settings, and pick the rest")):
        earlier.add_argument(f"--{name}", dest="existing", action="store_const", const=name, help=what)
    group.add_argument("--part", metavar="I/N", help="pick only part I of N, every N-th micrograph, for several "
                       "processes; `deepem merge` puts their folders together")
    group.add_argument("--box", type=int, metavar="PX", help="side of the boxes written, in pixels of the micrographs "
                       "(default: 1.5 particle diameters)")
    for name, default, what in (("voltage", 300.0, "acceleration voltage in kV"),
                                ("cs", 2.7, "spherical aberration in mm"),
                                ("amplitude-contrast", 0.1, "amplitude contrast as a fraction")):
        group.add_argument(f"--{name}", type=float, default=default, metavar="X", help=f"{what}, written to picks.star "
                           "for RELION (default: %(default)s)")
    add_force(group)
    group.add_argument("--write", metavar="FORMAT", help="also write the picks in formats of other programs, separated "
                       f"by commas ({EXPORT_FOLDER}): {FORMAT_NAMES}")
    add_masks(group)
    for name, kind, what in (("score-maps", "score_map", "the score maps (DIR/scores)"),
                             ("json", "json", "what became of each micrograph as a JSON file (DIR/json), with the keys "
                              "of `deepem worker`"),
                             ("pictures", "picture", "a JPEG of each micrograph with its picks (DIR/pictures)")):
        group.add_argument(f"--{name}", dest="further", action="append_const", const=kind, default=[],
                           help=f"also write {what}")
    group.add_argument("--report", type=Path, nargs="?", const="", metavar="FILE", help="also write an HTML report "
                       "(without FILE: DIR/report.html), see `deepem report`")


def run(options: argparse.Namespace, started: bool = False) -> int:
    """Run `deepem pick`.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of the command.
    started : bool
        Whether the threads of this process were set before.

    Returns
    -------
    int
        Exit code: 0 all micrographs were picked, 1 some failed, 2 all failed.
    """
    from .. import runtime
    from ..coordinates.formats.registry import check_formats
    from ..coordinates.star import Optics
    from ..model.files import save_model
    from ..picking.picker import Picker
    from ..picking.results import PickingResults
    from ..picking.run import pick_micrographs

    _check_numbers(options)
    formats = check_formats(options.write) if options.write else []
    if not started:
        runtime.start(options.threads)
    model = with_procedure(chosen_model(options), options)
    limits = chosen_limits(options, model)
    _warn_of_lengths(options, model)
    micrographs = _micrographs(options)
    masks = chosen_masks(options, micrographs)
    picker = Picker(model, limits, options.scan_step, options.rotations)
    with console.progress(len(micrographs)) as show:
        progress = PickProgress(len(micrographs), show, model.diameter_angst, options.box)
        results = pick_micrographs(micrographs, picker, options.output, options.box, options.pixel_size,
                                   options.further, Optics(options.voltage, options.cs, options.amplitude_contrast),
                                   options.contrast_checks, options.existing or "refuse", progress,
                                   options.tiff_rows, options.force, masks)
    progress.say_how_many_failed()
    n_failed = sum(not result.ok for result in results.values())
    if options.model is None and n_failed < len(results):
        save_model(PickingResults(options.output).path("model"), model)  # to be fine-tuned as any other
    console.print_result(f"{sum(result.picks for result in results.values())} picks on {len(results) - n_failed} "
                         f"micrographs, {n_failed} failed; threshold {limits.threshold:.3g}; results in "
                         f"{options.output}")
    not_written = _export(options.output, formats, model.ranges_px is not None and not started)
    _finish(options, results, model)
    if results and n_failed == len(results):
        return console.UNUSABLE
    return console.SOME_FAILED if n_failed or not_written else console.OK


def chosen_model(options: argparse.Namespace) -> Model:
    """Return the given model, or the general one for the given or estimated diameter."""
    from ..model.files import load_model
    from ..model.general import general_model

    if options.model is None:
        if options.diameter is None:
            raise DeepEMError("give --diameter (angstrom, or auto) to pick with the general model, or --model")
        options.estimate = estimated(options)
        return general_model(options.diameter, options.contrast or "dark")
    for name in ("diameter", "contrast"):
        if getattr(options, name) is not None:
            raise DeepEMError(f"--{name} is for the general model; {options.model} has its own: leave out one of them")
    return load_model(options.model)


def _check_numbers(options: argparse.Namespace) -> None:
    """Raise DeepEMError if a number makes no sense, mostly because it is in another unit."""
    for name, low, high, expected in (
            ("box", 1, MAX_BOX_PX, f"pixels, 1 to {MAX_BOX_PX}"),
            ("scan_step", 1, MAX_BOX_PX, f"binned pixels, 1 to {MAX_BOX_PX}"),
            ("contrast_checks", 0, math.inf, "a number of micrographs, 0 or more"),
            ("voltage", 10, 3000, "kilovolts, such as 300"), ("cs", 0, 100, "millimetres, such as 2.7"),
            ("amplitude_contrast", 0, 1, "a fraction from 0 to 1, such as 0.1")):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise DeepEMError(f"--{name.replace('_', '-')} {value:g}: expected {expected}")


def _export(output: Path, formats: Sequence[str], side_by_side: bool) -> int:
    """Write the picks in other formats and return how many cannot be written: none costs the picks or the others."""
    from ..picking.export import export
    from ..picking.results import PickingResults
    from ..picking.side_by_side import write_side_by_side

    if side_by_side:
        write_side_by_side(PickingResults(output))
    failed = 0
    for name in formats:
        try:
            (folder,) = export(PickingResults(output), [name]).values()
        except DeepEMError as error:
            failed += 1
            log.warning("warning: the picks could not be written for %s: %s", name, error)
        else:
            console.print_result(f"picks for {name} written to {folder}")
    return failed


def _warn_of_lengths(options: argparse.Namespace, model: Model) -> None:
    """Warn of lengths that do not suit the particle."""
    from ..picking.scale import doubtful_diameter

    diameter = model.diameter_angst
    for problem in doubtful_diameter(diameter):
        log.warning("warning: %s", problem)
    if options.min_distance is not None and options.min_distance > 2 * diameter:
        log.warning("warning: --min-distance %g A is more than twice the particle diameter of the model, %g A: most "
                    "particles will be rejected. Expected about %g", options.min_distance, diameter, diameter / 2)
    step = options.scan_step or model.scan_step
    if model.ranges_px is None and step > model.diameter_px / 2:
        log.warning("warning: a scan step of %d binned pixels is more than half of the particle diameter, %.1f binned "
                    "pixels: particles between the positions are missed. Expected --scan-step %d or less", step,
                    model.diameter_px, max(1, int(model.diameter_px / 4)))


def _micrographs(options: argparse.Namespace) -> dict[str, Path]:
    """Return the micrographs, or the part of them; warn of those whose particles would be picked twice."""
    from ..coordinates.names import copies, listed
    from ..picking.merge import part_of

    micrographs = chosen_micrographs(options)
    if found := copies(micrographs):
        log.warning("warning: these seem to be the same micrographs, whose particles are then picked more than once: "
                    "%s. Expected one of each, for instance --micrographs '*_DW.mrc'", listed(map(" and ".join, found)))
    return micrographs if options.part is None else part_of(micrographs, options.part)


def _finish(options: argparse.Namespace, results: Mapping[str, MicrographResult], model: Model) -> None:
    """Say what to look at: failures, cut picks, or that nothing was picked; and write the report, if wanted."""
    from ..picking.results import PickingResults
    from ..picking.selection import REASON_LABELS
    from ..picking.summary import summarise_run

    found = summarise_run(results)
    say_what_is_cut(results, options.box, model)
    if found.picked and not found.picks:
        shares = {reason: share for reason, share in found.rejected_share.items() if share}
        reasons = ", ".join(f"{share:.0%} {REASON_LABELS[reason]}" for reason, share in shares.items())
        log.warning("warning: nothing was picked; %s. Check the model, the pixel size, the contrast and the limits",
                    f"the candidates are {reasons}" if reasons else "there are no candidates")
    if found.failed:
        log.warning("the reasons are listed in %s", PickingResults(options.output).path("failed"))
    if getattr(options, "estimate", None):
        draw_estimate(options.estimate, options, {name: Path(result.path) for name, result in results.items()})
    if options.report is not None:
        from ..report.picking_report import report_picking

        path = report_path(options.output) if options.report == Path() else options.report
        general = PickingResults(options.output).path("model")
        file = options.model or (general if found.picked else None)
        try_report(path, lambda: report_picking(options.output, path, file))
