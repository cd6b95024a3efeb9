# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The studio without a browser and without its server: sessions, candidates, comparison."""

import asyncio
import io
import json
import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import candidates_of_blobs, show_stored, write_blobs
from deepem_scipion.deepem.coordinates.box import read_box, write_box
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.evaluation.metrics import evaluate
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import PICKED, Limits, select
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.studio.choosing import Choice
from deepem_scipion.deepem.studio.collection import Collection
from deepem_scipion.deepem.studio.comparing import Comparison
from deepem_scipion.deepem.studio.marks import PARTICLE, REGION
from deepem_scipion.deepem.studio.opening import Wanted, open_session
from deepem_scipion.deepem.studio.pictures import Look, Pictures
from deepem_scipion.deepem.studio.project import StudioProject
from deepem_scipion.deepem.studio.queue import Queue
from deepem_scipion.deepem.studio.server import Api
from deepem_scipion.deepem.studio.session import Session
from deepem_scipion.deepem.studio.settings import StudioSettings
from deepem_scipion.deepem.studio.teacher import Teacher
from deepem_scipion.deepem.studio.views import Views
from deepem_scipion.deepem.studio.worker import Worker

LIMITS = Limits(0.5, 40.0)
THRESHOLD = 0.4


# ---------------------------------------------------------------- sessions

@pytest.fixture
def micrographs(tmp_path):
    write_blobs(tmp_path, ["a", "b"], n=6)
    return tmp_path / "micrographs"


def test_a_session_keeps_limits_marks_and_candidates(micrographs, tmp_path):
    wanted = Wanted([micrographs], tmp_path / "session", diameter_angst=64.0)
    project, settings = open_session(wanted)
    session = Session(project, settings)
    assert session.waiting("b") == "b" and session.waiting() == "a"
    session.put("a", candidates_of_blobs(micrographs / "a.mrc"), settings)
    assert session.waiting() == "b"
    session.set_limits(THRESHOLD, 32.0, None)
    picks = session.picks("a")
    assert len(picks.scores) == 6
    session.set_limits(0.9, 10.0, (0.0, 5.0))
    assert len(session.picks("a").scores) == 0
    session.edit(0, {"action": "add", "x": 20, "y": 30})
    session.edit(0, {"action": "region", "x": 1, "y": 2, "to_x": 30, "to_y": 40})
    session.close()
    project.close()
    assert read_box(tmp_path / "session/particles/a.box").centres_xy == pytest.approx(np.array([[20, 30]]), abs=12)
    project, settings = open_session(replace(wanted, diameter_angst=None))
    assert settings.limits == Limits(0.9, 10.0, (0.0, 5.0)) and settings.diameter_angst == 64.0
    session = Session(project, settings)
    assert [mark.kind for mark in session.log.marks["a"]] == [PARTICLE, REGION]
    ((results, names),) = session.stored()
    assert names == ["a"] and len(results.read_candidates("a")[0]) > 6
    session.close()
    project.close()


def test_a_diameter_that_nobody_gave_is_assumed_until_somebody_gives_it(micrographs, tmp_path):
    def opened(folder="session", measured=None, **given):
        project, settings = open_session(Wanted([micrographs], tmp_path / folder, **given))
        session = Session(project, settings)
        session.adjust(**({"diameter_angst": measured} if measured else {"box_px": 24}))
        session.close()
        project.close()
        return settings.diameter_angst, settings.assumed

    assert opened() == opened(measured=150.0) == (150.0, True)  # also when the session is resumed
    assert opened() == (150.0, False)  # it was said that this is right
    assert opened(diameter_angst=90.0) == opened() == (90.0, False)
    assert opened("other", diameter_angst=150.0) == (150.0, False)


def test_another_diameter_discards_suggestions_and_what_was_found_with_the_old_one(micrographs, tmp_path):
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=90.0))
    session = Session(project, settings)
    session.put("a", candidates_of_blobs(micrographs / "a.mrc"), settings)
    session.update(diameter_angst=64.0)
    assert session.waiting() == "a" and not project.results(0).folder.exists()
    session.put("a", candidates_of_blobs(micrographs / "a.mrc"), settings)  # was under way
    session.fail("a", "damaged", settings)
    session.put_stored({"a": None}, [], settings)
    assert session.waiting() == "a"
    with pytest.raises(DeepEMError, match="particle diameter -1"):
        session.update(diameter_angst=-1.0)
    session.close()
    project.close()


