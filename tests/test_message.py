# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrograph by micrograph for other programs, and the share of the best picks."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepem_scipion import __version__
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.parser import build_parser
from deepem_scipion.deepem.commands.worker import pick_one
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.picking.candidates import Candidates
from deepem_scipion.deepem.picking.message import pick_message
from deepem_scipion.deepem.picking.picker import Picker
from deepem_scipion.deepem.picking.selection import Limits, select

FACILITY = Path(__file__).resolve().parent.parent / "docs" / "facility.md"


@pytest.fixture(scope="module")
def picker(blob_model):
    return Picker(load_model(blob_model))


def test_a_message_has_the_picks_and_a_picture_of_them(picker, blobs, tmp_path):
    path = blobs[0] / "micrographs" / "d.mrc"
    found = pick_message(picker, path, picture=tmp_path / "d.jpg")
    assert json.loads(json.dumps(found)) == found
    assert (found["status"], found["name"], found["shape"]) == ("ok", "d", [150, 210])
    picks = picker.pick(picker.model.read_micrograph(path)).picks
    np.testing.assert_allclose(found["picks"], picks.centres_xy, atol=0.005)
    assert found["scores"] == sorted(found["scores"], reverse=True) and len(found["scores"]) > 5
    assert (found["diameter_angst"], found["box_px"], found["pixel_size_angst"]) == (64, 24, 4)
    picture = np.asarray(Image.open(tmp_path / "d.jpg")).astype(int)
    yellow = (picture[..., 0] - picture[..., 2]) > 60
    scale = picture.shape[1] / 210
    x, y = scale * (np.array(found["picks"][0]) + 0.5)
    # The circle of a pick, 16 px wide, is around it.
    assert yellow[round(y - 10 * scale):round(y + 10 * scale), round(x - 10 * scale):round(x + 10 * scale)].sum() > 10


def test_a_micrograph_without_picks_is_a_success_and_one_that_fails_has_a_reason(blob_model, blobs, tmp_path):
    strict = Picker(load_model(blob_model), Limits(1.0, 0.0))
    found = pick_message(strict, blobs[0] / "micrographs" / "d.mrc")
    assert (found["status"], found["picks"], found["scores"]) == ("ok", [], [])
    (tmp_path / "bad.mrc").write_text("no")
    found = pick_message(strict, tmp_path / "bad.mrc")
    assert found["status"] == "failed" and "bad.mrc" in found["reason"] and "picks" not in found


def test_a_picture_does_not_replace_the_micrograph(picker, blobs, tmp_path):
    path = Path(shutil.copy(blobs[0] / "micrographs" / "d.mrc", tmp_path))
    before = path.read_bytes()
    found = pick_message(picker, path, picture=tmp_path / ".." / tmp_path.name / "d.mrc")
    assert found["status"] == "failed" and "would replace" in found["reason"]
    assert path.read_bytes() == before


def test_a_worker_answers_request_after_request(blobs, blob_model, tmp_path):
    path = str(blobs[0] / "micrographs" / "d.mrc")
    requests = [{"micrograph": path, "name": "first"}, {"micrograph": "none.mrc"}, {"picture": "a.jpg"}, "no JSON",
                {"micrograph": path, "pixel_size": 4.0}]
    lines = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in requests)
    done = subprocess.run([sys.executable, "-m", "deepem_scipion.deepem", "worker", "--model", str(blob_model),
                           "--quiet", "--threads", "1"], input=lines, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["status"] for each in answers] == ["ok", "failed", "failed", "failed", "ok"]
    assert answers[0]["name"] == "first" and answers[0]["picks"] == answers[4]["picks"] != []
    assert "none.mrc" in answers[1]["reason"] and "expected a JSON object" in answers[2]["reason"]


def test_the_program_writes_the_message_and_a_picture_of_each_micrograph(picker, blobs, blob_model, tmp_path):
    mics, bad = blobs[0] / "micrographs", tmp_path / "bad.mrc"
    bad.write_text("no")
    arguments = ["pick", "--model", str(blob_model), "--micrographs", str(mics / "d.mrc"), str(mics / "e.mrc"),
                 str(bad), "--output", str(tmp_path / "out"), "--box", "30", "--contrast-checks", "0"]
    assert main([*arguments, "--json", "--pictures"]) == 1
    read = {name: json.loads((tmp_path / "out" / "json" / f"{name}.json").read_text()) for name in ("d", "e", "bad")}
    expected = pick_message(picker, mics / "d.mrc")
    assert read["d"].pop("seconds") > 0 < expected.pop("seconds")
    assert read["d"] == {**expected, "box_px": 30, "picture": "pictures/d.jpg"} and len(read["d"]["picks"]) > 5
    assert read["bad"] == pick_message(picker, bad)
    pictures = tmp_path / "out" / "pictures"
    assert sorted(path.name for path in pictures.iterdir()) == ["d.jpg", "e.jpg"]
    with Image.open(pictures / "e.jpg") as picture:
        assert picture.size == (210, 150)

    # An earlier run is complete only with them, and leaves none behind.
    (pictures / "d.jpg").unlink()
    times = {name: (tmp_path / "out" / f"{name}.box").stat().st_mtime_ns for name in "de"}
    assert main([*arguments, "--json", "--pictures", "--resume"]) == 1
    assert {name: (tmp_path / "out" / f"{name}.box").stat().st_mtime_ns > times[name] for name in "de"} == {
        "d": True, "e": False}
    assert (pictures / "d.jpg").exists()
    assert main(["merge", str(tmp_path / "all"), str(tmp_path / "out")]) == 1
    assert json.loads((tmp_path / "all" / "json" / "e.json").read_text()) == read["e"]
    assert (tmp_path / "all" / "pictures" / "d.jpg").read_bytes() == (pictures / "d.jpg").read_bytes()
    assert main([*arguments, "--overwrite"]) == 1
    assert not pictures.exists() and not (tmp_path / "out" / "json").exists()


