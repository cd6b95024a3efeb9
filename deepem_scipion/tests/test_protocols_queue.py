# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocols as jobs of a queue: a real Slurm on this machine, and hosts.conf as docs/cluster.md has it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import mrcfile
import psutil
from pyworkflow import Config
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.constants import PRESET_CUSTOM
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.protocols import ProtDeepEMTrain
from deepem_scipion.tests import slurm
from deepem_scipion.tests import test_protocols_deepem as simulated
from deepem_scipion.tests.program import needs_program

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
NAMES = ("a.mrc", "b.mrc", "c.mrc")


def documented_hosts():
    """The hosts.conf of the documentation."""
    return re.search(r"```ini\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL).group(1)


def documented_array(parts):
    """The commands of a job array in the documentation, with other parts: to submit it, and to merge."""
    text = DOCS.read_text(encoding="utf-8").partition("## Without Scipion")[2]
    return [block.replace("100", str(parts)) for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]


@needs_program
@unittest.skipUnless(DOCS.exists(), "docs/cluster.md, which holds hosts.conf, is not here")
@unittest.skipIf(slurm.reason_to_skip(), slurm.reason_to_skip())
class TestDeepEMQueue(BaseTest):
    """A job trains one model for all tests as if on GPUs, and another one picks with it; others must pick the same."""

    # Methods of the class, not the class itself, whose tests would run here again.
    importMicrographs, importCoordinates, pick, positions = (
        vars(simulated.TestDeepEMProtocols)[name]
        for name in ("importMicrographs", "importCoordinates", "pick", "positions"))

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="deepem-mics-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        hosts = Path(cls.folder, "hosts.conf")
        hosts.write_text(documented_hosts())
        # The program as always, noting which job it is in and which GPUs it sees.
        cls.seen, wrapper = Path(cls.folder, "seen"), Path(cls.folder, "python")
        wrapper.write_text(f'#!/bin/sh\n[ "$1" != -m ] || echo "$SLURM_JOB_ID:$CUDA_VISIBLE_DEVICES" >> {cls.seen}\n'
                           f'exec {sys.executable} "$@"\n')
        wrapper.chmod(0o755)
        for patch in (mock.patch.dict(os.environ, SCIPION_HOSTS=str(hosts), DEEPEM_PYTHON=str(wrapper)),
                      mock.patch.object(Config, "SCIPION_HOSTS", str(hosts))):
            patch.start()
            cls.addClassCleanup(patch.stop)
        running = slurm.slurm(cpus=8, gpus=4)
        running.__enter__()
        cls.addClassCleanup(running.__exit__, None, None, None)
        # Somebody else has the first GPU.
        subprocess.run(["sbatch", "--gres=gpu:1", "--output=/dev/null", "--wrap", "sleep 1000"], check=True,
                       capture_output=True)
        setupTestProject(cls)
        centres = simulated.write_micrographs(cls.folder, NAMES, seed=1)
        cls.mics = cls.importMicrographs(cls.folder)
        coordinates = cls.importCoordinates(cls.mics, centres)
        cls.train = cls.newProtocol(ProtDeepEMTrain, epochs=1, numberOfThreads=2, gpuList="0 1", preset=PRESET_CUSTOM,
                                    workingSamplingRate=2 * simulated.PIXEL_ANGST, boxSize=24, kernels="5 3 3",
                                    pools="2 2 2", maps="2 2 2")
        cls.train.inputCoordinates.set(coordinates)
        cls.train.inputCoordinates.setExtended("outputCoordinates")
        cls.trainJobs = cls.submit(cls.train, "N")
        cls.reference = cls.pick(cls, cls.mics, launch=False, numberOfThreads=3, binThreads=1, streamingBatchSize=1)
        cls.referenceJobs = cls.submit(cls.reference, "N")
        cls.expected = cls.positions(cls, cls.reference)

    @classmethod
    def submit(cls, protocol, forSteps):
        """Run a protocol through the queue to its end and return the jobs that it took."""
        before = slurm.jobs()
        cls.start(protocol, forSteps)
        cls.waitFor(lambda: not protocol.isActive(), protocol)
        if not protocol.isFinished():
            raise AssertionError("\n".join([protocol.getErrorMessage(), *protocol.getLogsLastLines(30, 1)]))
        # The protocol is marked as finished a moment before its job ends.
        cls.waitFor(lambda: not set(slurm.unfinished()) - set(before), protocol)
        return [job for number, job in slurm.jobs().items() if number not in before]

    @classmethod
    def gpusSeen(cls, jobs):
        """GPUs that the program saw each time it was started in one of some jobs."""
        lines = [line.split(":") for line in cls.seen.read_text().splitlines()]
        return [gpus for number, gpus in lines if number in {job["JobId"] for job in jobs}]

    @classmethod
    def start(cls, protocol, forSteps):
        protocol._useQueue.set(True)
        protocol.setQueueParams(("main", {"JOB_TIME": "00:10:00", "JOB_MEM": "2G", "QUEUE_FOR_JOBS": forSteps}))
        cls.addClassCleanup(lambda: protocol.isActive() and cls.proj.stopProtocol(protocol))
        if protocol.hasObjId():
            # Until the new process has written its own, `waitFor` would read the dead jobs of the run before, and the
            # framework would take the run for a failed one.
            protocol.cleanExecutionAttributes()
            protocol._store(protocol._jobId, protocol._pid)
        cls.proj.launchProtocol(protocol, wait=False)

    @staticmethod
    def hasProcess(protocol):
        """Whether a process on this machine still runs a protocol."""
        processes = psutil.process_iter(["cmdline"])
        return any(protocol.getDbPath() in (process.info["cmdline"] or ()) for process in processes)

    def waitUntil(self, condition, seconds=600):
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline, "took too long")
            time.sleep(0.3)

    @classmethod
    def waitFor(cls, condition, protocol, seconds=600):
        """Refresh a protocol from its run until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("\n".join(["took too long", *protocol.getLogsLastLines(30, 0)]))
            time.sleep(0.5)
            protocol.lastUpdateTimeStamp.set(None)  # else a change made during the last reading is missed
            cls.proj._updateProtocol(protocol)

    def test_a_protocol_is_one_job_with_all_threads_and_gpus(self):
        for jobs, cpus, gpus in ((self.trainJobs, "2", "2"), (self.referenceJobs, "2", "0")):
            job, = jobs
            self.assertEqual((job["JobState"], job["NumCPUs"], job["MinMemoryNode"], job["TresPerNode"]),
                             ("COMPLETED", cpus, "2G", f"gres:gpu:{gpus}"))
        self.assertEqual(set(self.expected), set(NAMES))
        self.assertEqual(set(self.gpusSeen(self.trainJobs)), {"1,2", ""})  # none for the report
        self.assertEqual(set(self.gpusSeen(self.referenceJobs)), {""})

    def test_what_is_asked_for_can_be_overruled(self):
        protocol = self.pick(self.mics, launch=False, numberOfThreads=5, binThreads=3)
        train = self.newProtocol(ProtDeepEMTrain, numberOfThreads=3, gpuList="0 0 1")

        def asked(protocol, **params):
            protocol.setQueueParams(("main", params))
            submit = protocol.getSubmitDict()
            return submit["JOB_THREADS"], submit["JOB_CORES"], submit["GPU_COUNT"]

        for each in (protocol, train):
            self.proj._setHostConfig(each)
            each._useQueue.set(True)
        self.assertEqual(asked(protocol, QUEUE_FOR_JOBS="N"), (12, 12, 0))
        self.assertEqual(asked(protocol, QUEUE_FOR_JOBS="Y"), (3, 3, 0))
        self.assertEqual(asked(protocol, QUEUE_FOR_JOBS="Y", JOB_THREADS=7, GPU_COUNT=2), (7, 3, 2))
        protocol.numberOfThreads.set(1)
        self.assertEqual(asked(protocol, QUEUE_FOR_JOBS="N"), (3, 3, 0))
        self.assertEqual(asked(train, QUEUE_FOR_JOBS="N"), (3, 3, 2))
        self.assertEqual(asked(train, QUEUE_FOR_JOBS="Y"), (3, 3, 1))
        train.useGpu.set(False)
        self.assertEqual(asked(train, QUEUE_FOR_JOBS="Y"), (3, 3, 0))

    def test_batches_are_jobs_at_once_and_continue_picks_what_dead_ones_left(self):
        protocol = self.pick(self.mics, launch=False, numberOfThreads=3, streamingBatchSize=1)
        before = slurm.jobs()

        def running():
            return [number for number, job in slurm.jobs().items()
                    if number not in before and job["JobState"] == "RUNNING"]

        self.start(protocol, "Y")
        self.waitFor(lambda: len(running()) == 2, protocol)
        cancelled, killed = running()
        subprocess.run(["scancel", str(cancelled)], check=True)
        for process in psutil.process_iter(["name", "environ"]):
            environ = process.info["environ"] or {}
            if environ.get("SLURM_JOB_ID") == str(killed) and process.info["name"] != "slurmstepd":
                process.kill()
        # The process of a run writes once more that it failed before it ends, which would overwrite a new run.
        self.waitFor(lambda: not (protocol.isActive() or self.hasProcess(protocol)), protocol)
        self.assertTrue(protocol.isFailed())
        self.assertIn("no result for 1 micrograph", protocol.getErrorMessage())

        protocol.streamingBatchSize.set(2)
        jobs = self.submit(protocol, "Y")
        self.assertEqual([(job["JobState"], job["NumCPUs"], job["TresPerNode"]) for job in jobs],
                         2 * [("COMPLETED", "2", "gres:gpu:0")])
        self.assertEqual(self.gpusSeen(jobs), ["", ""])
        self.assertEqual(self.positions(protocol), self.expected)

    def test_parts_are_tasks_of_an_array_and_only_a_dead_one_is_repeated(self):
        folder = Path(tempfile.mkdtemp(prefix="deepem-array-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        for name in NAMES:
            shutil.copy(Path(self.folder, name), folder)
            with mrcfile.open(folder / name, "r+") as file:
                file.voxel_size = simulated.PIXEL_ANGST
        (folder / "list.txt").write_text("".join(f"{name}\n" for name in NAMES))
        shutil.copy(self.train.outputModel.getFileName(), folder / "apoferritin.deepem")
        (folder / "deepem").write_text(f'#!/bin/sh\nexec {sys.executable} -m deepem_scipion.deepem "$@"\n')
        (folder / "deepem").chmod(0o755)
        submit, merge = documented_array(3)
        environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}",
                   "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

        def shell(text):
            return subprocess.run(["bash", "-c", text], cwd=folder, env=environ, capture_output=True, text=True)

        def tasks(before):
            return {job["ArrayTaskId"]: job for number, job in slurm.jobs().items() if number not in before}

        before = slurm.jobs()
        (folder / "b.mrc").rename(folder / "b")
        os.mkfifo(folder / "b.mrc")  # its task waits for the end of the file
        self.assertEqual(shell(submit).returncode, 0)
        self.waitUntil(lambda: [tasks(before).get(part, {}).get("JobState") for part in "123"]
                       == ["COMPLETED", "RUNNING", "COMPLETED"] and (folder / "parts/2/summary.json").exists())
        killed = tasks(before)["2"]["JobId"]
        for process in psutil.process_iter(["name", "environ"]):
            environment = process.info["environ"] or {}
            if environment.get("SLURM_JOB_ID") == killed and process.info["name"] != "slurmstepd":
                process.kill()
        self.waitUntil(lambda: tasks(before)["2"]["JobState"] == "FAILED")
        (folder / "b").replace(folder / "b.mrc")

        merged = shell(merge)
        self.assertEqual(merged.returncode, 1)
        self.assertIn("part 2/3 lacks 1 micrographs, for instance b", merged.stderr)
        again, before = re.search(r"--array=\S+", merged.stderr)[0], slurm.jobs()
        self.assertEqual(shell(f"sbatch {again} pick.sh").returncode, 0)
        self.waitUntil(lambda: [job["JobState"] for job in tasks(before).values()] == ["COMPLETED"])
        merged = shell(f"{merge.strip()} --overwrite")
        self.assertEqual(merged.returncode, 0, merged.stderr)
        reference, results = self.reference.getResults(), PickingResults(folder / "picks")
        self.assertEqual(sorted(results.read_micrographs()), ["a", "b", "c"])
        for name in "abc":
            self.assertEqual(results.read_picks(name).centres_xy.tolist(),
                             reference.read_picks(name).centres_xy.tolist())
            self.assertGreater(len(results.read_picks(name).scores), 0)
