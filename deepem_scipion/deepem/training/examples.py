# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Examples of a training: boxes of particles and negatives with their scores, kept next to a model for inspection."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..atomic import atomic_write
from ..errors import DeepEMError
from ..model.model import Model
from .boxes import collect_boxes
from .labels import NO_CENTRES, LabelledMicrograph

log = logging.getLogger(__name__)

# This many boxes of particles and of negatives are scored, fewer if they are large: the paper's presets, with boxes of
# up to 272 pixels, would take minutes.
SCORED = 256
SCORED_PIXELS = 2_000_000
# This many are kept at random, and as many of the hardest.
KEPT = 18
AT_A_TIME = 64
# The kept boxes of the largest preset have 11 MB.
MAX_BYTES = 2**28


@dataclass(frozen=True)
class TrainingExamples:
    """Boxes in four groups: particles and negatives, of either some at random and the hardest.

    The hardest have the largest difference between score and target; the worst comes first.

    Attributes
    ----------
    pixels : (n, box, box) float32 array
        Pixels as the network sees them.
    targets : (n,) float32 array
        1 for a particle, 0 for a negative.
    hardest : (n,) bool array
        Whether the box is in the group of the hardest.
    scores : (n,) float32 array
        Mean score over networks and four rotations.
    names : (n,) str array
        Name of the micrograph of each.
    centres_xy : (n, 2) float64 array
        Centres as x, y in pixels of that micrograph.
    """

    pixels: np.ndarray
    targets: np.ndarray
    hardest: np.ndarray
    scores: np.ndarray
    names: np.ndarray
    centres_xy: np.ndarray


def choose_examples(model: Model, labelled: Sequence[LabelledMicrograph], border_px: float,
                    seed: int = 0) -> TrainingExamples:
    """Score some boxes of particles and negatives, and choose those to keep.

    Parameters
    ----------
    model : Model
        Trained model.
    labelled : sequence of LabelledMicrograph
        Micrographs of the training, including those for validation.
    border_px : float
        As for `boxes.collect_boxes`.
    seed : int
        Seed of the random choice.

    Returns
    -------
    TrainingExamples
    """
    rng, box = np.random.default_rng(seed), model.geometry.box
    boxes = collect_boxes(labelled, box, model.diameter_px, border_px, 1.0, rng)
    boxes.normalised = model.ranges_px is not None
    scored = max(KEPT, min(SCORED, SCORED_PIXELS // box**2))
    parts = []
    for target in (1, 0):
        found = rng.permutation(np.flatnonzero(boxes.targets == target))[:scored]
        scores = _scores(model, boxes.cut(found))
        worst = np.argsort(-np.abs(scores - target), kind="stable")[:KEPT]
        parts += [(found[:KEPT], scores[:KEPT], False), (found[worst], scores[worst], True)]
    numbers, scores = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    micrographs = [labelled[number].micrograph for number in boxes.places[numbers, 0]]
    centres = [micrograph.to_input_xy(corner + (box - 1) / 2)
               for micrograph, corner in zip(micrographs, boxes.places[numbers, 1:])]
    return TrainingExamples(
        boxes.cut(numbers), boxes.targets[numbers],
        np.concatenate([np.full(len(part), hard) for part, _, hard in parts]), scores,
        np.array([micrograph.name for micrograph in micrographs], str), np.concatenate([NO_CENTRES, *centres]))


def keep_examples(path: Path, model: Model, labelled: Sequence[LabelledMicrograph], border_px: float,
                  seed: int) -> None:
    """Choose examples and write them. An error costs only the examples, and is logged.

    Parameters
    ----------
    path : Path
        File to write; removed if it cannot be written.
    model, labelled, border_px, seed
        As for `choose_examples`.
    """
    try:
        save_examples(path, choose_examples(model, labelled, border_px, seed))
    except DeepEMError as error:
        log.warning("%s", error)
        path.unlink(missing_ok=True)


def save_examples(path: str | Path, examples: TrainingExamples) -> None:
    """Write examples atomically; pixels in half precision, which is more than a screen shows.

    Parameters
    ----------
    path : str or Path
        File to write (.npz).
    examples : TrainingExamples

    Raises
    ------
    DeepEMError
        If the file cannot be written.
    """
    content = io.BytesIO()
    np.savez_compressed(content, **{**vars(examples), "pixels": examples.pixels.astype(np.float16)})
    with atomic_write(path, "wb") as handle:
        handle.write(content.getbuffer())


def load_examples(path: str | Path) -> TrainingExamples:
    """Read examples.

    Parameters
    ----------
    path : str or Path
        File written by `save_examples`.

    Returns
    -------
    TrainingExamples

    Raises
    ------
    DeepEMError
        If the file is missing or damaged.
    """
    try:
        # Opened here, because NumPy does not close a file that is no archive.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            if (size := sum(member.file_size for member in file.zip.infolist())) > MAX_BYTES:
                raise ValueError(f"it claims {size} bytes, expected at most {MAX_BYTES}")
            found = {name: file[name] for name in TrainingExamples.__dataclass_fields__}
    except Exception as error:  # a damaged file can raise nearly anything inside the libraries
        raise DeepEMError(f"{path} cannot be read as examples of a training ({error})") from error
    examples = TrainingExamples(**{**found, "pixels": found["pixels"].astype(np.float32)})
    n = len(examples.pixels)
    if examples.pixels.ndim != 3 or any(len(values) != n for values in vars(examples).values()):
        raise DeepEMError(f"{path} does not hold examples of a training: its parts do not match")
    return examples


def _scores(model: Model, pixels: np.ndarray) -> np.ndarray:
    """Score each box. Side by side they are an image that is scanned in steps of a box."""
    from ..network.scan import Scanner  # not in Scipion's Python, which shows the examples

    scanner = Scanner(model.geometry, model.networks, model.geometry.box)
    rows = [pixels[start:start + AT_A_TIME] for start in range(0, len(pixels), AT_A_TIME)]
    return np.concatenate([np.empty(0, np.float32), *(scanner.scan(np.hstack(list(row)))[0] for row in rows)])
