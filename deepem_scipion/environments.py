# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Python environments of the `deepem` program: how they are made, found and activated."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import requires

import pwem

from .constants import ENVIRONMENTS, VERSION

DISTRIBUTION = "scipion-em-deepem"
FOLDER, COMPLETE = "env", "deepem_installed"
# Of the environments made by conda; a virtual environment takes the newest of these that is in the path.
CONDA_PYTHON = "3.11"
PYTHONS = ("python3.12", "python3.11", "python3.10", "python3")
_EXTRA = re.compile(r"""\s*(?:;|and)\s*extra\s*==\s*["']([\w-]+)["']\s*$""")
_IS_SUITABLE = "import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))"
_SHOW = "import json, os, sys; print(json.dumps([sys.executable, dict(os.environ)]))"


def requirements(name):
    """Requirements of an environment: those of its extras of this distribution, without Scipion.

    Parameters
    ----------
    name : str
        Key of `ENVIRONMENTS`.

    Returns
    -------
    list of str
    """
    extras, swap = ENVIRONMENTS[name].extras, ENVIRONMENTS[name].tensorflow
    found = [(match[1], text[:match.start()]) for text in requires(DISTRIBUTION) or ()
             for match in _EXTRA.finditer(text)]
    return [re.sub(r"^tensorflow\b(\[[\w-]+\])?", swap, text) for extra, text in found if extra in extras]


def install_command(name, conda=None):
    """Shell command that makes an environment in the current folder.

    Whatever an interrupted installation has left is replaced.

    Parameters
    ----------
    name : str
        Key of `ENVIRONMENTS`.
    conda : str, optional
        Command that makes `conda activate` available, followed by `&&` or `;`; None without conda.

    Returns
    -------
    str
        Its last part makes the file `COMPLETE`.
    """
    if conda is None:
        candidates = " ".join(map(shlex.quote, (*PYTHONS, sys.executable)))
        make = [f'for python in {candidates} ""; do "$python" -I -c "{_IS_SUITABLE}" 2>/dev/null && break; done; '
                '{ [ -n "$python" ] || { echo "DeepEM needs conda, or Python 3.10, 3.11 or 3.12 with its venv module: '
                'none was found" >&2; exit 1; }; }',
                f'"$python" -I -m venv {FOLDER}']
    else:
        make = [f"{conda} conda create -y -n {name}-{VERSION} -c conda-forge python={CONDA_PYTHON}",
                f"conda activate {name}-{VERSION}", f'ln -s "$CONDA_PREFIX" {FOLDER}']
    python = f"{FOLDER}/bin/python"
    return " && ".join([
        f"rm -rf {FOLDER} {COMPLETE}", *make,
        shlex.join([python, "-I", "-m", "pip", "install", *requirements(name)]),
        shlex.join([python, "-I", "-c", f"import {', '.join(ENVIRONMENTS[name].modules)}"]), f"touch {COMPLETE}"])


def conda_hook(activation):
    """Command that makes `conda activate` available; None where there is no conda.

    Parameters
    ----------
    activation : str
        Value of Scipion's variable CONDA_ACTIVATION_CMD, followed by `&&` or `;`; may be empty.

    Returns
    -------
    str or None
    """
    return activation or ('eval "$(conda shell.posix hook)" &&' if shutil.which("conda") else None)


def default_name():
    """Name of the environment for this computer."""
    return "deepem_gpu" if shutil.which("nvidia-smi") else "deepem_cpu"


def home(name):
    """Folder of an environment in Scipion's folder of programs."""
    return os.path.join(pwem.Config.EM_ROOT, f"{name}-{VERSION}")


def python_of(name):
    """Interpreter of an environment, which may not be there."""
    return os.path.join(home(name), FOLDER, "bin", "python")


def is_complete(name):
    """Whether an environment was installed to the end, and still has its interpreter."""
    return os.path.exists(os.path.join(home(name), COMPLETE)) and os.access(python_of(name), os.X_OK)


def installed():
    """Names of the complete environments, the preferred first."""
    return [name for name in ENVIRONMENTS if is_complete(name)]


def interrupted():
    """Names of environments whose installation was interrupted, or that have lost their interpreter."""
    return [name for name in ENVIRONMENTS if os.path.isdir(home(name)) and not is_complete(name)]


@lru_cache(maxsize=None)
def activate(command):
    """Run a command that activates an environment, and see what it changes.

    Parameters
    ----------
    command : str
        For a shell.

    Returns
    -------
    python : str
        Its interpreter.
    environ : dict of str to str
        Its environment variables.

    Raises
    ------
    RuntimeError
        If the command fails.
    """
    # Written by whoever set up the environment, for a shell.
    done = subprocess.run([shutil.which("bash") or "/bin/sh", "-c", f"{command} && python -c {shlex.quote(_SHOW)}"],
                          capture_output=True, text=True, env=clean_environ(), check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise RuntimeError(f"The environment of the deepem program cannot be activated by {command!r}: {reason}")
    python, environ = json.loads(done.stdout.splitlines()[-1])
    return python, environ


def clean_environ():
    """Copy of the environment variables without the paths of Scipion's own Python."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
