# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions of the studio in a real browser from their beginning to their end: resumed, suggested, learnt."""

import contextlib
import json
import subprocess
import sys

import pytest
from studio_page import PIXEL_ANGST, SHAPE, Studio, first_pick, marks_of, write_run

from conftest import write_blobs

pytestmark = pytest.mark.slow


def test_a_session_is_resumed_after_a_crash_and_open_only_once(browser, tmp_path):
    write_run(tmp_path, ["a", "b"])
    first = Studio(browser, tmp_path / "picks")
    first.until(lambda: first.found()["x"])
    first.click(*first_pick(first))
    first.until(lambda: len(marks_of(first, "particle")) == 1)
    second = subprocess.run([sys.executable, "-m", "deepem_scipion.deepem", "studio", "--no-browser",
                             tmp_path / "picks"], capture_output=True, text=True)
    assert second.returncode == 2
    assert "is open in another studio" in second.stderr and f"process {first.process.pid}" in second.stderr
    marks = marks_of(first, "particle")
    with contextlib.closing(browser.new_page()) as other_tab:
        other_tab.goto(first.url)
        other_tab.wait_for_selector("#sheet .row.touched")
        other_tab.wait_for_selector("#title:not(:empty)")  # a key does nothing before a micrograph is in view
        other_tab.keyboard.press("m")
        first.until(lambda: first.page.locator("#sheet .row.done").count() == 1)
    first.page.reload()
    first.until(lambda: first.page.locator("#sheet .row.done.touched").count() == 1)
    first.page.context.set_offline(True)
    first.until(lambda: "does not answer" in first.text("#state"))
    first.page.context.set_offline(False)
    first.until(lambda: first.text("#state").startswith("2 micrographs"))
    first.process.kill()
    first.until(lambda: "does not answer" in first.text("#state"))
    first.close()
    again = Studio(browser, tmp_path / "picks")
    assert marks_of(again, "particle") == marks
    again.page.keyboard.press("z")
    again.page.keyboard.press("z")
    again.until(lambda: marks_of(again, "particle") == [])
    again.page.click("#close")
    again.until(lambda: "You may close this page" in again.text("#note"))
    assert "Its picks were not saved; open it again for that." in again.text("#note")
    assert again.process.wait(60) == 0
    again.close()


def test_suggestions_appear_for_micrographs_alone_and_follow_the_diameter(browser, tmp_path):
    write_blobs(tmp_path, ["a", "b"], shape=SHAPE, n=40, pixel_size=PIXEL_ANGST)
    chosen = tmp_path / "chosen.json"
    found = Studio(browser, tmp_path / "micrographs", "--project", tmp_path / "session", "--choose",
                   chosen, "--choose-label", "Use in the form", "--threshold", 0.125)
    with contextlib.closing(found):
        assert "No diameter was given: 150 Å is assumed. Drag across a particle" in found.text("#assumed")
        found.screenshot("no-diameter")
        found.until(lambda: all(found.api("session")["status"]))
        wide = found.found()["x"]
        found.drag((100, 200), (116, 200))  # 16 pixels of 4 A
        found.until(lambda: found.api("session")["diameter"] == pytest.approx(64, abs=2))
        found.until(lambda: all(found.api("session")["status"]))
        assert found.found()["diameter_px"] == pytest.approx(16, abs=0.5)
        assert not found.page.is_visible("#assumed")
        assert found.page.get_attribute('[data-tool="point"]', "aria-pressed") == "true"
        assert found.found()["x"] != wide
        found.page.keyboard.press("s")
        found.until(lambda: "No score maps were stored" in found.text("#toast"))
        session = found.api("session")
        before, later = found.page.locator("#learn").bounding_box(), {**session, "version": session["version"] + 1}
        found.page.route("**/api/limits", lambda route: route.fulfill(json={"summary": {**later, "model": "learnt"}}))
        assert found.page.is_enabled("#bright")
        found.page.click("#reset")
        found.until(lambda: found.page.is_disabled("#bright"))  # a model knows; the line stays
        assert found.page.locator("#learn").bounding_box() == before
        diameter = found.api("session")["diameter"]
        found.page.click("text=Use in the form")
        found.until(lambda: "You may close this page" in found.text("#note"))
        assert found.process.wait(60) == 0
        values = json.loads(chosen.read_text())
        assert (values["threshold"], values["diameter_angst"]) == (0.125, diameter)
    assert found.console == []


def test_learning_takes_a_model_picks_again_returns_and_saves(browser, blobs, blob_model, tmp_path):
    found = Studio(browser, blobs[0] / "micrographs", "--model", blob_model, "--project", tmp_path / "session")
    with contextlib.closing(found):
        found.until(lambda: all(found.api("session")["status"]), 300)
        found.until(lambda: "finding" not in found.text("#title"))
        before = found.found()
        found.page.keyboard.press("a")
        found.until(lambda: found.found()["done"] and "done" in found.text("#title"))
        found.page.keyboard.press("n")
        found.until(lambda: not found.text("#title").startswith("a"))
        found.page.evaluate("window.clicks = 0; addEventListener('click', () => { window.clicks++; }, true)")
        number = found.api("session")["names"].index(found.text("#title").split()[0])
        shown = found.found(number)
        x, y = next((x, y) for x, y, code in zip(shown["x"], shown["y"], shown["reason"]) if code == 0)
        found.page.mouse.click(*found.screen(x, y, (shown["rows"], shown["columns"])), button="right")
        found.until(lambda: len(marks_of(found, "negative", number)) == 1)
        found.page.click("#finish")
        found.page.click("#cancel")
        found.until(lambda: "Cancelled" in found.text("#lesson"), 600)
        assert found.api("session")["turn"] == 0
        found.page.evaluate("window.clicks -= 2")
        found.page.click("#learn")
        found.until(lambda: found.page.is_disabled("#learn"))
        found.until(lambda: found.page.is_enabled("#learn"), 600)
        found.until(lambda: "new model" in found.text("#lesson"))
        session = found.api("session")
        if session["teaching"]["offer"]:
            found.page.click("#take")
        found.until(lambda: found.api("session")["turn"] == 1)
        found.until(lambda: all(found.api("session")["status"]), 300)
        assert found.found()["score"] != before["score"] and found.api("session")["model"] == "model-1.deepem"
        assert len(found.found()["particle"]) == sum(code == 0 for code in before["reason"])
        found.screenshot("studio-learnt")
        found.page.click("#save")
        found.until(lambda: (tmp_path / "session/output/model.deepem").exists())
        assert found.page.evaluate("window.clicks") <= 3  # beside the correction itself
        found.page.keyboard.press("z")  # also what was done before the learning
        found.until(lambda: not marks_of(found, "negative", number) and found.api("session")["turn"] == 1)
        found.page.keyboard.press("y")
        found.until(lambda: len(marks_of(found, "negative", number)) == 1)
        star = (tmp_path / "session/output/picks.star").read_text()
        assert all(f"{name}.mrc" in star for name in "abcde")
        found.page.click("#back")
        found.until(lambda: found.api("session")["turn"] == 0)
        found.until(lambda: found.found()["score"] == before["score"])
        assert found.api("session")["limits"]["threshold"] != session["limits"]["threshold"] or session["turn"] == 0
    assert found.console == []
