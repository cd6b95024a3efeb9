# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the benchmarks: annotated data sets, their splits, and tables in Markdown."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PROGRAM = [sys.executable, "-m", "deepem_scipion.deepem"]


@dataclass(frozen=True)
class DataSet:
    """An annotated data set.

    Attributes
    ----------
    diameter_angst : float
        Particle diameter in angstrom.
    train : int
        Number of training micrographs.
    distances_px : tuple of int
        Matching distances in pixels of the micrographs.
    region : tuple of int
        Annotated region (x0, y0, x1, y1) in pixels of the micrographs.
    folder : str
        Folder of the set, if this is not its name.
    images : str
        Subfolder of the micrographs.
    """

    diameter_angst: float
    train: int
    distances_px: tuple
    region: tuple
    folder: str = ""
    images: str = "micrographs"


SETS = {
    "apoferritin": DataSet(120, 4, (31,), (20, 20, 1220, 1180)),
    "empiar10017": DataSet(191, 8, (27, 13), (64, 64, 1984, 1984)),
}


def micrograph_names(folder, images="micrographs"):
    """Names of the micrographs of a set in alphabetical order."""
    return sorted(path.stem for path in (folder / images).glob("*.mrc"))


def files(folder, names, images="micrographs"):
    """Paths of the micrographs with these names."""
    return [str(folder / images / f"{name}.mrc") for name in names]


def splits(names, n_train, folds):
    """Pairs of (training names, test names): one pair without folds, otherwise one for each fold."""
    if not folds:
        return [(names[:n_train], names[n_train:])]
    return [([name for name in names if name not in names[fold::folds]][:n_train], names[fold::folds])
            for fold in range(folds)]


def read_picks(folder):
    """Picks in a results folder: name of the micrograph -> Coordinates."""
    from deepem_scipion.deepem import PickingResults

    results = PickingResults(folder)
    return {name: results.read_picks(name) for name, result in results.read_micrographs().items() if result.ok}


def add_data_option(parser):
    """Add the option --data to the parser of a benchmark."""
    shared = os.environ.get("DEEPEM_SHARED", ROOT.parent / "shared")
    parser.add_argument("--data", type=Path, default=Path(shared) / "data", help="folder of the annotated sets")


def has_data(options, *names):
    """Whether the folders of these sets exist; prints a message if not."""
    missing = [str(name) for name in names if not (options.data / name).is_dir()]
    if missing:
        print(f"skipped: found no {', '.join(missing)} in {options.data}; set DEEPEM_SHARED or give --data")
    return not missing


def commit():
    """Short hash of the current commit, with `-dirty` if files differ from it."""
    return subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude", "*"],
                          capture_output=True, text=True).stdout.strip()


def title():
    """Return the command line and the commit, the first line of the output."""
    script = Path(sys.argv[0]).name
    return f"`{' '.join(['python', f'benchmarks/{script}', *sys.argv[1:]])}` at commit {commit()}"


def processor():
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def table(*rows):
    """Lines of a table in Markdown; the first row is the header."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]
