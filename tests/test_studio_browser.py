# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The studio in a real browser: clicks and keys do what they should, the console stays empty, no request leaves."""


import numpy as np
import pytest
from studio_page import (
    DESKTOP,
    DIAMETER_ANGST,
    LIMITS,
    PIXEL_ANGST,
    Studio,
    empty_place,
    first_pick,
    marks_of,
    write_run,
)

LAPTOP, PHONE = (1024, 700), (390, 844)
HOSTILE = "<img src=x onerror=alert(1)> & 'quotes\" $(ls)"
NAMES = ["a", "b", "c", HOSTILE]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    return folder, write_run(folder, NAMES)


@pytest.fixture(scope="module")
def studio(browser, run):
    rows = "".join(f"{name}.mrc {defocus}\n" for name, defocus in zip(NAMES, (15000, 9000, 21000)))
    (run[0] / "ctf.star").write_text(f"data_micrographs\nloop_\n_rlnMicrographName\n_rlnDefocusU\n{rows}")
    found = Studio(browser, run[0] / "picks", "--reference", run[0] / "boxes", "--ctf", run[0] / "ctf.star")
    found.until(lambda: all(found.api("session")["status"]))
    yield found
    found.close()
    assert found.process.returncode in (0, 143), found.log
    assert "Traceback" not in found.log


@pytest.fixture
def clean(studio):
    """The studio without marks, the first micrograph in view; afterwards nothing was on the console or asked outside.
    """
    for number in range(len(NAMES)):
        studio.api(f"edit/{number}", action="clear")
    studio.page.set_viewport_size(dict(zip(("width", "height"), DESKTOP)))
    studio.page.keyboard.press("Escape")
    studio.page.click("#sheet .row >> nth=0")
    studio.page.keyboard.press("f")
    studio.page.keyboard.press("1")
    studio.until(lambda: studio.text("#title").startswith("a") and "true positives" in studio.text("#title"))
    studio.until(lambda: not any(map(len, (marks_of(studio, kind) for kind in ("particle", "negative", "region")))))
    studio.until(lambda: int(studio.page.evaluate("document.body.dataset.version")) >= studio.api("session")["version"])
    yield studio
    assert studio.console == []
    assert [url for url in studio.asked if not url.startswith((studio.base, f"blob:{studio.base}"))] == []


def test_everything_is_on_the_page_and_a_hostile_name_is_text(clean):
    assert clean.text("#headline").startswith(f"{sum(clean.api('session')['picks'])} picks")
    assert [row.inner_text().split("\n")[0] for row in clean.page.locator("#sheet .row").all()] == NAMES
    assert clean.page.locator("img").count() == 0
    clean.page.click("#sheet .row >> nth=3")
    clean.until(lambda: clean.text("#title").startswith(HOSTILE))
    assert clean.page.locator("img").count() == 0


def test_the_micrograph_is_shown_with_its_circles(clean):
    clean.until(lambda: len(clean.colours()) > 5)
    shown = clean.page.evaluate("""() => {
        const canvas = document.querySelector("#picture");
        const data = canvas.getContext("2d").getImageData(canvas.width / 2 - 50, canvas.height / 2 - 50, 100, 100).data;
        return data.filter((value, at) => at % 4 === 0).reduce((sum, value) => sum + value) / 10000; }""")
    assert 60 < shown < 200
    clean.page.keyboard.press("h")
    clean.until(lambda: clean.colours() == {})
    clean.page.keyboard.press("h")
    clean.until(lambda: len(clean.colours()) > 5)


def test_a_click_accepts_a_pick_and_adds_where_nothing_is(clean):
    x, y = first_pick(clean)
    assert all(clean.page.is_disabled(name) and "Needs at least one mark" in clean.page.get_attribute(name, "title")
               for name in ("#learn", "#finish"))
    clean.click(x + 2, y - 2)
    clean.until(lambda: len(marks_of(clean, "particle")) == 1)
    clean.until(lambda: "Train longer" in clean.page.get_attribute("#finish", "title"))
    (mark,) = marks_of(clean, "particle")
    assert mark[:2] == pytest.approx([x, y], abs=0.01) and 0 < mark[2] <= 1  # the peak and its score, not the click
    clean.until(lambda: (70, 211, 154) in clean.colours())
    x, y = empty_place(clean)
    clean.click(x, y)
    clean.until(lambda: len(marks_of(clean, "particle")) == 2)
    added = marks_of(clean, "particle")[1]
    assert added[:2] == pytest.approx([x, y], abs=0.5) and added[2] is None
    clean.until(lambda: clean.page.locator("#sheet .row.touched").count() == 1)


