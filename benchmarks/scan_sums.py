# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the time of a scan goes: the weighted sums of each kind, their products and products per nanosecond.

    python benchmarks/scan_sums.py [--network 19s]

One thread, processor time, random pixels and weights; the fastest of some scans.
"""

import argparse
import time
from collections import defaultdict
from unittest import mock

import numpy as np
from common import table, title
from engines import rates
from timing import geometry_of, initial_weights

SHAPES, STEPS = {"auto": (1024, 1024), "klh": (2048, 2048)}, {"auto": 2}
REPEATS = 5


def measured(scan):
    """Seconds, products and results of one scan by kind of sums: results at a time, and numbers added up."""
    from deepem_scipion.deepem.network.kernels import WeightedSums

    found, call = defaultdict(lambda: np.zeros(3)), WeightedSums.__call__

    def timed(sums, targets, sources, offsets, columns, row_stride=1):
        began = time.process_time()
        call(sums, targets, sources, offsets, columns, row_stride)
        maps = targets.shape[1]
        results = len(targets) * maps * targets.shape[2] * columns
        numbers = "up to 9" if len(offsets) <= 9 else "10 to 60" if len(offsets) <= 60 else "more"
        found[maps, numbers] += time.process_time() - began, results * len(offsets), results

    with mock.patch.object(WeightedSums, "__call__", timed):
        scan()
    return found


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="19s", help="auto, klh, 19s, 26s or inflammasome")
    options = parser.parse_args()
    from deepem_scipion.deepem import runtime
    from deepem_scipion.deepem.network import Scanner

    runtime.start(1)
    geometry = geometry_of(options.network)
    scanner = Scanner(geometry, [initial_weights(geometry)], STEPS.get(options.network, 20))
    pixels = np.random.default_rng(0).normal(size=SHAPES.get(options.network, (1855, 1919))).astype(np.float32)
    scanner.scan(pixels)
    runs = [measured(lambda: scanner.scan(pixels)) for _ in range(REPEATS)]
    best = min(runs, key=lambda found: sum(each[0] for each in found.values()))
    rows = [("results at a time", "numbers added up", "s", "products, G", "products per ns", "results, millions")]
    for (maps, numbers), (seconds, products, results) in sorted(best.items(), key=lambda item: -item[1][0]):
        rows.append((maps, numbers, f"{seconds:.3f}", f"{products / 1e9:.2f}", f"{products / seconds / 1e9:.0f}",
                     f"{results / 1e6:.0f}"))
    print(title(), "", *table(*rows), "{:.0f} products per ns in the innermost cache, {:.2f} ns for a sigmoid".format(
        *rates()), sep="\n")


if __name__ == "__main__":
    main()
