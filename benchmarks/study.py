# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the studies: parts that are kept, training and picking by the program, simulated ribosomes."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import common
import mrcfile
import numpy as np
from common import read_picks

from deepem_scipion.deepem import read_coordinates, read_micrograph
from deepem_scipion.deepem.commands.main import main as deepem
from deepem_scipion.deepem.coordinates import write_box
from deepem_scipion.deepem.evaluation import average_precision, curve, f_beta
from deepem_scipion.deepem.model import read_card
from deepem_scipion.deepem.report import draw_picks
from deepem_scipion.deepem.simulation import (
    Scene,
    read_volume,
    write_dataset,
)

RIBOSOME = Path("ribosome70s") / "clean70SRibosome_vol_65p.mrc"
VOXEL_ANGST = 5.0
N_VIEWS = 48
TEST_SEED = 2
# Picks within this many diameters of a particle are true positives.
DISTANCE = 0.5

# One field of view, 0.51 micrometres wide, with about as many ribosomes as on an experimental micrograph.
NOISY = Scene(shape=(2048, 2048), pixel_size_angst=2.5, diameter_angst=250.0, n_particles=80, snr=0.01,
              defocus_angst=25000.0, voltage_kv=300.0)
COARSE = replace(NOISY, shape=(1024, 1024), pixel_size_angst=5.0)
CROWDED = replace(COARSE, snr=0.05, n_particles=150, spacing=1.05, touching_fraction=0.5)
CONTAMINATED = replace(COARSE, snr=0.05, n_particles=70, spacing=1.05, touching_fraction=0.3, ice=8, carbon=0.15,
                       gradient=1.0)

PICTURE_PX = 540
PICTURE_COLOURS = 24


def part(folder, settings, fresh, make, *arguments):
    """Figures of a part: read from a file if it was done with the same settings, otherwise made and written."""
    file = folder / "figures.json"
    settings = json.loads(json.dumps(settings, default=str))
    if file.exists() and not fresh:
        kept = json.loads(file.read_text())
        if kept["settings"] == settings:
            return kept["figures"]
    folder.mkdir(parents=True, exist_ok=True)
    print(folder.relative_to(common.RESULTS), file=sys.stderr, flush=True)
    figures = make(*arguments)
    file.write_text(json.dumps({"settings": settings, "figures": figures}))
    return figures


def train(folder, micrographs, boxes, diameter_angst, preset, seed, options):
    """Train a model; its card, or None if training failed, and seconds."""
    began = time.perf_counter()
    failed = deepem(["train", "--micrographs", *micrographs, "--coordinates", str(boxes), "--diameter",
                     str(diameter_angst), "--training-preset", preset, "--seed", str(seed), "--output",
                     str(folder / "model"), *options])
    return None if failed else read_card(folder / "model"), time.perf_counter() - began


def pick(folder, micrographs, options, threshold="0", std_range="auto"):
    """Pick micrographs with the model in a folder: name -> Coordinates."""
    output = folder / f"picks-{threshold}-{std_range}"
    if deepem(["pick", "--model", str(folder / "model"), "--micrographs", *micrographs, "--threshold", threshold,
               "--std-range", std_range, "--output", str(output), "--overwrite", *options]):
        sys.exit("picking failed")
    return read_picks(output)


def figures_of(matches):
    """Figures and curve of precision and recall, ready for JSON."""
    steps = curve(matches)
    scores = f_beta(steps.precision, steps.recall, 1)
    best = int(np.argmax(scores)) if len(scores) else None
    at = {} if best is None else {"F1": float(scores[best]), "precision": float(steps.precision[best]),
                                  "recall": float(steps.recall[best])}
    return {"AP": average_precision(steps), **at, "curve": {
        "threshold": steps.thresholds.tolist(), "precision": steps.precision.tolist(), "recall": steps.recall.tolist()}}


def simulated(folder, scene, parts, options, volume=None, orientations=None, **others):
    """Simulate micrographs in a folder, with a subfolder for each part; the folder.

    The particle is the ribosome in any orientation, or `volume` in the `orientations` of a seed. Micrographs are made
    again if any of `others` changes.
    """
    def make():
        shown = volume or read_volume(options.data / RIBOSOME, VOXEL_ANGST)
        for which, (number, seed) in parts.items():
            write_dataset(folder / which, scene, number, seed, shown, N_VIEWS, which,
                          orientations and orientations(seed))

    part(folder, {"scene": scene, "parts": parts, "views": N_VIEWS, **others}, options.fresh, make)
    return folder


def micrographs_of(folder):
    """Paths of the micrographs in a folder, sorted by name."""
    return [str(path) for path in sorted((folder / "micrographs").glob("*.mrc"))]


def runs(options):
    """All pairs of training preset and seed."""
    return [(preset, seed) for preset in options.training_presets for seed in options.seeds]


def new_figure(width, height, columns=1):
    """A figure with panels side by side, sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def numbers(figures):
    """AP, best F1, its precision and recall as text."""
    return [f"{figures[key]:.3f}" if key in figures else "-" for key in ("AP", "F1", "precision", "recall")]


def draw_example(folder, picks, scene, path):
    """Draw the first test micrograph with its picks, small enough for a page."""
    micrograph = micrographs_of(folder / "test")[0]
    name = Path(micrograph).stem
    found = read_picks(picks)[name]
    draw_picks(read_micrograph(micrograph).pixels, found.centres_xy, found.scores, scene.diameter_px, path,
               read_coordinates(folder / "test" / "boxes")[name].centres_xy, path.stem)
    small(path)


def small(path, width_px=PICTURE_PX):
    """Make a picture small enough for a page."""
    from PIL import Image

    with Image.open(path) as image:
        size = width_px, round(width_px * image.height / image.width)
        result = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    rare_kept = Image.Quantize.MAXCOVERAGE
    result.quantize(PICTURE_COLOURS, rare_kept, dither=Image.Dither.NONE).save(path, optimize=True)


def crop(folder, name, known, region, number, output):
    """Crop a rectangle with this number of particles from the middle of a micrograph; the number of particles in it.

    The rectangle is similar to the annotated region, and equal to it if `number` is None. All particles in it are
    annotated: with a whole micrograph and some annotations left out, the network would learn other particles as
    negatives.
    """
    corners = np.reshape(region, (2, 2)).astype(float)
    middle, half = corners.mean(axis=0), np.diff(corners, axis=0)[0] / 2
    share = 1.0
    if number is not None:
        reach = np.sort((np.abs(known.centres_xy - middle) / half).max(axis=1))
        share = min(1.0, float(reach[number - 1:number + 1].mean())) if number < len(reach) else 1.0
    x0, y0 = np.ceil(middle - share * half).astype(int)
    x1, y1 = np.floor(middle + share * half).astype(int)
    centres_xy = known.centres_xy - (x0, y0)
    inside = (centres_xy >= 0) & (centres_xy <= (x1 - x0 - 1.5, y1 - y0 - 1.5))  # also after boxes are rounded
    centres_xy = centres_xy[inside.all(axis=1)]
    for kind in ("micrographs", "boxes"):
        (output / kind).mkdir(parents=True, exist_ok=True)
    with mrcfile.open(folder / "micrographs" / f"{name}.mrc") as file:
        pixels, voxel_size = file.data[y0:y1, x0:x1], file.voxel_size.copy()
    with mrcfile.new(output / "micrographs" / f"{name}.mrc", pixels, overwrite=True) as file:
        file.voxel_size = voxel_size
    write_box(output / "boxes" / f"{name}.box", centres_xy, np.full(len(centres_xy), np.nan), known.box_px)
    return len(centres_xy)
