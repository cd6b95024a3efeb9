# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""2D classification of picked apoferritin: share of the picks in classes that show the particle.

    python benchmarks/classes2d.py [--data FOLDER] [--classes 12] [--iterations 15] [--threads 2] [--picture FILE]

A model is trained on the first 4 micrographs, see `accuracy.py`; it and RELION's LoG picker, see `peers.py`, pick the
other 8. The script compares the picks of DeepEM above the suggested threshold, the same number of LoG picks with the
highest scores, and the annotation. RELION extracts and classifies each set without CTF correction and with one random
seed. A class is good if its average correlates with the ring, the rotational average of the annotated particles of the
training micrographs, by at least --correlation: within 0.6 diameters of the centre, the maximum over shifts of at most
a quarter of the diameter. The script prints a table in Markdown, writes it to benchmarks/results/classes2d.md, and
draws the class averages.
"""

import argparse
import shutil
import sys
from pathlib import Path

import mrcfile
import numpy as np
from common import RESULTS, SETS, add_data_option, files, has_data, micrograph_names, splits, table, title
from peers import Skipped, Task, deepem, log, run
from PIL import Image

BOX_PER_DIAMETER = 1.5
PIXEL_ANGST = 4  # of the extracted particles
SEED = 0
OTHERS = (0.7, 0.9)  # other minimum correlations, to show how much the share depends on it


def tasks(options):
    """Input of the two pickers."""
    from deepem_scipion.deepem import read_coordinates
    from deepem_scipion.deepem.micrographs import read_pixel_size

    folder, data = options.data / "apoferritin", SETS["apoferritin"]
    names = micrograph_names(folder)
    (training, test), = splits(names, data.train, 0)
    known = read_coordinates(folder / "boxes")
    for name in ("DeepEM", "LoG"):
        work = RESULTS / "classes2d" / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield Task(folder, data.diameter_angst, read_pixel_size(files(folder, names)[0]), known, training, test, work)


def picked(options):
    """Picks of each kind as one array; the task."""
    from deepem_scipion.deepem.model import read_card

    deepem_task, log_task = tasks(options)
    deepem_program, log_program = deepem(options), log(options, 100)
    rows = flat(deepem_program.run(deepem_task).picks)
    rows = rows[rows["score"] >= read_card(deepem_task.work / "model.deepem")["threshold"]]
    others = flat(log_program.run(log_task).picks)
    others = others[np.argsort(-others["score"], kind="stable")[:len(rows)]]
    return {deepem_program.title: rows, log_program.title: others,
            "annotation": annotated(deepem_task, deepem_task.test)}, deepem_task


def annotated(task, names):
    """Annotated particles of these micrographs, in the form of `flat`; scores are 0."""
    return flat({name: np.pad(task.known[name].centres_xy, ((0, 0), (0, 1))) for name in names})


def flat(picks):
    """All picks as one array with the fields name, x, y, score."""
    return np.array([(name, *row) for name, found in picks.items() for row in found],
                    [("name", "U99"), ("x", float), ("y", float), ("score", float)])


def extract(work, folder, rows, task):
    """Extract particles in RELION's polarity and normalisation into a folder."""
    from deepem_scipion.deepem.coordinates import write_star

    shutil.rmtree(work, ignore_errors=True)
    (work / "mics").mkdir(parents=True)
    names = sorted(set(rows["name"]))
    links = {name: f"mics/m{number:02}.mrc" for number, name in enumerate(names)}
    for name, link in links.items():  # as float32, since RELION 3.1 takes unsigned 16 bits for signed ones
        with mrcfile.new(work / link) as file:
            file.set_data(mrcfile.read(files(folder, [name])[0]).astype(np.float32))
            file.voxel_size = task.pixel_angst
    entries = [(links[name], np.column_stack((found["x"], found["y"])), found["score"])
               for name in names for found in [rows[rows["name"] == name]]]
    write_star(work / "picks.star", entries, task.pixel_angst)
    optics = (work / "picks.star").read_text().split("data_particles")[0]
    lines = "".join(f"{link} 1\n" for link in links.values())
    (work / "mics.star").write_text(f"{optics}data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
                                    f"{lines}\n")
    diameter_px = task.diameter_angst / task.pixel_angst
    box = 2 * round(BOX_PER_DIAMETER * diameter_px / 2)
    run(["relion_preprocess", "--i", "mics.star", "--reextract_data_star", "picks.star", "--part_star",
         "particles.star", "--part_dir", "particles/", "--extract", "--extract_size", box, "--scale",
         2 * round(box * task.pixel_angst / PIXEL_ANGST / 2), "--norm", "--bg_radius",
         round(0.6 * diameter_px * task.pixel_angst / PIXEL_ANGST), "--invert_contrast"], work)


