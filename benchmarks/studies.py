# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's studies: noise, crowded micrographs, choice of the threshold, number of training particles.

    python benchmarks/studies.py [--studies snr larger crowded threshold size] [--data FOLDER] [--training-presets NAME ...]
                                 [--seeds N ...] [--threads N] [--fresh]

snr        simulated micrographs of a ribosome with ever more noise (Fig. 6), and what a matched filter finds there that
           knows the particle: where it fails, noise sets the limit
larger     the first of these noises with more micrographs and a larger network
crowded    simulated micrographs with touching particles, and with ice and carbon (Fig. 5), with and without the
           deviation filter
threshold  F2 against the threshold on validation and on test micrographs of the real sets (Fig. 3e)
size       number of training particles on the real sets (Fig. 4)

Writes tables in Markdown and plots to benchmarks/results/studies; simulated micrographs and models are there, too. A
part that was done with the same settings and recipe is not repeated, unless --fresh is given: give it after other
changes of the code.
"""

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
from accuracy import SETS, files, splits

from deepem_scipion.deepem.commands.main import main as deepem
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.evaluation.matching import match, match_all, pool
from deepem_scipion.deepem.evaluation.metrics import average_precision, curve, evaluate, f_beta
from deepem_scipion.deepem.micrographs.micrograph import read_micrograph, read_pixel_size
from deepem_scipion.deepem.model.files import read_card
from deepem_scipion.deepem.picking.candidates import Candidates
from deepem_scipion.deepem.picking.selection import MIN_DISTANCE, PICKED, Limits, select
from deepem_scipion.deepem.report.axes import BLUE, GREEN, ORANGE, SKY, VERMILION
from deepem_scipion.deepem.report.plots import draw_picks
from deepem_scipion.deepem.simulation import scene as simulate
from deepem_scipion.deepem.simulation.dataset import write_dataset
from deepem_scipion.deepem.simulation.scene import Scene, contrast_transfer, simulate_micrograph
from deepem_scipion.deepem.simulation.volumes import project, random_orientations, read_volume
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "studies"
RIBOSOME = Path("ribosome70s") / "clean70SRibosome_vol_65p.mrc"
VOXEL_ANGST = 5.0
N_VIEWS = 48
TEST_SEED = 2
# Picks within this many diameters of a particle are right.
DISTANCE = 0.5

# One field of view, 0.51 micrometres wide, with about as many ribosomes as there are on a real micrograph.
NOISY = Scene(shape=(2048, 2048), pixel_size_angst=2.5, diameter_angst=250.0, n_particles=80, snr=0.01,
              defocus_angst=25000.0, voltage_kv=300.0)
COARSE = replace(NOISY, shape=(1024, 1024), pixel_size_angst=5.0)
NOISE_LEVELS = (NOISY, replace(NOISY, snr=0.005), replace(NOISY, snr=0.001), COARSE)
NOISY_PARTS = {"training": (16, 1), "test": (8, TEST_SEED)}
LARGER_PARTS = {**NOISY_PARTS, "training": (48, 1)}
LARGER = ("--maps", "12", "24", "24", "--epochs", "30")
# The matched filter works on this pixel size, has this many in-plane angles and picks so many of the test micrographs.
FILTER_PIXEL_ANGST, FILTER_ANGLES, FILTERED = 10.0, 48, 4

CROWDED = replace(COARSE, snr=0.05, n_particles=150, spacing=1.05, touching_fraction=0.5)
CONTAMINATED = replace(COARSE, snr=0.05, n_particles=70, spacing=1.05, touching_fraction=0.3, ice=8, carbon=0.15,
                       gradient=1.0)
CROWDED_PARTS = {"training": (8, 1), "test": (8, TEST_SEED)}
# Particles with a neighbour within this many diameters touch it.
TOUCHING = 1.051

SIZES = {"apoferritin": (100, 200, 400, None), "empiar10017": (100, 400, 800, 1200, None)}
SIZE_MICROGRAPHS = 4

PICTURE_PX = 540
PICTURE_COLOURS = 24


def part(folder, settings, make, fresh):
    """Figures of a part: read where it was done with the same settings, otherwise made and written."""
    file = folder / "figures.json"
    settings = json.loads(json.dumps(settings, default=str))
    if file.exists() and not fresh:
        kept = json.loads(file.read_text())
        if kept["settings"] == settings:
            return kept["figures"]
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{folder.relative_to(RESULTS)}", file=sys.stderr, flush=True)
    figures = make()
    file.write_text(json.dumps({"settings": settings, "figures": figures}))
    return figures


def train(folder, micrographs, boxes, diameter_angst, training_preset, seed, options):
    """Train a model; its card, or None where training failed, and seconds."""
    began = time.perf_counter()
    failed = deepem(["train", "--micrographs", *micrographs, "--coordinates", str(boxes), "--diameter",
                     str(diameter_angst), "--training-preset", training_preset, "--seed", str(seed), "--output", str(folder / "model"),
                     *options])
    return None if failed else read_card(folder / "model"), time.perf_counter() - began


def pick(folder, micrographs, options, threshold="0", std_range="auto"):
    """Pick micrographs with the model of a folder: name -> coordinates with scores."""
    output = folder / f"picks-{threshold}-{std_range}"
    if deepem(["pick", "--model", str(folder / "model"), "--micrographs", *micrographs, "--threshold", threshold,
               "--std-range", std_range, "--output", str(output), *options]):
        sys.exit("picking failed")
    return read_coordinates(output)


def judged(matches):
    """Figures and curve, ready for JSON."""
    steps = curve(matches)
    scores = f_beta(steps.precision, steps.recall, 1)
    best = int(np.argmax(scores)) if len(scores) else None
    at = {} if best is None else {"F1": float(scores[best]), "precision": float(steps.precision[best]),
                                  "recall": float(steps.recall[best])}
    return {"AP": average_precision(steps), **at, "curve": {
        "threshold": steps.thresholds.tolist(), "precision": steps.precision.tolist(), "recall": steps.recall.tolist()}}


def simulated(name, scene, parts, options):
    """Simulate micrographs of the ribosome: the folder, with one folder for each part."""
    folder = RESULTS / name
    volume = options.data / RIBOSOME

    def make():
        for which, (number, seed) in parts.items():
            write_dataset(folder / which, scene, number, seed, read_volume(volume, VOXEL_ANGST), N_VIEWS, which)

    part(folder, {"scene": scene, "parts": parts, "views": N_VIEWS}, make, options.fresh)
    return folder


def micrographs_of(folder):
    """Paths of micrographs in a folder, by name."""
    return [str(path) for path in sorted((folder / "micrographs").glob("*.mrc"))]


def runs(options):
    """All pairs of recipe and seed."""
    return [(training_preset, seed) for training_preset in options.training_presets for seed in options.seeds]


def table(*rows):
    """Lines of a table in Markdown, the first row being its head."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def new_figure(width, height, columns=1):
    """A figure with panels side by side, sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


# Noise


def snr(options):
    """Noise, network and matched filter: plot and table."""
    rows = [("pixel size A", "SNR", "d'", "picked by", "AP", "best F1", "P", "R", "training s")]
    figure, (axes,) = new_figure(6.2, 4.6)
    for scene, colour in zip(NOISE_LEVELS, (GREEN, BLUE, VERMILION, ORANGE), strict=True):
        name = f"snr/{scene.snr:g}-{scene.pixel_size_angst:g}A"
        folder = simulated(name, scene, NOISY_PARTS, options)
        label = f"SNR {scene.snr:g} at {scene.pixel_size_angst:g} A"
        bound = part(folder / "filter", {"scene": scene, "filter": (FILTER_PIXEL_ANGST, FILTER_ANGLES, FILTERED)},
                     lambda scene=scene, folder=folder: filtered(scene, folder / "test", options), options.fresh)
        found = {}
        for training_preset, seed in runs(options):
            work = folder / f"{training_preset}-{seed}"
            found[f"{training_preset}, seed {seed}"] = part(
                work, {"scene": scene, "parts": NOISY_PARTS, "training_preset": TRAINING_PRESETS[training_preset]},
                lambda work=work, training_preset=training_preset, seed=seed, folder=folder, scene=scene: trained_on_noise(
                    work, folder, scene, training_preset, seed, options), options.fresh)
        for picker, figures in {**found, "matched filter": bound}.items():
            rows.append((f"{scene.pixel_size_angst:g}", f"{scene.snr:g}", f"{bound['d']:.1f}", picker,
                         *numbers(figures), f"{figures['seconds']:.0f}" if "seconds" in figures else ""))
            if "curve" in figures:
                style = "dashed" if figures is bound else "solid" if picker.startswith("default") else "dotted"
                axes.plot(figures["curve"]["recall"], figures["curve"]["precision"], color=colour, linestyle=style,
                          label=f"{label}, {picker} (AP {figures['AP']:.3f})")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=7, ncols=2, frameon=False)
    figure.savefig(RESULTS / "snr.png", dpi=100)
    return table(*rows)


def numbers(figures):
    """AP, best F1, its precision and recall as text."""
    return [f"{figures[key]:.3f}" if key in figures else "-" for key in ("AP", "F1", "precision", "recall")]


def larger(options):
    """More micrographs and a larger network against noise: table."""
    rows = [("training micrographs", "picked by", "AP", "best F1", "P", "R", "training s")]
    folder = simulated("larger", NOISY, LARGER_PARTS, options)
    for training_preset, seed in runs(options):
        work = folder / f"{training_preset}-{seed}"
        figures = part(work, {"scene": NOISY, "parts": LARGER_PARTS, "training_preset": TRAINING_PRESETS[training_preset], "options": LARGER},
                       lambda work=work, training_preset=training_preset, seed=seed: trained_on_noise(
                           work, folder, NOISY, training_preset, seed, options, LARGER), options.fresh)
        rows.append((LARGER_PARTS["training"][0], f"{training_preset}, seed {seed}, {' '.join(LARGER)}", *numbers(figures),
                     f"{figures['seconds']:.0f}"))
    return table(*rows)


def trained_on_noise(work, folder, scene, training_preset, seed, options, more=()):
    """Train on simulated micrographs and pick others; figures."""
    card, seconds = train(work, micrographs_of(folder / "training"), folder / "training" / "boxes",
                          scene.diameter_angst, training_preset, seed, [*more, *options.more])
    if card is None:
        return {"seconds": seconds}
    picks = pick(work, micrographs_of(folder / "test"), options.more)
    truth = read_coordinates(folder / "test" / "boxes")
    matches = match_all(truth, picks, DISTANCE * scene.diameter_px)
    return {**judged(pool(list(matches.values()))), "seconds": seconds, "geometry": card["geometry"],
            "working_pixel_size_angst": card["working_pixel_size_angst"]}


def filtered(scene, folder, options):
    """Pick simulated micrographs with a matched filter; figures, and the mean deflection of a particle (`d`)."""
    rng = np.random.default_rng(TEST_SEED)
    orientations = random_orientations(N_VIEWS, rng)  # those with which the test micrographs were simulated
    views = project(read_volume(options.data / RIBOSOME, VOXEL_ANGST), orientations, scene.pixel_size_angst)
    truth = read_coordinates(folder / "boxes")
    matches, deflections = [], []
    for path in micrographs_of(folder)[:FILTERED]:
        with mrcfile.open(path) as file:
            centres_xy, scores, deflection = matched_filter(scene, views, file.data)
        deflections.append(deflection)
        matches.append(match(centres_xy, scores, truth[Path(path).stem].centres_xy, DISTANCE * scene.diameter_px))
    return {**judged(pool(matches)), "d": float(np.mean(deflections))}


def matched_filter(scene, views, pixels):
    """Find particles by the likelihood ratio of the best view and angle: signal and noise are known exactly.

    Parameters
    ----------
    scene : Scene with white noise
    views : (n, size, size) projections that may be seen
    pixels : (side, side) micrograph, noise of deviation 1

    Returns
    -------
    Centres (m, 2) as x, y, logarithms of likelihood ratios (m,), and the deflection d' of a particle: the root mean
    square over views and angles of the signal's norm divided by the noise's deviation.
    """
    from scipy import fft, ndimage

    side, size = pixels.shape[0], views.shape[-1]
    grid = 2 * round(side * scene.pixel_size_angst / FILTER_PIXEL_ANGST / 2)
    middle = (size - 1) / 2
    row, column = fft.fftfreq(grid) * grid / side, fft.rfftfreq(grid) * grid / side  # cycles per pixel
    frequency = np.hypot(row[:, None], column[None]) / scene.pixel_size_angst
    transfer = np.where(frequency < 0.5 / FILTER_PIXEL_ANGST, contrast_transfer(frequency, scene), 0)
    transfer *= math.sqrt(scene.snr) / _disc_deviation(scene, views)
    along = np.arange(size) - middle
    to_rows = np.exp(-2j * np.pi * row[:, None] * along).astype(np.complex64)
    to_columns = np.exp(-2j * np.pi * along[:, None] * column).astype(np.complex64)
    image = fft.rfft2(pixels.astype(np.float32))
    image = np.concatenate([image[:grid // 2, :grid // 2 + 1], image[-grid // 2:, :grid // 2 + 1]])
    image *= transfer.astype(np.float32) * (grid / side)**2
    weights = np.where(np.isin(np.arange(grid // 2 + 1), (0, grid // 2)), 1, 2)  # a real image has half its spectrum
    best, energies = np.full((grid, grid), -np.inf, np.float32), []
    for view in views:
        for angle in np.arange(FILTER_ANGLES) * 360 / FILTER_ANGLES:
            turned = ndimage.rotate(view, angle, reshape=False).astype(np.float32)
            spectrum = to_rows @ turned @ to_columns
            energies.append(float((np.square(np.abs(spectrum) * transfer) @ weights).sum()) / side**2)
            ratio = fft.irfft2(image * spectrum.conj(), s=(grid, grid))
            np.maximum(best, ratio - np.float32(energies[-1] / 2), out=best)
    peaks = np.argwhere(best == ndimage.maximum_filter(best, 5))
    centres_xy, scores = peaks[:, ::-1] * (side / grid), best[tuple(peaks.T)].astype(float)
    candidates = Candidates(centres_xy, scores, np.zeros(len(scores)), np.full(len(scores), np.inf))
    kept = select(candidates, Limits(-np.inf, MIN_DISTANCE * scene.diameter_px), 1.0) == PICKED
    return centres_xy[kept], scores[kept], math.sqrt(np.mean(energies))


def _disc_deviation(scene, views):
    """Deviation of the images of single particles within half a diameter of their centres."""
    from scipy import fft

    size = views.shape[-1]
    side = fft.next_fast_len(4 * size)
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None]) / scene.pixel_size_angst
    transfer = contrast_transfer(frequency, scene)
    corner = (side - size) // 2
    within = np.hypot(*(np.indices((side, side)) - corner - (size - 1) / 2)) <= scene.diameter_px / 2
    values = []
    for view in views:
        canvas = np.zeros((side, side))
        canvas[corner:corner + size, corner:corner + size] = view
        values.append(fft.irfft2(fft.rfft2(canvas) * transfer, s=canvas.shape)[within])
    return float(np.std(values))


# Crowded micrographs


def crowded(options):
    """Touching particles, ice and carbon: two tables and two pictures."""
    groups = [("micrographs", "training_preset", "seed", "deviation filter", "touching: P", "touching: R", "single: P",
               "single: R", "false on ice and carbon", "false elsewhere")]
    for name, scene in {"crowded": CROWDED, "contaminated": CONTAMINATED}.items():
        folder = simulated(f"crowded/{name}", scene, CROWDED_PARTS, options)
        for training_preset, seed in runs(options):
            work = folder / f"{training_preset}-{seed}"
            found = part(work, {"scene": scene, "parts": CROWDED_PARTS, "training_preset": TRAINING_PRESETS[training_preset]},
                         lambda work=work, training_preset=training_preset, seed=seed, folder=folder, scene=scene: trained_on_crowds(
                             work, folder, scene, training_preset, seed, options), options.fresh)
            if not found:
                groups.append((name, training_preset, seed, "training failed", *["-"] * 6))
            for std_range, figures in found.items():
                groups.append((name, training_preset, seed, "on" if std_range == "auto" else "off",
                               *(f"{figures[key]:.3f}" for key in (
                                   "touching_precision", "touching_recall", "single_precision", "single_recall")),
                               f"{figures['false_on_dirt']:.1f}", f"{figures['false_elsewhere']:.1f}"))
        first = "-".join(map(str, runs(options)[0]))
        if (folder / first / "picks-auto-auto").exists():
            draw_example(folder, folder / first / "picks-auto-auto", scene, RESULTS / f"{name}.png")
    return table(*groups)


def trained_on_crowds(work, folder, scene, training_preset, seed, options):
    """Train on simulated micrographs, pick others with and without the deviation filter; figures of both."""
    card, _ = train(work, micrographs_of(folder / "training"), folder / "training" / "boxes", scene.diameter_angst,
                    training_preset, seed, options.more)
    if card is None:
        return {}
    truth = read_coordinates(folder / "test" / "boxes")
    dirt = dirty_places(scene, sorted(truth), options)
    return {std_range: by_group(scene, truth, pick(work, micrographs_of(folder / "test"), options.more, "auto",
                                                   std_range), dirt)
            for std_range in ("auto", "off")}


def dirty_places(scene, names, options):
    """Where ice and carbon are on the test micrographs: name -> (rows, columns) bool."""
    rng = np.random.default_rng(TEST_SEED)
    orientations = random_orientations(N_VIEWS, rng)
    views = project(read_volume(options.data / RIBOSOME, VOXEL_ANGST), orientations, scene.pixel_size_angst)
    dirt = {}
    for name in names:
        dirt[name] = simulate._surroundings(scene, copy.deepcopy(rng))[1]
        simulate_micrograph(scene, views, rng)
    return dirt


def by_group(scene, truth, picks, dirt):
    """Precision and recall of touching and of single particles, and false picks per micrograph.

    A false pick within a diameter of a particle counts against the group of the nearest one, all others as false on
    ice and carbon or elsewhere.
    """
    from scipy.spatial import cKDTree

    counts = dict.fromkeys(("touching", "single", "touching_right", "single_right", "touching_false", "single_false",
                            "dirt", "elsewhere"), 0)
    for name, known in truth.items():
        found = picks.get(name, Coordinates(np.empty((0, 2)), np.empty(0), None))
        tree = cKDTree(known.centres_xy)
        touches = tree.query(known.centres_xy, 2)[0][:, 1] <= TOUCHING * scene.diameter_px + 1  # boxes are rounded
        right = match(found.centres_xy, found.scores, known.centres_xy, DISTANCE * scene.diameter_px).correct
        distance, nearest = tree.query(found.centres_xy)
        column, row = np.clip(np.rint(found.centres_xy).astype(int), 0, np.array(scene.shape[::-1]) - 1).T
        near = distance <= scene.diameter_px
        for group, members in (("touching", touches), ("single", ~touches)):
            counts[group] += int(members.sum())
            counts[f"{group}_right"] += int((right & members[nearest]).sum())
            counts[f"{group}_false"] += int((~right & near & members[nearest] & ~dirt[name][row, column]).sum())
        counts["dirt"] += int((~right & dirt[name][row, column]).sum())
        counts["elsewhere"] += int((~right & ~near & ~dirt[name][row, column]).sum())
    figures = {"false_on_dirt": counts["dirt"] / len(truth), "false_elsewhere": counts["elsewhere"] / len(truth)}
    for group in ("touching", "single"):
        n_true_positives = counts[f"{group}_right"]
        figures[f"{group}_recall"] = n_true_positives / max(counts[group], 1)
        figures[f"{group}_precision"] = n_true_positives / max(n_true_positives + counts[f"{group}_false"], 1)
    return {**figures, "particles": counts["touching"] + counts["single"], "touching": counts["touching"]}


def draw_example(folder, picks, scene, path):
    """Picture of the first test micrograph with picks, small enough for a page."""
    from PIL import Image

    micrograph = micrographs_of(folder / "test")[0]
    name = Path(micrograph).stem
    found = read_coordinates(picks)[name]
    draw_picks(read_micrograph(micrograph).pixels, found.centres_xy, found.scores, scene.diameter_px, path,
               read_coordinates(folder / "test" / "boxes")[name].centres_xy, path.stem)
    with Image.open(path) as image:
        size = PICTURE_PX, round(PICTURE_PX * image.height / image.width)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small = small.quantize(PICTURE_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # keeps rare colours
    small.save(path, optimize=True)


# Threshold


def threshold(options):
    """F2 against the threshold on validation and on test micrographs of the real sets: plot and table."""
    rows = [("set", "training_preset", "seed", "threshold", "P validation", "P test", "difference, points", "R validation",
             "R test", "difference, points", "F2 validation", "F2 test", "best F2 test")]
    figure, panels = new_figure(8.6, 3.6, len(SETS))
    for axes, (name, data) in zip(panels, SETS.items()):
        for (training_preset, seed), colour in zip(runs(options), (BLUE, VERMILION, GREEN, ORANGE, SKY) * len(runs(options))):
            work = RESULTS / "threshold" / f"{name}-{training_preset}-{seed}"
            found = part(work, {"set": data, "training_preset": TRAINING_PRESETS[training_preset]},
                         lambda work=work, name=name, data=data, training_preset=training_preset, seed=seed: trained_on_set(
                             work, options.data / name, data, training_preset, seed, options), options.fresh)
            for style, which in (("dashed", "validation"), ("solid", "test")):
                points = {key: np.array(values) for key, values in found[which]["curve"].items()}
                axes.plot(points["threshold"], f_beta(points["precision"], points["recall"], 2), color=colour,
                          linestyle=style, label=f"{training_preset}, {which}" if seed == options.seeds[0] else None)
            axes.axvline(found["threshold"], color=colour, linestyle="dotted",
                         label=f"{training_preset}, threshold `auto`" if seed == options.seeds[0] else None)
            given, seen = found["validation"], found["test"]
            cells = [f"{given[key]:.3f}|{seen[key]:.3f}|{100 * (seen[key] - given[key]):+.1f}".split("|")
                     for key in ("precision", "recall")]
            rows.append((name, training_preset, seed, f"{found['threshold']:.3f}", *cells[0], *cells[1], f"{given['F2']:.3f}",
                         f"{seen['F2']:.3f}", f"{seen['best_F2']:.3f}"))
        axes.set(xlabel="threshold (score)", ylabel="F2", title=name, xlim=(0, 1), ylim=(0.5, 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower center")
    figure.savefig(RESULTS / "threshold.png", dpi=100)
    return table(*rows)


def trained_on_set(work, folder, data, training_preset, seed, options):
    """Train on the first micrographs of a real set and pick the others; figures at the automatic threshold."""
    names = sorted(path.stem for path in (folder / "micrographs").glob("*.mrc"))
    (training, test), = splits(names, data.train, 0)
    card, _ = train(work, files(folder, training), folder / "boxes", data.diameter_angst, training_preset, seed, options.more)
    if card is None:
        sys.exit(f"training on {folder.name} failed")
    truth = {name: known for name, known in read_coordinates(folder / "boxes").items() if name in test}
    picks = pick(work, files(folder, test), options.more)
    distance_px = DISTANCE * data.diameter_angst / read_pixel_size(files(folder, test)[0])
    result = evaluate(truth, picks, distance_px, data.region, card["threshold"])
    seen = {key: result["overall"][key] for key in ("precision", "recall", "F2")}
    seen |= {"best_F2": result["overall"]["best_F2"]["F2"], "curve": result["curve"]}
    given = {key: card["validation"][key] for key in ("precision", "recall", "F2", "curve")}
    return {"threshold": card["threshold"], "validation": given, "test": seen}


# Number of training particles


def size(options):
    """Number of training particles of the real sets: plot and table."""
    rows = [("set", "training_preset", "seed", "particles", "held out (sum)", "AP", "best F1", "P", "R", "training s")]
    figure, panels = new_figure(8.6, 3.6, len(SETS))
    for axes, (name, data) in zip(panels, SETS.items()):
        for training_preset, colour in zip(options.training_presets, (BLUE, VERMILION, GREEN, ORANGE, SKY)):
            for seed in options.seeds:
                points = []
                for number in SIZES[name]:
                    work = RESULTS / "size" / f"{name}-{number or 'all'}-{training_preset}-{seed}"
                    found = part(work, {"set": data, "micrographs": SIZE_MICROGRAPHS, "training_preset": TRAINING_PRESETS[training_preset]},
                                 lambda work=work, name=name, data=data, number=number, training_preset=training_preset, seed=seed:
                                 trained_on_some(work, options.data / name, data, number, training_preset, seed, options),
                                 options.fresh)
                    rows.append((name, training_preset, seed, found["particles"], found.get("validation", "-"), *numbers(found),
                                 f"{found['seconds']:.0f}"))
                    points.append((found["particles"], found.get("AP", np.nan), found.get("F1", np.nan)))
                counts, areas, scores = zip(*points)
                label = [f"{training_preset}, {what}" if seed == options.seeds[0] else None for what in ("best F1", "AP")]
                axes.plot(counts, scores, "o-", color=colour, label=label[0])
                axes.plot(counts, areas, "s--", color=colour, fillstyle="none", label=label[1])
        axes.set(xlabel="training particles", title=name, xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    figure.savefig(RESULTS / "size.png", dpi=100)
    return table(*rows)


def trained_on_some(work, folder, data, number, training_preset, seed, options):
    """Train on a number of particles of a real set (None: all) and pick the test micrographs; figures."""
    names = sorted(path.stem for path in (folder / "micrographs").glob("*.mrc"))
    (training, test), = splits(names, data.train, 0)
    training = training[:SIZE_MICROGRAPHS]
    known = read_coordinates(folder / "boxes")
    n_particles = sum(cut_out(folder, name, known[name], data.region, number and number // len(training), work / "data")
                      for name in training)
    card, seconds = train(work, micrographs_of(work / "data"), work / "data" / "boxes", data.diameter_angst, training_preset,
                          seed, options.more)
    found = {"particles": n_particles, "seconds": seconds}
    if card is None:
        return found
    picks = pick(work, files(folder, test), options.more)
    matches = match_all({name: known[name] for name in test}, picks, data.distances_px[0], data.region)
    return {**found, **judged(pool(list(matches.values()))), "validation": card["validation"]["particles"]}


def cut_out(folder, name, known, region, number, output):
    """Cut a rectangle with so many particles from the middle of a micrograph; returns how many are in it.

    All particles in it are marked, so that what is far from them is no particle: leaving some of a whole micrograph
    unmarked would teach the network that they are none. The rectangle is similar to the annotated region, which is
    what remains where `number` is None.
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
    inside = (centres_xy >= 0) & (centres_xy <= (x1 - x0 - 1.5, y1 - y0 - 1.5))  # still so when boxes are rounded
    centres_xy = centres_xy[inside.all(axis=1)]
    for kind in ("micrographs", "boxes"):
        (output / kind).mkdir(parents=True, exist_ok=True)
    with mrcfile.open(folder / "micrographs" / f"{name}.mrc") as file:
        pixels, voxel_size = file.data[y0:y1, x0:x1], file.voxel_size.copy()
    with mrcfile.new(output / "micrographs" / f"{name}.mrc", pixels, overwrite=True) as file:
        file.voxel_size = voxel_size
    write_box(output / "boxes" / f"{name}.box", centres_xy, np.full(len(centres_xy), np.nan), known.box_px)
    return len(centres_xy)


STUDIES = {"snr": snr, "larger": larger, "crowded": crowded, "threshold": threshold, "size": size}


def main():
    """Run the studies and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("DEEPEM_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--data", type=Path, default=default, help="folder of the annotated sets and the ribosome")
    parser.add_argument("--training-presets", nargs="+", default=["default", "paper"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--fresh", action="store_true", help="repeat what was done before")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: no annotated micrographs at {options.data}; set DEEPEM_SHARED or give --data")
        return 0
    options.more = ["--threads", str(options.threads)] if options.threads else []
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True,
                            text=True).stdout
    RESULTS.mkdir(parents=True, exist_ok=True)
    lines = [f"`python benchmarks/studies.py {' '.join(sys.argv[1:])}` at commit {commit.strip()}"]
    for name in options.studies:
        lines += ["", f"## {name}", "", *STUDIES[name](options)]
        (RESULTS / "studies.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
