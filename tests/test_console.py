# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Output of the program on a terminal and in a log, its help, and its messages when something goes wrong."""

import os
import pty
import re
import shlex
import subprocess
import sys

import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.commands.parser import build_parser

COMMANDS = sorted(build_parser().commands)
# A program that shows progress, warns and fails as the commands do, without what takes them seconds to start.
SCENE = """
import logging, sys
from deepem_scipion.deepem.commands import console
console.start_logging(debug=False, quiet={quiet})
with console.progress({total}) as show:
    for done in (1, 2, 3):
        show(done, f"{{done}}/3 mic: 7 picks", "; 5 s left")
        if {waits}:
            sys.stdin.readline()
    console.log.warning("a warning")
console.log.error("error: the end")
console.print_result("the result")
"""


def at_a_terminal(command, steps=0, **environment):
    """Return what a command writes to a terminal; after each step, wait until it is seen, and press Enter."""
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ)
    os.close(slave)
    output, seen = b"", 0
    with open(master, "r+b", buffering=0) as terminal:
        try:
            while part := terminal.read(65536):
                output += part
                if seen < steps and f"{seen + 1}/3 mic".encode() in output:
                    seen += 1
                    terminal.write(b"\n")
        except OSError:  # how Linux reports that the other side has closed
            pass
    process.wait(timeout=600)
    return output.decode()


def scene(quiet=False, total=3, waits=False):
    return [sys.executable, "-c", SCENE.format(quiet=quiet, total=total, waits=waits)]


def test_a_terminal_shows_a_bar_with_the_time_left_and_colours():
    output = at_a_terminal(scene(waits=True), steps=3)
    assert "━" in output and "3/3 mic: 7 picks" in output and " 67%" in output
    assert re.search(r"\d:\d\d:\d\d", output)
    assert "5 s left" not in output  # the bar knows it
    assert re.search("\x1b\\[[0-9;]*33m.*a warning", output) and re.search("\x1b\\[[0-9;]*31m.*error: the end", output)
    assert "\x1b[?25h" in output  # the cursor is there again
    assert output.rstrip().endswith("the result")


def test_a_bar_without_an_end_shows_the_time_that_has_passed():
    output = at_a_terminal(scene(total=None))
    assert "━" in output and "%" not in output and re.search(r"\d:\d\d:\d\d", output)


def test_no_color_keeps_the_bar_and_leaves_colours_out():
    output = at_a_terminal(scene(), NO_COLOR="1")
    assert "━" in output and "a warning" in output
    assert not re.search("\x1b\\[[0-9;]*3[0-7]m", output)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines():
    output = at_a_terminal(scene(), TERM="dumb")
    assert "\x1b" not in output and "1/3 mic: 7 picks; 5 s left" in output


def test_a_log_gets_a_line_for_each_step_and_no_colours():
    done = subprocess.run(scene(), capture_output=True, text=True, check=True, env={**os.environ, "FORCE_COLOR": "1"})
    lines = [re.fullmatch(r"\d\d:\d\d:\d\d (.+)", line)[1] for line in done.stderr.splitlines()]
    assert lines == [*(f"{n}/3 mic: 7 picks; 5 s left" for n in (1, 2, 3)), "a warning", "error: the end"]
    assert done.stdout == "the result\n"


@pytest.mark.parametrize("run", [at_a_terminal, lambda command: subprocess.run(
    command, capture_output=True, text=True, check=True).stderr], ids=["terminal", "log"])
def test_quiet_leaves_warnings_and_errors(run):
    output = run(scene(quiet=True))
    assert "a warning" in output and "error: the end" in output
    assert "mic" not in output and "━" not in output and "result" not in output


RESULTS = """
import sys
from deepem_scipion.deepem.commands import console
console.start_logging(debug=False, quiet=False)
for name in ("\u0444\u0430\u0439\u043b", "second"):
    console.print_result(name)
console.log.info("the end")
"""


