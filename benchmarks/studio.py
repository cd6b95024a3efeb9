# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times of the studio in a browser, with many micrographs.

    python benchmarks/studio.py [--micrographs 1000] [--candidates 300] [--repeats 9]

Needs Chromium and playwright. Candidates are simulated; the micrographs are a few files of 4096 x 4096 pixels. Times
end when the page has drawn everything; the median of the repeats is printed, and the fastest one, which other work on
the machine disturbs least. CPU times include all threads of the server, and all processes of the browser.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
from common import PROGRAM

SIDE_PX, DIAMETER_PX, PIXEL_ANGST = 4096, 160, 1.0
# More than the studio keeps in memory.
FILES = 8
SLIDERS = {"threshold": (0.3, 0.4, 0.6, 0.2), "distance": (60, 120, 200, 90), "low": (0.7, 0.9, 0.8, 0.85)}
MOVE = """async ([name, value]) => {
    const slider = document.getElementById(`range-${name}`), version = document.body.dataset.version;
    const began = performance.now(), frame = () => new Promise(requestAnimationFrame);
    slider.value = value;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
    while (document.body.dataset.version === version) await new Promise(done => setTimeout(done));
    await frame();
    await frame();
    return performance.now() - began; }"""
SHOW = """async number => {
    const row = [...document.querySelectorAll("#sheet .row")].find(each => each.dataset.number === String(number));
    const began = performance.now(), picture = document.getElementById("picture");
    row.click();
    while (picture.dataset.shown !== String(number)) await new Promise(requestAnimationFrame);
    return performance.now() - began; }"""


def main():
    """Simulate a picking run and print the times of its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micrographs", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=300, help="candidates in each micrograph")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), options.micrographs, options.candidates)
        began = time.perf_counter()
        process = subprocess.Popen([*PROGRAM, "studio", folder, "--no-browser"], stdout=subprocess.PIPE, text=True)
        try:
            measure(process, began, options.repeats)
        finally:
            process.terminate()
            process.communicate()
    return 0


def write_run(folder, n_micrographs, n_candidates):
    """Write the results of a picking run, and some micrographs."""
    from deepem_scipion.deepem.picking import Limits, MicrographResult, PickingResults, RunSettings, select

    rng, results, micrographs = np.random.default_rng(0), PickingResults(folder), {}
    images, limits = [folder / f"image_{number}.mrc" for number in range(FILES)], Limits(
        0.5, DIAMETER_PX / 2 * PIXEL_ANGST, (0.8, 1.2))
    for image in images:
        with mrcfile.new(image, rng.normal(size=(SIDE_PX, SIDE_PX)).astype(np.float32)) as file:
            file.voxel_size = PIXEL_ANGST
    results.make()
    for number in range(n_micrographs):
        name, candidates = f"mic_{number:05d}", random_candidates(rng, n_candidates)
        reasons = select(candidates, limits, PIXEL_ANGST)
        results.write_micrograph(name, candidates, reasons, DIAMETER_PX)
        micrographs[name] = MicrographResult.of(str(images[number % FILES]), candidates, reasons)
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


def cpu_seconds(pid, without=()):
    """CPU time of a process and of those that it has started, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_seconds(int(child), without) for child in children if int(child) not in without)


def measure(process, began, repeats):
    """Open the page, show micrographs, move the sliders, and print the times."""
    from playwright.sync_api import sync_playwright

    address = process.stdout.readline().split("studio: ")[1].strip()
    print(f"from the start to the address: {time.perf_counter() - began:.2f} s")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        began = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("#sheet .row")
        print(f"from the address to the list: {time.perf_counter() - began:.2f} s")
        page.wait_for_selector("#picture[data-shown='0']")
        print(f"from the address to the first micrograph: {time.perf_counter() - began:.2f} s")
        page.wait_for_selector("#progress", state="hidden", timeout=300_000)
        print(f"from the address to the candidates of all micrographs: {time.perf_counter() - began:.2f} s")
        page.wait_for_timeout(2000)
        # Not the next ones, which are read ahead.
        report("micrograph", process, [partial(page.evaluate, SHOW, 3 * at + 2) for at in range(min(repeats, 6))])
        page.check("#ranged")
        for name, values in SLIDERS.items():
            report(f"slider {name}", process, [partial(page.evaluate, MOVE, [name, values[at % len(values)]])
                                               for at in range(repeats)])
        browser.close()


def report(what, process, actions):
    """Do actions, and print their times and CPU times, in ms."""
    times, before = [], (cpu_seconds(process.pid), cpu_seconds(os.getpid(), [process.pid]))
    for action in actions:
        time.sleep(0.1)
        times.append(action())
    after = cpu_seconds(process.pid), cpu_seconds(os.getpid(), [process.pid])
    server, browser = (1000 * (new - old) / len(times) for new, old in zip(after, before))
    print(f"{what}: median {statistics.median(times):.0f} ms, fastest {min(times):.0f} ms; CPU time: server "
          f"{server:.0f} ms, browser {browser:.0f} ms", flush=True)


if __name__ == "__main__":
    sys.exit(main())
