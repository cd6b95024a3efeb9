# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel: it holds what is needed, installs, runs, and is found by Scipion."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.tests.test_protocols_models import disc_model

ROOT = Path(__file__).resolve().parent.parent
# The wheel's folder comes first; what the package requires is that of this environment.
SMOKE = """
import sys
import pyworkflow
domain = pyworkflow.Config.getDomain()
protocols = {name for name, kind in domain.getProtocols().items() if kind.__module__.startswith("deepem_scipion")}
import deepem_scipion
assert deepem_scipion.__file__.startswith(sys.argv[1]), deepem_scipion.__file__
print(*sorted(protocols))
print(deepem_scipion.Plugin.validateInstallation())
"""


def run(*words, **options):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made from a copy, as from a fresh clone."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.rst", "LICENSE", "CHANGES.txt"):
        shutil.copy(ROOT / name, source)
    for name in ("deepem_scipion", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target,
        source)
    found, = target.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file."""
    path = tmp_path_factory.mktemp("model") / "discs.deepem"
    save_model(path, disc_model())
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder into which the wheel was installed, and an environment in which Python finds it first."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder, {**os.environ, "PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}


def test_the_wheel_holds_every_source_and_data_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "deepem_scipion"
    kept = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"
            and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)}
    assert names == kept
    for name in ("protocols.conf", "deepem_logo.png", "templates/facility.json.template",
                 "templates/train-and-pick.json.template", "deepem/report/template.html.j2"):
        assert f"deepem_scipion/{name}" in names


def test_the_wheel_says_what_it_is_and_how_it_is_found(wheel):
    with zipfile.ZipFile(wheel) as archive:
        folder, = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    version, = re.findall(r'__version__ = "(.*)"', (ROOT / "deepem_scipion" / "__init__.py").read_text())
    assert f"\nName: scipion-em-deepem\nVersion: {version}\n" in metadata
    assert "\nRequires-Python: " in metadata and "\nRequires-Dist: scipion-em>=" in metadata
    assert dict(entries["console_scripts"]) == {"deepem": "deepem_scipion.deepem.commands.main:main"}
    assert dict(entries["pyworkflow.plugin"]) == {"deepem_scipion": "deepem_scipion"}


def test_the_installed_program_runs(installed, model, tmp_path):
    folder, environ = installed
    program = folder / "bin" / "deepem"
    version, = re.findall(r'__version__ = "(.*)"', (ROOT / "deepem_scipion" / "__init__.py").read_text())
    assert version in run(program, "--version", env=environ, cwd=tmp_path)
    assert json.loads(run(program, "info", "--json", model, env=environ, cwd=tmp_path))["diameter_angst"] == 100


def test_scipion_finds_the_installed_plugin(installed, tmp_path):
    folder, environ = installed
    protocols, problems = run(sys.executable, "-W", "ignore", "-c", SMOKE, folder, env=environ,
                              cwd=tmp_path).splitlines()[-2:]
    assert {"ProtDeepEMTrain", "ProtDeepEMPick", "ProtDeepEMEvaluate"} <= set(protocols.split())
    assert problems == "[]"


def test_the_wheel_installs_into_an_empty_environment_with_all_that_it_requires(wheel, model, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    # One small requirement is asked for first: only an index out of reach skips, nothing that is wrong with the wheel.
    asked = subprocess.run([str(python), "-m", "pip", "--retries", "1", "--timeout", "20", "download", "--quiet",
                            "--no-deps", "--dest", str(tmp_path / "asked"), "mrcfile"], capture_output=True, text=True)
    if asked.returncode:
        pytest.skip(f"the package index is out of reach: {asked.stderr.strip()[-300:]}")
    run(python, "-m", "pip", "install", "--quiet", wheel)
    run(python, "-m", "pip", "check")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    card = json.loads(run(tmp_path / "env" / "bin" / "deepem", "info", "--json", model, env=environ, cwd=tmp_path))
    assert card["diameter_angst"] == 100
    listed, problems = run(python, "-W", "ignore", "-c", SMOKE, tmp_path / "env", env=environ,
                           cwd=tmp_path).splitlines()[-2:]
    assert "ProtDeepEMPick" in listed and problems == "[]"
