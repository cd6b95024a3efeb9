# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `deepem` program: arguments in, files out."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..errors import DeepEMError
from . import console
from .parser import build_parser

if TYPE_CHECKING:
    from ..coordinates.coordinates import Coordinates
    from ..coordinates.regions import Region
    from ..model.model import Model
    from ..network.geometry import Geometry
    from ..picking.selection import Limits
    from ..picking.summary import MicrographResult
    from ..training.plan import Plan

log = logging.getLogger("deepem")

OK, SOME_FAILED, UNUSABLE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code: 0 all done, 1 some micrographs failed, 2 nothing could be done."""
    arguments = [_not_an_option(text) for text in (sys.argv[1:] if arguments is None else arguments)]
    parser = build_parser()
    if not arguments:
        parser.print_help(sys.stderr)
        return UNUSABLE
    options = parser.parse_args(arguments)
    console.start(options.debug, options.quiet)
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _stop)
    try:
        return _COMMANDS[options.command](options)
    except KeyboardInterrupt:
        log.error("interrupted; what was finished is kept")
        return 130
    except Exception as error:
        log.error("error: %s", error if isinstance(error, DeepEMError) else console.reason(error),
                  exc_info=options.debug)
        return UNUSABLE


def _train(options: argparse.Namespace) -> int:
    from .. import runtime
    from ..micrographs.find import find_micrographs
    from ..model.files import save_model
    from ..training.examples import examples_file
    from ..training.train import train_model

    plan = _plan(options)
    _check_writable(options.output)
    micrographs = find_micrographs(options.micrographs)
    particles, negatives, incomplete = _labels(options)
    checkpoint = options.output.with_name(options.output.name + ".checkpoint")
    if options.fresh:
        checkpoint.unlink(missing_ok=True)
    runtime.start(options.threads)
    with console.progress(plan.networks * plan.rounds) as tell:
        model = train_model(micrographs, particles, plan, negatives, lambda record: _tell_epoch(record, tell),
                            incomplete, checkpoint, examples_file(options.output))
    save_model(options.output, model)
    checkpoint.unlink(missing_ok=True)
    console.say(describe(model.card()))
    console.say(f"model written to {options.output}")
    return OK


def _tune(options: argparse.Namespace) -> int:
    from .. import runtime
    from ..micrographs.find import find_micrographs
    from ..training.examples import examples_file
    from ..training.train import write_examples

    try:
        from ..training.tuning import Budget, tune_model
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise DeepEMError("`deepem tune` needs Optuna; try: pip install optuna") from error
    fixed = {name: "/".join(map(str, values)) for name in ("pools", "maps") if (values := getattr(options, name))}
    if options.training_preset:
        fixed["training_preset"] = options.training_preset
    plan = _plan(argparse.Namespace(**{**vars(options), "pools": None, "maps": None, "training_preset": "default"}))
    _check_writable(options.output)
    micrographs = find_micrographs(options.micrographs)
    particles, negatives, incomplete = _labels(options)
    runtime.start(options.threads)
    with console.progress(None) as tell:
        tell(0, f"searching for {options.minutes:g} minutes")
        model = tune_model(micrographs, particles, plan, options.output, options.study,
                           Budget(options.minutes, options.trials), negatives, fixed, incomplete)
    write_examples(model, micrographs, particles, plan, negatives, incomplete, examples_file(options.output))
    console.say(describe(model.card()))
    found = model.record["tuning"]
    baseline = "failed" if found["baseline_AP"] is None else f"{found['baseline_AP']:.3f}"
    console.say(f"average precision {found['AP']:.3f}, without a search {baseline}; the best of {found['complete']} is "
                f"optimistic, see {options.output}.tuning.md")
    console.say(f"model written to {options.output}")
    return OK


def _check_writable(path: Path) -> None:
    """Find out before the work begins whether its result can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeepEMError(f"--output {path}: the folder cannot be made ({error.strerror})") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise DeepEMError(f"--output {path}: expected the name of a file in a folder that can be written to")


