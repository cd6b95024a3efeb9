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
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.report.pictures import read_score_map
from deepem_scipion.deepem.studio.collection import Collection

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


def test_numbers_of_each_micrograph_and_the_histogram_are_those_of_the_candidates():
    rng, found = np.random.default_rng(3), {}
    limits, names = Limits(0.3, 100.0), [f"mic_{number}" for number in range(4)]
    collection = Collection(names, PIXEL_ANGST, 100.0, LIMITS)
    for name, size in zip(names, (60, 0, 45, 80)):
        found[name] = some_candidates(rng, size)
        collection.put(name, f"{name}.mrc", found[name])
    collection.limits = limits
    summary, every = collection.summary({}), [select(each, limits, PIXEL_ANGST) for each in found.values()]
    assert summary["picks"] == [(each == PICKED).sum() for each in every]
    for mean, candidates, reasons in zip(summary["scores"], found.values(), every):
        picked = candidates.scores[reasons == PICKED]
        assert mean == (pytest.approx(picked.mean(), abs=1e-4) if len(picked) else None)
    reasons, scores = np.concatenate(every), np.concatenate([each.scores for each in found.values()])
    assert summary["reasons"] == [(reasons == reason).sum() for reason in REASONS]
    picked, all_candidates = summary["histogram"]
    assert len(picked) == len(all_candidates) == HISTOGRAM_BINS
    assert sum(all_candidates) == len(scores) and sum(picked) == (reasons == PICKED).sum()
    assert all_candidates[-1] == (scores >= 1 - 1 / HISTOGRAM_BINS).sum()
    assert not any(picked[:int(0.3 * HISTOGRAM_BINS)])


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


@pytest.mark.parametrize("box", [12, 13])
def test_a_peak_of_the_score_map_is_shown_at_the_place_of_its_candidate(tmp_path, box):
    mic = Micrograph(Path("m.mrc"), "m", np.random.default_rng(0).normal(size=(80, 120)).astype(np.float32), 6.0, 3.0,
                     (240, 360))
    step, padded = 4, pad(mic.pixels, box)
    scores = np.zeros([(side - box) // step + 1 for side in padded.shape], np.float32)
    scores[7, 21] = 0.9
    mrcfile.new(tmp_path / "s.mrc", scores).close()
    candidate, = find_candidates(mic, padded, scores, box, step).centres_xy
    mrcfile.new(tmp_path / "constant.mrc", 0 * scores).close()  # no box was scored
    assert not read_score_map(tmp_path / "constant.mrc", box, step, mic.scale).pixels.any()
    picture = read_score_map(tmp_path / "s.mrc", box, step, mic.scale)
    place = (candidate - picture.edge_px) / picture.scale
    assert place == pytest.approx((21.5, 7.5))
    assert picture.pixels[7, 21] == round(0.9 * 255)
