# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated fields of view under random conditions, and the particles on them."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepem_scipion.deepem.simulation import imaging
from deepem_scipion.deepem.simulation.fields import NEGATIVE_DISTANCE, labelled_field, simulate_field
from deepem_scipion.deepem.simulation.shapes import (
    KINDS,
    Shape,
    draw_shapes,
    orientations,
    random_shape,
    shape_of_points,
    shape_of_volume,
)
from deepem_scipion.deepem.simulation.volumes import klh_like_volume
from deepem_scipion.deepem.training.labels import label_map

SIDE = 256


@pytest.mark.parametrize("seed", range(12))
def test_a_random_shape_is_centred_and_has_a_diameter_of_one(seed):
    shape = random_shape(np.random.default_rng(seed))
    assert shape.masses.min() > 0 and shape.masses.sum() == pytest.approx(1)
    np.testing.assert_allclose(shape.masses @ shape.points, 0, atol=1e-9)
    assert np.quantile(np.linalg.norm(shape.points, axis=1), 0.99) == pytest.approx(0.5, rel=0.01)


def test_shapes_differ_in_how_elongated_they_are():
    def elongation(shape):
        moments = np.linalg.eigvalsh((shape.points * shape.masses[:, None]).T @ shape.points)
        return np.sqrt(moments[-1] / moments[0])

    rng = np.random.default_rng(0)
    found = [elongation(random_shape(rng)) for _ in range(40)]
    assert min(found) < 1.3 and max(found) > 3 and len(KINDS) == 7


def test_a_density_map_becomes_points_with_its_proportions():
    shape = shape_of_volume(klh_like_volume(16.0), np.random.default_rng(0))  # 400 A long and 350 A wide
    along, across = np.ptp(shape.points[:, 0]), np.ptp(shape.points[:, 1])
    assert along / across == pytest.approx(400 / 350, rel=0.05)
    assert along == pytest.approx(400 / np.hypot(400, 350), rel=0.05)


def test_a_particle_is_drawn_with_its_mass_at_its_centre():
    canvas = np.zeros((80, 90))
    shape = shape_of_points(np.random.default_rng(1).standard_normal((500, 3)) * [3, 2, 1])
    draw_shapes(canvas, shape, np.array([[30.3, 50.8]]), Rotation.random(1, 3), 20.0, strength=2.0)
    assert canvas.sum() == pytest.approx(2 * np.pi / 4 * 20**2)
    np.testing.assert_allclose(ndimage.center_of_mass(canvas), (30.3, 50.8), atol=1e-6)


def test_what_lies_outside_the_image_is_left_out():
    canvas = np.zeros((40, 40))
    draw_shapes(canvas, Shape(np.zeros((1, 3)), np.ones(1)), np.array([[-5.0, 20.0], [20.0, 60.0]]),
                Rotation.identity(2), 10.0)
    assert not canvas.any()


def test_a_broken_particle_has_lost_what_lies_beyond_the_plane():
    shape = random_shape(np.random.default_rng(2))
    part = shape.cut(np.array([0, 0, 1.0]), 0.1)
    assert part.points[:, 2].max() <= 0.1 and 0.1 < part.masses.sum() < 1


def test_preferred_orientations_show_the_same_side():
    def views(n_preferred):
        return orientations(200, n_preferred, np.random.default_rng(4)).as_matrix()[:, 2]  # direction of view

    assert np.degrees(np.arccos(np.abs(views(1) @ views(1).mean(axis=0)))).max() < 45
    assert np.linalg.norm(views(0).mean(axis=0)) < 0.2 < 0.9 < np.linalg.norm(views(1).mean(axis=0))


def test_the_same_seed_gives_the_same_field_and_another_seed_another():
    first, again, other = (simulate_field(np.random.default_rng(seed), side_px=SIDE) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.particles_rc, again.particles_rc)
    assert first.particles_rc.shape != other.particles_rc.shape or np.abs(first.pixels - other.pixels).max() > 0


