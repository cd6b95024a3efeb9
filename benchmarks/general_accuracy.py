# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy of the general model on annotated micrographs, of which it has seen none, and on empty simulated fields.

    python benchmarks/general_accuracy.py [--models FILE ...] [--data FOLDER] [--sets NAME ...] [--diameters SHARE ...]
                                          [--empty N] [--labels]

Each set is picked by its diameter alone, also by diameters that are wrong by the given shares. The table has the best
F1 and the average precision over all micrographs of a set, the threshold of the model, the F1 at it and how far that is
below the best. On the images of KLH, candidates that match decamers joined end to end, or doubtful ones, do not count.
Empty fields have ice, carbon and gold, of seeds that the training does not use.

With --labels also what the labels of a set would add, in three parts of its micrographs of which two teach and one is
picked: the network as it is, the comparison of the candidates fitted to the labels; and a model trained on the labels,
of the same network at the same scale. On EMPIAR-10028 moreover how many picks per micrograph are left after those at
marked particles and at the picks of a model that was trained on all labels.

The script prints tables in Markdown, and writes them to benchmarks/results/general_accuracy.md.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import RESULTS, SETS, DataSet, add_data_option, files, has_data, micrograph_names, splits, table, title

ALL_SETS = {**SETS, "empiar10028": DataSet(300, 0, (28,), (34, 34, 990, 990)),
            "klh_processed": DataSet(400, 0, (68,), None)}
NOT_COUNTED = "boxes_long", "boxes_doubtful"
EMPTY_SEED = 1_000_000_007
PARTS = 3
MASKED_SET = "empiar10028"


def picks_of(model, folder):
    """All candidates of the micrographs of a set after non-maximum suppression, by name."""
    from deepem_scipion.deepem import Limits, Picker, find_micrographs

    picker = Picker(model, replace(Limits.of_model(model), threshold=0.0))
    return {name: picker.pick(model.read_micrograph(path, name=name)).picks
            for name, path in find_micrographs([str(folder / "micrographs")]).items()}


def without_ignored(picks, truth, folder, distance_px):
    """The picks of one micrograph set without those that match a place that does not count, and no particle."""
    from scipy.spatial import cKDTree

    from deepem_scipion.deepem import read_coordinates

    for kind in NOT_COUNTED:
        ignored = read_coordinates(folder / kind) if (folder / kind).is_dir() else {}
        for name in ignored.keys() & picks.keys():
            found = picks[name]
            to_ignored, to_particle = (cKDTree(places[name].centres_xy).query(found.centres_xy)[0]
                                       for places in (ignored, truth))
            kept = (to_ignored > distance_px) | (to_particle <= distance_px)
            picks[name] = replace(found, centres_xy=found.centres_xy[kept], scores=found.scores[kept])
    return picks


def figures(model, name, folder, share):
    """A line of the table: accuracy on one set, with a diameter wrong by a share."""
    from deepem_scipion.deepem import evaluate, read_coordinates

    data = ALL_SETS[name]
    truth = read_coordinates(folder / "boxes")
    picks = picks_of(model.for_diameter((1 + share) * data.diameter_angst), folder)
    picks = without_ignored(picks, truth, folder, data.distances_px[0])
    found = evaluate(truth, picks, data.distances_px[0], data.region, model.threshold)["overall"]
    best = found["best_F1"]["F1"]
    return (name, f"{share:+.0%}", f"{best:.3f}", f"{found['AP']:.3f}", f"{model.threshold:.2f}", f"{found['F1']:.3f}",
            f"{best - found['F1']:.3f}", f"{found['precision']:.3f}", f"{found['recall']:.3f}",
            f"{found['error_px'] or 0:.1f}")


def with_labels(model, name, folder):
    """A line of the table: best F1 and AP of the model, with the comparison fitted to labels, and trained on labels."""
    from deepem_scipion.deepem import Limits, Picker, evaluate, read_coordinates
    from deepem_scipion.deepem.training.agreement_fit import with_agreement
    from deepem_scipion.deepem.training.labels import LabelledMicrograph

    data = ALL_SETS[name]
    truth, own = read_coordinates(folder / "boxes"), model.for_diameter(data.diameter_angst)
    found = [{}, {}, {}]
    for training, judged in splits(micrograph_names(folder), None, PARTS):
        read = {name: own.read_micrograph(folder / "micrographs" / f"{name}.mrc", name=name) for name in training}
        fitted = with_agreement(own, [LabelledMicrograph(item, item.to_binned_rc(truth[name].centres_xy))
                                      for name, item in read.items()])
        for picks, judge in zip(found, (own, fitted, trained(folder, data, truth, training))):
            picker = Picker(judge, replace(Limits.of_model(judge), threshold=0.0))
            picks.update({name: picker.pick(judge.read_micrograph(path, name=name)).picks
                          for name, path in zip(judged, files(folder, judged))})
    results = [evaluate(truth, without_ignored(picks, truth, folder, data.distances_px[0]), data.distances_px[0],
                        data.region)["overall"] for picks in found]
    return (name, *(f"{result['best_F1']['F1']:.3f} / {result['AP']:.3f}" for result in results))


