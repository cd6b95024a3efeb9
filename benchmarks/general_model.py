# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the general model of the package from simulated micrographs alone.

    python benchmarks/general_model.py [--output FILE] [--maps FOLDER] [--fields N] [--epochs N] [--network N N N]
                                       [--seed N] [--threads N]

Fields of view are simulated under random conditions (`simulation/fields.py`), a share of them with particles from the
density maps in a folder, the others with particles of random shape. A network is trained on most of them with the
default training preset in larger batches; on others its candidates are compared with each other
(`picking/agreement.py`), and on the rest precision and recall are measured. An interrupted run resumes after its last
complete epoch. Another seed gives a model that differs as much as chance makes it differ. The card names
the commit of the code, and the checksum of the maps.
"""

import argparse
import functools
import hashlib
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import RESULTS, commit

# Pixels per diameter, as wide as the automatic geometry makes a particle.
DIAMETER_PX = 27.0
# Share of the fields with particles from density maps, if there are any.
MAPS_SHARE = 0.4
# Fields on which epochs are compared, candidates are compared, and precision and recall are measured.
VALIDATION, AGREEMENT, MEASURED = 20, 900, 150
# Scores are probabilities on simulated fields, where F1 is nearly the same at all thresholds from 0.3 to 0.5. On real
# micrographs false positives are more frequent.
THRESHOLD = 0.45
# Crops in a batch, and those on which epochs are compared: with few, chance chooses an early epoch.
BATCH, SAMPLE = 16, 1536
# The filter of local standard deviations keeps this share of the simulated particles, with a margin on either side.
KEPT, MARGIN = 0.99, 0.1


@functools.cache
def volume(path):
    """Density map of a file."""
    from deepem_scipion.deepem.simulation.volumes import read_volume

    return read_volume(path)


def make_field(seed, index, maps, box_px, n_full):
    """Labelled field with a number: of a seed, with density maps as a tuple of paths, for a network's box.

    The first `n_full` fields, which train the network, have much clutter. Of the others, which show how often a
    candidate is a particle, half have no more clutter than particles.
    """
    from deepem_scipion.deepem.simulation.fields import labelled_field, simulate_field
    from deepem_scipion.deepem.simulation.shapes import shape_of_volume

    rng = np.random.default_rng([seed, index])
    shape = None
    if maps and rng.random() < MAPS_SHARE:
        shape = shape_of_volume(volume(maps[rng.integers(len(maps))]), rng)
    field = simulate_field(rng, shape, diameter_px=DIAMETER_PX, few_others=index >= n_full and index % 2 == 0)
    return labelled_field(field, DIAMETER_PX, box_px, f"field{index:05d}")


def make_fields(options, maps, box_px):
    """Fields for the four purposes, simulated by several processes."""
    numbers = options.fields, VALIDATION, AGREEMENT, MEASURED
    make = functools.partial(make_field, options.seed, maps=tuple(maps), box_px=box_px, n_full=sum(numbers[:2]))
    with ProcessPoolExecutor(options.threads or os.cpu_count(), get_context("spawn")) as pool:
        found = iter(list(pool.map(make, range(sum(numbers)), chunksize=8)))
    return [[next(found) for _ in range(number)] for number in numbers]


def checksum(paths):
    """Checksum of files and their names, and their number."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + path.read_bytes())
    return f"{len(paths)} density maps, SHA-256 {digest.hexdigest()[:16]}" if paths else "random shapes alone"


def local_std_range(labelled, box_px):
    """Range of the local standard deviations of simulated particles."""
    from deepem_scipion.deepem.training.boxes import collect_boxes

    boxes = collect_boxes(labelled, box_px, DIAMETER_PX, 0.0, 0, np.random.default_rng(0))
    low, high = np.quantile(boxes.local_stds()[boxes.targets == 1], [(1 - KEPT) / 2, (1 + KEPT) / 2])
    return float((1 - MARGIN) * low), float((1 + MARGIN) * high)


