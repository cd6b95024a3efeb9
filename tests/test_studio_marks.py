# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks of the studio and their log, edits, and tiles of micrographs."""

import errno
import io
import math
import os
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.picking.candidates import Candidates
from deepem_scipion.deepem.picking.selection import PICKED, REASONS, Limits
from deepem_scipion.deepem.studio.collection import Collection
from deepem_scipion.deepem.studio.editing import Shown, change
from deepem_scipion.deepem.studio.marks import DONE, NEGATIVE, PARTICLE, REGION, EditLog, Mark
from deepem_scipion.deepem.studio.pictures import MARGIN_PX, TILE_PX, Look, Pictures

LIMITS = Limits(0.5, 40.0)


def particle(x, y, score=math.nan):
    return Mark(PARTICLE, (x, y, score))


def negative(x, y, score=math.nan):
    return Mark(NEGATIVE, (x, y, score))


def shown(*marks, diameter_px=20.0):
    """Candidates at (100, 100), (140, 100) and, below the threshold, (200, 100)."""
    return Shown(np.array([[100.0, 100], [140, 100], [200, 100]]), np.array([0.9, 0.8, 0.3]),
                 np.array([PICKED, PICKED, "threshold"]), marks, diameter_px)


# ---------------------------------------------------------------- marks and their log

def test_edits_are_undone_and_redone_without_limit_and_survive_a_new_start(tmp_path):
    log = EditLog(tmp_path / "edits.jsonl")
    for number in range(50):
        log.do("a", [], [particle(number, 1.0)])
    assert [log.undo() for _ in range(60)] == ["a"] * 50 + [""] * 10
    assert log.marks["a"] == [] and not log.can_undo
    for _ in range(20):
        log.redo()
    log.do("b", [], [negative(1, 2, 0.7)])
    assert log.redo() == ""  # a new edit replaces what was undone
    log.close()
    again = EditLog(tmp_path / "edits.jsonl")
    assert again.marks == {"a": [particle(number, 1.0) for number in range(20)], "b": [negative(1, 2, 0.7)]}
    assert again.undo() == "b" and again.undo() == "a"
    assert len(again.of("a", PARTICLE)) == 19
    again.close()


def test_a_line_truncated_by_a_crash_is_left_out_and_others_follow(tmp_path):
    path = tmp_path / "edits.jsonl"
    log = EditLog(path)
    log.do("a", [], [particle(1, 1)])
    log.do("a", [], [particle(2, 2)])
    log.close()
    path.write_bytes(path.read_bytes()[:-7])
    log = EditLog(path)
    assert log.marks["a"] == [particle(1, 1)]
    log.do("a", [particle(1, 1)], [Mark(DONE)])
    log.close()
    log = EditLog(path)
    assert log.marks["a"] == [Mark(DONE)]
    log.close()


@pytest.mark.parametrize("fails", ["no space", "half a line", "not on the disk"])
def test_an_edit_that_was_not_saved_is_not_saved_later_either(tmp_path, monkeypatch, fails):
    log = EditLog(tmp_path / "edits.jsonl")
    log.do("a", [], [particle(1, 1)])
    file = log._file

    class Full:
        """A file on a full disk."""

        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, line):
            if fails == "no space":
                raise OSError(errno.ENOSPC, "No space left on device")
            return file.write(line[:7] if fails == "half a line" else line)

    def fsync(number):
        raise OSError(errno.EIO, "Input/output error")

    log._file = Full()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        for _ in range(2):
            with pytest.raises(DeepEMError, match="the edit is not saved"):
                log.do("a", [], [particle(2, 2)])
        again = EditLog(tmp_path / "edits.jsonl")
        assert again.marks == log.marks == {"a": [particle(1, 1)]}
        again.close()
    log._file = file
    log.do("a", [], [particle(2, 2)])
    log.close()
    again = EditLog(tmp_path / "edits.jsonl")
    assert again.marks["a"] == [particle(1, 1), particle(2, 2)]
    again.close()


@pytest.mark.parametrize("line", ['{"a": 1}', '["a", [], [["particle", 1]]]', '["a", [], [["circle", 1, 2, 3]]]',
                                  "nonsense", '["a", [], [["particle", 1e999, 0, 1]]]', '[1, [], []]', "[" * 5000,
                                  '"undo"'])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "edits.jsonl").write_text('["a", [], [["done"]]]\n"undo"\n' + line + "\n")
    with pytest.raises(DeepEMError, match="edits.jsonl, line 3: expected an edit"):
        EditLog(tmp_path / "edits.jsonl")


