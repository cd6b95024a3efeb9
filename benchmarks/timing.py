# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the benchmarks of speed: networks with untrained weights, and times of calls and programs."""

import statistics
import subprocess
import sys
import time
from typing import NamedTuple


def geometry_of(name):
    """Geometry of a preset, or the automatic geometry."""
    from deepem_scipion.deepem.network import PRESETS, auto_geometry
    from deepem_scipion.deepem.network.geometry import AUTO_DIAMETER_PX

    return PRESETS.get(name) or auto_geometry(AUTO_DIAMETER_PX)


def initial_weights(geometry):
    """Weights of an untrained network; times do not depend on them."""
    from deepem_scipion.deepem.network import build_network, get_weights
    from deepem_scipion.deepem.network.architecture import scale_initial_weights

    network = build_network(geometry)
    scale_initial_weights(network)
    return get_weights(network, geometry)


def seconds(function, repeats=5):
    """Median seconds of several calls after a warm-up call."""
    function()
    return statistics.median(timed(function) for _ in range(repeats))


def timed(function):
    """Seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


class Run(NamedTuple):
    """Cost of a program: seconds, peak memory in MiB, and seconds of all cores together."""

    seconds: float
    peak_mib: float
    cpu_s: float


def run(command, cwd=None):
    """Run a program and return a `Run`."""
    code = ("import resource, subprocess, sys, time; t = time.perf_counter(); "
            "done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
            "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
            "sys.exit(done.stderr[-2000:]) if done.returncode else "
            "print(time.perf_counter() - t, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)")
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr}")
    return Run(*map(float, done.stdout.split()))
