# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overlap of boxes, pixels of discs, and picks that are upside down."""

import json

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.evaluation.areas import (
    Counts,
    box_counts,
    box_iou,
    chosen_picks,
    disc_counts,
    summarise_counts,
)
from deepem_scipion.deepem.evaluation.frames import by_chance, other_frame, upside_down

points = st.lists(st.tuples(st.integers(-5, 45), st.integers(-5, 35)), max_size=6).map(
    lambda found: np.array(found, float).reshape(-1, 2))


def coordinates(points_xy, scores=None):
    points_xy = np.array(points_xy, float).reshape(-1, 2)
    return Coordinates(points_xy, np.full(len(points_xy), np.nan) if scores is None else np.array(scores, float), None)


def test_overlap_of_boxes_is_intersection_over_union():
    # Shifted by 2 and 5 of 10: 8 * 5 = 40 in common, 200 - 40 = 160 together.
    np.testing.assert_allclose(box_iou(np.array([[0, 0], [2, 5], [10, 0]]), np.zeros(2), 10), [1, 0.25, 0])


def test_each_box_is_paired_with_the_one_that_it_covers_best():
    truth, picks = np.array([[0, 0], [4, 0], [50, 0]]), np.array([[3, 0], [4, 0], [50, 4]])
    # The pick at 3 has the higher score and takes the particle at 4; that at 4 then overlaps with 0 by 6 / 14 only.
    assert box_counts(truth, picks, np.array([0.9, 0.8, 0.7]), 10) == Counts(1, 3, 3)
    assert box_counts(truth, picks, np.array([0.8, 0.9, 0.7]), 10) == Counts(2, 3, 3)  # 3 and 0 overlap by 7 / 13
    assert box_counts(truth, picks, np.array([0.9, 0.8, 0.7]), 10, min_iou=0.4) == Counts(3, 3, 3)
    assert box_counts(truth, picks[:0], np.zeros(0), 10) == Counts(0, 0, 3)


def test_outside_the_annotated_part_no_box_counts():
    truth, picks = np.array([[9, 5], [11, 5]]), np.array([[9, 5], [11, 5], [30, 5], [2, 5]])
    assert box_counts(truth, picks, np.ones(4), 4, region=(0, 0, 10, 10)) == Counts(1, 2, 1)


@given(points, points, st.integers(1, 12), st.booleans())
def test_pixels_of_discs_are_those_of_a_plain_count(truth, picks, diameter, whole):
    shape, region = (30, 40), None if whole else (3, 4, 20.5, 25)
    y, x = np.indices(shape)
    masks = [np.logical_or.reduce([np.hypot(x - px, y - py) <= diameter / 2 for px, py in found] + [x < 0])
             for found in (truth, picks)]
    inside = np.ones(shape, bool) if whole else (x >= 3) & (y >= 4) & (x < 20.5) & (y < 25)
    expected = [int((mask & inside).sum()) for mask in (masks[0] & masks[1], masks[1], masks[0])]
    assert disc_counts(truth, picks, diameter, region, shape) == Counts(*expected)


def test_without_the_size_of_the_micrograph_whole_discs_count():
    assert disc_counts(np.array([[0, 0]]), np.array([[0, 0], [100, 0]]), 2) == Counts(5, 10, 5)
    assert disc_counts(np.array([[0, 0]]), np.zeros((0, 2)), 2, shape=(9, 9)) == Counts(0, 0, 3)


def test_figures_are_pooled_and_averaged():
    found = summarise_counts({"a": Counts(6, 8, 10), "b": Counts(0, 0, 10)})
    assert found["micrographs"]["a"] == {"common": 6, "picked": 8, "truth": 10, "precision": 0.75, "recall": 0.6,
                                         "dice": 12 / 18, "iou": 0.5}
    assert found["pooled"]["recall"] == 0.3 and found["pooled"]["precision"] == 0.75
    assert found["mean"] == {"precision": 0.375, "recall": 0.3, "dice": 6 / 18, "iou": 0.25}


def test_picks_are_chosen_as_for_the_other_figures():
    found = chosen_picks({"a": coordinates([[0, 0], [1, 0], [9, 0], [20, 0]], [0.9, 0.8, 0.2, np.nan])}, 0.1, 3)
    assert found["a"].centres_xy.tolist() == [[0, 0], [9, 0]]


def test_picks_that_are_upside_down_are_recognised_without_the_height():
    rng = np.random.default_rng(0)
    truth = {name: coordinates(rng.uniform([0, 0], [900, 600], (40, 2))) for name in "ab"}
    turned = {name: coordinates(np.column_stack([each.centres_xy[:, 0], 599 - each.centres_xy[:, 1]]))
              for name, each in truth.items()}
    before, after = upside_down(truth, turned, 10)
    assert after == 80 and before < 10
    assert upside_down(truth, truth, 10) is None
    others = {name: coordinates(rng.uniform([0, 0], [900, 600], (40, 2))) for name in "ab"}
    assert upside_down(truth, others, 10) is None
    assert upside_down(truth, {"a": coordinates([])}, 10) is None


@pytest.mark.parametrize("change, said", [
    (lambda xy: xy[:, ::-1], "with x and y exchanged"), (lambda xy: xy - [15, 15], "moved by 15 px along x and 15"),
    (lambda xy: xy / 4, "multiplied by 4"), (lambda xy: xy * 1.5, "multiplied by 0.667")])
