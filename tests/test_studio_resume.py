# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions of the studio that are opened again, with the same options or with others."""

import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import candidates_of_blobs, show_stored, write_blobs
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import read_box, write_box
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.deepem.model.general import general_model
from deepem_scipion.deepem.picking.candidates import Candidates
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import Limits, select
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.studio.lessons import Learned
from deepem_scipion.deepem.studio.marks import PARTICLE
from deepem_scipion.deepem.studio.opening import open_session
from deepem_scipion.deepem.studio.queue import Queue
from deepem_scipion.deepem.studio.saved import picks_of_session
from deepem_scipion.deepem.studio.session import Session
from deepem_scipion.deepem.studio.starting import Wanted
from deepem_scipion.deepem.studio.teacher import Teacher
from deepem_scipion.deepem.studio.worker import Worker


@pytest.fixture
def mics(tmp_path):
    """Two micrographs, a and b."""
    write_blobs(tmp_path, "ab", n=6)
    return tmp_path / "micrographs"


@contextmanager
def opened(*sources, project, **given):
    """A session, with the candidates that are stored."""
    files, settings = open_session(Wanted(sources, project, **given))
    try:
        session = Session(files, settings)
        show_stored(session)
        yield session
        session.close()
    finally:
        files.close()


def find_all(session):
    """Find the candidates of all micrographs that have none."""
    while name := session.waiting():
        session.put(name, candidates_of_blobs(session.path(session.names.index(name))), session.settings)


def learn(session, content=64.0, score=3, final=False):
    """Learn a model, which finds nothing yet; returns the teacher."""
    def call(function, lessons, course, progress):
        save_model(course.output, general_model(content, "dark"))
        return Learned(course.output, Limits(0.3, 40.0), 4, False, 3, score)

    session.project.model(1).parent.mkdir(exist_ok=True)
    teacher = Teacher(session, Queue(session, Worker()))
    teacher.learn(final)
    teacher._learn(SimpleNamespace(call=call))
    return teacher


def marked(session):
    return [(name, [mark.kind for mark in marks]) for name, marks in session.log.marks.items()]


def test_what_is_given_counts_unless_it_was_given_the_last_time_and_marks_stay(mics, tmp_path):
    def again(**given):
        return opened(mics, project=tmp_path / "session", **given)

    with again(diameter_angst=64.0, limits={"threshold": 0.4}) as session:
        find_all(session)
        session.edit(0, {"action": "add", "x": 3, "y": 147})
        session.adjust(diameter_angst=90.0)
        session.set_limits(0.6, 45.0, None)
        find_all(session)
    with again(diameter_angst=64.0, limits={"threshold": 0.4}) as session:  # the same command
        assert (session.settings.diameter_angst, session.settings.limits.threshold) == (90.0, 0.6)
        assert session.waiting() == "" and session.settings.limits.min_distance_angst == 45.0
    with again(diameter_angst=80.0, limits={"border_angst": 20.0}) as session:
        assert session.settings.diameter_angst == 80.0 and session.waiting() == "a"  # what was found at 90 A is gone
        assert session.settings.limits == Limits(0.6, 40.0, None, 20.0)  # half a diameter, as before
        assert marked(session) == [("a", [PARTICLE])]
        find_all(session)
    for given in ({"bright": True}, {"bright": False}, {"pixel_size_angst": 2.0}):
        with again(**given) as session:
            assert session.waiting() == "a" and session.settings.diameter_angst == 80.0
            find_all(session)
        with again() as session:
            assert session.waiting() == "" and session.settings.pixel_size_angst == given.get("pixel_size_angst", 4.0)
    with again(limits={"threshold": 0.45}) as session:
        assert session.settings.limits.threshold == 0.45
    with pytest.raises(DeepEMError, match="session counts the rows of TIFF files from the bottom"), \
            again(tiff_rows="top"):
        pass


