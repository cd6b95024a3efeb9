# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training from few labels or none: what the general model labels, and when its pupil is refused."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
import tifffile
from scipy.spatial import cKDTree

from deepem_scipion.deepem import DeepEMError, general_model, load_model, runtime
from deepem_scipion.deepem.commands import pick, train
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.micrographs import chosen_micrographs
from deepem_scipion.deepem.commands.parser import parse_arguments
from deepem_scipion.deepem.commands.planning import make_plan, read_training_set
from deepem_scipion.deepem.commands.unlabelled import keep_better
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.evaluation.metrics import evaluate
from deepem_scipion.deepem.micrographs.find import find_micrographs
from deepem_scipion.deepem.model.card import MODEL_LABELS_WARNING, card_rows
from deepem_scipion.deepem.model.paths import ModelFiles
from deepem_scipion.deepem.picking.picker import Picker
from deepem_scipion.deepem.simulation.dataset import write_dataset
from deepem_scipion.deepem.simulation.scene import Scene
from deepem_scipion.deepem.training import drift, self_training, teacher
from deepem_scipion.deepem.training.plan import Plan
from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
from deepem_scipion.deepem.training.teacher import TaughtSet
from deepem_scipion.deepem.training.training_set import TrainingSet

SCENE = Scene(shape=(400, 480), pixel_size_angst=10.0, n_particles=24, snr=0.3, defocus_angst=25000.0, spacing=1.1)
NO_MARKS = Coordinates(np.empty((0, 2)), np.empty(0), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    write_dataset(folder, SCENE, 2, seed=3)
    return folder


@pytest.fixture
def short(monkeypatch):
    """A training of a moment, whose model need neither be better than that before nor differ from it."""
    monkeypatch.setattr(teacher, "MIN_GAIN", -np.inf)
    monkeypatch.setattr(self_training, "better", lambda *models: drift.better(*models, -np.inf))
    monkeypatch.setattr(drift, "UNCHANGED", np.inf)
    monkeypatch.setitem(TRAINING_PRESETS, "default", replace(TRAINING_PRESETS["default"], updates_per_epoch=8,
                                                                later_epochs=1))


def labelled(folder, model, particles=NO_MARKS, negatives=NO_MARKS, **known):
    paths = {"mic_001": find_micrographs([str(folder / "micrographs")])["mic_001"]}
    data = TaughtSet(paths, {"mic_001": particles}, {"mic_001": negatives}, frozenset(paths), teacher=model, **known)
    return data.read(model.preprocessing, model.diameter_px)[0]


def unmarked(folder, **how):
    return TrainingSet.unmarked(find_micrographs([str(folder / "micrographs")]), **how)


def distances(points, others):
    return cKDTree(others).query(points)[0]


@pytest.mark.slow
def test_the_teacher_marks_what_is_not_marked_and_leaves_out_what_is_doubtful(folder):
    model = general_model(400)
    truth = read_coordinates(folder / "boxes")["mic_001"].centres_xy
    item = labelled(folder, model)
    found = item.micrograph.to_input_xy(item.particles_rc)
    assert item.complete and 20 <= len(found) <= 28
    assert (distances(found, truth) < 10).mean() > 0.9
    scores = Picker(model).pick(item.micrograph).picks.scores
    strict = labelled(folder, replace(model, threshold=float(np.median(scores))))
    assert len(strict.particles_rc) == (scores >= np.median(scores)).sum()
    assert len(strict.doubtful_rc) and (distances(strict.doubtful_rc, strict.particles_rc) > 0.5 * 27).all()


def test_marks_of_the_user_overrule_the_teacher(folder):
    model = general_model(400)
    truth = read_coordinates(folder / "boxes")["mic_001"].centres_xy
    clicked = truth[:3] + [3, -4]
    item = labelled(folder, model, replace(NO_MARKS, centres_xy=clicked, scores=np.full(3, np.nan)),
                    replace(NO_MARKS, centres_xy=truth[3:5], scores=np.full(2, np.nan)))
    particles = item.micrograph.to_input_xy(item.particles_rc)
    assert distances(clicked, particles).max() < 1e-6
    assert np.sort(distances(particles, clicked))[3] > 20  # one mark for each of these three
    assert distances(truth[3:5], particles).min() > 15
    assert len(item.negatives_rc) == 2


def test_in_the_mask_the_teacher_labels_nothing(folder, tmp_path):
    model = replace(general_model(400), threshold=0.8)
    tifffile.imwrite(tmp_path / "mask.tif", np.indices((400, 480))[1] // 240)  # the right half
    free, item = labelled(folder, model), labelled(folder, model, masks={"mic_001": tmp_path / "mask.tif"})
    assert item.masked.mean() == pytest.approx(0.5, abs=0.01)
    for name in ("particles_rc", "doubtful_rc"):
        centres = getattr(item, name)
        assert not item.in_mask(centres).any()
        assert (distances(centres, getattr(free, name)) < 1e-6).all()
    assert 5 <= len(item.particles_rc) < len(free.particles_rc)


def test_coordinates_of_which_none_is_left_are_an_error_although_there_are_confident_picks(folder):
    outside = Coordinates(np.full((7, 2), 9e3), np.full(7, np.nan), None)
    with pytest.raises(DeepEMError, match="none of the 7 particles given lies within a micrograph"):
        labelled(folder, general_model(400), outside)


def test_too_few_particles_are_an_error(folder):
    with pytest.raises(DeepEMError, match="only 0 particles are marked, or picked with confidence"):
        labelled(folder, replace(general_model(400), threshold=1.0))


@pytest.mark.slow
def test_a_model_without_labels_picks_what_the_general_one_picks(folder, tmp_path, short, capsys):
    assert main(["train", "--micrographs", str(folder / "micrographs"), "--diameter", "400", "--epochs", "1",
                 "--output", str(tmp_path / "none.deepem"), "--quiet"]) == 0
    assert main(["pick", "--micrographs", str(folder / "micrographs"), "--model", str(tmp_path / "none.deepem"),
                 "--output", str(tmp_path / "picks"), "--quiet", "--contrast-checks", "0"]) == 0
    found = evaluate(read_coordinates(folder / "boxes"), read_coordinates(tmp_path / "picks"), 20)
    assert found["overall"]["F1"] > 0.85
    card = load_model(tmp_path / "none.deepem").card()
    assert card["training"]["particles"] > 20
    assert dict(card_rows(card))["at that threshold"].endswith("(validation micrographs (labelled by a model))")
    assert MODEL_LABELS_WARNING in card["warnings"] and MODEL_LABELS_WARNING in capsys.readouterr().err


@pytest.mark.slow
def test_few_clicks_are_enough_for_a_training(folder, tmp_path, short, capsys, monkeypatch):
    truth = read_coordinates(folder / "boxes")["mic_001"].centres_xy
    (tmp_path / "clicks").mkdir()
    marks = "".join(f"{x - 24:.0f} {y - 24:.0f} 48 48\n" for x, y in truth[:5])
    (tmp_path / "clicks" / "mic_001.box").write_text(marks)
    arguments = ["train", "--micrographs", str(folder / "micrographs"), "--coordinates", str(tmp_path / "clicks"),
                 "--incomplete", "--diameter", "400", "--epochs", "1", "--quiet", "--output"]
    assert main([*arguments, str(tmp_path / "few.deepem")]) == 0
    assert load_model(tmp_path / "few.deepem").diameter_px == pytest.approx(27)
    said = capsys.readouterr().err
    assert MODEL_LABELS_WARNING in said and "very few" not in said
    assert ModelFiles(tmp_path / "few.deepem").examples.exists()

    monkeypatch.setattr(teacher, "MIN_GAIN", np.inf)
    assert main([*arguments, str(tmp_path / "refused.deepem")]) == 0
    assert "the model before is kept" in capsys.readouterr().err
    assert not ModelFiles(tmp_path / "refused.deepem").examples.exists()


def self_trained(folder, start, pupil, monkeypatch):
    """What self-training returns if each round gives the same pupil."""
    monkeypatch.setattr(self_training, "train_model", lambda data, plan, progress: pupil)
    return self_training.self_train(unmarked(folder), Plan(400, start=start))


def test_a_model_that_picks_nothing_is_refused(folder, caplog, monkeypatch):
    start = general_model(400)
    weights = {name: np.full_like(value, -5.0 if name == "dense.bias" else 0.0)
               for name, value in start.networks[0].items()}
    with caplog.at_level(logging.WARNING, "deepem_scipion"):
        kept = self_trained(folder, start, replace(start, networks=(weights,)), monkeypatch)
    assert kept.networks is start.networks and "it has drifted" in kept.record.warnings[-1]
    assert kept.record.warnings[-1] in caplog.text and "the model before is kept" in caplog.text


def fixed_picker(model, places):
    """A picker of given places by name of the micrograph."""
    def pick(micrograph, mask):
        centres = places[micrograph.name]
        return SimpleNamespace(picks=Coordinates(centres, np.linspace(0.9, 0.5, len(centres)), None))
    return SimpleNamespace(model=model, pick=pick)


def test_the_model_is_kept_that_picks_particles_where_the_other_picks_empty_ice_or_contamination(folder, tmp_path,
                                                                                                  monkeypatch):
    """Both pick 12 particles on each micrograph; the other 12 are particles, or places far from them."""
    old, new = (replace(general_model(400), threshold=threshold) for threshold in (0.45, 0.99))
    truth, paths = read_coordinates(folder / "boxes"), find_micrographs([str(folder / "micrographs")])
    right, empty, spoilt = {}, {}, {}
    for name, path in paths.items():
        centres = truth[name].centres_xy
        grid = np.stack(np.meshgrid(np.arange(20, 460, 10.0), np.arange(20, 380, 10.0)), axis=-1).reshape(-1, 2)
        free = grid[np.argsort(-distances(grid, centres))][:12]
        right[name], empty[name] = centres, np.concatenate([centres[:12], free])
        with mrcfile.open(path) as file:
            pixels, voxel = file.data.copy(), file.voxel_size
        y, x = np.indices(pixels.shape)
        for px, py in free:
            pixels[np.hypot(x - px, y - py) < 15] -= 4 * pixels.std()  # as ice crystals
        spoilt[name] = tmp_path / f"{name}.mrc"
        with mrcfile.new(spoilt[name], pixels) as file:
            file.voxel_size = voxel
    for files in (paths, spoilt):
        for before, after in ((empty, right), (right, empty)):
            pickers = iter((fixed_picker(old, before), fixed_picker(new, after)))
            monkeypatch.setattr(drift, "picker_of", lambda model, threshold, pickers=pickers: next(pickers))
            found = drift.compare(old, new, TrainingSet.unmarked(files), None)
            assert 0.5 <= found.share < 0.7 and found.threshold == 0.5
            found = replace(found, share=0.9)
            kept = drift.better(old, new, found)
            assert (kept.threshold == found.threshold) == (after is right) == (found.gain > 5)
            assert (kept.threshold == old.threshold) == (found.gain < -5)
    with_marks = replace(found, gain=9.0, marks_before=3, marks_after=2)
    assert "on the validation micrographs it finds 2, the model before 3" in with_marks.refusal()


@pytest.mark.parametrize("share, gain, negatives, taken", [
    (0.98, 0.0, 0, False), (0.98, 0.0, 1, True), (0.98, 0.5, 0, True), (0.9, 0.0, 0, True), (0.9, -3.0, 0, False)])
def test_after_marks_that_change_hardly_a_pick_the_new_model_has_to_be_better(folder, monkeypatch, share, gain,
                                                                              negatives, taken):
    before = general_model(400)
    after = replace(before, threshold=0.9)
    wrong = {"mic_001": Coordinates(np.full((negatives, 2), 50.0), np.full(negatives, np.nan), None)}
    monkeypatch.setattr(drift, "compare", lambda *given: drift.Comparison(0.7, share, gain))
    data = TrainingSet.unmarked(find_micrographs([str(folder / "micrographs")]))
    kept = keep_better(before, after, replace(data, negatives=wrong), Plan(400))
    assert kept.threshold == (0.7 if taken else before.threshold)


def test_models_are_compared_in_the_frame_of_the_marks_and_outside_the_masks(folder, tmp_path):
    model, truth = general_model(400), read_coordinates(folder / "boxes")["mic_001"]
    with mrcfile.open(folder / "micrographs" / "mic_001.mrc") as file:
        tifffile.imwrite(tmp_path / "mic_001.tif", file.data)
        tifffile.imwrite(tmp_path / "mask.tif", np.indices(file.data.shape)[0] // 200)
    upper = truth.centres_xy[:, 1] < 200
    found = {}
    for rows, masks in (("top", {}), ("bottom", {}), ("top", {"mic_001": tmp_path / "mask.tif"})):
        data = TrainingSet({"mic_001": tmp_path / "mic_001.tif"}, {"mic_001": truth}, tiff_rows=rows, masks=masks)
        found[rows, bool(masks)] = drift.compare(model, model, data, 10.0, {"mic_001"})
    assert found["top", False].marks_before == found["top", False].marks_after >= 20
    assert found["bottom", False].marks_before < 15
    assert found["top", True].marks_before <= upper.sum() + 1 < 20


def test_of_many_micrographs_those_for_validation_are_compared(folder):
    model, truth = general_model(400), read_coordinates(folder / "boxes")["mic_001"]
    names = [f"m{number:02}" for number in range(drift.COMPARED + 1)]
    data = TrainingSet(dict.fromkeys(names, folder / "micrographs" / "mic_001.mrc"), dict.fromkeys(names, truth))
    assert drift.compare(model, model, data, 10.0, {names[-1]}).marks_before >= 20


def test_a_model_is_compared_with_that_of_a_larger_particle_from_which_it_started(folder):
    after = general_model(400)
    before = replace(after, diameter_angst=600.0)  # at the same working pixel size
    found = drift.compare(before, after, TrainingSet.unmarked(find_micrographs([str(folder / "micrographs")])), 10.0)
    assert found.share > 0.8


def test_without_coordinates_masks_and_frame_are_kept_and_what_needs_coordinates_is_refused(folder, tmp_path,
                                                                                            monkeypatch):
    tifffile.imwrite(tmp_path / "mic_001_mask.tif", np.indices((400, 480))[0] // 200)
    words = ["--micrographs", str(folder / "micrographs"), "--diameter", "400", "--output", str(tmp_path / "m.deepem")]
    options = parse_arguments(["train", *words, "--masks", str(tmp_path), "--max-mask", "0.2", "--tiff-rows", "top"])
    start, given = general_model(400), []
    monkeypatch.setattr(self_training, "train_model", lambda data, plan, progress: given.append(data) or start)
    self_training.self_train(read_training_set(options), Plan(400, start=start))
    (data,) = given
    assert (data.masks, data.max_mask, data.tiff_rows) == ({"mic_001": tmp_path / "mic_001_mask.tif"}, 0.2, "top")
    for option in (["--overlaps-as-negatives"], ["--coordinate-scale", "2"], ["--apply-shifts"], ["--incomplete"]):
        with pytest.raises(DeepEMError, match=f"{option[0]} needs --coordinates"):
            make_plan(parse_arguments(["train", *words, *option]))


def test_the_model_or_the_given_negatives_are_the_background_but_not_both(tmp_path):
    with pytest.raises(DeepEMError, match="--given-negatives-only: with --incomplete"):
        make_plan(parse_arguments(["train", "--micrographs", "a.mrc", "--coordinates", "boxes", "--negatives", "ice",
                                   "--incomplete", "--given-negatives-only", "--diameter", "400", "--output", "m"]))


@pytest.mark.parametrize("arguments, epochs", [
    ([], 2), (["--coordinates", "boxes", "--incomplete"], 2), (["--coordinates", "boxes"], None),
    (["--epochs", "7"], 7), (["--training-preset", "paper"], 20)])
def test_trainings_from_the_general_model_have_fewer_epochs_unless_others_are_given(arguments, epochs):
    assert make_plan(parse_arguments(["train", "--micrographs", "a.mrc", "--diameter", "400", "--output", "m",
                                      *arguments])).epochs == epochs


def test_auto_trains_and_picks_in_the_given_frame(folder, tmp_path, monkeypatch):
    given = []
    for module in (train, pick):
        monkeypatch.setattr(module, "run", lambda options, **how: given.append(options) or 0)
    monkeypatch.setattr(runtime, "start", lambda threads: None)  # whose number of threads other tests would get
    assert main(["auto", "--micrographs", str(folder / "micrographs"), "--diameter", "400", "--tiff-rows", "top",
                 "--pixel-size", "10", "--threads", "1", "--output", str(tmp_path / "picks")]) == 0
    assert [(options.tiff_rows, options.pixel_size, options.threads) for options in given] == [("top", 10, 1)] * 2


@pytest.mark.parametrize("output", ["picks", "."])
def test_auto_replaces_no_model_and_takes_no_micrograph_for_an_option(folder, tmp_path, monkeypatch, capsys, output):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("-a.mrc", "--overwrite.mrc"):
        os.symlink(folder / "micrographs" / "mic_001.mrc", name)
    given, model = [], Path(f"{Path(output).resolve()}.deepem")
    for module in (train, pick):
        monkeypatch.setattr(module, "run", lambda options, **how: given.append(options) or 0)
    monkeypatch.setattr(runtime, "start", lambda threads: None)
    command = ["auto", "--micrographs", "*.mrc", "--diameter", "400", "--output", output]
    assert main(command) == 0
    assert (given[0].output, given[1].model, given[1].output) == (model, model, Path(output))
    assert [len(chosen_micrographs(options)) for options in given] == [2, 2]
    model.write_text("mine")
    assert main(command) == 2 and len(given) == 2 and model.read_text() == "mine"
    assert f"deepem pick --model {model} --micrographs ... --output {output} --resume" in capsys.readouterr().err


def test_rounds_end_when_nothing_changes_which_is_no_failure(folder, monkeypatch, caplog):
    start, rounds = general_model(400), []
    start = replace(start, threshold=start.threshold_for("F1"))

    def train(data, plan, progress):
        rounds.append(data.teacher)
        return start

    monkeypatch.setattr(self_training, "train_model", train)
    with caplog.at_level(logging.INFO, "deepem_scipion"):
        assert self_training.self_train(unmarked(folder), Plan(400, start=start)) is start
    assert len(rounds) == 1 and "changed nothing that matters: 100 % of the picks" in caplog.text
    assert "warning" not in caplog.text and "refused" not in caplog.text


@pytest.mark.slow
def test_auto_trains_on_the_first_micrographs_and_picks_all(folder, tmp_path, short):
    assert main(["auto", "--micrographs", str(folder / "micrographs"), "--diameter", "400", "--train", "1", "--output",
                 str(tmp_path / "picks"), "--quiet"]) == 0
    assert set(read_coordinates(tmp_path / "picks")) == {"mic_001", "mic_002"}
    assert load_model(tmp_path / "picks.deepem").record.training.micrographs == 1
    assert main(["auto", "--micrographs", str(folder / "micrographs"), "--diameter", "400", "--output",
                 str(tmp_path / "picks"), "--quiet"]) == 2
