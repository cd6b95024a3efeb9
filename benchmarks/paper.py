# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of the paper with its own procedure and with the default one, side by side.

    python benchmarks/paper.py [--studies NAME ...] [--procedures NAME ...] [--sets NAME ...] [--data FOLDER]
                               [--fresh]

curves      F2 against the threshold, precision against recall, and picks, of experimental sets (Fig. 3)
klh         the same with the preset `klh`: hours on one core
size        number of training particles of apoferritin (Fig. 4)
overlaps    crowded simulated micrographs with overlapping particles, which are particles or negatives (Fig. 5)
filter      simulated micrographs with ice, carbon and empty film, by models that were trained without any, with and
            without the range of the standard deviation
noise       simulated micrographs at two levels of noise (Fig. 6)
rounds      a second round, with the mistakes on further micrographs (Fig. 2)
layers      feature maps of a particle and of a negative through all layers

Networks are the automatic ones, but for `klh`. Few particles are shown in more epochs by the paper's procedure, so that
the network is updated about UPDATES times. The script writes tables in Markdown and plots to benchmarks/results/paper;
parts that were done with the same settings are not repeated.
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import common
import numpy as np
from common import DataSet, add_data_option, files, has_data, micrograph_names, read_picks, table, title
from study import (
    COARSE,
    CONTAMINATED,
    CROWDED,
    RIBOSOME,
    TEST_SEED,
    crop,
    draw_example,
    micrographs_of,
    new_figure,
    part,
    simulated,
)

from deepem_scipion.deepem import load_model, read_coordinates
from deepem_scipion.deepem.commands.main import main as deepem
from deepem_scipion.deepem.coordinates import Coordinates
from deepem_scipion.deepem.evaluation import f_beta, match, pool
from deepem_scipion.deepem.report import draw_picks
from deepem_scipion.deepem.report.axes import BLUE, VERMILION

RESULTS = common.RESULTS / "paper"
UPDATES, BATCH = 400, 50
PROCEDURES = {"default": BLUE, "paper": VERMILION}
THRESHOLDS = np.arange(1, 10) / 10
# Diameter, number of training micrographs, matching distance and annotated region.
SETS = {"apoferritin": DataSet(120, 4, (31,), (20, 20, 1220, 1180)),
        "empiar10028": DataSet(300, 3, (28,), (34, 34, 990, 990)),
        "klh_processed": DataSet(400, 3, (68,), (0, 0, 2047, 2047))}
SIZES = (100, 200, 400)
OVERLAPPING = replace(CROWDED, spacing=0.6, touching_fraction=0.5)
CLEAN = replace(CONTAMINATED, ice=0, carbon=0.0, gradient=0.0)
NOISE = (replace(COARSE, snr=0.05), replace(COARSE, snr=0.01))
PARTS = {"training": (6, 1), "test": (4, TEST_SEED)}


def boxes_in(folder):
    """Known coordinates of a folder of boxes; empty where there is none."""
    return read_coordinates(folder) if folder.is_dir() else {}


