# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a model, and the training examples that are kept for them."""

import dataclasses
import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.evaluation.metrics import curve_from_points
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.model.paths import ModelFiles
from deepem_scipion.deepem.network.architecture import build_network, set_weights
from deepem_scipion.deepem.network.layer_maps import feature_maps
from deepem_scipion.deepem.network.scan import score_map_box_by_box
from deepem_scipion.deepem.report.model_plots import GROUPS, draw_examples, draw_kernels, draw_layers
from deepem_scipion.deepem.report.plots import draw_curve, draw_picks, draw_training
from deepem_scipion.deepem.training.examples import (
    KEPT,
    TrainingExamples,
    keep_examples,
    load_examples,
    save_examples,
)

# The matplotlib that Scipion pins uses functions that its own dependencies have renamed since.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.fixture
def examples(blob_model):
    return load_examples(ModelFiles(blob_model).examples)


def group(examples, target, hardest):
    return np.flatnonzero((examples.targets == target) & (examples.hardest == hardest))


def test_training_keeps_boxes_as_the_network_sees_them_with_their_scores(blobs, blob_model, examples):
    model = load_model(blob_model)
    folder, centres = blobs
    for target, hardest in GROUPS:
        assert len(group(examples, target, hardest)) == KEPT
    for number in range(0, len(examples.pixels), 9):
        name = examples.names[number]
        micrograph = model.read_micrograph(folder / "micrographs" / f"{name}.mrc")
        box = model.geometry.box
        row, col = np.rint(micrograph.to_binned_rc(examples.centres_xy[number]) - (box - 1) / 2)[0].astype(int)
        pixels = micrograph.pixels[row:row + box, col:col + box]
        np.testing.assert_allclose(examples.pixels[number], pixels, atol=5e-3)
        plain = score_map_box_by_box(pixels, model.geometry, model.networks, 1)
        assert examples.scores[number] == pytest.approx(plain[0, 0], abs=1e-4)
        distance = np.hypot(*(centres[name] - examples.centres_xy[number]).T).min()
        assert distance < 1.5 if examples.targets[number] else distance > 7.5


def test_the_hardest_examples_come_worst_first_and_are_no_easier_than_the_others(examples):
    for target in (1, 0):
        hard, some = (np.abs(examples.scores[group(examples, target, hardest)] - target) for hardest in (True, False))
        assert (np.diff(hard) <= 0).all()
        assert hard[0] >= some.max() and hard.mean() > some.mean()


def test_examples_that_cannot_be_written_cost_a_warning_only(tmp_path, blob_model, caplog):
    nowhere = tmp_path / "nowhere" / "examples.npz"
    keep_examples(nowhere, load_model(blob_model), [], 0.0, 0)
    assert "cannot be written" in caplog.text and not nowhere.exists()


def test_damaged_examples_are_refused_with_the_name_of_the_file(tmp_path, examples):
    path = tmp_path / "examples.npz"
    with pytest.raises(DeepEMError, match="examples.npz"):
        load_examples(path)
    save_examples(path, examples)
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    with pytest.raises(DeepEMError, match="examples.npz"):
        load_examples(path)
    path.write_bytes(b"no archive")
    with pytest.raises(DeepEMError, match="examples.npz"):
        load_examples(path)
    save_examples(path, dataclasses.replace(examples, scores=examples.scores[:5]))
    with pytest.raises(DeepEMError, match="do not match"):
        load_examples(path)