def test_picks_in_another_frame_are_recognised_and_incomplete_ones_are_not(change, said):
    rng = np.random.default_rng(0)
    xy = {name: rng.uniform([0, 0], [900, 600], (40, 2)) for name in "ab"}
    truth = {name: coordinates(each) for name, each in xy.items()}
    found = [np.vstack([change(each[5:]), rng.uniform([0, 0], [900, 600], (10, 2))]) for each in xy.values()]
    text, before, after = other_frame(truth, dict(zip("ab", map(coordinates, found))), 10)
    assert text.startswith(said) and 70 <= after <= 74 and before < 15
    few = {name: coordinates(np.vstack([each[30:], rng.uniform([0, 0], [900, 600], (60, 2))])) for name, each in
           xy.items()}
    assert other_frame(truth, few, 10) is None and other_frame(truth, truth, 10) is None
    assert other_frame(truth, {"a": coordinates([])}, 10) is None
    many = {"a": coordinates(rng.uniform(0, 900, (100_000, 2)))}
    assert other_frame(many, many, 10) is None and upside_down(many, many, 10) is None  # takes no memory


def test_picks_of_other_micrographs_are_correct_by_chance_and_poor_ones_are_not():
    rng = np.random.default_rng(0)
    places = [rng.uniform(0, 1000, (60, 2)) for _ in range(4)]
    truth = {"a": coordinates(places[0]), "b": coordinates(places[1])}
    others = {"a": coordinates(places[2]), "b": coordinates(places[3])}
    correct, mirrored = by_chance(truth, others, 40)
    # A place is within 40 px of one of 60 particles with a probability of 1 - exp(-60 pi 0.04^2) = 0.26.
    assert correct == pytest.approx(31, abs=12) and mirrored == pytest.approx(31, abs=12)
    assert by_chance(truth, truth, 40) is None
    half = {name: coordinates(np.concatenate([found.centres_xy[:30], others[name].centres_xy[:30]]))
            for name, found in truth.items()}
    assert by_chance(truth, half, 40) is None
    assert by_chance({"a": coordinates(places[0][:19])}, others, 40) is None  # too few for a statement
    assert by_chance(truth, {"a": coordinates(places[0] - 5000)}, 40)[0] == 0


def test_the_program_says_that_picks_are_correct_by_chance(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for side in ("truth", "picks"):
        (tmp_path / side).mkdir()
        write_box(tmp_path / side / "a.box", rng.uniform(0, 1000, (60, 2)), np.ones(60), 100)
    assert main(["evaluate", "--truth", str(tmp_path / "truth"), "--picks", str(tmp_path / "picks"), "--distance",
                 "40"]) == 0
    assert "of their mirror images: no more than by chance" in capsys.readouterr().err


def test_the_program_names_the_other_frame(sets, capsys):
    folder, _ = sets
    xy = read_coordinates(folder / "truth")["a"].centres_xy
    (folder / "exchanged").mkdir()
    write_box(folder / "exchanged" / "a.box", xy[:, ::-1], np.ones(len(xy)), 8)
    command = ["evaluate", "--truth", str(folder / "truth"), "--distance", "2", "--picks"]
    assert main([*command, str(folder / "exchanged")]) == 0
    assert f"{len(xy)} with x and y exchanged" in capsys.readouterr().err
    assert main([*command, str(folder / "picks")]) == 0 and "frame" not in capsys.readouterr().err


@pytest.fixture
def sets(tmp_path):
    """Reference, picks of which one is wrong, and the same upside down, on a micrograph of 60 x 90."""
    rng = np.random.default_rng(1)
    with mrcfile.new(tmp_path / "a.mrc", rng.normal(size=(60, 90)).astype("f4")) as file:
        file.voxel_size = 1.0
    y, x = (axis.ravel() for axis in np.mgrid[10:30:9, 10:80:9])
    places = np.column_stack([x, y + x % 4]).astype(float)
    for name, found in (("truth", places), ("picks", np.vstack([places[1:], [[85, 55]]])),
                        ("turned", np.column_stack([places[:, 0], 59 - places[:, 1]]))):
        (tmp_path / name).mkdir()
        write_box(tmp_path / name / "a.box", found, np.linspace(0.9, 0.1, len(found)), 8)
    return tmp_path, len(places)


def test_the_program_writes_figures_of_boxes_and_discs(sets, capsys):
    folder, n = sets
    assert main(["evaluate", "--truth", str(folder / "truth"), "--picks", str(folder / "picks"), "--distance", "3",
                 "--box", "8", "--diameter", "6", "--micrographs", str(folder / "a.mrc"), "--json",
                 str(folder / "f.json")]) == 0
    found = json.loads((folder / "f.json").read_text())
    assert found["boxes"]["pooled"]["recall"] == pytest.approx((n - 1) / n)
    assert found["discs"]["pooled"]["dice"] == pytest.approx((n - 1) / n)
    printed = capsys.readouterr()
    assert "discs of 6 px, pooled: precision" in printed.out and "upside down" not in printed.err


def test_the_program_warns_of_picks_that_are_upside_down(sets, capsys):
    folder, n = sets
    assert main(["evaluate", "--truth", str(folder / "truth"), "--picks", str(folder / "turned"), "--distance",
                 "3"]) == 0
    assert f"{n} if y is counted from the other side" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--box", "0"], ["--diameter", "nan"], ["--box", "9", "--min-iou", "2"]])
def test_senseless_sizes_are_refused(sets, arguments, capsys):
    folder, _ = sets
    assert main(["evaluate", "--truth", str(folder / "truth"), "--picks", str(folder / "picks"), "--distance", "3",
                 *arguments]) == 2
    assert arguments[-2] in capsys.readouterr().err
