# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of the paper with its own procedure and with the default one, side by side.

    python benchmarks/paper.py [--studies NAME ...] [--procedures NAME ...] [--sets NAME ...] [--data FOLDER]
                               [--fresh]

curves      F2 against the threshold, precision against recall, picks, and boxes of the training, of experimental sets
            (Fig. 3); for KLH the paper's procedure uses the paper's network, at half the scale
layers      feature maps of a particle and of a negative through all layers
rounds      a second round, with the mistakes on further micrographs (Fig. 2)
size        number of training particles of apoferritin (Fig. 4)
views       few wheel-shaped particles on simulated micrographs, all seen from the side: bars without features (Fig. 5)
noise       simulated micrographs at two levels of noise (Fig. 6)
filter      simulated micrographs with ice, carbon and empty film, by models that were trained without any, with and
            without the range of the standard deviation
overlaps    crowded simulated micrographs with overlapping particles, which are particles or negatives (Fig. 5)

Other networks are the automatic ones. By the paper's procedure the network is updated as often as with 800 particles in
20 epochs, by showing fewer particles in more epochs; with that of KLH KLH_UPDATES times, on simulated micrographs
SIMULATED_UPDATES times. The script writes tables in Markdown and plots to benchmarks/results/paper; parts that were
done with the same settings are not repeated.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np
from common import DataSet, add_data_option, has_data, micrograph_names, read_picks, table, title
from paper_runs import (
    FIGURES,
    PROCEDURES,
    RESULTS,
    SIMULATED_UPDATES,
    UPDATES,
    draw,
    draw_curves,
    experiment,
    finish,
    picked,
    row_of,
    settings,
    simulated_points,
    simulation,
    train,
    without_range,
)
from scipy.spatial import cKDTree
from study import (
    COARSE,
    CONTAMINATED,
    CROWDED,
    N_VIEWS,
    RIBOSOME,
    TEST_SEED,
    VOXEL_ANGST,
    crop,
    draw_example,
    micrographs_of,
    new_figure,
    part,
    simulated,
    small,
)

from deepem_scipion.deepem import load_model, read_coordinates
from deepem_scipion.deepem.evaluation import classify_picks
from deepem_scipion.deepem.report import draw_examples, draw_layers
from deepem_scipion.deepem.simulation import klh_like_volume, random_orientations

# Diameter, number of training micrographs, matching distance and annotated region.
SETS = {"apoferritin": DataSet(120, 4, (31,), (20, 20, 1220, 1180)),
        "empiar10028": DataSet(300, 3, (28,), (34, 34, 990, 990)),
        "klh_processed": DataSet(400, 3, (68,), (0, 0, 2047, 2047))}
# The network of the paper for KLH with half its box and kernels, on pixels of twice the size.
KLH = ("--working-pixel-size", "4.4", "--box", "136", "--kernels", "26", "10", "5", "--pools", "3", "2", "2",
       "--scan-step", "10")
KLH_UPDATES = 535
# Particles to train on, and micrographs to take them from; the next two are picked.
SIZES = ((100, 4), (400, 4), (800, 8), (1200, 8))
SIZES_TEST = 8
ROUNDS = ((1, 4), (2, 6), (1, 6))  # rounds, and micrographs; the paper's procedure keeps two of them for other purposes
OVERLAPPING = replace(CROWDED, spacing=0.6, touching_fraction=0.5)
CLEAN = replace(CONTAMINATED, ice=0, carbon=0.0, gradient=0.0)
NOISE = (replace(COARSE, snr=0.05), replace(COARSE, snr=0.01))
# A wheel of this diameter and thickness; its axis is inclined to the micrograph by at most TILT degrees.
BARS, THICKNESS_ANGST, TILT = replace(COARSE, snr=0.05, diameter_angst=280.0, n_particles=12), 90.0, 15.0
PARTS = {"training": (6, 1), "test": (4, TEST_SEED)}
VIEWS_PARTS = {"training": (12, 1), "test": (6, TEST_SEED)}
RANGE = "range of the standard deviation"
EXAMPLES_PX = 800


