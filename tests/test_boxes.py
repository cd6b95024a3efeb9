# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where boxes of particles and negatives are cut, and how places are labelled."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepem_scipion.deepem.micrographs.micrograph import Micrograph
from deepem_scipion.deepem.training.boxes import collect_boxes, corners_within
from deepem_scipion.deepem.training.labels import (
    NEGATIVE_DISTANCE,
    POSITIVE_DISTANCE,
    UNKNOWN,
    LabelledMicrograph,
    annotated_border,
    free_places,
    label_map,
)
from deepem_scipion.deepem.training.split import split_by_area, split_micrographs


def labelled(pixels, particles_rc, negatives_rc=(), name="m", **known):
    micrograph = Micrograph(Path(f"{name}.mrc"), name, pixels.astype(np.float32), 4.0, 1.0, pixels.shape)
    particles_rc, negatives_rc = (np.array(centres, float).reshape(-1, 2) for centres in (particles_rc, negatives_rc))
    return LabelledMicrograph(micrograph, particles_rc, negatives_rc, **known)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("box", [5, 6])
def test_box_is_centred_on_the_particle_to_half_a_pixel(box):
    pixels = noise((40, 60))
    pixels[12, 33] = 100
    boxes = collect_boxes([labelled(pixels, [[12, 33]])], box, 4, 0, 0, np.random.default_rng(0))
    at = np.argwhere(boxes.cut(np.array([0]))[0] == 100)[0]
    assert np.abs(at - (box - 1) / 2).max() <= 0.5


def test_particles_whose_box_leaves_the_micrograph_are_left_out():
    item = labelled(noise((40, 60)), [[20, 30], [2, 30], [20, 58], [37.6, 30]])
    boxes = collect_boxes([item], 10, 4, 0, 0, np.random.default_rng(0))
    assert (boxes.targets == 1).sum() == 1


@given(st.integers(4, 12), st.floats(4, 14), st.floats(0, 12), st.integers(0, 1000))
def test_random_negatives_keep_away_from_particles_borders_and_padding(box, diameter, border, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(70, 90))
    pixels[:9] = pixels[9]
    particles = rng.uniform(0, [69, 89], (5, 2))
    boxes = collect_boxes([labelled(pixels, particles)], box, diameter, border, 8.0, rng)
    corners = boxes.places[boxes.targets == 0][:, 1:]
    centres = corners + (box - 1) / 2
    if len(corners):
        assert corners[:, 0].min() >= 8  # no box reaches into the padding by more than its innermost line
        distances = np.linalg.norm(centres[:, None] - particles[None], axis=2)
        assert distances.min() > NEGATIVE_DISTANCE * diameter
        assert centres.min() >= border - 1
        assert (np.array([69, 89]) - centres).min() >= border - 1


def test_given_negatives_are_used_beside_random_ones_or_alone():
    item = labelled(noise((80, 80)), [[20, 20], [20, 60]], [[60, 60], [1, 1]])
    both = collect_boxes([item], 10, 8, 0, 3.0, np.random.default_rng(0))
    alone = collect_boxes([item], 10, 8, 0, 0.0, np.random.default_rng(0))
    assert (both.targets == 0).sum() == 1 + 6
    assert (alone.targets == 0).sum() == 1


def test_crowded_micrograph_gives_as_many_negatives_as_it_has_room_for(caplog):
    particles = [[r, c] for r in range(5, 60, 8) for c in range(5, 60, 8)]
    boxes = collect_boxes([labelled(noise((60, 60)), particles)], 10, 24, 0, 3.0, np.random.default_rng(0))
    assert not (boxes.targets == 0).any()
    assert "room for 0 of the" in caplog.text


def test_same_seed_gives_the_same_boxes():
    item = labelled(noise((80, 80)), [[20, 20], [50, 60]])
    first, again = (collect_boxes([item], 10, 8, 0, 5.0, np.random.default_rng(3)).places for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_local_stds_are_those_of_the_pixels():
    boxes = collect_boxes([labelled(noise((50, 50)), [[20, 20], [30, 12]])], 8, 4, 0, 2.0, np.random.default_rng(0))
    expected = [boxes.cut(np.array([i]))[0].std() for i in range(len(boxes))]
    np.testing.assert_allclose(boxes.local_stds(chunk=4), expected, rtol=1e-5)


@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(1, 6), st.integers(0, 99))
def test_every_split_keeps_micrographs_for_validation_and_for_training(n, fraction, parts, seed):
    held_out = split_micrographs(n, fraction, parts, np.random.default_rng(seed))
    assert len(held_out) == parts and len({len(part) for part in held_out}) == 1
    for part in held_out:
        assert len(set(part)) == len(part) < n and set(part) <= set(range(n))
        assert bool(part) == (n > 1 and fraction > 0)
    counts = np.bincount(np.concatenate(held_out).astype(int), minlength=n)
    assert counts.max() - counts.min() <= 1  # the next part begins where the last one ends


