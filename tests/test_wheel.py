# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel: it holds what is needed, installs, runs, and is found by Scipion."""

import configparser
import email
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
from test_plugin_installed import link_packages, needed
from test_scipion_python import find_python

from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.tests.test_protocols_models import disc_model

ROOT = Path(__file__).resolve().parent.parent
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
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
    "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
pytestmark = pytest.mark.slow


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
    # The wheel is built from the source distribution.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source)
    found, = target.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Interpreter of an empty environment with the wheel.

    What the wheel requires is not downloaded: the environment sees those packages of this one, and no others.
    """
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        metadata, = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        wanted = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist")
    # With the extra "program": those without a marker of an extra, and those with its marker.
    wanted = [re.sub(r"(;| and) extra == .program.$", "", text) for text in wanted]
    names = needed(text for text in wanted if "extra ==" not in text)
    assert {"tensorflow", "scipion-em"} <= names and not {"optuna", "pytest"} & names
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(purelib, "links.pth").write_text(f"{link_packages(folder / 'links', names)}\n")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-index", wheel)  # fails where a requirement is not met
    run(*pip, "check")
    return python


def test_the_wheel_holds_every_source_and_data_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "deepem_scipion"
    kept = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"
            and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)}
    assert names == kept
    for name in ("protocols.conf", "deepem_logo.png", "templates/facility.json.template",
                 "templates/from-nothing.json.template", "templates/train-and-pick.json.template",
                 "deepem/report/template.html.j2", "deepem/model/general.deepem"):
        assert f"deepem_scipion/{name}" in names


def test_the_wheel_says_what_it_is_and_how_it_is_found(wheel):
    with zipfile.ZipFile(wheel) as archive:
        folder, = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    version, = re.findall(r'__version__ = "(.*)"', (ROOT / "deepem_scipion" / "__init__.py").read_text())
    assert f"\nName: scipion-em-deepem\nVersion: {version}\n" in metadata
    assert re.search(r"^Requires-Python: (?=.*>=3\.8\b)(?=.*<3\.13\b)", metadata, re.M)
    assert "\nRequires-Dist: scipion-em>=" in metadata
    assert dict(entries["console_scripts"]) == {"deepem": "deepem_scipion.deepem.commands.main:main"}
    assert dict(entries["pyworkflow.plugin"]) == {"deepem_scipion": "deepem_scipion"}


def test_the_distributions_can_be_uploaded(wheel):
    distributions = list(wheel.parent.iterdir())
    assert sorted(path.suffix for path in distributions) == [".gz", ".whl"]
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions)


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.11", "3.12"])
def test_the_wheel_can_be_installed_in_every_supported_python(wheel, tmp_path, version):
    """The package index has everything that it requires; nothing is installed."""
    base = find_python(version)
    if base is None:
        pytest.skip(f"no Python {version} in the path or in pyenv")
    words = (sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--python", base, "--target", tmp_path)
    subprocess.run([*map(str, words), str(wheel)], check=True)
    program = subprocess.run([*map(str, words), f"{wheel}[program,tune]"], capture_output=True, text=True)
    assert (program.returncode == 0) == (version != "3.8"), program.stderr


def test_without_its_packages_the_program_says_in_one_sentence_what_to_install(wheel, tmp_path):
    folder = tmp_path / "env"
    venv.create(folder, with_pip=False)
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps", wheel)
    done = subprocess.run([folder / "bin" / "deepem", "info", "model"], env=ENVIRON, capture_output=True, text=True)
    message, = done.stderr.splitlines()
    assert done.returncode == 2
    assert "not installed" in message and "pip install 'scipion-em-deepem[program]'" in message


def test_the_installed_program_runs_with_nothing_but_what_the_wheel_requires(python, tmp_path):
    program, model = python.with_name("deepem"), tmp_path / "discs.deepem"
    save_model(model, disc_model())
    version, = re.findall(r'__version__ = "(.*)"', (ROOT / "deepem_scipion" / "__init__.py").read_text())
    assert version in run(program, "--version", env=ENVIRON, cwd=tmp_path)
    card = run(program, "info", "--json", model, env=ENVIRON, cwd=tmp_path)
    assert json.loads(card)["diameter_angst"] == 100


def test_scipion_finds_the_installed_plugin(python, tmp_path):
    protocols, problems = run(python, "-W", "ignore", "-c", SMOKE, python.parents[1], env=ENVIRON,
                              cwd=tmp_path).splitlines()[-2:]
    assert {"ProtDeepEMTrain", "ProtDeepEMPick", "ProtDeepEMEvaluate"} <= set(protocols.split())
    assert problems == "[]"
