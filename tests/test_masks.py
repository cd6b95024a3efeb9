# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Masks of contamination: files of any kind and size, in picking and in training."""

import io
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_fuzz import NUMBERS, damaged, read, tried

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.masks import Mask, find_masks, read_mask
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.images import read_pixels
from deepem_scipion.deepem.micrographs.preprocessing import Preprocessing
from deepem_scipion.deepem.picking.candidates import Candidates, read_candidates, write_candidates
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import Limits, select
from deepem_scipion.deepem.training.labels import label_map
from deepem_scipion.deepem.training.training_set import TrainingSet

SHAPE = (60, 90)  # of micrographs of which the right third is masked
AREA = np.zeros((20, 30), np.float32)
AREA[:, 20:] = 1
MICROGRAPH = Path(__file__)  # no TIFF file


def write(path, values):
    if path.suffix == ".mrc":
        with mrcfile.new(path, values) as file:
            file.voxel_size = 1.0
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values)
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("name, values", [
    ("a.mrc", AREA), ("a.mrc", AREA.astype("i1")), ("a.tif", AREA), ("a.tif", (255 * AREA).astype("u1")),
    ("a.png", (255 * AREA).astype("u1")), ("a.png", AREA > 0), ("a.png", (65535 * AREA).astype("u2")),
    ("a.png", np.repeat((255 * AREA).astype("u1")[..., None], 3, 2)), ("a.mrc", np.kron(AREA, np.ones((3, 3), "f4"))),
    ("a.mrc", np.kron(AREA, np.ones((3, 3), "f4"))[:59, :89]), ("a.png", AREA.astype("u1")),
    ("a.png", (100 * AREA).astype("u1")), ("a.tif", (2 * AREA).astype("u2")), ("a.mrc", 300 * AREA)])
def test_masks_of_every_kind_and_size_are_read(tmp_path, name, values):
    found = read_mask(write(tmp_path / name, values), MICROGRAPH, SHAPE)
    assert found.at(np.array([[0, 0], [58.4, 30], [61, 0], [89, 59]]), SHAPE).tolist() == [0, 0, 1, 1]
    assert (found.resized(SHAPE)[:, :59] == 0).all() and (found.resized(SHAPE)[:, 61:] == 1).all()


def test_rows_and_columns_of_a_mask_are_in_place():
    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 10
    points = np.array([[0, 0], [44.4, 0], [89, 29.4], [89, 29.6], [0, 59]])
    np.testing.assert_allclose(Mask(values).at(points, SHAPE), [0, 0.1, 0.2, 0.5, 0.3], atol=1e-6)
    outside = np.array([[-9, -9], [99, -9], [99, 99]])
    np.testing.assert_allclose(Mask(values).at(outside, SHAPE), [0, 0.2, 0.5], atol=1e-6)
    np.testing.assert_array_equal(Mask(values).resized((2, 6)), np.repeat(values, 2, axis=1))
    np.testing.assert_array_equal(Mask(values).resized((1, 1)), [[values[1, 1]]])


@pytest.mark.parametrize("micrograph", ["m.mrc", "m.tif"])
@pytest.mark.parametrize("rows", ["bottom", "top"])
def test_the_rows_of_a_png_file_are_in_the_order_of_the_rows_of_the_micrographs_file(tmp_path, micrograph, rows):
    pixels = np.random.default_rng(0).normal(size=SHAPE).astype("f4")
    pixels[40:] = 9  # ice
    file = write(tmp_path / micrograph, pixels)
    found = read_mask(write(tmp_path / "m_mask.png", (pixels == 9).astype("u1")), file, SHAPE, rows)
    np.testing.assert_array_equal(found.values, read_pixels(file, rows) == 9)


