# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base of the protocols that run the `deepem` program: GPUs, queues, logs, and workers for several batches.

Only a training has the parameters of GPUs; micrographs are picked on the CPU.
"""

import os
import shlex
import subprocess
import sys
from glob import glob

import pyworkflow.utils as pwutils
from pyworkflow.constants import QUEUE_FOR_JOBS
from pyworkflow.protocol import params

from .. import program
from ..program import ProgramError, Worker, WorkerDied

# Device files of GPUs on Linux: NVIDIA, AMD, and under Windows. Asking TensorFlow would take seconds and memory here.
GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")


class DeepEMProgram:
    """Runs the `deepem` program as a child process. To be inherited together with a protocol."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._workers = []  # idle ones

    # -------------------------- DEFINE param functions -----------------------
    def _defineGpuParams(self, form):
        form.addHidden(params.USE_GPU, params.BooleanParam, default=True, label="Use GPU?",
                       help="A GPU makes training several times faster. On a computer without a GPU the CPU is used, "
                            "as with *No*. Choose *No* for a queue whose nodes have no GPU.")
        form.addHidden(params.GPU_LIST, params.StringParam, default="0", label="GPU ids",
                       help="Number of the GPU to use, counted from 0.")

    def getGpuList(self):
        """Return the GPUs to reserve: none if they are not used or not present."""
        # With GPUs in the list the framework runs one step at a time even if none is used. The GPUs of the nodes of a
        # queue cannot be seen from here.
        useful = self.usesGpu() and (self.useQueue() or any(map(glob, GPU_DEVICES)))
        return super().getGpuList() if useful else []

    def _awaitedErrors(self):
        """Optional inputs that their runs have not made yet.

        A scheduled run starts as soon as it is valid, and the framework waits for no optional input.
        """
        return [f"*{self.getParam(name).label}* is not there yet: the run that makes it has not finished."
                for name, pointer in self.iterInputAttributes()
                if pointer.get() is None and getattr(self.getParam(name), "allowsNull", False)
                and self.evalParamCondition(name)]

    def getSubmitDict(self):
        """Return the values for the queue, with the threads and GPUs that a job needs."""
        # The framework requests one thread for each step that may run at once, even if each step is a job.
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
            `train`, `tune`, `pick` or `evaluate`.
        arguments : list of str
            May contain any characters.
        computes : bool
            Whether the command takes a number of threads.

        Raises
        ------
        ProgramError
            If the program ends with a status other than 0.
        """
        threads = max(1, self.getBinThreads())
        executable = program.shell_text()
        text = shlex.join([command, *arguments, *(["--threads", str(threads)] if computes else [])])
        environ = program.environment(threads)
        if self._getStepGpus():
            number = "%(GPU)s"
            if self.useQueue():
                # The variable of the job; that of this process, which may be on another machine, is not passed on.
                number = "${CUDA_VISIBLE_DEVICES:-%(GPU)s}"
                if self.useQueueForSteps():
                    environ.pop("CUDA_VISIBLE_DEVICES", None)
            # The framework inserts the numbers with the % operator, hence the doubling.
            executable = f"CUDA_VISIBLE_DEVICES={number} " + executable.replace("%", "%%")
            text = text.replace("%", "%%")
        else:
            environ["CUDA_VISIBLE_DEVICES"] = ""
        log, end = self._getLogEnd()
        try:
            self.runJob(executable, text, env=environ, numberOfMpi=1, numberOfThreads=threads)
        except subprocess.CalledProcessError as error:
            raise ProgramError(command, error.returncode, program.last_logged_error(log, end)) from error

    def runPick(self, arguments, folder):
        """Run `deepem pick` in a worker that stays for the next batch.

        If each command is a job of a queue, it runs as a separate command, because a job cannot wait for later batches.

        Parameters
        ----------
        arguments : list of str
        folder : str
            Empty folder for the results.

        Raises
        ------
        ProgramError
            If the program ends with a status other than 0.
        WorkerDied
            If two workers are ended by a signal one after the other, as by too little memory.
        """
        arguments = ["--output", folder, *arguments]
        if self.useQueueForSteps():
            # The folder is not made again: this machine might see it late if another one replaces it.
            self.runDeepEM("pick", arguments)
            return
        log, end = self._getLogEnd()
        idle = self._workers
        for secondAttempt in (False, True):
            with self._lock:
                worker = idle.pop() if idle and not secondAttempt else None
            worker = worker or self._startWorker()
            self.info(f"Worker {worker.pid}: deepem pick {shlex.join(arguments)}")
            pwutils.cleanPath(folder)
            try:
                status, message = worker.pick(arguments)
                break
            except WorkerDied as died:
                if secondAttempt and died.by_signal:
                    raise
                if secondAttempt:
                    raise ProgramError("pick", died.status, program.last_logged_error(log, end)) from died
                self.warning(f"Worker {worker.pid} ended with status {died.status} during a batch, which is tried once "
                             "more.")
        if status == 0:
            idle.append(worker)
            return
        worker.close()  # the error may have left it in a bad state
        raise ProgramError("pick", status, message or program.last_logged_error(log, end))

    def run(self):
        """Run the protocol, and end the workers afterwards."""
        if self.usesGpu() and not self.getGpuList():
            self.info(f"No GPU was found on this computer ({', '.join(GPU_DEVICES)}): the CPU is used.")
        try:
            super().run()
        finally:
            for worker in self._workers:
                worker.close()
            self._workers = []

    def _startWorker(self):
        threads = max(1, self.getBinThreads())
        return Worker(program.command_line("worker", "--threads", str(threads)), program.environment(threads, ""),
                      sys.stderr)

    # -------------------------- UTILS functions ------------------------------
    def _getStepGpus(self):
        """Numbers of the GPUs that the present step may use."""
        return self._stepsExecutor.getGpuList() if self.getGpuList() else []

    def _getLogEnd(self):
        """Error log of the run, and its present length."""
        log = self._getLogsPath("run.stderr")
        return log, os.path.getsize(log) if os.path.exists(log) else 0
