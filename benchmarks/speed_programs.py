# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of speed.py: whole programs, on one micrograph and on EMPIAR-10017."""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import PROGRAM, SETS, table
from timing import initial_weights, run

DIAMETER_ANGST = SETS["empiar10017"].diameter_angst


def single(options):
    """Time `deepem pick` of one micrograph of 1024 x 1024 pixels at the automatic geometry, start-up included."""
    import mrcfile

    from deepem_scipion.deepem import Model
    from deepem_scipion.deepem.model import save_model
    from deepem_scipion.deepem.network import auto_geometry

    geometry = auto_geometry(27)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        with mrcfile.new(work / "a.mrc") as file:
            file.set_data(np.random.default_rng(0).standard_normal((1024, 1024), np.float32))
            file.voxel_size = 1.0
        save_model(work / "model", Model(geometry, (initial_weights(geometry),), 1.0, 27.0, 2, (0.0, 9.0), 0.5))
        found = [run([*PROGRAM, "pick", "--model", work / "model", "--micrographs", work / "a.mrc", "--output",
                      tempfile.mkdtemp(dir=work)]) for _ in range(options.repeats)]
    seconds, peak, cpu = (statistics.median(values) for values in zip(*found))
    figures = [{"program": "deepem pick, 1024 x 1024", "wall_s": seconds, "cpu_s": cpu, "peak_mib": peak}]
    rows = [("program", "s", "s of all cores", "peak memory, MiB"),
            ("deepem pick", f"{seconds:.2f}", f"{cpu:.2f}", f"{peak:.0f}")]
    return figures, ["### One micrograph of 1024 x 1024 pixels, whole program", "", *table(*rows)]


def pick(options):
    """Time whole programs on EMPIAR-10017; start-up is the time of one micrograph minus that of a further one."""
    folder = options.data / "empiar10017"
    if not folder.is_dir():
        return [], [f"`pick` skipped: no {folder}", ""]
    micrographs = sorted((folder / "micrographs").glob("*.mrc"))
    figures = []
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        model = work / "model.deepem"
        run([*PROGRAM, "train", "--micrographs", *micrographs[:8], "--coordinates", folder / "boxes", "--diameter",
             DIAMETER_ANGST, "--output", model])
        many = work / "many.txt"
        many.write_text("".join(f"{path}\t{path.stem}_{i}\n" for i in range(4) for path in micrographs))
        one = work / "one.txt"
        one.write_text(f"{micrographs[0]}\n")

        def deepem(which, threads=None):
            return run([*PROGRAM, "pick", "--model", model, "--micrographs", which, "--output",
                        tempfile.mkdtemp(dir=work), *(["--threads", threads] if threads else [])])

        for threads in (None, 1):
            name = f"deepem pick --threads {threads}" if threads else "deepem pick"
            figures.append(per_micrograph(name, 4 * len(micrographs), lambda threads=threads: deepem(one, threads),
                                          lambda threads=threads: deepem(many, threads)))
        if options.topaz:
            images = work / "topaz"
            images.mkdir()
            preprocess = [options.topaz, "preprocess", "-s", "4", "-o", images]

            def topaz(paths):
                return run([options.topaz, "extract", "-m", "resnet8_u64", "-r", "7", "-x", "4", "-d", "-1", "-o",
                            work / "topaz.txt", *paths])

            prepared = run([*preprocess, *micrographs[:6]])
            downsampled = sorted(images.glob("*.mrc"))
            figures.append(per_micrograph("topaz extract (resnet8_u64, binned by 4; preprocessing not counted)", 6,
                                          lambda: topaz(downsampled[:1]), lambda: topaz(downsampled)))
            figures[-1]["preprocess_s"] = prepared.seconds / 6
        if shutil.which("relion_autopick"):
            for path in micrographs:
                (work / path.name).symlink_to(path)

            def relion(pattern, folder):
                return run(["relion_autopick", "--i", pattern, "--odir", f"{folder}/", "--pickname", "autopick",
                            "--LoG", "--shrink", "0", "--LoG_diam_min", DIAMETER_ANGST * 0.9, "--LoG_diam_max",
                            DIAMETER_ANGST * 1.1, "--lowpass", "20", "--angpix", "3.54"], cwd=work)

            figures.append(per_micrograph("relion_autopick --LoG --shrink 0 --lowpass 20", len(micrographs),
                                          lambda: relion(micrographs[0].name, "one"), lambda: relion("*.mrc", "all")))
    rows = [("program", "s per micrograph after start-up", "of all cores, s", "start-up, s", "peak memory, MiB")]
    rows += [(row["program"], f"{row['wall_s']:.2f}", f"{row['cpu_s']:.2f}", f"{row['startup_s']:.1f}",
              f"{row['peak_mib']:.0f}") for row in figures]
    return figures, ["### Whole programs, EMPIAR-10017 (2048 x 2048)", "", *table(*rows)]


