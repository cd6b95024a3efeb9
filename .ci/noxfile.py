# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every supported Python with the newest and the oldest supported versions of what the package requires.

    make versions                                 all of them; interpreters that are not there are skipped
    nox -f .ci/noxfile.py -s "tests-3.12(versions='oldest')" -- tests/test_model.py
    nox -f .ci/noxfile.py -s wheel                the wheel alone, also in Scipion's Python 3.8, with pipx and uv
    nox -f .ci/noxfile.py -s audit                known vulnerabilities of the newest versions
"""

from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12")
# uv chooses the lowest versions that setup.py allows; its files are compiled, since warnings are errors in the tests.
RESOLUTION = {"newest": "highest", "oldest": "lowest-direct"}
# Of the method, a minute or two in all, and those that need Scipion without running a protocol.
FAST = [f"tests/test_{name}.py" for name in (
    "convolution", "coordinates", "layers", "metrics", "micrographs", "model", "network", "picking",
    "plugin", "regions", "report", "summary")]
SMOKE = "import pyworkflow as pw; print(pw.Config.getDomain().getProtocols()['ProtDeepEMPick'])"
SIMULATE = ("from deepem_scipion.deepem.simulation import Scene, write_dataset; "
            "write_dataset('data', Scene(shape=(400, 400), n_particles=8), 1, 0)")
PICK = ("pick", "--micrographs", "data/micrographs", "--diameter", "400", "--output", "picks", "--overwrite")

nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests", "wheel", "scipion"]


def install(session, resolution):
    session.chdir(ROOT)
    session.install("--resolution", resolution, "--compile-bytecode", ".[program]")


@nox.session(python=PYTHONS)
@nox.parametrize("versions", list(RESOLUTION))
def tests(session, versions):
    """Install, look whether it runs and is found, and run the fast tests (or those given)."""
    install(session, RESOLUTION[versions])
    session.install("pytest", "hypothesis")
    session.run("uv", "pip", "list", external=True)
    session.run("deepem", "--version")
    session.run("python", "-W", "ignore", "-c", SMOKE, env={"SCIPION_DOMAIN": "pwem"})
    # What old versions warn of among themselves is not our fault.
    quiet = ["-W", "ignore::DeprecationWarning"] if versions == "oldest" else []
    session.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *quiet, *(session.posargs or FAST))


@nox.session(python=["3.8", "3.9", *PYTHONS])
def wheel(session):
    """Install the wheel; where the program runs, pick with it."""
    folder = Path(session.create_tmp())
    session.run("uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, external=True)
    file, = folder.glob("*.whl")
    runs = session.python in PYTHONS
    session.install(f"{file}[pick]" if runs else file)
    session.chdir(folder)
    session.run("python", "-W", "ignore", "-c", SMOKE, env={"SCIPION_DOMAIN": "pwem"})
    if runs:
        session.run("python", "-c", SIMULATE)
        session.run("deepem", *PICK)
    if session.python == PYTHONS[1]:
        session.install("pipx")
        tools = {"UV_TOOL_DIR": "uv", "UV_TOOL_BIN_DIR": "bin-uv", "PIPX_HOME": "pipx", "PIPX_BIN_DIR": "bin-pipx"}
        environ = {name: str(folder / place) for name, place in tools.items()}
        for words in (("uv", "tool", "install", "--force"), ("pipx", "install", "--force")):
            session.run(*words, "--python", PYTHONS[1], f"{file}[pick]", external=True, env=environ)
            session.run(str(folder / f"bin-{words[0]}" / "deepem"), *PICK, external=True)


@nox.session(python=PYTHONS[1])
@nox.parametrize("scipion", ["3.10", "3.11"])
def scipion(session, scipion):
    """Plugin, program and many other plugins in one environment of Scipion."""
    session.chdir(ROOT)
    session.install(".[dev]")
    session.run("python", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/test_scipion_python.py",
                env={"DEEPEM_SCIPION_PYTHON": scipion})


@nox.session(python=PYTHONS[-1])
def audit(session):
    """Look up the newest versions in the list of known vulnerabilities of PyPI; fail where it cannot be asked."""
    install(session, RESOLUTION["newest"])
    session.install("pip-audit")
    found = session.run("uv", "pip", "freeze", external=True, silent=True)
    pinned = Path(session.create_tmp(), "requirements.txt")
    pinned.write_text("\n".join(line for line in found.splitlines() if "==" in line))  # all but this package
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "--requirement", pinned, *session.posargs)