@pytest.mark.parametrize("shape", [(100, 60), (60, 100)])
def test_single_micrograph_is_split_by_area_without_a_shared_pixel(shape):
    pixels = np.arange(6000.0).reshape(shape)
    particles = np.random.default_rng(0).uniform(0, np.array(shape) - 1, (50, 2)).round()
    large, small = split_by_area(labelled(pixels, particles, particles[:5], missed_rc=particles[5:12],
                                          doubtful_rc=particles[12:15]), 0.25)
    assert large.pixels.size == 3 * small.pixels.size
    assert not np.intersect1d(large.pixels, small.pixels).size
    assert len(large.particles_rc) + len(small.particles_rc) == 50
    for name, number in (("negatives_rc", 5), ("missed_rc", 7), ("doubtful_rc", 3)):
        assert len(getattr(large, name)) + len(getattr(small, name)) == number
    for part in (large, small):  # each particle still has the pixel it had
        values = {float(part.pixels[int(r), int(c)]) for r, c in part.particles_rc}
        assert values <= {float(pixels[int(r), int(c)]) for r, c in particles}


def test_border_without_annotation_is_the_min_distance_of_a_particle_from_it():
    items = [labelled(noise((100, 120)), [[50, 30], [70, 60]]), labelled(noise((100, 120)), [[40, 99]])]
    assert annotated_border(items) == 20
    assert annotated_border([labelled(noise((10, 10)), [])]) == 0


def test_free_places_are_the_first_pixels_of_boxes():
    free = free_places(labelled(noise((30, 40)), [[15, 20]]), 10, 8, 0)
    assert free.shape == (21, 31)
    assert not free[11, 16]  # its centre is 15.5, 20.5
    assert free[0, 0] and free[20, 30]


def test_corners_of_no_particles_are_an_empty_table():
    assert corners_within(np.zeros((0, 2)), 10, (30, 30)).shape == (0, 2)


@given(st.integers(4, 12), st.floats(8, 20), st.integers(0, 1000))
def test_labels_follow_the_distance_to_the_closest_particle(box, diameter, seed):
    rng = np.random.default_rng(seed)
    particles = rng.uniform(0, [59, 79], (4, 2))
    labels = label_map(labelled(noise((60, 80)), particles), box, diameter, 0)
    assert labels.shape == (61 - box, 81 - box)
    centres = np.indices(labels.shape).transpose(1, 2, 0) + (box - 1) / 2
    distances = np.linalg.norm(centres[:, :, None] - particles, axis=3).min(axis=2)
    close = max(POSITIVE_DISTANCE * diameter, 0.75)
    expected = np.where(distances <= close, 1, np.where(distances > NEGATIVE_DISTANCE * diameter, 0, UNKNOWN))
    np.testing.assert_array_equal(labels, expected)


def test_given_negatives_are_labelled_even_where_nothing_else_is():
    item = labelled(noise((60, 60)), [[20, 20]], [[40, 40], [26, 26]])
    labels = label_map(replace(item, complete=False), 10, 16, 0)
    assert labels[35, 35] == 0 and labels[21, 21] == 0  # the latter is close to a particle
    assert labels[15, 15] == 1
    assert (labels == 0).sum() < 40
    assert (label_map(item, 10, 16, 0) == 0).sum() > 1000


def test_nothing_is_known_around_what_may_be_an_unmarked_particle():
    labels = label_map(labelled(noise((60, 60)), [[20, 20]], doubtful_rc=np.array([[40.0, 40.0]])), 10, 16, 0)
    centres = np.indices(labels.shape).transpose(1, 2, 0) + 4.5
    near = np.linalg.norm(centres - 40, axis=2) < NEGATIVE_DISTANCE * 16
    assert near.any() and (labels[near] == UNKNOWN).all()


def test_missed_particles_come_twice_and_incomplete_micrographs_give_no_random_negatives():
    item = labelled(noise((60, 60)), [[20, 20], [40, 30]], missed_rc=np.array([[40.0, 30.0]]))
    targets = collect_boxes([item], 10, 8, 0, 1.0, np.random.default_rng(0)).targets
    assert (targets == 1).sum() == 3 and (targets == 0).sum() == 2
    targets = collect_boxes([replace(item, complete=False)], 10, 8, 0, 1.0, np.random.default_rng(0)).targets
    assert (targets == 1).sum() == 3 and (targets == 0).sum() == 0


@pytest.mark.parametrize("border", [0, 7])
def test_labels_of_a_mirror_padded_micrograph_are_its_own_and_continue_to_its_edge(border):
    item = labelled(noise((50, 60)), [[20, 25], [4, 40]], [[35, 45]])
    labels = label_map(item, 10, 8, border)
    further = label_map(item.mirror_padded(5), 10, 8, border)
    np.testing.assert_array_equal(further[5:-5, 5:-5], labels)
    centres = np.indices(further.shape).transpose(1, 2, 0) + 4.5 - 5
    outside = (centres < border - 1).any(axis=2) | (centres > np.array([50, 60]) - border).any(axis=2)
    assert (further[outside] != 0).all()
    assert border or (further[~outside] == 0).sum() > (labels == 0).sum()
    assert further[4 + 5 - 5, 40 + 5 - 5] == 1  # its box leaves the micrograph itself


def test_negatives_of_a_mirror_padded_micrograph_keep_clear_of_its_own_padding():
    pixels = noise((60, 70))
    pixels[:, :10] = pixels[:, 10:11]
    labels = label_map(labelled(pixels, [[30, 40]]).mirror_padded(5), 10, 8, 0)
    assert (labels[:, :15] == UNKNOWN).all() and (labels[:, 15:20] == 0).any()
