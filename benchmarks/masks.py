# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Do masks of contamination, or the local standard deviation filter, change the picks?

    python benchmarks/masks.py [--data FOLDER] [--micrographs N] [--threads N] [--kinds NAME ...] [--models NAME ...]

Simulated ribosomes with carbon film and ice, and with gold film and beads, on N test micrographs with exact masks; and
the annotated sets, which have no masks. Each is picked with the general model, and with a model trained on 8 other
simulated micrographs, or on the training micrographs of the set, without masks. The candidates are found once; filter
and masks are then applied to them. The script prints a table in Markdown and writes it to benchmarks/results/masks.md.
"""

import argparse
import copy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
from common import RESULTS, SETS, add_data_option, files, has_data, micrograph_names, splits, table, title
from study import CONTAMINATED, N_VIEWS, RIBOSOME, VOXEL_ANGST

from deepem_scipion.deepem import Limits, Picker, general_model, load_model, read_coordinates, runtime
from deepem_scipion.deepem.commands.main import main as deepem
from deepem_scipion.deepem.coordinates import write_box
from deepem_scipion.deepem.coordinates.masks import Mask
from deepem_scipion.deepem.evaluation import match
from deepem_scipion.deepem.picking import select
from deepem_scipion.deepem.picking.selection import PICKED
from deepem_scipion.deepem.simulation import (
    draw_background,
    project,
    random_orientations,
    read_volume,
    simulate_micrograph,
)

# Less noise than in the studies, of which the general model finds nothing.
CONTAMINATED = replace(CONTAMINATED, snr=1.0)
CLEAN = replace(CONTAMINATED, ice=0, carbon=0.0)
SIMULATED, MODELS = ("carbon, ice", "gold"), ("general", "trained")
N_TRAINING = 8
# Share of gold film, and its darkness in standard deviations of the noise; number and radius (diameters) of beads.
FILM, DARKNESS, BEADS, BEAD_RADIUS = 0.15, 6.0, 10, 0.15


def gold(scene, rng):
    """Where a micrograph shows film with a straight edge, and beads."""
    row, column = np.indices(scene.shape, float)
    angle = rng.uniform(0, 2 * np.pi)
    field = row * np.sin(angle) + column * np.cos(angle)
    blocked = field > np.quantile(field, 1 - FILM)
    for _ in range(BEADS):
        middle = rng.uniform(0, scene.shape)
        blocked |= np.hypot(row - middle[0], column - middle[1]) < BEAD_RADIUS * scene.diameter_px
    return blocked


def simulate(folder, kind, n, seed, views):
    """Write micrographs and boxes; returns areas of contamination by name."""
    scene, rng, areas = CONTAMINATED if kind == "carbon, ice" else CLEAN, np.random.default_rng(seed), {}
    for part in ("micrographs", "boxes"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in (f"mic{seed}{number}" for number in range(n)):
        areas[name] = draw_background(scene, copy.deepcopy(rng))[1]
        pixels, centres_xy = simulate_micrograph(scene, views, rng)
        if kind == "gold":
            areas[name] = gold(scene, rng)
            pixels = (pixels - DARKNESS * areas[name]).astype(np.float32)
            columns, rows = centres_xy.round().astype(int).T
            centres_xy = centres_xy[~areas[name][rows, columns]]
        with mrcfile.new(folder / "micrographs" / f"{name}.mrc", pixels, overwrite=True) as file:
            file.voxel_size = scene.pixel_size_angst
        write_box(folder / "boxes" / f"{name}.box", centres_xy, np.full(len(centres_xy), np.nan), 60)
    return areas


def trained(path, micrographs, boxes, diameter_angst, options):
    """Return a model trained on micrographs; None if the training failed."""
    failed = deepem(["train", "--micrographs", *map(str, micrographs), "--coordinates", str(boxes), "--diameter",
                     str(diameter_angst), "--output", str(path), "--threads", str(options.threads), "--quiet"])
    return None if failed else load_model(path)


def rows_of(what, name, model, micrographs, truth, areas, region):
    """Rows of the table: precision, recall and F1 for each use of filter and masks."""
    picker, counts = Picker(model), {}
    for path in micrographs:
        micrograph, known = model.read_micrograph(path), truth[path.stem].centres_xy
        area = areas.get(path.stem)
        candidates, _ = picker.candidates(micrograph, None if area is None else Mask(area.astype(np.float32)))
        for std_range in (model.std_range, None):
            for masked in (False, True)[:1 + bool(areas)]:
                limits = replace(Limits.of_model(model), std_range=std_range, max_mask=0.5 if masked else 1.0)
                picked = select(candidates, limits, micrograph.input_pixel_size_angst) == PICKED
                picks, scores = candidates.centres_xy[picked], candidates.scores[picked]
                found = match(picks, scores, known, model.diameter_angst / micrograph.input_pixel_size_angst / 2,
                              region)
                key = ("on" if std_range else "off", "yes" if masked else "no")
                counts.setdefault(key, []).append((found.correct.sum(), len(found.correct), found.n_truth))
    rows = []
    for (used, masked), each in counts.items():
        right, n_picks, n_known = np.sum(each, axis=0)
        precision, recall = right / max(1, n_picks), right / n_known
        rows.append((what, name, used, masked if areas else "-", f"{precision:.3f}", f"{recall:.3f}",
                     f"{2 * precision * recall / max(1e-9, precision + recall):.3f}",
                     f"{(n_picks - right) / len(each):.1f}"))
    return rows


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--micrographs", type=int, default=8, help="number of simulated test micrographs")
    parser.add_argument("--kinds", nargs="+", choices=(*SIMULATED, *SETS), default=[*SIMULATED, *SETS])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not has_data(options, RIBOSOME.parts[0], *(kind for kind in options.kinds if kind in SETS)):
        return 1
    runtime.start(options.threads)
    rows = [("micrographs", "model", "local standard deviation filter", "masks", "precision", "recall", "F1",
             "false positives per micrograph")]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rng = np.random.default_rng(0)
        views = project(read_volume(options.data / RIBOSOME, VOXEL_ANGST), random_orientations(N_VIEWS, rng),
                        CLEAN.pixel_size_angst)
        for kind in (kind for kind in SIMULATED if kind in options.kinds):
            place = work / kind.replace(", ", "-")
            simulate(place / "training", kind, N_TRAINING, 1, views)
            areas = simulate(place / "test", kind, options.micrographs, 2, views)
            truth = read_coordinates(place / "test" / "boxes")
            mics = sorted((place / "test" / "micrographs").iterdir())
            add(rows, f"simulated, {kind}", CLEAN.diameter_angst, mics, truth, areas, (0, 0, *CLEAN.shape[::-1]),
                sorted((place / "training" / "micrographs").iterdir()), place / "training" / "boxes", place, options)
        for name in (name for name in SETS if name in options.kinds):
            data, place = SETS[name], options.data / (SETS[name].folder or name)
            (train, test), = splits(micrograph_names(place), data.train, 0)
            add(rows, name, data.diameter_angst, list(map(Path, files(place, test))), read_coordinates(place / "boxes"),
                {}, data.region, files(place, train), place / "boxes", work / name, options)
    return 0


def add(rows, what, diameter_angst, micrographs, truth, areas, region, training, boxes, place, options):
    """Add the rows of one kind of micrographs, and print and write what there is so far."""
    place.mkdir(exist_ok=True)
    for name in options.models:
        model = (general_model(diameter_angst) if name == "general" else
                 trained(place / "model.deepem", training, boxes, diameter_angst, options))
        if model is not None:
            rows += rows_of(what, name, model, micrographs, truth, areas, region)
    lines = [f"{title()}", "", *table(*rows)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "masks.md").write_text("\n".join(lines))
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