def test_limits_that_cannot_be_saved_are_tried_again(micrographs, tmp_path, monkeypatch):
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=64.0))
    session = Session(project, settings)
    session.set_limits(0.77, 32.0, None)

    def full(self, settings):
        raise DeepEMError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(StudioProject, "write", full)
        session.save_limits()
        version = session.version
        session.save_limits()
    assert session.problem == "no space" and session.version == version
    session.save_limits()
    assert project.read().limits.threshold == 0.77
    session.close()
    project.close()


def test_a_limit_may_be_moved_while_candidates_arrive(micrographs, tmp_path, monkeypatch):
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=64.0))
    session, joining, arrived = Session(project, settings), threading.Event(), threading.Event()
    session.put("a", candidates_of_blobs(micrographs / "a.mrc"), settings)
    join = Collection._join

    def slow(self, parts):
        found = join(self, parts)
        joining.set()
        arrived.wait(0.5)  # for ever if nothing kept the candidates of b waiting
        return found

    def arrive():
        joining.wait(60)
        session.put("b", candidates_of_blobs(micrographs / "b.mrc"), settings)
        arrived.set()

    monkeypatch.setattr(Collection, "_join", slow)
    thread = threading.Thread(target=arrive)
    thread.start()
    session.set_limits(THRESHOLD, 32.0, None)
    thread.join(60)
    assert len(session.picks("a").scores) == len(session.picks("b").scores) == 6
    session.close()
    project.close()


@pytest.mark.parametrize("coordinates", [False, True])
def test_a_worker_that_ends_while_it_reads_leaves_no_micrograph_waiting_for_ever(micrographs, tmp_path, coordinates):
    write_box(tmp_path / "a.box", [[30, 40]], np.array([6.0]), 24)
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=64.0,
                                            coordinates=tmp_path / "a.box" if coordinates else None))
    session = Session(project, settings)
    if not coordinates:
        session.put("a", candidates_of_blobs(micrographs / "a.mrc"), settings)
    session.close()
    session = Session(project, settings)

    def end(*values):
        raise DeepEMError("the process ended unexpectedly")

    with pytest.raises(DeepEMError, match="ended unexpectedly"):
        Queue(session, SimpleNamespace(call=end))._load()
    # The general model would find others than the coordinates.
    assert session.waiting() == ("" if coordinates else "a")
    assert ("cannot be read" in session.collection.failure("a")) == coordinates
    session.close()
    project.close()


def test_a_session_of_other_micrographs_is_refused_and_so_is_none(micrographs, tmp_path):
    project, settings = open_session(Wanted([micrographs], tmp_path / "session"))
    Session(project, settings).close()
    project.close()
    with pytest.raises(DeepEMError, match=r"holds a session of other micrographs .b.\. Give"):
        open_session(Wanted([micrographs / "a.mrc"], tmp_path / "session"))
    with pytest.raises(DeepEMError, match="holds no session"):
        open_session(Wanted([], tmp_path / "nothing"))
    with pytest.raises(DeepEMError, match="no such file or folder"):
        open_session(Wanted([tmp_path / "nothing"], tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_session_is_open_only_once(tmp_path):
    first, second = StudioProject(tmp_path / "session"), StudioProject(tmp_path / "session")
    first.open()
    with pytest.raises(DeepEMError, match=f"is open in another studio: .* process {os.getpid()}"):
        second.open()
    first.close()
    second.open()
    second.close()


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "micrographs": {"../x": "y"}}',
                                     '{"format": 1, "micrographs": 3, "limits": {}}', "[" * 100_000])
def test_damaged_settings_are_refused(tmp_path, content):
    (tmp_path / "studio.json").write_text(content)
    with pytest.raises(DeepEMError, match="expected the settings of a session"):
        StudioProject(tmp_path).read()


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    for name in ("../x", "/etc/passwd", "a/../b", "a//b", "a/", "..", "", "a\0"):
        with pytest.raises(DeepEMError, match="expected the name of a micrograph"):
            StudioSettings({name: "x.mrc"}, 1.0, 100.0, LIMITS)
    results = PickingResults(tmp_path / "picks")
    results.make()
    results.write_summary(RunSettings(LIMITS, 4, 4, 24, 4.0, 64.0, 4.0), {"../../x": MicrographResult("x.mrc")})
    with pytest.raises(DeepEMError, match="expected the name of a micrograph"):
        open_session(Wanted([tmp_path / "picks"]))


