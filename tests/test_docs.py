# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation: its commands run, it builds without a warning, and the names in it exist.

The bash and Python blocks of a page run one after the other in one folder, as for a reader who copies them into a
terminal. The folder holds micrographs of blobs (`mics`, `more`), their coordinates (`boxes`), curated picks (`right`,
`wrong`) and a model (`apoferritin.deepem`). Trainings are shortened. Blocks below a comment `<!-- not run: reason -->`
are not run, but their commands are checked.
"""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import mrcfile
import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.parser import build_parser
from deepem_scipion.deepem.model.files import read_card

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
README = ROOT / "README.rst"
DIAMETER = 120  # angstrom, in the commands of the pages
# The program in the pages, with trainings of a moment.
PROGRAM = f"""#!{sys.executable}
import sys
from dataclasses import replace
from deepem_scipion.deepem.commands.main import main
if sys.argv[1:2] in (["train"], ["tune"]):
    from deepem_scipion.deepem.training import fit
    from deepem_scipion.deepem.training.presets import TRAINING_PRESETS
    TRAINING_PRESETS["default"] = replace(TRAINING_PRESETS["default"], updates_per_epoch=15)
    fit.CONVERGENCE_LOSS = 9
    sys.argv += ["--epochs", "1", *["--minutes", "0.001"] * (sys.argv[1] == "tune")]
sys.exit(main())
"""
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="no docs/: not in a working copy of the sources")


@dataclass(frozen=True)
class Block:
    """A block of code of a page; `left_out` is the reason why it is not run, if there is one."""

    language: str
    code: str
    left_out: str | None = None


def blocks_of(path):
    """Return the blocks of code of a page in Markdown or reStructuredText."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".rst":
        found = re.findall(r"^\.\. code-block::[ ]*(\w*)\n\n((?:[ ]{4}.*\n|\n)+)", text, re.M)
        return [Block(language or "bash", re.sub("^ {4}", "", code, flags=re.M), "of the README") for language, code in
                found]
    pattern = r"(?:^<!-- not run: (.+?) -->\n)?^```(\w+)\n(.*?)^```$"
    return [Block(language, code, left_out or None) for left_out, language, code in
            re.findall(pattern, text, re.M | re.S) if language in ("bash", "console", "python")]


def script_of(blocks):
    """Return one bash script with all blocks."""
    parts = ["set -eo pipefail"]
    for block in blocks:
        if block.language == "python":
            parts.append(f"python - <<'END_OF_PYTHON'\n{block.code}END_OF_PYTHON")
        elif block.language == "console":
            parts += re.findall(r"^\$ (.+)", block.code, re.M)
        else:
            parts.append(block.code)
    return "\n".join(parts)


def commands_in(block):
    """Return the commands of a block as lists of words; variables are not replaced."""
    if block.language == "python":
        return []
    code = re.sub(r"<<'?(\w+)'?\n.*?\n\1$", "", block.code, flags=re.M | re.S).replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in code.splitlines()]
    found = []
    for line in lines:
        for part in re.split(r" (?:&&|\|\|?) |; ", line):
            words = list(takewhile(lambda word: word not in ("<", ">", ">>"), shlex.split(part, comments=True)))
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


def check_command(words):
    """Check that the parser accepts a command of the project, and that the source files in it exist."""
    if words[0] == "deepem":
        try:
            build_parser().parse_args(words[1:])
        except SystemExit as done:  # with 0 after --help and --version
            assert not done.code, f"the program does not accept {shlex.join(words)}"
    for word in words:
        if re.match(r"(benchmarks|tests|docs|deepem_scipion)/", word):
            assert (ROOT / word.split("::")[0]).exists(), word
    if words[:2] == ["python", "-m"] and words[2].startswith("deepem_scipion"):
        assert (ROOT / (words[2].replace(".", "/") + ".py")).exists() or (ROOT / words[2].replace(".", "/")).is_dir()


