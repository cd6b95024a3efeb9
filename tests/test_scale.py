# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pixel sizes, diameters, boxes, coordinates and contrast that do not fit together are said, and nothing else is."""

import json
import logging
import re
import shutil
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import tifffile

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.picked import PickProgress, say_what_is_cut
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.coordinates import Coordinates, scaled
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.find import find_micrographs
from deepem_scipion.deepem.micrographs.listed import compare_with_lists
from deepem_scipion.deepem.micrographs.micrograph import Micrograph, read_micrograph
from deepem_scipion.deepem.model import load_model, read_card
from deepem_scipion.deepem.picking import PickingResults
from deepem_scipion.deepem.picking.scale import check_scale, scale_warnings
from deepem_scipion.deepem.picking.selection import Limits
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.training import Plan, TrainingSet
from deepem_scipion.deepem.training.labels import LabelledMicrograph
from deepem_scipion.deepem.training.plausibility import find_bright, find_invisible, find_problems


def resized(blobs, folder, sizes):
    """Micrographs of the blobs by name, with other pixel sizes in their headers."""
    folder.mkdir(exist_ok=True)
    for name, size in sizes.items():
        shutil.copy(blobs[0] / "micrographs" / f"{name}.mrc", folder)
        with mrcfile.open(folder / f"{name}.mrc", "r+") as file:
            file.voxel_size = size
    return folder


# ------------------------------------------------------------------ picking
@pytest.mark.parametrize("sizes, options, said, unsaid", [
    ({"d": 4.0, "e": 4.05}, (), [], ["had 4 A"]),
    ({"d": 4.0, "e": 2.5}, (), ["e has 2.5 A per pixel in the header", "training had 4 A"], ["d has"]),
    ({"d": 1.0, "e": 1.0}, ("--pixel-size", "4"), [], ["A per pixel", "in the header"]),
    ({"d": 4.0, "e": 3.0}, ("--pixel-size", "4"), ["given as 4 A, and e has 3 A in the header"], ["training had"]),
    ({"d": 4.0, "e": 4.0}, ("--pixel-size", "3"), ["given as 3 A, and 2 micrographs (d, e) have 4 A in the header",
                                                   "(d, e) have 3 A per pixel as given", "training had 4 A"], [])])
def test_a_pixel_size_that_disagrees_is_a_warning_in_log_summary_and_report(
        blobs, blob_model, tmp_path, capsys, sizes, options, said, unsaid):
    mics = resized(blobs, tmp_path / "mics", sizes)
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(mics), "--output", str(tmp_path / "out"),
                 "--contrast-checks", "0", "--report", *options]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"]
    page = (tmp_path / "out" / "report.html").read_text()
    logged = " ".join(line for line in capsys.readouterr().err.splitlines() if " warning: " in line)
    for words in said:
        assert words in logged and words in " ".join(summary) and words in page
    assert bool(summary) == bool(said) == bool(logged)
    for words in unsaid:
        assert f"{words} " not in " ".join(summary)


def test_a_pixel_size_of_1_is_doubted_where_the_model_has_no_training_pixel_size():
    settings = RunSettings(Limits(0.3, 32.0), 2, 4, 24, 4.0, 64.0)
    results = {name: MicrographResult(name, pixel_size_angst=size, header_pixel_size_angst=size)
               for name, size in (("a", 1.0), ("b", 1.5))}
    (warning,) = scale_warnings(results, settings)
    assert warning.startswith("a has 1 A per pixel in the header, which is also written where the pixel size is")
    given = {name: replace(found, pixel_size_angst=1.5) for name, found in results.items()}
    assert scale_warnings(given, replace(settings, pixel_size_angst=1.5)) == []
    assert "from 1.5 A (b) to 3 A (c)" in scale_warnings(
        {"b": results["b"], "c": MicrographResult("c", pixel_size_angst=3.0, header_pixel_size_angst=3.0)}, settings)[0]


OPTICS = ("data_optics\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnMicrographPixelSize\none 1 4.01\n"
          "two 2 5.0\n\ndata_micrographs\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n")
OLD = "data_\nloop_\n_rlnMicrographName\n_rlnMagnification\n_rlnDetectorPixelSize\nmics/d.mrc 10000.0 5.0\n"


@pytest.mark.parametrize("content, given, said", [
    (OPTICS + "mics/d.mrc 1\nmics/none.mrc 1\n", None, []),
    (OPTICS + "mics/d.mrc 1\nmics/e.mrc 2\n", None, ["e has 4 A per pixel in the header, and 5 A in "]),
    (OPTICS + "mics/d.mrc 1\nmics/e.mrc 2\n", 5.0, ["given as 5 A, and is 4.01 A in "]),
    (OPTICS + "mics/t.tif 1\n", None, ["header of t gives no pixel size; "]),
    (OPTICS.replace("4.01", "many") + "mics/d.mrc 1\n", None, []),
    (OLD, None, ["d has 4 A per pixel in the header, and 5 A in "]),
    (OLD.replace("10000.0", "0"), None, []),
    (OLD.replace("10000.0", "12500.0"), None, [])])
