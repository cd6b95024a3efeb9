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
import sys

import common
import numpy as np
from common import SETS, add_data_option, files, has_data, micrograph_names, splits, table, title
from study import (
    CONTAMINATED,
    CROWDED,
    DISTANCE,
    N_VIEWS,
    RIBOSOME,
    TEST_SEED,
    VOXEL_ANGST,
    crop,
    draw_example,
    figures_of,
    micrographs_of,
    new_figure,
    numbers,
    part,
    pick,
    runs,
    simulated,
    train,
)
from study_noise import larger, snr

from deepem_scipion.deepem import Coordinates, evaluate, read_coordinates
from deepem_scipion.deepem.evaluation import f_beta, match, match_all, pool
from deepem_scipion.deepem.micrographs import read_pixel_size
from deepem_scipion.deepem.report.axes import BLUE, GREEN, ORANGE, SKY, VERMILION
from deepem_scipion.deepem.simulation import (
    draw_background,
    project,
    random_orientations,
    read_volume,
    simulate_micrograph,
)
from deepem_scipion.deepem.training import TRAINING_PRESETS

RESULTS = common.RESULTS / "studies"
CROWDED_PARTS = {"training": (8, 1), "test": (8, TEST_SEED)}
# Particles touch if they are at most this many diameters apart.
TOUCHING = 1.051
SIZES = {"apoferritin": (100, 200, 400, None), "empiar10017": (100, 400, 800, 1200, None)}
SIZE_MICROGRAPHS = 4


# Crowded micrographs


def crowded(options):
    """Touching particles, ice and carbon: table and pictures."""
    groups = [("micrographs", "training preset", "seed", "local standard deviation filter", "touching: P",
               "touching: R", "single: P", "single: R", "false positives on ice and carbon", "elsewhere")]
    for name, scene in {"crowded": CROWDED, "contaminated": CONTAMINATED}.items():
        folder = simulated(RESULTS / f"crowded/{name}", scene, CROWDED_PARTS, options)
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
