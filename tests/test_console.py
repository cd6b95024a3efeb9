# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program tells at a terminal and in a log, its help, and what it says when something goes wrong."""

import argparse
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.parser import SHELLS, build_parser

PROGRAM = [sys.executable, "-m", "deepem_scipion.deepem"]
# A program that tells, warns and fails as the commands do, without what takes them seconds to start.
SCENE = """
import logging, sys
from deepem_scipion.deepem.commands import console
console.start(debug=False, quiet={quiet})
with console.progress({total}) as tell:
    for done in (1, 2, 3):
        tell(done, f"{{done}}/3 mic: 7 picks", "; 5 s left")
        if {waits}:
            sys.stdin.readline()
    console.log.warning("a warning")
console.log.error("error: the end")
console.say("the result")
"""


def at_a_terminal(command, steps=0, **environment):
    """What a command writes to a terminal; after each of its steps it waits until that is seen, and Enter is pressed."""
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ)
    os.close(slave)
    told, seen = b"", 0
    with open(master, "r+b", buffering=0) as terminal:
        try:
            while part := terminal.read(65536):
                told += part
                if seen < steps and f"{seen + 1}/3 mic".encode() in told:
                    seen += 1
                    terminal.write(b"\n")
        except OSError:  # how Linux says that the other side has closed
            pass
    process.wait(timeout=600)
    return told.decode()


def scene(quiet=False, total=3, waits=False):
    return [sys.executable, "-c", SCENE.format(quiet=quiet, total=total, waits=waits)]


def commands():
    """Parsers of the commands by name."""
    action, = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return action.choices


def test_a_terminal_shows_a_bar_with_the_time_left_and_colours():
    told = at_a_terminal(scene(waits=True), steps=3)
    assert "━" in told and "3/3 mic: 7 picks" in told and " 67%" in told
    assert re.search(r"\d:\d\d:\d\d", told)
    assert "5 s left" not in told  # the bar knows it
    assert re.search("\x1b\\[[0-9;]*33m.*a warning", told) and re.search("\x1b\\[[0-9;]*31m.*error: the end", told)
    assert "\x1b[?25h" in told  # the cursor is there again
    assert told.rstrip().endswith("the result")


def test_a_bar_without_an_end_shows_the_time_that_has_passed():
    told = at_a_terminal(scene(total=None))
    assert "━" in told and "%" not in told and re.search(r"\d:\d\d:\d\d", told)


def test_no_color_keeps_the_bar_and_leaves_colours_out():
    told = at_a_terminal(scene(), NO_COLOR="1")
    assert "━" in told and "a warning" in told
    assert not re.search("\x1b\\[[0-9;]*3[0-7]m", told)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines():
    told = at_a_terminal(scene(), TERM="dumb")
    assert "\x1b" not in told and "1/3 mic: 7 picks; 5 s left" in told


def test_a_log_gets_a_line_for_each_step_and_no_colours():
    done = subprocess.run(scene(), capture_output=True, text=True, check=True, env={**os.environ, "FORCE_COLOR": "1"})
    lines = [re.fullmatch(r"\d\d:\d\d:\d\d (.+)", line)[1] for line in done.stderr.splitlines()]
    assert lines == [*(f"{n}/3 mic: 7 picks; 5 s left" for n in (1, 2, 3)), "a warning", "error: the end"]
    assert done.stdout == "the result\n"


@pytest.mark.parametrize("run", [at_a_terminal, lambda command: subprocess.run(
    command, capture_output=True, text=True, check=True).stderr], ids=["terminal", "log"])
def test_quiet_leaves_warnings_and_errors(run):
    told = run(scene(quiet=True))
    assert "a warning" in told and "error: the end" in told
    assert "mic" not in told and "━" not in told and "result" not in told