def train(options, maps):
    """Train the network, fit the comparison of candidates and measure precision and recall."""
    from deepem_scipion.deepem import runtime
    from deepem_scipion.deepem.model.record import TrainingRecord
    from deepem_scipion.deepem.training.checkpoint import Checkpoint
    from deepem_scipion.deepem.training.plan import choose_geometry

    runtime.start(options.threads)
    plan = plan_of(options, maps=tuple(options.network))
    setup = choose_geometry(plan, 1.0)
    fields = make_fields(options, maps, setup.geometry.box)
    say(f"{sum(len(item.particles_rc) for item in fields[0])} particles on {len(fields[0])} fields")
    record = TrainingRecord("dark", None, plan.training_preset, plan.seed, versions=runtime.versions(), origin={
        "by": f"benchmarks/general_model.py at commit {commit()}", "of": f"simulated fields, {checksum(maps)}"})
    checkpoint = Checkpoint(options.work / f"{options.output.stem}.checkpoint",
                            {"options": {name: str(value) for name, value in vars(options).items()}, **record.origin})
    model = trained(fields, plan, setup, record, checkpoint)
    found = model.record
    return replace(model, record=replace(found, training=replace(found.training, names=[]),
                                         validation=replace(found.validation, names=[],
                                                                    on="simulated validation micrographs")))


def plan_of(options, **settings):
    """Plan of the training, in which pixels take the place of angstrom."""
    from deepem_scipion.deepem.training import batches
    from deepem_scipion.deepem.training.plan import Plan
    from deepem_scipion.deepem.training.presets import TRAINING_PRESETS

    batches.SAMPLE_CROPS = SAMPLE
    TRAINING_PRESETS["general"] = replace(TRAINING_PRESETS["default"], batch=BATCH)
    return Plan(DIAMETER_PX, working_pixel_size_angst=1.0, epochs=options.epochs, seed=options.seed,
                training_preset="general", **settings)


def trained(fields, plan, setup, record, checkpoint):
    """Model made from the fields for the four purposes."""
    from deepem_scipion.deepem.training.agreement_fit import with_agreement
    from deepem_scipion.deepem.training.calibration import at_threshold, with_threshold
    from deepem_scipion.deepem.training.rounds import RoundTrainer
    from deepem_scipion.deepem.training.split import Split

    training, validation, compared, measured = fields
    trainer = RoundTrainer(plan, setup, local_std_range(training, setup.geometry.box), 0.0, record, show, checkpoint)
    model = trainer.train([Split(training, validation)])
    return at_threshold(with_threshold(with_agreement(model, compared, plan.seed), [measured], 0.0, kept_out=True),
                        THRESHOLD)


def show(epoch):
    """Print the figures of an epoch."""
    say("epoch {epoch}/{epochs}: loss {loss:.4f}, validation loss {validation_loss:.4f}, average precision of boxes "
        "{validation_average_precision:.3f}; {seconds_left:.0f} s left".format(**epoch))


def say(text):
    """Print a line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main():
    """Make the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "general" / "general.deepem")
    parser.add_argument("--maps", type=Path, metavar="FOLDER", help="density maps (*.mrc), protein positive")
    parser.add_argument("--fields", type=int, default=800, help="number of fields to train on")
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--network", type=int, nargs=3, default=(8, 16, 16), help="feature maps of the three stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="default: all")
    options = parser.parse_args()
    options.work = RESULTS / "general"
    options.work.mkdir(parents=True, exist_ok=True)
    maps = sorted(options.maps.glob("*.mrc")) if options.maps else []
    if options.maps and not maps:
        parser.error(f"--maps {options.maps}: there are no .mrc files")
    from deepem_scipion.deepem import save_model

    began = time.process_time()
    model = train(options, maps)
    save_model(options.output, model)
    found = model.record.validation
    say(f"{options.output}: threshold {model.threshold:.3f}; on simulated fields best F1 {found.best_F1:.3f}, AP "
        f"{found.AP:.3f}; {time.process_time() - began:.0f} s of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
