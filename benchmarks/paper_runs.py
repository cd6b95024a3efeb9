# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of paper.py: training and picking with either procedure, figures at nine thresholds, curves and pictures."""

import math
import sys
from pathlib import Path

import common
import numpy as np
from common import DataSet, files, micrograph_names, read_picks
from study import micrographs_of, part, small

from deepem_scipion.deepem import load_model, read_coordinates, read_micrograph
from deepem_scipion.deepem.commands.main import main as deepem
from deepem_scipion.deepem.evaluation import curve, f_beta, match, pool
from deepem_scipion.deepem.report import draw_picks
from deepem_scipion.deepem.report.axes import BLUE, VERMILION

RESULTS = common.RESULTS / "paper"
# As many updates of the network as 20 epochs of 800 particles and 800 negatives in four orientations. A share of the
# micrographs is kept for validation, and the same for the test.
UPDATES, BATCH, DRAWN, KEPT = 2560, 50, 800, 0.2
# On simulated micrographs, as noisy as they are, the paper's training has just begun to learn after 2560.
SIMULATED_UPDATES = 3430
PROCEDURES = {"default": BLUE, "paper": VERMILION}
THRESHOLDS = np.arange(1, 10) / 10
FIGURES = ("best F2", "at", "P", "R", "best F1")


def boxes_in(folder):
    """Known coordinates of a folder of boxes; empty where there is none."""
    return read_coordinates(folder) if folder.is_dir() else {}


def train(work, micrographs, boxes, diameter_angst, procedure, options, more=(), updates=UPDATES):
    """Train a model; its path, or None where the training failed.

    Few particles are shown in more epochs by the paper's procedure, for about this many updates of the network (in the
    last round, if there are several).
    """
    model = work / "model"
    words = ["train", "--micrographs", *micrographs, "--coordinates", str(boxes), "--diameter", f"{diameter_angst:g}",
             "--procedure", procedure, "--output", str(model), *options.more, *more]
    if procedure == "paper":
        known = read_coordinates(boxes)
        number = sum(len(known[Path(path).stem].scores) for path in micrographs if Path(path).stem in known)
        left = 1 - 2 * max(1, round(KEPT * len(micrographs))) / len(micrographs)
        words += ["--epochs", str(math.ceil(updates * BATCH / (8 * min(DRAWN, number * left))))]
    return None if deepem(words) else model


def picked(model, micrographs, work, options, more=()):
    """Pick micrographs at the threshold of the model and, by the default procedure, at 0; the results folders."""
    paper, found = load_model(model).ranges_px is not None, {}
    for name, threshold in (("auto", "auto"), *(() if paper else (("all", "0"),))):
        output = work / f"picks-{name}{''.join(more)}"
        if deepem(["pick", "--model", str(model), "--micrographs", *micrographs, "--threshold", threshold, "--output",
                   str(output), "--overwrite", *more, *options.more]):
            sys.exit("picking failed")
        found[name] = str(output)
    return found


def train_and_pick(work, inputs, diameter_angst, procedure, test, options, more=(), updates=UPDATES):
    """Train a model and pick other micrographs; the results folders, or None where the training failed."""
    model = train(work, *inputs, diameter_angst, procedure, options, more, updates)
    return model and picked(model, test, work, options)


def with_points(found, known, ignored, data):
    """Add thresholds with precision and recall: nine by the paper's procedure, every score by the default one."""
    def matches(picks):
        return pool([compare(picks.get(name), each, ignored.get(name), data) for name, each in known.items()])

    if not found:
        return None
    if "all" in found:
        steps = curve(matches(read_picks(found["all"])))
        return {**found, "points": (steps.thresholds, steps.precision, steps.recall)}
    points = []
    for threshold in THRESHOLDS:
        each = matches(read_coordinates(Path(found["auto"]) / "export" / f"threshold-{threshold:g}"))
        n_correct = int(each.correct.sum())
        points.append((threshold, n_correct / max(len(each.correct), 1), n_correct / max(each.n_truth, 1)))
    return {**found, "points": np.array(points).T}


def compare(picks, known, ignored, data):
    """Match the picks of a micrograph, without those close to what is neither right nor wrong."""
    centres_xy, scores = counted(picks, known, ignored, data)
    return match(centres_xy, scores, known.centres_xy, data.distances_px[0], data.region)


def counted(picks, known, ignored, data):
    """Centres and scores of the picks that are right or wrong."""
    if picks is None:
        return np.empty((0, 2)), np.empty(0)

    def near(places):
        return np.array([np.linalg.norm(picks.centres_xy - place, axis=1) < data.distances_px[0] for place in places])

    counts = np.ones(len(picks.scores), bool)
    if ignored is not None and len(ignored):
        counts = ~near(ignored).any(axis=0) | near(known.centres_xy).any(axis=0)
    return picks.centres_xy[counts], picks.scores[counts]