def test_right_click_and_delete_make_negatives_which_a_click_takes_back(clean):
    x, y = first_pick(clean)
    clean.click(x, y, button="right")
    clean.until(lambda: len(marks_of(clean, "negative")) == 1)
    assert marks_of(clean, "negative")[0][:2] == pytest.approx([x, y], abs=0.01)
    clean.click(x, y)
    clean.until(lambda: len(marks_of(clean, "particle")) == 1 and not marks_of(clean, "negative"))
    clean.page.mouse.move(*clean.screen(x, y))
    clean.page.keyboard.press("Delete")
    clean.until(lambda: len(marks_of(clean, "negative")) == 1 and not marks_of(clean, "particle"))
    clean.click(*empty_place(clean), button="right")
    clean.until(lambda: "Nothing was removed" in clean.text("#toast"))
    assert len(marks_of(clean, "negative")) == 1
    view, toast, scale = (clean.page.locator(name).bounding_box() for name in ("#view", "#toast", "#scale"))
    assert view["x"] + view["width"] / 2 == pytest.approx(toast["x"] + toast["width"] / 2, abs=1)
    assert toast["y"] + toast["height"] < scale["y"]
    clean.page.mouse.move(*clean.screen(x, y))
    clean.until(lambda: clean.text("#pointed").endswith("negative"))


def test_next_to_check_says_why(clean):
    clean.click(*first_pick(clean))
    clean.until(lambda: clean.page.locator("#sheet .row.touched").count() == 1)  # the page knows it, too
    teaching = clean.api("session")["teaching"]
    clean.page.keyboard.press("n")
    clean.until(lambda: clean.text("#title").startswith(clean.api("session")["names"][teaching["next"]]))
    assert teaching["next"] != 0
    said = clean.text("#toast")
    assert f"{teaching['uncertain'] or 'no'} candidate" in said and "Nothing is marked here yet" in said


def test_a_circle_is_dragged_to_another_place(clean):
    x, y = first_pick(clean)
    clean.drag((x, y), (x + 5, y + 3))
    clean.until(lambda: len(marks_of(clean, "particle")) == 1)
    assert marks_of(clean, "particle")[0][:2] == pytest.approx([x + 5, y + 3], abs=0.7)
    assert marks_of(clean, "negative") == []


def test_brushes_remove_and_accept_what_they_touch(clean):
    picks = sum(code == 0 for code in clean.found()["reason"])
    clean.page.keyboard.press("2")
    clean.drag((20, 150), (400, 150))
    clean.until(lambda: marks_of(clean, "negative"))
    erased = marks_of(clean, "negative")
    assert all(abs(y - 150) <= 12.5 for _, y, _ in erased)
    assert sum(code == 0 for code in clean.found()["reason"]) <= picks - len(erased)
    clean.page.evaluate("document.querySelector('#toast').textContent = ''")
    with clean.page.expect_response("**/api/edit/0"):
        clean.drag((20, 150), (400, 150))
    clean.page.wait_for_timeout(200)
    assert marks_of(clean, "negative") == erased and clean.page.text_content("#toast") == ""  # negatives are there
    clean.page.keyboard.press("3")
    clean.drag((20, 150), (400, 150))
    clean.until(lambda: len(marks_of(clean, "particle")) >= len(erased) and not marks_of(clean, "negative"))


def test_a_rectangle_is_kept_and_removed(clean):
    clean.page.keyboard.press("4")
    clean.drag((300, 250), (100, 60))
    clean.until(lambda: len(marks_of(clean, "region")) == 1)
    assert marks_of(clean, "region")[0] == pytest.approx([100, 60, 300, 250], abs=0.7)
    clean.until(lambda: "its unmarked places are background" in clean.text("#toast"))
    x, y = empty_place(clean)
    clean.api("edit/0", action="region", x=x - 3, y=y - 3, to_x=x + 3, to_y=y + 3)
    clean.page.keyboard.press("1")
    clean.click(x, y, button="right")
    clean.until(lambda: len(marks_of(clean, "region")) == 1)


