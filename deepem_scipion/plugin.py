# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Class `Plugin`: configuration, installation, and the Python environment of the `deepem` program."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from importlib.metadata import requires
from importlib.util import find_spec

import pwem
import pyworkflow as pw
import pyworkflow.utils as pwutils
from pyworkflow import VarTypes

from . import __version__
from .constants import DEEPEM_PYTHON, ENVIRONMENT_COMPLETE, ENVIRONMENT_VERSION, ENVIRONMENTS

PACKAGE = __package__
DISTRIBUTION = "scipion-em-deepem"
REQUIRED_MODULES = ("tensorflow", "keras", "numpy", "scipy", "mrcfile", "tifffile", "imagecodecs", "PIL",
                    "safetensors", "threadpoolctl")
_SECONDS_TO_ANSWER = 60


class Plugin(pwem.Plugin):
    """The plugin as Scipion sees it."""

    # The framework takes the plugin's name, version and folder from the class's module.
    __module__ = PACKAGE

    _url = "https://pypi.org/project/scipion-em-deepem"
    _processingField = ["SPA"]

    @classmethod
    def _defineVariables(cls):
        cls._defineVar(
            DEEPEM_PYTHON, "",
            description="Python interpreter that runs the deepem program. Empty: that of the environment deepem_gpu or "
                        "deepem_cpu if one is installed, otherwise Scipion's own. The interpreter of another virtual "
                        "or conda environment must have TensorFlow.",
            var_type=VarTypes.PATH)

    @classmethod
    def defineBinaries(cls, env):
        """Define virtual environments with TensorFlow and the other requirements of the program, without Scipion.

        None is installed by default, because this package installs TensorFlow for the CPU into Scipion's own Python.
        They serve machines with a GPU, and installations whose Python should stay without TensorFlow.
        """
        python = shlex.quote(sys.executable)
        for name, tensorflow in ENVIRONMENTS.items():
            install = shlex.join(["venv/bin/python", "-I", "-m", "pip", "install", *program_requirements(tensorflow)])
            env.addPackage(name, version=ENVIRONMENT_VERSION, tar="void.tgz", default=False, commands=[(
                f"{python} -I -m venv --clear venv && {install} && venv/bin/python -I -c 'import tensorflow' && "
                f"touch {ENVIRONMENT_COMPLETE}", ENVIRONMENT_COMPLETE)])

    @classmethod
    def getPython(cls):
        """Return the path of the interpreter that runs the program."""
        python = os.path.expanduser(cls.getVar(DEEPEM_PYTHON) or _installed_python() or sys.executable)
        return shutil.which(python) or python

    @classmethod
    def isForeignPython(cls):
        """Return whether the program runs in a Python environment other than Scipion's."""
        # Not the real path: the interpreters of many environments are links to the same file.
        python, own = os.path.abspath(cls.getPython()), os.path.abspath(sys.executable)
        same_folder = os.path.dirname(python) == os.path.dirname(own)
        return not (same_folder and os.path.realpath(python) == os.path.realpath(own))

    @classmethod
    def getEnviron(cls, threads=1):
        """Return the environment variables of the program; those of Scipion itself are never changed."""
        environ = pwutils.Environ(_clean_environ() if cls.isForeignPython() else os.environ)
        if cls.isForeignPython() and PACKAGE in _missing_modules(cls.getPython(), (PACKAGE,)):
            environ["PYTHONPATH"] = _folder_with_package_only()
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environ[name] = str(threads)
        environ.update({
            "PYTHONUNBUFFERED": "1",  # so that the log can be followed
            "MPLBACKEND": "Agg",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # so that batches can share one GPU
        })
        return environ

    @classmethod
    def validateInstallation(cls):
        """Return a list of problems with their solutions; TensorFlow is searched for but not loaded."""
        python = cls.getPython()
        if not os.access(python, os.X_OK) or os.path.isdir(python):
            return [f"{python!r}, the Python interpreter for the deepem program, cannot be executed. Set "
                    f"{DEEPEM_PYTHON} to one with TensorFlow, or remove the variable to use Scipion's own. An "
                    "environment made by 'scipion3 installb' can be removed with 'scipion3 uninstallb' and installed "
                    "again."]
        return cls.validateModules(REQUIRED_MODULES)

    @classmethod
    def validateModules(cls, names, extra=""):
        """Return a list with one problem if the interpreter of the program lacks any of the modules, or empty.

        `extra` is the part of the distribution that installs them, in brackets.
        """
        python = cls.getPython()
        if cls.isForeignPython():
            missing = _missing_modules(python, names)
        else:
            missing = tuple(name for name in names if find_spec(name) is None)
        if not missing:
            return []
        return [f"The Python interpreter {python} lacks: {', '.join(missing)}. Install them with "
                f"'{python} -m pip install {DISTRIBUTION}{extra}', or a separate environment with 'scipion3 installb "
                f"deepem_cpu' (deepem_gpu for an NVIDIA GPU), or set {DEEPEM_PYTHON} to an interpreter that has them."]


def _installed_python():
    """Interpreter of an environment installed by `defineBinaries`; None if there is none."""
    found = None
    for name in ENVIRONMENTS:
        folder = os.path.join(pwem.Config.EM_ROOT, f"{name}-{ENVIRONMENT_VERSION}")
        if os.path.exists(os.path.join(folder, ENVIRONMENT_COMPLETE)):
            found = os.path.join(folder, "venv", "bin", "python")
    return found


def program_requirements(tensorflow):
    """Requirements of this distribution except Scipion, with the given distribution of TensorFlow."""
    own = [text for text in requires(DISTRIBUTION) or () if "extra ==" not in text and not text.startswith("scipion-")]
    return [re.sub(r"^tensorflow\b", tensorflow, text) for text in own]


def _clean_environ():
    """Copy of the environment variables without the paths of Scipion's own Python."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _missing_modules(python, names):
    """Modules that another interpreter cannot find; all of them if it cannot be started."""
    question = ("import sys, importlib.util as u; "
                "print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])")
    try:
        # Not in the current folder, from which Python would import as well.
        answer = subprocess.run([python, "-c", question, *names], env=_clean_environ(), cwd=os.path.dirname(python),
                                capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER, check=True)
    except (OSError, subprocess.SubprocessError):
        return tuple(names)
    return tuple(answer.stdout.split())


def _folder_with_package_only():
    """Folder from which only this package can be imported, without the packages installed next to it."""
    folder = os.path.abspath(os.path.join(pw.Config.SCIPION_USER_DATA, f"{PACKAGE}-{__version__}"))
    link = os.path.join(folder, PACKAGE)
    target = os.path.dirname(os.path.abspath(__file__))
    if os.path.realpath(link) != os.path.realpath(target):
        os.makedirs(folder, exist_ok=True)
        # Atomically, because several batches may start at once.
        new = f"{link}-{os.getpid()}-{threading.get_ident()}"
        os.symlink(target, new)
        os.replace(new, link)
    return folder