def test_examples_that_inflate_to_gigabytes_are_refused_without_memory(tmp_path):
    path = tmp_path / "examples.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**15, 2**14)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, \
            archive.open("pixels.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(2**9):
            member.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(DeepEMError, match="examples.npz cannot be read"):
            load_examples(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_examples_are_drawn_in_four_groups_and_show_where_they_are(examples):
    figure = draw_examples(examples, 0.5)
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == list(GROUPS.values())
    axes, box = figure.axes[1], examples.pixels.shape[1]
    worst = group(examples, 1, True)
    assert axes.texts[0].get_text() == f"{examples.scores[worst[0]]:.2f}"
    assert axes.format_coord(box / 2, box / 2).startswith(f"{examples.names[worst[0]]}: x ")
    assert f"{examples.centres_xy[worst[7], 0]:.0f}" in axes.format_coord(1.6 * box, 1.6 * box)
    assert axes.format_coord(-5, 3) == "" == axes.format_coord(3, 100 * box)


def test_groups_without_examples_are_named(examples):
    particles = examples.targets == 1
    few = TrainingExamples(*(values[particles] for values in vars(examples).values()))
    titles = [axes.get_title() for axes in draw_examples(few, 0.5).axes]
    assert titles[:2] == list(GROUPS.values())[:2] and all(title.endswith(": none") for title in titles[2:])
    none = TrainingExamples(*(values[:0] for values in vars(examples).values()))
    assert all(axes.get_title().endswith(": none") for axes in draw_examples(none, 0.5).axes)


def test_the_kernels_of_each_network_are_drawn_in_a_row(blob_model):
    model = load_model(blob_model)
    for networks in (model.networks, 3 * model.networks):
        figure = draw_kernels(dataclasses.replace(model, networks=networks))
        figure.draw_without_rendering()
        images = [axes for axes in figure.axes if axes.images]
        assert len(images) == len(networks) * model.geometry.maps[0]
        np.testing.assert_array_equal(images[1].images[0].get_array(), networks[0]["conv1.kernel"][:, :, 0, 1])


def test_the_curve_of_the_card_is_drawn_and_none_is_an_empty_one(blob_model):
    model = load_model(blob_model)
    curve = curve_from_points(model.record.validation.curve)
    assert (np.diff(curve.thresholds) < 0).all() and curve.recall.max() > 0.5
    line = draw_curve(curve, threshold=model.threshold).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), curve.recall)
    assert len(curve_from_points(None).thresholds) == 0


def test_rounds_of_training_are_parted_by_a_line():
    history = [{"loss": 1.0, "accuracy": 0.5, "round": number, "network": network}
               for number in (1, 2, 3) for network in (1, 2) for _ in range(4)]
    for axes in draw_training(history).axes:
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [4.5, 8.5]
    assert not [line for line in draw_training(history[:8]).axes[0].lines if line.get_linestyle() == ":"]


def test_picks_outside_of_the_region_do_not_count():
    truth = np.array([[30.0, 40.0], [80.0, 40.0], [120.0, 90.0]])
    picks = np.array([[31.0, 41.0], [121.0, 91.0], [60.0, 80.0], [140.0, 20.0]])
    figure = draw_picks(np.random.default_rng(0).normal(size=(120, 160)), picks, np.full(4, 0.5), 20.0, truth_xy=truth,
                        region=(0, 0, 100, 120))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "true positives (1)", "false positives (1)", "missed (1)"]


def test_feature_maps_are_the_outputs_of_the_layers_of_the_network(blob_model, examples):
    model, pixels = load_model(blob_model), examples.pixels[0]
    maps, score = feature_maps(model.geometry, model.networks[0], pixels)
    network = build_network(model.geometry)
    set_weights(network, model.networks[0])
    outputs = pixels[np.newaxis, ..., np.newaxis]
    for name, layer in (("C1", "conv1"), ("S2", "pool1"), ("C3", "conv2"), ("S4", "pool2"), ("C5", "conv3"),
                        ("S6", "pool3")):
        outputs = network.get_layer(layer)(outputs)
        np.testing.assert_allclose(maps.pop(name), np.asarray(outputs)[0], atol=1e-5)
    assert list(maps) == ["input"]
    unrotated = score_map_box_by_box(pixels, model.geometry, model.networks[:1], 1, rotations=1)
    assert score == pytest.approx(unrotated[0, 0], abs=1e-5)


def test_layers_are_drawn_for_a_particle_and_a_negative(blob_model, examples):
    model = load_model(blob_model)
    figure = draw_layers(model, examples)
    figure.draw_without_rendering()
    assert len(figure.axes) == 14
    box = examples.pixels[group(examples, 1, False)[0]]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array()[:len(box), :len(box)], box)
    particles = examples.targets == 1
    few = TrainingExamples(*(values[particles] for values in vars(examples).values()))
    titles = [row.get_suptitle() for row in draw_layers(model, few).subfigs]
    assert titles[0].startswith("Particle, output ") and titles[1] == "Negative: none"