def test_pixel_sizes_in_lists_of_relion_are_compared_with_the_headers(blobs, tmp_path, content, given, said):
    mics = resized(blobs, tmp_path / "mics", {"d": 4.0, "e": 4.0})
    tifffile.imwrite(mics / "t.tif", np.arange(100, dtype="u1").reshape(10, 10))
    (tmp_path / "mics.star").write_text(content)
    found = compare_with_lists([tmp_path / "mics.star", mics], given)
    assert len(found) == len(said) and all(words in one and "mics.star" in one for words, one in zip(said, found))


def test_picking_says_that_a_list_of_relion_has_other_pixel_sizes(blobs, blob_model, tmp_path, capsys):
    resized(blobs, tmp_path / "mics", {"e": 4.0})
    (tmp_path / "mics.star").write_text(OPTICS + "mics/e.mrc 2\n")
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(tmp_path / "mics.star"), "--output",
                 str(tmp_path / "out"), "--contrast-checks", "0"]) == 0
    assert "e has 4 A per pixel in the header, and 5 A in " in capsys.readouterr().err


@pytest.mark.parametrize("size, message", [
    (0.9, r"0\.9 A it is 4\.44 times finer than the micrographs of the training, 4 A.*--pixel-size.*--force"),
    (40.0, r"40 A it is 10 times coarser")])
def test_a_pixel_size_that_makes_the_particle_improbable_is_refused_unless_forced(
        blobs, blob_model, tmp_path, size, message):
    mics = resized(blobs, tmp_path / "mics", {"d": 4.0, "e": size})
    command = ["pick", "--model", str(blob_model), "--micrographs", str(mics), "--contrast-checks", "0", "--output"]
    assert main([*command, str(tmp_path / "out")]) == 1
    failed = PickingResults(tmp_path / "out").read_failed()
    assert list(failed) == ["e"] and re.search(message, failed["e"])
    assert main([*command, str(tmp_path / "forced"), "--force"]) == 0
    assert PickingResults(tmp_path / "forced").read_micrographs()["e"].pixel_size_angst == pytest.approx(size)


def test_a_particle_that_a_micrograph_cannot_hold_is_said(blob_model):
    model = load_model(blob_model)
    micrograph = Micrograph("m.mrc", "m", np.zeros((40, 60)), 4.0, 1.0, (40, 60))
    check_scale(micrograph, replace(model, diameter_angst=80.0))
    with pytest.raises(DeepEMError, match=r"particle of the model, 480 A, is 120 px wide, and the micrograph 40"):
        check_scale(micrograph, replace(model, diameter_angst=480.0))


def test_a_particle_of_too_few_pixels_is_refused(blob_model):
    model = load_model(blob_model)
    micrograph = Micrograph("m.mrc", "m", np.zeros((40, 60)), 4.0, 1.0, (40, 60))
    check_scale(micrograph, replace(model, diameter_angst=40.0))
    with pytest.raises(DeepEMError, match=r"pixels of 4 A the particle of the model, 28 A, is only 7.0 px wide"):
        check_scale(micrograph, replace(model, diameter_angst=28.0))


@pytest.mark.parametrize("diameter, pixel_size, said", [(56, 5.36, 1), (300, 5.36, 0), (56, 1.05, 0)])
def test_a_diameter_that_is_perhaps_in_pixels_is_said(caplog, diameter, pixel_size, said):
    progress = PickProgress(2, lambda *shown: None, diameter, None)
    for name in "ab":  # once
        progress(name, MicrographResult(name, picks=1, seconds=0.1, pixel_size_angst=pixel_size))
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == said * [
        "warning: a particle of 56 A is only 10 px wide in micrographs with pixels of 5.36 A. Expected 27 px or more: "
        "is the diameter in angstrom, and not in pixels?"]


@pytest.mark.parametrize("box_px, cut, said", [
    (60, 2, "2 of the picks are so close to the border that their boxes leave .* --border 204 "),
    (None, 1, "1 of the picks is so close to the border that its box leaves .* --border 50 ")])
def test_the_border_that_is_recommended_suits_all_pixel_sizes(caplog, blob_model, box_px, cut, said):
    results = {"a": MicrographResult("a", cut=cut, pixel_size_angst=5.0),  # a box of 20 px, 100 A
               "b": MicrographResult("b", cut=0, pixel_size_angst=6.8)}  # 14 px, 95 A
    with caplog.at_level(logging.INFO):
        say_what_is_cut({**results, "c": MicrographResult("c", "damaged")}, box_px, load_model(blob_model))
    assert re.search(said, caplog.text)