def test_options_of_the_program_count_and_what_is_not_given_is_as_the_run_has_it(mics, tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.setattr("deepem_scipion.deepem.studio.serving.serve",
                        lambda project, settings, *others: (served.append(settings), project.write(settings),
                                                            project.close()))

    def studio(*words):
        assert main(["studio", "--project", str(tmp_path / "session"), *map(str, words)]) == 0
        return served[-1].limits

    assert studio(mics, "--diameter", "64") == Limits.of_model(general_model(64.0, "dark"))
    assert f"no picks were saved; this saves them at the end: deepem studio --project {tmp_path / 'session'} --save" \
        in capsys.readouterr().err
    words = ["--threshold", "0.4", "--min-distance", "20", "--std-range", "0.5", "2", "--border", "8", "--keep-best",
             "0.7", "--at-least", "3", "--max-mask", "0.2"]
    expected = Limits(0.4, 20.0, (0.5, 2.0), 8.0, 0.2, 0.7, 3)
    assert studio(mics, *words) == studio() == studio(mics) == expected
    assert studio("--std-range", "off", "--border", "0", "--max-mask", "0.5") == Limits(0.4, 20.0, None, 0, 0.5, 0.7, 3)
    assert studio("--threshold", "auto").threshold == general_model(64.0, "dark").threshold
    write_box(tmp_path / "a.box", [[30, 40], [80, 60]], np.array([4.0, 16.0]), 24)
    coordinates = ["--coordinates", tmp_path / "a.box"]
    for wrong, problem in ((["--threshold", "2"], "--threshold 2: expected"),
                           (["--threshold", "nan"], "--threshold nan: expected"),
                           (["--std-range", "2", "1"], "--std-range 2 1: expected"),
                           ([*coordinates, "--threshold", "nan"], "--threshold nan: expected"),
                           ([*coordinates, "--std-range", "auto"], "std_range: expected numbers"),
                           ([*coordinates, "--threshold", "F1"], "expected a score")):
        assert main(["studio", "--project", str(tmp_path / "session"), *map(str, wrong)]) == 2
        assert problem in capsys.readouterr().err
    assert studio(*coordinates, "--keep-best", "0.5") == Limits(0.0, 0.0, keep_best=0.5)
    assert studio("--threshold", "8").threshold == pytest.approx(1 / 3)
    assert studio("--threshold", "0.5").threshold == 0 and "warning: --thr" not in capsys.readouterr().err
    assert studio("--threshold", "20").threshold == 1 and "--threshold 20 is above all" in capsys.readouterr().err
    assert main(["studio", "--project", str(tmp_path / "session"), "--threshold", "auto"]) == 2
    assert "threshold: expected numbers" in capsys.readouterr().err


def test_coordinates_given_later_are_shown_and_so_are_those_that_have_changed(mics, tmp_path):
    def again(**given):
        return opened(mics, project=tmp_path / "session", diameter_angst=64.0, coordinates=tmp_path / "c", **given)

    with opened(mics, project=tmp_path / "session", diameter_angst=64.0) as session:
        find_all(session)
        session.edit(1, {"action": "add", "x": 3, "y": 147})
    (tmp_path / "c").mkdir()
    write_box(tmp_path / "c" / "a.box", [[30, 40], [80, 60]], np.array([-4.0, 6.0]), 24)
    with again() as session:
        assert session.picks("a").centres_xy.tolist() == [[30, 40], [80, 60]] and session.waiting() == ""
        assert session.picks("b").centres_xy.tolist() == [[3, 147]]
        session.set_limits(0.7, 0.0, None)
    with again() as session:
        assert session.picks("a").centres_xy.tolist() == [[80, 60]]  # as it was left
    with again(limits={"threshold": -5.0}) as session:
        assert len(session.picks("a").scores) == 2
    with opened(project=tmp_path / "session") as session:
        assert len(session.picks("a").scores) == 2
    write_box(tmp_path / "c" / "a.box", [[33, 44]], np.array([0.5]), 24)
    with again() as session:
        assert session.picks("a").centres_xy.tolist() == [[33, 44]] and marked(session) == [("b", [PARTICLE])]
        find_all(session)
        learn(session)
        write_box(tmp_path / "c" / "a.box", [[50, 60]], np.array([7.0]), 24)
    with again() as session:
        assert session.settings.turn == 1
        find_all(session)
        assert len(session.picks("a").scores) > 1
        Teacher(session, Queue(session, Worker())).back()
        show_stored(session)
        assert session.picks("a").centres_xy.tolist() == [[50, 60]]


def test_coordinates_outside_of_their_micrographs_are_left_out_with_a_warning(mics, tmp_path, caplog):
    write_box(tmp_path / "a.box", [[-2, 40], [0, 149], [80, 60], [210, 3], [9, 150]], np.arange(5.0), 24)
    for warned in (True, False):  # the second time they are not read again
        with opened(mics, project=tmp_path / "session", diameter_angst=64.0, coordinates=tmp_path / "a.box") as session:
            assert session.picks("a").centres_xy.tolist() == [[0, 149], [80, 60]]
            assert session.picks("a").scores.tolist() == [1, 2]
        assert ("warning: 3 coordinates are outside of their micrographs" in caplog.text) == warned
        caplog.clear()


def test_micrographs_that_coordinates_do_not_name_are_not_saved_as_empty_ones(tmp_path, caplog):
    write_blobs(tmp_path, "abcd", n=6)
    (tmp_path / "c").mkdir()
    write_box(tmp_path / "c" / "a.box", [[30, 40], [80, 60]], np.array([4.0, 6.0]), 24)
    (tmp_path / "c" / "b.box").write_text("")
    with opened(tmp_path / "micrographs", project=tmp_path / "session", diameter_angst=64.0,
                coordinates=tmp_path / "c") as session:
        assert "warning: 2 of 4 micrographs have no coordinates" in caplog.text
        session.edit(3, {"action": "add", "x": 30, "y": 40})
        assert session.waiting() == ""  # they are not searched either
        teacher = Teacher(session, Queue(session, Worker()))
        assert [lesson.name for lesson in teacher._lessons()] == ["d", "a", "b"]  # all of c is unknown
        folder = teacher.save()
        assert {path.name: len(read_box(path).scores) for path in folder.glob("*.box")} == {"a.box": 2, "b.box": 0,
                                                                                            "d.box": 1}
        assert "1 micrographs without candidates are left out of the picks saved: c" in session.problem
        assert [each.name for each in picks_of_session(session.project)] == ["a", "b", "d"]
        learn(session)
        find_all(session)
        assert (Teacher(session, Queue(session, Worker())).save() / "c.box").exists()


def test_a_pick_whose_centre_is_just_outside_is_accepted_but_none_is_set_there_by_hand(mics, tmp_path):
    with opened(mics, project=tmp_path / "session", diameter_angst=64.0) as session:
        session.put("a", Candidates(np.array([[-2.0, 40], [80, 60]]), np.array([0.8, 0.9]), np.ones(2),
                                    np.full(2, 99.0)), session.settings)
        session.edit(0, {"action": "add", "x": 0, "y": 40})
        assert [mark.values[:2] for mark in session.log.marks["a"]] == [(-2, 40)]
        for request in ({"action": "add", "x": -2, "y": 90},
                        {"action": "move", "x": 80, "y": 60, "to_x": 80, "to_y": -2}):
            with pytest.raises(DeepEMError, match="outside of the micrograph"):
                session.edit(0, request)


def test_coordinates_of_further_micrographs_are_shown_and_the_threshold_remains(mics, tmp_path, caplog):
    def again(*names):
        return opened(*(mics / f"{name}.mrc" for name in names), project=tmp_path / "session", diameter_angst=64.0,
                      coordinates=tmp_path / "c")

    (tmp_path / "c").mkdir()
    write_box(tmp_path / "c" / "a.box", [[30, 40], [80, 60]], np.array([4.0, 6.0]), 24)
    write_box(tmp_path / "c" / "b.box", [[50, 60], [90, 90], [20, 99]], np.array([1.0, 5.5, 9.0]), 24)
    with again("a") as session:
        session.set_limits(0.5, 20.0, None)
        session.adjust(diameter_angst=80.0)
    with again("a", "b") as session:
        assert [session.picks(name).scores.tolist() for name in "ab"] == [[6.0], [5.5, 9.0]]
        assert session.settings.limits.min_distance_angst == 20.0 and session.settings.diameter_angst == 80.0
    shutil.rmtree(tmp_path / "session")
    with again("a") as session:
        session.edit(0, {"action": "done"})
        session.set_limits(0.5, 20.0, None)
        learn(session)
    with again("a", "b") as session:  # with a model that was learnt meanwhile
        assert session.settings.turn == 1 and "leads to" not in caplog.text
        Teacher(session, Queue(session, Worker())).back()
        show_stored(session)
        assert [session.picks(name).scores.tolist() for name in "ab"] == [[6.0], [5.5, 9.0]]


def test_limits_given_with_coordinates_are_not_those_of_a_model_that_was_learnt(mics, tmp_path):
    write_box(tmp_path / "a.box", [[30, 40], [80, 60]], np.array([4.0, 16.0]), 24)
    with opened(mics, project=tmp_path / "session", diameter_angst=64.0) as session:
        find_all(session)
        session.edit(0, {"action": "done"})
        learn(session)
    with opened(mics, project=tmp_path / "session", coordinates=tmp_path / "a.box", limits={"threshold": 5}) as session:
        assert session.settings.limits.threshold == 0.3  # that of the model learnt
        find_all(session)
        Teacher(session, Queue(session, Worker())).back()
        show_stored(session)
        assert session.picks("a").scores.tolist() == [16.0]


def test_a_model_given_to_a_session_on_coordinates_is_the_one_to_learn_from(mics, tmp_path):
    save_model(tmp_path / "m.deepem", general_model(64.0, "dark"))
    save_model(tmp_path / "other.deepem", general_model(80.0, "dark"))
    write_box(tmp_path / "a.box", [[30, 40], [80, 60]], np.array([4.0, 6.0]), 24)
    session_of = {"project": tmp_path / "session"}
    with opened(mics, **session_of, diameter_angst=64.0, coordinates=tmp_path / "a.box") as session:
        session.set_limits(0.7, 0.0, None)
    for sources in ((), (mics,)):  # the second time nothing is new
        with opened(*sources, **session_of, model=tmp_path / "m.deepem") as session:
            assert session.settings.model == str(tmp_path / "m.deepem") and session.settings.limits.threshold == 0.7
            assert session.picks("a").centres_xy.tolist() == [[80, 60]] and session.waiting() == ""
    with opened(mics, **session_of, model=tmp_path / "other.deepem") as session:  # another model to pick with
        assert session.waiting() == "a" and session.settings.results is None


def test_another_model_finds_again_and_one_that_was_learnt_stays_until_somebody_goes_back(mics, tmp_path, caplog):
    for name, diameter in (("one", 64.0), ("other", 80.0)):
        save_model(tmp_path / f"{name}.deepem", general_model(diameter, "dark"))

    def again(name):
        return opened(mics, project=tmp_path / "session", model=tmp_path / f"{name}.deepem")

    with again("one") as session:
        find_all(session)
        session.edit(0, {"action": "add", "x": 3, "y": 147})
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "one.deepem", tmp_path / "moved" / "one.deepem")
    with again("moved/one") as session:
        assert session.waiting() == ""
    with again("other") as session:
        assert session.settings.model == str(tmp_path / "other.deepem") and session.settings.diameter_angst == 80.0
        assert session.waiting() == "a" and marked(session) == [("a", [PARTICLE])]
        find_all(session)
        learn(session)
    with again("moved/one") as session:
        assert session.settings.turn == 1 and "leads to what was given now" in caplog.text
        assert session.settings.diameter_angst == 64.0
        Teacher(session, Queue(session, Worker())).back()
        assert session.settings.model == str(tmp_path / "moved" / "one.deepem")
        show_stored(session)
        assert session.waiting() == "a"  # stored are those of the other


