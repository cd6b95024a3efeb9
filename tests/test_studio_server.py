# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of the studio: who may talk to it, what it answers, how it learns, how it ends."""

import contextlib
import json
import os
import queue
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from in_a_process import work

from conftest import candidates_of_blobs, write_blobs
from deepem_scipion.deepem.coordinates.box import read_box
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.micrographs.micrograph import read_shape
from deepem_scipion.deepem.model.files import load_model, save_model
from deepem_scipion.deepem.model.general import general_model
from deepem_scipion.deepem.picking.selection import Limits
from deepem_scipion.deepem.studio import serving
from deepem_scipion.deepem.studio.learning import learn
from deepem_scipion.deepem.studio.lessons import Learned
from deepem_scipion.deepem.studio.opening import Wanted, open_session
from deepem_scipion.deepem.studio.project import StudioProject
from deepem_scipion.deepem.studio.queue import Queue
from deepem_scipion.deepem.studio.server import MAX_PAGES
from deepem_scipion.deepem.studio.serving import Address, open_browser, serve
from deepem_scipion.deepem.studio.worker import Worker, WorkerState, find, prepare

DIAMETER_ANGST = 64.0


class WorkerHere:
    """Stands in for the process beside the server: candidates are those of the blobs, training gives what a test wants.

    Attributes
    ----------
    marks_right : tuple of int
        Marks that the old and the new model get right.
    may_learn : threading.Event
        Training waits for it.
    """

    marks_right = (3, 4)

    def __init__(self, threads=None):
        self.state, self.may_learn, self.lessons = WorkerState(1, lambda found: None), threading.Event(), []
        self.may_learn.set()

    def call(self, function, *values, progress=None):
        if function is prepare:
            return None
        if function is find:
            read_shape(values[0])
            found, learnt = candidates_of_blobs(Path(values[0])), values[5] is not None
            best = found.centres_xy[np.argmax(found.scores)]  # a model that was learnt loses it
            return found.subset(np.hypot(*(found.centres_xy - best).T) > 16 * learnt - 1)
        if function is not learn:
            return function(self.state, *values)
        assert self.may_learn.wait(60)
        self.lessons, course = values
        progress(0.5)
        Path(course.output).parent.mkdir(exist_ok=True)
        save_model(course.output, general_model(course.diameter_angst, "dark"))
        return Learned(course.output, Limits(0.3, 40.0), 4, True, *self.marks_right)

    def close(self):
        pass


class Served:
    """A session that is served by a thread of this process."""

    def __init__(self, folder, worker, **options):
        self.worker, addresses = worker, queue.Queue()
        project, settings = open_session(Wanted([folder / "micrographs"], folder / "session",
                                                diameter_angst=DIAMETER_ANGST))
        self.folder, self.output = project.folder, project.output.folder
        self.thread = threading.Thread(target=serve, args=(project, settings),
                                       kwargs={"ready": addresses.put, **options})
        self.thread.start()
        address = addresses.get(timeout=60)
        self.base, self.token = address.url.split("#")

    def get(self, path, status=200):
        found = ask(f"{self.base}api/{path}", self.token)
        assert found[0] == status, found
        return json.loads(found[2])

    def post(self, path, status=200, **values):
        found = ask(f"{self.base}api/{path}", self.token, json.dumps(values).encode())
        assert found[0] == status, found
        return json.loads(found[2])

    def until(self, condition):
        """Wait for a change until the list of micrographs fulfils a condition; returns the list."""
        end, found = time.monotonic() + 120, self.get("shown/0")["summary"]
        while not condition(found):
            assert time.monotonic() < end, found
            assert self.get(f"changes?since={found['version']}")["version"] >= found["version"]
            found = self.get("shown/0")["summary"]
        return found

    def close(self):
        if self.thread.is_alive():
            self.post("close")
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving_here(folder, **options):
    worker = WorkerHere()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "Worker", lambda threads: worker)
        served = Served(folder, worker, **options)
        try:
            yield served
        finally:
            worker.may_learn.set()
            served.close()


