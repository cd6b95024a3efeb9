# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a picking run."""

import json

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.parser import build_parser
from deepem_scipion.deepem.picking.summary import (
    CONTRAST_CHECKS,
    MIN_TO_COMPARE,
    append_table,
    inverted,
    outliers,
    read_table,
    rejected,
    totals,
    write_table,
)


def entry(picks=100, mean_score=0.9, finished=0.0, **more):
    counts = {"border": 10, "local_std": 0, "threshold": 30, "distance": 0}
    return {"path": "mics/a b.mrc", "status": "ok", "candidates": picks + 40, "picks": picks,
            "mean_score": mean_score if picks else None, **rejected(counts, picks + 40), "seconds": 0.25,
            "finished": finished, **more}


FAILED = {"path": "mics/bad.mrc", "status": "failed", "reason": "not an\tMRC file\nat all", "finished": 7.5}


@pytest.fixture
def counts():
    """Numbers of picks of thirty ordinary micrographs."""
    return np.random.default_rng(0).poisson(100, 30).tolist()


def of(counts, scores=()):
    scores = scores or [0.9] * len(counts)
    return {str(number): entry(n, score) for number, (n, score) in enumerate(zip(counts, scores))}


# ---- tables ----

def test_a_table_comes_back_as_it_was_written(tmp_path):
    entries = {"a": entry(evidence=80.5, negative_evidence=3.0), "none": entry(picks=0), "bad": FAILED}
    write_table(tmp_path / "t.tsv", entries)
    again = read_table(tmp_path / "t.tsv")
    assert again == {**entries, "bad": {**FAILED, "reason": "not an MRC file at all"}}
    assert totals(again) == totals(entries)
    header, first, *_ = [line.split("\t") for line in (tmp_path / "t.tsv").read_text().splitlines()]
    row = dict(zip(header, first))
    assert (row["micrograph"], row["picks"], row["rejected_threshold"], row["share_threshold"]) == (
        "a", "100", "30", "0.2143")


def test_a_table_grows_and_the_last_entry_of_a_micrograph_holds(tmp_path):
    table = tmp_path / "t.tsv"
    assert read_table(table) == {}
    append_table(table, {"a": entry(), "b": FAILED})
    append_table(table, {})
    append_table(table, {"b": entry(50), "c": entry(60)})
    assert {name: each.get("picks") for name, each in read_table(table).items()} == {"a": 100, "b": 50, "c": 60}
    write_table(tmp_path / "anew.tsv", read_table(table))
    assert read_table(tmp_path / "anew.tsv") == read_table(table)


@pytest.mark.parametrize("kept", [1, 40, -30, -1])
def test_a_line_that_was_cut_short_costs_no_other(tmp_path, kept):
    table = tmp_path / "t.tsv"
    append_table(table, {"a": entry()})
    whole = table.read_bytes()
    append_table(table, {"b": entry()})
    table.write_bytes(whole + table.read_bytes()[len(whole):][:kept])
    assert list(read_table(table)) == ["a"]
    append_table(table, {"c": entry()})
    assert [name for name in read_table(table) if name != "b"] == ["a", "c"]


@pytest.mark.parametrize("kept", ["evidence", "negative_evidence"])
def test_contrast_is_told_by_micrographs_with_both_figures_of_it(kept):
    whole = entry() | {"evidence": 9.0, "negative_evidence": 3.0}
    damaged = entry() | {kept: 100.0}
    assert totals({"a": whole, "b": damaged})["contrast"]["micrographs"] == 1
    assert totals({"b": damaged})["contrast"] is None


# ---- totals ----

