# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The studies of the paper: noise, crowded micrographs, choice of the threshold, number of training particles.

    python benchmarks/studies.py [--studies snr larger crowded threshold size] [--data FOLDER]
                                 [--training-presets NAME ...] [--seeds N ...] [--threads N] [--fresh]

snr        simulated micrographs of a ribosome with increasing noise (Fig. 6), and a matched filter that knows the
           particle exactly: where it fails, too, noise is the limit
larger     the lowest of these noise levels with more micrographs and a larger network
crowded    simulated micrographs with touching particles, and with ice and carbon (Fig. 5), with and without the local
           standard deviation filter
threshold  F2 against the threshold on validation and on test micrographs of the experimental sets (Fig. 3e)
size       number of training particles of the experimental sets (Fig. 4)

The script writes tables in Markdown and plots to benchmarks/results/studies, where simulated micrographs and models are
kept, too. Parts that were done with the same settings and training preset are not repeated; give --fresh after other
changes of the code.
"""

import argparse
import copy
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import common
import mrcfile
import numpy as np
from common import SETS, add_data_option, files, has_data, micrograph_names, read_picks, splits, table, title

from deepem_scipion.deepem import Coordinates, Limits, evaluate, read_coordinates, read_micrograph
from deepem_scipion.deepem.commands.main import main as deepem
from deepem_scipion.deepem.coordinates import write_box
from deepem_scipion.deepem.evaluation import average_precision, curve, f_beta, match, match_all, pool
from deepem_scipion.deepem.micrographs import read_pixel_size
from deepem_scipion.deepem.model import read_card
from deepem_scipion.deepem.picking import Candidates, select
from deepem_scipion.deepem.picking.selection import MIN_DISTANCE, PICKED
from deepem_scipion.deepem.report import draw_picks
from deepem_scipion.deepem.report.axes import BLUE, GREEN, ORANGE, SKY, VERMILION
from deepem_scipion.deepem.simulation import (
    Scene,
    contrast_transfer,
    draw_background,
    project,
    random_orientations,
    read_volume,
    simulate_micrograph,
    write_dataset,
)
from deepem_scipion.deepem.training import TRAINING_PRESETS

RESULTS = common.RESULTS / "studies"
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
NOISE_LEVELS = (NOISY, replace(NOISY, snr=0.005), replace(NOISY, snr=0.001), COARSE)
NOISY_PARTS = {"training": (16, 1), "test": (8, TEST_SEED)}
LARGER_PARTS = {**NOISY_PARTS, "training": (48, 1)}
LARGER = ("--maps", "12", "24", "24", "--epochs", "30")
# Pixel size of the matched filter, number of its in-plane angles, and number of test micrographs that it picks.
FILTER_PIXEL_ANGST, FILTER_ANGLES, FILTERED = 10.0, 48, 4

CROWDED = replace(COARSE, snr=0.05, n_particles=150, spacing=1.05, touching_fraction=0.5)
CONTAMINATED = replace(COARSE, snr=0.05, n_particles=70, spacing=1.05, touching_fraction=0.3, ice=8, carbon=0.15,
                       gradient=1.0)
CROWDED_PARTS = {"training": (8, 1), "test": (8, TEST_SEED)}
# Particles touch if they are at most this many diameters apart.
TOUCHING = 1.051

SIZES = {"apoferritin": (100, 200, 400, None), "empiar10017": (100, 400, 800, 1200, None)}
SIZE_MICROGRAPHS = 4

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
    print(folder.relative_to(RESULTS), file=sys.stderr, flush=True)
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
               "--std-range", std_range, "--output", str(output), *options]):
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


def simulated(name, scene, parts, options):
    """Simulate micrographs of the ribosome; their folder, with a subfolder for each part."""
    folder = RESULTS / name
    volume = options.data / RIBOSOME

    def make():
        for which, (number, seed) in parts.items():
            write_dataset(folder / which, scene, number, seed, read_volume(volume, VOXEL_ANGST), N_VIEWS, which)

    part(folder, {"scene": scene, "parts": parts, "views": N_VIEWS}, options.fresh, make)
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


# Noise


def snr(options):
    """Networks and matched filter at several noise levels: plot and table."""
    rows = [("pixel size A", "SNR", "d'", "picked by", "AP", "best F1", "P", "R", "training s")]
    figure, (axes,) = new_figure(6.2, 4.6)
    for scene, colour in zip(NOISE_LEVELS, (GREEN, BLUE, VERMILION, ORANGE), strict=True):
        name = f"snr/{scene.snr:g}-{scene.pixel_size_angst:g}A"
        folder = simulated(name, scene, NOISY_PARTS, options)
        label = f"SNR {scene.snr:g} at {scene.pixel_size_angst:g} A"
        bound = part(folder / "filter", {"scene": scene, "filter": (FILTER_PIXEL_ANGST, FILTER_ANGLES, FILTERED)},
                     options.fresh, filtered, scene, folder / "test", options)
        found = {}
        for preset, seed in runs(options):
            work = folder / f"{preset}-{seed}"
            found[f"{preset}, seed {seed}"] = part(
                work, {"scene": scene, "parts": NOISY_PARTS, "training_preset": TRAINING_PRESETS[preset]},
                options.fresh, trained_on_noise, work, folder, scene, preset, seed, options)
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
    """Noisy micrographs, with more of them and a larger network: table."""
    rows = [("training micrographs", "picked by", "AP", "best F1", "P", "R", "training s")]
    folder = simulated("larger", NOISY, LARGER_PARTS, options)
    for preset, seed in runs(options):
        work = folder / f"{preset}-{seed}"
        settings = {"scene": NOISY, "parts": LARGER_PARTS, "training_preset": TRAINING_PRESETS[preset],
                    "options": LARGER}
        figures = part(work, settings, options.fresh, trained_on_noise, work, folder, NOISY, preset, seed, options,
                       LARGER)
        rows.append((LARGER_PARTS["training"][0], f"{preset}, seed {seed}, {' '.join(LARGER)}", *numbers(figures),
                     f"{figures['seconds']:.0f}"))
    return table(*rows)


def trained_on_noise(work, folder, scene, preset, seed, options, more=()):
    """Train on simulated micrographs, pick others and return the figures."""
    card, seconds = train(work, micrographs_of(folder / "training"), folder / "training" / "boxes",
                          scene.diameter_angst, preset, seed, [*more, *options.more])
    if card is None:
        return {"seconds": seconds}
    picks = pick(work, micrographs_of(folder / "test"), options.more)
    reference = read_coordinates(folder / "test" / "boxes")
    matches = match_all(reference, picks, DISTANCE * scene.diameter_px)
    return {**figures_of(pool(list(matches.values()))), "seconds": seconds, "geometry": card["geometry"],
            "working_pixel_size_angst": card["working_pixel_size_angst"]}


def filtered(scene, folder, options):
    """Pick simulated micrographs with a matched filter; figures, and the mean detectability index (`d`)."""
    rng = np.random.default_rng(TEST_SEED)
    orientations = random_orientations(N_VIEWS, rng)  # those of the simulated test micrographs
    views = project(read_volume(options.data / RIBOSOME, VOXEL_ANGST), orientations, scene.pixel_size_angst)
    reference = read_coordinates(folder / "boxes")
    matches, indices = [], []
    for path in micrographs_of(folder)[:FILTERED]:
        with mrcfile.open(path) as file:
            centres_xy, scores, index = matched_filter(scene, views, file.data)
        indices.append(index)
        matches.append(match(centres_xy, scores, reference[Path(path).stem].centres_xy, DISTANCE * scene.diameter_px))
    return {**figures_of(pool(matches)), "d": float(np.mean(indices))}


def matched_filter(scene, views, pixels):
    """Find particles by the likelihood ratio of the best view and angle, with known signal and noise.

    Parameters
    ----------
    scene : Scene
        Scene with white noise.
    views : (n, size, size) array
        Projections of the particle.
    pixels : (side, side) array
        Micrograph, with noise of standard deviation 1.

    Returns
    -------
    centres_xy : (m, 2) array
        Centres as x, y.
    scores : (m,) array
        Logarithms of the likelihood ratios.
    index : float
        Detectability index d': root mean square, over views and angles, of the norm of the signal divided by the
        standard deviation of the noise.
    """
    from scipy import fft, ndimage

    side, size = pixels.shape[0], views.shape[-1]
    grid = 2 * round(side * scene.pixel_size_angst / FILTER_PIXEL_ANGST / 2)
    middle = (size - 1) / 2
    row, column = fft.fftfreq(grid) * grid / side, fft.rfftfreq(grid) * grid / side  # cycles per pixel
    frequency = np.hypot(row[:, None], column[None]) / scene.pixel_size_angst
    transfer = np.where(frequency < 0.5 / FILTER_PIXEL_ANGST, contrast_transfer(frequency, scene), 0)
    transfer *= math.sqrt(scene.snr) / signal_std(scene, views)
    along = np.arange(size) - middle
    to_rows = np.exp(-2j * np.pi * row[:, None] * along).astype(np.complex64)
    to_columns = np.exp(-2j * np.pi * along[:, None] * column).astype(np.complex64)
    image = fft.rfft2(pixels.astype(np.float32))
    image = np.concatenate([image[:grid // 2, :grid // 2 + 1], image[-grid // 2:, :grid // 2 + 1]])
    image *= transfer.astype(np.float32) * (grid / side)**2
    weights = np.where(np.isin(np.arange(grid // 2 + 1), (0, grid // 2)), 1, 2)  # half the spectrum of a real image
    best, energies = np.full((grid, grid), -np.inf, np.float32), []
    for view in views:
        for angle in np.arange(FILTER_ANGLES) * 360 / FILTER_ANGLES:
            rotated = ndimage.rotate(view, angle, reshape=False).astype(np.float32)
            spectrum = to_rows @ rotated @ to_columns
            energies.append(float((np.square(np.abs(spectrum) * transfer) @ weights).sum()) / side**2)
            ratio = fft.irfft2(image * spectrum.conj(), s=(grid, grid))
            np.maximum(best, ratio - np.float32(energies[-1] / 2), out=best)
    peaks = np.argwhere(best == ndimage.maximum_filter(best, 5))
    centres_xy, scores = peaks[:, ::-1] * (side / grid), best[tuple(peaks.T)].astype(float)
    candidates = Candidates(centres_xy, scores, np.zeros(len(scores)), np.full(len(scores), np.inf))
    kept = select(candidates, Limits(-np.inf, MIN_DISTANCE * scene.diameter_px), 1.0) == PICKED
    return centres_xy[kept], scores[kept], math.sqrt(np.mean(energies))


def signal_std(scene, views):
    """Standard deviation of images of single particles within half a diameter of their centres."""
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
    """Touching particles, ice and carbon: table and pictures."""
    groups = [("micrographs", "training preset", "seed", "local standard deviation filter", "touching: P",
               "touching: R", "single: P", "single: R", "false positives on ice and carbon", "elsewhere")]
    for name, scene in {"crowded": CROWDED, "contaminated": CONTAMINATED}.items():
        folder = simulated(f"crowded/{name}", scene, CROWDED_PARTS, options)
        for preset, seed in runs(options):
            work = folder / f"{preset}-{seed}"
            settings = {"scene": scene, "parts": CROWDED_PARTS, "training_preset": TRAINING_PRESETS[preset]}
            found = part(work, settings, options.fresh, trained_on_crowds, work, folder, scene, preset, seed, options)
            if not found:
                groups.append((name, preset, seed, "training failed", *["-"] * 6))
            for std_range, figures in found.items():
                groups.append((name, preset, seed, "on" if std_range == "auto" else "off",
                               *(f"{figures[key]:.3f}" for key in (
                                   "touching_precision", "touching_recall", "single_precision", "single_recall")),
                               f"{figures['false_on_contaminants']:.1f}", f"{figures['false_elsewhere']:.1f}"))
        first = "-".join(map(str, runs(options)[0]))
        if (folder / first / "picks-auto-auto").exists():
            draw_example(folder, folder / first / "picks-auto-auto", scene, RESULTS / f"{name}.png")
    return table(*groups)


def trained_on_crowds(work, folder, scene, preset, seed, options):
    """Train on simulated micrographs, pick others with and without the local standard deviation filter; figures."""
    card, _ = train(work, micrographs_of(folder / "training"), folder / "training" / "boxes", scene.diameter_angst,
                    preset, seed, options.more)
    if card is None:
        return {}
    reference = read_coordinates(folder / "test" / "boxes")
    contaminated = contaminated_areas(scene, sorted(reference), options)
    micrographs = micrographs_of(folder / "test")
    return {std_range: by_group(scene, reference, pick(work, micrographs, options.more, "auto", std_range),
                                contaminated) for std_range in ("auto", "off")}


def contaminated_areas(scene, names, options):
    """Ice and carbon on the test micrographs: name -> (rows, columns) bool array."""
    rng = np.random.default_rng(TEST_SEED)
    orientations = random_orientations(N_VIEWS, rng)
    views = project(read_volume(options.data / RIBOSOME, VOXEL_ANGST), orientations, scene.pixel_size_angst)
    areas = {}
    for name in names:
        areas[name] = draw_background(scene, copy.deepcopy(rng))[1]
        simulate_micrograph(scene, views, rng)
    return areas


def by_group(scene, reference, picks, contaminated):
    """Precision and recall of touching and of single particles, and other false positives per micrograph.

    A false positive within a diameter of a particle counts in the group of the closest particle; all others are
    counted on ice and carbon or elsewhere.
    """
    from scipy.spatial import cKDTree

    counts = dict.fromkeys(("touching", "single", "touching_correct", "single_correct", "touching_false",
                            "single_false", "contaminants", "elsewhere"), 0)
    for name, known in reference.items():
        found = picks.get(name, Coordinates(np.empty((0, 2)), np.empty(0), None))
        tree = cKDTree(known.centres_xy)
        touches = tree.query(known.centres_xy, 2)[0][:, 1] <= TOUCHING * scene.diameter_px + 1  # boxes are rounded
        correct = match(found.centres_xy, found.scores, known.centres_xy, DISTANCE * scene.diameter_px).correct
        distance, closest = tree.query(found.centres_xy)
        column, row = np.clip(np.rint(found.centres_xy).astype(int), 0, np.array(scene.shape[::-1]) - 1).T
        near, on_contaminants = distance <= scene.diameter_px, contaminated[name][row, column]
        for group, members in (("touching", touches), ("single", ~touches)):
            counts[group] += int(members.sum())
            counts[f"{group}_correct"] += int((correct & members[closest]).sum())
            counts[f"{group}_false"] += int((~correct & near & members[closest] & ~on_contaminants).sum())
        counts["contaminants"] += int((~correct & on_contaminants).sum())
        counts["elsewhere"] += int((~correct & ~near & ~on_contaminants).sum())
    figures = {"false_on_contaminants": counts["contaminants"] / len(reference),
               "false_elsewhere": counts["elsewhere"] / len(reference)}
    for group in ("touching", "single"):
        n_true_positives = counts[f"{group}_correct"]
        figures[f"{group}_recall"] = n_true_positives / max(counts[group], 1)
        figures[f"{group}_precision"] = n_true_positives / max(n_true_positives + counts[f"{group}_false"], 1)
    return {**figures, "particles": counts["touching"] + counts["single"], "touching": counts["touching"]}


def draw_example(folder, picks, scene, path):
    """Draw the first test micrograph with its picks, small enough for a page."""
    from PIL import Image

    micrograph = micrographs_of(folder / "test")[0]
    name = Path(micrograph).stem
    found = read_picks(picks)[name]
    draw_picks(read_micrograph(micrograph).pixels, found.centres_xy, found.scores, scene.diameter_px, path,
               read_coordinates(folder / "test" / "boxes")[name].centres_xy, path.stem)
    with Image.open(path) as image:
        size = PICTURE_PX, round(PICTURE_PX * image.height / image.width)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small = small.quantize(PICTURE_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # keeps rare colours
    small.save(path, optimize=True)


# Threshold


def threshold(options):
    """F2 against the threshold on validation and test micrographs of the experimental sets: plot and table."""
    rows = [("set", "training preset", "seed", "threshold", "P validation", "P test", "difference, points",
             "R validation", "R test", "difference, points", "F2 validation", "F2 test", "best F2 test")]
    figure, panels = new_figure(8.6, 3.6, len(SETS))
    for axes, (name, data) in zip(panels, SETS.items()):
        colours = (BLUE, VERMILION, GREEN, ORANGE, SKY) * len(runs(options))
        for (preset, seed), colour in zip(runs(options), colours):
            work = RESULTS / "threshold" / f"{name}-{preset}-{seed}"
            found = part(work, {"set": data, "training_preset": TRAINING_PRESETS[preset]}, options.fresh,
                         trained_on_set, work, options.data / name, data, preset, seed, options)
            for style, which in (("dashed", "validation"), ("solid", "test")):
                points = {key: np.array(values) for key, values in found[which]["curve"].items()}
                axes.plot(points["threshold"], f_beta(points["precision"], points["recall"], 2), color=colour,
                          linestyle=style, label=f"{preset}, {which}" if seed == options.seeds[0] else None)
            axes.axvline(found["threshold"], color=colour, linestyle="dotted",
                         label=f"{preset}, threshold `auto`" if seed == options.seeds[0] else None)
            validation, test = found["validation"], found["test"]
            cells = [f"{validation[key]:.3f}|{test[key]:.3f}|{100 * (test[key] - validation[key]):+.1f}".split("|")
                     for key in ("precision", "recall")]
            rows.append((name, preset, seed, f"{found['threshold']:.3f}", *cells[0], *cells[1],
                         *(f"{value:.3f}" for value in (validation["F2"], test["F2"], test["best_F2"]))))
        axes.set(xlabel="threshold (score)", ylabel="F2", title=name, xlim=(0, 1), ylim=(0.5, 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower center")
    figure.savefig(RESULTS / "threshold.png", dpi=100)
    return table(*rows)


def trained_on_set(work, folder, data, preset, seed, options):
    """Train on the first micrographs of an experimental set, pick the others; figures at the suggested threshold."""
    names = micrograph_names(folder)
    (training, test), = splits(names, data.train, 0)
    card, _ = train(work, files(folder, training), folder / "boxes", data.diameter_angst, preset, seed,
                    options.more)
    if card is None:
        sys.exit(f"training on {folder.name} failed")
    reference = {name: known for name, known in read_coordinates(folder / "boxes").items() if name in test}
    picks = pick(work, files(folder, test), options.more)
    distance_px = DISTANCE * data.diameter_angst / read_pixel_size(files(folder, test)[0])
    result = evaluate(reference, picks, distance_px, data.region, card["threshold"])
    found = {key: result["overall"][key] for key in ("precision", "recall", "F2")}
    return {"threshold": card["threshold"],
            "validation": {key: card["validation"][key] for key in ("precision", "recall", "F2", "curve")},
            "test": {**found, "best_F2": result["overall"]["best_F2"]["F2"], "curve": result["curve"]}}


# Number of training particles


def size(options):
    """Number of training particles of the experimental sets: plot and table."""
    rows = [("set", "training preset", "seed", "particles", "of these for validation (sum)", "AP", "best F1", "P", "R",
             "training s")]
    figure, panels = new_figure(8.6, 3.6, len(SETS))
    for axes, (name, data) in zip(panels, SETS.items()):
        for preset, colour in zip(options.training_presets, (BLUE, VERMILION, GREEN, ORANGE, SKY)):
            for seed in options.seeds:
                points = []
                for number in SIZES[name]:
                    work = RESULTS / "size" / f"{name}-{number or 'all'}-{preset}-{seed}"
                    settings = {"set": data, "micrographs": SIZE_MICROGRAPHS,
                                "training_preset": TRAINING_PRESETS[preset]}
                    found = part(work, settings, options.fresh, trained_on_some, work, options.data / name, data,
                                 number, preset, seed, options)
                    rows.append((name, preset, seed, found["particles"], found.get("validation", "-"),
                                 *numbers(found), f"{found['seconds']:.0f}"))
                    points.append((found["particles"], found.get("AP", np.nan), found.get("F1", np.nan)))
                counts, areas, scores = zip(*points)
                label = [f"{preset}, {what}" if seed == options.seeds[0] else None for what in ("best F1", "AP")]
                axes.plot(counts, scores, "o-", color=colour, label=label[0])
                axes.plot(counts, areas, "s--", color=colour, fillstyle="none", label=label[1])
        axes.set(xlabel="training particles", title=name, xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    figure.savefig(RESULTS / "size.png", dpi=100)
    return table(*rows)


def trained_on_some(work, folder, data, number, preset, seed, options):
    """Train on a number of particles of an experimental set (None: all), pick the test micrographs; figures."""
    names = micrograph_names(folder)
    (training, test), = splits(names, data.train, 0)
    training = training[:SIZE_MICROGRAPHS]
    known = read_coordinates(folder / "boxes")
    n_particles = sum(crop(folder, name, known[name], data.region, number and number // len(training), work / "data")
                      for name in training)
    card, seconds = train(work, micrographs_of(work / "data"), work / "data" / "boxes", data.diameter_angst, preset,
                          seed, options.more)
    found = {"particles": n_particles, "seconds": seconds}
    if card is None:
        return found
    picks = pick(work, files(folder, test), options.more)
    matches = match_all({name: known[name] for name in test}, picks, data.distances_px[0], data.region)
    return {**found, **figures_of(pool(list(matches.values()))), "validation": card["validation"]["particles"]}


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


STUDIES = {"snr": snr, "larger": larger, "crowded": crowded, "threshold": threshold, "size": size}


def main():
    """Run the studies and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    add_data_option(parser)
    parser.add_argument("--training-presets", nargs="+", default=["default", "paper"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--fresh", action="store_true", help="repeat parts that were done before")
    options = parser.parse_args()
    if not has_data(options, *SETS, RIBOSOME.parent):
        return 0
    options.more = ["--threads", str(options.threads)] if options.threads else []
    RESULTS.mkdir(parents=True, exist_ok=True)
    lines = [title()]
    for name in options.studies:
        lines += ["", f"## {name}", "", *STUDIES[name](options)]
        (RESULTS / "studies.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