@pytest.fixture(scope="module")
def reader(blobs, tmp_path_factory):
    """Folder with the files of every page, in `home`, and programs, in `bin`."""
    folder = tmp_path_factory.mktemp("reader")
    home = folder / "home"
    for name in ("mics", "boxes", "more", "right", "wrong"):
        (home / name).mkdir(parents=True)
    for name in "abcd":
        path = home / ("more" if name == "d" else "mics") / f"{name}.mrc"
        shutil.copy(blobs[0] / "micrographs" / path.name, path)
        with mrcfile.open(path, "r+") as file:
            file.voxel_size = DIAMETER / 16  # blobs are 16 px wide
        lines = (blobs[0] / "boxes" / f"{name}.box").read_text().splitlines(keepends=True)
        if name == "d":
            (home / "right" / "d.box").write_text("".join(lines[:6]))
            x, y, *rest = lines[6].split("\t")
            (home / "wrong" / "d.box").write_text("\t".join([f"{float(x) + 10:.0f}", f"{float(y) + 12:.0f}", *rest]))
        else:
            (home / "boxes" / f"{name}.box").write_text("".join(lines))
    assert main(["train", "--micrographs", str(home / "mics"), "--coordinates", str(home / "boxes"), "--diameter",
                 str(DIAMETER), "--epochs", "3", "--output", str(home / "apoferritin.deepem"), "--quiet"]) == 0
    programs = folder / "bin"
    programs.mkdir()
    (programs / "deepem").write_text(PROGRAM)
    (programs / "deepem").chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_one_after_the_other(page, reader, tmp_path, monkeypatch):
    blocks = [block for block in blocks_of(page) if block.left_out is None]
    if not blocks:
        return
    if "RELION" in page.read_text() and page.stem == "tutorial" and shutil.which("relion_refine") is None:
        pytest.skip("RELION is not installed (Debian: relion)")
    shutil.copytree(reader / "home", tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("PATH", f"{reader / 'bin'}:{Path(sys.executable).parent}", prepend=":")
    for name in ("SCIPION_HOME", "SCIPION_USER_DATA", "SCIPION_HOSTS", "SCIPION_LOGS", "EM_ROOT"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(["bash", "-c", script_of(blocks)], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.stem)
def test_every_command_of_a_page_is_one_that_exists(page):
    for block in blocks_of(page):
        for words in commands_in(block):
            check_command(words)


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.stem)
def test_commands_options_and_files_in_the_text_of_a_page_exist(page):
    parser = build_parser()
    commands = parser.commands
    known = {option for each in (parser, *commands.values()) for action in each._actions
             for option in action.option_strings}
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for span in re.findall(r"`+([^`\n]+)`+", text):
        words = span.split()
        if words[0] == "deepem" and len(words) > 1 and re.fullmatch("[a-z]+", words[1]):
            assert words[1] in commands, span
        if words[0] == "deepem":
            assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, span
        if script := re.search(r"\b(benchmarks|docs)/\w+\.py", span):
            source = (ROOT / script[0]).read_text(encoding="utf-8")
            assert all(f'"{word}"' in source for word in words if word.startswith("--")), span
        if re.fullmatch(r"(benchmarks|docs|tests|deepem_scipion)/[\w./-]+", span):
            assert (ROOT / span.split("::")[0]).exists(), span


def test_blocks_that_are_not_run_are_recognised(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n<!-- not run: too long -->\n```bash\na\n```\n\n```bash\nb \\\n  c\n```\n\n"
                    "```python\nd\n```\n\n```console\n$ e\noutput\n```\n\n```text\nf\n```\n")
    first, *others = blocks_of(page)
    assert first == Block("bash", "a\n", "too long")
    assert script_of(others) == ("set -eo pipefail\nb \\\n  c\n\npython - <<'END_OF_PYTHON'\nd\nEND_OF_PYTHON\ne")
    assert commands_in(others[0]) == [["b", "c"]]
    with pytest.raises(AssertionError, match="--no-such-option"):
        check_command(["deepem", "pick", "--no-such-option"])
    with pytest.raises(AssertionError, match="nowhere"):
        check_command(["python", "benchmarks/nowhere.py"])


@pytest.mark.slow
def test_the_page_of_the_model_file_names_every_key_of_a_card(reader):
    text = (DOCS / "model-format.md").read_text(encoding="utf-8")
    card = read_card(reader / "home" / "apoferritin.deepem")
    assert [key for key in (*card, *card["geometry"]) if f"`{key}`" not in text] == []
    assert f"| `format` | {card['format']} |" in text


@pytest.mark.slow
def test_the_pages_build_without_a_warning_and_all_are_reached(tmp_path):
    pytest.importorskip("sphinx")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", str(DOCS), str(tmp_path)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        assert (tmp_path / f"{page.stem}.html").exists()
    commands = (tmp_path / "command-line.html").read_text(encoding="utf-8")
    for command in build_parser().commands:
        assert f'id="{command}"' in commands
    # The examples of the help are shown as code.
    assert re.search(r"<pre>(<span></span>)?deepem demo --output", commands)


def test_pictures_of_the_pages_exist_and_are_small():
    used = {(page.parent / name).resolve() for page in PAGES
            for name in re.findall(r"!\[[^\]]*\]\(([^)]+\.(?:png|jpg|webp))\)", page.read_text(encoding="utf-8"))}
    assert used and all(path.is_file() for path in used)
    made = [path for path in used if path.parent.name == "pictures"]
    assert all(path.stat().st_size < (1_000_000 if path.suffix == ".webp" else 150_000) for path in made)
    assert sum(path.stat().st_size for path in made) < 2_000_000
    assert {path.resolve() for path in (DOCS / "pictures").iterdir()} == set(made)
