# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gain of a search for hyper-parameters: tune on some annotated micrographs, evaluate on the others.

    python benchmarks/tuning.py [--data FOLDER] [--sets NAME ...] [--minutes 30] [--trials N] [--seeds N ...]
                                [--threads N]

The first micrographs in alphabetical order (see benchmarks/accuracy.py) are given to `deepem train` (row `auto`) and to
`deepem tune` (row `tuned`), and both models pick the others. The validation AP is the figure that the search maximises,
on one fifth of the first micrographs; all other figures are of the other micrographs. With several seeds the rows
`auto` show the variation by chance. The script prints a table in Markdown and writes it with all figures to
benchmarks/results/tuning.{md,json}; the reports of the searches are in benchmarks/results/tuning/.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time

from common import (
    PROGRAM,
    RESULTS,
    ROOT,
    SETS,
    add_data_option,
    files,
    has_data,
    micrograph_names,
    read_picks,
    splits,
    table,
    title,
)

HEADER = ("set", "seed", "model", "validation AP", "distance px", "AP", "best F1", "P", "R", "training s",
          "pick s per micrograph", "settings")


def run(folder, data, seed, options, work):
    """Train and tune, pick the other micrographs; a result for each model."""
    [(training, test)] = splits(micrograph_names(folder), data.train, 0)
    threads = ["--threads", options.threads] if options.threads else []
    given = ["--micrographs", *files(folder, training), "--coordinates", folder / "boxes", "--diameter",
             data.diameter_angst, "--seed", seed, *threads]
    search = ["--minutes", options.minutes, *(["--trials", options.trials] if options.trials else [])]
    for name, command in (("auto", ["train", *given]), ("tuned", ["tune", *given, *search])):
        model = work / f"{name}.deepem"
        began = time.perf_counter()
        call([*command, "--output", model])
        train_s = time.perf_counter() - began
        yield {"model": name, "train_s": train_s, **evaluated(folder, data, model, test, threads, work / name)}


def evaluated(folder, data, model, test, threads, output):
    """Figures of a model on the test micrographs at each distance, its settings, seconds per micrograph."""
    from deepem_scipion.deepem import PickingResults, evaluate, read_coordinates
    from deepem_scipion.deepem.model import read_card

    call(["pick", "--model", model, "--micrographs", *files(folder, test), "--threshold", 0, "--output", output,
          "--overwrite", *threads])
    card, known, picks = read_card(model), read_coordinates(folder / "boxes"), read_picks(output)
    reference = {name: known[name] for name in test}
    return {"figures": {str(px): evaluate(reference, picks, px, data.region)["overall"] for px in data.distances_px},
            **{key: card[key] for key in ("geometry", "working_pixel_size_angst", "training_preset")},
            "validation_AP": card["validation"]["AP"],
            "pick_s": sum(found.seconds for found in PickingResults(output).read_micrographs().values()) / len(test)}


def call(arguments):
    """Run the program in a process of its own, as users do."""
    if subprocess.run([*PROGRAM, *map(str, arguments)], cwd=ROOT).returncode:
        sys.exit(f"deepem {arguments[0]} failed")


def rows(result):
    """Rows of the table, one for each distance."""
    sizes = {name: "/".join(map(str, result["geometry"][name])) for name in ("kernels", "pools", "maps")}
    settings = (f"{result['working_pixel_size_angst']:.4g} A, box {result['geometry']['box']}, {sizes['kernels']}, "
                f"pools {sizes['pools']}, maps {sizes['maps']}, {result['training_preset']}")
    for distance, overall in result["figures"].items():
        best = overall["best_F1"]
        cells = overall["AP"], best["F1"], best["precision"], best["recall"]
        yield (result["set"], result["seed"], result["model"], f"{result['validation_AP']:.3f}", distance,
               *(f"{value:.3f}" for value in cells), f"{result['train_s']:.0f}", f"{result['pick_s']:.2f}", settings)


def main():
    """Train and tune on all sets, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["empiar10017", "apoferritin"])
    parser.add_argument("--minutes", type=float, default=30.0, help="for each search (default: %(default)g)")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    results = []
    for name in options.sets:
        for seed in options.seeds:
            work = RESULTS / "tuning" / f"{name}-{seed}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            for result in run(options.data / name, SETS[name], seed, options, work):
                results.append({"set": name, "seed": seed, **result})
                text = "\n".join([title(), "", *table(HEADER, *(row for each in results for row in rows(each)))])
                (RESULTS / "tuning.md").write_text(text)
                (RESULTS / "tuning.json").write_text(json.dumps(results, indent=1))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