def _labels(options: argparse.Namespace) -> tuple[dict[str, Coordinates], dict[str, Coordinates], set[str]]:
    """Particles, non-particles, and the names of micrographs on which not all particles are marked."""
    from ..coordinates.coordinates import merge
    from ..coordinates.read import read_coordinates

    complete = read_coordinates(options.coordinates)
    particles = merge([complete, *map(read_coordinates, options.more_particles)])
    negatives = merge(list(map(read_coordinates, [*filter(None, [options.negatives]), *options.more_negatives])))
    for name in {name for path in options.more_negatives for name in read_coordinates(path)} - set(particles):
        particles[name] = replace(negatives[name], centres_xy=np.empty((0, 2)), scores=np.empty(0))
    return particles, negatives, set(particles) - set(complete)


def _plan(options: argparse.Namespace) -> Plan:
    from ..model.files import load_model
    from ..network.geometry import MAPS
    from ..training.plan import Plan

    if options.given_negatives_only and not (options.negatives or options.more_negatives):
        raise DeepEMError("--given-negatives-only needs --negatives or --more-negatives")
    if options.continue_from and (options.preset or options.box or options.maps or options.working_pixel_size):
        raise DeepEMError("--continue-from keeps the model's network and working pixel size: leave out --preset, "
                          "--box, --maps and --working-pixel-size")
    return Plan(
        diameter_angst=options.diameter, preset=options.preset, geometry=_geometry(options),
        maps=tuple(options.maps or MAPS),
        working_pixel_size_angst=options.working_pixel_size, pixel_size_angst=options.pixel_size, training_preset=options.training_preset,
        epochs=options.epochs, given_negatives_only=options.given_negatives_only, seed=options.seed,
        validation_fraction=options.validation_fraction, networks=options.networks, rounds=options.rounds,
        error_cutoff=options.error_cutoff,
        start=load_model(options.continue_from) if options.continue_from else None)


def _geometry(options: argparse.Namespace) -> Geometry | None:
    """The geometry of --box, --kernels, --pools and --maps, what is not given coming from the preset."""
    from ..network.geometry import PRESETS, Geometry

    parts = (options.box, options.kernels, options.pools, options.maps)
    if not any(parts if options.preset else parts[:3]):
        return None
    if not options.preset and not all(parts[:3]):
        raise DeepEMError("--box, --kernels and --pools need each other: give all three, or a --preset to start from")
    start = PRESETS[options.preset] if options.preset else Geometry(40, (9, 5, 3), (2, 2, 2))
    return Geometry(options.box or start.box, *(tuple(given or default) for given, default in zip(
        parts[1:], (start.kernels, start.pools, start.maps))))


def _pick(options: argparse.Namespace, started: bool = False) -> int:
    """Pick; `started`: the backend runs already."""
    from .. import runtime
    from ..coordinates.star import Optics
    from ..micrographs.find import find_micrographs
    from ..model.files import load_model
    from ..picking.picker import Picker
    from ..picking.results import PickingResults
    from ..picking.run import pick_micrographs

    if options.box is not None and options.box < 1:
        raise DeepEMError(f"--box {options.box}: expected at least 1 pixel")
    model = load_model(options.model)
    limits = _limits(options, model)
    micrographs = find_micrographs(options.micrographs)
    if not started:
        runtime.start(options.threads)
    done = 0

    def report(name: str, result: MicrographResult) -> None:
        nonlocal done
        done += 1
        if result.ok:
            tell(done, f"{done}/{len(micrographs)} {name}: {result.picks} picks in {result.seconds:.2f} s")
        else:
            log.warning("%d/%d %s failed: %s", done, len(micrographs), name, result.reason)

    picker = Picker(model, limits, options.scan_step, options.rotations)
    with console.progress(len(micrographs)) as tell:
        found = pick_micrographs(micrographs, picker, options.output, options.box, options.pixel_size,
                                   options.score_maps, Optics(options.voltage, options.cs, options.amplitude_contrast),
                                   options.contrast_checks, report)
    n_failed, picks = sum(not result.ok for result in found.values()), sum(result.picks for result in found.values())
    console.say(f"{picks} picks on {len(micrographs) - n_failed} micrographs, {n_failed} failed; threshold "
                f"{limits.threshold:.3g}; results in {options.output}")
    if n_failed:
        log.warning("the reasons are in %s", PickingResults(options.output).path("failed"))
    if options.report is not None:
        from ..report.reports import report_picking

        path = _report_path(options.report, options.output)
        _try_report(path, lambda: report_picking(options.output, path, options.model))
    return OK if not n_failed else SOME_FAILED if n_failed < len(micrographs) else UNUSABLE


