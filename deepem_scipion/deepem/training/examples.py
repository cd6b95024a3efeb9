# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A few of the windows that a model learnt from, with their scores: a file beside the model, for people to look at."""

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
from ..network.scan import Scanner
from .boxes import collect_boxes
from .labels import NOWHERE, LabelledMicrograph

log = logging.getLogger(__name__)

# Of particles and of non-particles so many windows are scored, or fewer where they are large: the paper's presets, with
# windows of up to 272 pixels, would take minutes. So many are kept at random, and as many of the hardest.
SCORED = 256
SCORED_PIXELS = 2_000_000
KEPT = 18
AT_A_TIME = 64
# The kept windows of the largest preset have 11 MB.
MAX_BYTES = 2**28


@dataclass(frozen=True)
class TrainingExamples:
    """Windows in four groups: particles and non-particles, of either some at random and the hardest.

    The hardest are those whose scores are furthest from what they should be, worst first.

    Attributes
    ----------
    pixels : (n, box, box) float32, as the network sees them
    targets : (n,) , 1 for a particle, 0 for a non-particle
    hardest : (n,) bool
    scores : (n,) float32, mean over networks and four rotations
    names : (n,) str, micrograph of each
    centres_xy : (n, 2) in pixels of that micrograph
    """

    pixels: np.ndarray
    targets: np.ndarray
    hardest: np.ndarray
    scores: np.ndarray
    names: np.ndarray
    centres_xy: np.ndarray


def examples_file(model_file: str | Path) -> Path:
    """Where the sample of a model lies."""
    return Path(f"{model_file}.examples.npz")


def choose_examples(model: Model, labelled: Sequence[LabelledMicrograph], border_px: float, seed: int = 0) -> TrainingExamples:
    """Score some windows of particles and non-particles, and choose those to keep.

    Parameters
    ----------
    model : Model
    labelled : micrographs of the training, with those kept for validation
    border_px : as for `windows.collect_boxes`
    seed : of the choice
    """
    rng, box = np.random.default_rng(seed), model.geometry.box
    windows = collect_boxes(labelled, box, model.diameter_px, border_px, 1.0, rng)
    scored = max(KEPT, min(SCORED, SCORED_PIXELS // box**2))
    parts = []
    for target in (1, 0):
        found = rng.permutation(np.flatnonzero(windows.targets == target))[:scored]
        scores = _scores(model, windows.cut(found))
        worst = np.argsort(-np.abs(scores - target), kind="stable")[:KEPT]
        parts += [(found[:KEPT], scores[:KEPT], False), (found[worst], scores[worst], True)]
    numbers, scores = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    micrographs = [labelled[number].micrograph for number in windows.places[numbers, 0]]
    centres = [micrograph.to_input_xy(corner + (box - 1) / 2)
               for micrograph, corner in zip(micrographs, windows.places[numbers, 1:])]
    return TrainingExamples(windows.cut(numbers), windows.targets[numbers],
                  np.concatenate([np.full(len(part), hard) for part, _, hard in parts]), scores,
                  np.array([micrograph.name for micrograph in micrographs], str), np.concatenate([NOWHERE, *centres]))


def keep_examples(path: Path, model: Model, labelled: Sequence[LabelledMicrograph], border_px: float, seed: int) -> None:
    """Choose and write a sample; what goes wrong is told and costs nothing but the sample."""
    try:
        save_examples(path, choose_examples(model, labelled, border_px, seed))
    except DeepEMError as error:
        log.warning("%s", error)
        path.unlink(missing_ok=True)


def save_examples(path: str | Path, sample: TrainingExamples) -> None:
    """Write a sample, as a whole or not at all; raises DeepEMError where it cannot be written."""
    content = io.BytesIO()
    # Half precision is more than a screen shows.
    np.savez_compressed(content, **{**vars(sample), "pixels": sample.pixels.astype(np.float16)})
    with atomic_write(path, "wb") as handle:
        handle.write(content.getbuffer())


def load_examples(path: str | Path) -> TrainingExamples:
    """Read what `save_examples` wrote; raises DeepEMError where it is missing or damaged."""
    try:
        # Opened here, since NumPy leaves a file open that is no archive.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            if (size := sum(member.file_size for member in file.zip.infolist())) > MAX_BYTES:
                raise ValueError(f"it claims {size} bytes, expected at most {MAX_BYTES}")
            found = {name: file[name] for name in TrainingExamples.__dataclass_fields__}
    except Exception as error:  # a damaged file can raise nearly anything inside the libraries
        raise DeepEMError(f"{path} cannot be read as a sample of windows ({error})") from error
    sample = TrainingExamples(**{**found, "pixels": found["pixels"].astype(np.float32)})
    n = len(sample.pixels)
    if sample.pixels.ndim != 3 or any(len(values) != n for values in vars(sample).values()):
        raise DeepEMError(f"{path} is no sample of windows: its parts do not belong together")
    return sample


def _scores(model: Model, pixels: np.ndarray) -> np.ndarray:
    """Score of each window; side by side they are an image whose scan has the box as its step."""
    scanner = Scanner(model.geometry, model.networks, model.geometry.box)
    rows = [pixels[start:start + AT_A_TIME] for start in range(0, len(pixels), AT_A_TIME)]
    return np.concatenate([np.empty(0, np.float32), *(scanner.scan(np.hstack(list(row)))[0] for row in rows)])
