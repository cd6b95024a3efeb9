# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection of picks from score maps at scan steps from 2 binned pixels to half a particle diameter.

    python benchmarks/selection.py [--data FOLDER] [--sets NAME ...] [--seeds N ...] [--epochs N] [--models FOLDER]

Models are trained shortly (for --epochs) with each seed on the first micrographs of each set; --models keeps them for
another run. The other micrographs are scanned once in steps of 2 binned pixels, and every second, third ... score of
the map makes the map of a larger step. The best F1 of the picks that `find_candidates` and `select` make of each map is
compared with that of two passes over all positions above a threshold: a position stays if no other has a higher score
in a square of `range1` around it and then, of those that stay, in one of `range2`. In the program of the paper's
authors, which keeps these and others, a position is replaced by the best of its square (`picking/paper.py`). Of all
pairs of ranges from 1/4 to 1 diameter two count: the one that is best in the mean of all rows, and the one that is best
in each row. The latter is chosen on the micrographs that are judged, in favour of the two passes. The script prints a
table in Markdown: means over the seeds, and the mean differences with their standard errors.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from common import SETS, DataSet, add_data_option, files, has_data, micrograph_names, table, title

# Two training micrographs are enough: rules are compared on the same maps.
ALL_SETS = {name: replace(data_set, train=2) for name, data_set in
            {**SETS, "empiar10028": DataSet(300, 2, (28,), (34, 34, 990, 990))}.items()}
STEP = 2  # of the scan, in binned pixels
SHARES = (0.25, 0.5, 0.7, 1.0)  # sides of the squares of the two passes, in diameters
# The floor of the thresholds of the two passes, as for candidates.
FLOOR = 0.01


def trained(data_set, folder, seed, epochs, kept):
    """Model of a seed, from the folder of models or trained now."""
    from deepem_scipion.deepem import load_model, read_coordinates, save_model, train_model
    from deepem_scipion.deepem.training import Plan, TrainingSet

    path = kept / f"{folder.name}-{seed}.deepem"
    if not path.exists():
        names = micrograph_names(folder)[:data_set.train]
        data = TrainingSet(dict(zip(names, map(Path, files(folder, names)))), read_coordinates(folder / "boxes"))
        save_model(path, train_model(data, Plan(data_set.diameter_angst, seed=seed, epochs=epochs)))
    return load_model(path)


def two_passes(scores, ranges, step):
    """Rows, columns and scores of the positions that stay in two passes; ranges and step in binned pixels."""
    from scipy.ndimage import maximum_filter

    kept = np.where(scores > FLOOR, scores, 0)
    for side in ranges:
        width = 2 * int(side / 2 / step) + 1
        kept = np.where(kept == maximum_filter(kept, width), kept, 0)
    at = np.argwhere(kept)
    return at, kept[kept > 0]


def picks_of(micrograph, scores, model, step):
    """Picks of each rule from a score map of a micrograph, by name of the rule."""
    from deepem_scipion.deepem.coordinates.coordinates import Coordinates
    from deepem_scipion.deepem.picking.candidates import border_distances, find_candidates, pad, pad_width
    from deepem_scipion.deepem.picking.selection import MIN_DISTANCE, PICKED, Limits, select

    box, diameter_px = model.geometry.box, model.diameter_px
    candidates = find_candidates(micrograph, pad(micrograph.pixels, box), scores, box, step)
    picked = select(candidates, Limits(0.0, MIN_DISTANCE * model.diameter_angst),
                    micrograph.input_pixel_size_angst) == PICKED
    found = {"own": Coordinates(candidates.centres_xy[picked], candidates.scores[picked], None)}
    for shares in combinations_with_replacement(SHARES, 2):
        at, values = two_passes(scores, [share * diameter_px for share in shares], step)
        centres_rc = at * step + (box - 1) / 2 - pad_width(box)
        inside = border_distances(micrograph, centres_rc) >= 0  # not in the padding of a file, as for candidates
        found["{:g}, {:g}".format(*shares)] = Coordinates(micrograph.to_input_xy(centres_rc)[inside],
                                                          values[inside].astype(float), None)
    return found


def best_f1(data_set, folder, model):
    """Best F1 on the test micrographs by step and rule."""
    from deepem_scipion.deepem import Picker, evaluate, read_coordinates

    names = micrograph_names(folder)[data_set.train:]
    truth = {name: found for name, found in read_coordinates(folder / "boxes").items() if name in names}
    picker, steps = Picker(model, scan_step=STEP), range(STEP, int(model.diameter_px / 2) + 1, STEP)
    picks = {step: {} for step in steps}
    for name, path in zip(names, files(folder, names)):
        micrograph = model.read_micrograph(path)
        scores = picker.candidates(micrograph)[1]
        for step in steps:
            every = step // STEP
            for rule, found in picks_of(micrograph, scores[::every, ::every], model, step).items():
                picks[step].setdefault(rule, {})[name] = found
    return {step: {rule: evaluate(truth, found, data_set.distances_px[0], data_set.region)["overall"]["best_F1"]["F1"]
                   for rule, found in rules.items()} for step, rules in picks.items()}


def mean_f1(results, step, rule):
    """Mean of a rule over the seeds of one set."""
    return statistics.mean(result[step][rule] for result in results)


def difference(results, step, rule):
    """Mean difference of ours and the two passes with some ranges, and its standard error, as a text."""
    differences = [result[step]["own"] - result[step][rule] for result in results]
    error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
    return f"{statistics.mean(differences):+.4f} ± {error:.4f}"


def rows_of(found):
    """Rows of the table, from the results of all seeds by name of the set."""
    rules = [rule for rule in next(iter(found.values()))[0][STEP] if rule != "own"]
    same = max(rules, key=lambda rule: sum(mean_f1(results, step, rule) for results in found.values()
                                           for step in results[0]))
    yield ("set", "step, binned px", "best F1", f"two passes, {same}", "difference", "two passes, best ranges",
           "their ranges", "difference")
    for name, results in found.items():
        for step in results[0]:
            best = max(rules, key=lambda rule: mean_f1(results, step, rule))
            yield (name, step, f"{mean_f1(results, step, 'own'):.4f}", f"{mean_f1(results, step, same):.4f}",
                   difference(results, step, same), f"{mean_f1(results, step, best):.4f}", best,
                   difference(results, step, best))


def main():
    """Train, scan, select, compare, and print the table."""
    from deepem_scipion.deepem import runtime

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="+", choices=ALL_SETS, default=list(ALL_SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--models", type=Path, help="folder of models (default: they are not kept)")
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    runtime.start()
    found = {}
    with tempfile.TemporaryDirectory() as work:
        kept = options.models or Path(work)
        kept.mkdir(parents=True, exist_ok=True)
        for name in options.sets:
            data_set, folder = ALL_SETS[name], options.data / name
            found[name] = [best_f1(data_set, folder, trained(data_set, folder, seed, options.epochs, kept))
                           for seed in options.seeds]
    print(title(), "", *table(*rows_of(found)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