def test_a_micrograph_at_an_improbable_scale_is_picked_only_if_asked_for(picker, blobs):
    path = blobs[0] / "micrographs" / "d.mrc"
    found = pick_message(picker, path, pixel_size_angst=20.0)
    assert found["status"] == "failed" and "expected at most 4 times" in found["reason"].lower()
    assert pick_message(picker, path, pixel_size_angst=20.0, any_scale=True)["status"] == "ok"


KINDS = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "null": type(None)}


def check(value, schema):
    """Check a value against the part of JSON Schema that the manifest uses."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(isinstance(value, KINDS[kind]) for kind in kinds), (value, schema)
    assert value in schema.get("enum", [value])
    if isinstance(value, dict):
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        for name, each in value.items():
            check(each, schema["properties"][name])
    if isinstance(value, list):
        for each in value:
            check(each, schema["items"])


@pytest.mark.skipif(not FACILITY.exists(), reason="no docs/: not in a working copy of the sources")
def test_the_manifest_of_the_documentation_describes_the_messages_of_the_worker(picker, blobs, tmp_path):
    manifest = json.loads(re.search(r"```json\n(.*?)```", FACILITY.read_text(encoding="utf-8"), re.S)[1])
    assert manifest["version"] == __version__ and manifest["command"][0] == "deepem"
    build_parser().parse_args(manifest["command"][1:])
    path = str(blobs[0] / "micrographs" / "d.mrc")
    full = {"micrograph": path, "name": "d", "pixel_size": 4.0, "picture": str(tmp_path / "d.jpg")}
    assert set(full) | {"mask"} == set(manifest["request"]["properties"])
    answered = set()
    for request in (full, {"micrograph": path}, {"micrograph": "none.mrc"}):
        check(request, manifest["request"])
        answer = pick_one(picker, json.dumps(request).encode())
        check(answer, manifest["answer"])
        answered |= set(answer)
    assert answered == set(manifest["answer"]["properties"])
    for request in ({"name": "d"}, {"micrograph": 5}, {"micrograph": path, "colour": "red"}):
        with pytest.raises(AssertionError):
            check(request, manifest["request"])
        answer = pick_one(picker, json.dumps(request).encode())
        check(answer, manifest["answer"])
        assert answer["status"] == "failed"


@given(st.lists(st.integers(0, 5), max_size=12), st.floats(0.01, 1), st.integers(0, 15))
def test_the_best_picks_are_kept_but_a_minimum_number(scores, share, number):
    n = len(scores)
    candidates = Candidates(np.column_stack([np.arange(n) * 50.0, np.zeros(n)]), np.array(scores) / 5 + 0.0, np.ones(n),
                            np.full(n, 90.0))
    reasons = select(candidates, Limits(0.0, 1.0, keep_best=share, at_least=number), 1.0)
    kept = reasons == "picked"
    assert kept.sum() == min(n, max(int(np.ceil(share * n)), number))
    assert set(reasons[~kept]) <= {"rank"}
    if kept.any() and not kept.all():
        assert candidates.scores[kept].min() >= candidates.scores[~kept].max()


def test_the_share_is_that_of_each_micrograph():
    candidates = Candidates(np.column_stack([np.arange(6) * 50.0, np.zeros(6)]),
                            np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.ones(6), np.full(6, 90.0))
    reasons = select(candidates, Limits(0.0, 1.0, keep_best=0.5), 1.0, parts=[slice(0, 2), slice(2, 6)])
    assert reasons.tolist() == ["picked", "rank", "picked", "picked", "rank", "rank"]


def test_the_program_keeps_the_best_picks(blobs, blob_model, tmp_path):
    arguments = ["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "d.mrc"),
                 "--output"]
    assert main([*arguments, str(tmp_path / "all")]) == 0
    assert main([*arguments, str(tmp_path / "best"), "--keep-best", "0.2", "--at-least", "3"]) == 0
    everything, best = (read_coordinates(tmp_path / run)["d"].scores for run in ("all", "best"))
    assert len(best) == max(3, np.ceil(0.2 * len(everything))) and best.min() == sorted(everything)[-len(best)]
    assert main([*arguments, str(tmp_path / "bad"), "--keep-best", "0"]) == 2
