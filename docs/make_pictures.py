# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the pictures of these pages: `python docs/make_pictures.py [--work FOLDER]`, in some minutes.

The micrographs of the tutorial are used for training, picked, extracted and classified in a Scipion project, whose
windows are then captured on a virtual display. Xvfb, RELION and its plugin are required. Results that are already in
the folder are not computed again.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PICTURES = Path(__file__).resolve().parent / "pictures"
PROJECT = "klh"
WIDEST, COLOURS, MAX_BYTES = 1100, 48, 145_000


def main():
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder of the project; an existing project is used again")
    with tempfile.TemporaryDirectory(prefix="deepem-pictures-") as temporary:
        work = (parser.parse_args().work or Path(temporary)).resolve()
        os.environ.update(prepared(work), DEEPEM_SCREENSHOTS=str(work / "screenshots"), NO_COLOR="1")
        project = scipion_project(work)
        PICTURES.mkdir(exist_ok=True)
        draw_overview(work / "overview")
        runs = {run.getObjLabel(): run for run in project.getRuns()}
        draw_picks(work, runs["pick"])
        draw_classes(runs["classify"])
        photograph_windows(project, runs)
        photograph_studio(work / "studio")
    for path in sorted(PICTURES.glob("*.png")):
        sys.stdout.write(f"{path.name}: {path.stat().st_size // 1000} kB\n")


def prepared(work):
    """Return the environment variables of a Scipion home in a folder."""
    from deepem_scipion.headless.demo import prepare_home

    return prepare_home(work / "home")


def scipion_project(work):
    """Return the project of the tutorial, from training to classes; its folder becomes the working directory."""
    import pyworkflow as pw
    from pyworkflow.project import Manager

    pw.Config.getDomain().getProtocols()
    if Manager().hasProject(PROJECT):
        project = Manager().loadProject(PROJECT)
        os.chdir(project.path)
        return project
    import pwem.protocols as emprot
    from relion.protocols import ProtRelionClassify2D, ProtRelionExtractParticles

    from deepem_scipion.deepem.coordinates.read import read_coordinates
    from deepem_scipion.deepem.simulation.dataset import write_dataset
    from deepem_scipion.deepem.simulation.scene import Scene
    from deepem_scipion.headless.demo import launch, write_coordinates
    from deepem_scipion.headless.workflows import use_relion
    from deepem_scipion.protocols import ProtDeepEMPick, ProtDeepEMTrain

    scene = Scene(shape=(576, 704), pixel_size_angst=8.0, n_particles=24, snr=0.1)
    for seed, part in enumerate(("known", "new"), 1):
        write_dataset(work / part, scene, 4, seed, n_views=12, prefix=part)
    use_relion(work)
    project = Manager().createProject(PROJECT)
    os.chdir(project.path)
    threads = len(os.sched_getaffinity(0))
    mics = {part: launch(project, emprot.ProtImportMicrographs, f"import {part} micrographs",
                         filesPath=str(work / part / "micrographs"), filesPattern="*.mrc",
                         samplingRate=scene.pixel_size_angst, voltage=scene.voltage_kv,
                         sphericalAberration=scene.spherical_aberration_mm,
                         amplitudeContrast=scene.amplitude_contrast) for part in ("known", "new")}
    known = read_coordinates(work / "known" / "boxes")
    coordinates = launch(project, emprot.ProtImportCoordinates, "import coordinates",
                         {"inputMicrographs": (mics["known"], "outputMicrographs")},
                         importFrom=emprot.ProtImportCoordinates.IMPORT_FROM_SCIPION, boxSize=60,
                         filesPath=write_coordinates(work / "known.sqlite", mics["known"].outputMicrographs, known))
    train = launch(project, ProtDeepEMTrain, "train", {"inputCoordinates": (coordinates, "outputCoordinates")},
                   particleDiameter=scene.diameter_angst, useGpu=False, numberOfThreads=threads)
    pick = launch(project, ProtDeepEMPick, "pick", {"inputMicrographs": (mics["new"], "outputMicrographs"),
                                                    "inputModel": (train, "outputModel")},
                  numberOfThreads=1, binThreads=threads)
    extract = launch(project, ProtRelionExtractParticles, "extract", {"inputCoordinates": (pick, "outputCoordinates")},
                     boxSize=76, doInvert=True, numberOfMpi=1)
    launch(project, ProtRelionClassify2D, "classify", {"inputParticles": (extract, "outputParticles")},
           numberOfClasses=2, numberOfIterations=10, useGradientAlg=False, maskDiameterA=480, doCTF=False,
           doGpu=False, numberOfMpi=1, numberOfThreads=threads)
    return project


