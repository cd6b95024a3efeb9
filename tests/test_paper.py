# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's procedure: selection, training data, and the picks of a plain re-implementation one by one."""

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import write_blobs
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.micrograph import Micrograph
from deepem_scipion.deepem.model.files import load_model, save_model
from deepem_scipion.deepem.network.box_scan import BoxScanner
from deepem_scipion.deepem.picking.candidates import Candidates
from deepem_scipion.deepem.picking.paper import best_in_squares, grid_candidates
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.review import read_review
from deepem_scipion.deepem.picking.selection import DISTANCE, LOCAL_STD, PICKED, THRESHOLD, Limits, select
from deepem_scipion.deepem.training import paper
from deepem_scipion.deepem.training.labels import LabelledMicrograph
from deepem_scipion.deepem.training.paper_data import divide, draw, normalised_columns

# ---- a plain re-implementation of picking, in double precision


def plain_scores(windows, weights):
    """Scores of (n, box, box) windows, each as it is given."""
    maps = windows[..., np.newaxis]
    for number in (1, 2, 3):
        kernel = weights[f"conv{number}.kernel"].astype(float)
        side = kernel.shape[0]
        views = np.lib.stride_tricks.sliding_window_view(maps, (side, side), axis=(1, 2))
        maps = np.tensordot(views, kernel.transpose(2, 0, 1, 3), 3) + weights[f"conv{number}.bias"]
        maps = 1 / (1 + np.exp(-maps))
        n, side, _, channels = maps.shape
        maps = maps.reshape(n, side // 2, 2, side // 2, 2, channels).mean(axis=(2, 4))
    z = maps.reshape(len(maps), -1) @ weights["dense.kernel"][:, 0].astype(float) + weights["dense.bias"]
    return 1 / (1 + np.exp(-z))


def plain_suppression(places, half_side):
    """Replace each (x, y, score) by the best in the square around it; of equal ones by the last in order of x, y."""
    kept = set()
    for x, y, _ in places:
        rivals = [other for other in sorted(places) if max(abs(other[0] - x), abs(other[1] - y)) <= half_side]
        best = rivals[0]
        for rival in rivals[1:]:
            if rival[2] >= best[2]:
                best = rival
        kept.add(best)
    return sorted(kept)


def plain_candidates(pixels, model, step):
    """First pixel (x, y) and score of every window whose standard deviation is in range, and that of all windows."""
    weights, box = load_file(model), load_model(model).geometry.box
    low, high = load_model(model).std_range
    found = []
    for y in range(0, pixels.shape[0] - box + 1, step):
        row = [(x, y, pixels[y:y + box, x:x + box].astype(float))
               for x in range(0, pixels.shape[1] - box + 1, step)]
        row = [(x, y, window) for x, y, window in row if low < window.std(ddof=1) < high]
        if row:
            windows = np.array([(window - window.mean()) / window.std(ddof=1) for _, _, window in row])
            scores = np.mean([plain_scores(np.rot90(windows, turn, (1, 2)), weights) for turn in range(4)], axis=0)
            found += [(x, y, score) for (x, y, _), score in zip(row, scores.tolist(), strict=True)]
    return found


def compare_with_plain(model, path, output, step):
    """Pick a micrograph with the program, and compare all picks at the model's threshold and at the nine."""
    trained = load_model(model)
    with mrcfile.open(path) as file:
        found = plain_candidates(file.data, model, step)
    assert main(["pick", "--procedure", "paper", "--model", str(model), "--micrographs", str(path), "--output",
                 str(output)]) == 0
    results, counts, half = PickingResults(output), [], (trained.geometry.box - 1) / 2
    for threshold in (trained.threshold, *np.arange(1, 10) / 10):
        places = [place for place in found if place[2] > threshold]
        for half_side in trained.ranges_px:
            places = plain_suppression(places, half_side)
        expected = np.array([(x + half, y + half, score) for x, y, score in places]).reshape(-1, 3)
        if counts:
            box = results.path("export", f"threshold-{threshold:g}") / f"{path.stem}.box"
            picked, rounding = read_coordinates(box)[path.stem], 0.5
        else:
            candidates, reasons = results.read_candidates(path.stem)
            picked, rounding = candidates.subset(reasons == PICKED), 0.01
        assert len(picked.centres_xy) == len(expected), threshold
        order = np.lexsort(picked.centres_xy.T[::-1])
        np.testing.assert_allclose(picked.centres_xy[order], expected[:, :2], atol=rounding)
        np.testing.assert_allclose(picked.scores[order], expected[:, 2], atol=2e-5)
        counts.append(len(expected))
    return counts


# ---- training and picking, against that

SMALL = ("--diameter", "64", "--box", "24", "--kernels", "5", "3", "3", "--pools", "2", "2", "2",
         "--working-pixel-size", "4", "--scan-step", "4")


def train(folder, output, *options):
    assert main(["train", "--procedure", "paper", "--micrographs", str(folder / "micrographs"), "--coordinates",
                 str(folder / "boxes"), "--output", str(output), *options]) == 0
    return load_model(output)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Model of two rounds on small simulated micrographs, and a further micrograph."""
    folder = tmp_path_factory.mktemp("paper")
    write_blobs(folder / "data", "abcdef")
    write_blobs(folder / "other", "g", seed=1)
    accuracy = paper.PaperTrainer._accuracy
    with pytest.MonkeyPatch.context() as patch:  # the first round would be good enough
        patch.setattr(paper.PaperTrainer, "_accuracy", lambda *arguments: 0.99 * accuracy(*arguments))
        train(folder / "data", folder / "model", *SMALL, "--epochs", "36", "--rounds", "2", "--accuracy-cutoff", "1",
              "--ranges", "9", "4", "--raw-range", "2", "9", "--draw", "28")
    return folder


@pytest.mark.slow
def test_picks_of_simulated_particles_are_those_of_the_plain_procedure(trained):
    counts = compare_with_plain(trained / "model", trained / "other" / "micrographs" / "g.mrc", trained / "picks", 4)
    assert counts[0] >= 7, "the model has not learnt its 14 particles"
    assert len(set(counts)) > 1, "the thresholds make no difference"


@pytest.mark.slow
def test_picks_of_apoferritin_are_those_of_the_plain_procedure(shared_data, tmp_path):
    binned = tmp_path / "binned"
    for kind in ("micrographs", "boxes"):
        (binned / kind).mkdir(parents=True)
    known = read_coordinates(shared_data / "apoferritin" / "boxes")
    names = sorted(known)[:4]
    for name in names:
        with mrcfile.open(shared_data / "apoferritin" / "micrographs" / f"{name}.mrc") as file:
            rows, columns = file.data.shape
            pixels = file.data.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3), dtype=np.float32)
        write_micrograph(binned / "micrographs" / f"{name}.mrc", pixels, 3.0)
        write_box(binned / "boxes" / f"{name}.box", (known[name].centres_xy + 0.5) / 2 - 0.5,
                  np.full(len(known[name].scores), np.nan), 60)
    write_micrograph(tmp_path / "quarter.mrc", pixels[:300, :310], 3.0)
    train(binned, tmp_path / "model", "--diameter", "120", "--box", "60", "--kernels", "9", "7", "3", "--pools", "2",
          "2", "2", "--working-pixel-size", "3", "--scan-step", "10", "--epochs", "6", "--draw", "250")
    counts = compare_with_plain(tmp_path / "model", tmp_path / "quarter.mrc", tmp_path / "picks", 10)
    assert counts[0] > 10, "the model has not learnt the particles"


def write_micrograph(path, pixels, pixel_size):
    with mrcfile.new(path, pixels.astype(np.float32)) as file:
        file.voxel_size = pixel_size


@pytest.mark.slow
def test_the_card_names_every_micrograph_once_and_the_last_epoch(trained):
    model = load_model(trained / "model")
    record = model.record
    assert (model.ranges_px, model.std_range, model.scan_step) == ((9, 4), (2, 9), 4)
    parts = [record.training.names, record.validation.names, record.test.names]
    assert [len(names) for names in parts] == [4, 1, 1] and sorted(sum(parts, [])) == list("abcdef")
    assert record.best_epochs == [36] and [epoch["round"] for epoch in record.history[::36]] == [1, 2]
    assert record.history[36]["loss"] > record.history[35]["loss"], "the second round did not start from new weights"
    assert all(0.5 < done.accuracy <= 1 for done in record.rounds) and len(record.rounds) == 2
    assert model.threshold in record.validation.curve["threshold"] and len(record.validation.curve["threshold"]) == 9
    assert record.training.particles == 56


@pytest.mark.slow
def test_by_default_no_round_follows_95_percent_and_the_range_is_that_of_the_shown_particles(trained, monkeypatch):
    monkeypatch.setattr(paper.PaperTrainer, "_accuracy", lambda *arguments: 0.95)
    model = train(trained / "data", trained / "one", *SMALL, "--epochs", "36", "--rounds", "2")
    assert [done.accuracy for done in model.record.rounds] == [0.95]
    known, stds = read_coordinates(trained / "data" / "boxes"), []
    for name in model.record.training.names:
        with mrcfile.open(trained / "data" / "micrographs" / f"{name}.mrc") as file:
            corners = np.rint(known[name].centres_xy - 11.5).astype(int).clip(0, np.array(file.data.shape)[::-1] - 24)
            stds += [file.data[y:y + 24, x:x + 24].std(ddof=1, dtype=float) for x, y in corners]
    np.testing.assert_allclose(model.std_range, np.percentile(stds, [1, 99]), rtol=1e-5)


@pytest.mark.slow
def test_boxes_of_equal_pixels_have_no_score(trained):
    model = load_model(trained / "model")
    boxes = np.random.default_rng(0).normal(size=(3, 24, 24)) + 1e4
    boxes[1] = 7
    scores = BoxScanner(model.geometry, model.networks, 4).score(boxes)
    assert scores[1] == 0 and (scores[[0, 2]] > 0).all()
    np.testing.assert_allclose(scores, BoxScanner(model.geometry, model.networks, 4).score(3 * boxes - 5), atol=1e-5)


@pytest.mark.slow
def test_other_limits_applied_to_stored_candidates_are_the_same_selection(trained):
    path = trained / "other" / "micrographs" / "g.mrc"
    for name, threshold in (("low", "0.1"), ("high", "0.8")):
        assert main(["pick", "--model", str(trained / "model"), "--micrographs", str(path), "--output",
                     str(trained / name), "--threshold", threshold]) == 0
    review = read_review(trained / "low", 4.0, 0.0)
    assert review.limits.ranges_angst == (36, 16)
    candidates, reasons = PickingResults(trained / "high").read_candidates("g")
    np.testing.assert_array_equal(review.candidates.centres_xy, candidates.centres_xy)
    np.testing.assert_array_equal(review.select(replace(review.limits, threshold=0.8)), reasons)
    assert 0 < (reasons == PICKED).sum() < (review.reasons == PICKED).sum()


# ---- selection on score maps with known answers

MAP = np.array([[0.90, 0.80, 0.70, 0.10, 0.55],
                [0.20, 0.30, 0.60, 0.10, 0.50],
                [0.10, 0.10, 0.10, 0.10, 0.45]])


def places(scores, step=10):
    rows, columns = np.indices(scores.shape)
    return np.column_stack([columns.ravel(), rows.ravel()]) * float(step), scores.ravel()


def kept(scores, ranges, threshold=0.0, step=10):
    """Row and column of the positions above a threshold that stay."""
    centres_xy, values = places(scores, step)
    above = values > threshold
    stay = best_in_squares(centres_xy[above], values[above], ranges)
    return [(int(y) // step, int(x) // step) for x, y in centres_xy[above][stay]]


@pytest.mark.parametrize(("ranges", "threshold", "expected"), [
    # 0.90 and 0.55 are the best of their own squares, 0.80 is that of the square around 0.70, 0.50 that around 0.45.
    ((10, 0), 0.4, [(0, 0), (0, 1), (0, 4), (1, 4)]),
    ((10, 10), 0.4, [(0, 0), (0, 4)]),
    ((9.9, 0), 0.4, [(0, 0), (0, 1), (0, 2), (0, 4), (1, 2), (1, 4), (2, 4)]),  # no other position is in the square
    ((40, 40), 0.4, [(0, 0)]),
    ((10, 0), 0.85, [(0, 0)]),
    ((10, 0), 0.9, []),  # the threshold itself is not above it
])
def test_two_passes_on_a_map_keep_the_best_of_the_squares(ranges, threshold, expected):
    assert kept(MAP, ranges, threshold) == sorted(expected)


def test_a_lower_position_that_nothing_else_replaces_is_no_local_maximum_and_stays():
    row = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]])
    assert kept(row, (10, 0)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert kept(row, (10, 10)) == [(0, 0), (0, 1), (0, 2)]
    assert kept(row, (10, 30)) == [(0, 0)]


def test_of_equal_scores_the_last_along_x_and_then_along_y_stays():
    assert kept(np.full((2, 3), 0.7), (100, 0)) == [(1, 2)]
    assert kept(np.array([[0.7, 0.1], [0.1, 0.1], [0.7, 0.1]]), (100, 0)) == [(2, 0)]


def test_the_order_of_the_positions_does_not_matter():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 6, (12, 14)) / 6
    centres_xy, values = places(scores)
    order = rng.permutation(len(values))
    stay = np.zeros(len(values), bool)
    stay[order] = best_in_squares(centres_xy[order], values[order], (25, 15))
    np.testing.assert_array_equal(stay, best_in_squares(centres_xy, values, (25, 15)))
    expected = [(*centre, value) for centre, value in zip(centres_xy.tolist(), values.tolist(), strict=True)]
    for half_side in (25, 15):
        expected = plain_suppression(expected, half_side)
    np.testing.assert_array_equal(sorted(centres_xy[stay].tolist()), [place[:2] for place in expected])


def test_limits_are_exclusive_and_the_standard_deviation_comes_before_suppression():
    centres_xy = np.array([[0, 0], [10, 0], [20, 0], [40, 0], [50, 0]], float)
    candidates = Candidates(centres_xy, np.array([0.9, 0.8, 0.5, 0.7, 0.6]), np.array([34, 30, 30, 22, 23.0]),
                            np.full(5, 99.0))
    limits = Limits(0.5, 0.0, (22, 34), ranges_angst=(20, 0))
    reasons = select(candidates, limits, 2.0)  # 10 px
    assert reasons.tolist() == [LOCAL_STD, PICKED, THRESHOLD, LOCAL_STD, PICKED]
    assert select(candidates, replace(limits, std_range=None), 2.0).tolist() == [
        PICKED, DISTANCE, THRESHOLD, PICKED, DISTANCE]


def micrograph(pixels, **known):
    item = Micrograph(Path("m.mrc"), known.pop("name", "m"), pixels.astype(np.float32), 4.0, 2.0,
                      tuple(2 * side for side in pixels.shape))
    return LabelledMicrograph(item, known.pop("particles_rc", np.empty((0, 2))), **known)


def test_candidates_are_the_centres_of_windows_on_the_grid():
    item = micrograph(np.zeros((40, 60))).micrograph
    scores = np.array([[0.9, 0.0, 0.2], [0.0, 0.3, 0.0]])
    stds = np.array([[5.0, 5.0, 5.0], [9.0, 5.0, 5.0]])
    found = grid_candidates(item, scores, stds, 20, 16, (1, 9))
    # Centre 9.5 binned pixels = (9.5 + 0.5) * 2 - 0.5 pixels of the file, and 32 further for each step.
    np.testing.assert_allclose(found.centres_xy, [[19.5, 19.5], [51.5, 51.5], [83.5, 19.5], [19.5, 51.5]])
    assert found.scores.tolist() == [0.9, 0.3, 0.2, 0.0] and found.local_stds.tolist() == [5, 5, 5, 9]


# ---- training data


def marked(rng, n=5, **known):
    return micrograph(rng.normal(50, 7, (80, 100)), particles_rc=rng.uniform(0, 80, (n, 2)), **known)


def test_as_many_negatives_as_particles_are_drawn_and_given_ones_come_first():
    rng = np.random.default_rng(0)
    given = np.array([[40.0, 90.0], [70.0, 88.0]])
    items = [marked(rng, negatives_rc=given), marked(rng)]
    windows = draw(items, 20, 8.0, 0.0, 6, np.random.default_rng(1))
    assert windows.targets.tolist() == [1] * 6 + [0] * 6
    assert {(0, 30, 80), (0, 60, 78)} <= {tuple(place) for place in windows.places[6:].tolist()}
    particles = np.concatenate([np.clip(np.rint(item.particles_rc - 9.5), 0, [60, 80]) for item in items])
    assert {tuple(place) for place in windows.places[:6, 1:].tolist()} <= {tuple(place) for place in particles.tolist()}


def test_windows_are_normalised_after_the_columns_and_their_range_is_that_of_the_grey_values():
    rng = np.random.default_rng(0)
    item = marked(rng, 40)
    windows = draw([item], 20, 8.0, 0.0, 800, np.random.default_rng(1))
    cut = windows.cut(np.arange(len(windows)))
    _, row, column = windows.places[3]
    columns = item.pixels.astype(float)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0, ddof=1)
    window = columns[row:row + 20, column:column + 20]
    np.testing.assert_allclose(cut[3], (window - window.mean()) / window.std(ddof=1), atol=1e-4)
    np.testing.assert_allclose(windows.stds[3], item.pixels[row:row + 20, column:column + 20].std(ddof=1), rtol=1e-5)
    np.testing.assert_allclose(paper.std_range_of(windows), np.percentile(windows.stds[:40], [1, 99]))
    assert (normalised_columns(np.ones((4, 3))) == 0).all()


def test_micrographs_have_one_purpose_and_too_few_are_refused():
    rng = np.random.default_rng(0)
    items = [marked(rng, name=str(number)) for number in range(10)]
    parts = divide(items, 0.2, 3, seed=4)
    assert [len(part) for part in (*parts.training, parts.validation, parts.test)] == [2, 2, 2, 2, 2]
    assert len({item.name for part in (*parts.training, parts.validation, parts.test) for item in part}) == 10
    assert [len(part) for part in divide(items[:3], 0.2, 1, seed=4)[1:]] == [1, 1]
    with pytest.raises(DeepEMError, match="3 micrographs.*needs 4"):
        divide(items[:3], 0.2, 2, seed=4)


@pytest.mark.slow
def test_mistakes_are_missed_particles_and_picks_far_from_all(monkeypatch, trained):
    model = load_model(trained / "model")
    item = micrograph(np.zeros((80, 100)), particles_rc=np.array([[20.0, 20.0], [60.0, 60.0]]))
    picks = item.micrograph.to_input_xy(np.array([[22.0, 21.0], [40.0, 80.0]]))
    monkeypatch.setattr(paper.Picker, "pick", lambda picker, micrograph: type("Found", (), {
        "picks": type("Picks", (), {"centres_xy": picks})})())
    taught = paper.with_mistakes(model, item, 0.0)
    np.testing.assert_allclose(taught.missed_rc, [[60, 60]])
    np.testing.assert_allclose(taught.negatives_rc, [[40, 80]])


@pytest.mark.slow
@pytest.mark.parametrize(("options", "message"), [
    (["--networks", "2"], "one network"), (["--draw", "0"], "particles to draw 0"),
    (["--raw-range", "5", "3"], "smaller first"), (["--accuracy-cutoff", "0"], "accuracy 0"),
    (["--ranges", "-1", "3"], "ranges of suppression"), (["--incomplete"], "needs --coordinates"),
    (["--procedure", "default", "--draw", "9"], "--draw is for the paper's procedure")])
def test_options_that_contradict_the_procedure_are_refused(trained, capsys, options, message):
    assert main(["train", "--procedure", "paper", "--micrographs", str(trained / "data" / "micrographs"),
                 "--coordinates", str(trained / "data" / "boxes"), "--diameter", "64", "--output",
                 str(trained / "none"), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_model_decides_the_procedure_of_picking(trained, blob_model, capsys, tmp_path):
    mics = str(trained / "other" / "micrographs")

    def pick(*options):
        return main(["pick", "--micrographs", mics, "--output", str(tmp_path / "picks"), "--overwrite", *options])

    assert pick("--model", str(trained / "model"), "--procedure", "default") == 2
    assert "trained by the paper's procedure" in capsys.readouterr().err
    assert pick("--model", str(blob_model), "--ranges", "5", "5") == 2
    assert pick("--diameter", "64", "--procedure", "paper") == 2
    assert pick("--model", str(blob_model), "--procedure", "paper", "--scan-step", "4") == 0
    assert PickingResults(tmp_path / "picks").read_settings().limits.std_range is None
    assert main(["train", "--micrographs", mics, "--coordinates", str(trained / "other" / "boxes"), "--diameter", "64",
                 "--continue-from", str(trained / "model"), "--output", str(tmp_path / "more")]) == 2
    assert "always starts from new weights" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_range_in_the_card_is_refused(trained, tmp_path):
    model = load_model(trained / "model")
    save_model(tmp_path / "model", replace(model, ranges_px=(-1.0, 3.0)))
    with pytest.raises(DeepEMError, match="damaged"):
        load_model(tmp_path / "model")


@pytest.mark.slow
def test_overlapping_particles_become_negatives_on_demand(trained, tmp_path, caplog):
    from deepem_scipion.deepem.micrographs.find import find_micrographs
    from deepem_scipion.deepem.micrographs.preprocessing import Preprocessing
    from deepem_scipion.deepem.training.training_set import TrainingSet

    centres = np.array([[40.0, 40.0], [50.0, 40.0], [120.0, 90.0]])
    write_box(tmp_path / "g.box", centres, np.full(3, np.nan), 24)
    data = TrainingSet(find_micrographs([str(trained / "other" / "micrographs")]), read_coordinates(tmp_path),
                       overlaps_as_negatives=True)
    (item,) = data.read(Preprocessing(4.0, 24), 16.0)
    np.testing.assert_allclose(item.particles_rc[:, ::-1], centres[2:], atol=0.6)
    np.testing.assert_allclose(item.negatives_rc[:, ::-1], centres[:2], atol=0.6)
    (plain,) = replace(data, overlaps_as_negatives=False).read(Preprocessing(4.0, 24), 16.0)
    assert len(plain.particles_rc) == 3 and not len(plain.negatives_rc)