def test_going_back_shows_only_what_was_found_with_the_settings_in_force(mics, tmp_path):
    with opened(mics, project=tmp_path / "session", diameter_angst=64.0) as session:
        find_all(session)
        session.edit(0, {"action": "done"})
        teacher = learn(session)
        assert session.waiting() == "a"
        find_all(session)
        teacher.back()
        show_stored(session)
        assert session.waiting() == ""
        teacher = learn(session, content=80.0)
        show_stored(session)
        assert session.waiting() == "a"  # the first model of this number has found what is stored
        session.adjust(diameter_angst=90.0)
        teacher.back()
        show_stored(session)
        assert session.waiting() == "a" and session.settings.diameter_angst == 90.0


def test_finish_is_kept_from_learning_again_and_ends_with_a_step_back(mics, tmp_path):
    with opened(mics, project=tmp_path / "session", diameter_angst=64.0) as session:
        find_all(session)
        session.edit(0, {"action": "done"})
        teacher = learn(session, final=True)
        with pytest.raises(DeepEMError, match="picks all micrographs to finish"):
            teacher.learn()
        assert teacher.view()["finishing"]
        teacher.back()
        find_all(session)
        teacher.when_all_found()
        assert not teacher.view()["finishing"] and teacher.outcome == {"back": 0}
        assert not session.project.output.folder.exists()
        teacher = learn(session, final=True)
        find_all(session)
        teacher.when_all_found()
        assert session.project.output.path("model").exists() and teacher.outcome


