# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stored candidates with other limits, and the pictures on which they are shown."""

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepem_scipion.deepem.coordinates.box import write_box
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.coordinates.suppression import non_maximum_suppression
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.micrograph import Micrograph
from deepem_scipion.deepem.picking.candidates import (
    Candidates,
    find_candidates,
    pad,
    read_candidates,
    write_candidates,
)
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.review import HISTOGRAM_BINS, read_review
from deepem_scipion.deepem.picking.selection import PICKED, REASONS, Limits, select
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult, summarise_run
from deepem_scipion.deepem.report.pictures import read_picture, read_score_map

PIXEL_ANGST = 2.0
LIMITS = Limits(0.5, 60.0, (0.8, 1.2), 20.0)


def some_candidates(rng, n):
    centres_xy = rng.uniform(0, 400, (n, 2)).round(2)
    return Candidates(centres_xy, rng.choice(np.linspace(0.05, 1, 39), n).round(4), rng.normal(1, 0.15, n).round(4),
                      np.minimum(centres_xy, 400 - centres_xy).min(axis=1).round(2))


def write_run(folder, sizes=(60, 0, 45, 80)):
    """Write results of micrographs with these numbers of candidates, and of one that failed; candidates by name."""
    rng, found, micrographs, results = np.random.default_rng(3), {}, {}, PickingResults(folder)
    results.make()
    for number, size in enumerate(sizes):
        name = f"mic_{number}"
        found[name] = some_candidates(rng, size)
        reasons = select(found[name], LIMITS, PIXEL_ANGST)
        results.write_micrograph(name, found[name], reasons, 61)
        micrographs[name] = MicrographResult.of(f"{name}.mrc", found[name], reasons, seconds=0.5)
    micrographs["broken"] = MicrographResult("broken.mrc", "truncated")
    results.write_summary(RunSettings(LIMITS, 4, 4, 40, 6.0, 100.0), micrographs)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    found = write_run(folder)
    return folder, found, read_review(folder, PIXEL_ANGST, 200.0)


def greedy(candidates, limits, pixel_size_angst=PIXEL_ANGST):
    """The picks by definition, one after the other."""
    low, high = limits.std_range or (-np.inf, np.inf)
    picks = []
    order = sorted(range(len(candidates)), key=lambda i: (-candidates.scores[i], *candidates.centres_xy[i, ::-1]))
    for i in order:
        near = any(np.hypot(*(candidates.centres_xy[i] - candidates.centres_xy[j]))
                   < limits.min_distance_angst / pixel_size_angst for j in picks)
        if (candidates.scores[i] >= limits.threshold and low <= candidates.local_stds[i] <= high
                and candidates.border_px[i] >= limits.border_angst / pixel_size_angst and not near):
            picks.append(i)
    return sorted(picks)


@settings(max_examples=25)
@given(threshold=st.floats(0, 1), distance=st.floats(0, 200), low=st.floats(0.5, 1), width=st.floats(0, 1),
       ranged=st.booleans(), border=st.floats(0, 100))
def test_other_limits_give_on_every_micrograph_what_picking_would(run, threshold, distance, low, width, ranged, border):
    _, found, review = run
    limits = Limits(threshold, distance, (low, low + width) if ranged else None, border)
    reasons = review.select(limits)
    for name, candidates in found.items():
        here = reasons[review.part(name)]
        assert here.tolist() == select(candidates, limits, PIXEL_ANGST).tolist()
        assert np.flatnonzero(here == PICKED).tolist() == greedy(candidates, limits)


def test_the_limits_of_the_run_give_the_picks_of_the_run(tmp_path):
    found = write_run(tmp_path)
    path = tmp_path / "candidates" / "mic_0.tsv"
    kept = select(found["mic_0"], LIMITS, PIXEL_ANGST)
    kept[kept == PICKED] = "distance"  # as if rounding had changed them
    write_candidates(path, found["mic_0"], kept)
    review = read_review(tmp_path, PIXEL_ANGST, 200.0)
    assert review.limits == LIMITS
    assert review.select(LIMITS)[review.part("mic_0")].tolist() == kept.tolist()
    assert (review.select(replace(LIMITS, threshold=0.5000001))[review.part("mic_0")] == PICKED).any()


def test_numbers_of_each_micrograph_are_those_of_its_candidates(run):
    _, found, review = run
    limits = Limits(0.3, 100.0)
    reasons = review.select(limits)
    results = review.summarise(reasons)
    assert list(results) == [*found, "broken"]
    for name, candidates in found.items():
        each = select(candidates, limits, PIXEL_ANGST)
        picked = candidates.scores[each == PICKED]
        assert (results[name].picks, results[name].candidates) == (len(picked), len(candidates))
        assert results[name].rejected == {reason: (each == reason).sum() for reason in REASONS if reason != PICKED}
        assert (results[name].path, results[name].seconds) == (f"{name}.mrc", 0.5)
        if len(picked):
            assert results[name].mean_score == pytest.approx(picked.mean(), abs=1e-4)
    assert results["mic_1"].mean_score is None
    found = summarise_run(results)
    assert (found.picks, found.failed) == ((reasons == PICKED).sum(), 1)