def ask(url, token=None, data=None, **headers):
    """Status, headers and content of an answer."""
    headers = {key.replace("_", "-"): value for key, value in headers.items()}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A studio: (address, token, folder)."""
    folder = tmp_path_factory.mktemp("studio")
    write_blobs(folder, ["a"], n=6)
    with serving_here(folder) as served:
        yield served.base, served.token, folder


@pytest.fixture
def studio(tmp_path):
    """A studio with two micrographs, both picked, and one that is no micrograph."""
    write_blobs(tmp_path, ["a", "b"], n=6)
    (tmp_path / "micrographs" / "broken.mrc").write_bytes(b"no micrograph")
    with serving_here(tmp_path) as served:
        served.until(lambda found: found["status"] == [1, 1, 2])
        yield served


# ---------------------------------------------------------------- who may talk to the server

PATHS = ["api/session", "api/changes?since=0", "api/shown/0", "api/micrograph/0", "api/tile/0/0/0/0", "api/scores/0",
         "api/evaluation"]
ACTIONS = ["api/limits", "api/edit/0", "api/undo", "api/redo", "api/settings", "api/choose", "api/close"]


@pytest.mark.parametrize("path", PATHS + ACTIONS)
def test_another_user_of_the_machine_gets_nothing(server, path):
    base, token, _ = server
    data = b"{}" if path in ACTIONS else None
    for wrong in (None, "", token[:-1], token.upper(), token + "x", "é"):
        assert ask(base + path, wrong and wrong.encode().decode("latin-1"), data)[0] == 401
    assert ask(f"{base}{path}{'&' if '?' in path else '?'}token={token}", None, data)[0] == 401


def test_the_page_itself_holds_nothing_of_the_session(server):
    base, token, folder = server
    status, headers, content = ask(base)
    assert status == 200 and token.encode() not in content and str(folder).encode() not in content
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert "http" not in content.decode().replace("http-equiv", "")


def test_hosts_and_origins_of_other_sites_are_refused(server):
    base, token, _ = server
    host = base.split("/")[2]
    for wrong in ("evil.example", f"evil.example:{host.split(':')[1]}", "127.0.0.1.evil.example", ""):
        assert ask(base + "api/session", token, Host=wrong)[0] in (400, 421)
        assert ask(base, Host=wrong)[0] in (400, 421)
    for wrong in ("http://evil.example", "null", "https://" + host, "http://127.0.0.1:1"):
        assert ask(base + "api/undo", token, b"{}", Origin=wrong)[0] == 403
    assert ask(base + "api/session", token, Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(base + "api/session", token, Host="localhost:99", Origin="http://localhost:99")[0] == 200  # ssh -L


def test_no_file_but_those_of_the_page_is_served(server):
    base, token, folder = server
    for path in ("static/../session.py", "static/%2e%2e/session.py", "static/..%2fsession.py", "static//etc/passwd",
                 "static/%2fetc%2fpasswd", "static/.", "static/", "etc/passwd", "api/tile/0/0/0/../../../etc/passwd",
                 "api/micrograph/%2e%2e", "api/micrograph/-1", "api/micrograph/99", "api/tile/99/0/0/0"):
        status, _, content = ask(base + path, token)
        assert status in (400, 404, 405) and b"root:" not in content and b"Copyright" not in content
    assert ask(base + "static/app.js")[0] == 200


def test_a_request_that_a_browser_repeats_is_answered_alike_and_done_once(studio):
    """As it does where a connection breaks before the answer."""
    def undo(number, page="p"):
        status, _, content = ask(studio.base + "api/undo", studio.token, b"{}", X_Page=page, X_Number=str(number))
        return status, json.loads(content)

    for x in (20, 120):
        ask(studio.base + "api/edit/0", studio.token, json.dumps({"action": "add", "x": x, "y": 20}).encode())
    first = undo(1)
    assert first[0] == 200 and undo(1) == first
    assert len(studio.get("micrograph/0")["particle"]) == 1
    assert undo(2) != first and studio.get("micrograph/0")["particle"] == []
    for page in range(MAX_PAGES + 2):
        assert undo(1, f"page {page}")[0] == 200
    assert undo(1) != first  # forgotten: another one since


@pytest.mark.parametrize("data", [b"", b"[]", b"nonsense", b'{"action": 3}', b'{"threshold": "NaN", "number": 0}',
                                  b"\xff", b"[" * 100_000, b'{"number": 1e400}', b'{"diameter": true, "number": 0}'])
def test_requests_that_make_no_sense_are_refused_and_the_server_stays(server, data):
    base, token, _ = server
    for path in ("api/limits", "api/edit/0"):
        status, _, content = ask(base + path, token, data)
        assert status == 400 and json.loads(content)["problem"]
    assert ask(base + "api/session", token)[0] == 200


@pytest.mark.parametrize("header", ["Transfer-Encoding: chunked", "Content-Length: 1000001",
                                    "Content-Length: 99999999999999999999"])
def test_a_request_that_is_too_long_is_refused(server, header):
    base, token, _ = server
    host = base.split("/")[2]
    with socket.create_connection(host.split(":")) as connection:
        connection.sendall(f"POST /api/undo HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
                           f"{header}\r\n\r\n".encode())
        assert connection.recv(12) in (b"HTTP/1.1 413", b"HTTP/1.1 400")


def test_the_server_listens_on_the_loopback_interface_only(server):
    port = int(server[0].split(":")[-1].strip("/"))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [line[1] for line in lines if line[3] == "0A"]
    assert [place for place in listening if int(place.split(":")[1], 16) == port] == [f"0100007F:{port:04X}"]


def test_the_file_that_opens_the_page_is_for_its_owner_only(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr("webbrowser.open", opened.append)
    (tmp_path / "open.html").write_text("old")
    os.chmod(tmp_path / "open.html", 0o666)
    open_browser(Address("127.0.0.1", 1234, "secret"), tmp_path)
    assert stat.S_IMODE((tmp_path / "open.html").stat().st_mode) == 0o600
    assert "http://127.0.0.1:1234/#secret" in (tmp_path / "open.html").read_text()
    assert opened == [(tmp_path / "open.html").as_uri()] and "secret" not in opened[0]
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not open_browser(Address("127.0.0.1", 1234, "secret"), tmp_path)


# ---------------------------------------------------------------- what it answers

def test_the_page_sees_micrographs_edits_and_limits(studio):
    found = studio.get("session")
    assert found["names"] == ["a", "b", "broken"] and found["diameter"] == DIAMETER_ANGST
    (picks, _, none), (*ready, broken) = found["picks"], found["status"]
    assert picks == 6 and none == 0 and broken not in ready
    assert "broken.mrc" in studio.get("micrograph/2")["failure"]
    shown = studio.get("micrograph/0")
    assert (shown["rows"], shown["columns"]) == (150, 210)
    for x, y in ((-500, 75), (100, 9999), (210, 75), (100, 150)):
        problem = studio.post("edit/0", 400, action="add", x=x, y=y)["problem"]
        assert "outside of the micrograph" in problem
    place = {"x": shown["x"][0], "y": shown["y"][0], "to_x": -9, "to_y": 9}
    assert "outside of the micrograph" in studio.post("edit/0", 400, action="move", **place)["problem"]
    far = np.hypot(np.array(shown["x"]) - 3, np.array(shown["y"]) - 147).min()
    both = studio.post("edit/0", action="add", x=3, y=147)
    assert far > 5 and both["micrograph"]["particle"][0][:2] == [3, 147]
    assert both["summary"]["picks"][0] == picks + 1 and both["summary"]["can_undo"]
    both = studio.post("undo")
    assert both["micrograph"]["particle"] == [] and both["summary"]["picks"][0] == picks
    assert studio.post("redo")["micrograph"]["particle"][0][:2] == [3, 147]
    both = studio.post("limits", number=0, threshold=0.99999, distance=32, ranged=False)
    assert both["summary"]["picks"][0] == 1  # what was marked
    assert "no score maps were stored" in studio.get("scores/0", 400)["problem"]
    assert "there are 3" in studio.get("micrograph/7", 400)["problem"]
    status, headers, tile = ask(f"{studio.base}api/tile/0/0/0/0?low_pass=30&flat=1", studio.token)
    assert (status, headers["content-type"], tile[:2]) == (200, "image/jpeg", b"\xff\xd8")


def test_another_diameter_is_picked_again(studio):
    both = studio.post("settings", number=0, diameter=90, bright=True)
    assert (both["summary"]["diameter"], both["summary"]["bright"]) == (90, True) and not both["summary"]["assumed"]
    assert both["summary"]["limits"]["distance"] == Limits.of_model(general_model(90, "bright")).min_distance_angst
    found = studio.until(lambda found: found["status"] == [1, 1, 2])
    assert sum(found["histogram"][1]) > 0
    assert "particle diameter -1" in studio.post("settings", 400, number=0, diameter=-1)["problem"]


def test_picks_are_saved_with_what_people_marked(studio):
    studio.post("edit/1", action="add", x=3, y=147)
    n = studio.get("session")["picks"][1]
    folder = Path(studio.post("save")["folder"])
    saved = read_box(folder / "b.box")
    assert len(saved.centres_xy) == n and np.hypot(*(saved.centres_xy - (3, 147)).T).min() < 0.51
    assert "_rlnMicrographName" in (folder / "picks.star").read_text()
    assert not (folder / "model.deepem").exists()  # the general model is in the package
    assert re.match(r"\d+ of the picks (is|are) so close to the border", studio.get("session")["teaching"]["cut"])
    studio.post("undo")
    assert studio.get("session")["teaching"]["cut"] == ""  # of other picks
    studio.close()  # what was saved once is saved again
    assert len(read_box(folder / "b.box").centres_xy) == n - 1


def test_what_was_saved_stays_if_it_has_not_changed_and_nothing_is_saved_unasked(tmp_path):
    write_blobs(tmp_path, ["a"], n=6)
    with serving_here(tmp_path) as served:
        served.until(lambda found: found["status"] == [1])
    assert not served.output.exists()
    with serving_here(tmp_path) as served:
        served.until(lambda found: found["status"] == [1])
        star = Path(served.post("save")["folder"]) / "picks.star"
    saved = star.stat().st_ino
    with serving_here(tmp_path):
        pass
    assert star.stat().st_ino == saved
    (served.output / "a.box").unlink()  # as of a micrograph that was not searched yet
    with serving_here(tmp_path):
        pass
    assert (served.output / "a.box").exists()


def test_picks_that_were_saved_stay_until_a_new_model_has_picked_all(tmp_path, monkeypatch, caplog):
    write_blobs(tmp_path, ["a", "b"], n=6)
    with serving_here(tmp_path) as served:
        served.until(lambda found: found["status"] == [1, 1])
        served.post("save")
        monkeypatch.setattr(Queue, "_find", lambda self, name: time.sleep(0.01))
        served.post("settings", number=0, diameter=90)
    assert (served.output / "a.box").exists() and (served.output / "b.box").exists()
    assert "2 micrographs, for instance a, are not picked yet with the model in use" in caplog.text


def test_picks_are_saved_at_the_end_on_request(tmp_path):
    write_blobs(tmp_path, ["a"], n=6)
    with serving_here(tmp_path, save=True) as served:
        served.until(lambda found: found["status"] == [1])
        n = served.get("session")["picks"][0]
    assert len(read_box(served.output / "a.box").centres_xy) == n > 0


def test_a_failure_of_the_worker_is_shown_and_the_rest_continues(studio):
    def fail(*values, **options):
        raise DeepEMError("no memory")

    call, studio.worker.call = studio.worker.call, fail
    studio.post("settings", number=0, diameter=80)
    studio.until(lambda found: found["status"] == [2, 2, 2])
    assert studio.get("micrograph/0")["failure"] == "no memory"
    studio.worker.call = call
    studio.post("settings", number=0, diameter=81)
    studio.until(lambda found: found["status"] == [1, 1, 2])


# ---------------------------------------------------------------- how it learns

def finished(found):
    return found["teaching"]["outcome"] and not found["teaching"]["busy"] and found["status"] == [1, 1, 2]


def test_a_better_model_is_taken_and_the_one_before_comes_back(studio):
    studio.post("edit/0", action="add", x=3, y=147)
    limits, shown = studio.get("session")["limits"], studio.get("micrograph/1")
    best = max(zip(shown["score"], shown["x"], shown["y"]))[1:]
    assert "no model before" in studio.post("back", 400)["problem"]
    studio.post("learn")
    found = studio.until(finished)
    assert found["teaching"]["outcome"] == {"marks": 4, "held_out": True, "before": 3, "after": 4, "taken": True,
                                            "threshold": 0.3}
    assert found["turn"] == 1 and found["limits"]["threshold"] == 0.3 and not found["teaching"]["offer"]
    (lesson, other) = studio.worker.lessons
    assert lesson.name == "a" and lesson.particles_xy.tolist() == [[3, 147]] and not lesson.done
    assert other.name == "b" and not len(other.particles_xy) and len(other.picks_xy)  # seen, though nothing is marked
    load_model(studio.folder / "models" / found["model"])
    studio.until(lambda found: found["status"] == [1, 1, 2])
    changed = studio.get("micrograph/1")
    assert changed["gained"] == [] and changed["lost"] == [pytest.approx(best, abs=0.01)]
    assert studio.get("micrograph/0")["gained"] == []  # not what was marked before
    studio.post("back")
    found = studio.until(lambda found: found["turn"] == 0 and found["status"] == [1, 1, 2])
    assert found["limits"] == limits and found["model"] is None
    assert studio.get("micrograph/1")["lost"] == studio.get("micrograph/1")["gained"] == []


def test_a_worse_model_is_offered_and_only_taken_on_request(studio):
    studio.worker.marks_right = 4, 3
    assert "no other model" in studio.post("take", 400)["problem"]
    studio.worker.may_learn.clear()
    studio.post("learn")
    assert "learning already" in studio.post("learn", 400)["problem"]
    studio.worker.may_learn.set()
    found = studio.until(finished)
    assert found["turn"] == 0 and found["teaching"]["offer"] and not found["teaching"]["outcome"]["taken"]
    studio.post("take")
    found = studio.until(lambda found: found["turn"] == 1 and found["status"] == [1, 1, 2])
    assert not found["teaching"]["offer"]


def test_finishing_picks_everything_and_saves_picks_and_model(studio):
    studio.worker.marks_right = 4, 3  # at the end it is taken all the same: it has seen all marks
    studio.post("learn", final=True)
    found = studio.until(lambda found: finished(found) and "finished" in found["teaching"]["outcome"])
    folder = studio.output
    assert found["turn"] == 1 and found["teaching"]["outcome"] == {"finished": True, "threshold": 0.3}
    assert found["teaching"]["saved"] == str(folder)
    assert not found["teaching"]["finishing"]
    assert sorted(path.name for path in folder.glob("*.box")) == ["a.box", "b.box"]  # as of a run of deepem pick
    assert "1 micrographs without candidates are left out of the picks saved: broken" in found["problem"]
    assert load_model(folder / "model.deepem").diameter_angst == DIAMETER_ANGST
    assert not studio.post("back")["summary"]["teaching"]["saved"]  # these picks are not those saved
    studio.post("save")
    assert studio.get("shown/0")["summary"]["teaching"]["saved"] == str(folder)
    assert not (folder / "model.deepem").exists()  # the picks are those of the general model


# ---------------------------------------------------------------- the process beside it

def test_what_the_process_returns_reports_and_raises_and_that_it_is_started_again():
    worker, pids = Worker(1), []
    try:
        assert worker.call(work, "done", progress=pids.append) == "done"
        with pytest.raises(DeepEMError, match="this cannot be done"):
            worker.call(work, "refuse", progress=pids.append)
        with pytest.raises(DeepEMError, match="ZeroDivisionError: division by zero"):
            worker.call(work, "fail", progress=pids.append)
        assert len(set(pids)) == 1 and pids[0] != os.getpid()
        with pytest.raises(DeepEMError, match="ended unexpectedly.*started again"):
            worker.call(work, "die", progress=pids.append)
        assert worker.call(work, "done", progress=pids.append) == "done"
        assert pids[-1] != pids[0]
    finally:
        worker.close()


def test_the_general_model_finds_until_there_is_a_model_of_the_session(tmp_path):
    write_blobs(tmp_path, ["a"], n=6)
    path = str(tmp_path / "micrographs" / "a.mrc")
    state, model = WorkerState(1, lambda found: None), str(tmp_path / "own.deepem")
    general = find(state, path, "a", 4.0, DIAMETER_ANGST, False, None)
    other = find(state, path, "a", 4.0, 90.0, False, None)
    assert len(general) and not np.array_equal(general.centres_xy, other.centres_xy)
    save_model(model, general_model(90.0, "dark"))
    own = find(state, path, "a", 4.0, DIAMETER_ANGST, False, model)
    assert np.array_equal(own.centres_xy, other.centres_xy) and np.allclose(own.scores, other.scores)


# ---------------------------------------------------------------- how it ends

@pytest.mark.slow
def test_the_server_ends_with_its_parent(tmp_path):
    write_blobs(tmp_path, ["a"], n=6)
    code = ("import subprocess, sys, time; subprocess.Popen(sys.argv[1:], stdout=1); time.sleep(600)")
    parent = subprocess.Popen([sys.executable, "-c", code, sys.executable, "-m", "deepem_scipion.deepem", "studio",
                               str(tmp_path / "micrographs"), "--no-browser", "--project", str(tmp_path / "session"),
                               "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with parent:
        assert "studio: http://127.0.0.1" in parent.stdout.readline()
        pid = int((tmp_path / "session/lock").read_text().split("process ")[1].split(",")[0])
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        end = time.monotonic() + 60
        while any(Path(f"/proc/{each}").exists() and "Z" not in Path(f"/proc/{each}/stat").read_text().split()[2]
                  for each in (pid, *children)):
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no terminals that send this")
def test_a_closed_terminal_ends_the_studio_and_all_is_saved(tmp_path):
    write_blobs(tmp_path, ["a"], n=6)
    process = subprocess.Popen([sys.executable, "-m", "deepem_scipion.deepem", "studio", str(tmp_path / "micrographs"),
                                "--no-browser", "--project", str(tmp_path / "session"), "--threads", "1"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # under nohup as well
    with process:
        base, token = process.stdout.readline().split()[1].split("#")
        for threshold in (0.31, 0.77):
            limits = {"number": 0, "threshold": threshold, "distance": 32, "ranged": False}
            assert ask(f"{base}api/limits", token, json.dumps(limits).encode())[0] == 200
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 128 + signal.SIGHUP
    project = StudioProject(tmp_path / "session")
    assert project.read().limits.threshold == 0.77 and (project.folder / "lock").read_text() == ""


def test_the_position_of_a_slider_is_on_the_disk_soon(studio):
    studio.post("limits", number=0, threshold=0.77, distance=32, ranged=False)
    end = time.monotonic() + 120
    while StudioProject(studio.folder).read().limits.threshold != 0.77:  # while nothing else happens
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_port_in_use_is_named(tmp_path):
    write_blobs(tmp_path, ["a"], n=6)
    project, settings = open_session(Wanted([tmp_path / "micrographs"], tmp_path / "session", diameter_angst=64.0))
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(DeepEMError, match=f"port {port}: cannot be used.*--port"):
            serve(project, settings, port=port)
    open_session(Wanted([tmp_path / "micrographs"], tmp_path / "session"))[0].close()  # the session is not left locked