def test_edits_of_micrographs_that_are_not_shown_are_written_nowhere(micrographs, tmp_path):
    project, settings = open_session(Wanted([micrographs], tmp_path / "session"))
    project.edits.write_text('["../../x", [], [["particle", 1, 2, null]]]\n')
    session = Session(project, settings)
    assert session.undo() == -1 and session.undo(redo=True) == -1
    session.close()
    project.close()
    assert not list(tmp_path.rglob("*.box*/../x*")) and not (tmp_path / "x.box").exists()


def test_coordinates_of_any_picker_are_corrected_and_keep_their_scores(micrographs, tmp_path):
    (tmp_path / "picked").mkdir()
    write_box(tmp_path / "picked" / "a.box", [[30, 40], [80, 60], [120, 90]], np.array([-4.0, 0.5, 6.0]), 24)
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=64.0,
                                            coordinates=tmp_path / "picked"))
    session = Session(project, settings)
    show_stored(session)
    assert session.waiting() == ""  # nothing is suggested beside them
    assert sorted(session.picks("a").scores) == pytest.approx([-4, 0.5, 6], abs=1e-4)
    assert len(session.picks("b").scores) == 0
    session.adjust(diameter_angst=80.0)
    assert session.waiting() == "" and len(session.picks("a").scores) == 3
    assert session.collection.diameter_px == pytest.approx(80.0 / settings.pixel_size_angst)
    session.set_limits(0.3, 0.0, None)
    session.edit(0, {"action": "remove", "x": 120, "y": 90})
    session.edit(1, {"action": "add", "x": 33, "y": 44})
    folder = Teacher(session, Queue(session, Worker())).save()
    assert read_box(folder / "a.box").scores == pytest.approx([0.5], abs=1e-4)
    assert read_box(folder / "b.box").centres_xy.tolist() == [[33, 44]]
    session.close()
    project.close()
    assert read_box(tmp_path / "session/negatives/a.box").centres_xy.tolist() == [[120, 90]]
    (tmp_path / "session").rename(tmp_path / "moved")  # with what it began with
    project, settings = open_session(Wanted([], tmp_path / "moved"))
    session = Session(project, settings)
    found, names = session.stored()[0]
    assert found.folder == tmp_path / "moved" / "start" and names == ["a", "b"]
    session.close()
    project.close()
    with pytest.raises(DeepEMError, match="none of the 1 micrographs has coordinates"):
        open_session(Wanted([micrographs / "a.mrc"], tmp_path / "other", coordinates=tmp_path / "boxes" / "b.box"))


RELION = """data_particles

loop_
_rlnMicrographName
_rlnCoordinateX
_rlnCoordinateY
_rlnDefocusU
_rlnDefocusV
MotionCorr/job002/mics/b_DW.mrc 50 60 20000 22000
MotionCorr/job002/mics/b_DW.mrc 90 60 21000 23000
MotionCorr/job002/mics/a_DW.mrc 40 70 9000 9000
"""


def test_files_of_other_programs_are_assigned_by_name_and_the_defocus_spreads_what_is_proposed(micrographs, tmp_path):
    write_blobs(tmp_path, "cdef", n=6)
    (tmp_path / "run_data.star").write_text(RELION)
    project, settings = open_session(Wanted(
        [micrographs], tmp_path / "session", diameter_angst=64.0, coordinates=tmp_path / "run_data.star",
        reference=tmp_path / "run_data.star", ctf=tmp_path / "run_data.star"))
    session = Session(project, settings)
    show_stored(session)
    assert session.picks("b").centres_xy.tolist() == [[50, 60], [90, 60]] and len(session.picks("c").scores) == 0
    assert sorted(session.reference) == ["a", "b"] and settings.defocus == pytest.approx({"a": 0.9, "b": 2.15})
    teacher = Teacher(session, Queue(session, Worker()))
    shown = Views(session, teacher).description()["defocus"]
    assert shown[:2] == pytest.approx([0.9, 2.15]) and shown[2:] == [None] * 4
    session.edit(0, {"action": "done"})
    session.update(defocus=dict(zip("abcdef", (1.0, 1.1, 3.0, 1.2, 1.3, 1.4))), limits=Limits(0.0, 0.0))
    assert teacher.view()["next"] == 2  # that furthest from the one that was checked
    session.close()
    project.close()
    (tmp_path / "run_data.star").write_text(RELION.replace("9000 9000", "9000 far"))
    with pytest.raises(DeepEMError, match="run_data.star, line 11.*far"):
        open_session(Wanted([micrographs], tmp_path / "other", diameter_angst=64.0, ctf=tmp_path / "run_data.star"))
    with pytest.raises(DeepEMError, match="expected the defocus of micrographs"):
        (tmp_path / "run_data.star").write_text("data_x\n_rlnMicrographName a.mrc\n")
        open_session(Wanted([micrographs], tmp_path / "other", diameter_angst=64.0, ctf=tmp_path / "run_data.star"))


