# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training in a project that is killed and resumed, and training that waits for its input.

With pytest, or in a Scipion installation: scipion3 tests deepem_scipion.tests.test_protocols_training
"""

import os
import re
import shutil
import tempfile
import time
from unittest import mock

import psutil
import pyworkflow as pw
from pwem.objects import Coordinate, SetOfCoordinates
from pwem.protocols import ProtImportMicrographs
from pyworkflow.object import Set
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.protocols import ProtDeepEMImportModel, ProtDeepEMPick, ProtDeepEMTrain
from deepem_scipion.tests import test_protocols_deepem as common
from deepem_scipion.tests.program import needs_program
from deepem_scipion.tests.test_protocols_models import disc_model

EPOCHS = 10


@needs_program
class TestDeepEMTraining(BaseTest):
    """Runs on three simulated micrographs and their true coordinates, some of which are killed on the way."""

    importMicrographs = vars(common.TestDeepEMProtocols)["importMicrographs"]
    importCoordinates = vars(common.TestDeepEMProtocols)["importCoordinates"]

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = tempfile.mkdtemp(prefix="deepem-training-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.centres = common.write_micrographs(cls.folder, common.TRAINING, seed=1)
        cls.mics = cls.importMicrographs(cls.folder)

    def tearDown(self):
        for protocol in self.proj.getRuns(refresh=True):
            if protocol.isActive():  # a test has failed
                self.proj.stopProtocol(protocol)

    def training(self, coordinates, **params):
        protocol = self.newProtocol(ProtDeepEMTrain, numberOfThreads=1, binThreads=2, useGpu=False, **params)
        protocol.inputCoordinates.set(coordinates)
        protocol.inputCoordinates.setExtended("outputCoordinates")
        return protocol

    def test_micrographs_without_coordinates_are_enough_to_learn_from(self):
        train = self.newProtocol(ProtDeepEMTrain, numberOfThreads=1, binThreads=2, useGpu=False, epochs=1)
        train.inputCoordinates.set(self.mics)
        train.inputCoordinates.setExtended("outputMicrographs")
        self.assertEqual(train._validate(), ["Without coordinates the particle diameter is needed: give it."])
        diameter = common.DIAMETER_PX * common.PIXEL_ANGST
        train.particleDiameter.set(diameter)
        train.doTune.set(True)
        self.assertRegex(" ".join(train._validate()), "Tune network and training.* needs particle coordinates")
        train.doTune.set(False)
        train.waitMicrographs.set(2)
        self.assertEqual(train._validate(), [])
        self.launchProtocol(train)
        with open(train._getListFile()) as file:
            self.assertEqual(len(file.readlines()), 2)
        self.assertAlmostEqual(train.outputModel.getDiameter(), diameter)
        summary = " ".join(train._summary())
        self.assertIn("Training on 2 micrographs without coordinates.", summary)
        kept = "the training changed nothing that matters" in self.log(train)  # then it is the general model
        self.assertRegex(summary, "threshold 0.450" if kept else "labelled itself|what was learned is refused")
        if "labelled itself" in summary:
            self.assertEqual(train.outputModel.getValidation(), [])  # there are no coordinates to compare with

    def log(self, protocol):
        """Logs of a run so far."""
        text = ""
        for name in ("run.stdout", "run.stderr"):
            if os.path.exists(path := protocol._getLogsPath(name)):
                with open(path, errors="replace") as file:
                    text += file.read()
        return text

    def waitFor(self, condition, *protocols, mayFail=False, seconds=600, pause=0.5):
        """Refresh protocols from their runs until the condition holds."""
        deadline = time.time() + seconds
        while not condition():
            self.assertLess(time.time(), deadline, "took too long")
            time.sleep(pause)
            for protocol in protocols:
                protocol.lastUpdateTimeStamp.set(None)  # else a change made during the last reading is missed
                self.proj._updateProtocol(protocol)
                if protocol.isFailed() and not mayFail:
                    time.sleep(2)  # a run that is just ending may seem to have died
                    self.proj._updateProtocol(protocol)
                    self.assertFalse(protocol.isFailed(), protocol.getErrorMessage())

    def waitForLog(self, protocol, text, *others, times=1):
        self.waitFor(lambda: self.log(protocol).count(text) == times, protocol, *others)

    def processes(self, protocol):
        """Processes of a run: that of the protocol, and of the program that trains if there is one."""
        self.waitFor(protocol.getPid, protocol, mayFail=True)
        launched = psutil.Process(int(protocol.getPid()))  # a shell, as long as the project knows no better
        family = [each for each in [launched, *launched.children(recursive=True)] if "python" in each.name()]
        return [each for name in ("pw_protocol_run.py", "deepem_scipion.deepem") for each in family
                if any(word.endswith(name) for word in each.cmdline())]

    def kill(self, protocol, *processes):
        """Kill processes of a run outright and wait until the project has noticed."""
        for process in processes:
            process.kill()
        self.waitFor(protocol.isFailed, protocol, mayFail=True)

    def test_killed_training_resumes_after_the_last_epoch_whatever_was_killed(self):
        protocol = self.training(self.importCoordinates(self.mics, self.centres), epochs=EPOCHS)
        survivors = []
        for number, victims in enumerate((slice(1, 2), slice(0, 1), slice(0, 2)), 1):
            self.proj.launchProtocol(protocol, wait=False)
            self.waitFor(protocol.getPid, protocol)
            self.waitFor(lambda number=number: f"epoch {number}/{EPOCHS}:" in self.log(protocol)
                         and self.log(protocol).count("resuming after epoch") == number - 1, pause=0.02)
            running = self.processes(protocol)
            running[1].suspend()  # on a fast machine it would end before the next run
            self.kill(protocol, *running[victims])
            psutil.wait_procs(running[:1], timeout=600)  # it may write once more that it failed
            for each in survivors:
                each.resume()
            survivors = running[1:] if victims == slice(0, 1) else []
        self.launchProtocol(protocol)
        self.waitForLog(protocol, "taken over by a later run")
        log = self.log(protocol)
        resumed = [int(number) for number in re.findall(f"resuming after epoch (\\d+)/{EPOCHS}", log)]
        self.assertEqual(len(resumed), 3)
        self.assertTrue(1 <= resumed[0] <= resumed[1] <= resumed[2] < EPOCHS, resumed)
        self.assertLess(1, resumed[2])
        self.assertEqual(log.count(f"epoch 1/{EPOCHS}:"), 1)
        self.assertEqual(os.listdir(os.path.dirname(protocol._getModelFile())).count("model.safetensors.checkpoint"), 0)

        # Another diameter makes another model, of the same examples, and the output is that one.
        protocol.particleDiameter.set(120)
        protocol.epochs.set(1)
        self.launchProtocol(protocol)
        stored = self.proj.getProtocol(protocol.getObjId()).outputModel
        self.assertEqual((stored.getDiameter(), protocol.outputModel.getDiameter()), (120, 120))
        self.assertEqual(self.log(protocol).count("resuming after epoch"), 3)

    def test_waiting_training_may_be_killed_and_starts_when_the_input_ends(self):
        coordinates = self.importCoordinates(self.mics, {common.TRAINING[0]: self.centres[common.TRAINING[0]]})
        file = coordinates.outputCoordinates.getFileName()
        self.grow(file, {})
        protocol = self.training(coordinates, epochs=1, waitMicrographs=3)
        for number in (1, 2):
            self.proj.launchProtocol(protocol, wait=False)
            self.waitForLog(protocol, "Waiting for 3 micrographs", times=number)
            if number == 1:
                self.kill(protocol, *self.processes(protocol))
        self.assertIn("Waiting for 3 micrographs with particles (1 so far)", protocol.summary())
        self.grow(file, {common.TRAINING[1]: self.centres[common.TRAINING[1]]})
        self.waitForLog(protocol, "3 micrographs with particles (2 so far)")
        self.grow(file, {}, Set.STREAM_CLOSED)
        self.waitFor(protocol.isFinished, protocol)
        self.assertIn("Training started with 2 micrographs with 48 particles at the end of the input, fewer than "
                      "requested.",
                      protocol.summary())
        self.assertEqual(protocol.outputModel._numberOfMicrographs.get(), 2)

    def grow(self, file, places, state=Set.STREAM_OPEN):
        """Add coordinates, micrograph -> x, y, to the file of a set, and leave it in a state."""
        numbers = {mic.getMicName(): mic.clone() for mic in self.mics.outputMicrographs}
        coordinates = SetOfCoordinates(filename=file)
        coordinates.enableAppend()
        for name, each in places.items():
            for x, y in each:
                item = Coordinate(x=int(x), y=int(y))
                item.setMicrograph(numbers[name])
                coordinates.append(item)
        coordinates.setStreamState(state)
        coordinates.write()
        coordinates.close()

    def test_import_picking_training_and_picking_run_as_one_scheduled_workflow(self):
        model = os.path.join(self.folder, "discs.deepem")
        save_model(model, disc_model())
        earlier = self.newProtocol(ProtDeepEMImportModel, modelFile=model)
        self.launchProtocol(earlier)
        folder = os.path.join(self.folder, "arriving")
        os.mkdir(folder)
        common.write_micrographs(folder, ("a.mrc", "b.mrc"), seed=6)
        mics = self.newProtocol(ProtImportMicrographs, filesPath=folder, filesPattern="*.mrc", dataStreaming=True,
                                samplingRate=common.PIXEL_ANGST, copyFiles=True, timeout="600", fileTimeout="2")
        first, second = (self.newProtocol(ProtDeepEMPick, numberOfThreads=1, streamingBatchSize=1)
                         for _ in range(2))
        train = self.newProtocol(ProtDeepEMTrain, epochs=1, waitMicrographs=3, numberOfThreads=1, useGpu=False)
        for pointer, source, output in ((first.inputMicrographs, mics, "outputMicrographs"),
                                        (first.inputModel, earlier, "outputModel"),
                                        (train.inputCoordinates, first, "outputCoordinates"),
                                        (second.inputMicrographs, mics, "outputMicrographs"),
                                        (second.inputModel, train, "outputModel")):
            pointer.set(source)
            pointer.setExtended(output)
        runs = [mics, first, train, second]
        for protocol in runs:
            self.proj.saveProtocol(protocol)
        script = pw.getScheduleScript()
        with mock.patch.object(pw, "getScheduleScript", lambda: f"{script} --sleep_time 2"):
            for protocol in runs:
                self.proj.scheduleProtocol(protocol)
        self.waitForLog(train, "3 micrographs with particles (2 so far)", *runs)
        common.write_micrographs(folder, ("c.mrc",), seed=7)
        self.waitForLog(train, "epoch 1/1:", *runs)
        self.assertIn("Training started with 3 micrographs with 72 particles; the input was still growing.",
                      train.summary())
        mics.stopImport(None)
        self.waitFor(lambda: all(protocol.isFinished() for protocol in runs), *runs)
        self.assertEqual(train.outputModel._numberOfMicrographs.get(), 3)
        self.assertEqual({item.getMicName() for item in second.outputCoordinates}, {"a.mrc", "b.mrc", "c.mrc"})