def test_warnings_are_those_of_all_micrographs_after_batches(blobs, blob_model, tmp_path):
    mics = resized(blobs, tmp_path / "mics", {"d": 4.0, "e": 2.5})
    together = PickingResults(tmp_path / "all")
    for name in "de":
        main(["pick", "--model", str(blob_model), "--micrographs", str(mics / f"{name}.mrc"), "--contrast-checks", "0",
              "--output", str(tmp_path / name)])
        together.absorb(PickingResults(tmp_path / name))
    (warning,) = scale_warnings(together.read_micrographs(), together.read_settings())
    assert warning.startswith("e has 2.5 A per pixel in the header, and the micrographs of the training had 4 A")


# ------------------------------------------------------------------ training
@pytest.fixture
def data(blobs):
    folder, _ = blobs
    return TrainingSet(find_micrographs([folder / "micrographs"]), read_coordinates(folder / "boxes"))


PLAN = Plan(64.0)


def changed(data, change):
    return replace(data, particles={name: change(found) for name, found in data.particles.items()})


def test_of_what_fits_together_nothing_is_said(data):
    assert find_problems(data, PLAN) == []
    assert find_problems(data, replace(PLAN, pixel_size_angst=4.05)) == []


def test_pixel_sizes_in_training_are_compared_with_the_headers_and_with_the_model_to_start_from(
        data, blobs, blob_model, tmp_path):
    (given,) = find_problems(data, replace(PLAN, pixel_size_angst=5.0))
    assert "given as 5 A, and 5 micrographs (a, b, c, ...) have 4 A in the header" in given
    (started,) = find_problems(data, replace(PLAN, pixel_size_angst=4.0, start=replace(
        load_model(blob_model), record=replace(load_model(blob_model).record, training_pixel_size_angst=6.0))))
    assert "have pixels of 4 A" in started and "trained on 6 A" in started
    mics = resized(blobs, tmp_path / "mics", {"a": 4.0, "b": 8.0, "c": 4.0})
    (different,) = find_problems(replace(data, micrographs=find_micrographs([mics])), PLAN)
    assert "from 4 A (a) to 8 A (b)" in different
    mics = resized(blobs, tmp_path / "unknown", {"a": 1.0, "b": 1.0, "c": 1.0})
    (unknown, *_) = find_problems(replace(data, micrographs=find_micrographs([mics])), PLAN)
    assert unknown.startswith("3 micrographs (a, b, c) have 1 A per pixel in the header, which is also written where")


@pytest.mark.parametrize("diameter, hint", [(16.0, "a diameter in pixels would be 64 A"), (6.4, "in nm would be 64 A"),
                                            (640.0, "0.15 times the diameter of 640 A")])
def test_a_diameter_that_does_not_fit_the_boxes_is_said(data, diameter, hint):
    (warning,) = (text for text in find_problems(data, Plan(diameter)) if "unusual" not in text)
    assert "boxes of the coordinates are 24 px = 96 A wide" in warning and hint in warning


def test_points_of_programs_that_know_no_box_are_no_boxes(data):
    points = replace(data, particles={name: replace(found, box_px=2.0) for name, found in data.particles.items()})
    assert find_problems(points, PLAN) == find_problems(data, PLAN) == []


@pytest.mark.parametrize("binning", [2, 3])
def test_coordinates_of_binned_micrographs_are_said_and_can_be_scaled(data, binning):
    binned = changed(data, lambda found: scaled({"": found}, 1 / binning)[""])
    quarter, = (text for text in find_problems(binned, PLAN) if "quarter" in text)
    end = max((found.centres_xy / (210, 150)).max() for found in binned.particles.values())
    assert "lower left quarter" in quarter and f"--coordinate-scale {binning}" in quarter and f"{end:.2g}" in quarter
    again = changed(binned, lambda found: scaled({"": found}, binning)[""])
    for name, found in data.particles.items():
        np.testing.assert_allclose(again.particles[name].centres_xy, found.centres_xy)
        assert again.particles[name].box_px == found.box_px
    assert find_problems(again, PLAN) == []


def test_coordinates_of_micrographs_before_binning_are_said(data):
    (outside,) = (text for text in find_problems(changed(data, lambda found: scaled({"": found}, 2.0)[""]), PLAN)
                  if "outside" in text)
    assert "of 70 coordinates lie outside" in outside
    assert "--coordinate-scale 0.5" in outside