def test_totals_are_means_over_the_micrographs_and_their_candidates():
    found = totals({"a": entry(100, 0.9, 10.0), "b": entry(60, 0.5, 16.0), "bad": FAILED})
    assert (found["picked"], found["failed"], found["picks"], found["picks_per_micrograph"]) == (2, 1, 160, 80)
    assert found["mean_score"] == pytest.approx((100 * 0.9 + 60 * 0.5) / 160)
    assert found["rejected_share"] == {"border": round(20 / 240, 4), "local_std": 0, "threshold": 0.25, "distance": 0}
    assert found["seconds"] == 0.25
    assert found["micrographs_per_minute"] == pytest.approx(60 * 2 / 8.5, abs=0.1)


@pytest.mark.parametrize("entries", [{}, {"bad": FAILED}, {"a": entry(0)}])
def test_totals_of_nothing_are_none_and_ready_for_json(entries):
    found = totals(entries)
    assert found["picks"] == 0 and found["mean_score"] is None and found["micrographs_per_minute"] is None
    json.dumps(found, allow_nan=False)


def test_speed_is_that_of_the_last_micrographs():
    slow = {str(n): entry(finished=100.0 * n) for n in range(50)}
    fast = {f"x{n}": entry(finished=4900 + 0.5 * n) for n in range(1, 121)}
    assert totals({**slow, **fast})["micrographs_per_minute"] == 120


# ---- suspicious micrographs ----

def test_micrographs_of_chance_are_not_suspicious_and_odd_ones_are(counts):
    assert outliers(of(counts)) == {}
    found = outliers(of([*counts, 3, 0, 300]))
    assert found == {"30": "few picks (3, median 101)", "31": "few picks (0, median 101)",
                     "32": "many picks (300, median 101)"}


def test_a_mean_score_unlike_the_others_is_suspicious(counts):
    scores = np.random.default_rng(1).normal(0.9, 0.01, 30).tolist()
    assert outliers(of(counts, scores)) == {}
    found = outliers(of([*counts, 101, 2], [*scores, 0.5, 0.52]))
    assert found == {"30": "low scores (0.50, median 0.90)", "31": "few picks (2, median 101), low scores "
                     "(0.52, median 0.90)"}


def test_many_odd_micrographs_do_not_make_themselves_usual(counts):
    found = outliers(of([*counts, *[5] * 12]))
    assert set(found) == {str(number) for number in range(30, 42)}


def test_where_all_micrographs_are_alike_a_small_difference_is_not_suspicious():
    assert outliers(of([100] * 20 + [90], [0.9] * 20 + [0.88])) == {}


def test_few_micrographs_do_not_tell_what_is_usual():
    assert outliers(of([100] * (MIN_TO_COMPARE - 2) + [0])) == {}
    assert outliers(of([100] * (MIN_TO_COMPARE - 1) + [0])) == {str(MIN_TO_COMPARE - 1): "few picks (0, median "
                                                                    "100)"}


# ---- contrast ----

@pytest.mark.parametrize("evidence, negative, warned", [
    ((90, 80), (30, 20), False), ((30, 20), (90, 80), True), ((0, 0), (0, 0), False), ((0.5, 0), (1, 3), False),
    ((100, 100), (110, 110), False)])
def test_contrast_is_called_inverted_where_negatives_look_more_like_particles_than_by_chance(evidence, negative,
                                                                                              warned):
    entries = {str(n): entry(evidence=a, negative_evidence=b) for n, (a, b) in enumerate(zip(evidence, negative))}
    summary = {"model_contrast": "dark", **totals({**entries, "later": entry()})}
    assert summary["contrast"] == {"micrographs": 2, "evidence": sum(evidence), "negative_evidence": sum(negative),
                                   "inverted": warned}
    assert ("dark particles" in inverted(summary)) == warned == bool(inverted(summary))


def test_unchecked_contrast_is_no_problem():
    assert totals({"a": entry()})["contrast"] is None
    assert inverted(totals({"a": entry()})) == ""


def test_as_many_micrographs_are_checked_as_said():
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


def test_inverted_micrographs_are_noticed_and_right_ones_raise_no_alarm(blobs, blob_model, tmp_path, capsys):
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
    table = read_table(tmp_path / "out" / "summary.tsv")
    assert table == found["micrographs"]