def test_probabilities_stay_what_they_are(tmp_path):
    steep = np.linspace(0, 65535, SHAPE[0] * SHAPE[1]).reshape(SHAPE).round().astype("u2")
    np.testing.assert_array_equal(read_mask(write(tmp_path / "a.png", steep), MICROGRAPH, SHAPE).values,
                                  steep.astype("f4") / np.float32(65535))
    # A faint one is not stretched to 1, whatever its highest value.
    faint = np.linspace(0, 100, SHAPE[0] * SHAPE[1]).round().reshape(SHAPE)
    for name, kind, full in (("b.png", "u1", 255), ("b.tif", "u1", 255), ("b.mrc", "u2", 255), ("c.mrc", "f4", 255),
                             ("c.png", "u2", 65535)):
        found = read_mask(write(tmp_path / name, faint.astype(kind)), MICROGRAPH, SHAPE, "top")
        np.testing.assert_allclose(found.values, faint / full, rtol=1e-6)
    assert read_mask(write(tmp_path / "a.mrc", 0.3 * AREA), MICROGRAPH, SHAPE).values.max() == np.float32(0.3)
    interpolated = 1.1 * AREA - np.float32(0.04)
    assert read_mask(write(tmp_path / "e.mrc", interpolated), MICROGRAPH, SHAPE).values.max() == 1
    assert read_mask(write(tmp_path / "f.mrc", 0 * AREA), MICROGRAPH, SHAPE).values.max() == 0


@pytest.mark.parametrize("name, values, words", [
    ("a.mrc", -AREA, "values down to -1. Expected 0 and another value, or a probability: 0 to 1"),
    ("a.mrc", np.float32(70000) * AREA + 1, "values up to 70001. Expected 0 and another value"),
    ("a.mrc", AREA.T.copy(), "does not fit a micrograph of 60 x 90")])
def test_a_faulty_mask_is_an_error_that_names_it(tmp_path, name, values, words):
    with pytest.raises(DeepEMError) as caught:
        read_mask(write(tmp_path / name, values), MICROGRAPH, SHAPE)
    assert name in str(caught.value) and words in str(caught.value)


def test_a_mask_that_may_number_kinds_of_contamination_is_warned_of(tmp_path, caplog):
    kinds = np.arange(3, dtype="u1").repeat(1800).reshape(SHAPE)
    assert read_mask(write(tmp_path / "a.png", kinds), MICROGRAPH, SHAPE).values.max() == np.float32(2 / 255)
    assert "a.png: the values of the mask from 0 to 2 are read as probabilities of up to 0.0078" in caplog.text


def png():
    stream = io.BytesIO()
    Image.fromarray((255 * AREA).astype("u1")).save(stream, "png")
    return stream.getvalue()


@tried(100)
@given(damaged([png()], [*NUMBERS, b"IDAT", b"IHDR", b"PLTE", b"tEXt"]))
def test_damaged_png_masks_are_read_or_refused(tmp_path_factory, content):
    read(lambda path: read_mask(path, MICROGRAPH, SHAPE), tmp_path_factory.getbasetemp() / "a.png", content)


@tried(20)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_as_a_mask_or_refused(tmp_path_factory, content):
    read(lambda path: read_mask(path, MICROGRAPH, SHAPE), tmp_path_factory.getbasetemp() / "a.png", content)


def test_masks_are_found_by_name(tmp_path):
    for name in ("a.mrc", "b_mask.png", "sub/c_predMask.mrc", "other.mrc"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "masks" / name).touch()
    micrographs = {name: Path(f"/data/{name}.mrc") for name in "abcd"}
    found = find_masks(tmp_path / "masks", micrographs)
    assert {name: path.name for name, path in found.items()} == {"a": "a.mrc", "b": "b_mask.png", "c": "c_predMask.mrc"}
    (tmp_path / "masks" / "b.tif").touch()
    with pytest.raises(DeepEMError, match="both masks of 'b'"):
        find_masks(tmp_path / "masks", micrographs)
    (tmp_path / "none").mkdir()
    with pytest.raises(DeepEMError, match="none of the 0 images is a mask"):
        find_masks(tmp_path / "none", micrographs)
    (tmp_path / "masks" / "b.tif").unlink()
    with pytest.raises(DeepEMError, match=r"a\.mrc is the micrograph itself, which cannot be its mask"):
        find_masks(tmp_path / "masks" / "sub" / "..", {"a": tmp_path / "masks" / "a.mrc"})


def test_a_candidate_in_the_mask_is_rejected_and_suppresses_no_other(tmp_path):
    candidates = Candidates(np.array([[10.0, 10], [12, 10], [50, 10]]), np.array([0.9, 0.8, 0.7]), np.ones(3),
                            np.full(3, 50.0), np.array([0.8, 0.4, 0.0]))
    assert select(candidates, Limits(0.5, 10.0), 1.0).tolist() == ["mask", "picked", "picked"]
    reasons = select(candidates, Limits(0.5, 10.0, max_mask=0.9), 1.0)
    assert reasons.tolist() == ["picked", "distance", "picked"]
    write_candidates(tmp_path / "c.tsv", candidates, reasons)
    again, _ = read_candidates(tmp_path / "c.tsv")
    np.testing.assert_array_equal(again.masked, candidates.masked)
    with pytest.raises(DeepEMError, match="maximum value of the mask 2"):
        Limits(0.5, 10.0, max_mask=2)


