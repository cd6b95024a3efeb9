# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy on real annotated micrographs: train on some, pick the others, compare with the annotation.

    python benchmarks/accuracy.py [--data FOLDER] [--sets NAME ...] [--training-presets NAME ...] [--seeds N ...] [--folds 3]
                                  [--train N] [--options ...]

The split goes by name: the first micrographs in alphabetical order are trained on (4 of apoferritin, 8 of
EMPIAR-10017), all others are picked. With --folds N every N-th micrograph is picked and the others are trained on, N
times over (apoferritin: the first 4 of them only), and the figures are those of all picks together. --train N takes the
first N of them; --options are handed on to `deepem train`. The set `apoferritin-frames`, single unaveraged frames, has
two micrographs: train on one and pick the other with --folds 2. Prints tables in Markdown, of accuracy, of how the
suggested threshold does, and of accuracy without the micrograph with the lowest average precision, and writes them with
all figures to benchmarks/results/accuracy.{md,json}.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class DataSet:
    """An annotated set: matching distances and annotated region in pixels of the micrographs, folders."""

    diameter_angst: float
    train: int
    distances_px: tuple
    region: tuple
    of: str = ""  # folder, where it is not the set's name
    images: str = "micrographs"


SETS = {
    "apoferritin": DataSet(120, 4, (31,), (20, 20, 1220, 1180)),
    "empiar10017": DataSet(191, 8, (27, 13), (64, 64, 1984, 1984)),
}
FRAMES = {"apoferritin-frames": DataSet(120, 1, (31,), (20, 20, 1220, 1180), "apoferritin", "micrographs_singleframe")}


def splits(names, n_train, folds):
    """Pairs of (training names, test names)."""
    if not folds:
        return [(names[:n_train], names[n_train:])]
    return [([name for name in names if name not in names[fold::folds]][:n_train], names[fold::folds])
            for fold in range(folds)]


def run(folder, data, training_preset, seed, folds, work, options=()):
    """Train and pick; figures at each distance, seconds of training and seconds per picked micrograph."""
    from deepem_scipion.deepem.commands.main import main
    from deepem_scipion.deepem.coordinates.read import read_coordinates
    from deepem_scipion.deepem.evaluation.metrics import evaluate

    names = sorted(path.stem for path in (folder / data.images).glob("*.mrc"))
    truth, picks, auto, train_s, pick_s = {}, {}, [], 0.0, 0.0
    for fold, (training, test) in enumerate(splits(names, data.train, folds)):
        model, output = work / f"{fold}.deepem", work / f"picks{fold}"
        began = time.perf_counter()
        done = main(["train", "--micrographs", *files(folder, training, data.images), "--coordinates",
                     str(folder / "boxes"), "--diameter", str(data.diameter_angst), "--training-preset", training_preset, "--seed",
                     str(seed), "--output", str(model), *options])
        train_s += time.perf_counter() - began
        began = time.perf_counter()
        done += main(["pick", "--model", str(model), "--micrographs", *files(folder, test, data.images), "--threshold",
                      "0", "--output", str(output)])
        pick_s += time.perf_counter() - began
        if done:
            sys.exit("training or picking failed")
        known = read_coordinates(folder / "boxes")
        truth.update({name: known[name] for name in test})
        picks.update(read_coordinates(output))
        auto.append(at_auto(model, {name: known[name] for name in test}, picks, data))
    found = {str(px): evaluate(truth, picks, px, data.region) for px in data.distances_px}
    single = next(iter(found.values()))["micrographs"]
    worst = min(single, key=lambda name: single[name]["AP"])
    others = {name: centres for name, centres in truth.items() if name != worst}
    return {"figures": {px: figures["overall"] for px, figures in found.items()},
            "AP": {name: figures["AP"] for name, figures in single.items()}, "worst": worst,
            "without": {str(px): evaluate(others, picks, px, data.region)["overall"] for px in data.distances_px},
            "auto": auto, "train_s": train_s, "pick_s": pick_s / len(picks)}


