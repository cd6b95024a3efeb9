# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated micrographs: positions and contrast of particles, noise, background."""

import math
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.simulation.dataset import write_dataset
from deepem_scipion.deepem.simulation.scene import Scene, contrast_transfer, simulate_micrograph
from deepem_scipion.deepem.simulation.volumes import (
    Volume,
    klh_like_volume,
    project,
    random_orientations,
    read_volume,
)

SMALL = Scene(shape=(160, 224), pixel_size_angst=16.0, n_particles=8, snr=math.inf)
QUARTER_TURN = Rotation.from_euler("z", 90, degrees=True)


@pytest.fixture(scope="module")
def views():
    orientations = random_orientations(12, np.random.default_rng(5))
    return project(klh_like_volume(16.0), orientations, SMALL.pixel_size_angst)


def lopsided_volume():
    """Three unequal blobs: neither symmetry nor the grid centre coincides with the centre of mass."""
    values = np.zeros((25, 25, 25), np.float32)
    values[8, 9, 10], values[16, 12, 11], values[12, 15, 17] = 1, 2, 3
    return Volume(ndimage.gaussian_filter(values, 1.5), 4.0)


def distances(centres_xy):
    between = np.hypot(*(centres_xy[:, None] - centres_xy[None]).transpose(2, 0, 1))
    return between + np.where(np.eye(len(centres_xy)), np.inf, 0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), defocus=st.sampled_from([None, 15000.0]))
def test_a_particle_is_drawn_within_a_tenth_of_a_pixel_of_its_centre(seed, defocus):
    rng = np.random.default_rng(seed)
    scene = Scene(shape=(120, 170), pixel_size_angst=4.0, diameter_angst=100, n_particles=1, snr=math.inf,
                  defocus_angst=defocus, margin=1.5)
    particles = project(lopsided_volume(), random_orientations(3, rng), scene.pixel_size_angst)
    pixels, centres_xy = simulate_micrograph(scene, particles, rng)
    row, column = ndimage.center_of_mass(-pixels.astype(float))
    np.testing.assert_allclose(centres_xy, [[column, row]], atol=0.1)


@pytest.mark.parametrize("pixel_size", [2.5, 4.0, 7.0])
def test_a_projection_is_centred_on_the_centre_of_mass_at_any_pixel_size(pixel_size):
    for view in project(lopsided_volume(), random_orientations(4, np.random.default_rng(1)), pixel_size):
        middle = (len(view) - 1) / 2
        np.testing.assert_allclose(ndimage.center_of_mass(view), (middle, middle), atol=0.1)


def test_the_same_seed_gives_the_same_micrograph_and_another_seed_another(views):
    scene = replace(SMALL, snr=0.2, ice=2, carbon=0.1, gradient=1.0, touching_fraction=0.5)
    generators = (np.random.default_rng(seed) for seed in (3, 3, 4))
    first, again, other = (simulate_micrograph(scene, views, generator) for generator in generators)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.abs(first[0] - other[0]).max() > 1


@pytest.mark.parametrize("snr", [0.05, 1.0])
@pytest.mark.parametrize("correlation_px", [0.0, 2.0])
def test_the_signal_to_noise_ratio_is_that_of_the_scene(views, snr, correlation_px):
    scene = replace(SMALL, shape=(300, 420), n_particles=30, noise_correlation_px=correlation_px)
    clean, centres_xy = simulate_micrograph(scene, views, np.random.default_rng(7))
    noisy, _ = simulate_micrograph(replace(scene, snr=snr), views, np.random.default_rng(7))
    row, column = np.indices(scene.shape)
    near = np.zeros(scene.shape, bool)
    for x, y in centres_xy:
        near |= np.hypot(row - y, column - x) <= scene.diameter_px / 2
    signal = math.sqrt(snr) * clean
    assert signal[near].var() / (noisy - signal).var() == pytest.approx(snr, rel=0.1)


@pytest.mark.parametrize("correlation_px", [0.0, 2.0])
def test_noise_is_coloured_only_if_the_scene_requires_it(views, correlation_px):
    scene = replace(SMALL, n_particles=0, snr=1.0, noise_correlation_px=correlation_px)
    noise, _ = simulate_micrograph(scene, views, np.random.default_rng(2))
    neighbours = np.mean(noise[:, 1:] * noise[:, :-1]) / noise.var()
    assert noise.std() == pytest.approx(1, abs=0.1)
    # Two Gaussians of standard deviation c convolved: exp(-1 / (4 c^2)) at a distance of one pixel.
    assert neighbours == pytest.approx(math.exp(-1 / 16) if correlation_px else 0, abs=0.05)