@given(st.binary(max_size=200))
def test_any_content_of_a_log_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("log") / "edits.jsonl"
    path.write_bytes(content)
    try:
        EditLog(path).close()
    except DeepEMError as error:
        assert str(path) in str(error)


# ---------------------------------------------------------------- edits

@pytest.mark.parametrize("marks, request_, removed, added", [
    ((), {"action": "add", "x": 103, "y": 99}, [], [particle(100, 100, 0.9)]),  # accepts
    ((), {"action": "add", "x": 203, "y": 99}, [], [particle(200, 100, 0.3)]),  # the peak there
    ((), {"action": "add", "x": 208, "y": 99}, [], [particle(208, 99)]),
    ((particle(50, 50),), {"action": "add", "x": 51, "y": 50}, [], []),
    ((negative(50, 50),), {"action": "add", "x": 51, "y": 50}, [negative(50, 50)], [particle(51, 50)]),
    ((), {"action": "remove", "x": 139, "y": 101}, [], [negative(140, 100, 0.8)]),
    ((), {"action": "remove", "x": 199, "y": 101}, [], []),
    ((particle(50, 50),), {"action": "remove", "x": 51, "y": 50}, [particle(50, 50)], []),
    ((particle(50, 50, 0.4),), {"action": "remove", "x": 51, "y": 50}, [particle(50, 50, 0.4)],
     [negative(50, 50, 0.4)]),
    ((negative(50, 50, 0.4),), {"action": "remove", "x": 51, "y": 50}, [negative(50, 50, 0.4)], []),
    ((Mark(REGION, (0, 0, 60, 60)),), {"action": "remove", "x": 51, "y": 50}, [Mark(REGION, (0, 0, 60, 60))], []),
    ((), {"action": "move", "x": 101, "y": 100, "to_x": 104, "to_y": 95}, [], [particle(104, 95, 0.9)]),
    ((), {"action": "move", "x": 101, "y": 100, "to_x": 60, "to_y": 60}, [],
     [particle(60, 60, 0.9), negative(100, 100, 0.9)]),
    ((particle(50, 50),), {"action": "move", "x": 50, "y": 50, "to_x": 70, "to_y": 50}, [particle(50, 50)],
     [particle(70, 50)]),
    ((particle(120, 100),), {"action": "erase", "points": [[90, 104], [150, 104]], "radius": 5}, [particle(120, 100)],
     [negative(100, 100, 0.9), negative(140, 100, 0.8)]),
    ((), {"action": "erase", "points": [[120, 100]], "radius": 5}, [], []),
    ((), {"action": "paint", "points": [[90, 104], [210, 104]], "radius": 5}, [],
     [particle(100, 100, 0.9), particle(140, 100, 0.8), particle(200, 100, 0.3)]),
    ((particle(195, 100),), {"action": "paint", "points": [[200, 100]], "radius": 5}, [], []),  # no room
    ((), {"action": "region", "x": 9, "y": 8, "to_x": 2, "to_y": 20}, [], [Mark(REGION, (2, 8, 9, 20))]),
    ((), {"action": "accept_all"}, [], [particle(100, 100, 0.9), particle(140, 100, 0.8), Mark(DONE)]),
    ((particle(50, 50),), {"action": "remove_all"}, [particle(50, 50)],
     [negative(100, 100, 0.9), negative(140, 100, 0.8), Mark(DONE)]),
    ((Mark(DONE),), {"action": "done"}, [Mark(DONE)], []),
    ((Mark(DONE), particle(1, 1)), {"action": "clear"}, [Mark(DONE), particle(1, 1)], []),
    # What was in view is stated, and is no longer there, or still is.
    ((Mark(DONE),), {"action": "done", "done": True}, [], []),
    ((Mark(DONE),), {"action": "done", "done": False}, [Mark(DONE)], []),
    ((negative(50, 50, 0.9),), {"action": "remove", "x": 50, "y": 50, "kind": "picked"}, [], []),
    ((negative(50, 50, 0.9),), {"action": "remove", "x": 50, "y": 50, "kind": "negative"}, [negative(50, 50, 0.9)], []),
    ((particle(50, 50, 0.9),), {"action": "remove", "x": 50, "y": 50, "kind": "negative"}, [particle(50, 50, 0.9)],
     [negative(50, 50, 0.9)]),
    ((), {"action": "remove", "x": 100, "y": 100, "kind": "negative"}, [], []),
    ((), {"action": "remove", "x": 100, "y": 100, "kind": "threshold"}, [], [negative(100, 100, 0.9)]),
    ((), {"action": "accept_all", "picks": 2}, [], [particle(100, 100, 0.9), particle(140, 100, 0.8), Mark(DONE)]),
])
def test_an_action_removes_and_adds_marks(marks, request_, removed, added):
    assert change(shown(*marks), request_) == (removed, added)