def test_nothing_is_picked_in_the_mask(blobs, blob_model, tmp_path, capsys):
    micrographs = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in "de"]
    (tmp_path / "masks").mkdir()
    area = np.zeros((15, 21), np.uint8)  # a tenth of the pixels
    area[:, 10:] = 255
    Image.fromarray(area).save(tmp_path / "masks" / "d_mask.png")
    arguments = ["pick", "--model", str(blob_model), "--micrographs", *micrographs, "--output"]
    assert main([*arguments, str(tmp_path / "all")]) == 0
    assert main([*arguments, str(tmp_path / "masked"), "--masks", str(tmp_path / "masks")]) == 0
    assert "no mask for 1 of 2 micrographs" in capsys.readouterr().err
    (before, old), (_, new) = (read_candidates(tmp_path / run / "candidates" / "d.tsv") for run in ("all", "masked"))
    right = before.centres_xy[:, 0] > 99.6
    assert (new[right & (old == "picked")] == "mask").any() and not (new[right] == "picked").any()
    np.testing.assert_array_equal(new[~right] == "picked", old[~right] == "picked")
    assert (tmp_path / "all/e.box").read_bytes() == (tmp_path / "masked/e.box").read_bytes()


def test_resuming_picks_again_what_has_a_new_mask_and_keeps_the_rest(blobs, blob_model, tmp_path, monkeypatch):
    """A mask that was replaced, one of a micrograph that had none, and one of a micrograph that is new."""
    def pick(names, *option):
        micrographs = [str(blobs[0] / "micrographs" / f"{name}.mrc") for name in names]
        assert main(["pick", "--model", str(blob_model), "--micrographs", *micrographs, "--contrast-checks", "0",
                     "--masks", "masks", "--output", str(tmp_path / "out"), *option]) == 0
        return {name: (tmp_path / "out" / "candidates" / f"{name}.tsv").stat().st_mtime_ns for name in names}

    nothing, everything = (np.full((15, 21), value, np.uint8) for value in (0, 255))
    (tmp_path / "masks").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Image.fromarray(nothing).save(tmp_path / "masks" / f"{name}.png")
    first = pick("abc")
    assert pick("abc", "--resume") == first
    for name in "bcd":
        Image.fromarray(everything).save(tmp_path / "masks" / f"{name}.png")
    second = pick("abcd", "--resume")
    assert [second[name] == first[name] for name in "abc"] == [True, False, False]
    assert [bool((tmp_path / "out" / f"{name}.box").stat().st_size) for name in "abcd"] == [True, False, False, False]
    monkeypatch.chdir("/")  # masks are found from any folder
    masks = PickingResults(tmp_path / "out").read_settings().masks
    assert masks == {name: str(tmp_path / "masks" / f"{name}.png") for name in "abcd"}


def test_in_training_there_are_no_particles_and_no_negatives_in_the_mask(blobs, tmp_path, caplog):
    folder, centres = blobs
    values = np.zeros((150, 210), np.float32)
    values[:, 105:] = 0.8
    micrographs = {"a": folder / "micrographs" / "a.mrc"}
    particles = {"a": Coordinates(centres["a"], np.full(len(centres["a"]), np.nan), None)}
    masks = {"a": write(tmp_path / "a.mrc", values)}
    (item,) = TrainingSet(micrographs, particles, masks=masks).read(Preprocessing(4.0, 24), 16.0)
    left = centres["a"][:, 0] < 104.5
    assert 0 < left.sum() == len(item.particles_rc) < len(left)
    assert f"{(~left).sum()} of {len(left)} particles lie in the mask" in caplog.text
    labels = label_map(item, 24, 16.0, 0.0)
    assert (labels[:, :90] == 0).any() and not (labels[:, 105 - 11:] == 0).any()
    padded = label_map(item.mirror_padded(12), 24, 16.0, 0.0)
    assert not (padded[:, 12 + 105 - 11:12 + 210 - 11] == 0).any()
    (whole,) = TrainingSet(micrographs, particles, masks=masks, max_mask=0.9).read(Preprocessing(4.0, 24), 16.0)
    assert len(whole.particles_rc) == len(left)
