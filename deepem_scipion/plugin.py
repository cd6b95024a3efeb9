# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Class `Plugin`: configuration, installation, and the Python environment of the `deepem` program."""

import os
import shutil
import subprocess
import sys
import threading
from importlib.util import find_spec

import pwem
import pyworkflow as pw
import pyworkflow.utils as pwutils
from pyworkflow import VarTypes

from . import __version__, environments
from .constants import DEEPEM_ENV_ACTIVATION, DEEPEM_PYTHON, ENVIRONMENTS, PICK_MODULES, VERSION, VERSIONS

PACKAGE = __package__
_SECONDS_TO_ANSWER = 60


class Plugin(pwem.Plugin):
    """The plugin as Scipion sees it."""

    # The framework takes the plugin's name, version and folder from the class's module.
    __module__ = PACKAGE

    _url = "https://github.com/scipion-em/scipion-em-deepem"
    _supportedVersions = VERSIONS
    _processingField = ["SPA"]

    @classmethod
    def _defineVariables(cls):
        cls._defineVar(
            DEEPEM_PYTHON, "",
            description="Python interpreter that runs the deepem program, of an environment that has its packages. "
                        f"Empty: that of {DEEPEM_ENV_ACTIVATION}, of an environment installed by Scipion "
                        f"({', '.join(ENVIRONMENTS)}), or Scipion's own.",
            var_type=VarTypes.PATH)
        cls._defineVar(
            DEEPEM_ENV_ACTIVATION, "",
            description="Command that activates an environment with the packages of the deepem program, for instance "
                        f"conda activate deepem-{VERSION}. Empty: see {DEEPEM_PYTHON}, which has precedence.",
            var_type=VarTypes.STRING)

    @classmethod
    def defineBinaries(cls, env):
        """Define the environments of the program; one is installed by default unless Scipion's own Python serves."""
        conda = environments.conda_hook(cls.getCondaActivationCmd() or "")
        default = environments.default_name() if any(map(_is_missing, PICK_MODULES)) else None
        for name in ENVIRONMENTS:
            targets = [environments.COMPLETE, os.path.relpath(environments.python_of(name), environments.home(name))]
            env.addPackage(name, version=VERSION, tar="void.tgz", default=name == default,
                           commands=[(environments.install_command(name, conda), targets)])

    @classmethod
    def getActiveVersion(cls, *args):
        """Return the version of the environment of the program, or "" if it was not installed by Scipion."""
        used = cls.getVar(DEEPEM_PYTHON) or cls.getVar(DEEPEM_ENV_ACTIVATION)
        if not used:
            return VERSION if environments.installed() else ""
        return next((version for version in VERSIONS if used.endswith(f"-{version}")), "")

    @classmethod
    def getPython(cls):
        """Return the path of the interpreter that runs the program."""
        python = os.path.expanduser(cls.getVar(DEEPEM_PYTHON) or "")
        if not python and cls.getVar(DEEPEM_ENV_ACTIVATION):
            python = cls._activate()[0]
        found = environments.installed()
        python = python or (environments.python_of(found[0]) if found else sys.executable)
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
        environ = pwutils.Environ(os.environ)
        if cls.isForeignPython():
            environ = pwutils.Environ(environments.clean_environ())
            if cls.getVar(DEEPEM_ENV_ACTIVATION) and not cls.getVar(DEEPEM_PYTHON):
                environ = pwutils.Environ(cls._activate()[1])
            if PACKAGE in _missing_modules(cls.getPython(), (PACKAGE,)):
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
        """Return a list of problems with their solutions; the program's packages are searched for but not loaded."""
        try:
            python = cls.getPython()
        except RuntimeError as error:
            return [f"{error}. Correct {DEEPEM_ENV_ACTIVATION}, or remove it to use an environment installed by "
                    "Scipion."]
        if not os.access(python, os.X_OK) or os.path.isdir(python):
            return [f"{python!r}, the Python interpreter for the deepem program, cannot be executed. Set "
                    f"{DEEPEM_PYTHON} to one that has its packages, or remove the variable to use an environment "
                    f"installed by 'scipion3 installb {environments.default_name()}'."]
        return cls.validateModules(PICK_MODULES)

    @classmethod
    def validateModules(cls, names):
        """Return a list with one problem if the interpreter of the program lacks any of the modules, or empty."""
        python = cls.getPython()
        missing = _missing_modules(python, names) if cls.isForeignPython() else tuple(filter(_is_missing, names))
        if not missing:
            return []
        return [f"The Python interpreter {python}, which runs the deepem program, lacks: {', '.join(missing)}. "
                + cls._solution(python, missing)]

    @classmethod
    def _solution(cls, python, missing):
        """What to do about modules that an interpreter lacks."""
        for name in environments.installed():
            if python == environments.python_of(name) and set(missing) <= set(ENVIRONMENTS[name].modules):
                return f"Repair it: 'scipion3 uninstallb {name}-{VERSION}' and 'scipion3 installb {name}'."
        if python == sys.executable and environments.interrupted():
            name = environments.interrupted()[0]
            return f"The installation of its environment was interrupted. Repeat it: 'scipion3 installb {name}'."
        return (f"Install an environment that has them with 'scipion3 installb {environments.default_name()}', or set "
                f"{DEEPEM_PYTHON} or {DEEPEM_ENV_ACTIVATION} to one made in Python 3.10 to 3.12 with \"pip install "
                f"'{environments.DISTRIBUTION}[program,tune]'\".")

    @classmethod
    def _activate(cls):
        """Interpreter and environment variables of the environment that the administrator named."""
        return environments.activate(f"{cls.getCondaActivationCmd() or ''} {cls.getVar(DEEPEM_ENV_ACTIVATION)}".strip())


def _is_missing(module):
    return find_spec(module) is None


def _missing_modules(python, names):
    """Modules that another interpreter cannot find; all of them if it cannot be started."""
    question = ("import sys, importlib.util as u; "
                "print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])")
    try:
        # Not in the current folder, from which Python would import as well.
        answer = subprocess.run([python, "-c", question, *names], env=environments.clean_environ(),
                                cwd=os.path.dirname(python), capture_output=True, text=True,
                                timeout=_SECONDS_TO_ANSWER, check=True)
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
