# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds per training update with the fast gradient for large kernels and with that of TensorFlow, in one run.

    python benchmarks/gradient.py [--presets NAME ...] [--updates N]

Crops consist of random pixels and are as large as for the training preset `default`. Prints a table in Markdown with
the medians of all updates but the first.
"""

import argparse
import statistics
import sys
import time


def seconds_per_update(geometry, updates):
    """Median seconds of an update, and its number of crops."""
    import numpy as np

    from deepem_scipion.deepem.network.architecture import build_network
    from deepem_scipion.deepem.training.batches import MIN_BATCH, PIXELS_PER_BATCH
    from deepem_scipion.deepem.training.losses import compile_network
    from deepem_scipion.deepem.training.presets import TRAINING_PRESETS

    training_preset = TRAINING_PRESETS["default"]
    side = geometry.box + geometry.pools[0] * geometry.pools[1] * geometry.pools[2] * (training_preset.crop - 1)
    batch = max(MIN_BATCH, min(training_preset.batch, PIXELS_PER_BATCH // side**2))
    rng = np.random.default_rng(0)
    crops = rng.normal(size=(batch, side, side, 1)).astype(np.float32)
    targets = rng.integers(-1, 2, (batch, training_preset.crop, training_preset.crop, 1)).astype(np.float32)
    network = build_network(geometry, fully_convolutional=True)
    compile_network(network, training_preset, 100)
    network.train_on_batch(crops, targets)
    taken = []
    for _ in range(updates):
        began = time.perf_counter()
        network.train_on_batch(crops, targets)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken), batch


def main():
    """Time both gradients and print the table."""
    from deepem_scipion.deepem import runtime
    from deepem_scipion.deepem.network.geometry import PRESETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--updates", type=int, default=2)
    options = parser.parse_args()
    runtime.start()
    from deepem_scipion.deepem.network import layers

    large = layers.LARGE_KERNEL
    print("| preset | crops | fast gradient, s | TensorFlow's, s | ratio |\n|---|---|---|---|---|")
    for name in options.presets:
        layers.LARGE_KERNEL = large
        fast, batch = seconds_per_update(PRESETS[name], options.updates)
        layers.LARGE_KERNEL = 10**6
        plain, _ = seconds_per_update(PRESETS[name], options.updates)
        print(f"| {name} | {batch} | {fast:.2f} | {plain:.2f} | {plain / fast:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
