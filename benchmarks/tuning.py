# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a search for hyper-parameters gains: tune on some annotated micrographs, compare on the others.

    python benchmarks/tuning.py [--data FOLDER] [--sets NAME ...] [--minutes 30] [--trials N] [--seeds N ...] [--resume]

Micrographs are split as by benchmarks/accuracy.py: the first in alphabetical order are given to `deepem train` (row
`auto`) and to `deepem tune` (row `tuned`), the others are picked by both models. The validation AP is what the search
saw, on one fifth of the first micrographs; all other figures are for the micrographs that it never saw. With several
seeds the rows `auto` show what chance alone does. Prints a table in Markdown and writes it with all figures to
benchmarks/results/tuning.{md,json}; the reports of the searches are in benchmarks/results/tuning/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from accuracy import RESULTS, ROOT, SETS, files, splits


def run(folder, data, seed, options, work):
    """Train and tune, pick the other micrographs; a result for each model."""
    names = sorted(path.stem for path in (folder / "micrographs").glob("*.mrc"))
    [(training, test)] = splits(names, data.train, 0)
    threads = ["--threads", str(options.threads)] if options.threads else []
    given = ["--micrographs", *files(folder, training), "--coordinates", str(folder / "boxes"), "--diameter",
             str(data.diameter_angst), "--seed", str(seed), *threads]
    search = ["--minutes", str(options.minutes)] + (["--trials", str(options.trials)] if options.trials else [])
    for name, command in (("auto", ["train", *given]), ("tuned", ["tune", *given, *search])):
        model = work / f"{name}.deepem"
        began = time.perf_counter()
        call([*command, "--output", str(model)])
        train_s = time.perf_counter() - began
        yield {"model": name, "train_s": train_s, **judged(folder, data, model, test, threads, work / name)}


def judged(folder, data, model, test, threads, output):
    """Figures of a model on the test micrographs at each distance, parameters from its card, seconds per micrograph."""
    from deepem_scipion.deepem.coordinates.read import read_coordinates
    from deepem_scipion.deepem.evaluation.metrics import evaluate
    from deepem_scipion.deepem.model.files import read_card
    from deepem_scipion.deepem.picking import PickingResults

    call(["pick", "--model", str(model), "--micrographs", *files(folder, test), "--threshold", "0", "--output",
          str(output), *threads])
    card = read_card(model)
    known = read_coordinates(folder / "boxes")
    truth, picks = {name: known[name] for name in test}, read_coordinates(output)
    figures = {str(px): evaluate(truth, picks, px, data.region)["overall"] for px in data.distances_px}
    return {"figures": figures, "validation_AP": card["validation"]["AP"], "tuning": card.get("tuning"),
            **{key: card[key] for key in ("geometry", "working_pixel_size_angst", "training_preset")},
            "pick_s": PickingResults(output).read_summary().seconds}


def call(arguments):
    """Run the program in a process of its own, as users do."""
    if subprocess.run([sys.executable, "-m", "deepem_scipion.deepem", *arguments], cwd=ROOT).returncode:
        sys.exit(f"deepem {arguments[0]} failed")


def rows(result):
    """Lines of the table, one for each distance."""
    sizes = {name: "/".join(map(str, result["geometry"][name])) for name in ("kernels", "pools", "maps")}
    settings = (f"{result['working_pixel_size_angst']:.4g} A, box {result['geometry']['box']}, {sizes['kernels']}, "
                f"pools {sizes['pools']}, maps {sizes['maps']}, {result['training_preset']}")
    trials = result["tuning"]["trials"] if result["tuning"] else 1
    for distance, overall in result["figures"].items():
        best = overall["best_F1"]
        yield (f"| {result['set']} | {result['seed']} | {result['model']} | {trials} | {result['validation_AP']:.3f} "
               f"| {distance} | {overall['AP']:.3f} | {best['F1']:.3f} | {best['precision']:.3f} "
               f"| {best['recall']:.3f} | {result['train_s']:.0f} | {result['pick_s']:.2f} | {settings} |")


def main():
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("DEEPEM_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder of the annotated sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["empiar10017", "apoferritin"])
    parser.add_argument("--minutes", type=float, default=30.0, help="for each search (default: %(default)g)")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--resume", action="store_true", help="go on with the searches of an earlier run")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: no annotated micrographs at {options.data}; set DEEPEM_SHARED or give --data")
        return 0
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    lines = [f"`python benchmarks/tuning.py {' '.join(sys.argv[1:])}` at commit {commit.strip()}", "",
             "| set | seed | model | trials | validation AP | distance px | AP | best F1 | P | R | training s | "
             "pick s per micrograph | settings |", "|" + "---|" * 13]
    results = []
    for name in options.sets:
        for seed in options.seeds:
            work = RESULTS / "tuning" / f"{name}-{seed}"
            if not options.resume:
                shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True, exist_ok=True)
            for result in run(options.data / name, SETS[name], seed, options, work):
                results.append({"set": name, "seed": seed, **result})
                lines += rows(results[-1])
                (RESULTS / "tuning.md").write_text("\n".join(lines) + "\n")
                (RESULTS / "tuning.json").write_text(json.dumps(results, indent=1))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
