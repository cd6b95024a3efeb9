# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Local maxima of score maps, and the reasons why they are picked or rejected."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepem_scipion.deepem.coordinates.suppression import neighbours
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.micrograph import Micrograph
from deepem_scipion.deepem.picking.candidates import (
    SCORE_FLOOR,
    Candidates,
    find_candidates,
    local_std,
    pad,
    read_candidates,
    write_candidates,
)
from deepem_scipion.deepem.picking.selection import Limits, select

BOX, STEP = 24, 4


def micrograph(shape=(80, 120), scale=1.0, seed=0):
    pixels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Micrograph(Path("m.mrc"), "m", pixels, 4.0, scale, (round(shape[0] * scale), round(shape[1] * scale)))


def score_shape(shape, box=BOX, step=STEP):
    return tuple((side + 2 * (box // 2) - box) // step + 1 for side in shape)


def find(scores, mic=None, box=BOX, step=STEP):
    mic = mic or micrograph()
    return find_candidates(mic, pad(mic.pixels, box), np.asarray(scores, np.float32), box, step)


def candidates(points, scores, local_stds=1.0, border=100.0):
    n = len(points)
    return Candidates(np.array(points, float).reshape(n, 2), np.array(scores, float),
                      np.broadcast_to(np.array(local_stds, float), n), np.broadcast_to(np.array(border, float), n))


def bump(shape, centre_rc, width=6.0):
    """A score map whose peak lies at a place of the micrograph (binned pixels)."""
    r, c = (np.arange(n) * STEP + (BOX - 1) / 2 - BOX // 2 for n in score_shape(shape))
    return 0.9 * np.exp(-((r[:, None] - centre_rc[0]) ** 2 + (c[None] - centre_rc[1]) ** 2) / (2 * width**2))


@given(st.floats(5, 74), st.floats(5, 114))
def test_peak_is_found_at_its_place_to_better_than_the_scan_step(row, col):
    found = find(bump((80, 120), (row, col)))
    assert len(found) == 1
    assert np.abs(found.centres_xy[0] - [col, row]).max() < STEP / 4


def test_position_is_given_in_pixels_of_the_input_micrograph():
    mic = micrograph(scale=3.0)
    found = find(bump((80, 120), (30.0, 70.0)), mic)
    np.testing.assert_allclose(found.centres_xy[0], [3 * 70.5 - 0.5, 3 * 30.5 - 0.5], atol=3)
    np.testing.assert_allclose(found.border_px[0], 3 * 30.5, atol=3)


@pytest.mark.parametrize("row, col", [(3, 3), (3, 116), (76, 3), (76, 116), (3, 60), (76, 60), (40, 3), (40, 116)])
def test_peaks_near_borders_and_corners_are_found_once_and_in_place(row, col):
    found = find(bump((80, 120), (row, col)))
    assert len(found) == 1
    assert np.abs(found.centres_xy[0] - [col, row]).max() <= STEP / 2


@pytest.mark.parametrize("row, col", [(-9, 60), (89, 60), (40, -9), (40, 129)])
def test_score_that_rises_up_to_the_border_is_a_candidate_within_the_image(row, col):
    found = find(bump((80, 120), (row, col)))
    assert len(found) == 1
    assert np.abs(found.centres_xy[0] - np.clip([col, row], 0, [119, 79])).max() <= STEP / 2


@pytest.mark.parametrize("step, expected", [(4, [0.9]), (5, [0.9]), (6, [0.9, 0.7]), (8, [0.9, 0.7])])
def test_above_a_third_of_a_diameter_a_position_counts_beside_one_that_does_not(step, expected):
    # At steps of half a diameter, 0.7 may be another particle, and 0.8 shows parts of both.
    scores = np.full(score_shape((80, 120), BOX, step), 0.001)
    scores[4, 4:7] = 0.9, 0.8, 0.7
    found = find(scores, step=step)
    assert found.scores.tolist() == pytest.approx(expected)
    if step > 4:  # without interpolation
        np.testing.assert_allclose(found.centres_xy[0], [4 * step - 0.5, 4 * step - 0.5])
    else:
        assert 4 * step - 0.5 < found.centres_xy[0, 0] < 4.5 * step


def test_picks_of_a_constant_score_map_keep_the_minimum_distance():
    found = find(np.full(score_shape((80, 120)), 0.5))
    picked = found.centres_xy[select(found, Limits(0.0, 20.0), 1.0) == "picked"]
    assert len(picked) > 4
    assert np.linalg.norm(picked[:, None] - picked[None], axis=2)[~np.eye(len(picked), dtype=bool)].min() >= 20


def test_map_without_scores_gives_no_candidates():
    found = find(np.zeros(score_shape((80, 120))))
    assert len(found) == 0
    assert found.centres_xy.shape == (0, 2)
    assert select(found, Limits(0.0, 20.0), 1.0).shape == (0,)


def test_scores_at_the_floor_are_no_candidates():
    scores = np.zeros(score_shape((80, 120)))
    scores[5, 5], scores[10, 10] = np.float32(SCORE_FLOOR), 2 * SCORE_FLOOR
    assert len(find(scores)) == 1


def test_reasons_are_checked_in_the_order_border_local_standard_deviation_threshold_distance():
    found = candidates([[0, 0], [100, 0], [200, 0], [300, 0], [305, 0]], [0.2, 0.2, 0.2, 0.9, 0.8],
                       [9, 9, 1, 1, 1], [1, 50, 50, 50, 50])
    reasons = select(found, Limits(0.5, 10.0, (0.5, 2.0), 5.0), 1.0)
    assert reasons.tolist() == ["border", "local_std", "threshold", "picked", "distance"]


def test_candidate_rejected_for_another_reason_suppresses_nobody():
    found = candidates([[10, 10], [12, 10]], [0.9, 0.8], [5.0, 1.0])
    assert select(found, Limits(0.1, 10.0, (0.5, 2.0)), 1.0).tolist() == ["local_std", "picked"]


def test_limits_include_their_ends():
    found = candidates([[0, 0], [10, 0]], [0.5, 0.6], [0.5, 2.0], 5.0)
    assert select(found, Limits(0.5, 10.0, (0.5, 2.0), 5.0), 1.0).tolist() == ["picked", "picked"]


def test_limits_are_in_angstrom():
    found = candidates([[0, 0], [100, 0], [119, 0], [221, 0]], [0.6, 0.9, 0.8, 0.7], 1.0, [9, 10, 50, 50])
    limits = Limits(0.5, 40.0, None, 20.0)
    assert select(found, limits, 2.0).tolist() == ["border", "picked", "distance", "picked"]
    assert select(found, limits, 4.0).tolist() == ["picked"] * 4


@pytest.mark.parametrize("limits, words", [
    ((0.5, -1.0), "minimum distance -1.0: expected angstrom"), ((0.5, float("nan")), "minimum distance nan"),
    ((0.5, 1.0, None, -2.0), "border -2.0"), ((0.5, 1.0, (2.0, 1.0)), "from 2 to 1: expected the smaller value first")])
def test_senseless_limits_are_refused(limits, words):
    with pytest.raises(DeepEMError, match=words):
        Limits(*limits)


points = arrays(np.float64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.floats(0, 100, width=16))


@given(points, st.floats(0, 30), st.integers(0, 99))
def test_picks_keep_their_distance_and_every_other_candidate_is_near_a_better_pick(places, distance, seed):
    rng = np.random.default_rng(seed)
    found = candidates(places, rng.choice([0.3, 0.5, 0.7, 0.9], len(places)))
    reasons = select(found, Limits(0.4, distance), 1.0)
    picked = np.flatnonzero(reasons == "picked")
    for i in picked:
        for j in picked:
            assert i == j or np.linalg.norm(places[i] - places[j]) >= distance * (1 - 1e-12)
    for i in np.flatnonzero(reasons == "distance"):
        near = [j for j in picked if np.linalg.norm(places[i] - places[j]) < distance]
        assert near and max(found.scores[j] for j in near) >= found.scores[i]
    assert ((found.scores < 0.4) == (reasons == "threshold")).all()


@given(points, st.integers(0, 99))
def test_order_of_candidates_does_not_matter(places, seed):
    rng = np.random.default_rng(seed)
    places = np.unique(places, axis=0)
    found = candidates(places, rng.choice([0.5, 0.7], len(places)))
    order = rng.permutation(len(places))
    shuffled = candidates(places[order], found.scores[order])
    assert (select(found, Limits(0.1, 15.0), 1.0)[order] == select(shuffled, Limits(0.1, 15.0), 1.0)).all()


@pytest.mark.parametrize("rows", [1, 7, 38, 1024])
def test_local_standard_deviations_are_those_of_the_pixels_of_each_box(monkeypatch, rows):
    monkeypatch.setattr("deepem_scipion.deepem.picking.candidates.STD_ROWS", rows)
    pixels = np.random.default_rng(1).normal(3, 2, (50, 70)).astype(np.float32)
    corners = np.array([[38, 58], [0, 0], [10, 25], [37, 0], [38, 1]])
    expected = [pixels[r:r + 12, c:c + 12].std() for r, c in corners]
    np.testing.assert_allclose(local_std(pixels, corners, 12), expected, rtol=1e-5)


def test_candidates_in_padding_are_outside_the_border():
    mic = micrograph()
    mic.pixels[:16] = mic.pixels[16]
    found = find(bump((80, 120), (8.0, 60.0)), mic)
    assert found.border_px[0] < 0


def test_a_box_beyond_the_image_has_the_local_standard_deviation_of_the_closest_box_within():
    pixels = np.random.default_rng(1).normal(0, 0.1, (90, 40)).astype(np.float32)
    found = local_std(pixels, np.array([[-5, -1], [85, 3], [2, 35]]), 12)
    expected = [pixels[r:r + 12, c:c + 12].std() for r, c in ((0, 0), (78, 3), (2, 28))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_local_standard_deviation_without_contrast_is_0():
    assert local_std(np.full((20, 20), 0.1, np.float32), np.array([[3, 3]]), 12) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("side", range(4))
def test_the_border_is_where_the_image_without_padding_ends_on_every_side(side):
    mic = micrograph(scale=2.0)
    turned = np.rot90(mic.pixels, side)  # a view
    turned[:16] = turned[16]
    place = np.zeros((80, 120), bool)
    np.rot90(place, side)[24, 40] = True
    (centre,) = np.argwhere(place)
    found = find(bump((80, 120), centre), mic)
    assert found.border_px[0] == pytest.approx(2 * 8.5, abs=STEP / 2)


def test_a_peak_at_a_scan_step_is_found_exactly():
    for box in (12, 13):
        mic = micrograph((80, 80))
        scores = np.zeros(score_shape((80, 80), box))
        scores[5, 8] = 0.5
        corner = np.array([5, 8]) * STEP - box // 2  # row and column of the box's first pixel
        np.testing.assert_array_equal(find(scores, mic, box).centres_xy, [(corner + (box - 1) / 2)[::-1]])


def test_candidates_are_in_descending_order_of_score_then_of_y_then_x():
    scores = np.zeros(score_shape((80, 120)))
    for place, score in (((5, 20), 0.5), ((5, 8), 0.5), ((12, 3), 0.9), ((3, 25), 0.5), ((9, 9), 0.2)):
        scores[place] = score
    found = find(scores)
    assert found.scores.tolist() == [np.float32(score) for score in (0.9, 0.5, 0.5, 0.5, 0.2)]
    assert found.centres_xy.tolist() == [[11.5, 47.5], [99.5, 11.5], [31.5, 19.5], [79.5, 19.5], [35.5, 35.5]]
    padded, corners = pad(micrograph().pixels, BOX), np.array([[12, 3], [3, 25], [5, 8], [5, 20], [9, 9]]) * STEP
    np.testing.assert_allclose(found.local_stds, local_std(padded, corners, BOX))


@given(points, st.floats(1, 30), st.integers(0, 99))
def test_neighbours_within_a_larger_distance_do_not_change_the_selection(places, distance, seed):
    rng = np.random.default_rng(seed)
    found = candidates(places, rng.choice([0.3, 0.5, 0.7, 0.9], len(places)))
    limits = Limits(0.4, distance)
    near = neighbours(found.centres_xy, found.scores, 1.5 * distance)
    assert select(found, limits, 1.0, near).tolist() == select(found, limits, 1.0).tolist()


def test_candidates_survive_writing_and_reading(tmp_path):
    rng = np.random.default_rng(0)
    found = candidates(rng.uniform(0, 4000, (20, 2)), rng.uniform(size=20), rng.uniform(size=20), rng.uniform(size=20))
    reasons = select(found, Limits(0.5, 10.0), 1.0)
    write_candidates(tmp_path / "m.tsv", found, reasons)
    again, same = read_candidates(tmp_path / "m.tsv")
    assert (same == reasons).all()
    np.testing.assert_allclose(again.centres_xy, found.centres_xy, atol=0.006)
    np.testing.assert_allclose(again.scores, found.scores, rtol=1e-5)


def test_no_candidates_survive_writing_and_reading(tmp_path):
    write_candidates(tmp_path / "m.tsv", candidates([], []), [])
    found, reasons = read_candidates(tmp_path / "m.tsv")
    assert len(found) == len(reasons) == 0


@pytest.mark.parametrize("text", ["", "x\ty\n", "x\ty\tscore\tlocal_std\tborder_distance\treason\n1\t2\n",
                                  "x\ty\tscore\tlocal_std\tborder_distance\treason\na\t2\t3\t4\t5\tpicked\n"])
def test_file_that_is_no_table_of_candidates_is_refused(tmp_path, text):
    (tmp_path / "m.tsv").write_text(text)
    with pytest.raises(DeepEMError, match="m.tsv"):
        read_candidates(tmp_path / "m.tsv")
