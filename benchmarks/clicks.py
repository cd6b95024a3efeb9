# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy against the number of marked particles, from none to all, on annotated micrographs.

    python benchmarks/clicks.py [--sets NAME ...] [--clicks N ...] [--seeds N ...] [--data FOLDER]

The first half of the micrographs of a set is for training, at most four, the others are picked. 0: the general model;
-1: that model trained on the same micrographs without any mark (`deepem train` without --coordinates); N: N particles
drawn at random from at most three micrographs, of which nothing else is marked (--incomplete); Nr: the particles in
rectangles in the middle of the training micrographs, about N, which are all that it is shown, from scratch; `all`: all
particles of the training micrographs, from scratch. The script prints a table in Markdown of best F1 and average
precision, their mean over the seeds, and the F1 at the automatic threshold, and writes it to
benchmarks/results/clicks.md, and best F1 and average precision as a picture to clicks.png beside it.
"""

import argparse
import shutil
import sys

import numpy as np
from common import RESULTS, add_data_option, files, has_data, micrograph_names, table, title
from general_accuracy import ALL_SETS, without_ignored
from study import crop

TRAINING, CLICKED = 4, 3
# Each rectangle has at least this many particles.
MIN_IN_RECTANGLE = 10


def marks(known, names, number, seed):
    """Centres of some particles by name of the micrograph."""
    rng = np.random.default_rng(seed)
    names = names[:min(CLICKED, max(1, number // 5))]
    places = [(name, at) for name in names for at in range(len(known[name].scores))]
    chosen = [places[index] for index in rng.choice(len(places), min(number, len(places)), replace=False)]
    return {name: known[name].centres_xy[[at for other, at in chosen if other == name]] for name in names}


def model_for(clicks, folder, data, names, work, seed):
    """Model from a number of clicks."""
    from deepem_scipion.deepem import general_model, load_model
    from deepem_scipion.deepem.commands.main import main

    if clicks == "0":
        return general_model(data.diameter_angst)
    if main(["train", *map(str, labels(clicks, folder, data, names, work / "marked", seed)), "--diameter",
             str(data.diameter_angst), "--seed", str(seed), "--output", str(work / "model.deepem"), "--quiet"]):
        sys.exit(f"training with {clicks} clicks failed")
    return load_model(work / "model.deepem")


def labels(clicks, folder, data, names, work, seed):
    """Arguments of `deepem train`: micrographs and what is marked on them."""
    from deepem_scipion.deepem import read_coordinates
    from deepem_scipion.deepem.coordinates.box import write_box

    known, micrographs = read_coordinates(folder / "boxes"), ["--micrographs", *files(folder, names, data.images)]
    shutil.rmtree(work, ignore_errors=True)
    if clicks == "-1":
        return micrographs
    if clicks == "all":
        return [*micrographs, "--coordinates", folder / "boxes"]
    if clicks.endswith("r"):
        number = int(clicks[:-1])
        names = names[:max(1, number // MIN_IN_RECTANGLE)]
        for name in names:
            crop(folder, name, known[name], data.region, number // len(names), work)
        return ["--micrographs", work / "micrographs", "--coordinates", work / "boxes"]
    work.mkdir(parents=True)
    for name, centres in marks(known, names, int(clicks), seed).items():
        write_box(work / f"{name}.box", centres, np.full(len(centres), np.nan), 40)
    return [*micrographs, "--coordinates", work, "--incomplete"]


def figures(model, folder, data, names):
    """Best F1, average precision and F1 at the threshold, on some micrographs."""
    from dataclasses import replace

    from deepem_scipion.deepem import Limits, Picker, evaluate, read_coordinates

    truth = {name: found for name, found in read_coordinates(folder / "boxes").items() if name in names}
    picker = Picker(model, replace(Limits.of_model(model), threshold=0.0))
    picks = {name: picker.pick(model.read_micrograph(path, name=name)).picks
             for name, path in zip(names, files(folder, names, data.images))}
    picks = without_ignored(picks, truth, folder, data.distances_px[0])
    found = evaluate(truth, picks, data.distances_px[0], data.region, model.threshold)["overall"]
    return found["best_F1"]["F1"], found["AP"], found["F1"]


def draw(rows, path):
    """Plot best F1, with those of all seeds, and average precision of the rows of the table against the clicks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    order = list(dict.fromkeys(clicks for _, clicks, *_ in rows))
    for axes, column, label in zip(figure.subplots(1, 2), (2, 3), ("best F1", "average precision")):
        for colour, name in enumerate(dict.fromkeys(row[0] for row in rows)):
            own = [row for row in rows if row[0] == name]
            places = [order.index(row[1]) for row in own]
            axes.plot(places, [float(row[column]) for row in own], "o-", color=f"C{colour}", label=name)
            if column == 2:
                for place, row in zip(places, own):
                    seeds = [float(value) for value in row[5].split(", ")]
                    axes.plot(len(seeds) * [place], seeds, "_", color=f"C{colour}")
        axes.set_xticks(range(len(order)), order)
        axes.set(xlabel="particles marked", ylabel=label)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def main():
    """Train and pick, and write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="+", choices=ALL_SETS, default=list(ALL_SETS))
    parser.add_argument("--clicks", nargs="+", default=["0", "-1", "5", "10", "20", "50", "100", "all"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    rows = [("set", "clicks", "best F1", "AP", "F1 at the threshold", "best F1 of each seed")]
    work = RESULTS / "clicks"
    work.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        data, folder = ALL_SETS[name], options.data / name
        names = micrograph_names(folder, data.images)
        training = names[:min(TRAINING, len(names) // 2)]
        for clicks in options.clicks:
            seeds = options.seeds[:1] if clicks == "0" else options.seeds
            found = np.array([figures(model_for(clicks, folder, data, training, work, seed), folder, data,
                                      names[len(training):]) for seed in seeds])
            rows.append((name, clicks, *(f"{value:.3f}" for value in found.mean(axis=0)),
                         ", ".join(f"{value:.3f}" for value in found[:, 0])))
            text = "\n".join([title(), "", *table(*rows)])
            (RESULTS / "clicks.md").write_text(text)
            draw(rows[1:], RESULTS / "clicks.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