def test_candidates_of_a_run_are_shown_as_the_run_found_them(micrographs, tmp_path):
    results = PickingResults(tmp_path / "picks")
    results.make()
    candidates = candidates_of_blobs(micrographs / "a.mrc")
    limits = Limits(0.4, 32.0)
    reasons = select(candidates, limits, 4.0)
    results.write_micrograph("a", candidates, reasons, 24)
    results.write_summary(RunSettings(limits, 4, 4, 24, 4.0, 64.0, model_contrast="bright"), {
        "a": MicrographResult.of(str(micrographs / "a.mrc"), candidates, reasons),
        "b": MicrographResult(str(micrographs / "b.mrc"), "damaged")})
    project, settings = open_session(Wanted([tmp_path / "picks"]))
    session = Session(project, settings)
    assert settings.diameter_angst == 64.0 and settings.limits == limits and settings.bright
    show_stored(session)
    view = Views(session, Teacher(session, Queue(session, Worker())))
    assert view.micrograph(0)["x"] == pytest.approx(candidates.centres_xy[:, 0], abs=0.01)
    assert view.summary()["picks"] == [int((reasons == PICKED).sum()), 0]
    assert view.micrograph(1)["failure"] == "damaged" and view.summary()["status"] == [1, 2]
    session.close()
    project.close()


def test_rows_of_tiff_files_are_counted_as_in_the_run_that_is_shown(tmp_path):
    pixels = np.arange(600 * 500, dtype=np.float32).reshape(600, 500)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    results = PickingResults(tmp_path / "picks")
    results.make()
    settings = RunSettings(Limits(0.5, 10.0), 2, 4, 27, 4.0, 100.0)
    for rows, darker in (("bottom", -1), ("top", 0)):
        results.write_summary(replace(settings, tiff_rows=rows), {"a": MicrographResult(str(tmp_path / "a.tif"))})
        project, found = open_session(Wanted([results.folder], pixel_size_angst=2.0))
        project.close()
        assert found.tiff_rows == rows
        tile = np.asarray(Image.open(io.BytesIO(Pictures(rows).tile(tmp_path / "a.tif", 0, 0, 0, Look()))), float)
        assert tile[darker].mean() < tile[-1 - darker].mean() - 100
    project, found = open_session(Wanted([tmp_path / "a.tif"], tmp_path / "new", pixel_size_angst=2.0, tiff_rows="top"))
    project.close()
    assert found.tiff_rows == "top"


# ---------------------------------------------------------------- comparison, and what is handed back

