# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The studio over a slow link, in a real browser: answers that come late or not at all spoil nothing."""

import numpy as np
import pytest
from studio_page import empty_place, first_pick, marks_of
from test_studio_browser import clean, run, studio  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow


class Link:
    """What happens to the next requests that match: `held` are not sent, others are lost; everything else passes."""

    def __init__(self):
        self.rules, self.held = [], []

    def handle(self, route):
        path = route.request.url.partition("/api/")[2]
        for rule in self.rules:
            if rule[0] == route.request.method and path.startswith(rule[1]):
                self.rules.remove(rule)
                if rule[2]:
                    self.held.append(route)
                else:
                    route.abort()
                return
        route.continue_()

    def hold(self, path, method="GET"):
        self.rules.append((method, path, True))

    def lose(self, path, method="GET"):
        self.rules.append((method, path, False))

    def release(self):
        while self.held:
            self.held.pop(0).continue_()


@pytest.fixture
def page(clean):  # noqa: F811
    """The studio without marks, with a `link`; afterwards with the limits that it began with."""
    clean.link = Link()
    clean.page.route("**/api/**", clean.link.handle)
    yield clean
    clean.link.rules.clear()
    clean.link.release()
    first = clean.api("session")["start"]
    clean.api("limits", **first, number=0)
    clean.until(lambda: clean.api("session")["limits"] == first and clean.page.input_value("#field-threshold")
                == f"{first['threshold']:.3f}")
    clean.page.unroute_all(behavior="ignoreErrors")
    clean.console[:] = [text for text in clean.console if "net::ERR_FAILED" not in text]  # of what was lost


def picks_in_view(page):
    return int(page.page.locator("label.kind", has=page.page.locator("#show-picked")).locator("b").first.inner_text())


def picks_found(page, number):
    return sum(code == 0 for code in page.found(number)["reason"])


def test_nothing_is_marked_while_another_micrograph_than_the_chosen_one_is_in_view(page):
    place = empty_place(page)
    for tool in ("1", "2"):
        page.page.keyboard.press(tool)
        page.link.hold("micrograph/1")
        page.link.hold("shown/1")
        page.page.keyboard.press("j")
        page.until(lambda: page.link.held)
        page.click(*place)
        page.until(lambda: "Wait until the micrograph is shown" in page.text("#toast"))
        page.page.mouse.down()  # begun on one micrograph, ended on the other
        page.link.rules.clear()
        page.link.release()
        page.until(lambda: page.text("#title").startswith("b"))
        page.page.mouse.up()
        page.page.keyboard.press("m")
        page.until(lambda: page.found(1)["done"] and "done" in page.text("#title"))
        assert not any(marks_of(page, kind, number) for kind in ("particle", "negative") for number in (0, 1))
        page.page.keyboard.press("m")
        page.until(lambda: not page.found(1)["done"] and "done" not in page.text("#title"))
        page.page.keyboard.press("k")
        page.until(lambda: page.text("#title").startswith("a"))
    page.page.keyboard.press("1")


def test_the_micrograph_in_view_follows_limits_that_are_applied_late(page):
    page.link.hold("limits", "POST")
    page.page.fill("#field-threshold", "0.8")
    page.page.keyboard.press("Enter")
    page.until(lambda: page.link.held)
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("j")
    page.until(lambda: page.text("#title").startswith("b"))
    before = picks_in_view(page)
    page.link.release()
    page.until(lambda: picks_in_view(page) == picks_found(page, 1) < before)


def test_all_picks_are_accepted_only_if_they_were_in_view(page):
    shown, found = picks_in_view(page), page.found()
    page.link.hold("shown/0")  # the page does not hear of the limits
    scores = [score for score, code in zip(found["score"], found["reason"]) if code == 0]
    page.api("limits", number=0, threshold=float(np.median(scores)))
    assert 1 < picks_found(page, 0) < shown
    page.page.keyboard.press("a")
    page.until(lambda: f"{shown} picks were in view, and now there are {picks_found(page, 0)}" in page.text("#toast"))
    assert not marks_of(page, "particle") and not page.found()["done"]
    assert page.console.pop().endswith("400 (Bad Request)") and page.console == []
    page.link.rules.clear()
    page.link.release()
    page.until(lambda: picks_in_view(page) == picks_found(page, 0))
    page.click(*first_pick(page))
    page.page.keyboard.press("a")  # before the answer to the click
    page.until(lambda: page.found()["done"] and "done" in page.text("#title"))
    assert picks_found(page, 0) == 0 and len(marks_of(page, "particle")) > 1


def test_a_slider_changes_no_other_limit(page):
    page.link.hold("limits", "POST")
    page.page.fill("#field-distance", "20")
    page.page.keyboard.press("Enter")
    page.until(lambda: page.link.held)
    page.api("limits", threshold=0.625, number=0)
    page.link.release()
    page.until(lambda: page.api("session")["limits"]["distance"] == 20)
    assert page.api("session")["limits"]["threshold"] == 0.625
    page.until(lambda: page.page.input_value("#field-threshold") == "0.625")
    page.link.hold("limits", "POST")
    page.page.check("#ranged")
    page.until(lambda: page.link.held)
    page.page.fill("#field-high", "1.0")
    page.page.keyboard.press("Enter")
    page.link.release()
    page.until(lambda: page.api("session")["limits"]["high"] == 1.0)


def test_what_is_repeated_before_the_answer_or_by_holding_a_key_does_not_undo_itself(page):
    x, y = first_pick(page)
    page.link.hold("edit/0", "POST")
    page.click(x, y, button="right")
    page.until(lambda: page.link.held)
    page.click(x, y, button="right")
    page.link.release()
    page.until(lambda: "what was here has changed" in page.text("#toast"))
    assert len(marks_of(page, "negative")) == 1
    for _ in range(4):
        page.page.keyboard.down("m")  # the key repeats
    page.page.keyboard.up("m")
    page.until(lambda: page.found()["done"] and "done" in page.text("#title"))
    page.page.keyboard.press("z")
    page.until(lambda: not page.found()["done"] and len(marks_of(page, "negative")) == 1)


def test_edits_are_made_in_the_order_of_the_clicks(page):
    (x, y), place = first_pick(page), empty_place(page)
    page.link.hold("edit/0", "POST")
    page.click(*place)
    page.until(lambda: page.link.held)
    page.click(x, y)
    page.page.keyboard.press("z")
    page.link.release()
    page.until(lambda: len(marks_of(page, "particle")) == 1 and page.page.is_enabled("#redo"))
    assert marks_of(page, "particle")[0][:2] == pytest.approx(place, abs=1)


def test_what_is_lost_is_asked_for_again(page):
    page.link.lose("micrograph/1")
    page.page.keyboard.press("j")
    page.until(lambda: "What you did last may be missing" in page.text("#toast"))
    page.until(lambda: page.text("#title").startswith("b"))
    page.link.lose("tile/1")
    page.page.click("#look-flat")
    page.until(lambda: not page.link.rules)
    page.until(lambda: page.page.get_attribute("#picture", "data-shown") == "1" and not page.page.is_visible("#note"))
    page.page.click("#look-flat")
    before = page.page.input_value("#box")
    page.link.lose("settings", "POST")
    page.page.fill("#box", "44")
    page.page.keyboard.press("Enter")
    page.until(lambda: not page.link.rules)
    page.page.keyboard.press("Escape")
    page.until(lambda: page.page.input_value("#box") == before)
