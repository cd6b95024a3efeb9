# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times that the review window of a picking run takes to open and to respond with many micrographs.

    python benchmarks/review.py [--micrographs 1000] [--candidates 300]

Needs a display; on a machine without one: xvfb-run python benchmarks/review.py. Candidates are simulated.
"""

import argparse
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np
from pyworkflow import Config

SIDE_PX, DIAMETER_PX, PIXEL_ANGST = 4096, 160, 1.0


def main():
    """Simulate a picking run and print the times of its window."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micrographs", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=300, help="candidates in each micrograph")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), options.micrographs, options.candidates)
        measure(folder)


def write_run(folder, n_micrographs, n_candidates):
    """Write the results of a picking run, and one micrograph for all of them."""
    from deepem_scipion.deepem.picking import Limits, MicrographResult, PickingResults, RunSettings, select

    rng, results, micrographs = np.random.default_rng(0), PickingResults(folder), {}
    image, limits = folder / "micrograph.mrc", Limits(0.5, DIAMETER_PX / 2 * PIXEL_ANGST, (0.8, 1.2))
    with mrcfile.new(image, rng.normal(size=(SIDE_PX, SIDE_PX)).astype(np.float32)) as file:
        file.voxel_size = PIXEL_ANGST
    results.make()
    for name in (f"mic_{number:05d}" for number in range(n_micrographs)):
        candidates = random_candidates(rng, n_candidates)
        reasons = select(candidates, limits, PIXEL_ANGST)
        results.write_micrograph(name, candidates, reasons, DIAMETER_PX)
        micrographs[name] = MicrographResult.of(str(image), candidates, reasons)
    results.write_summary(RunSettings(limits, 4, 4, 40, 6.0, DIAMETER_PX * PIXEL_ANGST), micrographs)


def random_candidates(rng, number):
    """Candidates about as dense as the local maxima of a score map."""
    from deepem_scipion.deepem.picking import Candidates

    cells = int(np.ceil(np.sqrt(2 * number)))
    places = rng.permutation(cells**2)[:number]
    centres_xy = (np.stack([places % cells, places // cells], axis=1) + rng.uniform(0.2, 0.8, (number, 2)))
    centres_xy *= SIDE_PX / cells
    return Candidates(centres_xy, rng.beta(0.6, 0.9, number), rng.normal(1, 0.1, number),
                      np.minimum(centres_xy, SIDE_PX - centres_xy).min(axis=1))


def measure(folder):
    """Open the window, move the sliders, and print the times."""
    Config.setDomain("pwem")
    from deepem_scipion.viewers.review_window import ReviewWindow

    began = time.perf_counter()
    window = ReviewWindow("Benchmark", folder, {}, PIXEL_ANGST, DIAMETER_PX * PIXEL_ANGST, 40)
    window.root.geometry("1400x880+0+0")
    window.root.deiconify()
    window.root.update()
    print(f"window with the list: {time.perf_counter() - began:.2f} s")
    wait(window, lambda: window.review is not None)
    print(f"picks of all micrographs: {time.perf_counter() - began:.2f} s, {len(window.reasons)} candidates")
    wait(window, lambda: window.canvas.find_all())
    print(f"all, with the first micrograph: {time.perf_counter() - began:.2f} s")
    sliders = {"threshold": (0.3, 0.4, 0.6, 0.2), "distance": (60, 120, 200, 90), "low": (0.7, 0.9, 0.8)}
    for key, values in sliders.items():
        times = []
        for value in values:
            entries = window.entries  # replaced by those for the new limits
            began = time.perf_counter()
            window.panel.set(key, value)
            wait(window, lambda entries=entries: window.entries is not entries)
            times.append(time.perf_counter() - began)
        print(f"{key}: {' '.join(f'{1000 * each:.0f}' for each in times)} ms")
    began = time.perf_counter()
    window.table.sort("picks")
    window.root.update()
    print(f"sorted: {1000 * (time.perf_counter() - began):.0f} ms")
    window.root.destroy()


def wait(window, condition):
    """Let the window work until a condition holds and everything is drawn."""
    while not condition():
        window.root.update()
        time.sleep(0.001)
    window.root.update()


if __name__ == "__main__":
    main()