def _worker(options: argparse.Namespace) -> NoReturn:
    from .. import runtime
    from .worker import serve

    runtime.start(options.threads)
    serve(_pick_for_another)


def _pick_for_another(arguments: Sequence[str]) -> tuple[int, str]:
    """What `deepem pick` does in a process that lives on: exit status and error message."""
    try:
        options = build_parser().parse_args(["pick", *map(_not_an_option, arguments)])
    except SystemExit:
        return UNUSABLE, f"deepem pick does not know what to do with {' '.join(arguments)}"
    try:
        if options.threads is not None:
            raise DeepEMError("--threads is given to `deepem worker`, for all that it will do")
        return _pick(options, started=True), ""
    except DeepEMError as error:
        log.error("error: %s", error)
        return UNUSABLE, str(error)
    except Exception as error:
        log.exception("error: %s", error)
        return SOME_FAILED, f"{type(error).__name__}: {error}"


def _threshold(text: str, model: Model) -> float:
    try:
        value = float(text)
    except ValueError:
        return model.threshold_for(text)
    if not 0 <= value <= 1:
        raise DeepEMError(f"--threshold {text}: expected auto, F1, precision=P, or a number from 0 to 1")
    return value


def _limits(options: argparse.Namespace, model: Model) -> Limits:
    """Limits of the picks: those of the model with what is given."""
    from ..picking.selection import Limits

    limits = Limits.of_model(model)
    return Limits(_threshold(options.threshold, model),
                  limits.min_distance_angst if options.min_distance is None else options.min_distance,
                  _std_range(options.std_range, model), options.border)


def _std_range(words: Sequence[str], model: Model) -> tuple[float, float] | None:
    if list(words) in (["auto"], ["off"]):
        return model.std_range if words[0] == "auto" else None
    try:
        low, high = (float(word) for word in words)
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high:
        raise DeepEMError(f"--std-range {' '.join(words)}: expected `auto`, `off`, or two numbers, the smaller first")
    return low, high


def _evaluate(options: argparse.Namespace) -> int:
    from ..atomic import atomic_write
    from ..coordinates.read import read_coordinates
    from ..evaluation.matching import match_all, pool
    from ..evaluation.metrics import curve, summarise

    if not options.distance > 0:
        raise DeepEMError(f"--distance {options.distance}: expected pixels, above 0")
    if not options.min_distance >= 0:
        raise DeepEMError(f"--min-distance {options.min_distance}: expected pixels, or 0 to keep all picks")
    threshold = _judged(options.threshold)
    truth, picks = read_coordinates(options.truth), read_coordinates(options.picks)
    if not set(truth) & set(picks):
        raise DeepEMError(f"{options.picks} and {options.truth} have no micrograph in common; files belong together by "
                          "the micrograph's name without folder and extension")
    if absent := sorted(set(truth) - set(picks)):
        log.warning("no picks for %d of %d micrographs, counted as none found: %s", len(absent), len(truth),
                    ", ".join(absent[:5]))
    regions = _regions(options, truth)
    matches = match_all(truth, picks, options.distance, regions, options.min_distance)
    result = summarise(matches, threshold)
    print(_table(result))
    print(f"one to one within {options.distance:g} px, by falling score, the nearest pair first among equal scores"
          + (f"; of picks nearer than {options.min_distance:g} px only the best" if options.min_distance else "")
          + ("" if result["threshold"] is None else f"; score of at least {result['threshold']:.4g}"))
    if options.json:
        with atomic_write(options.json) as handle:
            json.dump(result, handle, indent=1)
    if options.plot:
        from ..report.plots import draw_curve

        draw_curve(curve(pool(list(matches.values()))), options.plot, result["threshold"])
    if options.report:
        from ..report.reports import report_evaluation

        _try_report(options.report, lambda: report_evaluation(
            options.report, result, matches, truth, picks, options.distance, options.min_distance, regions,
            _to_show(options)))
    return OK


def _to_show(options: argparse.Namespace) -> dict[str, Path]:
    """Micrographs for the pictures of an evaluation: those given, or those that the picks were made on."""
    from ..micrographs.find import find_micrographs
    from ..picking.results import PickingResults

    if options.micrographs:
        return find_micrographs(options.micrographs)
    return {name: Path(result.path) for name, result in PickingResults(options.picks).read_micrographs().items()}