def test_other_micrographs_of_the_same_names_are_refused_and_moved_or_copied_ones_are_not(mics, tmp_path):
    with opened(mics, project=tmp_path / "session", diameter_angst=64.0) as session:
        session.edit(0, {"action": "done"})
    write_blobs(tmp_path / "other", "ab", seed=1, n=6)
    with pytest.raises(DeepEMError, match="of other micrographs: a is .*micrographs/a.mrc there, and now .*other"):
        open_session(Wanted([tmp_path / "other" / "micrographs"], tmp_path / "session"))
    shutil.copytree(mics, tmp_path / "copy")
    with opened(tmp_path / "copy", project=tmp_path / "session"):
        pass
    mics.rename(tmp_path / "moved")
    with opened(tmp_path / "moved", project=tmp_path / "session") as session:
        assert session.log.marks


def test_a_micrograph_that_is_gone_need_not_be_given_and_its_marks_are_kept(mics, tmp_path, caplog):
    with opened(mics, project=tmp_path / "session", diameter_angst=64.0) as session:
        find_all(session)
        session.edit(1, {"action": "add", "x": 30, "y": 40})
    (mics / "b.mrc").rename(tmp_path / "b.mrc")
    write_blobs(tmp_path, "c", n=6)
    with opened(mics, project=tmp_path / "session") as session:
        assert "warning: 1 micrographs of" in caplog.text and "are gone (b): their picks are not saved" in caplog.text
        find_all(session)
        Teacher(session, Queue(session, Worker())).save()
        assert [each.name for each in picks_of_session(session.project)] == ["a", "c"]
    (tmp_path / "b.mrc").rename(mics / "b.mrc")
    with opened(mics, project=tmp_path / "session") as session:
        assert session.names == ("a", "b", "c") and marked(session) == [("b", [PARTICLE])]
    with pytest.raises(DeepEMError, match=r"of other micrographs \(a, b\)"):
        open_session(Wanted([mics / "c.mrc"], tmp_path / "session"))
    mics.rename(tmp_path / "moved")
    with pytest.raises(DeepEMError, match=r"of other micrographs \(a, b, c\)"):  # none of them is given
        write_blobs(tmp_path, "x")
        open_session(Wanted([mics / "x.mrc"], tmp_path / "session"))