def test_particles_are_darker_than_the_background(views):
    pixels, centres_xy = simulate_micrograph(SMALL, views, np.random.default_rng(1))
    row, column = np.indices(SMALL.shape)
    nearest = np.min([np.hypot(row - y, column - x) for x, y in centres_xy], axis=0) / SMALL.diameter_px
    assert pixels[nearest < 0.4].mean() < pixels[nearest > 0.8].mean() - 0.3


def test_the_transfer_function_first_vanishes_at_the_expected_frequency():
    scene = Scene(defocus_angst=20000.0, voltage_kv=300.0, spherical_aberration_mm=0.0)
    wavelength = 0.019687  # of electrons of 300 keV, angstrom
    first_zero = math.sqrt((math.pi - math.asin(0.1)) / (math.pi * wavelength * scene.defocus_angst))
    below, at, above = contrast_transfer(np.array([0.99, 1.0, 1.01]) * first_zero, scene)
    assert below < 0 < above
    assert at == pytest.approx(0, abs=1e-3)


def test_the_image_of_a_point_lacks_the_frequency_at_which_the_transfer_function_vanishes():
    scene = Scene(shape=(256, 320), pixel_size_angst=3.0, diameter_angst=60.0, n_particles=1, snr=math.inf,
                  defocus_angst=20000.0, margin=3.0)
    point = np.zeros((1, 33, 33))
    point[0, 16, 16] = 1
    pixels, _ = simulate_micrograph(scene, point, np.random.default_rng(0))
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(320)[None]) / scene.pixel_size_angst
    rings = np.rint(frequency / 0.001).astype(int)
    power = ndimage.mean(np.abs(np.fft.fft2(pixels)) ** 2, rings, np.arange(1, 60))
    expected = np.abs(contrast_transfer(0.001 * np.arange(1, 60), scene)).argmin()
    dark = 10 + power[10:45].argmin()
    assert abs(int(dark) - int(expected)) <= 1


def test_side_and_top_views_differ():
    top, side = project(klh_like_volume(), Rotation.concatenate([Rotation.identity(), QUARTER_TURN]), 8.0)
    middle = len(top) // 2
    assert top[middle, middle] < 0.05 * top.max()  # a ring is hollow
    assert side[middle, middle] > 0.2 * side.max()
    wide, high = (np.ptp(np.flatnonzero(side.max(axis) > 0.2 * side.max())) for axis in (0, 1))
    assert max(wide, high) * 8 == pytest.approx(400, abs=25)
    assert min(wide, high) * 8 == pytest.approx(350, abs=25)


def test_orientations_are_uniform_over_the_sphere():
    axes = random_orientations(4000, np.random.default_rng(3)).apply([0, 0, 1])
    np.testing.assert_allclose(axes.mean(0), 0, atol=0.05)
    np.testing.assert_allclose((axes**2).mean(0), 1 / 3, atol=0.03)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_particles_keep_their_distance_from_each_other_and_from_the_border(views, seed):
    _, centres_xy = simulate_micrograph(SMALL, views, np.random.default_rng(seed))
    assert len(centres_xy) == SMALL.n_particles
    assert distances(centres_xy).min() >= SMALL.spacing * SMALL.diameter_px
    assert centres_xy.min() >= SMALL.diameter_px / 2
    assert (centres_xy <= np.array([223, 159]) - SMALL.diameter_px / 2).all()


def test_half_of_the_particles_touch_if_the_scene_requires_it(views):
    scene = replace(SMALL, touching_fraction=0.5)
    _, centres_xy = simulate_micrograph(scene, views, np.random.default_rng(1))
    nearest = distances(centres_xy).min(axis=0) / scene.diameter_px
    touching = nearest < 1.1
    assert touching.sum() == 4
    assert nearest[touching].min() >= 0.95
    assert nearest[~touching].min() >= scene.spacing


def test_the_canvas_cuts_a_particle_at_the_border(views):
    scene = replace(SMALL, shape=(40, 60), n_particles=1, margin=0.0)
    micrographs = [simulate_micrograph(scene, views, np.random.default_rng(seed)) for seed in range(20)]
    assert any((np.minimum(xy, [59, 39] - xy) < 5).any() for _, xy in micrographs)
    assert all(pixels.shape == (40, 60) and np.isfinite(pixels).all() for pixels, _ in micrographs)


def test_an_empty_micrograph_has_centres_of_shape_0_2(views):
    pixels, centres_xy = simulate_micrograph(replace(SMALL, n_particles=0), views, np.random.default_rng(0))
    assert centres_xy.shape == (0, 2)
    assert not pixels.any()


