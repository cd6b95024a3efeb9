# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of every format that was ever written score and pick as the version that wrote them did.

`models/format-N.deepem` was trained by that version on micrographs 1 to 3 of this module; `models/format-N.json` has
the scores and picks of that version on micrograph 0. Neither is ever written anew: a new format gets new files.
"""

import json
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem.model import MODEL_FORMAT, load_model, read_card, save_model
from deepem_scipion.deepem.picking import PICKED
from deepem_scipion.deepem.recognition import Picker
from deepem_scipion.deepem.resampling import area_means, lanczos

MODELS = Path(__file__).parent / "models"
FORMATS = range(1, MODEL_FORMAT + 1)
SHAPE, PIXEL_ANGST, DIAMETER_PX = (100, 140), 4.0, 16
# Scores are sums of float32 numbers, added up in another order by other libraries (docs/reliability.md).
TOLERANCE = 1e-5


def centres_of(number):
    """Six places (x, y) that differ from micrograph to micrograph."""
    return [(22 + 47 * column + 5 * ((number + row) % 3), 24 + 50 * row + 4 * ((number + column) % 3))
            for row in range(2) for column in range(3)]


def pixels_of(number):
    """Dark discs in noise that comes from whole numbers, so that it is the same wherever it is computed."""
    rows, cols = np.indices(SHAPE, np.uint64)
    pixels = np.zeros(SHAPE)
    for term in range(4):
        mixed = (rows * 73856093) ^ (cols * 19349663) ^ np.uint64(83492791 * (4 * number + term + 1))
        mixed = (mixed ^ (mixed >> np.uint64(13))) * np.uint64(2654435761) % np.uint64(2**32)
        mixed = (mixed ^ (mixed >> np.uint64(16))) * np.uint64(2246822519) % np.uint64(2**32)
        pixels += mixed / 2.0**32
    for x, y in centres_of(number):
        pixels -= 1.2 * (np.hypot(cols - float(x), rows - float(y)) < DIAMETER_PX / 2)
    return pixels.astype(np.float32)


def write_micrograph(folder, number):
    path = folder / f"mic{number}.mrc"
    with mrcfile.new(path, pixels_of(number)) as file:
        file.voxel_size = PIXEL_ANGST
    return path


def test_there_is_a_model_of_every_format():
    assert sorted(path.name for path in MODELS.glob("*.deepem")) == [f"format-{n}.deepem" for n in FORMATS]
    assert [read_card(MODELS / f"format-{n}.deepem")["format"] for n in FORMATS] == list(FORMATS)


@pytest.mark.parametrize("number", FORMATS)
def test_a_model_scores_and_picks_as_the_version_that_wrote_it_did(number, tmp_path):
    pytest.importorskip("tensorflow")
    expected = json.loads((MODELS / f"format-{number}.json").read_text())
    model = load_model(MODELS / f"format-{number}.deepem")
    assert (len(model.networks), model.window_px) == (expected["networks"], expected["window_px"])
    micrograph = model.read_micrograph(write_micrograph(tmp_path, 0))
    candidates, reasons, scores = Picker(model).pick(micrograph)
    np.testing.assert_allclose(scores, expected["score_map"], atol=TOLERANCE)
    np.testing.assert_allclose(candidates.centres_xy[reasons == PICKED], expected["picks_xy"], atol=0.01)
    np.testing.assert_allclose(candidates.scores[reasons == PICKED], expected["scores"], atol=TOLERANCE)
    distances = np.hypot(*(np.array(expected["picks_xy"])[:, None] - centres_of(0)).transpose(2, 0, 1))
    assert (distances.min(axis=0) < DIAMETER_PX / 4).all()  # it is a model worth keeping


@pytest.mark.parametrize("number, resampler", [(1, area_means), (2, area_means), (3, area_means), (4, lanczos)])
def test_a_model_has_finer_pixels_resampled_as_by_the_version_that_wrote_it(number, resampler, tmp_path):
    model = replace(load_model(MODELS / f"format-{number}.deepem"), working_pixel_size_angst=7.0)
    resampled = resampler(pixels_of(0), 7 / PIXEL_ANGST)  # has no outliers
    found = model.read_micrograph(write_micrograph(tmp_path, 0)).pixels
    assert found.shape == resampled.shape and np.corrcoef(found.ravel(), resampled.ravel())[0, 1] > 1 - 1e-6


@pytest.mark.parametrize("number", FORMATS)
def test_a_model_of_an_earlier_format_says_the_same_when_it_is_written_anew(number, tmp_path):
    model = load_model(MODELS / f"format-{number}.deepem")
    save_model(tmp_path / "again", model)
    again = load_model(tmp_path / "again")
    assert read_card(tmp_path / "again")["format"] == MODEL_FORMAT
    assert replace(again, networks=()) == replace(model, networks=())
    for written, read in zip(model.networks, again.networks, strict=True):
        assert all(np.array_equal(written[name], read[name]) for name in {**written, **read})