def classify(work, task, options):
    """Class averages of the particles in a folder, and the number of particles in each."""
    (work / "class2d").mkdir()
    run(["relion_refine", "--i", "particles.star", "--o", "class2d/run", "--K", options.classes, "--iter",
         options.iterations, "--tau2_fudge", 2, "--particle_diameter", round(1.2 * task.diameter_angst), "--zero_mask",
         "--flatten_solvent", "--oversampling", 1, "--psi_step", 24, "--offset_range", 4, "--offset_step", 2, "--norm",
         "--scale", "--pad", 2, "--dont_combine_weights_via_disc", "--preread_images", "--random_seed", SEED, "--j",
         options.threads], work)
    last = f"class2d/run_it{options.iterations:03}"
    averages = mrcfile.read(work / f"{last}_classes.mrcs")
    numbers = np.bincount(class_numbers(work / f"{last}_data.star"), minlength=len(averages) + 1)[1:]
    return averages, numbers


def class_numbers(path):
    """Number of the class of every particle, from 1."""
    from deepem_scipion.deepem.startables import read_tables

    particles = next(each for each in read_tables(path) if "rlnClassNumber" in each.labels)
    column = particles.labels.index("rlnClassNumber")
    return np.array([int(float(fields[column])) for _, fields in particles.rows])


def ring(task):
    """Rotational average of the annotated particles of the training micrographs, as an image."""
    work = RESULTS / "classes2d" / "ring"
    extract(work, task.folder, annotated(task, task.training), task)
    mean = np.concatenate([mrcfile.read(path) for path in work.rglob("*.mrcs")]).mean(axis=0)
    radii = np.rint(radius(mean.shape)).astype(int)
    return (np.bincount(radii.ravel(), mean.ravel()) / np.bincount(radii.ravel()))[radii]


def radius(shape):
    """Distance of each pixel from RELION's centre of an image."""
    return np.hypot(*(np.indices(shape) - np.reshape(shape, (2, 1, 1)) // 2))


def correlation(average, expected, diameter_px):
    """Maximum correlation of a class average with the ring over shifts of at most a quarter of the diameter."""
    inside = radius(expected.shape) <= 0.6 * diameter_px
    steps = range(-round(diameter_px / 4), round(diameter_px / 4) + 1)
    if not average.std():
        return 0.0
    shifted = (np.roll(average, (dy, dx), (0, 1))[inside] for dy in steps for dx in steps)
    return max(np.corrcoef(pixels, expected[inside])[0, 1] for pixels in shifted if pixels.std())


def draw(path, results, minimum):
    """Draw the class averages, the largest classes first; frames of good classes are green."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = max(np.count_nonzero(numbers) for _, numbers, _ in results.values())
    figure, axes = pyplot.subplots(len(results), columns, squeeze=False, figsize=(0.8 * columns, 1.15 * len(results)))
    for line, (name, (averages, numbers, correlations)) in zip(axes, results.items()):
        for place in line:
            place.set(xticks=[], yticks=[])
            place.axis("off")
        line[0].set_title(name, loc="left", fontsize=8, pad=12)
        for place, each in zip(line, np.argsort(-numbers)[:np.count_nonzero(numbers)]):
            place.axis("on")
            place.imshow(averages[each], cmap="gray")
            place.text(0, -2, f"{numbers[each]}", fontsize=6)
            place.spines[:].set(color="tab:green" if correlations[each] >= minimum else "tab:red", linewidth=2)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=90)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)  # a third of the size


def main():
    """Pick, extract and classify; write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--correlation", type=float, default=0.8, help="minimum of a good class with the ring")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, default=RESULTS / "classes2d.png")
    options = parser.parse_args()
    if not has_data(options, "apoferritin"):
        return 0
    rows = [("picks", "number", "classes with particles", "good classes", "particles in good classes", "share",
             *(f"share at {minimum:g}" for minimum in OTHERS))]
    try:
        kinds, task = picked(options)
        expected, results = ring(task), {}
        for name, particles in kinds.items():
            work = RESULTS / "classes2d" / name.replace(" ", "-")
            extract(work, task.folder, particles, task)
            averages, numbers = classify(work, task, options)
            correlations = np.array([correlation(average, expected, task.diameter_angst / PIXEL_ANGST)
                                     for average in averages])
            results[name] = averages, numbers, correlations
            good = (correlations >= options.correlation) & (numbers > 0)
            shares = (numbers[correlations >= minimum].sum() / len(particles)
                      for minimum in (options.correlation, *OTHERS))
            rows.append((name, len(particles), np.count_nonzero(numbers), np.count_nonzero(good), numbers[good].sum(),
                         *(f"{share:.3f}" for share in shares)))
    except Skipped as reason:
        print(f"skipped: {reason}")
        return 0
    text = "\n".join([title(), "", *table(*rows)])
    (RESULTS / "classes2d.md").write_text(text)
    draw(options.picture, results, options.correlation)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