def train(work, micrographs, boxes, diameter_angst, procedure, options, more=()):
    """Train a model; its path, or None where the training failed."""
    model = work / "model"
    words = ["train", "--micrographs", *micrographs, "--coordinates", str(boxes), "--diameter", f"{diameter_angst:g}",
             "--procedure", procedure, "--output", str(model), *options.more, *more]
    if procedure == "paper":
        known = read_coordinates(boxes)
        shown = sum(len(known[Path(path).stem].scores) for path in micrographs if Path(path).stem in known)
        shown = min(800, max(1, shown // 2))  # about half is left after validation, test and further rounds
        words += ["--epochs", str(max(20, math.ceil(UPDATES * BATCH / (8 * shown))))]
    return None if deepem(words) else model


def points_of(model, micrographs, work, known, ignored, data, options, more=()):
    """Pick micrographs; threshold, precision and recall at each of nine thresholds, and the picks at the model's."""
    paper = load_model(model).ranges_px is not None
    found, kept = [], {}
    for name, threshold in (("auto", "auto"), *(() if paper else (("all", "0"),))):
        output = work / f"picks-{name}{''.join(more)}"
        if deepem(["pick", "--model", str(model), "--micrographs", *micrographs, "--threshold", threshold, "--output",
                   str(output), "--overwrite", *more, *options.more]):
            sys.exit("picking failed")
        kept[name] = output
    for threshold in THRESHOLDS:
        picks = read_coordinates(kept["auto"] / "export" / f"threshold-{threshold:g}") if paper else {
            name: Coordinates(each.centres_xy[each.scores >= threshold], each.scores[each.scores >= threshold], None)
            for name, each in read_picks(kept["all"]).items()}
        matches = pool([compare(picks.get(name), each, ignored.get(name), data) for name, each in known.items()])
        n_correct = int(matches.correct.sum())
        found.append((float(threshold), n_correct / max(len(matches.correct), 1), n_correct / max(matches.n_truth, 1)))
    return {"points": found, "threshold": load_model(model).threshold, "picks": str(kept["auto"])}


def compare(picks, known, ignored, data):
    """Match the picks of a micrograph, without those close to what is neither right nor wrong."""
    centres_xy, scores = (np.empty((0, 2)), np.empty(0)) if picks is None else (picks.centres_xy, picks.scores)
    distance = data.distances_px[0]
    if ignored is not None and len(centres_xy):
        near = [np.linalg.norm(centres_xy - each, axis=1) < distance for each in ignored]
        near_known = [np.linalg.norm(centres_xy - each, axis=1) < distance for each in known.centres_xy]
        counts = ~np.any(near, axis=0) | np.any(near_known, axis=0)
        centres_xy, scores = centres_xy[counts], scores[counts]
    return match(centres_xy, scores, known.centres_xy, distance, data.region)


def experiment(work, folder, data, procedure, options, more=(), training=None, n_test=2):
    """Train on the first micrographs of an experimental set, pick some of the others; points of the curves."""
    names = micrograph_names(folder)
    test = names[data.train:data.train + n_test]
    inputs = training or (files(folder, names[:data.train]), folder / "boxes")
    model = train(work, *inputs, data.diameter_angst, procedure, options, more)
    if model is None:
        return None
    ignored = {}
    for kind in ("boxes_doubtful", "boxes_long"):
        for name, each in boxes_in(folder / kind).items():
            ignored[name] = np.concatenate([ignored.get(name, np.empty((0, 2))), each.centres_xy])
    known = {name: each for name, each in read_coordinates(folder / "boxes").items() if name in test}
    return points_of(model, files(folder, test), work, known, ignored, data, options)


def simulation(work, folder, scene, procedure, options, more=(), pick_more=()):
    """Train and pick simulated micrographs; points of the curves."""
    model = train(work, micrographs_of(folder / "training"), folder / "training" / "boxes", scene.diameter_angst,
                  procedure, options, more)
    return model and tested(work, model, folder, scene, options, pick_more)


def tested(work, model, folder, scene, options, more=()):
    """Points of the curves of the test micrographs of a simulation."""
    data = DataSet(scene.diameter_angst, 0, (0.5 * scene.diameter_px,), (0, 0, *scene.shape[::-1]))
    known = read_coordinates(folder / "test" / "boxes")
    return points_of(model, micrographs_of(folder / "test"), work, known, {}, data, options, more)


def row_of(found):
    """Best F2 of the nine thresholds with its threshold, precision and recall, and best F1, as text."""
    if not found:
        return ["training failed", *["-"] * 4]
    threshold, precision, recall = np.array(found["points"]).T
    best = int(np.argmax(f_beta(precision, recall, 2)))
    return [f"{f_beta(precision, recall, 2)[best]:.3f}", f"{threshold[best]:.1f}", f"{precision[best]:.3f}",
            f"{recall[best]:.3f}", f"{f_beta(precision, recall, 1).max():.3f}"]


FIGURES = ("best F2", "at", "P", "R", "best F1")


def draw_curves(axes, found, label, colour, style="solid"):
    """Draw F2 against the threshold, and precision against recall."""
    if found:
        threshold, precision, recall = np.array(found["points"]).T
        axes[0].plot(threshold, f_beta(precision, recall, 2), "o-", color=colour, linestyle=style, label=label)
        axes[1].plot(recall, precision, "o-", color=colour, linestyle=style, label=label)


def finish(figure, panels, name):
    """Label the two panels of curves and write them."""
    for axes, (x, y) in zip(panels, (("threshold (score)", "F2"), ("recall", "precision")), strict=True):
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1.02), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.savefig(RESULTS / f"{name}.png", dpi=100)


def curves(options, sets=(), more=(), name="curves"):
    """Both procedures on experimental sets: table, curves and picks."""
    rows = [("set", "procedure", *FIGURES)]
    figure, panels = new_figure(8.6, 3.8, 2)
    for folder, style in zip(sets or options.sets, ("solid", "dashed", "dotted"), strict=False):
        for procedure in options.procedures:
            work = RESULTS / name / f"{folder}-{procedure}"
            found = part(work, {"set": SETS[folder], "more": more, "updates": UPDATES}, options.fresh, experiment, work,
                         options.data / folder, SETS[folder], procedure, options, more)
            rows.append((folder, procedure, *row_of(found)))
            draw_curves(panels, found, f"{folder}, {procedure}", PROCEDURES[procedure], style)
            if found:
                draw(options.data / folder, SETS[folder], found, RESULTS / f"{name}-{folder}-{procedure}.png")
    finish(figure, panels, name)
    return table(*rows)


def klh(options):
    """KLH with the network of the paper."""
    return curves(options, ("klh_processed",), ("--preset", "klh"), "klh")


def draw(folder, data, found, path):
    """Draw the picks of a test micrograph; false positives and missed particles are marked."""
    from deepem_scipion.deepem import read_micrograph

    name = micrograph_names(folder)[data.train]
    picks = read_picks(found["picks"])[name]
    micrograph = read_micrograph(files(folder, [name])[0])
    draw_picks(micrograph.pixels, picks.centres_xy, picks.scores, 2 * data.distances_px[0], path,
               read_coordinates(folder / "boxes")[name].centres_xy, f"{folder.name}, {path.stem.rpartition('-')[2]}")


def size(options):
    """Number of training particles of apoferritin: table."""
    rows = [("particles", "procedure", *FIGURES)]
    folder, data = options.data / "apoferritin", SETS["apoferritin"]
    known = read_coordinates(folder / "boxes")
    for number in SIZES:
        for procedure in options.procedures:
            work = RESULTS / "size" / f"{number}-{procedure}"
            names = micrograph_names(folder)[:data.train]
            n_particles = sum(crop(folder, name, known[name], data.region, number // data.train, work / "data")
                              for name in names)
            found = part(work, {"set": data, "number": number, "updates": UPDATES}, options.fresh, experiment, work,
                         folder, data, procedure, options, (),
                         (micrographs_of(work / "data"), work / "data" / "boxes"))
            rows.append((n_particles, procedure, *row_of(found)))
    return table(*rows)


def overlaps(options):
    """Crowded micrographs, overlapping particles as particles or as negatives: table."""
    rows = [("procedure", "overlapping particles are", "R of overlapping", "R of single", "P")]
    folder = simulated(RESULTS / "overlapping", OVERLAPPING, PARTS, options)
    for procedure in options.procedures:
        for what, more in (("particles", ()), ("negatives", ("--overlaps-as-negatives",))):
            work = folder / f"{procedure}-{what}"
            found = part(work, {"scene": OVERLAPPING, "more": more}, options.fresh, apart, work, folder, procedure,
                         options, more)
            rows.append((procedure, what, *(f"{value:.3f}" for value in found.values())))
    return table(*rows)


def apart(work, folder, procedure, options, more):
    """Recall of overlapping and of single particles and precision, at the threshold of the model."""
    found = simulation(work, folder, OVERLAPPING, procedure, options, more)
    if not found:
        return {}
    counts = np.zeros((2, 2), int)
    correct = total = 0
    for name, known in read_coordinates(folder / "test" / "boxes").items():
        picks = read_picks(found["picks"])[name]
        apart_px = np.linalg.norm(known.centres_xy[:, None] - known.centres_xy, axis=2)
        np.fill_diagonal(apart_px, np.inf)
        near = apart_px.min(axis=1) < OVERLAPPING.diameter_px
        distances = np.linalg.norm(known.centres_xy[:, None] - picks.centres_xy, axis=2)
        hit = distances.min(axis=1, initial=np.inf) <= OVERLAPPING.diameter_px / 2
        counts += [[(hit & near).sum(), near.sum()], [(hit & ~near).sum(), (~near).sum()]]
        matches = match(picks.centres_xy, picks.scores, known.centres_xy, OVERLAPPING.diameter_px / 2)
        correct, total = correct + int(matches.correct.sum()), total + len(picks.scores)
    shares = counts[:, 0] / np.maximum(counts[:, 1], 1)
    return {"overlapping": float(shares[0]), "single": float(shares[1]), "precision": correct / max(total, 1)}


def std_filter(options):
    """Ice, carbon and empty film that the training never saw, with and without the range: table."""
    rows = [("procedure", "range of the standard deviation", *FIGURES)]
    folder = simulated(RESULTS / "clean", CLEAN, {"training": PARTS["training"]}, options)
    dirty = simulated(RESULTS / "contaminated", CONTAMINATED, {"test": PARTS["test"]}, options)
    for procedure in options.procedures:
        work = folder / procedure
        part(work, {"scene": CLEAN}, options.fresh, train_clean, work, folder, procedure, options)
        for what, more in (("on", ()), ("off", ("--std-range", "off"))):
            found = part(work / what, {"scene": CONTAMINATED, "more": more}, options.fresh, tested, work / what,
                         work / "model", dirty, CONTAMINATED, options, more)
            rows.append((procedure, what, *row_of(found)))
            draw_example(dirty, found["picks"], CONTAMINATED, RESULTS / f"filter-{procedure}-{what}.png")
    return table(*rows)


def train_clean(work, folder, procedure, options):
    """Train on micrographs without ice and carbon."""
    return str(train(work, micrographs_of(folder / "training"), folder / "training" / "boxes", CLEAN.diameter_angst,
                     procedure, options))


def noise(options):
    """Two levels of noise: table and curves."""
    rows = [("SNR", "procedure", *FIGURES)]
    figure, panels = new_figure(8.6, 3.8, 2)
    for scene, style in zip(NOISE, ("solid", "dashed"), strict=True):
        folder = simulated(RESULTS / f"noise-{scene.snr:g}", scene, PARTS, options)
        for procedure in options.procedures:
            work = folder / procedure
            found = part(work, {"scene": scene, "updates": UPDATES}, options.fresh, simulation, work, folder, scene,
                         procedure, options)
            rows.append((f"{scene.snr:g}", procedure, *row_of(found)))
            draw_curves(panels, found, f"SNR {scene.snr:g}, {procedure}", PROCEDURES[procedure], style)
    finish(figure, panels, "noise")
    return table(*rows)


def rounds(options):
    """One round and two, on apoferritin, from the same micrographs: table."""
    rows = [("procedure", "rounds", *FIGURES)]
    for procedure in options.procedures:
        for number in ("1", "2"):
            work = RESULTS / "rounds" / f"{procedure}-{number}"
            more = ("--rounds", number, *(("--accuracy-cutoff", "1") if procedure == "paper" else ()))
            found = part(work, {"more": more, "updates": UPDATES}, options.fresh, experiment, work,
                         options.data / "apoferritin", SETS["apoferritin"], procedure, options, more)
            rows.append((procedure, number, *row_of(found)))
    return table(*rows)


def layers(options):
    """Feature maps of a particle and of a negative: picture."""
    from deepem_scipion.deepem.training import load_examples

    work = RESULTS / "curves" / f"apoferritin-{options.procedures[-1]}"
    if not (work / "model").exists():
        curves(options, ("apoferritin",))
    model, examples = load_model(work / "model"), load_examples(work / "model.examples.npz")
    figure, _ = new_figure(9.6, 4.4)
    figure.clear()
    rows = figure.subfigures(2, 1)
    for row, target, what in zip(rows, (1, 0), ("particle", "negative"), strict=True):
        pixels = examples.pixels[np.flatnonzero((examples.targets == target) & ~examples.hardest)[0]]
        maps, score = feature_maps(model, pixels)
        row.suptitle(f"{what}, score {score:.2f}", fontsize=8)
        for number, (axes, (name, each)) in enumerate(zip(row.subplots(1, len(maps)), maps.items(), strict=True)):
            side = math.ceil(math.sqrt(each.shape[-1]))
            tiles = np.full((side * side, *each.shape[:2]), np.nan)
            tiles[:each.shape[-1]] = np.moveaxis(each, -1, 0)
            axes.imshow(np.block([list(tiles[start:start + side]) for start in range(0, side * side, side)]),
                        cmap="gray", vmin=None if number == 0 else 0, vmax=None if number == 0 else 1)
            axes.set_title(name, fontsize=7)
            axes.set_axis_off()
    figure.savefig(RESULTS / "layers.png", dpi=100)
    return [f"written to {RESULTS / 'layers.png'}", ""]


def feature_maps(model, pixels):
    """Maps of all layers for a box, (rows, columns, maps) by name, and its score."""
    weights, maps = model.networks[0], pixels[..., np.newaxis].astype(float)
    found = {"box": maps}
    for number, (kernel, pool_side) in enumerate(zip(model.geometry.kernels, model.geometry.pools, strict=True), 1):
        views = np.lib.stride_tricks.sliding_window_view(maps, (kernel, kernel), axis=(0, 1))
        sums = np.tensordot(views, weights[f"conv{number}.kernel"].transpose(2, 0, 1, 3), 3)
        convolved = 1 / (1 + np.exp(-sums - weights[f"conv{number}.bias"]))
        side = convolved.shape[0] // pool_side
        maps = convolved.reshape(side, pool_side, side, pool_side, -1).mean(axis=(1, 3))
        found.update({f"C{2 * number - 1}": convolved, f"S{2 * number}": maps})
    return found, float(1 / (1 + np.exp(-maps.ravel() @ weights["dense.kernel"][:, 0] - weights["dense.bias"][0])))


STUDIES = {"curves": curves, "layers": layers, "rounds": rounds, "size": size, "noise": noise, "filter": std_filter,
           "overlaps": overlaps, "klh": klh}


def main():
    """Run the studies and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=[name for name in STUDIES if name != "klh"])
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