@pytest.mark.parametrize("contrast", ["dark", "bright"])
@pytest.mark.parametrize("own", [True, False])
def test_a_run_with_a_model_that_is_not_given_to_learn_from_is_shown_with_a_warning(mics, tmp_path, capsys, monkeypatch,
                                                                                   own, contrast):
    results, model = PickingResults(tmp_path / "picks"), general_model(64.0, contrast)
    results.make()
    results.write_summary(RunSettings(Limits(0.3, 32.0), 4, 4, 24, 4.0, 64.0, 4.0, contrast,
                                      "of another" if own else model.digest()),
                          {"a": MicrographResult(str(mics / "a.mrc"), "not needed")})
    save_model(tmp_path / "m.deepem", model)
    with opened(tmp_path / "picks", project=tmp_path / "session") as session:
        assert ("*Learn* starts from the general one. Give --model MODEL" in session.problem) == own
    monkeypatch.setattr("deepem_scipion.deepem.studio.serving.serve", lambda project, *others: project.close())
    assert main(["studio", str(tmp_path / "picks"), "--project", str(tmp_path / "session")]) == 0
    assert ("warning: another model than the general one has picked" in capsys.readouterr().err) == own
    with opened(tmp_path / "picks", project=tmp_path / "session", model=tmp_path / "m.deepem") as session:
        assert not session.problem