def test_all_picks_are_removed_at_once_and_marks_are_learnt_by_themselves(clean):
    asked, picks = [], sum(code == 0 for code in clean.found()["reason"])

    def answer(route):
        asked.append(route.request.post_data)
        route.fulfill(status=400, json={"problem": "not in this test"})

    clean.page.route("**/api/learn", answer)
    clean.page.check("#auto")
    clean.page.keyboard.press("Escape")
    clean.page.keyboard.press("r")
    clean.until(lambda: len(marks_of(clean, "negative")) == picks and clean.found()["done"])
    clean.until(lambda: asked)
    clean.page.uncheck("#auto")
    clean.page.unroute("**/api/learn")
    clean.until(lambda: clean.text("#toast") == "not in this test")
    assert len(asked) == 1
    clean.console.clear()  # a refused request is an entry


def test_undo_and_redo_go_through_all_edits(clean):
    x, y = first_pick(clean)
    clean.click(x, y)
    clean.until(lambda: len(marks_of(clean, "particle")) == 1)
    clean.page.keyboard.press("a")
    clean.until(lambda: clean.found()["done"])
    accepted = len(marks_of(clean, "particle"))
    assert accepted > 20
    clean.until(lambda: clean.page.locator("#sheet .row.done").count() == 1)
    clean.page.keyboard.press("Control+z")
    clean.until(lambda: len(marks_of(clean, "particle")) == 1 and not clean.found()["done"])
    clean.page.click("#undo")
    clean.until(lambda: not marks_of(clean, "particle"))
    clean.page.keyboard.press("Shift+Z")
    clean.until(lambda: len(marks_of(clean, "particle")) == 1)
    clean.page.click("#redo")
    clean.until(lambda: len(marks_of(clean, "particle")) == accepted and clean.found()["done"])
    clean.until(lambda: clean.page.is_disabled("#redo"))


def test_next_previous_search_and_sort(clean):
    clean.page.keyboard.press("j")
    clean.until(lambda: clean.text("#title").startswith("b"))
    clean.page.keyboard.press("ArrowLeft")
    clean.until(lambda: clean.text("#title").startswith("a"))
    clean.page.click("#next")
    clean.until(lambda: clean.text("#title").startswith("b"))
    clean.page.keyboard.press("/")
    clean.page.keyboard.type("quotes")
    clean.until(lambda: clean.page.locator("#sheet .row:visible").count() == 1)
    clean.page.fill("#search", "")
    clean.page.keyboard.press("Escape")
    clean.page.click("#headings .picks")
    rows = sorted(clean.page.locator("#sheet .row:visible").all(), key=lambda row: row.bounding_box()["y"])
    picks = [int(row.locator("span").nth(1).inner_text()) for row in rows]
    assert picks == sorted(picks, reverse=True)
    clean.page.click("#headings .defocus")
    clean.until(lambda: [row.locator("span").nth(4).inner_text() for row in sorted(
        clean.page.locator("#sheet .row:visible").all(), key=lambda row: row.bounding_box()["y"])] ==
        ["0.90", "1.50", "2.10", ""])
    clean.page.click("#headings .name")


def test_limits_act_on_all_micrographs(clean):
    before = clean.api("session")
    middle = np.median([score for score, code in zip(clean.found()["score"], clean.found()["reason"]) if code == 0])
    threshold = round(float(middle), 3)
    clean.page.fill("#field-threshold", str(threshold))
    clean.page.keyboard.press("Enter")
    clean.until(lambda: clean.api("session")["limits"]["threshold"] == threshold)
    after = clean.api("session")
    assert all(n <= m for n, m in zip(after["picks"], before["picks"])) and sum(after["picks"]) < sum(before["picks"])
    for number in range(len(NAMES)):
        found = clean.found(number)
        assert after["picks"][number] == sum(code == 0 for code in found["reason"])
        assert all(score >= threshold - 1e-4 for score, code in zip(found["score"], found["reason"]) if code == 0)
    clean.until(lambda: clean.text("#headline") == f"{sum(after['picks'])} picks")
    box = clean.box("#histogram")
    clean.page.mouse.click(box["x"] + 2 + 0.6 * (box["width"] - 4), box["y"] + 30)
    clean.until(lambda: clean.api("session")["limits"]["threshold"] == pytest.approx(0.6, abs=0.01))
    clean.page.check("#ranged")
    clean.page.fill("#field-high", "1.0")
    clean.page.keyboard.press("Enter")
    clean.until(lambda: clean.api("session")["limits"]["high"] == 1.0)
    assert all(std <= 1.0 for std, code in zip(clean.found()["std"], clean.found()["reason"]) if code == 0)
    clean.page.click("#reset")
    clean.until(lambda: clean.api("session")["picks"] == before["picks"])
    clean.page.fill("#field-border", "200")  # more than a diameter: the end of the slider
    clean.page.keyboard.press("Enter")
    clean.until(lambda: clean.api("session")["limits"]["border"] == DIAMETER_ANGST)
    found, border_px = clean.found(), DIAMETER_ANGST / PIXEL_ANGST
    assert 0 < sum(code == 0 for code in found["reason"]) < before["picks"][0]
    assert all(min(x, y) >= border_px for x, y, code in zip(found["x"], found["y"], found["reason"]) if code == 0)
    clean.page.click("#reset")
    clean.until(lambda: clean.api("session")["picks"] == before["picks"])


