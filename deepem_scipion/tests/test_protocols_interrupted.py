# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking that is killed, and micrographs that cannot be picked: nothing is lost, doubled or spoilt by it."""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from functools import partial
from glob import glob

import mrcfile
import numpy as np
import psutil
from pwem.objects import SetOfMicrographs
from pyworkflow.object import Set
from pyworkflow.project import Manager
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.protocols import ProtDeepEMImportModel
from deepem_scipion.tests import test_protocols_deepem as simulated
from deepem_scipion.tests.program import needs_program
from deepem_scipion.tests.test_protocols_models import disc_model

NAMES = ("a.mrc", "b.mrc", "c.mrc", "d.mrc")


def running(name):
    """Processes below this one of which a word of the command line ends with a name."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [process] * any(word.endswith(name) for word in process.cmdline())
    return found


def written(protocol):
    """Which file the picks of the first micrograph are in, and when it was written."""
    found = os.stat(protocol._getExtraPath("picks", "a.box"))
    return found.st_ino, found.st_mtime_ns


@needs_program
class TestDeepEMInterrupted(BaseTest):
    """One undisturbed run says what the others must come to; the model is made by hand."""

    # A method of the class, not the class itself, whose tests would run here again.
    importMicrographs = vars(simulated.TestDeepEMProtocols)["importMicrographs"]

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = tempfile.mkdtemp(prefix="deepem-mics-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        simulated.write_micrographs(cls.folder, NAMES, seed=8)
        cls.mics = cls.importMicrographs(cls.folder)
        model = os.path.join(cls.folder, "discs.deepem")
        save_model(model, disc_model())
        cls.train = cls.newProtocol(ProtDeepEMImportModel, modelFile=model)
        cls.launchProtocol(cls.train)
        undisturbed = cls.pick(cls, streamingBatchSize=0)
        cls.launchProtocol(undisturbed)
        cls.expected = cls.rows(cls, undisturbed)
        assert min(map(len, cls.expected.values())) > 10 and set(cls.expected) == set(NAMES)

    def pick(self, mics=None, **params):
        """A run that has not been started."""
        protocol = simulated.TestDeepEMProtocols.pick(self, mics or self.mics, launch=False,
                                                      **{"thresholdMode": 3, "threshold": 0.0, **params})
        self.proj.saveProtocol(protocol)
        return protocol

    def rows(self, protocol):
        """Position and score of each coordinate by name of the micrograph."""
        found = {}
        for item in protocol.outputCoordinates:
            found.setdefault(item.getMicName(), []).append((*item.getPosition(), item._deepemScore.get()))
        return found

    def start(self, protocol):
        """Launch a run and return it with the process that does it."""
        self.proj.launchProtocol(protocol, wait=False)
        return self.until(lambda: running("pw_protocol_run.py"), 0.05)[0]

    def until(self, condition, seconds=0.002):
        """What the condition, which is tried again and again, returns once it is true."""
        deadline = time.time() + 600
        while not (found := condition()):
            self.assertLess(time.time(), deadline, "took too long")
            time.sleep(seconds)
        return found

    def kill(self, protocol, victims, witnesses=()):
        """Kill processes, and wait until they and others are gone and the project has heard of it."""
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs([*victims, *witnesses], timeout=600)
        self.assertEqual(alive, [])
        self.proj._updateProtocol(protocol, checkPid=True)

    def test_a_run_killed_during_a_batch_continues_to_the_same_result_whatever_was_killed(self):
        third, kept = (os.path.join(self.folder, name) for name in ("c.mrc", "kept"))
        os.rename(third, kept)
        os.mkfifo(third)  # whoever reads it waits, here in the middle of the second batch
        self.addCleanup(lambda: os.path.exists(kept) and os.replace(kept, third))
        protocol = self.pick(streamingBatchSize=2)
        folders = set()

        def start():
            """The run's process and its worker, as soon as the fourth micrograph is picked."""
            process = self.start(protocol)
            box, = self.until(lambda: [path for path in glob(protocol._getTmpPath("batch_000003-*", "d.box"))
                                       if os.path.dirname(path) not in folders], 0.05)
            folders.add(os.path.dirname(box))
            worker, = running("worker")
            return process, worker

        process, worker = start()
        self.kill(protocol, [process], [worker])
        first = written(protocol)
        for folder in folders:  # as a program would that had survived, for instance on another machine
            shutil.copy(os.path.join(folder, "d.box"), os.path.join(folder, "c.box"))

        process, worker = start()
        self.kill(protocol, [process, worker])

        process, worker = start()
        for _ in range(3):  # twice with the fourth micrograph, then once alone
            worker.kill()
            worker, = self.until(lambda ended=worker: [found for found in running("worker") if found != ended], 0.05)
        self.kill(protocol, [worker], [process])
        self.assertTrue(protocol.isFinished(), protocol.getErrorMessage())
        self.assertIn("the worker ended with status -9 whenever it picked this micrograph", protocol._getFailed()["c"])
        self.assertEqual(self.rows(protocol), {name: rows for name, rows in self.expected.items() if name != "c.mrc"})

        process = self.start(protocol)
        worker, = self.until(lambda: running("worker"), 0.05)
        os.replace(kept, third)
        worker.kill()
        self.kill(protocol, [], [process])
        self.assertTrue(protocol.isFinished(), protocol.getErrorMessage())
        self.assertEqual(self.rows(protocol), self.expected)
        self.assertEqual(len(folders), 3)
        self.assertEqual(written(protocol), first)
        with open(protocol._getLogsPath("run.stdout")) as file:
            self.assertIn("during a batch, which is tried once more", file.read())

    def test_a_run_killed_while_it_writes_and_registers_neither_loses_nor_duplicates_coordinates(self):
        protocol = self.pick(streamingBatchSize=1)
        for place in (protocol._getExtraPath("picks", "a.box"), protocol._getExtraPath("DONE", "mic_000001.TXT"),
                      protocol._getPath("coordinates.sqlite")):
            process = self.start(protocol)
            self.until(partial(os.path.exists, place))
            self.kill(protocol, [process], running("worker"))
        self.launchProtocol(protocol)
        self.assertEqual(self.rows(protocol), self.expected)
        self.assertEqual(protocol.outputCoordinates.getSize(), sum(map(len, self.expected.values())))

        # Continue when the input has been opened again, and nothing has arrived yet: the run waits for its end.
        self.leave_input(Set.STREAM_OPEN)
        process = self.start(protocol)
        self.until(lambda: any(step.isWaiting() for step in protocol.loadSteps()) or not process.is_running(), 0.05)
        self.assertTrue(process.is_running())
        self.leave_input(Set.STREAM_CLOSED)
        self.kill(protocol, [], [process])
        self.assertTrue(protocol.isFinished(), protocol.getErrorMessage())
        self.assertEqual(self.rows(protocol), self.expected)

    def leave_input(self, state):
        """Leave the set of micrographs open or closed."""
        mics = SetOfMicrographs(filename=self.mics.outputMicrographs.getFileName())
        mics.loadAllProperties()
        mics.setStreamState(state)
        mics.write()
        mics.close()

    def test_bad_micrographs_of_any_kind_are_reported_and_tried_again_and_the_others_picked(self):
        folder = os.path.join(self.folder, "bad")
        os.mkdir(folder)
        good = {"good.mrc": "a.mrc", "well.mrc": "b.mrc"}
        reasons = {"constant": "is constant", "folder": "directory", "gone": "no such file", "nan": "not finite",
                   "small": "the particle of the model", "truncated": "is truncated"}
        sources = {**good, **{f"{name}.mrc": "c.mrc" for name in reasons}}
        for name, source in sources.items():
            shutil.copy(os.path.join(self.folder, source), os.path.join(folder, name))
        mics = self.importMicrographs(folder)

        def write(name, pixels):
            with mrcfile.new(os.path.join(folder, name), overwrite=True) as file:
                file.set_data(pixels)

        write("constant.mrc", np.zeros(simulated.SHAPE, np.float32))
        with open(os.path.join(folder, "nan.mrc"), "r+b") as file:
            file.seek(5000)
            file.write(np.float32(np.nan).tobytes())
        write("small.mrc", np.random.default_rng(0).normal(size=(30, 300)).astype(np.float32))
        os.truncate(os.path.join(folder, "truncated.mrc"), 2000)
        for name in ("gone.mrc", "folder.mrc"):
            os.remove(os.path.join(folder, name))
        os.mkdir(os.path.join(folder, "folder.mrc"))

        protocol = self.pick(mics, streamingBatchSize=3)
        self.launchProtocol(protocol)
        self.assertEqual(self.rows(protocol), {name: self.expected[source] for name, source in good.items()})
        failed = protocol.getResults().read_failed()
        self.assertEqual(set(failed), set(reasons))
        for name, reason in reasons.items():
            self.assertIn(reason, failed[name])
        self.assertIn("*6 micrographs failed*", "\n".join(protocol.summary()))
        self.assertIn("6 micrographs failed so far", "\n".join(protocol.warnings()))
        self.assertIn("6 of 8 micrographs failed", protocol.outputCoordinates.getObjComment())
        loaded = Manager().loadProject(self.proj.getName()).getProtocol(protocol.getObjId())
        self.assertIn("6 of 8 micrographs failed", loaded.outputCoordinates.getObjComment())

        os.rmdir(os.path.join(folder, "folder.mrc"))
        for name in reasons:
            shutil.copy(os.path.join(self.folder, "c.mrc"), os.path.join(folder, f"{name}.mrc"))
        self.launchProtocol(protocol)
        self.assertEqual(self.rows(protocol), {name: self.expected[source] for name, source in sources.items()})
        self.assertNotIn("failed", protocol.outputCoordinates.getObjComment() + "\n".join(protocol.summary()))
        self.assertEqual(protocol.warnings(), [])
