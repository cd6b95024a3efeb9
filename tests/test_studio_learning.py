# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the studio learns from marks, without a browser and without its server."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from in_a_process import work

from conftest import candidates_of_blobs, write_blobs
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.model.files import load_model
from deepem_scipion.deepem.picking.selection import PICKED, Limits, select
from deepem_scipion.deepem.studio.learning import learn
from deepem_scipion.deepem.studio.lessons import Course, Learned, Lesson
from deepem_scipion.deepem.studio.opening import Wanted, open_session
from deepem_scipion.deepem.studio.queue import Queue
from deepem_scipion.deepem.studio.session import Session
from deepem_scipion.deepem.studio.teacher import Teacher
from deepem_scipion.deepem.studio.worker import Cancelled, Worker, WorkerState

THRESHOLD = 0.4


@pytest.fixture
def micrographs(tmp_path):
    write_blobs(tmp_path, ["a", "b"], n=6)
    return tmp_path / "micrographs"


def test_what_is_learnt_from_a_micrograph(micrographs, tmp_path, monkeypatch):
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=64.0))
    session, lessons = Session(project, settings), []

    class Recorder:
        def call(self, function, given, course, progress):
            lessons.append((given, course))
            raise DeepEMError("enough")

    queue = Queue(session, Worker())
    teacher = Teacher(session, queue)
    session.set_limits(THRESHOLD, 32.0, None)
    for name in "ab":
        session.put(name, candidates_of_blobs(micrographs / f"{name}.mrc"), settings)
    picks = session.picks("a").centres_xy
    session.edit(0, {"action": "add", "x": picks[0, 0], "y": picks[0, 1]})
    session.edit(0, {"action": "remove", "x": picks[1, 0], "y": picks[1, 1]})
    teacher.learn()
    with pytest.raises(DeepEMError, match="learning already"):
        teacher.learn()
    with pytest.raises(DeepEMError, match="enough"):
        teacher._learn(Recorder())
    assert not teacher.busy
    ((first, second), course) = lessons[0]
    assert (first.name, second.name) == ("a", "b") and second.marks == 0  # few have marks: others help
    assert first.particles_xy == pytest.approx(picks[:1]) and first.negatives_xy == pytest.approx(picks[1:2])
    assert len(first.picks_xy) == len(picks) - 2 and not first.done
    assert course.output == str(project.model(1)) and course.model is None and not course.final
    assert teacher.view()["marks"] == 2 and teacher.view()["next"] == 1
    session.edit(1, {"action": "done"})
    session.edit(0, {"action": "done"})
    monkeypatch.setattr("deepem_scipion.deepem.studio.teacher.MAX_MICROGRAPHS", 1)
    for final in (False, True):
        teacher.learn(final)
        with pytest.raises(DeepEMError, match="enough"):
            teacher._learn(Recorder())
    assert [[each.name for each in found] for found, _ in lessons[1:]] == [["a"], ["b", "a"]]  # the last one, and all
    session.close()
    project.close()


def test_the_model_of_finish_is_in_use_whatever_it_gets_right_and_limits_without_slider_stay(micrographs, tmp_path):
    limits = {"border_angst": 20.0, "max_mask": 0.3, "keep_best": 0.9, "at_least": 5}
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=64.0, limits=limits))
    session = Session(project, settings)
    session.put("a", candidates_of_blobs(micrographs / "a.mrc"), settings)
    learned = Learned(str(tmp_path / "model.deepem"), replace(settings.limits, threshold=0.6, std_range=(0.5, 2.0)), 4,
                      False, 4, 3)
    teacher = Teacher(session, Queue(session, Worker()))
    teacher.learn(final=True)

    def call(function, lessons, course, progress):
        assert course.limits == settings.limits and not course.of_coordinates
        session.set_limits(course.limits.threshold, 30.0, course.limits.std_range, 20.0)  # meanwhile
        return learned

    teacher._learn(SimpleNamespace(call=call))
    assert teacher.outcome["taken"] and not teacher.view()["offer"] and session.settings.turn == 1
    assert session.settings.limits == Limits(0.6, 30.0, (0.5, 2.0), 20.0, 0.3, 0.9, 5)
    assert teacher.view()["finishing"] and session.waiting() == "a"
    teacher.when_all_found()  # somebody went back in this instant
    assert teacher.view()["finishing"] and not project.output.folder.exists()
    session.close()
    project.close()


