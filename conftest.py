# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private Scipion home for the tests, made before pyworkflow is imported, which reads all of this only once."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

if "pyworkflow" in sys.modules:
    raise RuntimeError("pyworkflow was imported before conftest.py could prepare its environment")

_PROJECTS = Path(__file__).resolve().parent / "deepem_scipion" / "tests"
_HOME = tempfile.mkdtemp(prefix="deepem-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

os.environ.update({
    "SCIPION_HOME": _HOME,
    "SCIPION_USER_DATA": os.path.join(_HOME, "userdata"),
    "SCIPION_LOGS": os.path.join(_HOME, "logs"),
    "SCIPION_TESTS": os.path.join(_HOME, "tests"),
    "SCIPION_TESTS_OUTPUT": os.path.join(_HOME, "tests-output"),
    "SCIPION_HOSTS": os.path.join(_HOME, "hosts.conf"),
    "EM_ROOT": os.path.join(_HOME, "em"),
    "SCIPION_DOMAIN": "pwem",
    "SCIPION_PYTHON": sys.executable,
    "SCIPION_NOTIFY": "False",
    "SCIPION_TEST_NOSYNC": "True",
    "SCIPION_STEPS_CHECK_SEC": "1",
    "SCIPION_EM_NEW_FILE_CHECK_SEC": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": os.path.join(_HOME, "matplotlib"),
})
for _name in ("DEEPEM_PYTHON", "DEEPEM_ENV_ACTIVATION", "CONDA_ACTIVATION_CMD", "VIEWERS"):
    os.environ.pop(_name, None)
Path(os.environ["SCIPION_HOSTS"]).write_text(
    "[localhost]\nPARALLEL_COMMAND = mpirun -np %_(JOB_NODES)d --oversubscribe %_(COMMAND)s\n")


# Checks an installation of Scipion: tests/test_scipion_python.py makes some, and runs it there.
collect_ignore = [str(_PROJECTS / "test_installation.py")]


def pytest_collection_modifyitems(items):
    """Mark tests that need a Scipion project or train as slow; projects come first, then other slow tests.

    So at the end no worker is left alone with a long module.
    """
    for item in items:
        if {"blob_model", "few_updates"} & set(item.fixturenames) or _PROJECTS in item.path.parents:
            item.add_marker("slow")
    items.sort(key=lambda item: (_PROJECTS not in item.path.parents, item.get_closest_marker("slow") is None))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Names of files in a log may hold bytes that are no text, which a process of the tests cannot send on."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report
