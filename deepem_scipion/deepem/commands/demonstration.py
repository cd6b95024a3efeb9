# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demonstration: train on simulated micrographs, pick others, and compare the picks with the known centres."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.read import read_coordinates
from ..errors import DeepEMError
from ..evaluation.matching import match, pool
from ..evaluation.metrics import curve, evaluate
from ..micrographs.find import find_micrographs
from ..micrographs.micrograph import read_micrograph
from ..model.files import read_card, save_model
from ..picking.picker import Picker
from ..picking.results import PickingResults
from ..picking.run import pick_micrographs
from ..picking.selection import BORDER, LOCAL_STD, MIN_DISTANCE, PICKED, Limits, select
from ..report.plots import draw_curve, draw_picks, draw_training
from ..simulation.dataset import write_dataset
from ..simulation.scene import Scene
from ..training.plan import Plan
from ..training.train import train_model
from ..training.training_set import TrainingSet

SCENE = Scene(n_particles=48, snr=0.01, spacing=1.1, touching_fraction=0.1, gradient=0.5, ice=2, carbon=0.08)
# Enough for these micrographs; the default is twice as many.
EPOCHS = 10
# Part of the data -> number of micrographs, seed.
PARTS = {"training": (6, 1), "test": (4, 2)}


def write_demo_data(folder: str | Path) -> bool:
    """Simulate the micrographs of the demonstration.

    Parameters
    ----------
    folder : str or Path
        Gets `PART/micrographs/PART_NNN.mrc` and `PART/boxes/PART_NNN.box`.

    Returns
    -------
    bool
        Whether they were simulated; False if they were there from an earlier run.

    Raises
    ------
    DeepEMError
        The folder has other files.
    """
    folder = Path(folder)
    description = f"{SCENE}\n{PARTS}\n"
    mark = folder / "scene.txt"
    if mark.exists():
        if mark.read_text(encoding="utf-8") == description:
            return False
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise DeepEMError(f"{folder} has other files than simulated micrographs; choose another output folder.")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("not complete", encoding="utf-8")
    for part, (n_micrographs, seed) in PARTS.items():
        write_dataset(folder / part, SCENE, n_micrographs, seed, prefix=part)
    mark.write_text(description, encoding="utf-8")
    return True


def run_demo(output: str | Path, say: Callable[[str], None]) -> dict[str, float]:
    """Simulate micrographs, train on some of them, pick the others, and draw the results.

    Parameters
    ----------
    output : str or Path
        Output folder; simulated micrographs of an earlier run in it are used again.
    say : callable
        Called with each line of text about the progress and the results.

    Returns
    -------
    dict of str to float
        "precision", "recall" and "F1" on the picked micrographs.
    """
    output = Path(output)
    data, model_file, picks = output / "data", output / "model.safetensors", output / "picks"
    boxes = data / "training" / "boxes"
    n_micrographs = sum(number for number, _ in PARTS.values())
    made = write_demo_data(data)
    say(f"{n_micrographs} micrographs {'simulated' if made else 'from an earlier run'} in {data}")
    say("\n" + _command("train", micrographs=_micrographs(data, "training"), coordinates=boxes,
                        diameter=f"{SCENE.diameter_angst:g}", epochs=EPOCHS, output=model_file))
    model = train_model(TrainingSet(find_micrographs([_micrographs(data, "training")]), read_coordinates(boxes)),
                        Plan(SCENE.diameter_angst, epochs=EPOCHS), progress=lambda record: _say_epoch(record, say))
    save_model(model_file, model)
    say("\n" + _command("pick", model=model_file, micrographs=_micrographs(data, "test"), output=picks))
    pick_micrographs(find_micrographs([_micrographs(data, "test")]), Picker(model), picks, existing="overwrite")
    figures, lines = compare(output, read_coordinates(picks), picks, model_file)
    for line in ("", *lines):
        say(line)
    return figures


