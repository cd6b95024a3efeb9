# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The results folder of a picking run: its tables and settings, and results that are collected from batches."""

import json
import os
from dataclasses import replace

import pytest

from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import Limits
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.picking.table import append_table, read_failures, read_table, write_failures, write_table

COUNTS = {"border": 10, "mask": 0, "local_std": 0, "threshold": 30, "distance": 0, "rank": 0}
PICKED = MicrographResult("mics/a b.mrc", "", 140, 100, 0.9, COUNTS, 0.25, 0.0)
FAILED = MicrographResult("mics/bad.mrc", "not an\tMRC file\nat all", finished=7.5)
SETTINGS = RunSettings(Limits(0.4, 50.0, (0.5, 1.5), 10.0), 4, 4, 40, 6.0, 100.0, 2.0, "dark", {"numpy": "2"})


# ---- tables ----

def test_a_table_is_read_as_it_was_written(tmp_path):
    results = {"a": replace(PICKED, evidence=80.5, negative_evidence=3.0),
               "none": replace(PICKED, picks=0, candidates=40, mean_score=None), "bad": FAILED}
    write_table(tmp_path / "t.tsv", results)
    assert read_table(tmp_path / "t.tsv") == {**results, "bad": replace(FAILED, reason="not an MRC file at all")}
    header, first, *_ = [line.split("\t") for line in (tmp_path / "t.tsv").read_text().splitlines()]
    row = dict(zip(header, first))
    assert (row["micrograph"], row["picks"], row["rejected_threshold"], row["share_threshold"]) == (
        "a", "100", "30", "0.2143")


def test_a_table_grows_and_the_last_line_about_a_micrograph_counts(tmp_path):
    table = tmp_path / "t.tsv"
    assert read_table(table) == {}
    append_table(table, {"a": PICKED, "b": FAILED})
    append_table(table, {})
    append_table(table, {"b": replace(PICKED, picks=50), "c": replace(PICKED, picks=60)})
    assert {name: each.picks for name, each in read_table(table).items()} == {"a": 100, "b": 50, "c": 60}
    write_table(tmp_path / "again.tsv", read_table(table))
    assert read_table(tmp_path / "again.tsv") == read_table(table)


@pytest.mark.parametrize("kept", [1, 40, -30, -1])
def test_a_truncated_line_costs_no_other(tmp_path, kept):
    table = tmp_path / "t.tsv"
    append_table(table, {"a": PICKED})
    complete = table.read_bytes()
    append_table(table, {"b": PICKED})
    table.write_bytes(complete + table.read_bytes()[len(complete):][:kept])
    assert list(read_table(table)) == ["a"]
    append_table(table, {"c": PICKED})
    assert [name for name in read_table(table) if name != "b"] == ["a", "c"]


def test_failures_are_read_as_they_were_written(tmp_path):
    assert read_failures(tmp_path / "f.tsv") == {}
    write_failures(tmp_path / "f.tsv", {"a b": "not an\tMRC  file\nat all", "c\x0b\udcff": "no such file"})
    assert read_failures(tmp_path / "f.tsv") == {"a b": "not an MRC file at all", "c\x0b\udcff": "no such file"}


# ---- settings ----

@pytest.mark.parametrize("settings", [SETTINGS, RunSettings(Limits(0.0, 1.5), 1, 1, 16, 4.5, 60.0)])
def test_settings_are_read_as_they_were_written(tmp_path, settings):
    PickingResults(tmp_path).write_summary(settings, {"a": PICKED})
    assert PickingResults(tmp_path).read_settings() == settings


@pytest.mark.parametrize("name, value", [
    ("threshold", None), ("std_range", [1]), ("std_range", [2, 1]), ("std_range", 3), ("border_angst", -1),
    ("box", "x"), ("box", {}), ("scan_step", float("inf")), ("rotations", float("nan")), ("diameter_angst", 10**400),
    ("versions", [5]), ("min_distance_angst", "missing")])
def test_damaged_settings_are_refused(tmp_path, name, value):
    plain = {**SETTINGS.as_dict(), name: value}
    if value == "missing":
        del plain[name]
    (tmp_path / "summary.json").write_text(json.dumps(plain))
    with pytest.raises(DeepEMError, match="summary.json: expected a summary as written by `deepem pick`"):
        PickingResults(tmp_path).read_settings()


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"3", b'"threshold"', b"\xff", b"[" * 100_000])
def test_a_summary_that_holds_no_settings_is_refused(tmp_path, content):
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(DeepEMError, match="summary.json: expected a summary as written by `deepem pick`"):
        PickingResults(tmp_path).read_settings()


# ---- batches ----

def write_batch(folder, **micrographs):
    """Write the summary of a batch, and return its results."""
    results = PickingResults(folder)
    results.make()
    results.write_summary(SETTINGS, micrographs)
    return results


def test_results_of_batches_are_collected(tmp_path):
    joined = PickingResults(tmp_path / "all")
    for number, name in enumerate("ab"):
        batch = write_batch(tmp_path / name, **{name: replace(PICKED, picks=5), f"bad{number}": FAILED})
        for path in (batch.path("box", name), batch.path("candidates", name), batch.path("star"), batch.path("failed")):
            path.write_text(path.name)
        joined.absorb(batch)
        assert {f"bad{number}", name} <= set(joined.read_micrographs())
    joined.refresh()
    files = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert files == {"a.box", "b.box", "candidates/a.tsv", "candidates/b.tsv", "summary.json", "summary.tsv"}
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert set(summary["micrographs"]) == {"a", "b", "bad0", "bad1"}
    assert (summary["picked"], summary["failed"], summary["picks"], summary["threshold"]) == (2, 2, 10, 0.4)
    assert joined.read_settings() == SETTINGS


def test_a_batch_without_a_summary_is_collected_and_changes_no_figures(tmp_path):
    joined = PickingResults(tmp_path / "all")
    batch = PickingResults(tmp_path / "batch")
    batch.make()
    batch.path("box", "a").write_text("a")
    joined.absorb(batch)
    joined.refresh()
    assert joined.has_picks("a") and not joined.exists() and joined.read_micrographs() == {}
    assert joined.contrast_checks_left() == 3
    joined.absorb(write_batch(tmp_path / "other", b=PICKED))
    joined.absorb(PickingResults(tmp_path / "absent"))
    joined.refresh()
    assert joined.read_micrographs() == {"b": PICKED} and joined.read_settings() == SETTINGS


def test_the_summary_is_updated_now_and_then_and_the_table_always(tmp_path):
    joined = PickingResults(tmp_path / "all")

    def absorb(name, result=PICKED):
        joined.absorb(write_batch(tmp_path / name, **{name: replace(result, picks=result.picks // 20)}))
        return set(json.loads(joined.path("settings").read_text())["micrographs"])

    assert [joined.contrast_checks_left(), absorb("a")] == [3, {"a"}]
    assert [joined.contrast_checks_left(), absorb("b")] == [2, {"a"}]
    os.utime(joined.path("settings"), (1, 1))
    assert absorb("c") == {"a", "b", "c"}
    absorb("a", replace(PICKED, picks=140))  # another attempt
    joined.refresh()
    assert json.loads(joined.path("settings").read_text())["picks"] == 17
    assert len(joined.path("table").read_text().splitlines()) == 4
    assert joined.contrast_checks_left() == 0
