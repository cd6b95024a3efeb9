# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container files: they copy what an installation needs, and install and start what setup.py has."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import deepem_scipion
from deepem_scipion.deepem.commands.parser import build_parser

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "containers"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no docs/containers: not in a working copy of the sources")


def docker():
    """Base image, [(sources, target)], shell commands and what is started, of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.M)
    lines = [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line]
    assert {word for word, _ in lines} == {"FROM", "ARG", "COPY", "RUN", "ENTRYPOINT", "CMD"}
    of = {word: [rest for each, rest in lines if each == word] for word, _ in lines}
    arguments = dict(each.split("=") for each in of["ARG"])
    commands = [command for line in of["RUN"] for command in line.split(" && ")]
    for name, value in arguments.items():
        commands = [command.replace(f"${name}", value) for command in commands]
    copies = [(words[:-1], words[-1]) for words in map(shlex.split, of["COPY"])]
    return of["FROM"][0], copies, commands, ast.literal_eval(of["ENTRYPOINT"][0])


def apptainer():
    """The same of the definition file of Apptainer."""
    head, *rest = re.split(r"^%(\w+)\n", re.sub(r"^#.*\n", "", (FOLDER / "deepem.def").read_text(), flags=re.M),
                           flags=re.M)
    header = dict(line.split(": ") for line in head.split("\n") if line)
    assert header["Bootstrap"] == "docker"
    sections = {name: [line.strip() for line in text.splitlines() if line.strip()]
                for name, text in zip(rest[::2], rest[1::2])}
    assert set(sections) == {"files", "post", "runscript", "test"}
    copies = [(words[:-1], words[-1]) for words in map(shlex.split, sections["files"])]
    assert all(len(sources) == 1 for sources, _ in copies)  # one a line
    run, = sections["runscript"]
    assert run.endswith(' "$@"')
    return header["From"], copies, sections["post"] + sections["test"], shlex.split(run)[1:2]


@pytest.fixture(params=[docker, apptainer], ids=lambda each: each.__name__)
def image(request):
    return request.param()


def test_the_python_is_one_that_the_program_supports(image):
    version = re.fullmatch(r"python:3\.(\d+)-slim", image[0])
    metadata = (ROOT / "pyproject.toml").read_text()
    assert f'"Programming Language :: Python :: 3.{version[1]}"' in metadata and 10 <= int(version[1]) <= 12


def test_the_files_that_are_copied_are_all_that_an_installation_reads(image, tmp_path):
    for sources, target in image[1]:
        assert target.startswith("/src")
        for source in sources:
            copy = tmp_path / Path(target).relative_to("/src") / ("" if len(sources) == 1 else source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                copy.mkdir()
            else:
                shutil.copy(ROOT / source, copy)
    shutil.copy(ROOT / "deepem_scipion" / "__init__.py", tmp_path / "deepem_scipion")
    done = subprocess.run([sys.executable, "setup.py", "--name", "--version"], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["scipion-em-deepem", deepem_scipion.__version__]


def test_what_is_installed_and_started_exists(image):
    setup = (ROOT / "setup.py").read_text()
    extras = set(re.findall(r'^        "(\w+)": [\[A-Z]', setup, re.M))
    commands = [shlex.split(command) for command in image[2]]
    assert [words[0] for words in commands] == ["pip", "rm", "deepem"]
    assert commands[0][:2] == ["pip", "install"] and commands[1] == ["rm", "-r", "/src"]
    assert re.fullmatch(r"/src\[(\w+)\]", commands[0][-1])[1] in extras
    assert commands[2] == ["deepem", "--version"] and image[3] == ["deepem"]
    assert '"deepem = deepem_scipion.deepem.commands.main:main"' in setup
    for file in FOLDER.iterdir():  # what the comments say
        text = file.read_text()
        assert re.findall(rf"docs/containers/{re.escape(file.name)}", text)
        for extra in re.findall(r"EXTRA=(\w+)|\[(\w+)\]", text):
            assert "".join(extra) in extras
        pick = re.search(r"(?:run .*? |deepem\.sif )(pick .*)", text)[1]
        build_parser().parse_args(shlex.split(pick))
