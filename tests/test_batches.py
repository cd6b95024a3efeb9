# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training examples in batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepem_scipion.deepem.micrographs.micrograph import Micrograph
from deepem_scipion.deepem.network.architecture import build_network, get_weights, set_weights
from deepem_scipion.deepem.network.geometry import PRESETS, Geometry
from deepem_scipion.deepem.training.batches import AUGMENTED_CONTRAST, AUGMENTED_PARTICLES, BoxBatches, CropBatches
from deepem_scipion.deepem.training.boxes import collect_boxes
from deepem_scipion.deepem.training.labels import NEGATIVE_DISTANCE, POSITIVE_DISTANCE, LabelledMicrograph, label_map

GEOMETRY = Geometry(28, (5, 3, 2), (2, 2, 2), (2, 3, 3))
DIAMETER = 18.0


def labelled(shape=(90, 130), n=4, seed=0, **known):
    """A micrograph in which all pixels are different, so that the place of a crop is known."""
    rng = np.random.default_rng(seed)
    pixels = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
    micrograph = Micrograph(Path("m.mrc"), "m", pixels, 4.0, 1.0, shape)
    return LabelledMicrograph(micrograph, rng.uniform(14, np.array(shape) - 15, (n, 2)), **known)


def crops(item, side=3, updates=40):
    return CropBatches([item], GEOMETRY, DIAMETER, 0.0, 4, side, updates)


def test_boxes_are_shown_once_an_epoch_in_each_rotation():
    boxes = collect_boxes([labelled()], 28, DIAMETER, 0, 2.0, np.random.default_rng(0))
    shown = list(BoxBatches(boxes, 5).batches(np.random.default_rng(1)))
    assert len(shown) == BoxBatches(boxes, 5).updates_per_epoch
    pixels = np.concatenate([batch for batch, _ in shown])
    targets = np.concatenate([batch for _, batch in shown])
    assert targets.shape == (4 * len(boxes), 1, 1)
    expected = {np.rot90(box, turn).tobytes(): target
                for box, target in zip(boxes.cut(np.arange(len(boxes))), boxes.targets) for turn in range(4)}
    assert len(expected) == len(pixels)
    assert {box.tobytes(): target for box, target in zip(pixels, targets[:, 0, 0])} == expected


def test_every_target_of_a_crop_is_the_label_of_the_box_the_network_sees_there():
    item = labelled()
    scanned = item.mirror_padded(14)
    labels = label_map(scanned, 28, DIAMETER, 0)
    places = {scanned.pixels[r:r + 28, c:c + 28].tobytes(): labels[r, c]
              for r in range(labels.shape[0]) for c in range(labels.shape[1])}
    compared = set()
    for pixels, targets in crops(item).batches(np.random.default_rng(0)):
        for crop, known in zip(pixels, targets):
            for i in range(3):
                for j in range(3):
                    box = crop[8 * i:8 * i + 28, 8 * j:8 * j + 28]
                    seen = [places.get(np.rot90(view, turn).tobytes()) for turn in range(4)
                            for view in (box, box[::-1])]
                    label = next((found for found in seen if found is not None), None)
                    if label is None:  # beyond the mirror padding of the scan
                        continue
                    assert known[i, j] == label
                    compared.add(int(label))
    assert compared == {-1, 0, 1}


def test_augmented_crops_are_labelled_by_the_centre_of_each_box(monkeypatch):
    monkeypatch.setattr("deepem_scipion.deepem.training.batches.AUGMENTED_CONTRAST", 0)
    particle = np.array([[52.0, 61.0]])
    distance = np.hypot(*(np.indices((110, 130)) - particle[0][:, np.newaxis, np.newaxis]))
    noise = 9 * np.random.default_rng(1).normal(size=distance.shape)  # a smooth image would be taken for padding
    shown = []
    for image in (noise + distance, noise):
        micrograph = Micrograph(Path("m.mrc"), "m", image.astype(np.float32), 4.0, 1.0, image.shape)
        examples = CropBatches([LabelledMicrograph(micrograph, particle)], GEOMETRY, DIAMETER, 0.0, 4, 3, 60, True)
        shown.append([np.concatenate(part) for part in zip(*examples.batches(np.random.default_rng(0)))])
    (with_distance, targets), (without, _) = shown
    pixels, middle = with_distance - without, 8 * np.arange(3) + 13
    from_particle = np.mean([pixels[:, middle + i][:, :, middle + j] for i in (0, 1) for j in (0, 1)], axis=0)
    near, far = POSITIVE_DISTANCE * DIAMETER, NEGATIVE_DISTANCE * DIAMETER
    assert (targets[from_particle < near - 1] == 1).all() and (from_particle[targets == 1] < near + 1).all()
    assert (targets[from_particle > far + 1] <= 0).all() and (from_particle[targets == 0] > far - 1).all()
    assert (targets[(from_particle > near + 1) & (from_particle < far - 1)] == -1).all()
    assert all((targets == kind).any() for kind in (-1, 0, 1))
    assert len(np.unique(np.rint(100 * np.ptp(pixels, axis=(1, 2))))) > 100  # no two from the same place at one angle


