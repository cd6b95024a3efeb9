# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin in an installation of Scipion with many other plugins, in Scipion's default Python, 3.8.

The packages of the program do not exist for this Python; they are in an environment that the plugin makes itself.
With DEEPEM_SCIPION_PYTHON=3.10 or 3.11 everything is in one environment instead (`make versions`).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_plugin_installed import HERE as PACKAGES
from test_plugin_installed import link_packages, needed, write_wheel

from deepem_scipion.constants import ENVIRONMENTS, VERSION
from deepem_scipion.environments import COMPLETE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
UV = (sys.executable, "-m", "uv")
PYTHON = os.environ.get("DEEPEM_SCIPION_PYTHON", "3.8")
SEPARATE = PYTHON == "3.8"
PLUGINS = ("appion", "cistem", "cryoassess", "cryodrgn", "cryosparc2", "eman2", "facilities", "gautomatch",
           "gctf", "localrec", "miffi", "motioncorr", "relion", "repic", "spider", "sphire", "tomo", "topaz", "xmipp")
# Packages of the program alone: what trains or scans may import them, and Scipion never imports that.
OF_THE_PROGRAM = ("keras", "tensorflow", "optuna", "llvmlite", "threadpoolctl", "jinja2", "rich",
                  "starlette", "uvicorn")
IMPORT_ALL = """
import importlib, json, pkgutil
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
PROTOCOLS = "import json, pyworkflow as pw; print(json.dumps(sorted(pw.Config.getDomain().getProtocols())))"
BINARIES = """
import json, sys
import pyworkflow as pw
found = {}
class Environment:
    def addPackage(self, name, **options):
        found[name] = {key: options.get(key) for key in ("tar", "version", "default", "commands")}
domain = pw.Config.getDomain()
for name in sys.argv[1:]:
    domain.getPlugins()[name].Plugin.defineBinaries(Environment())
print(json.dumps(found))
"""
# What the plugin says of the program, and what else the program's Python could import.
STATE = """
import json, subprocess
import pyworkflow as pw
pw.Config.getDomain().getProtocols()
from deepem_scipion import Plugin
python = Plugin.getPython()
done = subprocess.run([python, "-c", "import pwem"], env=Plugin.getEnviron(), capture_output=True, text=True)
print(json.dumps([python, Plugin.validateInstallation(), done.stderr]))
"""
# What conda would do, with virtual environments whose packages come from a folder. A file "break" makes it fail.
CONDA = """#!/bin/sh
echo "$@" >> {folder}/calls
case "$1" in
    shell.posix) echo 'conda() {{ if [ "$1" != activate ]; then command conda "$@"; return; fi;
        . {folder}/envs/$2/bin/activate; export CONDA_PREFIX=$VIRTUAL_ENV; }}';;
    create) {python} -m venv --clear {folder}/envs/$4 &&
        printf '[global]\\nno-index = true\\nfind-links = {wheels}\\n' > {folder}/envs/$4/pip.conf
        [ ! -e {folder}/break ];;
esac
"""


def find_python(version):
    """Interpreter of a version that runs: from the path, or from pyenv; None if there is none."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for candidate in (shutil.which(f"python{version}"), *sorted(versions.glob(f"{version}.*/bin/python"))):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return str(candidate)
    return None


def checked(*words, **options):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