def test_the_histogram_counts_every_candidate_once(run):
    _, found, review = run
    reasons = review.select(LIMITS)
    picked, every = review.histogram(reasons)
    assert len(picked) == len(every) == HISTOGRAM_BINS
    assert every.sum() == sum(map(len, found.values()))
    scores = np.concatenate([candidates.scores for candidates in found.values()])
    assert every[-1] == (scores >= 1 - 1 / HISTOGRAM_BINS).sum()
    assert picked.sum() == (reasons == PICKED).sum()
    assert not picked[:HISTOGRAM_BINS // 2].any()


def test_picks_are_written_as_the_run_writes_them(run, tmp_path):
    _, found, review = run
    limits = Limits(0.3, 100.0)
    review.write_picks("mic_2", review.select(limits), tmp_path / "a.box", 61)
    candidates, picked = found["mic_2"], select(found["mic_2"], limits, PIXEL_ANGST) == PICKED
    write_box(tmp_path / "b.box", candidates.centres_xy[picked], candidates.scores[picked], 61)
    assert (tmp_path / "a.box").read_text() == (tmp_path / "b.box").read_text()
    assert len(read_coordinates(tmp_path / "a.box")["a"].scores) == picked.sum()


def test_a_micrograph_whose_candidates_cannot_be_read_costs_no_other(tmp_path):
    found = write_run(tmp_path)
    (tmp_path / "candidates" / "mic_2.tsv").write_text("x\n")
    review = read_review(tmp_path, PIXEL_ANGST, 200.0)
    assert review.names == ("mic_0", "mic_1", "mic_3")
    assert "expected the columns" in review.micrographs["mic_2"].reason
    assert review.part("mic_2") == slice(0, 0)
    here = review.select(LIMITS)[review.part("mic_3")]
    assert here.tolist() == read_candidates(tmp_path / "candidates" / "mic_3.tsv")[1].tolist()
    assert len(here) == len(found["mic_3"])


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(DeepEMError, match="deepem pick"):
        read_review(tmp_path, PIXEL_ANGST, 200.0)
    (tmp_path / "summary.json").write_text('{"threshold": 0.5}')
    with pytest.raises(DeepEMError, match="std_range"):
        read_review(tmp_path, PIXEL_ANGST, 200.0)


def test_non_maximum_suppression_of_equal_scores_on_a_grid_goes_row_by_row():
    x, y = np.meshgrid(np.arange(12.0), np.arange(9.0))
    ones = np.ones(x.size)
    points = Candidates(np.stack([x.ravel(), y.ravel()], axis=1), 0.5 * ones, ones, ones)
    order = np.random.default_rng(1).permutation(x.size)
    kept = np.empty(x.size, bool)
    kept[order] = non_maximum_suppression(points.centres_xy[order], points.scores[order], 2.5)
    assert np.flatnonzero(kept).tolist() == greedy(points, Limits(0, 2.5), 1.0)


def test_a_dark_particle_is_dark_at_its_place_in_the_picture(tmp_path):
    rows, cols = np.mgrid[:300, :420]
    pixels = np.random.default_rng(0).normal(0, 0.3, (300, 420)) - 2 * (np.hypot(cols - 301, rows - 78) < 20)
    with mrcfile.new(tmp_path / "m.mrc", pixels.astype(np.float32)) as file:
        file.voxel_size = 1.0
    picture = read_picture(tmp_path / "m.mrc", PIXEL_ANGST, 40 * PIXEL_ANGST)
    assert picture.pixels.dtype == np.uint8
    assert np.array(picture.pixels.shape) * picture.scale == pytest.approx((300, 420), abs=picture.scale)
    col, row = ((np.array((301, 78)) - picture.edge_px) / picture.scale).astype(int)
    assert picture.pixels[row - 5:row + 6, col - 5:col + 6].mean() < 40 < picture.pixels.mean()


@pytest.mark.parametrize("box", [12, 13])
def test_a_peak_of_the_score_map_is_shown_at_the_place_of_its_candidate(tmp_path, box):
    mic = Micrograph(Path("m.mrc"), "m", np.random.default_rng(0).normal(size=(80, 120)).astype(np.float32), 6.0, 3.0,
                     (240, 360))
    step, padded = 4, pad(mic.pixels, box)
    scores = np.zeros([(side - box) // step + 1 for side in padded.shape], np.float32)
    scores[7, 21] = 0.9
    mrcfile.new(tmp_path / "s.mrc", scores).close()
    candidate, = find_candidates(mic, padded, scores, box, step).centres_xy
    picture = read_score_map(tmp_path / "s.mrc", box, step, mic.scale)
    place = (candidate - picture.edge_px) / picture.scale
    assert place == pytest.approx((21.5, 7.5))
    assert picture.pixels[7, 21] == round(0.9 * 255)