def test_carbon_covers_its_fraction_of_the_micrograph_and_no_particle_lies_on_it(views):
    scene = replace(SMALL, n_particles=4, carbon=0.3, snr=1e-6)
    pixels, centres_xy = simulate_micrograph(scene, views, np.random.default_rng(4))
    smooth = ndimage.gaussian_filter(pixels, 6)
    assert np.mean(smooth < -0.5) == pytest.approx(0.3, abs=0.08)
    column, row = np.rint(centres_xy).astype(int).T
    assert smooth[row, column].min() > -0.5


def test_ice_and_gradient_change_the_background(views):
    empty = replace(SMALL, n_particles=0)
    iced, _ = simulate_micrograph(replace(empty, ice=6), views, np.random.default_rng(1))
    uneven, _ = simulate_micrograph(replace(empty, gradient=2.0), views, np.random.default_rng(1))
    assert iced.min() == pytest.approx(-3, abs=0.5)
    assert 1 < np.ptp(uneven) <= 2
    assert np.abs(np.diff(uneven, axis=0)).max() < 0.1


def test_too_many_particles_for_the_micrograph_are_refused(views):
    with pytest.raises(DeepEMError, match=r"Only \d+ of 500 particles .* fewer"):
        simulate_micrograph(replace(SMALL, n_particles=500, spacing=2), views, np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [{"snr": 0}, {"pixel_size_angst": -1}, {"shape": (0, 5)}, {"carbon": 1.5},
                                   {"margin": -1}])
def test_an_impossible_scene_is_refused(wrong):
    with pytest.raises(DeepEMError, match="must be"):
        replace(SMALL, **wrong)


def test_a_data_set_is_written_with_pixel_size_and_boxes_at_the_centres(tmp_path):
    scene = replace(SMALL, snr=0.5)
    centres = write_dataset(tmp_path, scene, 2, seed=1, n_views=3)
    boxes = read_coordinates(tmp_path / "boxes")
    assert sorted(centres) == sorted(boxes) == ["mic_001", "mic_002"]
    for name, centres_xy in centres.items():
        with mrcfile.open(tmp_path / "micrographs" / f"{name}.mrc") as file:
            assert file.data.shape == scene.shape
            assert float(file.voxel_size.x) == pytest.approx(scene.pixel_size_angst)
        np.testing.assert_allclose(boxes[name].centres_xy, centres_xy, atol=0.51)


def test_a_data_set_shows_the_particle_in_the_given_orientations_only(tmp_path):
    seen = []
    for number, angle in enumerate((0, 90)):
        scene = replace(SMALL, snr=np.inf, n_particles=1, defocus_angst=None)
        turned = Rotation.from_euler("y", [angle], degrees=True)
        write_dataset(tmp_path / str(number), scene, 1, 1, klh_like_volume(8.0, 80.0, 350.0), orientations=turned)
        with mrcfile.open(tmp_path / str(number) / "micrographs" / "mic_001.mrc") as file:
            seen.append(np.count_nonzero(file.data < 0.2 * file.data.min()))
    ring, bar = seen
    assert bar < 0.6 * ring


def test_a_map_without_voxel_size_is_refused_until_it_is_given(tmp_path):
    path = tmp_path / "map.mrc"
    with mrcfile.new(path, 5 * lopsided_volume().values):
        pass
    with pytest.raises(DeepEMError, match="voxel size"):
        read_volume(path)
    volume = read_volume(path, 4.0)
    assert volume.voxel_size_angst == 4.0
    assert volume.values.max() == pytest.approx(1)


def test_a_file_that_is_not_a_map_is_refused_by_name(tmp_path):
    path = tmp_path / "notes.mrc"
    path.write_text("no map")
    with pytest.raises(DeepEMError, match="notes.mrc"):
        read_volume(path)


def test_ribosomes_of_a_real_map_are_round_and_dark(shared_data):
    volume = read_volume(shared_data / "ribosome70s" / "clean70SRibosome_vol_65p.mrc", 5.0)
    rng = np.random.default_rng(0)
    scene = Scene(shape=(200, 240), pixel_size_angst=5.0, diameter_angst=250.0, n_particles=4, snr=math.inf,
                  defocus_angst=None)
    pixels, centres_xy = simulate_micrograph(scene, project(volume, random_orientations(4, rng), 5.0), rng)
    row, column = np.indices(scene.shape)
    nearest = np.min([np.hypot(row - y, column - x) for x, y in centres_xy], axis=0)
    assert pixels[nearest < 15].mean() < pixels[nearest > 35].mean() - 0.5