def trained(folder, data, truth, names):
    """Model trained on the labels of some micrographs."""
    from deepem_scipion.deepem import Plan, TrainingSet, train_model

    return train_model(TrainingSet(dict(zip(names, map(Path, files(folder, names)))),
                                   {name: truth[name] for name in names}),
                       Plan(data.diameter_angst))


def left_over(model, name, folder):
    """Number of picks per micrograph that are neither at marked particles nor at picks of a model trained on them."""
    from scipy.spatial import cKDTree

    from deepem_scipion.deepem import Picker, read_coordinates

    data, names = ALL_SETS[name], micrograph_names(folder)
    truth, own = read_coordinates(folder / "boxes"), model.for_diameter(data.diameter_angst)
    pickers = Picker(own), Picker(trained(folder, data, truth, names))
    counts = []
    for name, path in zip(names, files(folder, names)):
        picks, known = (picker.pick(picker.model.read_micrograph(path, name=name)).picks.centres_xy
                        for picker in pickers)
        x0, y0, x1, y1 = data.region
        picks = picks[((picks >= (x0, y0)) & (picks < (x1, y1))).all(axis=1)]
        taken = cKDTree(np.concatenate([known, truth[name].centres_xy]))
        counts.append(int((taken.query(picks)[0] > data.distances_px[0]).sum()))
    return f"{np.mean(counts):.1f}", max(counts)


def empty_fields(model, number, others):
    """Mean and maximum number of picks on simulated fields without particles, with or without other proteins."""
    from deepem_scipion.deepem import Picker
    from deepem_scipion.deepem.simulation.fields import labelled_field, simulate_field

    picker, counts = Picker(model), []
    for index in range(number):
        field = simulate_field(np.random.default_rng([EMPTY_SEED, index]), diameter_px=model.diameter_px, empty=True,
                               others=others)
        item = labelled_field(field, model.diameter_px, model.geometry.box, f"empty{index}")
        counts.append(len(picker.pick(replace(item.micrograph, pixel_size_angst=model.working_pixel_size_angst)).picks
                          .scores))
    return f"{np.mean(counts):.2f}", max(counts), f"{np.mean(np.array(counts) == 0):.0%}"


def main():
    """Pick all sets, and write the tables."""
    from deepem_scipion.deepem import load_model
    from deepem_scipion.deepem.model.general import GENERAL_MODEL

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--models", type=Path, nargs="+", default=[GENERAL_MODEL])
    parser.add_argument("--sets", nargs="+", choices=ALL_SETS, default=list(ALL_SETS))
    parser.add_argument("--diameters", type=float, nargs="+", default=[0.0], help="shares by which they are wrong")
    parser.add_argument("--empty", type=int, default=50, help="number of empty fields")
    parser.add_argument("--labels", action="store_true", help="also what the labels of the sets would add")
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    lines = [title(), ""]
    for path in options.models:
        model = load_model(path)
        rows = [figures(model, name, options.data / name, share) for name in options.sets
                for share in options.diameters]
        lines += [f"{path.name}:", "", *table(
            ("set", "diameter", "best F1", "AP", "threshold", "F1 at it", "below best", "P", "R", "error px"), *rows)]
        if options.empty:
            lines += table(("fields without particles", "picks per field", "maximum", "without any"),
                           ("ice, carbon, gold", *empty_fields(model, options.empty, False)),
                           ("also fragments, aggregates, other proteins", *empty_fields(model, options.empty, True)))
        if options.labels:
            lines += table(("set", "general model", "comparison fitted to labels", "trained on labels"),
                           *(with_labels(model, name, options.data / name) for name in options.sets))
        if options.labels and MASKED_SET in options.sets:
            lines += table((f"what is left of {MASKED_SET}", "picks per micrograph", "maximum"),
                           ("", *left_over(model, MASKED_SET, options.data / MASKED_SET)))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "general_accuracy.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