def curves(options):
    """Both procedures on experimental sets: table, curves, picks, and boxes of the training."""
    rows = [("set", "procedure", *FIGURES)]
    figure, panels = new_figure(8.6, 3.8, 2)
    for folder, style in zip(options.sets, ("solid", "dashed", "dotted"), strict=False):
        for procedure in options.procedures:
            own = folder == "klh_processed" and procedure == "paper"
            more, updates = (KLH, KLH_UPDATES) if own else ((), UPDATES)
            work = RESULTS / "curves" / f"{folder}-{procedure}"
            found = experiment(work, options.data / folder, SETS[folder], procedure, options, more, updates=updates)
            rows.append((folder, procedure, *row_of(found)))
            draw_curves(panels, found, f"{folder}, {procedure}", PROCEDURES[procedure], style)
            if found:
                draw(options.data / folder, SETS[folder], found, RESULTS / f"curves-{folder}-{procedure}.png")
                model, sample = trained(work)
                path = RESULTS / f"examples-{folder}-{procedure}.png"
                draw_examples(sample, model.threshold).savefig(path, dpi=100)
                small(path, EXAMPLES_PX)
    finish(figure, panels, "curves")
    return table(*rows)


def trained(work):
    """The model in a folder, and the boxes of its training."""
    from deepem_scipion.deepem.training import load_examples

    return load_model(work / "model"), load_examples(work / "model.examples.npz")


def layers(options):
    """Feature maps of a particle and of a negative: picture."""
    work = RESULTS / "curves" / f"apoferritin-{options.procedures[-1]}"
    if not (work / "model").exists():
        options.sets = ["apoferritin"]
        curves(options)
    draw_layers(*trained(work)).savefig(RESULTS / "layers.png", dpi=100)
    return [f"written to {RESULTS / 'layers.png'}", ""]


def rounds(options):
    """Recursion on apoferritin, from some micrographs or from more of them: table."""
    rows = [("procedure", "rounds", "micrographs", RANGE, *FIGURES)]
    for procedure in options.procedures:
        for number, n_micrographs in ROUNDS:
            work = RESULTS / "rounds" / f"{procedure}-{number}-{n_micrographs}"
            data = replace(SETS["apoferritin"], train=n_micrographs)
            more = ("--rounds", str(number), *(("--accuracy-cutoff", "1") if procedure == "paper" else ()))
            found = experiment(work, options.data / "apoferritin", data, procedure, options, more, None, SIZES_TEST)
            rows.append((procedure, number, n_micrographs, "on", *row_of(found)))
            if found and procedure == "paper":
                other = without_range(work, options.data / "apoferritin", data, options, SIZES_TEST)
                rows.append((procedure, number, n_micrographs, "off", *row_of(other)))
    return table(*rows)