def test_a_run_that_was_made_again_is_shown_with_its_limits_and_masks(mics, tmp_path):
    results, candidates = PickingResults(tmp_path / "picks"), candidates_of_blobs(mics / "a.mrc")
    results.make()
    for name, row in (("one", 0), ("other", 100)):  # of the upper and of the lower half
        (tmp_path / name).mkdir()
        values = np.zeros((150, 210), np.uint8)
        values[row:row + 75] = 255
        Image.fromarray(values).save(tmp_path / name / "a.png")

    def pick(threshold, masks=None, pixel_size=4.0):
        limits = Limits(threshold, 32.0)
        reasons = select(candidates, limits, 4.0)
        results.write_micrograph("a", candidates, reasons, 24)
        results.write_summary(RunSettings(limits, 4, 4, 24, 4.0, 64.0, pixel_size, masks=masks or {}), {
            "a": MicrographResult.of(str(mics / "a.mrc"), candidates, reasons)})

    def again(**given):
        return opened(tmp_path / "picks", project=tmp_path / "session", **given)

    pick(0.4)
    with again() as session:
        assert len(session.picks("a").scores) == 6
        session.set_limits(0.5, 32.0, None)
    with again(masks=tmp_path / "one") as session:
        shown = session.shown("a")
        masked = shown.reasons == "mask"
        assert np.array_equal(masked, shown.centres_xy[:, 1] < 74.5) and masked.any()
        assert session.settings.limits.threshold == 0.5
    pick(0.4, {"a": str(tmp_path / "other" / "a.png")})  # as with --resume: limits stay
    with again() as session:
        assert session.settings.masks == {"a": str(tmp_path / "other" / "a.png")}
        assert session.settings.limits.threshold == 0.5
    save_model(tmp_path / "one.deepem", general_model(64.0, "dark"))
    with again(model=tmp_path / "one.deepem") as session:  # to learn from: what is shown stays
        assert session.settings.model == str(tmp_path / "one.deepem") and session.settings.limits.threshold == 0.5
        assert session.shown("a").centres_xy.shape == shown.centres_xy.shape
    pick(0.3, {"a": str(tmp_path / "other" / "a.png")})
    with again() as session:
        assert session.settings.masks == {"a": str(tmp_path / "other" / "a.png")}
        assert session.settings.limits.threshold == 0.3
    with again(limits={"threshold": 0.99}) as session:
        assert len(session.picks("a").scores) == 0
    for given, problem in (({"tiff_rows": "top"}, "would turn its picks upside down"),
                           ({"limits": {"threshold": "F1"}}, "threshold: expected numbers")):
        with pytest.raises(DeepEMError, match=problem), again(**given):
            pass
    with again(pixel_size_angst=5.0):
        pass
    with again() as session:
        assert session.settings.pixel_size_angst == 5.0
    pick(0.3, pixel_size=2.0)
    with again(pixel_size_angst=3.0) as session:
        assert session.settings.pixel_size_angst == 3.0
    pick(0.3, pixel_size=2.5)
    with opened(project=tmp_path / "session") as session:
        assert session.settings.pixel_size_angst == 2.5
    results.write_summary(RunSettings(Limits(0.3, 32.0), 4, 4, 24, 4.0, 64.0), {
        name: MicrographResult(str(mics / f"{name}.mrc"), pixel_size_angst=size) for name, size in zip("ab", (4, 1.5))})
    with pytest.raises(DeepEMError, match=r"have different pixel sizes, for instance 1\.5 A \(b\) and 4 A \(a\)"):
        open_session(Wanted([tmp_path / "picks"], tmp_path / "new"))
    pick(0.3, pixel_size=2.5)
    (results.path("candidates", "a")).write_text("damaged")
    with again() as session:  # the general model would find others
        assert session.waiting() == "" and "cannot be read" in session.collection.failure("a")


def test_micrographs_of_equal_names_in_several_folders_are_marked_and_saved(tmp_path):
    for folder in "xy":
        write_blobs(tmp_path / "data" / folder, ["m1"], n=6)
    sources = [tmp_path / "data" / folder / "micrographs" for folder in "xy"]
    with opened(*sources, project=tmp_path / "session", diameter_angst=64.0) as session:
        assert session.names == ("x/micrographs/m1", "y/micrographs/m1")
        find_all(session)
        session.edit(1, {"action": "add", "x": 3, "y": 147})
        n = len(session.picks(session.names[1]).scores)
        folder = Teacher(session, Queue(session, Worker())).save()
        assert [len(each.coordinates.scores) for each in picks_of_session(session.project)] == [n - 1, n]
    assert len(read_box(folder / "y/micrographs/m1.box").scores) == n
    assert read_box(tmp_path / "session/particles/y/micrographs/m1.box").centres_xy.tolist() == [[3, 147]]
    assert main(["convert", str(tmp_path / "session"), str(tmp_path / "out"), "--to", "eman"]) == 0