def test_fields_are_as_stated_and_their_particles_are_dark():
    contrasts = []
    for seed in range(12):
        field = simulate_field(np.random.default_rng(seed), side_px=SIDE, empty=seed % 4 == 0)
        assert field.pixels.shape == (SIDE, SIDE) and np.isfinite(field.pixels).all()
        # The particles of seed 10 keep to a part of the field, and its only one would lie outside of that.
        assert (len(field.particles_rc) == 0) == (seed % 4 == 0 or seed == 10)
        for points in (field.particles_rc, field.negatives_rc):
            assert ((points >= 0) & (points <= SIDE - 1)).all()
        if len(field.particles_rc):
            inside = np.ones((SIDE, SIDE), bool)
            inside[tuple(field.particles_rc.astype(int).T)] = False
            inside = ndimage.distance_transform_edt(inside)
            flat = field.pixels - ndimage.gaussian_filter(field.pixels, 40)
            contrasts.append(flat[inside < 8].mean() - flat[(inside > 16) & (inside < 24)].mean())
    assert np.mean(np.array(contrasts) < 0) > 0.7  # a strong defocus can turn the centre of a particle bright


def test_with_few_others_sparse_particles_are_the_same_but_less_resembles_them():
    def fields(few):
        return [simulate_field(np.random.default_rng(seed), side_px=SIDE, few_others=few) for seed in range(12)]

    many, few = fields(False), fields(True)
    assert all(np.array_equal(one.particles_rc, other.particles_rc) for one, other in zip(many, few))
    sparse = [index for index, field in enumerate(many) if 0 < len(field.particles_rc) < 20]
    counts = [sum(len(found[index].negatives_rc) for index in sparse) for found in (many, few)]
    assert len(sparse) >= 3 and counts[1] < counts[0]


def test_negatives_begin_close_to_the_particles_of_a_field():
    field = simulate_field(np.random.default_rng(5), side_px=SIDE, empty=False)
    item = labelled_field(field, 27.0, 40, "field")
    labels = label_map(item, 40, 27.0, 0.0)
    centres = np.indices(labels.shape).reshape(2, -1).T + 19.5
    distances = cKDTree(np.concatenate([field.particles_rc, field.doubtful_rc])).query(centres)[0]
    negatives = distances[labels.ravel() == 0]
    given = cKDTree(np.vstack([field.negatives_rc, [[1e6, 1e6]]])).query(centres)[0][labels.ravel() == 0] <= 2.7
    assert NEGATIVE_DISTANCE * 27 <= negatives[~given].min() < 0.4 * 27
    assert (distances[labels.ravel() == 1] <= 2.7).all()
    assert item.micrograph.pixels.dtype == np.float32


def test_film_covers_the_stated_share_and_is_darker():
    found = [imaging.draw_film(SIDE, 27.0, np.random.default_rng(seed)) for seed in range(40)]
    with_film = [film for film in found if film.share.max() > 0.5]
    assert 5 < len(with_film) < 25
    brighter = [film.darkness[film.share > 0.9].mean() < film.darkness[film.share < 0.1].mean() - 1
                for film in with_film if (film.share > 0.9).any()]
    assert brighter and not any(brighter)


def test_scattered_points_keep_their_distance():
    points = imaging.scatter(50, 200, 20.0, np.random.default_rng(0))
    assert 30 < len(points) <= 50 and cKDTree(points).query(points, 2)[0][:, 1].min() >= 20


def test_a_steep_low_pass_keeps_what_a_gaussian_weakens_and_removes_more_beyond():
    pixels = np.random.default_rng(0).standard_normal((SIDE, SIDE))
    power = [np.abs(np.fft.rfft2(image))[0] / np.abs(np.fft.rfft2(pixels))[0]
             for image in (imaging.low_pass(pixels, 2.0), ndimage.gaussian_filter(pixels, 2.0, mode="wrap"))]
    half = np.argmin(np.abs(power[1] - 0.5))
    assert power[0][half] == pytest.approx(0.5, abs=0.06)
    assert power[0][half // 2] > 0.98 > power[1][half // 2]
    assert power[0][2 * half] < 0.04 and power[0][0] == pytest.approx(1)
