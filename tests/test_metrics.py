# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Matching and figures: results computed by hand, properties, and agreement with the shared evaluation tool."""

import importlib.util
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem import evaluation as metrics
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.read import read_coordinates

SHARED = Path(os.environ.get("DEEPEM_SHARED", Path(__file__).parents[2] / "shared"))
TOOL = SHARED / "tools/evaluate_picks.py"
needs_tool = pytest.mark.skipif(not TOOL.is_file(), reason="the shared evaluation tool is not here")


@pytest.fixture(scope="module")
def tool():
    specification = importlib.util.spec_from_file_location("evaluate_picks", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def coordinates(points, scores=None):
    points = np.array(points, float).reshape(-1, 2)
    return Coordinates(points, np.full(len(points), np.nan) if scores is None else np.array(scores, float), None)


# ----------------------------------------------------------------- matching
def test_each_particle_takes_the_most_confident_pick_and_each_pick_one_particle():
    # Two picks near the first particle: the more confident one is correct although it is farther away.
    found = metrics.match([[3, 0], [1, 0], [50, 0]], [0.9, 0.8, 0.7], [[0, 0], [100, 0]], 5)
    assert found.correct.tolist() == [True, False, False] and found.n_truth == 2
    np.testing.assert_array_equal(found.errors_px, [3, np.nan, np.nan])


def test_among_equal_scores_the_closest_pair_comes_first():
    found = metrics.match([[3, 0], [1, 0]], [0.5, 0.5], [[0, 0]], 5)
    assert found.correct.tolist() == [False, True]


def test_among_equal_scores_and_distances_the_first_pick_and_the_first_particle_come_first():
    found = metrics.match([[-2, 0], [2, 0]], [0.5, 0.5], [[0, 0]], 5)
    assert found.correct.tolist() == [True, False]
    # Taking the particle on the left first leaves the one on the right to the second pick.
    found = metrics.match([[0, 0], [2.5, 0]], [0.9, 0.8], [[-1, 0], [1, 0]], 2)
    assert found.correct.tolist() == [True, True]
    np.testing.assert_array_equal(found.errors_px, [1, 1.5])


def test_a_confident_pick_keeps_its_closest_particle_although_another_pick_is_left_without():
    found = metrics.match([[0, 0], [-2.5, 0]], [0.9, 0.8], [[-1, 0], [1.5, 0]], 2)
    assert found.correct.tolist() == [True, False]


def test_the_distance_itself_still_matches():
    assert metrics.match([[3, 4]], [1], [[0, 0]], 5).correct.tolist() == [True]
    assert metrics.match([[3, 4]], [1], [[0, 0]], 4.999).correct.tolist() == [False]


def test_the_region_drops_particles_outside_and_their_picks_but_not_picks_outside_of_particles_inside():
    truth = [[10, 10], [19, 10], [20, 10]]
    picks = [[10, 10], [21, 10.5], [23, 10], [40, 10], [15, 30]]
    found = metrics.match(picks, [0.9, 0.8, 0.7, 0.6, 0.5], truth, 3, (10, 10, 20, 20))
    # The second pick is closer to the particle at 20, outside, and does not count. The third is too far from 19.
    assert found.n_truth == 2 and found.scores.tolist() == [0.9] and found.correct.tolist() == [True]
    found = metrics.match([[21, 10]], [1], [[19, 10]], 3, (10, 10, 20, 20))
    assert found.correct.tolist() == [True]


def test_picks_are_classified_with_a_second_pick_on_a_particle_as_false_positive():
    truth = np.array([[30, 40], [80, 40], [120, 90]])
    picks = np.array([[33, 41], [31, 41], [81, 42], [60, 80], [119, 95]])
    found = metrics.classify_picks(picks, np.array([0.6, 0.9, 0.8, 0.7, np.nan]), truth, 4)
    assert {name: points.tolist() for name, points in found.items()} == {
        "true positives": [[31, 41], [81, 42]], "false positives": [[33, 41], [60, 80], [119, 95]],
        "missed": [[120, 90]]}


@pytest.mark.parametrize("region", [None, (10, 10, 20, 20)])
def test_classified_picks_are_those_that_the_matching_counts(region):
    rng = np.random.default_rng(2)
    truth, picks, scores = rng.uniform(5, 25, (30, 2)), rng.uniform(5, 25, (40, 2)), rng.random(40)
    found = metrics.classify_picks(picks, scores, truth, 2, region)
    matches = metrics.match(picks, scores, truth, 2, region)
    correct, false, missed = (len(found[name]) for name in ("true positives", "false positives", "missed"))
    assert (correct, false) == (matches.correct.sum(), (~matches.correct).sum())
    assert correct + missed == matches.n_truth and min(correct, false, missed) > 0


def test_matching_nothing_gives_nothing():
    found = metrics.match(np.zeros((0, 2)), np.zeros(0), [[1, 2]], 5)
    assert found.scores.shape == found.correct.shape == (0,) and found.n_truth == 1
    found = metrics.match([[1, 2]], [np.nan], np.zeros((0, 2)), 5)
    assert found.scores.tolist() == [0] and found.correct.tolist() == [False] and found.n_truth == 0
    assert metrics.pool([]).n_truth == 0


# ------------------------------------------------------------------ figures
#: Scores 0.9 correct, 0.8 false, 0.8 correct, 0.7 false, of 4 particles
FOUR = metrics.Matches(np.array([0.8, 0.9, 0.7, 0.8]), np.array([False, True, False, True]),
                       np.array([np.nan, 1, np.nan, 2.0]), 4)


def test_equal_scores_enter_the_curve_together():
    steps = metrics.curve(FOUR)
    assert steps.thresholds.tolist() == [0.9, 0.8, 0.7]
    assert steps.n_picks.tolist() == [1, 3, 4] and steps.n_true_positives.tolist() == [1, 2, 2]
    assert steps.precision.tolist() == [1, 2 / 3, 1 / 2] and steps.recall.tolist() == [1 / 4, 1 / 2, 1 / 2]


def test_a_curve_is_rebuilt_from_its_points():
    found = metrics.evaluate({"a": coordinates([[0, 0], [9, 9]])}, {"a": coordinates([[0, 1], [5, 5]], [0.9, 0.3])}, 2)
    rebuilt = metrics.curve_from_points(found["curve"])
    assert (rebuilt.thresholds.tolist(), rebuilt.precision.tolist(), rebuilt.recall.tolist()) == (
        [0.9, 0.3], [1, 0.5], [0.5, 0.5])
    assert len(metrics.curve_from_points(None).thresholds) == 0


def test_average_precision_is_the_area_under_the_steps():
    assert metrics.average_precision(metrics.curve(FOUR)) == pytest.approx(1 * 0.25 + 2 / 3 * 0.25)


def test_the_best_threshold_depends_on_the_weight_of_recall():
    steps = metrics.curve(FOUR)
    # F1 at the three thresholds: 2/5, 4/7, 1/2.
    assert metrics.best_threshold(steps, 1) == 0.8
    strict = metrics.Curve(np.array([0.9, 0.1]), np.array([1, 0.5]), np.array([0.6, 0.9]), np.zeros(2), np.zeros(2))
    assert metrics.best_threshold(strict, 0.5) == 0.9 and metrics.best_threshold(strict, 2) == 0.1


def test_f_beta_of_known_values():
    assert metrics.f_beta(0.5, 1.0, 1) == pytest.approx(2 / 3)
    assert metrics.f_beta(0.5, 1.0, 2) == pytest.approx(5 / 6)
    np.testing.assert_allclose(metrics.f_beta(np.array([0, 1]), np.array([0, 0.5]), 2), [0, 2.5 / 4.5])


def test_evaluate_gives_the_figures_computed_by_hand():
    truth = {"a": coordinates([[0, 0], [100, 0]]), "b": coordinates([[0, 0], [50, 50]]), "c": coordinates([])}
    picks = {"a": coordinates([[1, 0], [0, 2], [97, 4]], [0.9, 0.8, 0.7]), "b": coordinates([[0, 30]], [0.95]),
             "x": coordinates([[0, 0]], [1.0])}
    found = metrics.evaluate(truth, picks, 5)
    overall = found["overall"]
    assert [overall[key] for key in ("truth", "picks", "true_positives")] == [4, 4, 2]
    assert (overall["precision"], overall["recall"], overall["F1"], overall["F2"]) == (0.5, 0.5, 0.5, 0.5)
    assert overall["error_px"] == 3 and overall["AP"] == pytest.approx(1 / 2 / 4 + 2 / 4 / 4)
    assert overall["best_F1"] == {"F1": 0.5, "precision": 0.5, "recall": 0.5, "threshold": 0.7}
    assert overall["best_F2"] == {"F2": 0.5, "precision": 0.5, "recall": 0.5, "threshold": 0.7}
    assert found["curve"] == {"threshold": [0.95, 0.9, 0.8, 0.7], "precision": [0, 1 / 2, 1 / 3, 1 / 2],
                              "recall": [0, 1 / 4, 1 / 4, 1 / 2]}
    assert list(found["micrographs"]) == ["a", "b", "c"] and found["micrographs"]["a"]["recall"] == 1
    assert found["micrographs"]["c"]["best_F1"]["threshold"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_threshold_changes_the_plain_figures_only():
    truth, picks = {"a": coordinates([[0, 0], [100, 0]])}, {"a": coordinates([[1, 0], [97, 4]], [0.9, 0.7])}
    everything, some = (metrics.evaluate(truth, picks, 5, threshold=t)["overall"] for t in (None, 0.8))
    assert (some["picks"], some["true_positives"], some["error_px"]) == (1, 1, 1) and everything["picks"] == 2
    assert all(some[key] == everything[key] for key in ("AP", "best_F1", "best_F2", "truth"))
    assert metrics.evaluate(truth, picks, 5, threshold=0.9)["overall"]["picks"] == 1


def test_figures_at_a_threshold_are_those_of_the_picks_above_it_for_each_micrograph_too():
    truth = {"a": coordinates([(10, 10), (90, 90), (50, 50), (50, 10)])}
    picks = {"a": coordinates([(10, 10), (90, 93), (30, 70), (70, 30), (50, 50)], [0.9, 0.8, 0.7, 0.6, 0.3])}
    found = metrics.evaluate(truth, picks, 5, threshold=0.5)
    for figures in (found["overall"], found["micrographs"]["a"]):
        assert (figures["truth"], figures["picks"], figures["true_positives"]) == (4, 4, 2)
        assert figures["precision"] == figures["recall"] == figures["F1"] == figures["F2"] == 0.5
        assert figures["error_px"] == 1.5
    found = metrics.evaluate(truth, picks, 5, threshold=0.75)["overall"]
    assert (found["precision"], found["recall"]) == (1, 0.5)
    assert found["F1"] == pytest.approx(2 / 3) and found["F2"] == pytest.approx(5 / 9)
    assert found["best_F2"] == {"F2": pytest.approx(5 / 7), "precision": 0.6, "recall": 0.75, "threshold": 0.3}


def test_without_any_pick_the_best_figures_are_0():
    found = metrics.evaluate({"a": coordinates([(10, 10)])}, {"a": coordinates([])}, 5)["overall"]
    for beta in (1, 2):
        assert found[f"best_F{beta}"] == {f"F{beta}": 0, "precision": 0, "recall": 0, "threshold": None}


def test_the_threshold_of_the_best_f_score_is_found_over_all_micrographs():
    truth = {"a": coordinates([[0, 0], [100, 0]]), "b": coordinates([[0, 0]])}
    picks = {"a": coordinates([[1, 0], [97, 4], [50, 50]], [0.9, 0.7, 0.65]), "b": coordinates([[0, 30]], [0.6])}
    best = metrics.evaluate(truth, picks, 5, threshold="F1")
    assert best["threshold"] == 0.7 == best["overall"]["best_F1"]["threshold"]
    assert best == metrics.evaluate(truth, picks, 5, threshold=0.7)
    assert metrics.evaluate(truth, {}, 5, threshold="F2")["threshold"] is None


def test_non_maximum_suppression_before_matching_keeps_the_best_pick():
    # The confident pick at 8 misses its particle and suppresses the one at 0, which is correct.
    truth, picks = {"a": coordinates([[0, 0], [40, 0]])}, {"a": coordinates([[0, 0], [8, 0], [40, 1]], [0.5, 0.9, 0.4])}
    everything, some, few = (metrics.evaluate(truth, picks, 3, min_distance_px=d)["overall"] for d in (0, 8.5, 100))
    assert (everything["picks"], everything["true_positives"]) == (3, 2)
    assert (some["picks"], some["true_positives"]) == (2, 1)
    assert (few["picks"], few["true_positives"]) == (1, 0)
    assert metrics.evaluate(truth, picks, 3, min_distance_px=8)["overall"] == everything  # the distance itself is kept
    unscored = {"a": coordinates([[0, 0], [8, 0], [40, 1]])}
    assert metrics.evaluate(truth, unscored, 3, min_distance_px=10)["overall"]["picks"] == 2


def test_every_micrograph_has_its_own_region():
    points = coordinates([[10, 10], [50, 50]])
    truth, picks = dict.fromkeys("abc", points), dict.fromkeys("abc", points)
    found = metrics.evaluate(truth, picks, 5, {"a": (0, 0, 20, 20), "b": (40, 40, 90, 90)})["micrographs"]
    assert [found[name]["truth"] for name in "abc"] == [1, 1, 2]
    assert [found[name]["picks"] for name in "abc"] == [1, 1, 2]


def test_a_micrograph_without_picks_counts_as_missed():
    found = metrics.evaluate({"a": coordinates([[0, 0]]), "b": coordinates([[0, 0]])}, {"a": coordinates([[0, 0]])}, 5)
    assert found["overall"]["recall"] == 0.5 and found["micrographs"]["b"]["error_px"] is None


# --------------------------------------------------------------- properties
# Whole numbers in a small field: many ties of score and distance.
spot = st.tuples(st.integers(0, 12), st.integers(0, 9))
scored_spot = st.tuples(st.integers(0, 12), st.integers(0, 9), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
micrograph = st.tuples(st.lists(spot, max_size=8), st.lists(scored_spot, max_size=10))


@settings(deadline=None)
@given(micrograph=micrograph, distance=st.sampled_from([1, 2, 3.5, 5]))
def test_the_matching_above_a_threshold_begins_the_matching_above_a_lower_one(micrograph, distance):
    truth, picks = micrograph
    picks = np.reshape(picks, (-1, 3))
    found = metrics.match(picks[:, :2], picks[:, 2], truth, distance)
    for threshold in (0.25, 0.5, 1.0):
        kept = picks[:, 2] >= threshold
        part = metrics.match(picks[kept, :2], picks[kept, 2], truth, distance)
        assert part.correct.tolist() == found.correct[kept].tolist()
    assert found.correct.sum() <= min(len(truth), len(picks))
    assert np.isnan(found.errors_px[~found.correct]).all() and (found.errors_px[found.correct] <= distance).all()


def same(ours, theirs):
    return theirs == ours or (ours is None and math.isnan(theirs)) or abs(ours - theirs) < 1e-9


@needs_tool
@settings(max_examples=150, deadline=None)
@given(micrographs=st.lists(micrograph, min_size=1, max_size=3), distance=st.sampled_from([1, 2, 3.5, 5]),
       region=st.sampled_from([None, (2, 1, 9, 8)]), threshold=st.sampled_from([None, 0.5]),
       scored=st.booleans())
def test_every_figure_agrees_with_the_shared_tool(tool, micrographs, distance, region, threshold, scored):
    truth = {str(i): np.reshape(particles, (-1, 2)).astype(float) for i, (particles, _) in enumerate(micrographs)}
    picks = {str(i): np.reshape(rows, (-1, 3)).astype(float) for i, (_, rows) in enumerate(micrographs)}
    if not scored:
        for rows in picks.values():
            rows[:, 2] = np.nan
    expected = tool.evaluate(truth, picks, distance, region, threshold)
    found = metrics.evaluate({name: coordinates(points) for name, points in truth.items()},
                             {name: coordinates(rows[:, :2], rows[:, 2]) for name, rows in picks.items()},
                             distance, region, threshold)
    pairs = [(found["overall"], expected["overall"])]
    pairs += [(found["micrographs"][name], expected["micrographs"][name]) for name in truth]
    for ours, theirs in pairs:
        assert ours["true_positives"] == theirs["right"]
        for key in ("truth", "picks", "precision", "recall", "F1", "F2", "AP"):
            assert same(ours[key], theirs[key]), key
        assert same(ours["error_px"], theirs["error"])
        for key in ("F1", "F2"):
            for figure in (key, "precision", "recall", "threshold"):
                assert same(ours[f"best_{key}"][figure], theirs[f"best_{key}"][figure]), (key, figure)


@needs_tool
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared data sets are not here")
def test_disturbed_coordinates_of_a_real_set_score_as_with_the_shared_tool(tool):
    rng = np.random.default_rng(5)
    truth = read_coordinates(SHARED / "data/empiar10017/particles.star")
    picks = {name: coordinates(np.concatenate([part.centres_xy + rng.normal(0, 9, part.centres_xy.shape),
                                               rng.uniform(0, 2048, (300, 2))]),
                               np.round(rng.random(len(part.scores) + 300), 2)) for name, part in truth.items()}
    region = (64, 64, 1984, 1984)
    ours = metrics.evaluate(truth, picks, 27, region)["overall"]
    theirs = tool.evaluate({name: part.centres_xy for name, part in truth.items()},
                           {name: np.column_stack([part.centres_xy, part.scores]) for name, part in picks.items()},
                           27, region)["overall"]
    assert ours["true_positives"] == theirs["right"] > 5000
    assert ours["AP"] == pytest.approx(theirs["AP"], abs=1e-9)
    assert ours["error_px"] == pytest.approx(theirs["error"], abs=1e-9)
    assert all(same(ours["best_F2"][key], theirs["best_F2"][key]) for key in ours["best_F2"])


def test_a_hundred_thousand_picks_are_evaluated():
    rng = np.random.default_rng(1)
    truth = rng.permutation(250_000)[:50_000]
    truth = np.column_stack((truth % 500, truth // 500)) * 60.0  # no two within twice the distance
    picks = coordinates(np.concatenate((truth + 3, truth + 4)), np.repeat((0.9, 0.8), 50_000))
    found = metrics.evaluate({"a": coordinates(truth)}, {"a": picks}, 20)["overall"]
    assert (found["true_positives"], found["precision"], found["recall"]) == (50_000, 0.5, 1)


def test_a_pick_without_score_comes_after_those_with_one():
    picks = {"a": coordinates([[0, 0], [1, 0], [50, 0]], [np.nan, 0.1, -1])}
    (matches,) = metrics.match_all({"a": coordinates([[0, 0], [50, 0]])}, picks, 5).values()
    assert matches.scores.tolist() == [0, 0.1, -1] and matches.correct.tolist() == [False, True, True]


def test_a_micrograph_without_picks_is_matched_with_none():
    (matches,) = metrics.match_all({"a": coordinates([[0, 0], [50, 0]])}, {}, 5).values()
    assert len(matches.scores) == 0 and matches.n_truth == 2


def test_without_a_minimum_distance_all_picks_at_one_place_count():
    picks = {"a": coordinates([[0, 0], [0.1, 0], [0.2, 0]], [0.9, 0.8, 0.7])}
    (matches,) = metrics.match_all({"a": coordinates([[0, 0]])}, picks, 5).values()
    assert len(matches.scores) == 3


def test_steady_threshold_ends_where_f_is_poor_on_either_side():
    # F1 at the thresholds: 0.4, 0.75, 0.8, 0.67, 0.75
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    found = metrics.Curve(scores, np.array([1, 1, 1, 0.6, 0.6]), np.array([0.25, 0.6, 2 / 3, 0.75, 1]),
                          np.arange(1, 6), np.arange(1, 6))
    assert metrics.steady_threshold(found, 1, 0.01) == pytest.approx((0.7 + 0.6) / 2)
    assert metrics.steady_threshold(found, 1, 0.06) == pytest.approx((0.8 + 0.6) / 2)
    assert metrics.steady_threshold(found, 1, 0.5) == pytest.approx((0.9 + 0) / 2)


def test_steady_threshold_lies_in_the_middle_between_true_and_false_positives():
    scores = np.array([0.99, 0.98, 0.95, 0.2, 0.1])
    matches = metrics.Matches(scores, scores > 0.5, np.zeros(5), 3)
    assert metrics.best_threshold(metrics.curve(matches), 2) == 0.95
    assert metrics.steady_threshold(metrics.curve(matches), 2) == pytest.approx((0.95 + 0.2) / 2)


def test_steady_threshold_keeps_f_near_the_best():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=400)
    found = metrics.curve(metrics.Matches(scores, rng.uniform(size=400) < scores, np.zeros(400), 250))
    best = metrics.f_beta(found.precision, found.recall, 2).max()
    at = np.flatnonzero(found.thresholds >= metrics.steady_threshold(found, 2))[-1]
    assert metrics.f_beta(found.precision[at], found.recall[at], 2) >= best - 0.006


def test_steady_threshold_without_false_positives_is_half_of_the_lowest_score():
    found = metrics.curve(metrics.Matches(np.array([0.9, 0.8]), np.ones(2, bool), np.zeros(2), 2))
    assert metrics.steady_threshold(found, 2) == pytest.approx(0.4)


def test_steady_threshold_without_picks_is_not_a_number():
    nothing = metrics.Matches(np.zeros(0), np.zeros(0, bool), np.zeros(0), 5)
    assert np.isnan(metrics.steady_threshold(metrics.curve(nothing), 2))
