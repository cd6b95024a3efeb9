# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""2D classification of picks: share of them in good classes, by a criterion that needs no reference.

    python benchmarks/classes2d.py [--data FOLDER] [--sets NAME ...] [--most 600] [--classes 12] [--iterations 15]
                                   [--threads 2]

Compared are the picks of DeepEM, trained and with its general model, above the suggested thresholds, RELION's LoG picks
(as many as of the trained model, those with the highest scores), the annotation, and places that are far from all of
these: a criterion that calls them good says nothing. Of apoferritin the first 4 micrographs are for training, the
others are picked; of EMPIAR-10028 one half of the micrographs is picked by a model trained on the other. At most --most
of each kind, drawn at random, are extracted with pixels of a thirtieth of the diameter and classified by RELION,
without CTF correction and with one random seed.

A class is good if a particle stands out from what is around it: the mean within half a diameter exceeds that of the
ring from there to 0.6 diameters by at least CONTRAST standard deviations of the pixels in the ring, at the best shift
of at most a quarter of the diameter. The value was chosen before the first look; the table shows that of others.
(A second condition, that RELION estimates the resolution at a fifth of the diameter or better, was dropped after the
first look: no class of 200 picks reached it.) The script prints the table in Markdown, writes it to
benchmarks/results/classes2d.md, and draws the class averages, those of good classes in green frames.
"""

import argparse
import shutil
import sys

import numpy as np
from common import RESULTS, SETS, DataSet, add_data_option, files, has_data, micrograph_names, splits, table, title
from pickers import Skipped, Task, deepem
from PIL import Image
from relion import PIXELS_PER_DIAMETER, annotated, classify, extract, flat, log
from study import new_figure

# Set and number of folds, see `splits`.
FOLDS = {"apoferritin": (SETS["apoferritin"], 0), "empiar10028": (DataSet(300, 4, (28,), (34, 34, 990, 990)), 2)}
CONTRAST, OTHERS = 2.0, (1.0, 3.0)
FAR = 0.75  # diameters from all picks
SEED = 0


def tasks(name, kind, options):
    """Inputs of a picker, one for each fold."""
    from deepem_scipion.deepem import read_coordinates
    from deepem_scipion.deepem.micrographs import read_pixel_size

    folder, (data, folds) = options.data / name, FOLDS[name]
    names = micrograph_names(folder)
    for number, (training, test) in enumerate(splits(names, data.train, folds)):
        work = RESULTS / "classes2d" / name / f"{kind}-{number}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield Task(folder, data.diameter_angst, read_pixel_size(files(folder, names)[0]),
                   read_coordinates(folder / "boxes"), training, test, work)


def picked(name, options):
    """Picks of each kind as one array, and a task of the set."""
    programs = {"trained": deepem(options, threshold="auto"), "general": deepem(options, False, "auto"),
                "LoG": log(options, 100)}
    found = {}
    for kind, program in programs.items():
        done = [(task, program.run(task)) for task in tasks(name, kind, options)]
        found[kind] = np.concatenate([flat(outcome.picks) for _, outcome in done])
    best = np.argsort(-found["LoG"]["score"], kind="stable")
    found["LoG"] = found["LoG"][best[:len(found["trained"])]]
    found["annotation"] = np.concatenate([annotated(task, task.test) for task, _ in done])
    task = done[0][0]
    found["far from all"] = elsewhere(np.concatenate(list(found.values())), task)
    return found, task


def elsewhere(picks, task):
    """Random places far from all picks and from each other, in the form of `flat`."""
    import mrcfile

    rng, far_px, rows = np.random.default_rng(SEED), FAR * task.diameter_angst / task.pixel_angst, {}
    for name in sorted(set(picks["name"])):
        with mrcfile.open(files(task.folder, [name])[0], header_only=True) as file:
            size = int(file.header.nx), int(file.header.ny)
        known = [(each["x"], each["y"]) for each in picks[picks["name"] == name]]
        rows[name] = []
        for place in rng.uniform(far_px, np.array(size) - far_px, (5000, 2)):
            if np.linalg.norm(np.array(known) - place, axis=1).min() >= far_px:
                known.append(tuple(place))
                rows[name].append((*place, 0.0))
    return flat(rows)


def contrast(average):
    """How far a particle stands out from the ring around it, in standard deviations, at the best shift."""
    radius = np.hypot(*(np.indices(average.shape) - np.reshape(average.shape, (2, 1, 1)) // 2)) / PIXELS_PER_DIAMETER
    inside, ring = radius <= 0.5, (radius > 0.5) & (radius <= 0.6)
    shifts = range(-PIXELS_PER_DIAMETER // 4, PIXELS_PER_DIAMETER // 4 + 1)
    shifted = (np.roll(average, (dy, dx), (0, 1)) for dy in shifts for dx in shifts)
    return max(((each[inside].mean() - each[ring].mean()) / each[ring].std() for each in shifted
                if each[ring].std()), default=0.0)


def draw(path, results):
    """Draw the class averages, the largest classes first; frames of good classes are green."""
    columns = max(np.count_nonzero(numbers) for _, numbers, _ in results.values())
    figure, _ = new_figure(0.8 * columns, 1.15 * len(results))
    figure.clear()
    axes = figure.subplots(len(results), columns, squeeze=False)
    for line, (name, (averages, numbers, good)) in zip(axes, results.items()):
        for place in line:
            place.set(xticks=[], yticks=[])
            place.axis("off")
        line[0].set_title(name, loc="left", fontsize=8, pad=12)
        for place, each in zip(line, np.argsort(-numbers)[:np.count_nonzero(numbers)]):
            place.axis("on")
            place.imshow(averages[each], cmap="gray")
            place.text(0, -2, f"{numbers[each]}", fontsize=6)
            place.spines[:].set(color="tab:green" if good[each] else "tab:red", linewidth=2)
    figure.savefig(path, dpi=90)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)  # a third of the size


def rows_of(name, options):
    """Rows of the table for a set; its picture is drawn."""
    kinds, task = picked(name, options)
    results = {}
    for kind, picks in kinds.items():
        particles = picks[np.sort(np.random.default_rng(SEED).permutation(len(picks))[:options.most])]
        work = RESULTS / "classes2d" / name / kind.replace(" ", "-")
        extract(work, particles, task)
        _, averages, numbers = classify(work, task, options.classes, options.iterations, options.threads)
        contrasts = np.array([contrast(each) for each in averages])
        results[kind] = averages, numbers, contrasts >= CONTRAST
        yield (name, kind, len(picks), len(particles), np.count_nonzero(numbers),
               np.count_nonzero(numbers[contrasts >= CONTRAST]),
               *(f"{numbers[contrasts >= least].sum() / len(particles):.3f}" for least in (CONTRAST, *OTHERS)))
    draw(RESULTS / f"classes2d-{name}.png", results)


def main():
    """Pick, extract and classify; write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="+", choices=FOLDS, default=list(FOLDS))
    parser.add_argument("--most", type=int, default=600, help="particles of each kind")
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    header = ("set", "picks", "number", "classified", "classes with particles", "good ones", "share",
              *(f"share with {least:g}" for least in OTHERS))
    try:
        rows = [row for name in options.sets for row in rows_of(name, options)]
    except Skipped as reason:
        print(f"skipped: {reason}")
        return 0
    text = "\n".join([title(), "", *table(header, *rows)])
    (RESULTS / "classes2d.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
