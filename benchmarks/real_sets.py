# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What annotated micrographs would add to the general model, which is trained on simulations alone.

    python benchmarks/real_sets.py [--maps FOLDER] [--fields N] [--epochs N] [--sets NAME ...] [--seed N] [--threads N]
                                   [--data FOLDER]

The network of the package is trained further on simulated fields, as general_model.py makes them, together with the
labels of all sets but one, and picks that one. The comparison of candidates and the threshold are made as there, on
simulated fields. For comparison the same is done without any labels. Every fifth annotated micrograph belongs to those
on which epochs are compared. Where a set is annotated only within a region, nothing outside it is background.

The script prints a table in Markdown, and writes it to benchmarks/results/real_sets.md.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import RESULTS, add_data_option, files, has_data, micrograph_names, table, title
from general_accuracy import ALL_SETS, NOT_COUNTED, figures
from general_model import DIAMETER_PX, make_fields, plan_of, say, trained

HELD_OUT_EVERY = 5


def labelled(model, name, folder):
    """All micrographs of a set with their labels, at the scale of the model."""
    from deepem_scipion.deepem import read_coordinates
    from deepem_scipion.deepem.training.labels import LabelledMicrograph

    data, names = ALL_SETS[name], micrograph_names(folder)
    own = model.for_diameter(data.diameter_angst)
    truth = read_coordinates(folder / "boxes")
    ignored = [read_coordinates(folder / kind) for kind in NOT_COUNTED if (folder / kind).is_dir()]
    for micrograph_name, path in zip(names, files(folder, names)):
        micrograph = replace(own.read_micrograph(path, name=f"{name}-{micrograph_name}"), pixel_size_angst=1.0)
        doubtful = [places[micrograph_name].centres_xy for places in ignored if micrograph_name in places]
        yield LabelledMicrograph(micrograph, micrograph.to_binned_rc(truth[micrograph_name].centres_xy),
                                 doubtful_rc=micrograph.to_binned_rc(np.concatenate([np.empty((0, 2)), *doubtful])),
                                 masked=outside(micrograph, data.region))


def outside(micrograph, region):
    """Binned pixels outside the annotated region; None if all of the micrograph is annotated."""
    if region is None:
        return None
    (top, left), (bottom, right) = np.rint(micrograph.to_binned_rc(np.reshape(region, (2, 2)))).astype(int)
    found = np.ones(micrograph.pixels.shape, bool)
    found[top:bottom, left:right] = False
    return found


def main():
    """Train without labels and with those of all sets but one, and write the table."""
    from deepem_scipion.deepem import load_model, runtime
    from deepem_scipion.deepem.model.general import GENERAL_MODEL
    from deepem_scipion.deepem.model.record import TrainingRecord
    from deepem_scipion.deepem.training.checkpoint import Checkpoint
    from deepem_scipion.deepem.training.plan import choose_geometry

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--maps", type=Path, metavar="FOLDER", help="density maps, as for general_model.py")
    parser.add_argument("--fields", type=int, default=400, help="number of simulated fields to train on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--sets", nargs="+", choices=ALL_SETS, default=list(ALL_SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="default: all")
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    runtime.start(options.threads)
    shipped = load_model(GENERAL_MODEL)
    start = replace(shipped.for_diameter(DIAMETER_PX), agreement=None)
    plan = plan_of(options, start=start)
    setup = choose_geometry(plan, 1.0)
    fields = make_fields(options, sorted(options.maps.glob("*.mrc")) if options.maps else [], setup.geometry.box)
    real = {name: list(labelled(shipped, name, options.data / name)) for name in options.sets}

    def further(without):
        """Model trained further on the fields and on all sets but one; without labels if that is None."""
        items = [item for name in options.sets for item in real[name] if without not in (None, name)]
        training = [*fields[0], *(item for number, item in enumerate(items) if number % HELD_OUT_EVERY)]
        say(f"without {without or 'labels'}: {sum(len(item.particles_rc) for item in training)} particles")
        record = TrainingRecord("dark", None, plan.training_preset, plan.seed)
        model = trained([training, [*fields[1], *items[::HELD_OUT_EVERY]], *fields[2:]], plan, setup, record,
                        Checkpoint())
        return replace(model, diameter_angst=DIAMETER_PX)

    simulated = further(None)
    rows = []
    for name in options.sets:
        for title_, model in (("general model", shipped), ("further, simulations alone", simulated),
                              ("further, with the other sets", further(name))):
            found = figures(model, name, options.data / name, 0.0)
            rows.append((name, title_, *found[2:6]))
            say(" ".join(rows[-1]))
    lines = [title(), "", *table(("set", "training", "best F1", "AP", "threshold", "F1 at it"), *rows)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "real_sets.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
