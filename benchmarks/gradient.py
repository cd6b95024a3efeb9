# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds per training update with the fast gradient for large kernels and with that of TensorFlow.

    python benchmarks/gradient.py [--presets NAME ...] [--updates N]

Crops consist of random pixels and are as large as those of the training preset `default`. The script prints a table in
Markdown with the medians of all updates after the first.
"""

import argparse
import statistics
import sys
import time

from common import table


def seconds_per_update(geometry, updates):
    """Median seconds of an update, and number of crops in its batch."""
    import numpy as np

    from deepem_scipion.deepem.network import build_network
    from deepem_scipion.deepem.training import TRAINING_PRESETS
    from deepem_scipion.deepem.training.batches import MIN_BATCH, PIXELS_PER_BATCH
    from deepem_scipion.deepem.training.losses import compile_network

    preset = TRAINING_PRESETS["default"]
    side = geometry.box + int(np.prod(geometry.pools)) * (preset.crop - 1)
    batch = max(MIN_BATCH, min(preset.batch, PIXELS_PER_BATCH // side**2))
    rng = np.random.default_rng(0)
    crops = rng.normal(size=(batch, side, side, 1)).astype(np.float32)
    targets = rng.integers(-1, 2, (batch, preset.crop, preset.crop, 1)).astype(np.float32)
    network = build_network(geometry, fully_convolutional=True)
    compile_network(network, preset, 100)
    network.train_on_batch(crops, targets)
    times = []
    for _ in range(updates):
        began = time.perf_counter()
        network.train_on_batch(crops, targets)
        times.append(time.perf_counter() - began)
    return statistics.median(times), batch


def main():
    """Time both gradients and print the table."""
    from deepem_scipion.deepem import runtime
    from deepem_scipion.deepem.network import PRESETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--updates", type=int, default=2)
    options = parser.parse_args()
    runtime.start_keras()
    from deepem_scipion.deepem.network import layers

    large = layers.LARGE_KERNEL
    rows = [("preset", "crops", "fast gradient, s", "TensorFlow's gradient, s", "ratio")]
    for name in options.presets:
        layers.LARGE_KERNEL = large
        fast, batch = seconds_per_update(PRESETS[name], options.updates)
        layers.LARGE_KERNEL = 10**6  # larger than any kernel: TensorFlow's gradient
        plain, _ = seconds_per_update(PRESETS[name], options.updates)
        rows.append((name, batch, f"{fast:.2f}", f"{plain:.2f}", f"{plain / fast:.0f}"))
    print("\n".join(table(*rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
