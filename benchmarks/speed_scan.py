# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of speed.py: the convolutions of a scan, and the scan compared with the network box by box."""

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


def convolutions(options):
    """Time the convolutions of all layers, direct and by Fourier transforms, and compare with the estimates."""
    import tensorflow as tf

    from deepem_scipion.deepem import runtime
    from deepem_scipion.deepem.network import convolution

    figures = []
    for name, (shape, _) in SCANS.items():
        geometry, side, channels = geometry_of(name), min(shape), 1
        for number, (kernel, pool, maps) in enumerate(zip(geometry.kernels, geometry.pools, geometry.maps), 1):
            maps *= 4 if number == 1 else 1
            rng = np.random.default_rng(0)
            layer = convolution.Convolution(rng.normal(size=(kernel, kernel, channels, maps)), np.zeros(maps))
            out = min(400, side - kernel + 1) // 4 * 4
            image = rng.normal(size=(out + kernel - 1, out + kernel - 1, channels)).astype(np.float32)
            tensor = tf.constant(image[np.newaxis])
            direct = runtime.compiled(
                lambda x, c=layer: convolution.direct(x, c.shifted_kernels, c.bias, c.columns),
                (1, None, None, channels))
            threads = runtime.threads()

            def fourier(tile, layer=layer, image=image, threads=threads):
                list(runtime.pool().map(lambda _: layer.by_fourier(image, tile), range(threads)))

            measured = {"direct": seconds(lambda direct=direct, x=tensor: direct(x), 3) * threads}
            estimated = {"direct": convolution.direct_ns(image.shape, layer.kernel.shape) / 1e9}
            for tile in (size for size in convolution.TILES if kernel * 1.5 <= size <= 256):
                measured[str(tile)] = seconds(lambda tile=tile: fourier(tile), 3)
                estimated[str(tile)] = convolution.fourier_ns(image.shape, layer.kernel.shape, tile) / 1e9
            figures.append({"network": name, "layer": number, "kernel": kernel, "channels": channels, "maps": maps,
                            "output": out, "measured_core_s": measured, "estimated_core_s": estimated})
            side, channels = (side - kernel + 1) // pool, geometry.maps[number - 1]
    rows = [("network", "layer", "kernel", "channels, maps", "direct, ms (estimated)",
             "best by Fourier transform, ms (estimated)", "tile", "selected")]
    for row in figures:
        measured, estimated = row["measured_core_s"], row["estimated_core_s"]
        tiles = {tile: value for tile, value in measured.items() if tile != "direct"}
        best = min(tiles, key=tiles.get)
        selected = min(estimated, key=estimated.get)
        rows.append((row["network"], row["layer"], row["kernel"], f"{row['channels']}, {row['maps']}",
                     f"{1e3 * measured['direct']:.1f} ({1e3 * estimated['direct']:.1f})",
                     f"{1e3 * tiles[best]:.1f} ({1e3 * estimated[best]:.1f})", best, selected))
    return figures, ["### Convolutions: milliseconds of one core for blocks of 400 x 400", "", *table(*rows)]


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