def draw_overview(work):
    """Draw the picks on a smoothed micrograph with carbon film and ice, for the first page."""
    from PIL import Image, ImageDraw
    from scipy.ndimage import gaussian_filter

    from deepem_scipion.deepem import PickingResults, read_micrograph
    from deepem_scipion.deepem.commands.main import main as deepem
    from deepem_scipion.deepem.simulation import Scene, write_dataset

    scene = Scene(shape=(400, 1000), pixel_size_angst=8.0, n_particles=30, snr=0.05, ice=6, carbon=0.15, gradient=1.0,
                  touching_fraction=0.3)
    for seed, part in enumerate(("known", "new"), 1):
        write_dataset(work / part, scene, 8 if part == "known" else 1, seed, n_views=12, prefix=part)
    known, new, model, picks = (str(work / name) for name in ("known", "new", "klh.deepem", "picks"))
    for arguments in (["train", "--micrographs", f"{known}/micrographs", "--coordinates", f"{known}/boxes",
                       "--diameter", "400", "--output", model],
                      ["pick", "--model", model, "--micrographs", f"{new}/micrographs", "--output", picks]):
        if deepem(arguments):
            raise SystemExit(f"deepem {arguments[0]} failed")
    pixels = read_micrograph(work / "new" / "micrographs" / "new_001.mrc").pixels
    pixels = gaussian_filter(pixels - gaussian_filter(pixels, 60), 2)
    picture = Image.fromarray((135 + 180 * pixels).clip(0, 235).astype("uint8")).convert("RGB")
    draw, radius = ImageDraw.Draw(picture), scene.diameter_px / 2
    for x, y in PickingResults(picks).read_picks("new_001").centres_xy:
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=(0, 230, 80), width=3)
    file = work / "overview.png"
    picture.save(file)
    keep(file, "overview")


def draw_picks(work, pick):
    """Draw a micrograph with the picks of a run and the known particles."""
    from deepem_scipion.deepem.coordinates.read import read_coordinates
    from deepem_scipion.deepem.micrographs.micrograph import read_micrograph
    from deepem_scipion.deepem.report import plots as report
    from deepem_scipion.headless.demo import read_picks

    name = "new_001"
    truth, picks = read_coordinates(work / "new" / "boxes")[name], read_picks(pick.outputCoordinates)[name]
    file = work / "screenshots" / "picks.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    report.draw_picks(read_micrograph(work / "new" / "micrographs" / f"{name}.mrc").pixels, picks.centres_xy,
                      picks.scores, 50, file, truth_xy=truth.centres_xy, title=name)
    keep(file, "picks")


def draw_classes(classify):
    """Draw the class averages, the largest class first."""
    import mrcfile
    import numpy as np
    from PIL import Image

    found = [(each.getSize(), *each.getRepresentative().getLocation()) for each in classify.outputClasses]
    averages = [mrcfile.read(path)[index - 1] for _, index, path in sorted(found, reverse=True)]
    scaled = [np.clip((image - image.min()) / np.ptp(image), 0, 1) for image in averages]
    row = np.hstack([np.pad(np.kron(image, np.ones((3, 3))), 4, constant_values=1) for image in scaled])
    file = Path(os.environ["DEEPEM_SCREENSHOTS"], "classes.png")
    Image.fromarray((255 * row).astype(np.uint8)).save(file)
    keep(file, "classes")


def photograph_windows(project, runs):
    """Capture Scipion's project window, the forms and the windows of *Analyze results*."""
    from deepem_scipion.tests.display import OnDisplay

    OnDisplay.setUpClass()
    try:
        import pyworkflow.gui.project as gui  # first, otherwise the import of forms is circular
        from pyworkflow.gui.form import FormWindow

        photograph(gui.ProjectWindow(project.path), "project", size=(1200, 900))

        for label in ("train", "pick"):
            form = FormWindow("Protocol Run", runs[label], lambda *others: None, None)
            photograph(form, f"form-{label}")
        photograph_model(project, runs["train"])
        photograph_picks(project, runs["pick"])
    finally:
        OnDisplay.doClassCleanups()


