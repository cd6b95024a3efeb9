# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports in a real browser: nothing on its console, nothing fetched, pictures there, as wide as a telephone."""

import html
import json
import os
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_html_report import HOSTILE, write_run

from deepem_scipion.deepem.report.picking_report import report_picking

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path(os.environ.get("DEEPEM_SCREENSHOTS", "screenshots")).resolve()
DESKTOP, PHONE = (1280, 2400), (390, 2400)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in the search path; on Debian: apt-get install chromium"),
    # The matplotlib that Scipion pins uses functions that its own dependencies have renamed since.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")]

# Shows a page in frames as wide as screens, and notes what became of it there.
MEASURE = """<!DOCTYPE html><title>measure</title><link rel="icon" href="data:,"><pre></pre>
%s
<script>
addEventListener("load", () => {
  document.querySelector("pre").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    for (const folded of page.querySelectorAll("details")) folded.open = true;
    return {width: root.scrollWidth, height: root.scrollHeight, text: page.body.innerText,
            scripts: page.scripts.length, pictures: [...page.images].map(image => image.naturalWidth),
            shown: [...page.images].map(image => image.clientWidth)};
  }));
});
</script>"""


class Browser:
    """Chromium, and a server for the files of a folder that notes what is asked for."""

    def __init__(self, folder, profile):
        self.folder, self.profile, self.asked = folder, profile, []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, form, *values):
                asked.append(self.path)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def run(self, file, *options):
        """Open a file; returns what Chromium printed, and the lines of its console."""
        done = subprocess.run(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
             "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={self.profile}",
             "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr", "--v=0",
             "--virtual-time-budget=5000", *options, f"http://127.0.0.1:{self.server.server_port}/{file}"],
            capture_output=True, text=True, errors="replace", timeout=600, check=True)
        return done.stdout, re.findall(r".*CONSOLE.*", done.stderr)

    def measure(self, file):
        """What a page is like on a desktop and on a telephone, and the lines of the console."""
        frames = "".join(f'<iframe src="{file}" style="width:{width}px;height:{height}px;border:0"></iframe>'
                         for width, height in (DESKTOP, PHONE))
        (self.folder / "measure.html").write_text(MEASURE % frames)
        self.asked.clear()
        printed, console = self.run("measure.html", "--dump-dom")
        return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", printed, re.DOTALL)[1])), console

    def screenshot(self, file, name, size):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.run(file, f"--screenshot={path}", f"--window-size={size[0]},{size[1]}")
        return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("pages"), tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def test_a_report_is_whole_quiet_and_as_wide_as_the_screen(browser):
    names = [*HOSTILE, *(f"FoilHole_10000000_Data_{number:030d}_fractions" for number in range(25))]
    write_run(browser.folder / "run", names, n=60)
    report_picking(browser.folder / "run", browser.folder / "report.html")
    pages, console = browser.measure("report.html")
    assert console == []
    assert set(browser.asked) == {"/measure.html", "/report.html"}
    for page, (width, _) in zip(pages, (DESKTOP, PHONE), strict=True):
        assert page["width"] == width
        assert len(page["pictures"]) == 13 and min(page["pictures"]) >= 300
        assert 200 < min(page["shown"]) and max(page["shown"]) < width
        assert page["scripts"] == 0
        for name in HOSTILE[:3]:
            assert name in page["text"]
    for name, size in (("report-desktop", DESKTOP), ("report-phone", PHONE)):
        assert browser.screenshot("report.html", name, size).stat().st_size > 50_000


def test_what_is_wrong_with_a_page_would_be_noticed(browser):
    (browser.folder / "bad.html").write_text(
        "<!DOCTYPE html><title>bad</title><div style='width:900px'>wide</div><img src='data:image/jpeg;base64,AA=='>"
        "<img src='absent.png'><script>console.error('message'); nothing()</script>")
    (_, phone), console = browser.measure("bad.html")
    assert phone["width"] > PHONE[0] and phone["pictures"] == [0, 0] and phone["scripts"] == 1
    assert any("message" in line for line in console) and any("nothing is not defined" in line for line in console)
    assert "/absent.png" in browser.asked
