# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""From micrographs and coordinates to a model: choices made on the way."""

from pathlib import Path

import numpy as np
import pytest

from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.preprocessing import Preprocessing
from deepem_scipion.deepem.network.geometry import PRESETS, Geometry
from deepem_scipion.deepem.training.boxes import Boxes
from deepem_scipion.deepem.training.calibration import MIN_STD_MARGIN, contrast_of, std_range_of
from deepem_scipion.deepem.training.plan import Plan, choose_geometry
from deepem_scipion.deepem.training.train import train_model
from deepem_scipion.deepem.training.training_set import TrainingSet


def boxes_of(images, targets, box=20):
    places = np.column_stack([np.arange(len(images)), np.zeros((len(images), 2), int)])
    return Boxes([image.astype(np.float32) for image in images], box, places, np.array(targets, np.float32))


def named(names):
    return {name: Path(f"/nowhere/{name}.mrc") for name in names}


def coordinates(names, n=5):
    centres = np.random.default_rng(0).uniform(20, 100, (n, 2))
    return {name: Coordinates(centres, np.full(n, np.nan), 24.0) for name in names}


def test_of_many_micrographs_without_coordinates_some_are_named(caplog):
    with pytest.raises(DeepEMError, match="no such file"):
        TrainingSet(named("abcdefgh"), coordinates("a")).read(Preprocessing(4.0, 24), 16.0)
    assert "7 of 8 micrographs have no coordinates and are left out: b, c, d and 4 more" in caplog.text


def test_automatic_geometry_bins_by_a_whole_factor():
    geometry, working, step, _ = choose_geometry(Plan(120.0), 1.5)
    assert working == 4.5
    assert geometry == Geometry(40, (9, 5, 3), (2, 2, 2))
    assert step == 2


def test_the_automatic_geometry_has_as_many_maps_as_are_asked_for():
    assert choose_geometry(Plan(120.0, maps=(12, 24, 24)), 1.5)[0] == Geometry(40, (9, 5, 3), (2, 2, 2), (12, 24, 24))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_scan_in_steps_of_20_px_and_bin_to_a_box_of_one_and_a_half_diameters(name):
    geometry, working, step, _ = choose_geometry(Plan(400.0, preset=name), 0.5)
    assert geometry == PRESETS[name] and step == 20
    assert working / 0.5 == pytest.approx(round(working / 0.5))
    assert 0.7 < geometry.box * working / 600 < 1.4


def test_given_working_pixel_size_is_kept():
    geometry, working, *_ = choose_geometry(Plan(120.0, working_pixel_size_angst=5.0), 1.5)
    assert working == 5.0
    assert geometry.box == pytest.approx(1.5 * 24, rel=0.12)


def test_given_geometry_scans_in_steps_of_its_first_pool():
    given = Geometry(44, (9, 5, 3), (3, 2, 2))
    assert choose_geometry(Plan(120.0, geometry=given), 4.0)[::2] == (given, 3)


def test_std_range_loses_no_particle_and_is_wider_than_theirs():
    rng = np.random.default_rng(0)
    images = [scale * rng.normal(size=(20, 20)) for scale in np.linspace(0.6, 1.4, 30)]
    low, high = std_range_of(boxes_of(images, [1] * 30))
    values = [image.std() for image in images]
    spread = max(values) - min(values)
    assert min(values) - low == pytest.approx(spread / 2, rel=1e-3)
    assert high - max(values) == pytest.approx(spread / 2, rel=1e-3)


def test_std_range_of_a_single_particle_leaves_room_and_negatives_do_not_count():
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(20, 20)), 5 * rng.normal(size=(20, 20))]
    low, high = std_range_of(boxes_of(images, [1, 0]))
    assert low == pytest.approx((1 - MIN_STD_MARGIN) * images[0].std(), rel=1e-3)
    assert high == pytest.approx((1 + MIN_STD_MARGIN) * images[0].std(), rel=1e-3)


def test_std_range_of_particles_leaves_out_carbon_and_ice():
    rng = np.random.default_rng(0)
    y, x = np.indices((20, 20)) - 9.5
    particle = 1.5 * (np.hypot(x, y) < 6)
    low, high = std_range_of(boxes_of([rng.normal(size=(20, 20)) - particle for _ in range(60)], [1] * 60))
    carbon = [2 * rng.normal(size=(20, 20)) for _ in range(20)]
    ice = [rng.normal(size=(20, 20)) - 8 * (np.hypot(x - shift, y) < 7) for shift in range(8)]
    assert min(image.std() for image in carbon + ice) > high
    others = [rng.normal(size=(20, 20)) - particle for _ in range(500)]
    assert all(low < image.std() < high for image in others)


@pytest.mark.parametrize("sign, word", [(-1, "dark"), (1, "bright")])
def test_contrast_is_that_of_the_centre_against_the_rim(sign, word):
    y, x = np.indices((20, 20)) - 9.5
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(20, 20)) + sign * (np.hypot(x, y) < 6) for _ in range(20)]
    assert contrast_of(boxes_of(images, [1] * 20), 13.0) == word


def test_nothing_in_common_is_refused_with_names_of_both_sides():
    with pytest.raises(DeepEMError, match="m1.*p1"):
        train_model(TrainingSet(named(["m1", "m2"]), coordinates(["p1"])), Plan(64.0, pixel_size_angst=4.0))


def test_unreadable_micrographs_are_left_out_and_if_all_are_the_reason_is_given(caplog):
    with pytest.raises(DeepEMError, match="nowhere"):
        train_model(TrainingSet(named(["a", "b"]), coordinates(["a", "b"])), Plan(64.0, pixel_size_angst=4.0))
    assert caplog.text.count("left out") == 2


def test_pixel_size_that_no_header_gives_is_asked_for(blobs, tmp_path):
    import mrcfile

    with mrcfile.new(tmp_path / "a.mrc", mrcfile.read(blobs[0] / "micrographs" / "a.mrc")):
        pass
    with pytest.raises(DeepEMError, match="--pixel-size"):
        train_model(TrainingSet({"a": tmp_path / "a.mrc"}, coordinates(["a"])), Plan(64.0))


@pytest.mark.slow
@pytest.mark.parametrize("empty", ["a", "b"])
def test_micrograph_without_particles_is_never_used_for_validation(blobs, few_updates, empty):
    folder, centres = blobs
    none = Coordinates(np.zeros((0, 2)), np.zeros(0), 24.0)
    particles = {name: Coordinates(centres[name], np.full(14, np.nan), 24.0) for name in "abc"} | {empty: none}
    paths = {name: folder / "micrographs" / f"{name}.mrc" for name in "abc"}
    model = train_model(TrainingSet(paths, particles), Plan(64.0, epochs=3, validation_fraction=0.5))
    assert model.record.validation.on == "validation micrographs"
    assert model.record.validation.particles > 0 and model.record.training.micrographs == 2


@pytest.mark.slow
def test_without_validation_the_training_micrographs_give_the_threshold(blobs, few_updates):
    folder, centres = blobs
    particles = {"a": Coordinates(centres["a"], np.full(14, np.nan), 24.0)}
    plan = Plan(64.0, epochs=3, validation_fraction=0)
    model = train_model(TrainingSet({"a": folder / "micrographs" / "a.mrc"}, particles), plan)
    assert model.record.validation.on == "training micrographs"
    assert 0 < model.threshold < 1
