# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy on annotated experimental micrographs: train on some, pick the others, compare with the annotation.

    python benchmarks/accuracy.py [--data FOLDER] [--sets NAME ...] [--training-presets NAME ...] [--seeds N ...]
                                  [--folds N] [--train N] [--options ...]

Without --folds, the first micrographs in alphabetical order are used for training (4 of apoferritin, 8 of
EMPIAR-10017) and all others are picked. With --folds N (cross-validation), every N-th micrograph is picked by a model
trained on the others (at most 4 or 8 of them), N times, and the figures are those of all picks together. --train N
uses the first N training micrographs; --options are passed to `deepem train`. The set `apoferritin-frames`, single
unaveraged frames, has two micrographs: use it with --folds 2. The script prints tables in Markdown of the accuracy, of
the performance at the suggested threshold, and of the accuracy without the micrograph with the lowest average
precision, and writes them with all figures to benchmarks/results/accuracy.{md,json}.
"""

import argparse
import json
import sys
import time
from dataclasses import replace

from common import (
    RESULTS,
    SETS,
    DataSet,
    add_data_option,
    files,
    has_data,
    micrograph_names,
    read_picks,
    splits,
    table,
    title,
)

ALL_SETS = {**SETS, "apoferritin-frames": DataSet(120, 1, (31,), (20, 20, 1220, 1180), "apoferritin",
                                                  "micrographs_singleframe")}


def run(folder, data, training_preset, seed, folds, work, options=()):
    """Train and pick; figures at each distance, seconds of training and seconds per picked micrograph."""
    from deepem_scipion.deepem import evaluate, read_coordinates
    from deepem_scipion.deepem.commands.main import main

    names = micrograph_names(folder, data.images)
    known = read_coordinates(folder / "boxes")
    reference, picks, suggested, train_s, pick_s = {}, {}, [], 0.0, 0.0
    for fold, (training, test) in enumerate(splits(names, data.train, folds)):
        model, output = work / f"{fold}.deepem", work / f"picks{fold}"
        began = time.perf_counter()
        failed = main(["train", "--micrographs", *files(folder, training, data.images), "--coordinates",
                       str(folder / "boxes"), "--diameter", str(data.diameter_angst), "--training-preset",
                       training_preset, "--seed", str(seed), "--output", str(model), *options])
        train_s += time.perf_counter() - began
        began = time.perf_counter()
        failed = failed or main(["pick", "--model", str(model), "--micrographs",
                                 *files(folder, test, data.images), "--threshold", "0", "--output", str(output),
                                 "--overwrite"])
        pick_s += time.perf_counter() - began
        if failed:
            sys.exit("training or picking failed")
        in_test = {name: known[name] for name in test}
        reference.update(in_test)
        picks.update(read_picks(output))
        suggested.append(at_suggested_threshold(model, in_test, picks, data))
    found = {str(px): evaluate(reference, picks, px, data.region) for px in data.distances_px}
    single = next(iter(found.values()))["micrographs"]
    worst = min(single, key=lambda name: single[name]["AP"])
    others = {name: centres for name, centres in reference.items() if name != worst}
    return {"figures": {px: figures["overall"] for px, figures in found.items()},
            "AP": {name: figures["AP"] for name, figures in single.items()}, "worst": worst,
            "without": {str(px): evaluate(others, picks, px, data.region)["overall"] for px in data.distances_px},
            "suggested": suggested, "train_s": train_s, "pick_s": pick_s / len(picks)}


def at_suggested_threshold(model, reference, picks, data):
    """Suggested threshold of a model, and precision and recall there on validation and test micrographs."""
    from deepem_scipion.deepem import evaluate
    from deepem_scipion.deepem.model import read_card

    card = read_card(model)
    found = evaluate(reference, {name: picks[name] for name in reference}, data.distances_px[0], data.region,
                     card["threshold"])
    return {"threshold": card["threshold"],
            "validation": [card["validation"][name] for name in ("precision", "recall")],
            "test": [found["overall"][name] for name in ("precision", "recall")]}


def figures_of(results):
    """Lines of the table of accuracy, one for each distance."""
    rows = [("set", "training preset", "seed", "distance px", "best F1", "P", "R", "AP", "best F2", "error px",
             "training s", "pick s per micrograph")]
    for result in results:
        for distance, overall in result["figures"].items():
            best = overall["best_F1"]
            cells = best["F1"], best["precision"], best["recall"], overall["AP"], overall["best_F2"]["F2"]
            rows.append((result["set"], result["training_preset"], result["seed"], distance,
                         *(f"{value:.3f}" for value in cells), f"{overall['error_px']:.1f}",
                         f"{result['train_s']:.0f}", f"{result['pick_s']:.2f}"))
    return table(*rows)


def thresholds(results):
    """Lines of the table of suggested thresholds."""
    rows = [("set", "training preset", "seed", "fold", "threshold", "P, validation", "P, test", "R, validation",
             "R, test")]
    for result in results:
        for fold, found in enumerate(result["suggested"], 1):
            cells = [f"{value:.3f}" for pair in zip(found["validation"], found["test"]) for value in pair]
            rows.append((result["set"], result["training_preset"], result["seed"], fold, f"{found['threshold']:.3f}",
                         *cells))
    return table(*rows)


def without_worst(results):
    """Lines of the table of figures without the micrograph with the lowest average precision."""
    rows = [("set", "training preset", "seed", "distance px", "worst", "its AP", "mean AP of all", "AP without it",
             "best F1", "P", "R")]
    for result in results:
        areas = result["AP"]
        for distance, overall in result["without"].items():
            best = overall["best_F1"]
            cells = [areas[result["worst"]], sum(areas.values()) / len(areas), overall["AP"], best["F1"],
                     best["precision"], best["recall"]]
            rows.append((result["set"], result["training_preset"], result["seed"], distance, result["worst"],
                         *(f"{value:.3f}" for value in cells)))
    return table(*rows)


def main():
    """Train and pick all sets, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="+", choices=ALL_SETS, default=list(SETS))
    parser.add_argument("--training-presets", nargs="+", default=["paper", "default"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, default=0, help="number of folds (default: one split)")
    parser.add_argument("--train", type=int, help="number of training micrographs")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[],
                        help="options for `deepem train`; must be the last option")
    options = parser.parse_args()
    if not has_data(options, *dict.fromkeys(ALL_SETS[name].folder or name for name in options.sets)):
        return 0
    results = []
    for name in options.sets:
        data = ALL_SETS[name]
        if options.train:
            data = replace(data, train=options.train)
        for training_preset in options.training_presets:
            for seed in options.seeds:
                words = [name, training_preset, seed, options.folds, *([options.train] if options.train else []),
                         *(word.strip("-") for word in options.options)]
                work = RESULTS / "accuracy" / "-".join(map(str, words))
                work.mkdir(parents=True, exist_ok=True)
                results.append({"set": name, "training_preset": training_preset, "seed": seed, "folds": options.folds,
                                **run(options.data / (data.folder or name), data, training_preset, seed,
                                      options.folds, work, options.options)})
                text = "\n".join([title(), "", *figures_of(results), *thresholds(results),
                                  *without_worst(results)])
                (RESULTS / "accuracy.md").write_text(text)
                (RESULTS / "accuracy.json").write_text(json.dumps(results, indent=1))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
