# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the scan with the exported graph in ONNX Runtime, on the same image with one thread.

    python benchmarks/engines.py

The scan step is that of the graph, the product of the pools. Needs the packages onnx and onnxruntime.
"""

import argparse
import time

import numpy as np
from common import title
from timing import geometry_of, initial_weights


def cpu_seconds(function):
    """Processor seconds of one call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def rates():
    """Products per nanosecond of the weighted sums, and nanoseconds of a sigmoid, in the innermost caches."""
    from deepem_scipion.deepem.network.kernels import Memory, WeightedSums
    from deepem_scipion.deepem.network.stage import positions

    memory = Memory()
    pixels, target = memory.maps("pixels", 1, 28, 2000), memory.maps("target", 6, 20, 1900)
    where, results = positions(pixels, 9, 1), target[..., :1900].size
    seconds = [min(cpu_seconds(lambda sums=sums: sums(target[None], pixels, where, 1900)) for _ in range(100))
               for sums in (WeightedSums(np.ones((81, 6)), np.zeros(6), sigmoid=sigmoid) for sigmoid in (False, True))]
    return 81 * results / seconds[0] / 1e9, (seconds[1] - seconds[0]) / results * 1e9


def main():
    """Time both, alternating, and print the smallest times."""
    import onnxruntime

    from deepem_scipion.deepem import runtime
    from deepem_scipion.deepem.network import Scanner
    from deepem_scipion.deepem.network.onnx_graph import onnx_graph

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, default=1024, help="side of the image in pixels")
    options = parser.parse_args()
    runtime.start_keras(1)
    geometry = geometry_of("auto")
    weights = initial_weights(geometry)
    pixels = np.random.default_rng(0).normal(size=(options.side, options.side)).astype(np.float32)
    one_thread = onnxruntime.SessionOptions()
    one_thread.intra_op_num_threads = one_thread.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_graph(geometry, [weights], {}).SerializeToString(), one_thread,
                                           providers=["CPUExecutionProvider"])
    scanner = Scanner(geometry, [weights], int(np.prod(geometry.pools)))
    engines = {"scan": lambda: scanner.scan(pixels),
               f"ONNX Runtime {onnxruntime.__version__}": lambda: session.run(None, {"pixels": pixels[None, None]})[0]}
    first, second = (np.squeeze(engine()) for engine in engines.values())
    times = {name: [] for name in engines}
    for _ in range(options.repeats):
        for name, engine in engines.items():
            times[name].append(cpu_seconds(engine))
    print(title(), f"scan step {scanner.step}, largest difference of scores {abs(first - second).max():.1e}", sep="\n")
    for name, found in times.items():
        print(f"{name}: {min(found):.3f} s")
    print("{:.0f} products per ns, {:.2f} ns for a sigmoid".format(*rates()))


if __name__ == "__main__":
    main()