def compare(output: Path, picks: Mapping[str, Coordinates], picks_folder: Path,
            model: Path) -> tuple[dict[str, float], list[str]]:
    """Compare picks on the test micrographs with the known centres, and draw three pictures.

    Parameters
    ----------
    output : Path
        Output folder of the demonstration, to which the pictures are written.
    picks : mapping of str to Coordinates
        By name of the micrograph.
    picks_folder : Path
        Results folder of the picking run.
    model : Path
        Model file.

    Returns
    -------
    figures : dict of str to float
        "precision", "recall" and "F1".
    lines : list of str
        Text about them and the pictures.
    """
    truth = read_coordinates(output / "data" / "test" / "boxes")
    distance_px = SCENE.diameter_px / 2
    overall = evaluate(truth, picks, distance_px)["overall"]
    card = read_card(model)
    seconds = [found.seconds for found in PickingResults(picks_folder).read_micrographs().values() if found.seconds]
    pictures = {"micrograph with picks": output / "picks.png", "precision and recall": output / "curve.png",
                "training": output / "training.png"}
    _draw(pictures, truth, picks, picks_folder, card)
    figures = {name: float(overall[name]) for name in ("precision", "recall", "F1")}
    lines = [", ".join(f"{name} {value:.3f}" for name, value in figures.items())
             + f" ({overall['picks']} picks, {overall['truth']} particles, correct within {distance_px:.0f} px)",
             f"{np.mean(seconds):.2f} seconds per micrograph of {SCENE.shape[1]} x {SCENE.shape[0]} px"]
    lines += [f"picture, {name}: {path.resolve()}" for name, path in pictures.items()]
    return figures, lines


def _draw(pictures: Mapping[str, Path], truth: Mapping[str, Coordinates], picks: Mapping[str, Coordinates],
          picks_folder: Path, card: Mapping[str, Any]) -> None:
    """Draw a micrograph with picks, precision and recall over all thresholds, and the training."""
    first, second, third = pictures.values()
    name = min(truth)
    path = first.parent / "data" / "test" / "micrographs" / f"{name}.mrc"
    picked = picks.get(name, Coordinates(np.empty((0, 2)), np.empty(0), None))
    draw_picks(read_micrograph(path).pixels, picked.centres_xy, picked.scores, SCENE.diameter_px, first,
               truth_xy=truth[name].centres_xy, title=name)
    results = PickingResults(picks_folder)
    matches = [match(*picks_without_threshold(results, name), known.centres_xy, SCENE.diameter_px / 2)
               for name, known in truth.items()]
    draw_curve(curve(pool(matches)), second, threshold=card["threshold"])
    draw_training(card["history"], third)


def picks_without_threshold(results: PickingResults, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what would be picked with a threshold of 0.

    Parameters
    ----------
    results : PickingResults
    name : str
        Name of the micrograph.

    Returns
    -------
    centres_xy : (n, 2) float64 array
        Centres as x, y in pixels.
    scores : (n,) float64 array
    """
    candidates, reasons = results.read_candidates(name)
    candidates = candidates.subset(~np.isin(reasons, (BORDER, LOCAL_STD)))
    limits = Limits(0.0, MIN_DISTANCE * SCENE.diameter_angst)
    picked = candidates.subset(select(candidates, limits, SCENE.pixel_size_angst) == PICKED)
    return picked.centres_xy, picked.scores


def _micrographs(data: Path, part: str) -> Path:
    return data / part / "micrographs"


def _command(name: str, **options: object) -> str:
    """Return the command line that does the same."""
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return shlex.join(["deepem", name, *words])


def _say_epoch(record: Mapping[str, Any], say: Callable[[str], None]) -> None:
    if record["epoch"] % 5 == 0:
        say(f"epoch {record['epoch']}/{record['epochs']}: validation accuracy "
            f"{100 * record['validation_accuracy']:.1f} %, {record['seconds_left']:.0f} s left")