def test_an_answer_that_comes_late_leaves_what_is_being_typed(clean):
    held, shown = [], clean.text("#headline")
    clean.page.route("**/api/limits", lambda route: held.append(route), times=1)
    box = clean.box("#histogram")
    clean.page.mouse.click(box["x"] + 2 + 0.75 * (box["width"] - 4), box["y"] + 30)
    clean.until(lambda: held)
    clean.page.fill("#field-distance", "7.5")
    held.pop().continue_()
    clean.until(lambda: clean.api("session")["limits"]["threshold"] == pytest.approx(0.75, abs=0.01))
    clean.until(lambda: clean.text("#headline") == f"{sum(clean.api('session')['picks'])} picks" != shown)
    assert clean.page.input_value("#field-distance") == "7.5"
    clean.page.keyboard.press("Enter")
    clean.until(lambda: clean.api("session")["limits"]["distance"] == 7.5)
    clean.page.click("#reset")
    clean.until(lambda: clean.api("session")["limits"]["distance"] != 7.5)


def test_zoom_pan_and_display(clean):
    scale = clean.text("#scale")
    clean.page.mouse.move(*clean.screen(200, 150))
    clean.page.mouse.wheel(0, -400)
    clean.until(lambda: clean.text("#scale") != scale)
    clean.page.keyboard.press("f")
    clean.until(lambda: clean.text("#scale") == scale)
    clean.page.set_viewport_size({"width": 160, "height": 400})
    clean.until(lambda: clean.text("#scale") == "1000 Å")
    clean.page.set_viewport_size(dict(zip(("width", "height"), DESKTOP)))
    clean.page.fill("#field-contrast", "1.5")
    clean.page.keyboard.press("Enter")
    clean.page.keyboard.press("Escape")
    assert clean.page.evaluate("document.querySelector('#picture').style.filter") == "contrast(1.5)"
    clean.page.fill("#field-contrast", "1")
    clean.page.keyboard.press("Enter")
    clean.page.keyboard.press("Escape")
    clean.page.keyboard.press("i")
    assert "invert" in clean.page.evaluate("document.querySelector('#picture').style.filter")
    clean.page.keyboard.press("i")
    tiles = len([url for url in clean.asked if "/tile/" in url])
    clean.page.fill("#field-lowPass", "20")
    clean.page.keyboard.press("Enter")
    clean.until(lambda: len([url for url in clean.asked if "low_pass=20" in url]) and
                len([url for url in clean.asked if "/tile/" in url]) > tiles)
    clean.page.keyboard.press("Escape")
    clean.page.click("#look-scoreMap")
    clean.until(lambda: any("/scores/0" in url for url in clean.asked))
    clean.page.click("#look-scoreMap")


def test_what_is_pointed_at_is_described_and_keys_are_listed(clean):
    x, y = first_pick(clean)
    clean.page.mouse.move(*clean.screen(x, y))
    clean.until(lambda: "score 0." in clean.text("#pointed") and "picked" in clean.text("#pointed"))
    clean.page.keyboard.press("?")
    clean.until(lambda: clean.page.is_visible("#keys"))
    assert "right click" in clean.text("#keys")
    boxes = [line.bounding_box() for line in clean.page.locator("#shortcuts > div").all()]
    assert boxes[0]["x"] == boxes[1]["x"] < boxes[-1]["x"] and boxes[0]["y"] < boxes[1]["y"]  # columns read down
    clean.page.keyboard.press("Escape")
    clean.until(lambda: not clean.page.is_visible("#keys"))


LESSON = """async () => {
    const { Teach } = await import("./static/teach.js"), asked = [], texts = [], now = Date.now;
    const teach = new Teach({ ask: what => asked.push(what) });
    const show = (seconds, status, teaching) => {
        Date.now = () => 1000 * (seconds + 1);
        teach.update({ model: "m", status, teaching: { marks: 3, next: -1, share: 1, outcome: {}, ...teaching } });
        texts.push(document.getElementById("lesson").textContent);
    };
    %s
    Date.now = now;
    return texts;
}"""


