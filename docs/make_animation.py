# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the animation of the studio: `python docs/make_animation.py`, in some minutes; needs Chromium.

In a real browser the threshold is lowered, some picks on simulated micrographs are corrected by one who knows the
particles, and the model learns. Each step is a frame; the pointer is drawn afterwards.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from make_pictures import PICTURES, open_page, until_picked
from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright
from scipy.spatial import cKDTree

from deepem_scipion.deepem import read_coordinates
from deepem_scipion.deepem.simulation import Scene, write_dataset

SCENE = Scene(shape=(560, 720), pixel_size_angst=6.0, n_particles=24, snr=0.02, ice=6, carbon=0.1, gradient=0.5)
# Corrections of each kind on a micrograph, and the micrographs that are corrected.
CORRECTIONS, MICROGRAPHS = 4, 2
THRESHOLD = 0.12
WIDTH, QUALITY, MAX_BYTES = 900, 65, 1_000_000
SHORT_MS, MEDIUM_MS, LONG_MS = 450, 1200, 3500
POINTER = np.array([(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12)])
PICKS = """async number => {
    const headers = {Authorization: `Bearer ${sessionStorage.getItem("token")}`};
    const found = await (await fetch(`api/micrograph/${number}`, {headers})).json();
    return found.x.map((x, at) => [x, found.y[at]]).filter((_, at) => found.reason[at] === 0); }"""


class Film:
    """Frames of a page, and the pointer."""

    def __init__(self, page):
        self.page, self.frames, self.times, self.pointer = page, [], [], (700, 450)

    def take(self, milliseconds):
        """Add a frame."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        ImageDraw.Draw(picture).polygon([tuple(map(float, each)) for each in POINTER * 1.4 + self.pointer], "white",
                                        "black")
        self.frames.append(picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.LANCZOS))
        self.times.append(milliseconds)

    def click(self, place, **options):
        """Move to a place of the screen, and click there."""
        self.pointer = place
        self.page.mouse.move(*place)
        self.take(SHORT_MS)
        self.page.mouse.click(*place, **options)
        self.page.wait_for_timeout(700)
        self.take(SHORT_MS)

    def press(self, selector, share=0.5):
        """Click an element, at a share of its width."""
        box = self.page.locator(selector).bounding_box()
        self.click((box["x"] + share * box["width"], box["y"] + box["height"] / 2))

    def store(self, path):
        """Write the animation."""
        first, *others = self.frames
        first.save(path, save_all=True, append_images=others, duration=self.times, loop=0, quality=QUALITY, method=6)
        sys.stdout.write(f"{path}: {len(self.frames)} frames, {path.stat().st_size // 1000} kB\n")
        if path.stat().st_size > MAX_BYTES:
            sys.exit("too large")


def on_screen(page, places_xy):
    """Where places of a micrograph are, the whole micrograph being shown."""
    box, (rows, columns) = page.locator("#view").bounding_box(), SCENE.shape
    zoom = min(box["width"] / columns, box["height"] / rows)
    middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    return middle + zoom * (places_xy + 0.5 - np.array([columns, rows]) / 2)


def correct(film, number, known_xy):
    """Remove false positives of a micrograph and add missed particles, some of each."""
    picks = np.array(film.page.evaluate(PICKS, number)).reshape(-1, 2)
    radius = SCENE.diameter_px / 2
    false = picks[cKDTree(known_xy).query(picks)[0] > radius]
    missed = known_xy[cKDTree(picks).query(known_xy)[0] > radius]
    for places, button in ((false, "right"), (missed, "left")):
        for place in on_screen(film.page, places[:CORRECTIONS]):
            film.click(tuple(place), button=button)


def main():
    """Make the animation."""
    with tempfile.TemporaryDirectory(prefix="deepem-animation-") as work:
        write_dataset(work, SCENE, 6, 2, n_views=12, prefix="mic")
        truth = read_coordinates(Path(work) / "boxes")
        studio = subprocess.Popen([sys.executable, "-m", "deepem_scipion.deepem", "studio", f"{work}/micrographs",
                                   "--diameter", str(SCENE.diameter_angst), "--project", f"{work}/session",
                                   "--no-browser"], stdout=subprocess.PIPE, text=True)
        try:
            with sync_playwright() as playwright:
                page = open_page(playwright, studio.stdout.readline().split("studio: ")[1].strip())
                record(Film(page), truth)
        finally:
            studio.terminate()
            studio.communicate()


def record(film, truth):
    """Correct, learn, and show what changed."""
    page = film.page
    until_picked(page)
    film.take(MEDIUM_MS)
    film.press("#histogram", THRESHOLD)
    for number, name in enumerate(sorted(truth)[:MICROGRAPHS]):
        if number:
            film.press("#next")
            page.wait_for_timeout(2000)
            film.take(MEDIUM_MS)
        correct(film, number, truth[name].centres_xy)
    film.press("#learn")
    page.wait_for_selector("#learning", state="hidden", timeout=600_000)
    until_picked(page)
    film.take(LONG_MS)
    film.press("#next")
    page.wait_for_timeout(2000)
    film.take(LONG_MS)
    film.store(PICTURES / "studio.webp")


if __name__ == "__main__":
    main()
