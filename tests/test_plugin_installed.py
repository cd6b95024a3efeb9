# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing the plugin and environments of its own with Scipion's installer."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions, version
from pathlib import Path

import pwem
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deepem_scipion import Plugin, plugin
from deepem_scipion.constants import DEEPEM_PYTHON, ENVIRONMENT_COMPLETE, ENVIRONMENT_VERSION, ENVIRONMENTS
from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.tests.test_protocols_models import disc_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
HERE = {canonicalize_name(found.name): found for found in reversed(list(distributions()))}
SITE = Path(HERE["scipion-em"].locate_file(""))
# Run by the Python into which the plugin was installed.
QUESTION = """
import json, subprocess, sys
import pyworkflow
pyworkflow.Config.getDomain().getProtocols()
from deepem_scipion import Plugin
def run(*words):
    return subprocess.run([Plugin.getPython(), *words], env=Plugin.getEnviron(), cwd=sys.argv[2],
                          capture_output=True, text=True)
info = run("-m", "deepem_scipion.deepem", "info", sys.argv[1], "--json")
print(json.dumps([Plugin.getPython(), Plugin.validateInstallation(), info.returncode, info.stdout, info.stderr,
                  run("-c", "import pwem").stderr]))
"""


def environment(folder, name, complete=True):
    """What defineBinaries leaves, without what is in it."""
    made = folder / f"{name}-{ENVIRONMENT_VERSION}"
    made.mkdir(parents=True)
    if complete:
        (made / ENVIRONMENT_COMPLETE).touch()
    return str(made / "venv" / "bin" / "python")


def test_an_environment_is_used_once_it_is_complete_unless_another_interpreter_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pwem.Config, "EM_ROOT", str(tmp_path))
    assert Plugin.getPython() == sys.executable
    gpu = environment(tmp_path, "deepem_gpu", complete=False)
    assert Plugin.getPython() == sys.executable
    cpu = environment(tmp_path, "deepem_cpu")
    assert Plugin.getPython() == cpu and Plugin.isForeignPython()
    assert cpu in Plugin.validateInstallation()[0]  # damaged: it has no interpreter
    (tmp_path / f"deepem_gpu-{ENVIRONMENT_VERSION}" / ENVIRONMENT_COMPLETE).touch()
    assert Plugin.getPython() == gpu
    monkeypatch.setitem(Plugin._vars, DEEPEM_PYTHON, sys.executable)
    assert Plugin.getPython() == sys.executable


def test_environments_have_what_the_program_needs_and_are_not_made_unasked(monkeypatch):
    class Environment:
        packages = {}

        def addPackage(self, name, **options):
            self.packages[name] = options

    monkeypatch.setattr(plugin, "requires", lambda name: [
        "scipion-em>=3.11", "tensorflow<3,>=2.16", "numpy>=1.24", 'tensorflow[and-cuda]<3; extra == "gpu"',
        'pytest; extra == "dev"'])
    Plugin.defineBinaries(Environment())
    assert set(Environment.packages) == set(ENVIRONMENTS)
    for name, tensorflow in ENVIRONMENTS.items():
        options = Environment.packages[name]
        assert options["default"] is False
        (command, target), = options["commands"]
        assert re.search(r"pip install (.+?) &&", command)[1] == f"'{tensorflow}<3,>=2.16' 'numpy>=1.24'"
        assert target == ENVIRONMENT_COMPLETE and command.endswith(f"touch {target}")
        assert "-" not in name  # the installer takes what follows for a version


def needed(requirements):
    """Names of the distributions here that these requirements and those of what they name ask for."""
    found, todo = set(), list(map(Requirement, requirements))
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and name in HERE and (requirement.marker is None or requirement.marker.evaluate()):
            found.add(name)
            todo += map(Requirement, HERE[name].requires or ())
    return found


def link_packages(folder, names):
    """A folder from which these distributions can be imported, and no others."""
    folder.mkdir()
    for name in names:
        for top in {path.parts[0] for path in HERE[name].files if path.parts[0] != ".."}:
            if not (folder / top).exists():
                (folder / top).symlink_to(HERE[name].locate_file(top))
    return folder


def write_wheel(folder, name, release, content=()):
    """A wheel of files by name, without requirements."""
    word = re.sub("[-.]", "_", name)
    info = f"{word}-{release}.dist-info"
    files = {**dict(content), f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    with zipfile.ZipFile(folder / f"{word}-{release}-py3-none-any.whl", "w") as file:
        for path, text in {**files, f"{info}/RECORD": "".join(f"{path},,\n" for path in files)}.items():
            file.writestr(path, text)


def test_the_installer_installs_the_plugin_and_an_environment_that_it_then_uses(tmp_path):
    """A real `installp` and `installb`; what would be downloaded for them are packages that are here already."""
    pytest.importorskip("tensorflow")
    source, home = tmp_path / "scipion-em-deepem", tmp_path / "home"
    shutil.copytree(ROOT / "deepem_scipion", source / "deepem_scipion", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.rst", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "scipion"], check=True)
    python = tmp_path / "scipion" / "bin" / "python"
    purelib = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                             capture_output=True, text=True, check=True).stdout.strip()
    Path(purelib, "here.pth").write_text(f"{SITE}\n")
    (home / "software" / "em").mkdir(parents=True)
    (home / "software" / "em" / "void.tgz").write_text("so that it is not downloaded")
    environ = {**os.environ, "SCIPION_HOME": str(home), "EM_ROOT": str(home / "software" / "em"), "NO_COLOR": "1",
               "SCIPION_USER_DATA": str(tmp_path / "userdata"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*words, **more):
        return subprocess.run([python, "-W", "ignore", *words], env={**environ, **more}, capture_output=True, text=True,
                              cwd=tmp_path)

    got = run("-m", "pip", "install", "--retries", "0", "scipion-app")
    if got.returncode:
        pytest.skip(f"scipion-app cannot be had from the package registry: {got.stderr.strip().splitlines()[-1]}")
    done = run("-m", "scipion", "installp", "-p", str(source), "--devel")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Successfully installed scipion-em-deepem-{version('scipion-em-deepem')}" in done.stdout

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    # What the plugin asks for is that of the source, not that of when it was installed here.
    requirements = json.loads(run("-c", "import json, deepem_scipion.plugin as p; "
                                  "print(json.dumps(p.program_requirements('tensorflow')))").stdout)
    names = needed(requirements)
    assert {"tensorflow", "keras"} <= names and not {"optuna", "scipion-em"} & names
    links = link_packages(tmp_path / "links", names)
    for name in names:
        write_wheel(wheels, name, HERE[name].version)
    write_wheel(wheels, "tensorflow-cpu", HERE["tensorflow"].version, {"there.pth": f"{links}\n"})
    model = tmp_path / "discs.deepem"
    save_model(model, disc_model())
    done = run("-m", "scipion", "installb", "deepem_cpu", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels),
               PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = run("-c", QUESTION, str(model), str(tmp_path), SCIPION_DOMAIN="pwem")
    assert asked.returncode == 0, asked.stderr
    used, problems, status, card, error, without = json.loads(asked.stdout.splitlines()[-1])
    assert used == str(home / "software" / "em" / f"deepem_cpu-{ENVIRONMENT_VERSION}" / "venv" / "bin" / "python")
    assert problems == []
    assert status == 0, error
    assert json.loads(card)["diameter_angst"] == 100
    assert "No module named 'pwem'" in without
