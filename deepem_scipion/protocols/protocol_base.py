# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the protocols that run the `deepem` program share."""

import os
import re
import shlex
import subprocess
import sys
from glob import glob
from itertools import chain

import pyworkflow.utils as pwutils
from pyworkflow.constants import QUEUE_FOR_JOBS
from pyworkflow.protocol import params

from ..constants import PROGRAM_MODULE
from ..deepem.commands.worker import Worker, WorkerDied
from ..plugin import Plugin

# Device files of GPUs on Linux: NVIDIA, AMD, and under Windows. Asking TensorFlow would take seconds and memory here.
GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")


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
                       help="A GPU makes training and picking some ten times faster. On a machine without one the "
                            "processor is used, as with *No*. For a queue whose nodes have none say *No*, so that "
                            "several batches may run at once.")
        form.addHidden(params.GPU_LIST, params.StringParam, default="0", label="GPU ids",
                       help="Number of the GPU to use, counted from 0. With several, separated by blanks, batches of "
                            "micrographs are shared out among them.")

    def getGpuList(self):
        # With GPUs in the list the framework would run one step at a time even if none is used. What the nodes of a
        # queue have cannot be seen from here.
        useful = self.usesGpu() and (self.useQueue() or any(map(glob, GPU_DEVICES)))
        return super().getGpuList() if useful else []

    def getSubmitDict(self):
        # The framework asks for one thread for each step that may run at once, whatever a job is.
        submit = super().getSubmitDict()
        stepsAreJobs = submit[QUEUE_FOR_JOBS] == "Y"
        atOnce = 1 if stepsAreJobs or self.modeSerial() else max(1, self.numberOfThreads.get() - 1)
        threads, gpus = atOnce * max(1, self.getBinThreads()), len(set(self.getGpuList()))
        return {**submit, "JOB_THREADS": threads, "JOB_CORES": threads,
                "GPU_COUNT": min(1, gpus) if stepsAreJobs else gpus, **self.getQueueParams()[1]}

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
        if self._getStepGpus():
            number = "%(GPU)s"
            if self.useQueue():
                # The job's own one; that of this process, which may be on another machine, is not passed on.
                number = "${CUDA_VISIBLE_DEVICES:-%(GPU)s}"
                if self.useQueueForSteps():
                    environ.pop("CUDA_VISIBLE_DEVICES", None)
            # The framework puts the numbers in with the % operator, hence the doubling.
            program = f"CUDA_VISIBLE_DEVICES={number} " + program.replace("%", "%%")
            text = text.replace("%", "%%")
        else:
            environ["CUDA_VISIBLE_DEVICES"] = ""
        log, start = self._getLogEnd()
        try:
            self.runJob(program, text, env=environ, numberOfMpi=1, numberOfThreads=threads)
        except subprocess.CalledProcessError as error:
            raise _program_error(command, error.returncode, _last_error(log, start)) from error

    def runPick(self, arguments, folder):
        """Run `deepem pick`, by a program that stays for the next batch.

        Where each command is a job of a queue it is run by itself, since a job cannot wait for what will come.

        Parameters
        ----------
        arguments : list of str
        folder : str
            For the results, empty.

        Raises
        ------
        ProgramError
            Where the program ends with another status than 0, or a worker died twice.
        """
        arguments = ["--output", folder, *arguments]
        if self.useQueueForSteps():
            # Left as it is: this machine might be late to see a folder that another one makes anew.
            self.runDeepEM("pick", arguments)
            return
        log, start = self._getLogEnd()
        gpus = ",".join(self._getVisibleGpus())
        idle = vars(self).setdefault("_workers", {}).setdefault(gpus, [])
        for anew in (False, True):
            with self._lock:
                worker = idle.pop() if idle and not anew else None
            worker = worker or self._startWorker(gpus)
            self.info(f"Worker {worker.pid}: deepem pick {shlex.join(arguments)}")
            pwutils.cleanPath(folder)
            try:
                status, message = worker.pick(arguments)
                break
            except WorkerDied as died:
                if anew:
                    raise _program_error("pick", died.status, _last_error(log, start)) from died
                self.warning(f"Worker {worker.pid} ended with status {died.status} amid a batch, which is tried once "
                             "more.")
        if status == 0:
            idle.append(worker)
            return
        worker.close()  # whatever went wrong may have left something behind
        raise _program_error("pick", status, message or _last_error(log, start))

    def run(self):
        if self.usesGpu() and not self.getGpuList():
            self.info(f"No GPU is to be seen on this machine ({', '.join(GPU_DEVICES)}): the processor is used.")
        try:
            super().run()
        finally:
            for worker in chain(*vars(self).pop("_workers", {}).values()):
                worker.close()

    def _startWorker(self, gpus):
        threads = max(1, self.getBinThreads())
        environ = Plugin.getEnviron(threads)
        environ["CUDA_VISIBLE_DEVICES"] = gpus
        return Worker([Plugin.getPython(), "-m", PROGRAM_MODULE, "worker", "--threads", str(threads)], environ,
                      sys.stderr)

    # -------------------------- UTILS functions ------------------------------
    def _getStepGpus(self):
        """Numbers of the GPUs that the present step may use."""
        return self._stepsExecutor.getGpuList() if self.getGpuList() else []

    def _getVisibleGpus(self):
        """The same as CUDA_VISIBLE_DEVICES is to name them; in a job the framework counts those of the job."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES") if self.useQueue() else None
        own = given.split(",") if given else []
        return [own[number] if number < len(own) else str(number) for number in self._getStepGpus()]

    def _getLogEnd(self):
        """File of the run's errors, and its length so far."""
        log = self._getLogsPath("run.stderr")
        return log, os.path.getsize(log) if os.path.exists(log) else 0


def _program_error(command, status, reason):
    return ProgramError(f"deepem {command} ended with status {status}: {reason or 'see the log of the run'}", status)


def _last_error(log, start):
    """Text of the last error message in a log from a position on; empty if there is none."""
    if not os.path.exists(log):
        return ""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    found = re.findall(r"error: (.+)", text, re.IGNORECASE)
    return found[-1].strip() if found else ""
