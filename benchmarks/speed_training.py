# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of speed.py: updates of the training presets, and whole trainings."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from common import PROGRAM, SETS, table
from timing import geometry_of, run, seconds


def training(options):
    """Seconds per epoch of both training presets, and of `paper` with plain Keras layers and `fit`."""
    import keras

    from deepem_scipion.deepem.network import build_network
    from deepem_scipion.deepem.training import TRAINING_PRESETS
    from deepem_scipion.deepem.training.batches import MIN_BATCH, PIXELS_PER_BATCH
    from deepem_scipion.deepem.training.losses import compile_network, half_mean_squared_error

    rng = np.random.default_rng(0)
    figures = []
    for name, n_boxes in (("klh", 1600), ("19s", 1600), ("26s", 1600), ("inflammasome", 1600), ("auto", 10000)):
        geometry, paper, default = geometry_of(name), TRAINING_PRESETS["paper"], TRAINING_PRESETS["default"]
        updates = -(-4 * n_boxes // paper.batch)
        timed_updates = {"klh": 1, "auto": 100}.get(name, 5)
        pixels = rng.normal(size=(paper.batch * timed_updates, geometry.box, geometry.box, 1)).astype(np.float32)
        targets = rng.integers(0, 2, (len(pixels), 1)).astype(np.float32)
        plain = keras.Sequential([keras.Input((geometry.box, geometry.box, 1))])
        for kernel, pool, maps in zip(geometry.kernels, geometry.pools, geometry.maps):
            plain.add(keras.layers.Conv2D(maps, kernel, activation="sigmoid"))
            plain.add(keras.layers.AveragePooling2D(pool))
        plain.add(keras.layers.Flatten())
        plain.add(keras.layers.Dense(1, activation="sigmoid"))
        plain.compile(keras.optimizers.SGD(1.0), half_mean_squared_error)
        paper_network = build_network(geometry, fully_convolutional=True)
        compile_network(paper_network, paper, 100)

        def epoch(network=paper_network, pixels=pixels, targets=targets, batch=paper.batch):
            for first in range(0, len(pixels), batch):
                network.train_on_batch(pixels[first:first + batch], targets[first:first + batch, :, None, None])

        crop_network = build_network(geometry, fully_convolutional=True, batch_normalised=default.normalised)
        compile_network(crop_network, default, 100)
        side = geometry.box + int(np.prod(geometry.pools)) * (default.crop - 1)
        batch = max(MIN_BATCH, min(default.batch, PIXELS_PER_BATCH // side**2))
        crops = rng.normal(size=(batch, side, side, 1)).astype(np.float32)
        labels = rng.integers(-1, 2, (batch, default.crop, default.crop, 1)).astype(np.float32)

        def epoch_of_crops(network=crop_network, crops=crops, labels=labels, n=timed_updates):
            for _ in range(n):
                network.train_on_batch(crops, labels)

        repeats = 1 if name == "klh" else 3
        with_plain = seconds(lambda plain=plain, x=pixels, y=targets: plain.fit(x, y, batch_size=50, verbose=0),
                             repeats)
        scale = updates / timed_updates
        figures.append({"network": name, "boxes": 4 * n_boxes, "updates_timed": timed_updates,
                        "keras_s": with_plain * scale, "paper_s": seconds(epoch, repeats) * scale,
                        "default_s": seconds(epoch_of_crops, repeats) / timed_updates * default.updates_per_epoch,
                        "default_boxes": batch * default.crop**2 * default.updates_per_epoch})
        print(figures[-1], file=sys.stderr, flush=True)
    rows = [("network", "boxes", "plain Keras, s", "preset `paper`, s", "ratio", "preset `default`, s (boxes)",
             "boxes per second, `default` / plain Keras")]
    rows += [(row["network"], row["boxes"], f"{row['keras_s']:.0f}", f"{row['paper_s']:.1f}",
              f"{row['keras_s'] / row['paper_s']:.1f}", f"{row['default_s']:.1f} ({row['default_boxes']})",
              f"{row['default_boxes'] / row['default_s'] / (row['boxes'] / row['keras_s']):.1f}")
             for row in figures]
    return figures, ["### Training: seconds per epoch", "", *table(*rows)]


def train(options):
    """Time whole trainings: the default one on EMPIAR-10017, and fine-tuning with 50 particles on two micrographs."""
    folder, data = options.data / "empiar10017", SETS["empiar10017"]
    if not folder.is_dir():
        return [], [f"`train` skipped: no {folder}", ""]
    micrographs = sorted((folder / "micrographs").glob("*.mrc"))
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        for path in micrographs[:2]:
            lines = (folder / "boxes" / f"{path.stem}.box").read_text().splitlines(keepends=True)
            (work / f"{path.stem}.box").write_text("".join(lines[:25]))

        def program(output, paths, boxes, *more):
            return run([*PROGRAM, "train", "--micrographs", *paths, "--coordinates", boxes, "--diameter",
                        data.diameter_angst, "--output", work / output, *more])

        figures = [{"training": name, "wall_s": found.seconds, "cpu_s": found.cpu_s, "peak_mib": found.peak_mib}
                   for name, found in (
                       ("default, 8 micrographs", program("a.deepem", micrographs[:data.train], folder / "boxes")),
                       ("fine-tuning, 50 particles", program("b.deepem", micrographs[:2], work, "--continue-from",
                                                             work / "a.deepem")))]
    rows = [("training", "s", "s of all cores", "peak memory, MiB")]
    rows += [(row["training"], f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['peak_mib']:.0f}")
             for row in figures]
    return figures, ["### Whole trainings, EMPIAR-10017", "", *table(*rows)]