def size(options):
    """Number of training particles of apoferritin: table and curves."""
    rows = [("particles", "procedure", RANGE, *FIGURES)]
    figure, panels = new_figure(8.6, 3.8, 2)
    folder, data = options.data / "apoferritin", SETS["apoferritin"]
    known = read_coordinates(folder / "boxes")
    for (number, n_micrographs), style in zip(SIZES, ("dotted", "dashdot", "dashed", "solid"), strict=True):
        for procedure in options.procedures:
            work = RESULTS / "size" / f"{number}-{procedure}"
            n_particles = sum(crop(folder, name, known[name], data.region, number // n_micrographs, work / "data")
                              for name in micrograph_names(folder)[:n_micrographs])
            inputs = micrographs_of(work / "data"), work / "data" / "boxes"
            found = experiment(work, folder, data, procedure, options, (), inputs, SIZES_TEST)
            rows.append((n_particles, procedure, "on", *row_of(found)))
            if found and procedure == "paper":
                other = without_range(work, folder, data, options, SIZES_TEST)
                rows.append((n_particles, procedure, "off", *row_of(other)))
            draw_curves(panels, found, f"{n_particles}, {procedure}", PROCEDURES[procedure], style)
    finish(figure, panels, "size")
    return table(*rows)


def views(options):
    """Few particles, all seen from the side: table, curves and picks."""
    rows = [("procedure", *FIGURES)]
    figure, panels = new_figure(8.6, 3.8, 2)
    wheel = klh_like_volume(VOXEL_ANGST, THICKNESS_ANGST, BARS.diameter_angst, bands=1)
    folder = simulated(RESULTS / "views", BARS, VIEWS_PARTS, options, wheel, sideways,
                       particle=(THICKNESS_ANGST, TILT))
    for procedure in options.procedures:
        found = simulation(folder / procedure, folder, BARS, procedure, options)
        rows.append((procedure, *row_of(found)))
        draw_curves(panels, found, procedure, PROCEDURES[procedure])
        if found:
            draw_example(folder, found["auto"], BARS, RESULTS / f"views-{procedure}.png")
    finish(figure, panels, "views")
    return table(*rows)


def sideways(seed):
    """Orientations that show the wheel from the side."""
    drawn = random_orientations(10 * N_VIEWS, np.random.default_rng(seed))
    return drawn[np.abs(drawn.as_matrix()[:, 0, 0]) < np.sin(np.radians(TILT))][:N_VIEWS]


def overlaps(options):
    """Crowded micrographs, overlapping particles as particles or as negatives: table."""
    rows = [("procedure", "overlapping particles are", "R of overlapping", "R of single", "P")]
    folder = simulated(RESULTS / "overlapping", OVERLAPPING, PARTS, options)
    for procedure in options.procedures:
        for what, more in (("particles", ()), ("negatives", ("--overlaps-as-negatives",))):
            work = folder / f"{procedure}-{what}"
            found = simulation(work, folder, OVERLAPPING, procedure, options, more)
            figures = [f"{value:.3f}" for value in apart(found, folder)] if found else ["training failed", "-", "-"]
            rows.append((procedure, what, *figures))
    return table(*rows)


def apart(found, folder):
    """Recall of overlapping and of single particles and precision, at the threshold of the model."""
    hits, particles, n_picks = np.zeros(2, int), np.zeros(2, int), 0
    for name, known in read_coordinates(folder / "test" / "boxes").items():
        picks = read_picks(found["auto"])[name]
        distances, _ = cKDTree(known.centres_xy).query(known.centres_xy, 2)
        single = distances[:, 1] >= OVERLAPPING.diameter_px
        missed = classify_picks(picks.centres_xy, picks.scores, known.centres_xy, OVERLAPPING.diameter_px / 2)["missed"]
        hit = (known.centres_xy[:, None] != missed).any(axis=2).all(axis=1)
        hits += np.bincount(single[hit], minlength=2)
        particles += np.bincount(single, minlength=2)
        n_picks += len(picks.scores)
    return [*(hits / np.maximum(particles, 1)), hits.sum() / max(n_picks, 1)]


def std_filter(options):
    """Ice, carbon and empty film that the training never saw, with and without the range: table."""
    rows = [("procedure", RANGE, *FIGURES)]
    folder = simulated(RESULTS / "clean", CLEAN, {"training": PARTS["training"]}, options)
    dirty = simulated(RESULTS / "contaminated", CONTAMINATED, {"test": PARTS["test"]}, options)
    for procedure in options.procedures:
        work, made = folder / procedure, settings(procedure, SIMULATED_UPDATES)
        model = part(work, {**made, "scene": CLEAN}, options.fresh, train_clean, work, folder, procedure, options)
        for what, more in (("on", ()), ("off", ("--std-range", "off"))):
            found = None
            if model:
                found = part(work / what, {**made, "scene": CONTAMINATED, "more": more}, options.fresh, picked, model,
                             micrographs_of(dirty / "test"), work / what, options, more)
            rows.append((procedure, what, *row_of(simulated_points(found, dirty, CONTAMINATED))))
            if found:
                draw_example(dirty, found["auto"], CONTAMINATED, RESULTS / f"filter-{procedure}-{what}.png")
    return table(*rows)


def train_clean(work, folder, procedure, options):
    """Train on micrographs without ice and carbon; path of the model, or None where the training failed."""
    model = train(work, micrographs_of(folder / "training"), folder / "training" / "boxes", CLEAN.diameter_angst,
                  procedure, options, updates=SIMULATED_UPDATES)
    return model and str(model)


def noise(options):
    """Two levels of noise: table and curves."""
    rows = [("SNR", "procedure", *FIGURES)]
    figure, panels = new_figure(8.6, 3.8, 2)
    for scene, style in zip(NOISE, ("solid", "dashed"), strict=True):
        folder = simulated(RESULTS / f"noise-{scene.snr:g}", scene, PARTS, options)
        for procedure in options.procedures:
            work = folder / procedure
            found = simulation(work, folder, scene, procedure, options)
            rows.append((f"{scene.snr:g}", procedure, *row_of(found)))
            draw_curves(panels, found, f"SNR {scene.snr:g}, {procedure}", PROCEDURES[procedure], style)
    finish(figure, panels, "noise")
    return table(*rows)


STUDIES = {"curves": curves, "layers": layers, "rounds": rounds, "size": size, "views": views, "noise": noise,
           "filter": std_filter, "overlaps": overlaps}


def main():
    """Run the studies and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--procedures", nargs="+", choices=PROCEDURES, default=list(PROCEDURES))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="of the study `curves`")
    add_data_option(parser)
    parser.add_argument("--fresh", action="store_true", help="repeat parts that were done before")
    options = parser.parse_args()
    if not has_data(options, *SETS, RIBOSOME.parent):
        return 0
    options.more = ()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.studies:
        lines = [title(), "", f"## {name}", "", *STUDIES[name](options)]
        (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
