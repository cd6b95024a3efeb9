# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A display without a screen for tests of windows, and pictures of what is on it."""

import functools
import os
import shutil
import subprocess
import unittest
from pathlib import Path

SCREENSHOTS = Path(os.environ.get("DEEPEM_SCREENSHOTS", "screenshots")).resolve()
SIZE = "1500x950"


@functools.lru_cache(maxsize=None)
def _server():
    """An X server for as long as this process lives, since Tk never lets go of one; its name, and what keeps it up."""
    reader, writer = os.pipe()
    alive, _ = os.pipe()  # its other end is closed when this process is no more
    keeper = subprocess.Popen(["sh", "-c", 'Xvfb "$@" & cat >/dev/null; kill $!', "sh", "-displayfd", str(writer),
                               "-screen", "0", f"{SIZE}x24", "-nolisten", "tcp"],
                              stdin=alive, pass_fds=[writer], stderr=subprocess.DEVNULL,
                              start_new_session=True)
    os.close(writer)
    os.close(alive)
    with open(reader) as number:
        return f":{number.readline().strip()}", keeper


class OnDisplay(unittest.TestCase):
    """Tests with DISPLAY set to that of an X server of this process; skipped where there is none to start."""

    @classmethod
    def setUpClass(cls):
        if shutil.which("Xvfb") is None:
            raise unittest.SkipTest("no Xvfb in the search path; on Debian: apt-get install xvfb")
        try:
            import tkinter  # noqa: F401
        except ImportError:
            raise unittest.SkipTest("this Python has no tkinter; on Debian: apt-get install python3-tk") from None
        earlier = os.environ.get("DISPLAY")
        cls.addClassCleanup(lambda: os.environ.pop("DISPLAY") if earlier is None
                            else os.environ.update(DISPLAY=earlier))
        os.environ["DISPLAY"], _ = _server()
        super().setUpClass()


def screenshot(name):
    """Keep a picture of the whole display; its file."""
    from PIL import ImageGrab

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    ImageGrab.grab(xdisplay=os.environ["DISPLAY"]).save(path)
    return path
