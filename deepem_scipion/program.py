# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way in which the plugin runs the `deepem` program: command line, environment, status and error messages."""

import json
import os
import re
import shlex
import subprocess
from contextlib import suppress
from typing import NamedTuple

from .plugin import Plugin

MODULE = "deepem_scipion.deepem"
# Status of a command that cannot be started, as a shell returns it.
NOT_STARTED = 127


class ProgramError(RuntimeError):
    """The program ended with a status other than 0.

    Parameters
    ----------
    command : str
        First argument of the program.
    status : int
        Exit status, negative for a signal; kept as an attribute.
    reason : str
        Error message of the program; empty if there is none.
    """

    def __init__(self, command, status, reason):
        super().__init__(f"deepem {command} ended with status {status}: {reason or 'see the log of the run'}")
        self.status = status


class WorkerDied(RuntimeError):
    """A worker ended before it answered.

    Parameters
    ----------
    status : int
        Exit status of its process; kept as an attribute.
    """

    def __init__(self, status):
        super().__init__(f"the worker ended with status {status}")
        self.status = status

    @property
    def by_signal(self):
        """Whether a signal ended it, of which a shell in between makes a status above 128."""
        return self.status < 0 or self.status > 128


class Result(NamedTuple):
    """Exit status of a command, its standard output, and its error message, which is empty if it succeeded."""

    status: int
    output: str
    error: str


def command_line(*arguments):
    """Words of the command line that runs the program.

    Parameters
    ----------
    *arguments : str
        Command of the program and its arguments.

    Returns
    -------
    list of str
    """
    return [Plugin.getPython(), "-m", MODULE, *arguments]


def shell_text(*arguments):
    """Command line that runs the program as text for a shell; arguments may contain any characters."""
    return shlex.join(command_line(*arguments))


def environment(threads=1, gpus=None):
    """Environment variables of the program.

    Parameters
    ----------
    threads : int
        Threads of the numerical libraries.
    gpus : str, optional
        Visible GPUs separated by commas, empty for none. By default those that Scipion itself sees.

    Returns
    -------
    dict
    """
    environ = Plugin.getEnviron(threads)
    if gpus is not None:
        environ["CUDA_VISIBLE_DEVICES"] = gpus
    return environ


def run(*arguments):
    """Run a short command that needs no GPU, and wait for its end.

    Parameters
    ----------
    *arguments : str
        Command of the program and its arguments.

    Returns
    -------
    Result
        Also for an interpreter that cannot be started.
    """
    try:
        done = subprocess.run(command_line(*arguments), env=environment(gpus=""), capture_output=True, text=True,
                              errors="replace", check=False)
    except OSError as error:
        return Result(NOT_STARTED, "", str(error))
    if done.returncode == 0:
        return Result(0, done.stdout, "")
    return Result(done.returncode, done.stdout,
                  last_error(done.stderr) or done.stderr.strip() or f"status {done.returncode}")


def start(arguments, log, threads=1, gpus=""):
    """Start a command in the background.

    Parameters
    ----------
    arguments : list of str
        Command of the program and its arguments.
    log : str
        File for its output and its messages; replaced.
    threads : int
    gpus : str
        See `environment`.

    Returns
    -------
    subprocess.Popen
    """
    with open(log, "w", encoding="utf-8") as file:
        return subprocess.Popen(command_line(*arguments), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                env=environment(threads, gpus))


def last_error(text):
    """Last error message in the output of the program; empty if there is none."""
    found = re.findall(r"error: (.+)", text, re.IGNORECASE)
    return found[-1].strip() if found else ""


def last_logged_error(path, start=0):
    """Last error message in a log file from a position onwards; empty if there is none, or no such file."""
    if not os.path.exists(path):
        return ""
    with open(path, "rb") as file:
        file.seek(start)
        return last_error(file.read().decode("utf-8", errors="replace"))


class Worker:
    """A `deepem worker`, which picks batch after batch and ends together with the process that started it.

    Parameters
    ----------
    command : list of str
        Words of the command line.
    environ : dict
        Environment variables.
    log : file, optional
        Open file for its messages; by default standard error.
    """

    def __init__(self, command, environ, log=None):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                         env=environ)

    @property
    def pid(self):
        """Number of the process."""
        return self._process.pid

    def pick(self, arguments):
        """Run `deepem pick` in the worker.

        Parameters
        ----------
        arguments : list of str

        Returns
        -------
        status : int
            Exit status that the command would have.
        message : str
            Error message, empty if there is none.

        Raises
        ------
        WorkerDied
            If the worker ends instead of answering.
        """
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(list(arguments)).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise WorkerDied(self.close())
        found = json.loads(answer)
        return found["status"], found["message"]

    def close(self):
        """End the worker and return the exit status of its process."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()