def unlabelled(options):
    """Time whole programs on EMPIAR-10017 that start from the general model, picking beside a trained model."""
    folder = options.data / "empiar10017"
    if not folder.is_dir():
        return [], [f"`unlabelled` skipped: no {folder}", ""]
    micrographs = sorted((folder / "micrographs").glob("*.mrc"))
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        many, some = work / "many.txt", work / "some.txt"
        for file, number in ((many, 48), (some, 20)):
            file.write_text("".join(f"{micrographs[i % len(micrographs)]}\tm{i:02}\n" for i in range(number)))
        (work / "boxes").mkdir()
        for path in micrographs[:2]:
            lines = (folder / "boxes" / f"{path.stem}.box").read_text().splitlines(keepends=True)
            (work / "boxes" / f"{path.stem}.box").write_text("".join(lines[:25]))
        trained, diameter = work / "trained.deepem", ["--diameter", DIAMETER_ANGST]
        run([*PROGRAM, "train", "--micrographs", *micrographs[:2], "--coordinates", folder / "boxes", *diameter,
             "--epochs", "1", "--output", trained])

        def deepem(model, which):
            return run([*PROGRAM, "pick", *model, "--micrographs", which, "--output", tempfile.mkdtemp(dir=work)])

        figures = [per_micrograph(f"pick, {name} model", 48, lambda model=model: deepem(model, micrographs[0]),
                                  lambda model=model: deepem(model, many))
                   for name, model in (("trained", ["--model", trained]), ("general", diameter))]
        rows = [("program", "s per micrograph after start-up", "of all cores, s", "start-up, s")]
        rows += [(row["program"], f"{row['wall_s']:.2f}", f"{row['cpu_s']:.2f}", f"{row['startup_s']:.1f}")
                 for row in figures]
        lines = ["### From the general model, EMPIAR-10017", "", *table(*rows)]
        trainings = [(name, run([*PROGRAM, "train", *arguments, *diameter, "--output", work / f"{name[:2]}.deepem"]))
                     for name, arguments in (
                         ("20 micrographs without coordinates", ["--micrographs", some]),
                         ("50 particles on two micrographs", ["--micrographs", *micrographs[:2], "--coordinates",
                                                              work / "boxes", "--incomplete"]))]
    figures += [{"training": name, "wall_s": found.seconds, "cpu_s": found.cpu_s} for name, found in trainings]
    rows = [("training", "s", "s of all cores")]
    rows += [(name, f"{found.seconds:.1f}", f"{found.cpu_s:.1f}") for name, found in trainings]
    return figures, [*lines, *table(*rows)]


def per_micrograph(program, number, one, many):
    """Time per micrograph from a run with one micrograph and a run with many."""
    one()
    first, everything = one(), many()
    each, cpu = ((everything[index] - first[index]) / (number - 1) for index in (0, 2))
    found = {"program": program, "micrographs": number, "wall_s": each, "cpu_s": cpu,
             "startup_s": first.seconds - each, "peak_mib": everything.peak_mib}
    print(found, file=sys.stderr, flush=True)
    return found