def photograph_model(project, run):
    """Capture the first two tabs of the window of a training."""
    from pyworkflow import Config
    from pyworkflow.viewer import DESKTOP_TKINTER

    viewer = Config.getDomain().findViewers(run, DESKTOP_TKINTER)[0]
    window, = viewer(project=project, protocol=run)._visualize(run)
    for tab in window.notebook.tabs()[:2]:
        window.notebook.select(tab)
        photograph(window, f"results-train-{window.notebook.tab(tab, 'text').lower()}", close=False)
    window.root.destroy()


def photograph_picks(project, run):
    """Capture the studio that *Analyze results* of a picking opens."""
    from playwright.sync_api import sync_playwright

    from deepem_scipion.tests.studio import started
    from deepem_scipion.viewers import DeepEMPickViewer

    os.environ["BROWSER"] = "true"  # the program that does nothing
    studio = DeepEMPickViewer(project=project, protocol=run).start(run)
    try:
        with sync_playwright() as playwright:
            page = open_page(playwright, started(studio))
            page.wait_for_timeout(3000)
            keep_photo(page.screenshot(), "results-pick")
    finally:
        studio.stop()


def open_page(playwright, address):
    """The page of a studio in a browser."""
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1400, "height": 880})
    page.goto(address)
    page.wait_for_selector("#sheet .row.current")
    return page


def photograph_studio(work):
    """Capture the studio with suggested picks, some of which are corrected, and after it has learnt from them."""
    from playwright.sync_api import sync_playwright

    from deepem_scipion.deepem.simulation import Scene, write_dataset

    scene = Scene(shape=(800, 900), pixel_size_angst=6.0, n_particles=60, snr=0.1, ice=5, gradient=0.5)
    write_dataset(work, scene, 8, 1, n_views=12, prefix="mic")
    studio = subprocess.Popen(
        [sys.executable, "-m", "deepem_scipion.deepem", "studio", str(work / "micrographs"), "--diameter",
         str(scene.diameter_angst), "--project", str(work / "session"), "--reference", str(work / "boxes"),
         "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        with sync_playwright() as playwright:
            page = open_page(playwright, studio.stdout.readline().split("studio: ")[1].strip())
            until_picked(page)
            page.keyboard.press("a")
            page.wait_for_selector("#sheet .row.done")
            page.keyboard.press("j")
            page.wait_for_timeout(3000)
            keep_photo(page.screenshot(), "studio")
            page.keyboard.press("l")
            page.wait_for_selector("#learning", state="visible")
            page.wait_for_selector("#learning", state="hidden", timeout=600_000)
            until_picked(page)
            keep_photo(page.screenshot(), "studio-learnt")
    finally:
        studio.terminate()
        studio.communicate()


def until_picked(page):
    """Wait until the studio has found the candidates of all micrographs."""
    page.wait_for_timeout(2000)
    page.wait_for_selector("#progress", state="hidden", timeout=300_000)
    page.wait_for_timeout(3000)


def keep_photo(content, name):
    """Store a picture with the noise of a micrograph."""
    from PIL import Image

    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.LANCZOS).save(
        PICTURES / f"{name}.jpg", quality=66, optimize=True)


def photograph(window, name, close=True, size=(900, 800)):
    """Show a window until everything is drawn, and store its picture."""
    from deepem_scipion.tests.display import screenshot

    width, height = getattr(window, "desiredDimensions", lambda: None)() or size
    window.root.deiconify()
    window.root.geometry(f"{width}x{height}+0+0")
    until = time.time() + 3
    while time.time() < until:
        window.root.update()
        time.sleep(0.02)
    keep(screenshot(name), name)
    if close:
        window.root.destroy()


def keep(file, name):
    """Store a picture without its black margin, with few colours, and narrow enough for a small file."""
    from PIL import Image

    picture = Image.open(file).convert("RGB")
    picture = picture.crop(picture.getbbox())
    width, stored = min(WIDEST, picture.width), PICTURES / f"{name}.png"
    while True:
        smaller = picture.resize((width, round(picture.height * width / picture.width)), Image.LANCZOS)
        smaller.quantize(COLOURS, dither=Image.Dither.NONE).save(stored, optimize=True)
        if stored.stat().st_size < MAX_BYTES:
            return
        width = round(0.9 * width)


if __name__ == "__main__":
    main()
