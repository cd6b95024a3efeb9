# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the protocols that run the `deepem` program share."""

import os
import re
import shlex
import subprocess

from pyworkflow.protocol import params

from ..plugin import Plugin


class ProgramError(RuntimeError):
    """The program ended with another status than 0; the message says why as far as it is known."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


class DeepEMProgram:
    """Runs the `deepem` program as a child process. To be inherited together with a protocol."""

    # -------------------------- DEFINE param functions -----------------------
    def _defineGpuParams(self, form):
        form.addHidden(params.USE_GPU, params.BooleanParam, default=True, label="Use GPU?",
                       help="A GPU makes training and picking some ten times faster. Without one the program uses the "
                            "processor; say *No* then, so that several batches may run at once.")
        form.addHidden(params.GPU_LIST, params.StringParam, default="0", label="GPU ids",
                       help="Number of the GPU to use, counted from 0. With several, separated by blanks, batches of "
                            "micrographs are shared out among them.")

    def getGpuList(self):
        # With GPUs in the list the framework would run one step at a time even if none is used.
        return super().getGpuList() if self.usesGpu() else []

    # -------------------------- STEPS functions ------------------------------
    def runDeepEM(self, command, arguments, computes=True):
        """Run one command of the program.

        Parameters
        ----------
        command : str
            `train`, `pick` or `evaluate`.
        arguments : list of str
            In any characters; they are quoted here.
        computes : bool
            Whether the command takes a number of threads.

        Raises
        ------
        ProgramError
            Where the program ends with another status than 0.
        """
        threads = max(1, self.getBinThreads())
        program = Plugin.getProgram()
        text = shlex.join([command, *arguments, *(["--threads", str(threads)] if computes else [])])
        environ = Plugin.getEnviron(threads)
        if self.usesGpu() and self._stepsExecutor.getGpuList():
            # The framework puts the numbers in with the % operator, hence the doubling.
            program = "CUDA_VISIBLE_DEVICES=%(GPU)s " + program.replace("%", "%%")
            text = text.replace("%", "%%")
        else:
            environ["CUDA_VISIBLE_DEVICES"] = ""
        log = self._getLogsPath("run.stderr")
        start = os.path.getsize(log) if os.path.exists(log) else 0
        try:
            self.runJob(program, text, env=environ, numberOfMpi=1, numberOfThreads=threads)
        except subprocess.CalledProcessError as error:
            reason = _last_error(log, start) or "see the log of the run"
            raise ProgramError(f"deepem {command} ended with status {error.returncode}: {reason}",
                               error.returncode) from error


def _last_error(log, start):
    """Text of the last error message in a log from a position on; empty if there is none."""
    if not os.path.exists(log):
        return ""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    found = re.findall(r"error: (.+)", text, re.IGNORECASE)
    return found[-1].strip() if found else ""