def test_results_are_printed_in_any_encoding():
    done = subprocess.run([sys.executable, "-c", RESULTS], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout == "\\u0444\\u0430\\u0439\\u043b\nsecond\n" and "the end" in done.stderr


def test_a_program_that_reads_only_the_first_results_stops_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", RESULTS], stdout=writer, stderr=subprocess.PIPE, text=True, check=True)
    os.close(writer)
    assert [line.split(" ", 1)[1] for line in done.stderr.splitlines()] == ["the end"]


def test_quiet_picking_prints_nothing_and_picks_the_same(blobs, blob_model, tmp_path, capfd):
    arguments = ["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "d.mrc")]
    assert main([*arguments, "--output", str(tmp_path / "loud")]) == 0
    assert "picks on 1 micrographs" in capfd.readouterr().out
    assert main([*arguments, "--output", str(tmp_path / "quiet"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "quiet" / "d.box").read_bytes() == (tmp_path / "loud" / "d.box").read_bytes()


def test_quiet_does_not_suppress_the_requested_card(blob_model, capsys):
    assert main(["info", str(blob_model), "--quiet"]) == 0
    assert "kernels" in capsys.readouterr().out


@pytest.mark.parametrize("error, words", [
    (OSError(28, "No space left on device", "/data/x"), "error: /data/x: No space left on device"),
    (MemoryError(), "error: out of memory"),
    (KeyError("lost"), "error: internal error (KeyError: 'lost'); run the same command with --debug")])
def test_an_unexpected_error_is_one_line_and_debug_shows_the_traceback(monkeypatch, capsys, error, words):
    def fail(path):
        raise error

    monkeypatch.setattr("deepem_scipion.deepem.model.files.load_model", fail)
    assert main(["info", "model"]) == 2
    output = capsys.readouterr().err
    assert words in output and len(output.splitlines()) == 1
    assert main(["info", "model", "--debug"]) == 2
    output = capsys.readouterr().err
    assert words in output and "Traceback" in output and "in fail" in output


def test_an_expected_error_has_no_traceback_either_except_with_debug(capsys, tmp_path):
    assert main(["info", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["info", str(tmp_path / "none"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, words", [
    (["pick", "--model", "m"], ["usage: deepem pick [options] --micrographs", "deepem pick: error: the following "
                                "arguments are required: --micrographs, --output; see `deepem pick --help`"]),
    (["pik"], ["usage: deepem [options] COMMAND", "deepem: error: argument COMMAND: invalid choice: 'pik'",
               "Did you mean pick? pik is not a command of deepem."]),
    (["--versoin"], ["usage: deepem [options] COMMAND", "required: COMMAND",
                     "Did you mean --version? --versoin is not an option of deepem."]),
    (["train", "--micrographs", "m", "--coordinates", "c", "--diametr", "120", "--output", "o"],
     ["usage: deepem train", "deepem train: error: the following arguments are required: --diameter",
      "Did you mean --diameter? --diametr is not an option of deepem train."]),
    (["train", "--micrographs", "m", "--coordinates", "c", "--diameter", "120", "--output", "o", "--pixelsize=1.5"],
     ["deepem train: error: unrecognized arguments: --pixelsize=1.5",
      "Did you mean --pixel-size? --pixelsize is not an option of deepem train."]),
    (["evaluate", "--truth", "t", "--picks", "p", "--distance", "31", "--treshold", "0.5"],
     ["usage: deepem evaluate", "Did you mean --threshold? --treshold"]),
    (["pick", "\u2014model", "m", "--micrographs", "m", "--output", "o"],  # as a text program writes two hyphens
     ["usage: deepem pick", "Did you mean --model? \u2014model is not an option of deepem pick."])])
def test_a_mistake_in_the_command_is_answered_with_its_usage_and_the_word_that_was_meant(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    output = capsys.readouterr().err
    assert caught.value.code == 2 and all(text in output for text in words)
    assert ("Did you mean" in output) == ("Did you mean" in words[-1])


def test_the_program_without_arguments_shows_its_help(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err == build_parser().format_help()


def test_help_lists_all_commands_in_groups():
    text = build_parser().format_help()
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[a-z]", text, re.M), name
    for group in ("train:", "pick:", "inspect:", "more:"):
        assert group in text.splitlines()
    assert "SUPPRESS" not in text


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_examples_in_the_help_are_commands_that_the_program_takes(name):
    parser = build_parser()
    epilog = (parser.commands[name] if name else parser).epilog
    examples = re.findall(r"^  (deepem .+)", epilog.replace("\\\n", ""), re.M)
    assert examples or name == "worker"
    for example in examples:
        assert parser.parse_args(shlex.split(example)[1:]).command in COMMANDS


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal_and_is_not_wider_than_a_page(name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    parser = build_parser()
    text = (parser.commands[name] if name else parser).format_help()
    assert max(map(len, text.splitlines())) <= min(columns, 100)
    assert min(columns, 100) - 25 < max(map(len, text.splitlines()))  # paragraphs are filled


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_of_a_command_lists_the_required_arguments_and_no_other(name, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args([name, "--no-such-option"])
    missing = re.search("arguments are required: ([^;]+);", capsys.readouterr().err)
    required = missing[1].split(", ") if missing else []
    usage = build_parser().commands[name].format_usage()
    assert usage.startswith(f"usage: deepem {name} [options]")
    # Without what may be left out, alternatives, and the values of options.
    always = re.sub(r"\[[^]]*\]|--\S+ \S+ \| --\S+ \S+|\.\.\.", "", usage.split("[options]")[1])
    assert set(required) == set(re.sub(r"(--\S+) \S+", r"\1", always).split())
