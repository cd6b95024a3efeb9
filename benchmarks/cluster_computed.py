# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part `cluster` of cluster.py: a run with many micrographs, computed from the figures of the other parts."""

import heapq
import sys

import numpy as np
from common import table

REGISTERED = 100  # micrographs registered at a time
SLEEP_S, CHECK_S = 3, 5  # of Scipion: pause when no step can start, time between checks


def noticed(seconds):
    """Time when Scipion notices the end of a job, and number of its queries: 0, 3, 9, 18 ... s after submission."""
    when, calls = 0, 1
    while when < seconds:
        when += min(SLEEP_S * calls, 300)
        calls += 1
    return when, calls


def simulate(number, batch, slots, job_s, cost, queue):
    """Simulate the main thread of the protocol in a run of many batches.

    Parameters
    ----------
    number, batch : int
        Numbers of micrographs in total and in a batch.
    slots : int
        Batches at a time.
    job_s : float
        Seconds from the submission of a batch until it is picked.
    cost : dict
        Seconds of the thread for each action, see `costs`.
    queue : bool
        Whether each batch is a job of a queue, whose state is queried at intervals.

    Returns
    -------
    tuple of float
        Seconds until the end, and seconds in which the thread was busy.
    """
    waiting, running, free = -(-number // batch), [], slots
    now = busy = cost["begin"]
    checked, picked, stored = now, 0, 0
    while waiting or running:
        began = now
        while running and running[0] <= now:
            heapq.heappop(running)
            free, picked, now = free + 1, min(number, picked + batch), now + cost["update"]
        now += cost["search"]
        launched = min(free, waiting)
        for _ in range(launched):
            now += cost["update"]
            heapq.heappush(running, now + (noticed(job_s)[0] if queue else job_s))
        free, waiting = free - launched, waiting - launched
        if now - checked > CHECK_S:
            checked, stored, now = now, picked, now + cost["check"] + cost["register"] * (picked - stored)
        busy += now - began
        if not launched:
            now += SLEEP_S
    rest = cost["register"] * (number - stored)
    return now + rest, busy + rest


def costs(number, batches, part, checks_of):
    """Seconds of the protocol's thread for each action, interpolated, or extrapolated in proportion to the size."""
    def at(name, size, key, wanted):
        rows = sorted(part[name], key=lambda row: row[size])
        largest = rows[-1]
        if wanted > largest[size]:
            return largest[key] * wanted / largest[size]
        return float(np.interp(wanted, [row[size] for row in rows], [row[key] for row in rows]))

    return {"begin": at("steps", "steps", "insert_s", batches) + at("steps", "steps", "store_s", batches),
            "search": at("steps", "steps", "search_s", batches), "update": part["steps"][-1]["update_s"],
            "check": sum(at("checks", "micrographs", f"{checks_of}_{what}_s", number) for what in ("input", "output")),
            "register": part["registration"][-1]["later_s"] / REGISTERED}


def cluster(options):
    """Hours of a run for several batch sizes, as one job on one node and as one job per batch on many nodes."""
    part, number = options.figures, options.micrographs
    missing = {"checks", "steps", "registration", "files", "scheduler"} - set(part)
    if missing:
        sys.exit(f"`cluster` needs the figures of {', '.join(sorted(missing))}: run these parts first")
    program, slurm = part["files"], part["scheduler"][-1]
    figures, lines = [], []
    for seconds in (program["seconds"], *options.seconds):
        rows = [("jobs", "batches at a time", "batch size", "hours", "micrographs per hour", "core hours of jobs",
                 "protocol's thread busy, %", "squeue calls per second", "hours with the checks of the base class")]
        for nodes, batch in ((1, 16), *((options.nodes, batch) for batch in (1, 4, 16, 64, 256, 1024))):
            queue, slots, batches = nodes > 1, nodes * options.jobs, -(-number // batch)
            job_s = batch * seconds
            if queue:
                job_s += slurm["submit_s"] + slurm["start_s"] + program["startup_s"]
            took, busy = simulate(number, batch, slots, job_s, costs(number, batches, part, "deepem"), queue)
            plain, _ = simulate(number, batch, slots, job_s, costs(number, batches, part, "framework"), queue)
            figures.append({"seconds": seconds, "nodes": nodes, "batch": batch, "took_s": took, "thread_s": busy,
                            "framework_s": plain,
                            "cores_s": number * seconds + batches * program["startup_s"] * queue,
                            "calls": batches * noticed(job_s)[1] / took if queue else 0})
            row = figures[-1]
            rows.append((f"one per batch, {nodes} nodes" if queue else "one, on one node", slots, batch,
                         f"{took / 3600:.1f}", f"{3600 * number / took:.0f}", f"{row['cores_s'] / 3600:.0f}",
                         f"{100 * busy / took:.0f}", f"{row['calls']:.0f}" if queue else "-", f"{plain / 3600:.1f}"))
        lines += [f"### {number} micrographs, {seconds:.2f} s of one core each (computed)", "", *table(*rows)]
    return figures, lines
