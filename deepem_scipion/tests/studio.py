# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The studio as a browser uses it, without a browser."""

import json
import time
import unittest
import urllib.request
from importlib.util import find_spec

SECONDS = 240
needs_studio = unittest.skipUnless(find_spec("uvicorn"), "uvicorn is not installed")


def ask(address, path, **values):
    """Ask the studio at an address, with its token, as the page does; values are posted."""
    base, token = address.split("#")
    request = urllib.request.Request(f"{base}api/{path}", json.dumps(values).encode() if values else None,
                                     {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def wait_for_micrographs(address):
    """Wait until the candidates of all micrographs are there; the answer about the session."""
    found = {"status": [0]}
    while not all(found["status"]):
        found = ask(address, "session")
        time.sleep(0.1)
    return found


def started(run):
    """Address of the studio of a StudioRun, once all of its micrographs are there."""
    while not run.address:
        if run.poll():
            raise AssertionError(run.problem)
        time.sleep(0.1)
    wait_for_micrographs(run.address)
    return run.address
