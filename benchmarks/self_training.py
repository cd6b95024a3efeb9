# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the decision to keep a self-trained model or the general one is right, on annotated micrographs.

    python benchmarks/self_training.py [--sets NAME ...] [--seed N] [--data FOLDER]

One round of self-training on all micrographs of a set, without their annotation. Both models are then compared as
`deepem train` does it, which does not know the annotation either, and by the annotation. The script prints a table in
Markdown, and writes it to benchmarks/results/self_training.md.
"""

import argparse
import sys
from dataclasses import replace

from common import RESULTS, add_data_option, has_data, table, title
from general_accuracy import ALL_SETS, picks_of, without_ignored


def trained(start, data, seed):
    """Model after one round of self-training."""
    from deepem_scipion.deepem.training.plan import Plan
    from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
    from deepem_scipion.deepem.training.teacher import with_teacher
    from deepem_scipion.deepem.training.train import train_model

    return train_model(with_teacher(data, start), Plan(start.diameter_angst, seed=seed, start=start,
                                                       epochs=TRAINING_PRESETS["default"].general_epochs))


def accuracy(model, folder, data):
    """Best F1, average precision, and F1 at the threshold of a model."""
    from deepem_scipion.deepem import evaluate, read_coordinates

    truth = read_coordinates(folder / "boxes")
    picks = without_ignored(picks_of(model, folder), truth, folder, data.distances_px[0])
    found = evaluate(truth, picks, data.distances_px[0], data.region, model.threshold)["overall"]
    return [f"{value:.3f}" for value in (found["best_F1"]["F1"], found["AP"], found["F1"])]


def main():
    """Train, compare and evaluate, and write the table."""
    from deepem_scipion.deepem import find_micrographs, general_model, runtime
    from deepem_scipion.deepem.training.drift import compare
    from deepem_scipion.deepem.training.training_set import TrainingSet

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="+", choices=ALL_SETS, default=list(ALL_SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    runtime.start(options.threads)
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = [("set", "common picks", "gain, standard errors", "kept", "general: best F1", "AP", "F1 at its threshold",
             "self-trained: best F1", "AP", "F1 at its threshold")]
    for name in options.sets:
        data, folder = ALL_SETS[name], options.data / name
        micrographs = TrainingSet.unmarked(find_micrographs([str(folder / data.images)]))
        general = general_model(data.diameter_angst)
        model = trained(general, micrographs, options.seed)
        found = compare(general, model, micrographs, None)
        kept = "general" if found.refusal() else "self-trained"
        rows.append((name, f"{found.share:.0%}", f"{found.gain:+.1f}", kept, *accuracy(general, folder, data),
                     *accuracy(replace(model, threshold=found.threshold), folder, data)))
        text = "\n".join([title(), "", *table(*rows)])
        (RESULTS / "self_training.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
