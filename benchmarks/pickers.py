# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by peers.py and classes2d.py: what a picker is given and returns, other programs, and DeepEM as a picker."""

import resource
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import PROGRAM, ROOT, commit, files, read_picks


class Skipped(Exception):
    """A program is not installed or fails."""


@dataclass
class Task:
    """One fold of one set, the input of a program.

    Attributes
    ----------
    folder : Path
        Annotated set, with `micrographs` and `boxes`.
    diameter_angst, pixel_angst : float
        Particle diameter and pixel size in angstrom.
    known : dict of str to Coordinates
        Reference coordinates by name of the micrograph.
    training, test : list of str
        Names of the micrographs.
    work : Path
        Folder for the output of the program.
    """

    folder: Path
    diameter_angst: float
    pixel_angst: float
    known: dict
    training: list
    test: list
    work: Path

    def link(self, names):
        """Link micrographs by names without dots, which some programs take for extensions; link -> name."""
        order = sorted(self.known)
        found = {f"m{order.index(name):02}": name for name in names}
        for plain, path in zip(found, files(self.folder, names)):
            link = self.work / f"{plain}.mrc"
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        return found


@dataclass
class Outcome:
    """Picks (name -> rows of x, y, score), and processor seconds of training and of picking."""

    picks: dict
    training_s: float | None
    picking_s: float


@dataclass
class Program:
    """A picker: name and version, its settings as listed in the table, what it is given, and what runs it."""

    title: str
    setting: str
    given: str
    run: Callable[[Task], Outcome]


def run(command, work):
    """Run a program; the processor seconds that it took and its output."""
    def used():
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    before = used()
    try:
        done = subprocess.run(list(map(str, command)), cwd=work, capture_output=True, text=True)
    except OSError as error:
        raise Skipped(f"{command[0]} does not start: {error}") from None
    if done.returncode:
        raise Skipped(f"{command[0]} {command[1]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return used() - before, done.stdout


def deepem(options, trained=True, threshold="0"):
    """DeepEM with its default settings, trained or with its general model."""

    def pick(task):
        threads, spent = ["--threads", options.threads], None
        model = ["--diameter", task.diameter_angst]
        if trained:
            model = ["--model", task.work / "model.deepem"]
            spent = run([*PROGRAM, "train", "--micrographs", *files(task.folder, task.training), "--coordinates",
                         task.folder / "boxes", "--diameter", task.diameter_angst, "--seed", 0, *threads,
                         "--output", task.work / "model.deepem"], ROOT)[0]
        seconds = run([*PROGRAM, "pick", *model, "--micrographs", *files(task.folder, task.test), "--threshold",
                       threshold, *threads, "--output", task.work / "picks", "--overwrite"], ROOT)[0]
        found = read_picks(task.work / "picks")
        return Outcome({name: np.column_stack((found[name].centres_xy, found[name].scores)).tolist()
                        for name in task.test}, spent, seconds)

    return Program(f"DeepEM {commit()}", "default" if trained else "general model",
                   "coordinates, diameter" if trained else "diameter", pick)