def test_coordinates_in_angstrom_or_as_fractions_are_said(data):
    (outside,) = (text for text in find_problems(changed(data, lambda found: replace(
        found, centres_xy=4.2 * found.centres_xy)), PLAN) if "outside" in text)
    assert "in angstrom" in outside and "--coordinate-scale 0.25" in outside  # pixels of 4 A
    (fractions,) = (text for text in find_problems(changed(data, lambda found: replace(
        found, centres_xy=found.centres_xy / (210, 150))), PLAN) if "fractions" in text)
    assert fractions.startswith("all coordinates are numbers up to 1. Expected pixels")


def test_one_micrograph_with_coordinates_of_a_binned_one_is_said(data):
    rng = np.random.default_rng(0)
    places = {name: Coordinates(rng.uniform(5, 145, (30, 2)) * (210 / 150, 1), np.zeros(30), None)
              for name in data.particles}
    assert find_problems(replace(data, particles=places), PLAN) == []
    (single,) = find_problems(replace(data, particles={**places, "b": scaled({"": places["b"]}, 0.5)[""]}), PLAN)
    assert single.startswith("all coordinates of 1 of 5 micrographs (b) lie in the lower left quarter")


def test_negatives_at_the_places_of_particles_are_said(data):
    (same,) = find_problems(replace(data, negatives=data.particles), PLAN)
    assert same.startswith("70 of 70 negatives lie on particles")
    beside = {name: replace(found, centres_xy=found.centres_xy + (2, 0)) for name, found in data.particles.items()}
    assert find_problems(replace(data, negatives=beside), PLAN) == []  # further than a tenth of 64 A = 16 px


def test_few_particles_are_said(data):
    few = replace(data, particles={"a": data.particles["a"]})
    (warning,) = find_problems(few, PLAN)
    assert warning.startswith("14 particles are very few") and warning.endswith("give --incomplete")


def labelled(folder, centres, names, sign=1.0):
    found = []
    for name in names:
        micrograph = read_micrograph(folder / "micrographs" / f"{name}.mrc", box_px=24)
        found.append(LabelledMicrograph(replace(micrograph, pixels=sign * micrograph.pixels),
                                        micrograph.to_binned_rc(centres[name])))
    return found


def test_contrast_opposite_to_the_usual_one_is_said(blobs):
    dark, bright = labelled(*blobs, "ab"), labelled(*blobs, "cd", -1.0)
    assert find_bright(dark, 16.0, None) == find_bright(bright, 16.0, "bright") == []
    (warning,) = find_bright([*dark, *bright], 16.0, None)
    assert "are bright on 2 of 4 micrographs (c, d)" in warning
    (warning,) = find_bright(dark, 16.0, "bright")
    assert "are dark on 2 of 2 micrographs (a, b)" in warning and "start from are bright" in warning
    rng = np.random.default_rng(0)
    anywhere = [replace(item, particles_rc=rng.uniform(20, 120, (14, 2))) for item in dark]
    assert find_bright(anywhere, 16.0, None) == []
    (warning,) = find_invisible(anywhere, 16.0)
    assert "the 28 places marked as particles are neither darker nor brighter" in warning
    assert find_invisible(dark, 16.0) == find_invisible([*bright, anywhere[0]], 16.0) == []
    assert find_invisible([replace(item, particles_rc=item.particles_rc[:3]) for item in anywhere], 16.0) == []


def test_training_says_what_does_not_fit_before_it_starts_and_in_the_card(blobs, tmp_path, capsys, few_updates):
    folder, centres = blobs
    boxes = tmp_path / "bin2"
    boxes.mkdir()
    for name in "abc":
        write_box(boxes / f"{name}.box", (centres[name] + 0.5) / 2 - 0.5, np.full(14, np.nan), 12)
    command = ["train", "--micrographs", str(folder / "micrographs" / "[abc].mrc"), "--coordinates", str(boxes),
               "--diameter", "64", "--epochs", "1", "--output", str(tmp_path / "m.deepem")]
    assert main(command) == 0
    printed, log = capsys.readouterr()
    assert "warning: all coordinates lie in the lower left quarter" in log
    assert log.index("lower left quarter") < log.index("epoch 1/1")
    assert "lower left quarter" in " ".join(read_card(tmp_path / "m.deepem")["warnings"])
    assert "lower left quarter" in printed
    assert main([*command, "--coordinate-scale", "2"]) == 0
    card = read_card(tmp_path / "m.deepem")
    assert card["warnings"] == [] and card["training"]["particles"] + card["validation"]["particles"] > 30
    assert main([*command, "--coordinate-scale", "0"]) == 2


def test_scaling_keeps_scores_and_the_edge_of_the_image():
    found = scaled({"a": Coordinates(np.array([[-0.5, 4.0]]), np.array([0.3]), 10.0)}, 3.0)["a"]
    assert found.centres_xy.tolist() == [[-0.5, 13.0]] and found.scores.tolist() == [0.3] and found.box_px == 30.0
