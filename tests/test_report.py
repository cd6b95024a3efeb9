# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures: they are drawn from any input, and their colours and positions are correct."""

import subprocess
import sys

import numpy as np
import pytest

from deepem_scipion.deepem.evaluation.matching import Matches
from deepem_scipion.deepem.evaluation.metrics import curve
from deepem_scipion.deepem.report.plots import draw_curve, draw_picks, draw_training

# The matplotlib that Scipion pins uses functions that its own dependencies have renamed since.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")

DIAMETER = 20.0
TRUTH = np.array([[30.0, 40.0], [80.0, 40.0], [120.0, 90.0]])
PICKS = np.array([[31.0, 41.0], [81.0, 42.0], [60.0, 80.0], [33.0, 41.0]])
SCORES = np.array([0.9, 0.8, 0.7, 0.6])
GREEN, VERMILION, SKY = (0, 158, 115), (213, 94, 0), (86, 180, 233)


@pytest.fixture
def micrograph():
    return np.random.default_rng(0).normal(size=(120, 160)).astype(np.float32)


@pytest.fixture
def precision_curve():
    return curve(Matches(np.array([0.9, 0.8, 0.6, 0.4]), np.array([1, 1, 0, 1], bool), np.ones(4), 4))


def image(path):
    from matplotlib.image import imread

    return np.rint(255 * imread(path)[..., :3]).astype(int)


def count(path, colour):
    return int((np.abs(image(path) - colour).max(axis=-1) < 12).sum())


def test_true_positives_false_positives_and_missed_particles_have_their_colours(tmp_path, micrograph):
    path = tmp_path / "picks.png"
    draw_picks(micrograph, PICKS, SCORES, DIAMETER, path, truth_xy=TRUTH)
    assert count(path, GREEN) > 500 and count(path, VERMILION) > 500 and count(path, SKY) > 200
    draw_picks(micrograph, PICKS[:2], SCORES[:2], DIAMETER, path, truth_xy=TRUTH[:2])
    # Only the samples of the legend are left.
    assert count(path, GREEN) > 500 and count(path, VERMILION) < 500 and count(path, SKY) < 200


@pytest.mark.parametrize("n_picks, n_truth", [(0, 0), (0, 3), (4, 0)])
def test_a_micrograph_without_picks_or_particles_is_drawn(tmp_path, micrograph, n_picks, n_truth):
    draw_picks(micrograph, PICKS[:n_picks], SCORES[:n_picks], DIAMETER, tmp_path / "a.png", TRUTH[:n_truth])
    draw_picks(micrograph, PICKS[:n_picks], SCORES[:n_picks], DIAMETER, tmp_path / "b.png")
    assert image(tmp_path / "a.png").std() > 10 and image(tmp_path / "b.png").std() > 10


def test_picks_without_scores_are_drawn_in_one_colour(tmp_path, micrograph):
    draw_picks(micrograph, PICKS, np.full(4, np.nan), DIAMETER, tmp_path / "a.png")
    assert count(tmp_path / "a.png", SKY) > 500


def test_a_circle_lies_where_x_is_the_column_and_y_the_row_from_the_top(tmp_path):
    path = tmp_path / "one.png"
    shape = (1600, 3000)  # large enough to be averaged down
    draw_picks(np.zeros(shape, np.float32), np.array([[2500.0, 400.0]]), np.array([np.nan]), 200.0, path)
    pixels = image(path)
    grey = np.abs(pixels - pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]).max(axis=-1) == 0
    (top, left), (bottom, right) = np.argwhere(grey).min(axis=0), np.argwhere(grey).max(axis=0)
    rows, columns = np.nonzero(np.abs(pixels - SKY).max(axis=-1) < 12)
    assert (columns.mean() - left) / (right - left) == pytest.approx(2500 / 3000, abs=0.01)
    assert (rows.mean() - top) / (bottom - top) == pytest.approx(400 / 1600, abs=0.01)
    assert np.ptp(columns) / (right - left) == pytest.approx(200 / 3000, abs=0.01)


def test_one_curve_and_several_are_drawn(tmp_path, precision_curve):
    draw_curve(precision_curve, tmp_path / "one.png", threshold=0.7)
    draw_curve({"a": precision_curve, "b": precision_curve}, tmp_path / "two.png")
    assert count(tmp_path / "one.png", (0, 114, 178)) > 1000
    assert count(tmp_path / "two.png", VERMILION) > 1000 > count(tmp_path / "one.png", VERMILION)


def test_a_curve_without_picks_and_a_threshold_above_all_scores_are_drawn(tmp_path, precision_curve):
    nothing = curve(Matches(np.zeros(0), np.zeros(0, bool), np.zeros(0), 3))
    draw_curve(nothing, tmp_path / "nothing.png", threshold=0.5)
    draw_curve(precision_curve, tmp_path / "high.png", threshold=0.99)
    assert (tmp_path / "nothing.png").stat().st_size > 0 and (tmp_path / "high.png").stat().st_size > 0


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_training_is_drawn_with_and_without_validation(tmp_path, suffix):
    bare = [{"loss": 1 / epoch, "accuracy": 1 - 0.5 / epoch} for epoch in range(1, 6)]
    full = [{**record, "validation_loss": 0.5, "validation_accuracy": 0.8} for record in bare]
    for name, history in {"none": [], "bare": bare, "full": full}.items():
        draw_training(history, tmp_path / f"{name}{suffix}")
    if suffix == ".png":
        assert count(tmp_path / "bare.png", VERMILION) == 0 < count(tmp_path / "full.png", VERMILION)


def test_drawing_neither_needs_nor_loads_pyplot(tmp_path):
    script = ("import sys; from deepem_scipion.deepem.report.plots import draw_training; "
              f"assert 'matplotlib' not in sys.modules; draw_training([], {str(tmp_path / 'a.png')!r}); "
              "assert 'matplotlib.pyplot' not in sys.modules")
    subprocess.run([sys.executable, "-c", script], check=True)
