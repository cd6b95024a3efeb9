# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin in Scipion's default Python, 3.8, in which the packages of the program do not exist."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UV = (sys.executable, "-m", "uv")
PYTHON = "3.8"
# What the Scipion side imports beyond the framework.
REQUIREMENTS = ["scipion-app", "scipion-em", "safetensors>=0.4.4", "imagecodecs>=2023.3.16"]
# Modules that train or scan: they import what exists only for Python 3.10 and newer.
NEWER_PYTHON = {"deepem_scipion.deepem.network.layers", "deepem_scipion.deepem.training.tuning"}
IMPORT_ALL = """
import importlib, json, pkgutil, sys
import deepem_scipion
failed = {}
for module in pkgutil.walk_packages(deepem_scipion.__path__, "deepem_scipion."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except Exception as error:
            failed[module.name] = repr(error)
print(json.dumps(failed))
"""
pytestmark = pytest.mark.slow


def find_python(version):
    """Interpreter of a version that runs: from the path, or from pyenv; None if there is none."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for candidate in (shutil.which(f"python{version}"), *sorted(versions.glob(f"{version}.*/bin/python"))):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return str(candidate)
    return None


def run(*words, **options):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Interpreter of an environment of that Python with Scipion."""
    base = find_python(PYTHON)
    if base is None:
        reason = f"Python {PYTHON} was not found in the path or in pyenv"
        # Continuous integration must have it.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("scipion")
    run(*UV, "venv", "--quiet", "--seed", "--python", base, folder / "env")
    python = folder / "env" / "bin" / "python"
    run(*UV, "pip", "install", "--quiet", "--python", python, *REQUIREMENTS)
    return python


def test_every_module_is_imported_except_those_that_train_or_scan(python, tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "SCIPION_DOMAIN": "pwem", "SCIPION_HOME": str(tmp_path)}
    failed = json.loads(run(python, "-W", "ignore", "-c", IMPORT_ALL, env=environ, cwd=tmp_path).splitlines()[-1])
    assert set(failed) == NEWER_PYTHON, failed
    assert all("ModuleNotFoundError" in error for error in failed.values()), failed