def test_what_finish_does_and_how_long_it_still_takes_is_shown(clean):
    texts = clean.page.evaluate(LESSON % """
        show(0, [1, 1, 1, 1], { busy: true, finishing: true, share: 0 });
        show(30, [1, 1, 1, 1], { busy: true, finishing: true, share: 0.25 });
        show(130, [0, 0, 0, 0], { finishing: true });
        show(230, [1, 0, 0, 0], { finishing: true });
        show(530, [1, 1, 1, 1], { outcome: { finished: true }, saved: "/data/output" });
        show(531, [1, 1, 1, 1], { outcome: { finished: true }, saved: "" });
        document.getElementById("auto").checked = true;
        for (const finishing of [true, false]) {
            show(0, [1], { marks: 13, finishing });
            texts.push(asked.join());
        }
        document.getElementById("auto").checked = false;""")
    assert texts[:4] == ["Finish, first step: the final model learns from all marks ...",
                         "Finish, first step: the final model learns from all marks ... About 90 s left.",
                         "Finish, second step: the final model picks all micrographs, 0 of 4 ...",
                         "Finish, second step: the final model picks all micrographs, 1 of 4 ... About 5 min left."]
    assert "Finished" in texts[4] and "picks.star" in texts[4] and "/data/output" in texts[4]
    assert "have changed since they were saved" in texts[5] and "saved again on Close" in texts[5]
    assert (texts[7], texts[9]) == ("", "learn")  # by itself, but not before all is finished


def test_learning_and_finishing_can_be_cancelled(clean):
    texts = clean.page.evaluate(LESSON % """
        for (const teaching of [{}, { busy: true }, { busy: true, cancelled: true }, { finishing: true },
                                { outcome: { cancelled: true } }]) {
            show(0, [1], teaching);
            texts.push(["hidden", "disabled"].map(each => document.getElementById("cancel")[each]).join());
        }""")
    assert texts[1::2] == ["true,false", "false,false", "false,true", "false,false", "true,false"]
    assert clean.page.get_attribute("#unsure", "title") == "Every micrograph that was picked has marks"
    assert texts[4] == "Cancelling ..." and texts[8] == "Cancelled. Nothing that you marked is lost."


def test_what_became_of_the_learning_is_said_and_no_button_moves(clean):
    texts = clean.page.evaluate(LESSON % """
        const tops = () => ["learn", "finish", "field-threshold"].map(
            id => document.getElementById(id).getBoundingClientRect().top).join();
        const first = tops(), outcome = { marks: 5, held_out: true, before: 0, after: 2, taken: true };
        const moved = () => tops() === first || texts.push("moved");
        for (const marks of [12, 14]) { show(0, [1], { busy: true, marks }); moved(); }
        show(0, [1], { marks: 12, outcome });
        show(0, [1], { marks: 16, outcome: { ...outcome, marks: 2 } });
        show(0, [1], { marks: 13, offer: true, outcome: { ...outcome, after: 1, before: 2, taken: false } }); moved();
        show(0, [1], { marks: 12, outcome: { ...outcome, after: 1, before: 2, taken: false } });
        show(0, [1], { marks: 12, outcome: { ...outcome, marks: 1, held_out: false, after: 1 } });
        show(0, [1], { marks: 12, outcome: { ...outcome, marks: 0, held_out: false } });
        show(0, [1], { outcome: { finished: true, threshold: 0.25 }, saved: "/folder".repeat(60) }); moved();
        show(0, [1], { marks: 12, outcome: { ...outcome, marks: 0, held_out: false, threshold: 0.5561 } });
        show(0, [1], { outcome: { back: 1 }, saved: "" });
        show(0, [1], { outcome: { back: 0 }, saved: "/data" });
        document.getElementById("state").textContent = "a problem ".repeat(60); moved();
        document.getElementById("progress").hidden = false; moved();
        texts.push(document.getElementById("kinds").textContent);""")
    assert texts[2:8] == [
        "The new model is in use: it gets 2 of 5 held-out marks right, the one before 0.",
        "The new model is in use. Only 2 of your 12 marks were kept aside, too few to compare it with the model "
        "before. 4 marks since.",
        "The new model was not taken: it gets 1 of 5 held-out marks right, the one before 2. 1 mark since.",
        "The new model is in use: it gets 1 of 5 held-out marks right, the one before 2.",  # taken after all
        "The new model is in use: it gets 1 of your 1 mark right, the one before 0.", "The new model is in use."]
    assert texts[8].startswith("Finished, with a threshold of 0.250. The picks of all micrographs")
    assert texts[9] == "The new model is in use. With a threshold of 0.556 it picks as many as were shown."
    assert texts[10:12] == ["Model 1 is in use again. Save picks saves what it picks.",
                            "What the session began with is in use again."]
    assert "new since Learn" in texts[-1] and "gone since Learn" in texts[-1] and "moved" not in texts