def test_what_is_cancelled_changes_nothing_and_what_is_done_cannot_be_cancelled(micrographs, tmp_path,
                                                                                         monkeypatch):
    project, settings = open_session(Wanted([micrographs], tmp_path / "session", diameter_angst=64.0))
    session, worker = Session(project, settings), Worker()
    session.put("a", candidates_of_blobs(micrographs / "a.mrc"), settings)
    teacher = Teacher(session, Queue(session, worker))
    with pytest.raises(DeepEMError, match="nothing to cancel"):
        teacher.cancel()
    reported = []

    def call(function, lessons, course, progress):
        progress(0.25)
        reported.append(0.25)
        teacher.cancel()
        assert teacher.view()["cancelled"] and teacher.busy
        progress(0.5)
        reported.append(0.5)

    teacher.learn(final=True)
    teacher._learn(SimpleNamespace(call=call))
    view = teacher.view()
    assert reported == [0.25] and (view["busy"], view["finishing"]) == (False, False)
    assert view["outcome"] == {"cancelled": True} and session.settings == settings and session.problem == ""
    teacher.learn(final=True)  # and in the second step, when all micrographs are picked
    learned = Learned(str(tmp_path / "model.deepem"), settings.limits, 4, False, 4, 3)
    teacher._learn(SimpleNamespace(call=lambda *_, progress: learned))
    assert teacher.view()["finishing"] and session.settings.turn == 1
    teacher.cancel()
    assert session.settings.turn == 0
    teacher.when_all_found()
    assert teacher.view()["outcome"] == {"cancelled": True} and not project.output.folder.exists()
    session.put("a", candidates_of_blobs(micrographs / "a.mrc"), session.settings)
    take = teacher._take  # or while the new model is being taken
    with monkeypatch.context() as patch:
        patch.setattr(teacher, "_take", lambda *values: (take(*values), teacher.cancel()))
        teacher.learn(final=True)
        teacher._learn(SimpleNamespace(call=lambda *_, progress: learned))
    assert session.settings.turn == 0 and not teacher.view()["finishing"] and not teacher.busy
    assert teacher.view()["outcome"] == {"cancelled": True}
    session.close()
    project.close()


def test_a_worker_whose_call_was_cancelled_starts_again():
    worker, seen = Worker(threads=1), []

    def cancel(process):
        seen.append(process)
        raise Cancelled

    with pytest.raises(Cancelled):
        worker.call(work, "done", progress=cancel)
    assert worker.call(work, "done", progress=seen.append) == "done" and len(set(seen)) == 2
    worker.close()


def test_regions_and_done_micrographs_leave_nothing_unknown():
    places = np.array([[5.0, 5], [50, 50]])
    lesson = Lesson("a.mrc", "a", places, places, places, np.ones(2), places, [(0, 0, 10, 10)], False)
    assert lesson.unmarked(places).tolist() == [False, True]
    assert replace(lesson, done=True).unmarked(places).tolist() == [False, False]


def test_a_model_learns_from_few_marks_and_is_compared_on_marks_that_it_has_not_seen(blobs, blob_model, tmp_path):
    folder, centres = blobs
    path, none = str(folder / "micrographs" / "d.mrc"), np.zeros((0, 2))
    free = np.array([[x, y] for x in range(20, 190, 20) for y in range(20, 130, 20)
                     if np.hypot(*(centres["d"] - (x, y)).T).min() > 14], float)[:6]
    lesson = Lesson(path, "d", centres["d"], free, none, np.zeros(0), none, [], False)
    shares = []
    state = WorkerState(1, shares.append)
    course = Course(64.0, 4.0, str(blob_model), False, str(tmp_path / "m" / "new.deepem"),
                    limits=Limits(0.9, 40.0, (0.1, 9.0)))
    found = learn(state, [lesson], course)
    reasons = select(found.found["d"], found.limits, 4.0)
    assert (reasons == PICKED).sum() == len(centres["d"])  # as many as are marked
    assert replace(found.limits, threshold=0.9) == course.limits  # of which the threshold alone depends on the model
    assert load_model(found.path).threshold == pytest.approx(found.limits.threshold)
    assert found.held_out and found.marks == (len(centres["d"]) + len(free)) // 5
    assert found.after >= found.marks - 1 and not found.worse
    assert list(found.found) == ["d"] and len(found.found["d"]) >= len(centres["d"])  # not to be found again
    assert shares[-1] == 1 and shares == sorted(shares)
    picker = state.picker(found.path)
    picks = picker.pick(picker.model.read_micrograph(folder / "micrographs" / "e.mrc", 4.0)).picks.centres_xy
    assert (np.hypot(*(centres["e"][:, None] - picks[None]).transpose(2, 0, 1)).min(axis=1) < 4).mean() > 0.8
    nothing = replace(lesson, particles_xy=none)
    with pytest.raises(DeepEMError, match="no particle to learn from"):
        learn(state, [nothing], course)
    own = Limits.of_model(load_model(blob_model))
    for limits, of_coordinates in ((own, False), (Limits(12.0, 0.0), True)):
        found = learn(state, [lesson], replace(course, limits=limits, of_coordinates=of_coordinates))
        new = Limits.of_model(load_model(found.path))
        assert found.limits == new and new.std_range != own.std_range