def test_the_comparison_with_a_reference_is_that_of_the_evaluation(micrographs, tmp_path):
    rng, truth, picks = np.random.default_rng(1), {}, {}
    for name in "ab":
        truth[name] = Coordinates(rng.uniform(20, [180, 140], (12, 2)), np.full(12, np.nan), 24)
        near = truth[name].centres_xy[:9] + rng.uniform(-3, 3, (9, 2))
        others = rng.uniform(20, [180, 140], (8, 2))
        picks[name] = Coordinates(np.concatenate([near, others]), rng.uniform(2, 9, 17), 24)
    for folder, found in (("truth", truth), ("picks", picks)):
        (tmp_path / folder).mkdir()
        for name, each in found.items():
            write_box(tmp_path / folder / f"{name}.box", each.centres_xy, each.scores, 24)
    (tmp_path / "regions.tsv").write_text("a\t0\t0\t150\t150\n")
    truth, picks = read_coordinates(tmp_path / "truth"), read_coordinates(tmp_path / "picks")
    expected = evaluate(truth, picks, 5.0, {"a": (0, 0, 150, 150)}, 5.0, 6.0)
    (tmp_path / "other.json").write_text(json.dumps(expected))
    project, settings = open_session(Wanted(
        [micrographs], tmp_path / "session", pixel_size_angst=2.0, diameter_angst=64.0, coordinates=tmp_path / "picks",
        reference=tmp_path / "truth", regions=tmp_path / "regions.tsv", compared={"other": tmp_path / "other.json"},
        distance_angst=10.0, limits={"threshold": 5.0, "min_distance_angst": 12.0}))
    session = Session(project, settings)
    show_stored(session)
    comparison = Comparison(session)
    figures = comparison.figures()
    for key in ("truth", "picks", "true_positives", "precision", "recall", "F1", "F2", "AP"):
        assert figures["overall"][key] == pytest.approx(expected["overall"][key])
        assert figures["micrographs"][1][key] == pytest.approx(expected["micrographs"]["b"][key])
    low, high = session.score_range
    assert low + (high - low) * figures["overall"]["best_F1"]["threshold"] == pytest.approx(
        expected["overall"]["best_F1"]["threshold"], abs=1e-4)
    own, other = figures["curves"]
    assert (own["label"], other["label"]) == ("", "other") and own["precision"] == other["precision"]
    of = comparison.of("a")
    assert of["true"] == expected["micrographs"]["a"]["true_positives"] and of["region"] == (0, 0, 150, 150)
    missed = of["missed"][0]  # marking it makes it a true positive
    session.edit(0, {"action": "add", "x": missed[0], "y": missed[1]})
    assert comparison.figures()["overall"]["true_positives"] == expected["overall"]["true_positives"] + 1
    for wrong in ("{}", '{"curve": 3}', '{"curve": {"threshold": [1, 2], "precision": [1], "recall": [1]}}',
                  '{"curve": {"threshold": [1], "precision": [NaN], "recall": [1]}}', "[" * 9999):
        (tmp_path / "other.json").write_text(wrong)
        with pytest.raises(DeepEMError, match="other.json: expected figures"):
            Comparison(session)
    session.close()
    project.close()


def test_pixel_sizes_that_disagree_are_refused_and_a_given_one_is_used_with_a_warning(micrographs, tmp_path):
    def problem(size=None):
        project, settings = open_session(Wanted([micrographs], tmp_path / "session", pixel_size_angst=size))
        session = Session(project, settings)
        session.close()
        project.close()
        return session.problem

    with mrcfile.open(micrographs / "b.mrc", "r+") as file:
        file.voxel_size = 8.0
    with pytest.raises(DeepEMError, match=r"4 A \(a\) and 8 A \(b\)\. Expected one in a session: .*--pixel-size"):
        problem()
    assert not (tmp_path / "session").exists()
    assert "was given as 8 A, and a has 4 A in the header. The given one is used" in problem(8.0) == problem()
    with mrcfile.open(micrographs / "a.mrc", "r+") as file:
        file.voxel_size = 1.0  # as programs write that do not know it
    assert "a has 1 A per pixel in the header, which is also written where" in problem()


def test_values_in_force_are_handed_back_and_the_server_ends_after_its_answer(micrographs, tmp_path):
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=64.0, box_px=30))
    session, events = Session(project, settings), []
    session.set_limits(0.3, 20.0, (0.5, 1.5), 8.0)
    queue = Queue(session, Worker())

    def asked(path, choice=None):
        """The events while a request is answered."""
        events.clear()
        app = Api(session, queue, lambda: events.append("end"), choice).app("token")
        scope = {"type": "http", "method": "POST", "path": f"/api/{path}", "query_string": b"", "headers":
                 [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer token")]}

        async def receive():
            return {"type": "http.request"}

        async def send(message):
            events.append(message.get("status") or message["body"])

        asyncio.run(app(scope, receive, send))
        return events

    status, problem = asked("choose")
    assert status == 400 and b"without --choose" in problem
    for path in ("choose", "close"):
        assert asked(path, Choice(tmp_path / "chosen.json")) == [200, b'{"saved": "", "stored": false}', "end"]
    assert json.loads((tmp_path / "chosen.json").read_text()) == {
        "threshold": 0.3, "min_distance_angst": 20.0, "border_angst": 8.0, "std_range": [0.5, 1.5],
        "diameter_angst": 64.0, "box_px": 30, "turn": 0}
    session.close()
    project.close()
