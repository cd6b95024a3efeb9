# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a picking run."""

import json

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.parser import build_parser
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.summary import (
    CONTRAST_CHECKS,
    MIN_TO_COMPARE,
    ContrastCheck,
    MicrographResult,
    contrast,
    outliers,
    summarise_run,
)


def result(picks=100, mean_score=0.9, finished=0.0, **more):
    counts = {"border": 10, "mask": 0, "local_std": 0, "threshold": 30, "distance": 0, "rank": 0}
    return MicrographResult("mics/a b.mrc", "", picks + 40, picks, mean_score if picks else None, counts, 0.25,
                            finished, **more)


FAILED = MicrographResult("mics/bad.mrc", "not an\tMRC file\nat all", finished=7.5)


@pytest.fixture
def counts():
    """Numbers of picks on thirty ordinary micrographs."""
    return np.random.default_rng(0).poisson(100, 30).tolist()


def of(counts, scores=()):
    scores = scores or [0.9] * len(counts)
    return {str(number): result(n, score) for number, (n, score) in enumerate(zip(counts, scores))}


# ---- figures over all micrographs ----

def test_figures_of_a_run_are_means_over_its_micrographs_and_their_candidates():
    found = summarise_run({"a": result(100, 0.9, 10.0), "b": result(60, 0.5, 16.0), "bad": FAILED})
    assert (found.picked, found.failed, found.picks, found.picks_per_micrograph) == (2, 1, 160, 80)
    assert found.mean_score == pytest.approx((100 * 0.9 + 60 * 0.5) / 160)
    assert found.rejected_share == {"border": round(20 / 240, 4), "mask": 0, "local_std": 0, "threshold": 0.25,
                                    "distance": 0, "rank": 0}
    assert found.seconds == 0.25
    assert found.micrographs_per_minute == pytest.approx(60 * 2 / 8.5, abs=0.1)


@pytest.mark.parametrize("results", [{}, {"bad": FAILED}, {"a": result(0)}])
def test_means_of_nothing_are_none_and_valid_json(results):
    found = summarise_run(results)
    assert found.picks == 0 and found.mean_score is None and found.micrographs_per_minute is None
    json.dumps(found.as_dict(), allow_nan=False)


def test_speed_is_that_of_the_last_micrographs():
    slow = {str(n): result(finished=100.0 * n) for n in range(50)}
    fast = {f"x{n}": result(finished=4900 + 0.5 * n) for n in range(1, 121)}
    assert summarise_run({**slow, **fast}).micrographs_per_minute == 120


# ---- outliers ----

def test_counts_that_differ_by_chance_are_no_outliers_and_unusual_ones_are(counts):
    assert outliers(of(counts)) == {}
    found = outliers(of([*counts, 3, 0, 300]))
    assert found == {"30": "few picks (3, median 101)", "31": "few picks (0, median 101)",
                     "32": "many picks (300, median 101)"}


def test_an_unusual_mean_score_makes_an_outlier(counts):
    scores = np.random.default_rng(1).normal(0.9, 0.01, 30).tolist()
    assert outliers(of(counts, scores)) == {}
    found = outliers(of([*counts, 101, 2], [*scores, 0.5, 0.52]))
    assert found == {"30": "low scores (0.50, median 0.90)", "31": "few picks (2, median 101), low scores "
                     "(0.52, median 0.90)"}


def test_a_large_minority_of_outliers_is_still_found(counts):
    found = outliers(of([*counts, *[5] * 12]))
    assert set(found) == {str(number) for number in range(30, 42)}


def test_a_small_difference_is_no_outlier_where_all_other_micrographs_are_equal():
    assert outliers(of([100] * 20 + [90], [0.9] * 20 + [0.88])) == {}


def test_there_are_no_outliers_among_few_micrographs():
    assert outliers(of([100] * (MIN_TO_COMPARE - 2) + [0])) == {}
    assert outliers(of([100] * (MIN_TO_COMPARE - 1) + [0])) == {
        str(MIN_TO_COMPARE - 1): "few picks (0, median 100)"}


# ---- contrast ----

@pytest.mark.parametrize("evidence, negative, warned", [
    ((90, 80), (30, 20), False), ((30, 20), (90, 80), True), ((0, 0), (0, 0), False), ((0.5, 0), (1, 3), False),
    ((100, 100), (110, 110), False)])
def test_contrast_is_inverted_where_negatives_look_more_like_particles_than_by_chance(evidence, negative, warned):
    results = {str(n): result(evidence=a, negative_evidence=b) for n, (a, b) in enumerate(zip(evidence, negative))}
    found = summarise_run({**results, "later": result()}).contrast
    assert found == ContrastCheck(2, sum(evidence), sum(negative), warned)
    assert ("dark particles" in found.warning("dark")) == warned == bool(found.warning("dark"))
    assert ("trained on other particles" in found.warning(None)) == warned


def test_unchecked_contrast_is_none():
    assert summarise_run({"a": result()}).contrast is None


@pytest.mark.parametrize("known", ["evidence", "negative_evidence"])
def test_contrast_is_decided_from_micrographs_with_both_kinds_of_evidence(known):
    both, one = result(evidence=9.0, negative_evidence=3.0), result(**{known: 100.0})
    assert contrast({"a": both, "b": one}) == ContrastCheck(1, 9.0, 3.0, False)
    assert contrast({"b": one}) is None


def test_the_program_checks_the_contrast_on_the_default_number_of_micrographs():
    options = build_parser().parse_args(["pick", "--model", "m", "--micrographs", "x", "--output", "o"])
    assert options.contrast_checks == CONTRAST_CHECKS


def pick(model, micrographs, output, *more):
    assert main(["pick", "--model", str(model), "--micrographs", str(micrographs), "--output", str(output), *more]) == 0
    return json.loads((output / "summary.json").read_text())


def negatives(source, target):
    target.mkdir()
    for path in source:
        with mrcfile.open(path) as file, mrcfile.new(target / path.name, -file.data.astype(np.float32)) as other:
            other.voxel_size = file.voxel_size
    return target


def test_inverted_micrographs_are_noticed_and_others_raise_no_alarm(blobs, blob_model, tmp_path, capsys):
    right = pick(blob_model, blobs[0] / "micrographs", tmp_path / "right")
    assert right["contrast"]["micrographs"] == 3 and not right["contrast"]["inverted"]
    assert "contrast" not in capsys.readouterr().err
    wrong = negatives(sorted((blobs[0] / "micrographs").glob("*.mrc")), tmp_path / "wrong")
    found = pick(blob_model, wrong, tmp_path / "out")
    assert found["contrast"]["inverted"]
    assert "warning: the contrast seems to be inverted: the model was trained on dark particles" in (
        capsys.readouterr().err)
    assert found["contrast"]["evidence"] < 0.2 * found["contrast"]["negative_evidence"]
    assert pick(blob_model, wrong, tmp_path / "unchecked", "--contrast-checks", "0")["contrast"] is None
    table = PickingResults(tmp_path / "out").read_micrographs()
    assert {name: each.as_dict() for name, each in table.items()} == found["micrographs"]
