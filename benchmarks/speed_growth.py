# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of speed.py: time and memory as functions of the area and number of micrographs; large results folders."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, table
from timing import initial_weights


def growth(options):
    """Time and memory of picking as functions of the area and number of micrographs."""
    from deepem_scipion.deepem import Model
    from deepem_scipion.deepem.model import save_model
    from deepem_scipion.deepem.network import auto_geometry

    code = """
import json, re, sys, tempfile, time
from pathlib import Path
import mrcfile, numpy as np
from deepem_scipion.deepem import Picker, load_model, pick_micrographs
work, rows, cols, binning, number = Path(sys.argv[1]), *map(int, sys.argv[2:6])
path = work / f"{rows}.mrc"
if not path.exists():
    with mrcfile.new(path) as file:
        file.set_data(np.random.default_rng(0).standard_normal((rows, cols), np.float32))
picker = Picker(load_model(work / f"binned{binning}"))
names = {f"m{i}": path for i in range(number)}
pick_micrographs(dict(list(names.items())[:1]), picker, tempfile.mkdtemp(dir=work), pixel_size_angst=1.0)
began = time.perf_counter()
results = pick_micrographs(names, picker, tempfile.mkdtemp(dir=work), pixel_size_angst=1.0)
assert not any(result.reason for result in results.values())
print(json.dumps({"wall_s": (time.perf_counter() - began) / number,
                  "peak_mib": int(re.search(r"VmHWM:\\s*([0-9]+)", Path("/proc/self/status").read_text())[1]) / 1024}))
"""
    figures = {"area": [], "number": []}
    with tempfile.TemporaryDirectory() as work:
        geometry = auto_geometry(27)
        for binning in (1, 2, 4):
            save_model(Path(work) / f"binned{binning}", Model(geometry, (initial_weights(geometry),), float(binning),
                                                              27.0 * binning, 2, (0.0, 9.0), 0.5))

        def measure(rows, cols, binning, number):
            done = subprocess.run([sys.executable, "-c", code, work, *map(str, (rows, cols, binning, number))],
                                  capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = {"rows": rows, "cols": cols, "binning": binning, "number": number,
                     **json.loads(done.stdout.splitlines()[-1])}
            print(found, file=sys.stderr, flush=True)
            return found

        for rows, cols, binning in ((512, 512, 1), (1024, 1024, 1), (2048, 2048, 1), (4096, 4096, 1), (8192, 8192, 1),
                                    (8184, 11520, 4)):
            figures["area"].append(measure(rows, cols, binning, 6 if rows < 8000 else 4))
        for number in (1, 10, 100, 1000):
            figures["number"].append(measure(1024, 1024, 2, number))
    draw_growth(figures, ROOT / "docs" / "performance.png")
    rows = [("micrograph, px", "binning", "micrographs", "s per micrograph", "ns per binned pixel",
             "peak memory, MiB")]
    rows += [(f"{row['rows']} x {row['cols']}", row["binning"], row["number"], f"{row['wall_s']:.3f}",
              f"{1e9 * row['wall_s'] * row['binning']**2 / row['rows'] / row['cols']:.0f}", f"{row['peak_mib']:.0f}")
             for row in figures["area"] + figures["number"]]
    return figures, ["### Growth (automatic geometry, float32 micrographs, reading and writing included)", "",
                     *table(*rows)]


def draw_growth(figures, path):
    """Plot time and memory as functions of the area, and the time per micrograph as a function of their number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    full = [row for row in figures["area"] if row["binning"] == 1]
    area = [row["rows"] * row["cols"] / 1e6 for row in full]
    left.loglog(area, [row["wall_s"] for row in full], "o-")
    left.set(xlabel="binned micrograph, megapixels", ylabel="s per micrograph")
    left.loglog(area, [full[-1]["wall_s"] * each / area[-1] for each in area], ":", label="proportional")
    left.legend()
    middle.semilogx(area, [row["peak_mib"] / 1024 for row in full], "o-", label="not binned")
    binned = figures["area"][-1]
    middle.plot([binned["rows"] * binned["cols"] / binned["binning"]**2 / 1e6], [binned["peak_mib"] / 1024], "s",
                label="8184 x 11520, binned by 4")
    middle.set(xlabel="binned micrograph, megapixels", ylabel="peak memory, GiB",
               ylim=(0, 1.3 * max(row["peak_mib"] for row in full) / 1024))
    middle.legend()
    right.semilogx([row["number"] for row in figures["number"]], [row["wall_s"] for row in figures["number"]], "o-")
    right.set(xlabel="micrographs of 1024 x 1024", ylabel="s per micrograph", ylim=(0, None))
    figure.savefig(path, dpi=110)


def folder(options):
    """Time what is done with a results folder as a function of the number of micrographs that it holds.

    The folder is filled with empty files under the names of those of other micrographs. Timed are the two files of one
    more micrograph with 300 candidates, the search for its picks, and the listing of all picks.
    """
    from deepem_scipion.deepem import PickingResults
    from deepem_scipion.deepem.picking.candidates import Candidates

    rng = np.random.default_rng(0)
    candidates = Candidates(rng.uniform(0, 4000, (300, 2)), rng.random(300), rng.random(300), rng.random(300))
    reasons = np.full(300, "picked")
    figures, done = [], 0
    with tempfile.TemporaryDirectory() as work:
        results = PickingResults(work)
        results.make()
        for number in (0, 1000, 10_000, 100_000):
            for index in range(done, number):
                for kind in ("box", "candidates"):
                    os.close(os.open(results.path(kind, f"micrograph_{index:06d}"), os.O_CREAT))
            done, found = number, {"write_s": [], "search_s": [], "list_s": []}
            for repeat in range(50):
                found["write_s"].append(elapsed(results.write_micrograph, f"new{repeat}", candidates, reasons, 200))
                found["search_s"].append(elapsed(results.has_picks, f"new{repeat}"))
            for _ in range(3):
                found["list_s"].append(elapsed(list, Path(work).glob("*.box")))
            figures.append({"number": number, **{key: statistics.median(values) for key, values in found.items()}})
            print(figures[-1], file=sys.stderr, flush=True)
    rows = [("micrographs in the folder", "writing one more, ms", "searching its picks, ms", "listing all, s")]
    rows += [(row["number"], f"{1000 * row['write_s']:.2f}", f"{1000 * row['search_s']:.4f}", f"{row['list_s']:.3f}")
             for row in figures]
    return figures, ["### A results folder of many micrographs", "", *table(*rows)]


def elapsed(function, *arguments):
    """Processor seconds of one call, to which other programs of the machine do not contribute."""
    began = time.process_time()
    function(*arguments)
    return time.process_time() - began