def test_augmented_crops_differ_in_contrast_and_brightness_but_those_of_the_sample_do_not():
    flat = np.full((110, 130), 2.0, np.float32)
    item = LabelledMicrograph(Micrograph(Path("m.mrc"), "m", flat, 4.0, 1.0, flat.shape), np.array([[52.0, 61.0]]))
    shown = CropBatches([item], GEOMETRY, DIAMETER, 0.0, 4, 3, 60, augmented=True)
    values = np.concatenate([pixels.mean(axis=(1, 2)) for pixels, _ in shown.batches(np.random.default_rng(0))])
    expected = np.hypot(2 * AUGMENTED_CONTRAST, AUGMENTED_CONTRAST)
    assert values.std() == pytest.approx(expected, rel=0.2) and values.mean() == pytest.approx(2, abs=expected)
    assert all((pixels == 2).all() for pixels, _ in shown.sample())


def test_the_more_particles_there_are_the_fewer_crops_are_augmented():
    few, many = ({0: 0, 1: 0} for _ in range(2))
    for counts, n in ((few, 2), (many, AUGMENTED_PARTICLES * 4)):
        item = labelled((260, 300), n)
        shown = CropBatches([item], GEOMETRY, DIAMETER, 0.0, 4, 3, 50, augmented=True)
        known = set(np.pad(item.pixels, 80, mode="symmetric").ravel().tolist())
        for pixels, _ in shown.batches(np.random.default_rng(0)):
            for crop in pixels:
                counts[int(set(crop.ravel().tolist()) <= known)] += 1
    assert few == {0: 200, 1: 0}
    assert many[0] / 200 == pytest.approx(0.25, abs=0.08)


def test_network_scores_the_boxes_of_a_crop_as_it_scores_them_alone():
    network = build_network(GEOMETRY, seed=1)
    whole = build_network(GEOMETRY, seed=2, fully_convolutional=True)
    set_weights(whole, get_weights(network, GEOMETRY))
    crop = np.random.default_rng(0).normal(size=(1, 44, 44, 1)).astype(np.float32)
    scores = np.asarray(whole(crop))[0, :, :, 0]
    alone = [[np.asarray(network(crop[:, 8 * i:8 * i + 28, 8 * j:8 * j + 28]))[0, 0] for j in range(3)]
             for i in range(3)]
    np.testing.assert_allclose(scores, alone, atol=1e-6)


def test_half_of_the_crops_contain_a_particle():
    found = [(targets == 1).any(axis=(1, 2)) for _, targets in crops(labelled(n=1)).batches(np.random.default_rng(0))]
    assert all(batch[::2].all() for batch in found)


def test_given_negatives_are_shown_as_often_as_particles():
    item = labelled(n=1, negatives_rc=np.array([[40.0, 60.0]]), complete=False)
    shown = [targets for _, targets in crops(item).batches(np.random.default_rng(0))]
    places = np.concatenate([targets[::2] for targets in shown])
    share = (places == 0).any(axis=(1, 2)).mean()
    assert 0.3 < share < 0.8


def test_missed_particles_are_shown_more_often_than_others():
    def shares(item):
        """How often each particle is the closest one to the centre of a crop that contains a particle."""
        values = item.pixels[tuple(np.rint(item.particles_rc).astype(int).T)]
        shown = crops(item, side=1, updates=100).batches(np.random.default_rng(0))
        middles = np.concatenate([pixels[::2, 14, 14] for pixels, _ in shown])
        return np.bincount(np.abs(middles[:, None] - values).argmin(axis=1), minlength=len(values)) / len(middles)

    item = labelled(n=4)
    assert shares(replace(item, missed_rc=item.particles_rc[2:3]))[2] > shares(item)[2] + 0.2


def test_particles_near_the_border_are_shown_as_the_scan_shows_them():
    item = labelled(shape=(60, 60), n=1)
    item = replace(item, particles_rc=np.array([[5.0, 30.0]]))  # half of its box lies outside
    pixels, targets = next(crops(item, side=1).batches(np.random.default_rng(0)))
    assert (targets[::2] == 1).all()
    padded = np.pad(item.pixels, 28, mode="symmetric")
    boxes = np.lib.stride_tricks.sliding_window_view(padded, (28, 28))[:30, 25:65].reshape(-1, 28, 28)
    known = {np.rot90(view, turn).tobytes() for box in boxes for turn in range(4)
             for view in (box, box[::-1])}
    assert pixels[0].tobytes() in known


def test_micrograph_just_larger_than_the_box_gives_crops():
    item = labelled(shape=(30, 29), n=1)
    item = LabelledMicrograph(item.micrograph, np.array([[14.0, 14.0]]))
    pixels, targets = next(crops(item, side=8).batches(np.random.default_rng(0)))
    assert pixels.shape == (4, 84, 84) and targets.shape == (4, 8, 8)
    assert (targets == 1).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_same_seed_shows_the_same_crops(seed):
    first, again = (next(crops(labelled()).batches(np.random.default_rng(seed))) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_large_boxes_come_in_smaller_batches():
    item = labelled(shape=(300, 310), n=1)
    item = LabelledMicrograph(item.micrograph, np.array([[150.0, 150.0]]))
    batches = {name: CropBatches([item], geometry, 180.0, 0.0, 16, 8, 1).batch
               for name, geometry in {**PRESETS, "auto": Geometry(40, (9, 5, 3), (2, 2, 2))}.items()}
    assert batches["auto"] == 16
    assert 4 == batches["klh"] < batches["19s"] < batches["26s"] < 16