@pytest.mark.parametrize("action", ["accept_all", "remove_all"])
def test_other_picks_than_those_in_view_are_not_decided_about(action):
    with pytest.raises(DeepEMError, match="3 picks were in view, and now there are 2: look at them first"):
        change(shown(), {"action": action, "picks": 3})


_JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                                 max_size=3), max_leaves=8)


@given(st.sampled_from(["add", "move", "erase", "paint", "region", "nonsense", ""]),
       st.dictionaries(st.sampled_from(["x", "y", "to_x", "to_y", "points", "radius"]), _JSON))
def test_any_request_is_an_edit_or_refused(action, values):
    try:
        removed, added = change(shown(), {"action": action, **values})
    except DeepEMError as error:
        assert "expected an action" in str(error)
    else:
        assert all(math.isfinite(number) for mark in added for number in mark.values[:2])


def test_marks_decide_about_the_candidates_at_the_same_place():
    found = Collection(["a", "b"], 2.0, 40.0, LIMITS)
    candidates = Candidates(np.array([[100.0, 100], [140, 100], [200, 100]]), np.array([0.9, 0.8, 0.3]), np.ones(3),
                            np.full(3, 50.0))
    found.put("a", "a.mrc", candidates)
    marks = {"a": [negative(104, 100), particle(50, 50), Mark(DONE)]}
    assert found.shown("a", marks["a"]).reasons.tolist() == ["marked", PICKED, "threshold"]
    summary = found.summary(marks)
    assert summary["picks"] == [2, 0] and summary["particles"] == [1, 0] and summary["negatives"] == [1, 0]
    assert summary["status"] == [1, 0] and summary["done"] == [1, 0] and summary["scores"] == [0.8, None]
    assert dict(zip(REASONS, summary["reasons"])) == {**dict.fromkeys(REASONS, 0), PICKED: 1, "threshold": 1}
    assert np.sum(summary["histogram"], axis=1).tolist() == [1, 3]
    found.limits = replace(LIMITS, threshold=0.2)
    assert found.summary({})["picks"] == [3, 0]


# ---------------------------------------------------------------- pictures

def test_tiles_are_the_micrograph_binned(tmp_path):
    y, x = np.indices((600, 1100))
    with mrcfile.new(tmp_path / "a.mrc", (x + 2 * y).astype(np.float32)):
        pass
    pictures, path = Pictures(), tmp_path / "a.mrc"
    sizes = {}
    for level, columns, rows in ((0, 3, 2), (1, 2, 1), (2, 1, 1)):
        tiles = [[np.asarray(Image.open(io.BytesIO(pictures.tile(path, level, column, row, Look()))), float)
                  for column in range(columns)] for row in range(rows)]
        assert max(tiles[0][0].shape) <= TILE_PX + MARGIN_PX
        if columns > 1:  # of what they share
            np.testing.assert_allclose(tiles[0][0][:, -2:], tiles[0][1][:, :2], atol=3)
        picture = np.block([[tile[MARGIN_PX * bool(row):][:TILE_PX, MARGIN_PX * bool(column):][:, :TILE_PX]
                             for column, tile in enumerate(each)] for row, each in enumerate(tiles)])
        sizes[level] = picture.shape
        slope_x, slope_y = (picture[50, 200] - picture[50, 50]) / 150, (picture[140, 50] - picture[40, 50]) / 100
        # 99 % of the values are shown in 256 greys, and those of the sum of two ramps are rarer at the ends.
        assert 255 / 2300 < slope_x / 2**level < 1.25 * 255 / 2300
        assert slope_y == pytest.approx(2 * slope_x, rel=0.1)
    assert sizes == {0: (600, 1100), 1: (300, 550), 2: (150, 275)}
    flat = np.asarray(Image.open(io.BytesIO(pictures.tile(path, 0, 1, 0, Look(0, 60)))), float)
    assert np.ptp(flat[200:400, 200:400].mean(axis=0)) < 60  # the slope is gone
    for level, column, row in ((0, 3, 0), (0, -1, 0), (11, 0, 0), (-1, 0, 0)):
        with pytest.raises(DeepEMError, match="a.mrc"):
            pictures.tile(path, level, column, row, Look())