def test_quiet_picking_prints_nothing_and_picks_as_ever(blobs, blob_model, tmp_path, capfd):
    arguments = ["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "d.mrc")]
    assert main([*arguments, "--output", str(tmp_path / "loud")]) == 0
    assert "picks on 1 micrographs" in capfd.readouterr().out
    assert main([*arguments, "--output", str(tmp_path / "quiet"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "quiet" / "d.box").read_bytes() == (tmp_path / "loud" / "d.box").read_bytes()


def test_quiet_does_not_silence_what_was_asked_for(blob_model, capsys):
    assert main(["info", str(blob_model), "--quiet"]) == 0
    assert "kernels" in capsys.readouterr().out


@pytest.mark.parametrize("error, words", [
    (OSError(28, "No space left on device", "/data/x"), "error: /data/x: No space left on device"),
    (MemoryError(), "error: there is not enough memory"),
    (KeyError("lost"), "error: deepem stopped by a fault of its own (KeyError: 'lost'); the same command with")])
def test_an_error_that_nobody_foresaw_is_one_line_and_debug_shows_where(monkeypatch, capsys, error, words):
    def fail(path):
        raise error

    monkeypatch.setattr("deepem_scipion.deepem.model.files.load_model", fail)
    assert main(["info", "model"]) == 2
    told = capsys.readouterr().err
    assert words in told and len(told.splitlines()) == 1
    assert main(["info", "model", "--debug"]) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" in told and "in fail" in told


def test_an_error_of_the_user_has_no_traceback_either_unless_debug_asks_for_it(capsys, tmp_path):
    assert main(["info", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["info", str(tmp_path / "none"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, words", [
    (["pick", "--model", "m"], "deepem pick: error: the following arguments are required: --micrographs, --output"),
    (["pik"], "deepem: error: argument COMMAND: invalid choice: 'pik'")])
def test_a_mistake_in_the_command_is_told_in_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    told = capsys.readouterr().err
    assert caught.value.code == 2 and told.startswith(words) and len(told.splitlines()) == 1 and "--help" in told


def test_the_program_without_arguments_shows_its_help(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err == build_parser().format_help()


def test_help_lists_all_commands_in_groups(capsys):
    text = build_parser().format_help()
    for name in commands():
        assert re.search(rf"^    {name} ", text, re.M), name
    for group in ("learn:", "pick:", "look:", "serve:"):
        assert group in text.splitlines()
    assert "SUPPRESS" not in text


@pytest.mark.parametrize("name", ["", *sorted(set(commands()) - {"worker"})])
def test_examples_in_the_help_are_commands_that_the_program_takes(name):
    parser = build_parser()
    epilog = (commands()[name] if name else parser).epilog
    examples = re.findall(r"^  (deepem .+)", epilog.replace("\\\n", ""), re.M)
    assert examples
    for example in examples:
        assert parser.parse_args(shlex.split(example)[1:]).command


@pytest.mark.parametrize("name", commands())
def test_help_of_a_command_fits_the_terminal_and_its_usage_names_what_is_required(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    text = commands()[name].format_help().split("\nexamples:")[0]
    assert max(map(len, text.splitlines())) <= 90
    usage = text.split("\n\n")[0]
    assert usage.startswith(f"usage: deepem {name} [options]")
    for action in commands()[name]._actions:
        if action.option_strings:
            assert (action.option_strings[-1] in usage.split()) == action.required


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_of_each_shell_knows_commands_and_options(shell, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert "evaluate" in script and "score-maps" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes_commands_options_choices_and_files(tmp_path):
    script = subprocess.run([*PROGRAM, "--print-completion", "bash"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "complete").write_text(script)
    (tmp_path / "boxes").mkdir()
    for words, expected in ((["tr"], "train"), (["train", "--training-preset", "p"], "paper"),
                            (["pick", "--std"], "--std-range"), (["train", "--coordinates", "bo"], "boxes")):
        line = shlex.join(["deepem", *words])
        code = (f"source ./complete; function=$(complete -p deepem | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
                f"COMP_WORDS=({line}); COMP_CWORD={len(words)}\n$function deepem {shlex.quote(words[-1])}\n"
                'printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert expected in done.stdout.split(), (words, done)
