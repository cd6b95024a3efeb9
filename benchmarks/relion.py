# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of peers.py and classes2d.py: RELION's pickers, its extraction of particles and its 2D classification."""

import re
import shutil

import mrcfile
import numpy as np
from common import ROOT, files
from pickers import Outcome, Program, Skipped, run

LOWPASS_ANGST = 20  # RELION's default for LoG picking
BOX_PER_DIAMETER = 1.5
PIXELS_PER_DIAMETER = 30  # of extracted particles
SEED = 0
TEMPLATE_PARTICLES, TEMPLATES, TEMPLATE_ITERATIONS = 500, 6, 10
TEMPLATE_ANGLE = 10  # RELION's default


def version():
    """Version of the installed RELION."""
    if not shutil.which("relion_autopick"):
        raise Skipped("no program relion_autopick")
    return re.search(r"[\d.]+", run(["relion_autopick", "--version"], ROOT)[1])[0]


def autopick(task, words):
    """Run RELION's picking on the test micrographs; picks by name, and seconds."""
    from deepem_scipion.deepem import read_coordinates

    links = task.link(task.test)
    for link in links:
        write_floats(task.work / f"{link}.mrc", task.work / f"float_{link}.mrc", task.pixel_angst)
    # Half, a quarter, ... with pixels of at most 10 A. RELION's own choice (`--shrink 0`) shifts all coordinates by a
    # pixel of the downsampled micrograph if its side is odd.
    shrink = 1.0
    while task.pixel_angst / shrink <= LOWPASS_ANGST / 4:
        shrink /= 2
    seconds = run(["relion_autopick", "--i", "float_*.mrc", "--odir", "picks/", "--pickname", "autopick", "--angpix",
                   task.pixel_angst, "--shrink", shrink, "--lowpass", LOWPASS_ANGST, *words], task.work)[0]
    found = {link: next(iter(read_coordinates(task.work / "picks" / f"float_{link}_autopick.star").values()))
             for link in links}
    return {name: np.column_stack((found[link].centres_xy, found[link].scores)).tolist()
            for link, name in links.items()}, seconds


def write_floats(source, target, pixel_angst):
    """Copy a micrograph as float32, since RELION 3.1 takes unsigned 16 bits for signed ones."""
    with mrcfile.new(target, overwrite=True) as file:
        file.set_data(mrcfile.read(source).astype(np.float32))
        file.voxel_size = pixel_angst


def log(options, neighbour):
    """RELION's Laplacian-of-Gaussian autopicking; the minimum distance is `neighbour` percent of the diameter."""

    def pick(task):
        picks, seconds = autopick(task, ["--LoG", "--LoG_diam_min", 0.9 * task.diameter_angst, "--LoG_diam_max",
                                         1.1 * task.diameter_angst, "--LoG_neighbour", neighbour,
                                         "--LoG_adjust_threshold", -10])
        return Outcome(picks, None, seconds)

    return Program(f"RELION {version()} LoG", f"diameter 0.9 to 1.1, LoG_neighbour {neighbour}", "diameter", pick)


def templates(options):
    """RELION's template picking with class averages of annotated particles of the training micrographs."""

    def pick(task):
        rows = annotated(task, task.training)
        rows = rows[np.random.default_rng(SEED).permutation(len(rows))[:TEMPLATE_PARTICLES]]
        spent = extract(task.work / "templates", rows, task)
        seconds, averages, numbers = classify(task.work / "templates", task, TEMPLATES, TEMPLATE_ITERATIONS,
                                              options.threads)
        with mrcfile.new(task.work / "templates.mrcs") as file:
            file.set_data(averages[numbers > 0])
            file.voxel_size = task.diameter_angst / PIXELS_PER_DIAMETER
        picks, picking = autopick(task, [
            "--ref", "templates.mrcs", "--angpix_ref", task.diameter_angst / PIXELS_PER_DIAMETER, "--invert", "--ang",
            TEMPLATE_ANGLE, "--particle_diameter", 1.2 * task.diameter_angst, "--min_distance",
            0.5 * task.diameter_angst, "--threshold", 0])
        return Outcome(picks, spent + seconds, picking)

    return Program(f"RELION {version()} templates", f"{TEMPLATES} classes of {TEMPLATE_PARTICLES} particles, "
                   f"{TEMPLATE_ANGLE} degrees", "coordinates, diameter", pick)


def annotated(task, names):
    """Annotated particles of these micrographs, in the form of `flat`; scores are 0."""
    return flat({name: np.pad(task.known[name].centres_xy, ((0, 0), (0, 1))) for name in names})


def flat(picks):
    """All picks as one array with the fields name, x, y, score."""
    return np.array([(name, *row) for name, found in picks.items() for row in found],
                    [("name", "U99"), ("x", float), ("y", float), ("score", float)])


def extract(work, rows, task):
    """Extract particles in RELION's polarity and normalisation into a folder; seconds."""
    from deepem_scipion.deepem.coordinates import write_star

    shutil.rmtree(work, ignore_errors=True)
    (work / "mics").mkdir(parents=True)
    names = sorted(set(rows["name"]))
    links = {name: f"mics/m{number:02}.mrc" for number, name in enumerate(names)}
    for name, link in links.items():
        write_floats(files(task.folder, [name])[0], work / link, task.pixel_angst)
    entries = [(links[name], np.column_stack((found["x"], found["y"])), found["score"])
               for name in names for found in [rows[rows["name"] == name]]]
    write_star(work / "picks.star", entries, task.pixel_angst)
    optics = (work / "picks.star").read_text().split("data_particles")[0]
    lines = "".join(f"{link} 1\n" for link in links.values())
    (work / "mics.star").write_text(f"{optics}data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
                                    f"{lines}\n")
    box = 2 * round(BOX_PER_DIAMETER * task.diameter_angst / task.pixel_angst / 2)
    scaled = 2 * round(box * task.pixel_angst / task.diameter_angst * PIXELS_PER_DIAMETER / 2)
    return run(["relion_preprocess", "--i", "mics.star", "--reextract_data_star", "picks.star", "--part_star",
                "particles.star", "--part_dir", "particles/", "--extract", "--extract_size", box, "--scale", scaled,
                "--norm", "--bg_radius", round(0.6 * PIXELS_PER_DIAMETER), "--invert_contrast"], work)[0]


def classify(work, task, classes, iterations, threads):
    """Classify the particles in a folder: seconds, class averages, and the number of particles in each."""
    (work / "class2d").mkdir()
    seconds = run(["relion_refine", "--i", "particles.star", "--o", "class2d/run", "--K", classes, "--iter",
                   iterations, "--tau2_fudge", 2, "--particle_diameter", round(1.2 * task.diameter_angst),
                   "--zero_mask", "--flatten_solvent", "--oversampling", 1, "--psi_step", 24, "--offset_range", 4,
                   "--offset_step", 2, "--norm", "--scale", "--pad", 2, "--dont_combine_weights_via_disc",
                   "--preread_images", "--random_seed", SEED, "--j", threads], work)[0]
    last = f"class2d/run_it{iterations:03}"
    averages = mrcfile.read(work / f"{last}_classes.mrcs")
    numbers = np.bincount(class_numbers(work / f"{last}_data.star"), minlength=len(averages) + 1)[1:]
    return seconds, averages, numbers


def class_numbers(path):
    """Number of the class of every particle, from 1."""
    from deepem_scipion.deepem.startables import read_tables

    particles = next(each for each in read_tables(path) if "rlnClassNumber" in each.labels)
    column = particles.labels.index("rlnClassNumber")
    return np.array([int(float(fields[column])) for _, fields in particles.rows])