def at_auto(model, truth, picks, data):
    """Threshold that a model suggests; precision and recall there by its card and on the micrographs picked."""
    from deepem_scipion.deepem.evaluation.metrics import evaluate
    from deepem_scipion.deepem.model.files import read_card

    card = read_card(model)
    found = evaluate(truth, {name: picks[name] for name in truth}, data.distances_px[0], data.region, card["threshold"])
    return {"threshold": card["threshold"],
            "validation": [card["validation"][name] for name in ("precision", "recall")],
            "test": [found["overall"][name] for name in ("precision", "recall")]}


def files(folder, names, images="micrographs"):
    """Paths of micrographs."""
    return [str(folder / images / f"{name}.mrc") for name in names]


def row(result):
    """Lines of the table, one for each distance."""
    for distance, overall in result["figures"].items():
        best, f2 = overall["best_F1"], overall["best_F2"]["F2"]
        yield (f"| {result['set']} | {result['training_preset']} | {result['seed']} | {distance} | {best['F1']:.3f} | "
               f"{best['precision']:.3f} | {best['recall']:.3f} | {overall['AP']:.3f} | {f2:.3f} | "
               f"{overall['error_px']:.1f} | {result['train_s']:.0f} | {result['pick_s']:.2f} |")


def thresholds(results):
    """Lines of the table of suggested thresholds."""
    yield from ("", "| set | recipe | seed | fold | threshold | P, validation | P, test | R, validation | R, test |",
                "|---|---|---|---|---|---|---|---|---|")
    for result in results:
        for fold, auto in enumerate(result["auto"], 1):
            cells = [f"{value:.3f}" for pair in zip(auto["validation"], auto["test"]) for value in pair]
            yield " | ".join([f"| {result['set']}", result["training_preset"], str(result["seed"]), str(fold),
                              f"{auto['threshold']:.3f}", *cells]) + " |"


def without_worst(results):
    """Lines of the table of figures without the micrograph that fares worst."""
    yield from ("", "| set | recipe | seed | distance px | worst | its AP | mean AP of all | AP without it | best F1 | "
                "P | R |",
                "|---|---|---|---|---|---|---|---|---|---|---|")
    for result in results:
        areas = result["AP"]
        for distance, overall in result["without"].items():
            best = overall["best_F1"]
            cells = [areas[result["worst"]], sum(areas.values()) / len(areas), overall["AP"], best["F1"],
                     best["precision"], best["recall"]]
            yield " | ".join([f"| {result['set']}", result["training_preset"], str(result["seed"]), distance, result["worst"],
                              *(f"{value:.3f}" for value in cells)]) + " |"


def main():
    """Run all and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("DEEPEM_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder of the annotated sets")
    parser.add_argument("--sets", nargs="+", choices=[*SETS, *FRAMES], default=list(SETS))
    parser.add_argument("--training-presets", nargs="+", default=["paper", "default"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--train", type=int, help="number of micrographs to train on")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="options of `deepem train`; the last")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: no annotated micrographs at {options.data}; set DEEPEM_SHARED or give --data")
        return 0
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    lines = [f"`python benchmarks/accuracy.py {' '.join(sys.argv[1:])}` at commit {commit.strip()}", "",
             "| set | recipe | seed | distance px | best F1 | P | R | AP | best F2 | error px | training s | "
             "pick s per micrograph |", "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    results = []
    for name in options.sets:
        for training_preset in options.training_presets:
            for seed in options.seeds:
                data = {**SETS, **FRAMES}[name]
                if options.train:
                    data = replace(data, train=options.train)
                words = [name, training_preset, seed, options.folds, *([options.train] if options.train else []),
                         *(word.strip("-") for word in options.options)]
                work = RESULTS / "accuracy" / "-".join(map(str, words))
                work.mkdir(parents=True, exist_ok=True)
                result = {"set": name, "training_preset": training_preset, "seed": seed, "folds": options.folds,
                          **run(options.data / (data.of or name), data, training_preset, seed, options.folds, work,
                                options.options)}
                results.append(result)
                lines += row(result)
                table = "\n".join([*lines, *thresholds(results), *without_worst(results)])
                (RESULTS / "accuracy.md").write_text(table + "\n")
                (RESULTS / "accuracy.json").write_text(json.dumps(results, indent=1))
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
