# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many "false" picks are particles that nobody marked: sheets for judging by eye, without knowing what is what.

    python benchmarks/accuracy.py --sets empiar10017 --training-presets default --folds 3
    python benchmarks/inspection.py sheets [--set NAME] [--smooth PX]
    python benchmarks/inspection.py count ANSWERS [--set NAME]

`sheets` takes the picks of the first command and writes sheets of numbered squares, two diameters wide, to
benchmarks/results/inspection: false picks above the threshold of the best F1, drawn at random, among as many places
each as named below of annotated particles and of the background (at least a diameter from every annotation, and half a
diameter from every pick), in random order; --smooth makes faint particles visible. Someone who has not seen the key
writes a file with the numbers of the squares that show a particle in their middle, parted by blanks. `count`
says how often that was so for each kind, and what it means for the best precision and F1 that this annotation allows.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from accuracy import RESULTS, ROOT, SETS

COUNTS = {"false pick": 100, "annotated": 50, "background": 50}
TILES = 8, 5
OUT = RESULTS / "inspection"


def picks_of(name, truth):
    """Picks of the three folds, the threshold of the best F1, and the figures there."""
    from deepem_scipion.deepem.coordinates.read import read_coordinates
    from deepem_scipion.deepem.evaluation.metrics import evaluate

    folder = RESULTS / "accuracy" / f"{name}-default-0-3"
    if not (folder / "picks2").is_dir():
        sys.exit(f"no picks in {folder}: run `python benchmarks/accuracy.py --sets {name} --training-presets default --folds 3` "
                 "before")
    picks = {key: value for fold in range(3) for key, value in read_coordinates(folder / f"picks{fold}").items()}
    return picks, evaluate(truth, picks, SETS[name].distances_px[0], SETS[name].region)["overall"]["best_F1"]


def places_of(name, data, rng):
    """Micrograph, x, y and kind of all squares, in random order."""
    from scipy.spatial import cKDTree

    from deepem_scipion.deepem.coordinates.read import read_coordinates
    from deepem_scipion.deepem.evaluation.matching import match

    truth = read_coordinates(data / name / "boxes")
    picks, best = picks_of(name, truth)
    reach, (x0, y0, x1, y1) = SETS[name].distances_px[0], SETS[name].region
    found = {kind: [] for kind in COUNTS}
    for key, known in truth.items():
        sure = picks[key].scores >= best["threshold"]
        centres, scores = picks[key].centres_xy[sure], picks[key].scores[sure]
        right = match(centres, scores, known.centres_xy, reach).correct
        somewhere = rng.uniform([x0, y0], [x1, y1], (200, 2))
        clear = ((cKDTree(known.centres_xy).query(somewhere)[0] > 2 * reach)
                 & (cKDTree(picks[key].centres_xy).query(somewhere)[0] > reach))
        for kind, places in zip(COUNTS, (centres[~right], known.centres_xy, somewhere[clear])):
            inside = ((places >= [x0, y0]) & (places < [x1, y1])).all(axis=1)
            found[kind] += [(key, *place, kind) for place in places[inside].tolist()]
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
    """Print how many squares of each kind were taken for particles, and what follows."""
    from deepem_scipion.deepem.coordinates.read import read_coordinates

    key = json.loads((OUT / f"{name}-key.json").read_text())
    particles = {int(word) for word in answers.read_text().split()}
    shares = {}
    for kind in COUNTS:
        numbers = {number for number, place in enumerate(key, 1) if place[3] == kind}
        shares[kind] = len(numbers & particles) / len(numbers)
        print(f"{kind}: {len(numbers & particles)} of {len(numbers)} taken for particles")
    taken, missed, alarms = shares["false pick"], 1 - shares["annotated"], shares["background"]
    unmarked = min(1.0, max(0.0, (taken - alarms) / (1 - missed - alarms)))
    best = picks_of(name, read_coordinates(data / name / "boxes"))[1]
    real = best["precision"] + unmarked * (1 - best["precision"])
    marked = best["precision"] / real
    print(f"particles among the false picks, freed of the judge's own errors: {unmarked:.2f}")
    print(f"precision at the best F1 {best['precision']:.3f} by the annotation, {real:.3f} by eye")
    print(f"annotated share of the particles that were found {marked:.3f}: a picker that finds all particles and "
          f"nothing else reaches precision {marked:.3f} and F1 {2 * marked / (1 + marked):.3f}; found here: "
          f"{best['F1']:.3f}")


def main():
    """Write the sheets and the key, or count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["sheets", "count"])
    parser.add_argument("answers", nargs="?", type=Path)
    parser.add_argument("--smooth", type=float, default=0, help="deviation of a Gaussian, in pixels (default: none)")
    parser.add_argument("--set", choices=SETS, default="empiar10017")
    default = Path(os.environ.get("DEEPEM_SHARED", ROOT.parent / "shared")) / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder of the annotated sets")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped: no annotated micrographs at {options.data}; set DEEPEM_SHARED or give --data")
        return
    OUT.mkdir(parents=True, exist_ok=True)
    if options.what == "count":
        count(options.set, options.data, options.answers)
        return
    places = places_of(options.set, options.data, np.random.default_rng(0))
    draw(options.set, options.data, places, options.smooth)
    (OUT / f"{options.set}-key.json").write_text(json.dumps(places))
    print(f"{len(places)} squares on {len(list(OUT.glob(options.set + '-*.png')))} sheets in {OUT}")


if __name__ == "__main__":
    main()