class Scipion:
    """An installation of Scipion in a folder, with other plugins, and a `conda` that makes virtual environments."""

    def __init__(self, folder, base):
        self.folder, self.home = folder, folder / "home"
        self.python, self.source = folder / "scipion" / "bin" / "python", folder / "scipion-em-deepem"
        checked(*UV, "venv", "--quiet", "--seed", "--python", base, folder / "scipion")
        self.add("scipion-app", "scipion-em", "safetensors>=0.4.4", "imagecodecs>=2023.3.16,<2026",
                 *(f"scipion-em-{name}" for name in PLUGINS),
                 "scipion-em-cryosparc2>=5")  # not one of those that only build where pwem is installed
        em = self.home / "software" / "em"
        em.mkdir(parents=True)
        (em / "void.tgz").write_text("so that it is not downloaded")
        shutil.copytree(ROOT / "deepem_scipion", self.source / "deepem_scipion",
                        ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.py", "pyproject.toml", "README.rst", "MANIFEST.in"):
            shutil.copy(ROOT / name, self.source)
        conda = folder / "conda"
        program = conda / "bin" / "conda"
        program.parent.mkdir(parents=True)
        program.write_text(CONDA.format(folder=conda, python=sys.executable, wheels=folder / "wheels"))
        program.chmod(0o755)
        left_out = ("PYTHONPATH", "PIP_FIND_LINKS", "SCIPION_TESTS", "SCIPION_TESTS_OUTPUT", "SCIPION_LOGS")
        self.environ = {
            **{name: value for name, value in os.environ.items() if name not in left_out},
            "SCIPION_HOME": str(self.home), "EM_ROOT": str(em), "SCIPION_USER_DATA": str(folder / "userdata"),
            "SCIPION_PYTHON": str(self.python), "NO_COLOR": "1", "PYTHONWARNINGS": "ignore",
            "PATH": os.pathsep.join([str(conda / "bin"), str(self.python.parent), os.environ["PATH"]])}

    def add(self, *requirements):
        """Install distributions from the package index."""
        checked(*UV, "pip", "install", "--quiet", "--python", self.python, *requirements)

    def start(self, *words, **environ):
        return subprocess.run([str(word) for word in (self.python, *words)], env={**self.environ, **environ},
                              capture_output=True, text=True, cwd=self.folder)

    def run(self, *words, **environ):
        done = self.start(*words, **environ)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout

    def ask(self, code, *words, **environ):
        """What code that prints JSON returns."""
        return json.loads(self.run("-c", code, *words, **environ).splitlines()[-1])

    def distributions(self):
        found = json.loads(checked(*UV, "pip", "list", "--format", "json", "--python", self.python))
        return {each["name"]: each["version"] for each in found}

    def write_wheels(self):
        """Wheels for the environment of the program, which lead to the packages of this Python."""
        (self.folder / "wheels").mkdir()
        wanted = self.ask("import json; from deepem_scipion.environments import ENVIRONMENTS, requirements; "
                          "print(json.dumps({name: requirements(name) for name in ENVIRONMENTS}))")
        names, light = needed(sum(wanted.values(), [])), needed(wanted["deepem_pick"])
        assert {"tensorflow", "keras", "optuna"} <= names and "scipion-em" not in names
        assert "llvmlite" in light and not light & {"tensorflow", "keras", "optuna"}
        links, few = (link_packages(self.folder / folder, each) for folder, each in (("links", names), ("few", light)))
        for name in names:
            write_wheel(self.folder / "wheels", name, PACKAGES[name].version)
        for name in ("tensorflow", "tensorflow-cpu"):
            write_wheel(self.folder / "wheels", name, PACKAGES["tensorflow"].version, {"there.pth": f"{links}\n"})
        write_wheel(self.folder / "wheels", "llvmlite", PACKAGES["llvmlite"].version, {"few.pth": f"{few}\n"})


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Scipion before our plugin is installed."""
    base = find_python(PYTHON)
    if base is None:
        # Continuous integration must have it.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Python {PYTHON} in the path or in pyenv")
    return Scipion(tmp_path_factory.mktemp("scipion"), base)


@pytest.fixture(scope="module")
def before(bare):
    """Distributions and protocols before our plugin is installed, and modules that could not be imported then."""
    return bare.distributions(), bare.ask(PROTOCOLS), bare.ask(IMPORT_ALL, PYTHONPATH=str(ROOT))


@pytest.fixture(scope="module")
def scipion(bare, before):
    """Scipion with our plugin; where the program has its own environment, its installation was interrupted."""
    words = ("-m", "scipion", "installp", "-p", bare.source, "--devel")
    if SEPARATE:
        (bare.folder / "conda" / "break").touch()
        done = bare.start(*words)
        assert "Successfully installed scipion-em-deepem" in done.stdout, done.stdout + done.stderr
        bare.write_wheels()
    else:
        kept = bare.folder / "versions.txt"  # as README says
        kept.write_text("".join(f"{name}=={version}\n" for name, version in before[0].items()))
        bare.add("--constraint", kept, "--editable", f"{bare.source}[program]")
        bare.run(*words)
    return bare


def test_every_module_is_imported_except_those_that_train_or_scan(before):
    failed = before[2]
    assert "deepem_scipion.deepem.network.layers" in failed
    assert all(name.startswith("deepem_scipion.deepem.") for name in failed), failed
    assert all(re.match(rf"ModuleNotFoundError.+ named '({'|'.join(OF_THE_PROGRAM)})\b", error)
               for error in failed.values()), failed


def test_nothing_else_is_changed_by_the_installation_and_all_protocols_are_found(scipion, before):
    distributions, protocols, _ = before
    after = scipion.distributions()
    assert {name: after.get(name) for name in distributions} == distributions
    if SEPARATE:
        assert set(after) - set(distributions) == {"scipion-em-deepem"}
    checked(*UV, "pip", "check", "--python", scipion.python)
    found = set(scipion.ask(PROTOCOLS))
    ours = {name for name in found if "DeepEM" in name}
    assert len(ours) == 8 and len(protocols) > 200
    assert found - ours == set(protocols)


@pytest.mark.skipif(not SEPARATE, reason="the program is in the environment of Scipion")
def test_an_interrupted_installation_is_noticed_and_repaired(scipion):
    python, problems, _ = scipion.ask(STATE)
    name, = (path.name.split("-")[0] for path in (scipion.home / "software" / "em").glob("deepem_*"))
    assert python == str(scipion.python)
    assert f"interrupted. Repeat it: 'scipion3 installb {name}'" in problems[0]
    assert "llvmlite" in problems[0]
    failing = scipion.start("-m", "scipion", "tests", "deepem_scipion.tests.test_installation")
    assert failing.returncode == 1 and "installb" in failing.stdout + failing.stderr

    (scipion.folder / "conda" / "break").unlink()
    out = scipion.run("-m", "scipion", "installb", name)
    python, problems, foreign = scipion.ask(STATE)
    assert python == str(scipion.home / "software" / "em" / f"{name}-{VERSION}" / "env" / "bin" / "python"), out
    assert problems == []
    assert "No module named 'pwem'" in foreign
    calls = (scipion.folder / "conda" / "calls").read_text()
    assert calls.count(f"create -y -n {name}-{VERSION} -c conda-forge python=3.11") == 2
    assert "All targets exist, skipping" in scipion.run("-m", "scipion", "installb", name)


@pytest.mark.skipif(not SEPARATE, reason="the program is in the environment of Scipion")
def test_environments_are_made_as_those_of_topaz_and_cryolo(scipion):
    hook = 'eval "$(/opt/conda/bin/conda shell.bash hook)"'
    found = scipion.ask(BINARIES, "topaz", "sphire", "deepem_scipion", CONDA_ACTIVATION_CMD=hook)
    ours = {name: found[name] for name in ENVIRONMENTS}
    others = {name: found[name] for name in ("topaz", "cryolo")}
    for name, options in {**ours, **others}.items():
        (command, targets), = options["commands"]
        targets = [targets] if isinstance(targets, str) else targets
        assert options["tar"] == "void.tgz"
        steps = [command.index(part) for part in (hook, "conda create -y -n ", "python=3.", "conda activate ",
                                                  " install ", f"touch {targets[0]}")]
        assert steps == sorted(steps), (name, command)
    assert all(f"-n {name}-{VERSION} " in options["commands"][0][0] for name, options in ours.items())
    assert [options["default"] for options in ours.values()].count(True) == 1
    assert ours["deepem_cpu"]["commands"][0][1][0] == COMPLETE


def check_installation(scipion, **environ):
    done = scipion.start("-m", "scipion", "tests", "deepem_scipion.tests.test_installation", CUDA_VISIBLE_DEVICES="",
                         **environ)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "PASSED  ] 1 tests" in done.stdout + done.stderr


def test_import_training_picking_evaluation_and_viewers_run(scipion):
    check_installation(scipion)


@pytest.mark.skipif(not SEPARATE, reason="the program is in the environment of Scipion")
def test_the_environment_that_cannot_train_picks_with_the_general_model(scipion):
    scipion.run("-m", "scipion", "installb", "deepem_pick")
    python = scipion.home / "software" / "em" / f"deepem_pick-{VERSION}" / "env" / "bin" / "python"
    checked(python, "-c", "import llvmlite")
    assert subprocess.run([python, "-c", "import tensorflow"], capture_output=True).returncode != 0
    check_installation(scipion, DEEPEM_PYTHON=str(python))
