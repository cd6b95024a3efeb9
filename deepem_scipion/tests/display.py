# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A display without a screen for tests of windows, and pictures of what is on it."""

import os
import shutil
import subprocess
import unittest
from pathlib import Path

SCREENSHOTS = Path(os.environ.get("DEEPEM_SCREENSHOTS", "screenshots")).resolve()
SIZE = "1500x950"


class OnDisplay(unittest.TestCase):
    """Tests in whose class an X server runs, with DISPLAY set; skipped where there is none to start."""

    @classmethod
    def setUpClass(cls):
        if shutil.which("Xvfb") is None:
            raise unittest.SkipTest("no Xvfb in the search path; on Debian: apt-get install xvfb")
        try:
            import tkinter  # noqa: F401
        except ImportError:
            raise unittest.SkipTest("this Python has no tkinter; on Debian: apt-get install python3-tk") from None
        told, tells = os.pipe()
        server = subprocess.Popen(["Xvfb", "-displayfd", str(tells), "-screen", "0", f"{SIZE}x24", "-nolisten", "tcp"],
                                  pass_fds=[tells], stderr=subprocess.DEVNULL)
        os.close(tells)
        cls.addClassCleanup(server.wait)
        cls.addClassCleanup(server.terminate)
        with open(told) as number:
            display = f":{number.readline().strip()}"
        earlier = os.environ.get("DISPLAY")
        cls.addClassCleanup(lambda: os.environ.pop("DISPLAY") if earlier is None
                            else os.environ.update(DISPLAY=earlier))
        os.environ["DISPLAY"] = display
        super().setUpClass()


def screenshot(name):
    """Keep a picture of the whole display; its file."""
    from PIL import ImageGrab

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    ImageGrab.grab(xdisplay=os.environ["DISPLAY"]).save(path)
    return path
