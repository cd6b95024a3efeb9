# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Masks of contamination in the studio: in what is found, in what is stored, and in what is learnt."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import candidates_of_blobs, write_blobs
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import PICKED, Limits
from deepem_scipion.deepem.studio.learning import learn
from deepem_scipion.deepem.studio.lessons import Course, Lesson
from deepem_scipion.deepem.studio.opening import Wanted, open_session
from deepem_scipion.deepem.studio.session import Session
from deepem_scipion.deepem.studio.worker import WorkerState, find, read_stored

PIXEL_ANGST, DIAMETER_ANGST = 4.0, 64.0


@pytest.fixture
def masks(tmp_path):
    """Masks of the right half of micrograph a, with fewer pixels than it has."""
    write_blobs(tmp_path, "ab")
    (tmp_path / "masks").mkdir()
    values = np.zeros((50, 70), np.uint8)
    values[:, 35:] = 255
    Image.fromarray(values).save(tmp_path / "masks" / "a_mask.png")
    return tmp_path / "masks"


def right(centres_xy):
    """Whether places are in the right half of a micrograph 210 pixels wide."""
    return centres_xy[:, 0] >= 104.5


def test_a_session_has_the_masks_given_or_those_of_the_run_and_rejects_what_lies_in_them(masks, tmp_path):
    project, settings = open_session(Wanted([tmp_path / "micrographs"], tmp_path / "session", diameter_angst=64.0,
                                            masks=masks))
    assert settings.masks == {"a": str(masks / "a_mask.png")}
    session = Session(project, settings)
    for name in "ab":
        session.put(name, candidates_of_blobs(tmp_path / "micrographs" / f"{name}.mrc"), settings)
    stored = read_stored(WorkerState(1, print), project.results(0), ["a", "b"], 48.0,
                         {"a": (settings.masks["a"], settings.micrographs["a"])}, "bottom")
    assert np.array_equal(stored["a"][0].masked, right(stored["a"][0].centres_xy)) and stored["a"][0].masked.any()
    assert not stored["b"][0].masked.any()
    session.put_stored(stored, stored, settings)
    shown = session.shown("a")
    assert np.array_equal(shown.reasons == "mask", right(shown.centres_xy)) and (shown.reasons == PICKED).any()
    session.close()
    project.close()
    assert project.read().masks == settings.masks


@pytest.mark.slow
def test_a_model_finds_and_learns_nothing_in_the_mask(masks, blob_model, tmp_path):
    run = tmp_path / "run"
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(tmp_path / "micrographs"), "--masks",
                 str(masks), "--output", str(run), "--quiet", "--contrast-checks", "0"]) == 0
    project, settings = open_session(Wanted([run]))
    project.close()
    assert settings.masks == {"a": str(masks / "a_mask.png")}
    state, path = WorkerState(1, lambda share: None), settings.micrographs["a"]
    found = find(state, path, "a", PIXEL_ANGST, DIAMETER_ANGST, False, str(blob_model), "bottom", settings.masks["a"])
    candidates, reasons = PickingResults(run).read_candidates("a")
    assert np.array_equal(found.masked > 0.5, right(found.centres_xy)) and (reasons == "mask").any()
    assert len(found.scores) == len(candidates.scores)
    picks, none = candidates.centres_xy[reasons == PICKED], np.zeros((0, 2))
    lesson = Lesson(path, "a", picks, none, none, np.zeros(0), none, [], True, None, settings.masks["a"])
    course = Course(DIAMETER_ANGST, PIXEL_ANGST, str(blob_model), False, str(tmp_path / "new.deepem"),
                    limits=Limits(0.5, 0.0, max_mask=0.4))
    learned = learn(state, [lesson], course)
    assert learned.limits.max_mask == 0.4 and learned.found["a"].masked.any()
    assert not learned.worse and Path(learned.path).exists()
    whole = learn(state, [Lesson(path, "a", picks, none, none, np.zeros(0), none, [], True)], course)
    unseen = [np.median(each.found["a"].scores[right(each.found["a"].centres_xy)][:5]) for each in (learned, whole)]
    assert unseen[0] > unseen[1]  # without the mask the particles on the right are learnt as background