def _report(options: argparse.Namespace) -> int:
    from ..report.reports import report_model, report_picking

    if options.results.is_dir():
        path = options.output or _report_path(Path(), options.results)
        report_picking(options.results, path, options.model)
    else:
        path = options.output or options.results.with_name(options.results.name + ".html")
        report_model(options.results, path)
    console.say(f"report written to {path}")
    return OK


def _report_path(given: Path, folder: Path) -> Path:
    """Where the report of a picking run goes: to the file given, else beside the results."""
    from ..picking.results import PickingResults

    return PickingResults(folder).path("report") if given == Path() else given


def _try_report(path: Path, write: Callable[[], None]) -> None:
    """Write a report on results that are there already; where it cannot be made they are worth no less."""
    try:
        write()
    except Exception as error:
        log.warning("warning: the report %s could not be made: %s", path, error)
        log.debug("%s failed", path, exc_info=True)
    else:
        console.say(f"report written to {path}")


def _judged(text: str | None) -> float | str | None:
    """The threshold of --threshold for `summarise`."""
    if text in (None, "F1", "F2"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DeepEMError(f"--threshold {text}: expected F1, F2 or a score")
    return value


def _regions(options: argparse.Namespace, truth: Collection[str]) -> dict[str, Region] | None:
    """Annotated regions of the micrographs; None where all count as a whole."""
    from ..coordinates.regions import checked_region, read_regions

    regions = dict.fromkeys(truth, checked_region(options.region, "--region")) if options.region else {}
    if options.regions:
        regions.update(read_regions(options.regions, {name: name for name in truth}))
    return regions or None


def _table(result: Mapping[str, Any]) -> str:
    """Figures per micrograph and over all, for people."""
    names = [*result["micrographs"], "overall"]
    width = max(map(len, names))
    lines = [f"{'micrograph':<{width}}  truth  picks  right      P      R     F1     AP  best F1      P      R     at"]
    for name, row in [*result["micrographs"].items(), ("overall", result["overall"])]:
        best = row["best_F1"]
        at = "-" if best["threshold"] is None else f"{best['threshold']:.3f}"
        lines.append(f"{name:<{width}} {row['truth']:6d} {row['picks']:6d} {row['true_positives']:6d} "
                     + " ".join(f"{row[key]:6.3f}" for key in ("precision", "recall", "F1", "AP"))
                     + f"   {best['F1']:6.3f} {best['precision']:6.3f} {best['recall']:6.3f} {at:>6}")
    return "\n".join(lines)


def _info(options: argparse.Namespace) -> int:
    from ..model.files import load_model

    card = load_model(options.model).card()  # the weights are checked, too
    print(json.dumps(card, indent=1) if options.json else describe(card))
    return OK


def _demo(options: argparse.Namespace) -> int:
    from .. import runtime
    from .demo import run_demo

    runtime.start(options.threads)
    run_demo(options.output, console.say)
    return OK


def describe(card: Mapping[str, Any]) -> str:
    """Format the card of a model as lines of a label and a value."""
    from ..model.card import card_rows

    rows = card_rows(card)
    width = max(len(label) for label, _ in rows) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows)


def _tell_epoch(record: Mapping[str, Any], tell: console.Tell) -> None:
    of = f"network {record['network']}/{record['networks']}, " if record["networks"] > 1 else ""
    if record["round"] > 1:
        of = f"round {record['round']}, {of}"
    validation = (f", validation {record['validation_loss']:.4f} {100 * record['validation_accuracy']:.1f} %"
                  if "validation_loss" in record else "")
    done = (record["round"] - 1) * record["networks"] + record["network"] - 1 + record["epoch"] / record["epochs"]
    tell(done, f"{of}epoch {record['epoch']}/{record['epochs']}: loss {record['loss']:.4f}, "
         f"{100 * record['accuracy']:.1f} % right{validation}", f"; {record['seconds_left']:.0f} s left")


def _not_an_option(text: str) -> str:
    """A file whose name begins with a dash must not be taken for an option."""
    return f"./{text}" if text.startswith("-") and os.path.exists(text) else text


def _stop(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


_COMMANDS = {"train": _train, "tune": _tune, "pick": _pick, "worker": _worker, "evaluate": _evaluate,
             "report": _report, "info": _info,
             "demo": _demo}
