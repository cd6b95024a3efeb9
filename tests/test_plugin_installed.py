# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing the plugin and environments of its own with Scipion's installer."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pwem
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deepem_scipion import Plugin, environments, plugin
from deepem_scipion.constants import DEEPEM_ENV_ACTIVATION, DEEPEM_PYTHON, ENVIRONMENTS, VERSION, Variant

pytestmark = pytest.mark.slow

HERE = {canonicalize_name(found.name): found for found in reversed(list(distributions()))}
HOOK = 'eval "$(/opt/conda/bin/conda shell.bash hook)"'


def environment(name, complete=True):
    """What an installation leaves, without the packages; the interpreter of the environment."""
    python = Path(environments.python_of(name))
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    if complete:
        Path(environments.home(name), environments.COMPLETE).touch()
    return str(python)


@pytest.fixture
def em_root(tmp_path, monkeypatch):
    """Folder of programs without any."""
    monkeypatch.setattr(pwem.Config, "EM_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def tiny(monkeypatch):
    """An environment that needs nothing that has to be downloaded."""
    monkeypatch.setitem(ENVIRONMENTS, "deepem_cpu", Variant(("program",), "none", ("json",)))
    monkeypatch.setattr(environments, "requires", lambda name: ["scipion-em>=3.11", 'pip>=1; extra == "program"'])


def binaries(monkeypatch, missing=True):
    """Options of the packages that the plugin defines, by name."""
    found = {}

    class Environment:
        def addPackage(self, name, **options):
            found[name] = options

    monkeypatch.setattr(plugin, "find_spec", lambda name: None if missing else object())
    Plugin.defineBinaries(Environment())
    return found


def test_a_complete_environment_is_used_unless_another_one_is_named(em_root, monkeypatch):
    assert Plugin.getPython() == sys.executable and Plugin.getActiveVersion() == ""
    gpu = environment("deepem_gpu", complete=False)
    assert Plugin.getPython() == sys.executable
    cpu = environment("deepem_cpu")
    assert Plugin.getPython() == cpu and Plugin.isForeignPython()
    assert Plugin.getActiveVersion() == VERSION and VERSION in Plugin.getSupportedVersions()
    Path(environments.home("deepem_gpu"), environments.COMPLETE).touch()
    assert Plugin.getPython() == gpu
    os.remove(gpu)
    assert Plugin.getPython() == cpu
    monkeypatch.setitem(Plugin._vars, DEEPEM_PYTHON, sys.executable)
    assert Plugin.getPython() == sys.executable


def test_what_to_do_depends_on_the_state_of_the_environment(em_root, monkeypatch):
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    monkeypatch.setattr(plugin, "_missing_modules", lambda python, names: ("keras",))
    assert "'scipion3 installb deepem_" in Plugin.validateInstallation()[0]
    environment("deepem_cpu", complete=False)
    assert "interrupted. Repeat it: 'scipion3 installb deepem_cpu'" in Plugin.validateInstallation()[0]
    environment("deepem_gpu")
    assert f"'scipion3 uninstallb deepem_gpu-{VERSION}'" in Plugin.validateInstallation()[0]


def test_an_environment_that_is_activated_lends_its_interpreter_and_variables(tmp_path, monkeypatch):
    folder = tmp_path / f"deepem-{VERSION}"
    venv.create(folder, symlinks=True)
    monkeypatch.setitem(Plugin._vars, DEEPEM_ENV_ACTIVATION, f". {folder}/bin/activate; export LENT=yes")
    assert Plugin.getPython() == str(folder / "bin" / "python") and Plugin.isForeignPython()
    environ = Plugin.getEnviron()
    assert environ["LENT"] == "yes" and environ["VIRTUAL_ENV"] == str(folder) and "LENT" not in os.environ
    assert "lacks: numpy" in Plugin.validateInstallation()[0]
    monkeypatch.setitem(Plugin._vars, DEEPEM_ENV_ACTIVATION, f"conda activate deepem-{VERSION}")
    assert Plugin.getActiveVersion() == VERSION
    monkeypatch.setitem(Plugin._vars, DEEPEM_ENV_ACTIVATION, "echo no such environment >&2; false")
    problem, = Plugin.validateInstallation()
    assert "no such environment" in problem and DEEPEM_ENV_ACTIVATION in problem


def test_one_environment_is_made_unasked_for_the_gpu_where_there_is_one(em_root, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    assert [name for name, options in binaries(monkeypatch).items() if options["default"]] == ["deepem_cpu"]
    monkeypatch.setattr(environments.shutil, "which", lambda name: name if name == "nvidia-smi" else None)
    assert [name for name, options in binaries(monkeypatch).items() if options["default"]] == ["deepem_gpu"]
    assert not any(options["default"] for options in binaries(monkeypatch, missing=False).values())


def test_environments_have_what_the_program_needs_and_are_made_by_conda_if_it_is_there(em_root, monkeypatch):
    monkeypatch.setattr(environments, "requires", lambda name: [
        "scipion-em>=3.11", "numpy>=1.24", 'tensorflow<3,>=2.17; extra == "program"', 'rich; extra == "pick"',
        'some<2; python_version < "3.12" and extra == "program"', 'optuna>=4; extra == "tune"'])
    monkeypatch.setattr(Plugin, "_condaActivationCmd", HOOK + " &&")
    found = binaries(monkeypatch)
    assert set(found) == set(ENVIRONMENTS)
    for name, options in found.items():
        (command, targets), = options["commands"]
        tensorflow = ENVIRONMENTS[name].tensorflow
        assert re.search(r"pip install (.+?) && ", command)[1] == ("rich" if name == "deepem_pick" else (
            f"'{tensorflow}<3,>=2.17' 'some<2; python_version < \"3.12\"' 'optuna>=4'"))
        assert f"{HOOK} && conda create -y -n {name}-{VERSION} " in command
        assert targets == [environments.COMPLETE, "env/bin/python"] and command.endswith(f"touch {targets[0]}")
        assert "-" not in name  # the installer takes what follows for a version


def test_without_conda_an_environment_is_made_by_the_newest_suitable_python(tmp_path, monkeypatch, tiny):
    programs, work = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    works = f'echo used >> {work}/calls\nexec {sys.executable} "$@"'
    for name, lines in (("python3.12", "exit 127"), ("python3.11", works)):
        (programs / name).write_text(f"#!/bin/sh\n{lines}\n")
        (programs / name).chmod(0o755)
    (work / environments.FOLDER).mkdir()  # of an interrupted installation
    environ = {**os.environ, "PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin", "PIP_NO_INDEX": "1"}

    def install():
        return subprocess.run(environments.install_command("deepem_cpu"), shell=True, cwd=work, env=environ,
                              capture_output=True, text=True)

    done = install()
    assert done.returncode == 0, done.stderr
    assert (work / "calls").exists() and (work / environments.COMPLETE).exists()
    assert (work / environments.FOLDER / "pyvenv.cfg").exists()
    monkeypatch.setattr(environments, "PYTHONS", ("python3.12",))
    monkeypatch.setattr(environments.sys, "executable", "/nowhere/python")
    done = install()
    assert done.returncode == 1 and "DeepEM needs conda, or Python 3.10" in done.stderr
    assert not (work / environments.COMPLETE).exists()


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