def settings(procedure, updates=UPDATES, **others):
    """What a part depends on."""
    return {**others, **({"updates": updates} if procedure == "paper" else {})}


def experiment(work, folder, data, procedure, options, more=(), training=None, first=None, updates=UPDATES):
    """Train on the first micrographs of an experimental set, pick the two from `first` on; points of the curves."""
    names, first = micrograph_names(folder), data.train if first is None else first
    test = names[first:first + 2]
    inputs = training or (files(folder, names[:data.train]), folder / "boxes")
    found = part(work, settings(procedure, updates, inputs=inputs, test=test, more=more), options.fresh,
                 train_and_pick, work, inputs, data.diameter_angst, procedure, files(folder, test), options, more,
                 updates)
    return with_points(found, annotated(folder, test), ignored_in(folder), data)


def without_range(work, folder, data, options, first):
    """Pick with the model of an experiment again, without the range of the standard deviation; points of the curves."""
    test = micrograph_names(folder)[first:first + 2]
    found = part(work / "off", {"test": test}, options.fresh, picked, work / "model", files(folder, test),
                 work / "off", options, ("--std-range", "off"))
    return with_points(found, annotated(folder, test), ignored_in(folder), data)


def annotated(folder, names):
    """Known coordinates of these micrographs of an experimental set."""
    return {name: each for name, each in read_coordinates(folder / "boxes").items() if name in names}


def ignored_in(folder):
    """Centres of what is neither right nor wrong in an experimental set, by name of the micrograph."""
    ignored = {}
    for kind in ("boxes_doubtful", "boxes_long"):
        for name, each in boxes_in(folder / kind).items():
            ignored[name] = np.concatenate([ignored.get(name, np.empty((0, 2))), each.centres_xy])
    return ignored


def simulation(work, folder, scene, procedure, options, more=()):
    """Train and pick simulated micrographs; points of the curves."""
    inputs = micrographs_of(folder / "training"), folder / "training" / "boxes"
    found = part(work, settings(procedure, SIMULATED_UPDATES, scene=scene, more=more), options.fresh, train_and_pick,
                 work, inputs, scene.diameter_angst, procedure, micrographs_of(folder / "test"), options, more,
                 SIMULATED_UPDATES)
    return simulated_points(found, folder, scene)


def simulated_points(found, folder, scene):
    """Points of the curves of the test micrographs of a simulation."""
    data = DataSet(scene.diameter_angst, 0, (0.5 * scene.diameter_px,), (0, 0, *scene.shape[::-1]))
    return with_points(found, read_coordinates(folder / "test" / "boxes"), {}, data)


def row_of(found):
    """Best F2 with its threshold, precision and recall, and best F1, as text."""
    if not found:
        return ["training failed", *["-"] * 4]
    threshold, precision, recall = found["points"]
    best = int(np.argmax(f_beta(precision, recall, 2)))
    return [f"{f_beta(precision, recall, 2)[best]:.3f}", f"{threshold[best]:.2g}", f"{precision[best]:.3f}",
            f"{recall[best]:.3f}", f"{f_beta(precision, recall, 1).max():.3f}"]


def draw_curves(axes, found, label, colour, style="solid"):
    """Draw F2 against the threshold, and precision against recall; nine thresholds have markers."""
    if found:
        threshold, precision, recall = found["points"]
        looks = {"color": colour, "linestyle": style, "marker": None if "all" in found else "o"}
        axes[0].plot(threshold, f_beta(precision, recall, 2), label=label, **looks)
        axes[1].plot(recall, precision, **looks)


def finish(figure, panels, name):
    """Label the two panels of curves and write them."""
    for axes, (x, y) in zip(panels, (("threshold (score)", "F2"), ("recall", "precision")), strict=True):
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1.02), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.savefig(RESULTS / f"{name}.png", dpi=100)


def draw(folder, data, found, path):
    """Draw the picks of a test micrograph; false positives and missed particles are marked."""
    name = micrograph_names(folder)[data.train]
    known = read_coordinates(folder / "boxes")[name]
    picks = counted(read_picks(found["auto"])[name], known, ignored_in(folder).get(name), data)
    micrograph = read_micrograph(files(folder, [name])[0])
    draw_picks(micrograph.pixels, *picks, 2 * data.distances_px[0], path, known.centres_xy,
               f"{folder.name}, {path.stem.rpartition('-')[2]}")
    small(path)
