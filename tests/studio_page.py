# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A studio that runs, in a page of a real browser, for tests."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np

from conftest import candidates_of_blobs, write_blobs
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import Limits, select
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult

SCREENSHOTS = Path(os.environ.get("DEEPEM_SCREENSHOTS", "screenshots")).resolve()
DESKTOP = (1600, 1000)
SHAPE = (300, 420)  # of the micrographs shown
PIXEL_ANGST, DIAMETER_ANGST = 4.0, 64.0
LIMITS = Limits(0.25, 32.0)


class Studio:
    """A studio that runs, and a page that shows it."""

    def __init__(self, browser, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deepem_scipion.deepem", "studio", "--no-browser", "--threads", "1",
             *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split("studio: ")[1].strip()
        self.base, self.token = self.url.split("#")
        self.console, self.asked = [], []
        self.page = browser.new_page(viewport=dict(zip(("width", "height"), DESKTOP)))
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(self.url)
        self.until(lambda: "picks" in self.text("#headline") and self.text("#title"))

    def close(self):
        self.page.close()
        self.process.terminate()
        _, self.log = self.process.communicate(timeout=60)

    def until(self, condition, seconds=120):
        """Wait until a condition holds, however slow the machine is."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"in vain; the page shows {self.text('body')[:2000]}"
            self.page.wait_for_timeout(20)  # meanwhile events arrive

    def text(self, selector):
        return self.page.inner_text(selector)

    def api(self, path, **values):
        """What the server answers."""
        request = urllib.request.Request(f"{self.base}api/{path}", json.dumps(values).encode() if values else None,
                                         {"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def found(self, number=0):
        return self.api(f"micrograph/{number}")

    def box(self, selector):
        """Where an element is on the screen, scrolled into view."""
        found = self.page.locator(selector)
        found.scroll_into_view_if_needed()
        return found.bounding_box()

    def screen(self, x, y, shape=SHAPE):
        """Where a place of the micrograph is on the screen, the whole micrograph being shown."""
        box = self.page.locator("#view").bounding_box()
        zoom = min(box["width"] / shape[1], box["height"] / shape[0])
        return (box["x"] + box["width"] / 2 + (x + 0.5 - shape[1] / 2) * zoom,
                box["y"] + box["height"] / 2 + (y + 0.5 - shape[0] / 2) * zoom)

    def click(self, x, y, **options):
        self.page.mouse.click(*self.screen(x, y), **options)

    def drag(self, *places):
        self.page.mouse.move(*self.screen(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.screen(*place), steps=4)
        self.page.mouse.up()

    def colours(self):
        """Number of pixels of the overlay by their red, green, blue, of those that are opaque."""
        found = self.page.evaluate("""() => {
            const shown = document.querySelector("#marks"), counts = {};
            const canvas = new OffscreenCanvas(shown.width, shown.height);
            const context = canvas.getContext("2d", {willReadFrequently: true});
            context.drawImage(shown, 0, 0);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 250) {
                const key = `${data[at]},${data[at + 1]},${data[at + 2]}`;
                counts[key] = (counts[key] ?? 0) + 1;
            }
            return counts; }""")
        return {tuple(map(int, key.split(","))): number for key, number in found.items()}

    def screenshot(self, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


def marks_of(studio, kind, number=0):
    return studio.found(number)[kind]


def first_pick(studio, reason=0):
    """x, y of a candidate with this reason, away from the border of the micrograph and from other circles."""
    found = studio.found()
    places = np.stack([found["x"], found["y"]], axis=1)
    for index, code in enumerate(found["reason"]):
        x, y = places[index]
        near = np.hypot(*(places - places[index]).T) < 24
        if code == reason and near.sum() == 1 and 30 < x < SHAPE[1] - 30 and 30 < y < SHAPE[0] - 30:
            return float(x), float(y)
    raise AssertionError("no such candidate")


def empty_place(studio):
    """A place without any candidate within a particle diameter."""
    found = studio.found()
    places = np.stack([found["x"], found["y"]], axis=1)
    for y in range(30, SHAPE[0] - 30, 3):
        for x in range(30, SHAPE[1] - 30, 3):
            if np.hypot(*(places - (x, y)).T).min() > 17:
                return float(x), float(y)
    raise AssertionError("no such place")


def write_run(folder, names):
    """Micrographs of blobs, and the results folder of a run on them; returns name -> (n, 2) x, y of the blobs."""
    centres = write_blobs(folder, names, shape=SHAPE, n=40, pixel_size=PIXEL_ANGST)
    results, found = PickingResults(folder / "picks"), {}
    results.make(further=["score_map"])
    for name in names:
        path = folder / "micrographs" / f"{name}.mrc"
        candidates = candidates_of_blobs(path)
        reasons = select(candidates, LIMITS, PIXEL_ANGST)
        results.write_micrograph(name, candidates, reasons, 24)
        results.write_score_map(name, np.linspace(0, 1, 70 * 100, dtype=np.float32).reshape(70, 100), 16.0)
        found[name] = MicrographResult.of(str(path), candidates, reasons)
    results.write_summary(RunSettings(LIMITS, 4, 4, 24, PIXEL_ANGST, DIAMETER_ANGST), found)
    return centres
