# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy of other pickers on the micrographs and splits of `accuracy.py --folds 3`, evaluated in the same way.

    python benchmarks/peers.py [--topaz PROGRAM] [--programs NAME ...] [--deepem] [--topaz-updates N] [--topaz-mixed]
                               [--data FOLDER]

Programs: `topaz` (Topaz trained on the same coordinates as DeepEM), `topaz-pretrained` (its pretrained detector), `log`
and `log-dense` (RELION's Laplacian-of-Gaussian autopicking, with its default minimum distance between particles and
with half of it), `templates` (RELION's template picking with 2D class averages of the same coordinates),
`deepem-general` (the general model) and, with --deepem, DeepEM. Sets from which nothing is trained (EMPIAR-10028, KLH)
are for programs that are given the diameter alone. Topaz needs a separate environment: without --topaz one is made in
benchmarks/results/topaz. Run the script under `taskset -c N` to keep all programs on one core; times are processor
seconds and include the start-up of the programs. Results are kept in benchmarks/results/peers, one file for each
program, set and fold, and reused as long as the settings are the same. The script prints a table in Markdown and writes
it with all figures to benchmarks/results/peers.{md,json}.
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
import venv
from pathlib import Path

import numpy as np
from common import RESULTS, ROOT, SETS, add_data_option, files, has_data, micrograph_names, splits, table, title
from general_accuracy import ALL_SETS, without_ignored
from pickers import Outcome, Program, Skipped, Task, deepem, run
from relion import log, templates

TOPAZ = "topaz-em==0.3.20"
TOPAZ_PIXEL_ANGST = 6  # its authors recommend 4 to 8 A
TOPAZ_EPOCHS = 10
# Runs topaz with the features of its network in bfloat16; scores, losses and updates stay in single precision.
TOPAZ_MIXED = """
import sys, torch
from topaz.main import main
from topaz.model.features.resnet import ResNet
single = ResNet.forward
def mixed(network, images):
    with torch.autocast("cpu", torch.bfloat16):
        return single(network, images).float()
ResNet.forward = mixed
sys.exit(main())
"""


def topaz_program(options):
    """Path of the program topaz, installed in a new environment if none is given."""
    if options.topaz:
        found = shutil.which(options.topaz)
        if not found:
            raise Skipped(f"no program {options.topaz}")
        return str(Path(found).absolute())
    folder = RESULTS / "topaz"
    program = folder / "bin" / "topaz"
    if not program.exists():
        venv.create(folder, clear=True, with_pip=True)
        run([folder / "bin" / "pip", "install", TOPAZ], folder)
    return str(program)


def topaz(options, trained):
    """Topaz with a network trained on the coordinates, or with its pretrained network."""
    program = topaz_program(options)
    version = run([program, "--version"], ROOT)[1].split()[-1]
    threads = ["--num-workers", 0, "--num-threads", options.threads]
    trainer = [Path(program).with_name("python"), "-c", TOPAZ_MIXED] if options.topaz_mixed else [program]

    def factor(task):
        return max(1, round(TOPAZ_PIXEL_ANGST / task.pixel_angst))

    def preprocess(task, links):
        return run([program, "preprocess", "--scale", factor(task), "--num-threads", options.threads, "--destdir",
                    "downsampled", *(f"{link}.mrc" for link in links)], task.work)[0]

    def write_lists(task, links, name):
        """Write input files of Topaz, whose downsampling (Fourier transform) keeps the centre of the first pixel."""
        (task.work / f"{name}_images.txt").write_text(
            "image_name\tpath\n" + "".join(f"{link}\tdownsampled/{link}.mrc\n" for link in links))
        lines = [f"{link}\t{x:.0f}\t{y:.0f}\n" for link, name in links.items()
                 for x, y in np.rint(task.known[name].centres_xy / factor(task))]
        (task.work / f"{name}_targets.txt").write_text("image_name\tx_coord\ty_coord\n" + "".join(lines))

    def train(task):
        """Seconds, and the network of the epoch with the best average precision on validation micrographs."""
        validation = task.training[::5]  # one fifth, as in DeepEM
        links = task.link(task.training)
        spent = preprocess(task, links)
        write_lists(task, {link: name for link, name in links.items() if name not in validation}, "train")
        write_lists(task, {link: name for link, name in links.items() if name in validation}, "test")
        expected = max(len(task.known[name].centres_xy) for name in task.training)
        for old in task.work.glob("model_epoch*.sav"):
            old.unlink()
        spent += run([*trainer, "train", "--device", -1, *threads, "--train-images", "train_images.txt",
                      "--train-targets", "train_targets.txt", "--test-images", "test_images.txt", "--test-targets",
                      "test_targets.txt", "--num-particles", expected, "--epoch-size", options.topaz_updates,
                      "--num-epochs", TOPAZ_EPOCHS, "--save-prefix", "model", "--output", "curve.txt"], task.work)[0]
        rows = [line.split("\t") for line in (task.work / "curve.txt").read_text().splitlines()]
        best = max((float(row[-1]), int(row[0])) for row in rows if row[2] == "test")[1]
        model = next(path for path in task.work.glob("model_epoch*.sav")
                     if int(re.search(r"(\d+)\.sav$", path.name)[1]) == best)
        return spent, model.name

    def pick(task):
        spent, model = train(task) if trained else (None, "resnet16")
        links = task.link(task.test)
        seconds = preprocess(task, links)
        radius = int(task.diameter_angst / task.pixel_angst / factor(task) / 2)
        seconds += run([program, "extract", "--device", -1, *threads, "--model", model, "--radius", radius,
                        "--threshold", -100, "--output", "picks.txt",
                        *(f"downsampled/{link}.mrc" for link in links)], task.work)[0]
        picks = {name: [] for name in task.test}
        for line in (task.work / "picks.txt").read_text().splitlines()[1:]:
            link, x, y, score = line.split("\t")
            picks[links[link]].append((float(x) * factor(task), float(y) * factor(task), float(score)))
        return Outcome(picks, spent, seconds)

    setting = (f"resnet8, trained, {TOPAZ_EPOCHS} x {options.topaz_updates} updates"
               f"{', mixed precision' if options.topaz_mixed else ''}" if trained else "resnet16, pretrained")
    return Program(f"Topaz {version}", setting, "coordinates, diameter" if trained else "diameter", pick)


PROGRAMS = {
    "topaz": lambda options: topaz(options, True),
    "topaz-pretrained": lambda options: topaz(options, False),
    "log": lambda options: log(options, 100),
    "log-dense": lambda options: log(options, 50),
    "templates": templates,
    "deepem": deepem,
    "deepem-general": lambda options: deepem(options, trained=False),
}


def results_of(key, program, name, options):
    """Picks and seconds of all folds; those that exist are read from their files."""
    from deepem_scipion.deepem import read_coordinates
    from deepem_scipion.deepem.micrographs import read_pixel_size

    folder, data = options.data / name, ALL_SETS[name]
    names = micrograph_names(folder)
    for fold, (training, test) in enumerate(splits(names, data.train, options.folds)):
        path = RESULTS / "peers" / f"{name}-{key}-{fold}of{options.folds}.json"
        settings = {"program": program.title, "setting": program.setting, "training": training, "test": test}
        done = json.loads(path.read_text()) if path.exists() else {}
        if {entry: done.get(entry) for entry in settings} != settings:
            work = RESULTS / "peers" / f"{name}-{key}-{fold}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            began = time.perf_counter()
            outcome = program.run(Task(folder, data.diameter_angst, read_pixel_size(files(folder, names)[0]),
                                       read_coordinates(folder / "boxes"), training, test, work))
            done = {**settings, **vars(outcome), "wall_s": time.perf_counter() - began}
            part = path.with_suffix(".part")
            part.write_text(json.dumps(done))
            part.replace(path)
            print(f"{name}, fold {fold}: {program.title}, {program.setting}: training {outcome.training_s or 0:.0f} s, "
                  f"picking {outcome.picking_s:.0f} s; {done['wall_s']:.0f} s of wall time",
                  file=sys.stderr, flush=True)
        yield done


def rows_of(program, name, results, options):
    """Figures of one program and set, one row for each distance."""
    from deepem_scipion.deepem import Coordinates, evaluate, read_coordinates

    known = read_coordinates(options.data / name / "boxes")
    picks = {micrograph: Coordinates(np.reshape(rows, (-1, 3))[:, :2], np.reshape(rows, (-1, 3))[:, 2], None)
             for result in results for micrograph, rows in result["picks"].items()}
    training = [result["training_s"] for result in results if result["training_s"] is not None]
    reference = {micrograph: known[micrograph] for micrograph in picks}
    for distance in ALL_SETS[name].distances_px:
        counted = without_ignored(dict(picks), reference, options.data / name, distance)
        overall = evaluate(reference, counted, distance, ALL_SETS[name].region)["overall"]
        at_best = evaluate(reference, counted, distance, ALL_SETS[name].region, threshold="F1")["overall"]
        yield {"program": program.title, "setting": program.setting, "given": program.given, "set": name,
               "distance_px": distance, "overall": overall, "error_px": at_best["error_px"],
               "training_s": sum(training) / len(training) if training else None,
               "picking_s": sum(result["picking_s"] for result in results) / len(picks)}


def cells(row):
    """Cells of a row of the table."""
    best, overall = row["overall"]["best_F1"], row["overall"]
    figures = best["F1"], best["precision"], best["recall"], overall["AP"], overall["best_F2"]["F2"]
    training = "none" if row["training_s"] is None else f"{row['training_s']:.0f}"
    return (*(row[key] for key in ("program", "setting", "given", "set", "distance_px")),
            *(f"{value:.3f}" for value in figures), f"{row['error_px']:.1f}", training, f"{row['picking_s']:.2f}")


def main():
    """Run the programs on all sets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="+", choices=ALL_SETS, default=list(SETS))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS,
                        default=[name for name in PROGRAMS if not name.startswith("deepem")])
    parser.add_argument("--deepem", action="store_true", help="run DeepEM, too")
    parser.add_argument("--topaz", help="the program topaz (default: install it in benchmarks/results/topaz)")
    parser.add_argument("--topaz-updates", type=int, default=50,
                        help="updates in each of its 10 epochs (default of Topaz: 1000)")
    parser.add_argument("--topaz-mixed", action="store_true",
                        help="train it in mixed precision, three times faster on processors with AMX")
    parser.add_argument("--folds", type=int, default=3, help="0: the first micrographs for training, all others picked")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    (RESULTS / "peers").mkdir(parents=True, exist_ok=True)
    header = ("program", "setting", "given", "set", "distance px", "best F1", "P", "R", "AP", "best F2", "error px",
              "training s", "pick s per micrograph")
    rows, notes = [], []
    for key in dict.fromkeys([*options.programs, *(["deepem"] if options.deepem else [])]):
        try:
            program = PROGRAMS[key](options)
            for name in options.sets:
                if not ALL_SETS[name].train and program.given != "diameter":
                    notes += [f"`{key}` skipped for {name}: nothing is trained there", ""]
                    continue
                rows += rows_of(program, name, list(results_of(key, program, name, options)), options)
                (RESULTS / "peers.json").write_text(json.dumps(rows, indent=1))
        except Skipped as reason:
            notes += [f"`{key}` skipped: {reason}", ""]
    text = "\n".join([title(), "", *table(header, *map(cells, rows)), *notes])
    (RESULTS / "peers.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