def test_reference_coordinates_are_compared(clean, run):
    found = clean.found()["reference"]
    assert found["true"] + len(found["missed"]) == len(run[1]["a"])
    assert found["true"] > 30
    x, y = found["false"][0] if found["false"] else first_pick(clean)
    clean.click(x, y, button="right")
    clean.until(lambda: sum(map(bool, clean.found()["negative"])) == 1)
    after = clean.found()["reference"]
    assert (after["true"] + len(after["false"])) == found["true"] + len(found["false"]) - 1


def test_figures_and_curves_follow_the_threshold_and_the_list_is_sorted_by_f1(clean):
    def shown():
        figures = clean.api("evaluation")["overall"]
        return f"F1 {figures['F1']:.3f}" in clean.text("#evaluation") and f"{figures['true_positives']} of " \
            f"{figures['truth']} particles" in clean.text("#evaluation")

    clean.until(shown)
    best = clean.api("evaluation")["overall"]["best_F1"]
    clean.page.click("#evaluation button")
    clean.until(lambda: clean.api("session")["limits"]["threshold"] == pytest.approx(best["threshold"], abs=1e-4))
    clean.until(lambda: f"F1 {best['F1']:.3f}" in clean.text("#evaluation p >> nth=0"))
    box = clean.box("#evaluation canvas >> nth=1")
    clean.page.mouse.click(box["x"] + 26 + 0.9 * (box["width"] - 34), box["y"] + 60)
    clean.until(lambda: clean.api("session")["limits"]["threshold"] == pytest.approx(0.9, abs=0.01))
    clean.until(shown)
    clean.page.click("#headings .f1")
    figures = clean.api("evaluation")["micrographs"]
    clean.screenshot("studio-evaluation")
    values = [f"{value:.2f}" for value in sorted(each["F1"] for each in figures.values())]
    clean.until(lambda: [row.locator("span").nth(3).inner_text() for row in sorted(
        clean.page.locator("#sheet .row:visible").all(), key=lambda row: row.bounding_box()["y"])] == values)
    clean.page.click("#headings .name")
    clean.page.click("#reset")
    clean.until(lambda: clean.api("session")["limits"]["threshold"] == LIMITS.threshold)


def test_the_box_is_drawn_and_kept(clean):
    clean.page.click("#look-boxes")
    before = clean.colours()
    clean.page.fill("#box", "40")
    clean.page.keyboard.press("Enter")
    clean.until(lambda: clean.api("session")["box"] == 40 and clean.colours() != before)
    clean.page.click("#look-boxes")
    clean.until(lambda: (86, 180, 233) not in clean.colours())


@pytest.mark.parametrize("name, size", [("desktop", DESKTOP), ("laptop", LAPTOP), ("phone", PHONE)])
def test_the_page_fits_on_the_screen(clean, name, size):
    clean.api("edit/0", action="paint", points=[[60, 60], [200, 200]], radius=14)
    clean.api("edit/0", action="erase", points=[[350, 60], [360, 250]], radius=14)
    clean.page.set_viewport_size(dict(zip(("width", "height"), size)))
    clean.until(lambda: clean.page.evaluate("document.querySelector('#picture').width") ==
                clean.page.locator("#view").bounding_box()["width"])
    clean.until(lambda: (70, 211, 154) in clean.colours())
    width, height = clean.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert (width, height) == size
    clean.screenshot(f"studio-{name}")
    if name == "phone":
        clean.page.click("#menu")
        clean.until(lambda: clean.page.is_visible("#list"))
        clean.page.click("#sheet .row >> nth=0")
        clean.until(lambda: not clean.page.is_visible("#list"))
        before = clean.found()["particle"]
        clean.click(200, 150)
        assert clean.found()["particle"] == before  # for looking only
    else:
        for outside in clean.page.locator("button:visible, input:visible").all():
            box = outside.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= size[0] + 0.5
