# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time of one call of `pick_message` in a process that stays, on a micrograph of 4096 x 4096 pixels.

    python benchmarks/message.py [--threads N]

The micrograph is a simulated one, tiled (pixels of 1 A, float32); the model is the general one. After a first call,
which compiles the scan, time and processor time of the fastest of ten calls are given, and the time with a picture.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np
from common import processor, table, title

DIAMETERS_ANGST = (120, 200, 320)
SIDE_PX, CALLS = 4096, 10


def micrograph(path, diameter_angst):
    """Write a micrograph of simulated particles in noise, a quarter of it repeated."""
    from deepem_scipion.deepem.simulation import (
        Scene,
        klh_like_volume,
        project,
        random_orientations,
        simulate_micrograph,
    )

    rng = np.random.default_rng(0)
    scene = Scene((SIDE_PX // 2, SIDE_PX // 2), 1.0, diameter_angst, n_particles=15, snr=0.05, defocus_angst=None)
    cylinder = klh_like_volume(diameter_angst / 50, 0.75 * diameter_angst, 0.66 * diameter_angst)
    views = project(cylinder, random_orientations(12, rng), 1.0)
    pixels, _ = simulate_micrograph(scene, views, rng)
    with mrcfile.new(path, np.tile(pixels, (2, 2))) as file:
        file.voxel_size = 1.0


def fastest(picker, path, picture=None):
    """Seconds, and processor time in seconds, of the fastest of some calls."""
    from deepem_scipion.deepem import pick_message

    found = []
    for _ in range(CALLS):
        began, used = time.perf_counter(), time.process_time()
        pick_message(picker, path, picture=picture)
        found.append((time.perf_counter() - began, time.process_time() - used))
    return [f"{min(each):.2f}" for each in zip(*found)]


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    from deepem_scipion.deepem import Picker, general_model, pick_message, runtime

    runtime.start(options.threads)
    rows = [("diameter, A", "picks", "s per call", "processor time of a call, s", "s with a picture")]
    with tempfile.TemporaryDirectory() as work:
        for diameter in DIAMETERS_ANGST:
            path = Path(work) / f"{diameter}.mrc"
            micrograph(path, diameter)
            picker = Picker(general_model(diameter))
            found = pick_message(picker, path)
            if found["status"] != "ok":
                sys.exit(found["reason"])
            seconds, used = fastest(picker, path)
            rows.append((diameter, len(found["picks"]), seconds, used, fastest(picker, path, Path(work) / "a.jpg")[0]))
    print("\n".join([f"{title()}; {processor()}, {options.threads} threads", "", *table(*rows)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
