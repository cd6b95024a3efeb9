# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of speed.py: the scan compared with the network box by box."""

import math
import statistics
import sys

import numpy as np
from common import table
from timing import geometry_of, initial_weights, seconds, timed

# Shape of the micrograph and scan step, both in binned pixels, by name of the network.
SCANS = {"klh": ((2048, 2048), 20), "19s": ((1855, 1919), 20), "26s": ((1855, 1919), 20),
         "inflammasome": ((1855, 1919), 20), "auto": ((1024, 1024), 2)}
SAMPLE = {"klh": 64, "auto": 2048}  # boxes timed one by one; 256 for the other networks


def operations(geometry, shape, step, n_boxes):
    """Floating-point operations of all four rotations: box by box, and with shared direct convolutions."""
    plain, shared, channels = 0, 0, 1
    area, pixels = shape[0] * shape[1], step
    for kernel, pool, maps, side in zip(geometry.kernels, geometry.pools, geometry.maps, geometry.layer_sizes[::2]):
        each = 2 * kernel**2 * channels * maps
        plain += each * side**2 * n_boxes * 4
        shared += each * area * 4
        classes = pool // math.gcd(pixels, pool)
        area, pixels, channels = area * classes**2 / pool**2, pixels // math.gcd(pixels, pool), maps
    return plain, shared


def peak_flops():
    """Operations per second of a matrix product, the peak performance of the machine."""
    import tensorflow as tf

    matrix = tf.ones((4096, 4096))
    return 2 * 4096**3 / seconds(lambda: tf.linalg.matmul(matrix, matrix))


def scan(options):
    """Compare the fast scan with the network box by box, on the same random micrograph."""
    from deepem_scipion.deepem.network import Scanner, build_network, set_weights

    peak = peak_flops()
    figures = []
    for name, (shape, step) in SCANS.items():
        geometry = geometry_of(name)
        weights = initial_weights(geometry)
        pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        network = build_network(geometry)
        set_weights(network, weights)
        sample = SAMPLE.get(name, 256)
        boxes = np.lib.stride_tricks.sliding_window_view(pixels, (geometry.box,) * 2)[::step, ::step]
        rows, cols = boxes.shape[:2]
        places = np.random.default_rng(1).integers(0, (rows, cols), (sample, 2))
        batch = boxes[places[:, 0], places[:, 1], ..., np.newaxis]
        scanner = Scanner(geometry, [weights], step)
        scanner.scan(pixels)
        network(batch, training=False)
        fast, plain = [], []
        for _ in range(options.repeats):  # alternating, so that other processes affect both equally
            fast.append(timed(lambda scanner=scanner, pixels=pixels: scanner.scan(pixels)))
            plain.append(timed(lambda network=network, batch=batch: np.asarray(network(batch, training=False))))
        total = rows * cols * 4
        reference = statistics.median(plain) / sample * total
        flops = operations(geometry, shape, step, rows * cols)
        figures.append({"network": name, "shape": shape, "step": step, "boxes": rows * cols, "sample": sample,
                        "reference_s": reference, "scan_s": statistics.median(fast), "scan_s_all": fast,
                        "ratio": reference / statistics.median(fast), "reference_gflop": flops[0] / 1e9,
                        "shared_gflop": flops[1] / 1e9, "peak_gflops": peak / 1e9})
        print(name, figures[-1], file=sys.stderr, flush=True)
    rows = [("network", "micrograph", "step", "boxes", "box by box, s (boxes timed)", "scan, s", "ratio",
             "operations, G: box by box", "shared", "shared at peak performance, s")]
    rows += [(row["network"], f"{row['shape'][0]} x {row['shape'][1]}", row["step"], row["boxes"],
              f"{row['reference_s']:.0f} ({row['sample']})", f"{row['scan_s']:.2f}", f"{row['ratio']:.0f}",
              f"{row['reference_gflop']:.0f}", f"{row['shared_gflop']:.0f}",
              f"{row['shared_gflop'] / row['peak_gflops']:.2f}") for row in figures]
    return figures, [f"### Scan (matrix products reach {peak / 1e9:.0f} GFLOP/s)", "", *table(*rows)]
