# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Share of false positives that are unannotated particles: sheets of images for a blind inspection by eye.

    python benchmarks/accuracy.py --sets empiar10017 --training-presets default --folds 3
    python benchmarks/inspection.py sheets [--set NAME] [--smooth PX]
    python benchmarks/inspection.py count ANSWERS [--set NAME]

`sheets` takes the picks of the first command and writes sheets of numbered images, two diameters wide, to
benchmarks/results/inspection. In random order they show three kinds of places, as many of each as `COUNTS` states:
false positives above the threshold of the best F1, annotated particles, and background (at least a diameter from every
annotation and half a diameter from every pick). --smooth makes faint particles visible. Someone who has not seen the
key writes a file with the numbers of the images that show a particle at their centre, separated by spaces. `count`
prints their share for each kind, and the highest precision and F1 that this annotation allows.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from common import RESULTS, SETS, add_data_option, has_data, read_picks

COUNTS = {"false positive": 100, "annotated": 50, "background": 50}
TILES = 8, 5  # images in a row and rows of a sheet
OUT = RESULTS / "inspection"


def picks_of(name, reference):
    """Picks of the three folds, and the figures at the threshold of the best F1."""
    from deepem_scipion.deepem import evaluate

    folder = RESULTS / "accuracy" / f"{name}-default-0-3"
    if not (folder / "picks2").is_dir():
        sys.exit(f"found no picks in {folder}: run `python benchmarks/accuracy.py --sets {name} --training-presets "
                 "default --folds 3` first")
    picks = {key: value for fold in range(3) for key, value in read_picks(folder / f"picks{fold}").items()}
    return picks, evaluate(reference, picks, SETS[name].distances_px[0], SETS[name].region)["overall"]["best_F1"]


def places_of(name, data, rng):
    """Micrograph, x, y and kind of all images, in random order."""
    from scipy.spatial import cKDTree

    from deepem_scipion.deepem import read_coordinates
    from deepem_scipion.deepem.evaluation import inside_region, match

    reference = read_coordinates(data / name / "boxes")
    picks, best = picks_of(name, reference)
    radius, region = SETS[name].distances_px[0], SETS[name].region
    found = {kind: [] for kind in COUNTS}
    for key, known in reference.items():
        confident = picks[key].scores >= best["threshold"]
        centres, scores = picks[key].centres_xy[confident], picks[key].scores[confident]
        correct = match(centres, scores, known.centres_xy, radius).correct
        somewhere = rng.uniform(region[:2], region[2:], (200, 2))
        clear = ((cKDTree(known.centres_xy).query(somewhere)[0] > 2 * radius)
                 & (cKDTree(picks[key].centres_xy).query(somewhere)[0] > radius))
        for kind, places in zip(COUNTS, (centres[~correct], known.centres_xy, somewhere[clear])):
            found[kind] += [(key, *place, kind) for place in places[inside_region(places, region)].tolist()]
    chosen = [found[kind][number] for kind, count in COUNTS.items()
              for number in rng.choice(len(found[kind]), min(count, len(found[kind])), replace=False)]
    return [chosen[number] for number in rng.permutation(len(chosen))]


def draw(name, data, places, smooth_px):
    """Write the sheets."""
    import mrcfile
    from matplotlib.figure import Figure
    from scipy.ndimage import gaussian_filter

    per_sheet, half = TILES[0] * TILES[1], round(2 * SETS[name].distances_px[0])
    images = {key: gaussian_filter(mrcfile.read(data / name / "micrographs" / f"{key}.mrc").astype(float), smooth_px)
              for key in {place[0] for place in places}}
    images = {key: np.pad(image, half, mode="symmetric") for key, image in images.items()}
    for first in range(0, len(places), per_sheet):
        figure = Figure(figsize=(1.6 * TILES[0], 1.75 * TILES[1]), layout="constrained")
        for number, axes in enumerate(figure.subplots(TILES[1], TILES[0]).flat, first):
            axes.axis("off")
            if number < len(places):
                key, x, y, _ = places[number]
                col, row = round(x), round(y)
                axes.imshow(images[key][row:row + 2 * half, col:col + 2 * half], cmap="gray")
                axes.plot([half, half], [0, half / 6], "y-", [0, half / 6], [half, half], "y-", linewidth=1)
                axes.set_title(str(number + 1), fontsize=8, pad=2)
        figure.savefig(OUT / f"{name}-{first // per_sheet + 1}.png", dpi=100)


def count(name, data, answers):
    """Print how many images of each kind were marked as particles, and the consequences for precision and F1."""
    from deepem_scipion.deepem import read_coordinates

    key = json.loads((OUT / f"{name}-key.json").read_text())
    marked = {int(word) for word in answers.read_text().split()}
    shares = {}
    for kind in COUNTS:
        numbers = {number for number, place in enumerate(key, 1) if place[3] == kind}
        shares[kind] = len(numbers & marked) / len(numbers)
        print(f"{kind}: {len(numbers & marked)} of {len(numbers)} marked as particles")
    hits, misses, alarms = shares["false positive"], 1 - shares["annotated"], shares["background"]
    unannotated = min(1.0, max(0.0, (hits - alarms) / (1 - misses - alarms)))
    best = picks_of(name, read_coordinates(data / name / "boxes"))[1]
    real = best["precision"] + unannotated * (1 - best["precision"])
    limit = best["precision"] / real
    print(f"share of particles among the false positives, corrected for errors of the inspection: {unannotated:.2f}")
    print(f"precision at the best F1: {best['precision']:.3f} by the annotation, {real:.3f} by eye")
    print(f"annotated share of the particles found: {limit:.3f}; a picker that finds all particles and nothing else "
          f"reaches precision {limit:.3f} and F1 {2 * limit / (1 + limit):.3f}; best F1 here: {best['F1']:.3f}")


def main():
    """Write the sheets and the key, or evaluate the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["sheets", "count"])
    parser.add_argument("answers", nargs="?", type=Path, help="for `count`: file with the numbers of images")
    parser.add_argument("--smooth", type=float, default=0,
                        help="standard deviation of a Gaussian filter, in pixels (default: no filter)")
    parser.add_argument("--set", choices=SETS, default="empiar10017")
    add_data_option(parser)
    options = parser.parse_args()
    if options.command == "count" and not options.answers:
        parser.error("count needs the file with the answers")
    if not has_data(options, options.set):
        return
    OUT.mkdir(parents=True, exist_ok=True)
    if options.command == "count":
        count(options.set, options.data, options.answers)
        return
    places = places_of(options.set, options.data, np.random.default_rng(0))
    draw(options.set, options.data, places, options.smooth)
    (OUT / f"{options.set}-key.json").write_text(json.dumps(places))
    print(f"{len(places)} images on {len(list(OUT.glob(options.set + '-*.png')))} sheets in {OUT}")


if __name__ == "__main__":
    main()
