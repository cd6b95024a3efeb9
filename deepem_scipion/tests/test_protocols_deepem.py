# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocols in a project, on small simulated micrographs.

With pytest, or in a Scipion installation: scipion3 tests deepem_scipion.tests.test_protocols_deepem
"""

import csv
import os
import re
import shutil
import tempfile
import time
from collections import Counter

import mrcfile
import numpy as np
from pwem.objects import Coordinate, SetOfCoordinates
from pwem.protocols import ProtImportCoordinates, ProtImportMicrographs
from pyworkflow.object import Pointer
from pyworkflow.protocol import MODE_RESTART
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.protocols import ProtDeepEMPick, ProtDeepEMTrain
from deepem_scipion.tests.program import needs_program

SHAPE = (380, 560)  # rows and columns differ, so that exchanged axes are noticed
PIXEL_ANGST = 2.5
DIAMETER_PX, BOX_PX = 44, 66  # large enough for the micrographs to be downsampled, which is faster
TRAINING = ("first.mrc", "second_03.05.02.mrc", "third.mrc")
HOSTILE = ("two  blanks.mrc", "it's \"quoted\".mrc", "a;touch INTRUDED;$(touch INTRUDED)`touch INTRUDED`.mrc",
           "100%s %(GPU)s.mrc", "-rf.mrc")


def simulate(rng, diameter_px=DIAMETER_PX):
    """A micrograph with dark discs, and their centres as x, y."""
    rows, cols = np.mgrid[:SHAPE[0], :SHAPE[1]]
    pixels, centres = rng.normal(0, 0.5, SHAPE), []
    while len(centres) < 24:
        x, y = rng.integers(30, SHAPE[1] - 30), rng.integers(30, SHAPE[0] - 30)
        if all(np.hypot(x - a, y - b) > 1.3 * diameter_px for a, b in centres):
            centres.append((x, y))
            pixels -= 1 / (1 + np.exp(np.hypot(cols - x, rows - y) - diameter_px / 2))
    return pixels.astype(np.float32), centres


def write_micrographs(folder, names, seed):
    """Write simulated micrographs and return the centres by name."""
    rng, centres = np.random.default_rng(seed), {}
    for name in names:
        pixels, centres[name] = simulate(rng)
        path = os.path.join(folder, name)
        with mrcfile.new(f"{path}.part") as file:
            file.set_data(pixels)
            file.voxel_size = 1.0  # Scipion's sampling rate must win over this
        os.replace(f"{path}.part", path)  # an import of arriving micrographs never sees a part of one
    return centres


@needs_program
class TestDeepEMProtocols(BaseTest):
    """One model is trained for all tests; each test picks with it."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = tempfile.mkdtemp(prefix="deepem-mics-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.centres = write_micrographs(cls.folder, TRAINING, seed=1)
        cls.mics = cls.importMicrographs(cls.folder)
        cls.coordinates = cls.importCoordinates(cls.mics, cls.centres)
        cls.train = cls.newProtocol(ProtDeepEMTrain, epochs=4, numberOfThreads=2, useGpu=False)
        cls.train.inputCoordinates.set(cls.coordinates)
        cls.train.inputCoordinates.setExtended("outputCoordinates")
        cls.launchProtocol(cls.train)

    @classmethod
    def importMicrographs(cls, folder):
        protocol = cls.newProtocol(ProtImportMicrographs, filesPath=folder, filesPattern="*.mrc",
                                   samplingRate=PIXEL_ANGST)
        cls.launchProtocol(protocol)
        return protocol

    @classmethod
    def importCoordinates(cls, mics, centres, box=BOX_PX):
        path = os.path.join(cls.folder, f"coordinates{len(os.listdir(cls.folder))}.sqlite")
        written = SetOfCoordinates(filename=path)
        for mic in mics.outputMicrographs:
            for x, y in centres.get(mic.getMicName(), ()):
                item = Coordinate(x=int(x), y=int(y))
                item.setMicrograph(mic)
                written.append(item)
        written.write()
        written.close()
        protocol = cls.newProtocol(ProtImportCoordinates, importFrom=ProtImportCoordinates.IMPORT_FROM_SCIPION,
                                   filesPath=path, filesPattern="", boxSize=box)
        protocol.inputMicrographs.set(mics)
        protocol.inputMicrographs.setExtended("outputMicrographs")
        cls.launchProtocol(protocol)
        return protocol

    def pick(self, mics, launch=True, **params):
        protocol = self.newProtocol(ProtDeepEMPick, **{"numberOfThreads": 1, "binThreads": 2, **params})
        protocol.inputMicrographs.set(mics)
        protocol.inputMicrographs.setExtended("outputMicrographs")
        protocol.inputModel.set(self.train)
        protocol.inputModel.setExtended("outputModel")
        if launch:
            self.launchProtocol(protocol)
        return protocol

    def positions(self, protocol):
        """Picked positions by name of the micrograph."""
        found = {}
        for item in protocol.outputCoordinates:
            found.setdefault(item.getMicName(), []).append(item.getPosition())
        return found

    def assertPicked(self, protocol, centres):
        """Nearly all particles of each micrograph are found where they are, and little else."""
        found = self.positions(protocol)
        self.assertEqual(set(found), set(centres))
        for name, truth in centres.items():
            distances = np.hypot(*(np.array(found[name])[:, None] - np.array(truth)[None]).transpose(2, 0, 1))
            self.assertGreaterEqual((distances.min(axis=0) < DIAMETER_PX / 6).mean(), 0.85, name)
            self.assertGreaterEqual((distances.min(axis=1) < DIAMETER_PX / 6).mean(), 0.85, name)

    def test_the_model_shows_its_figures(self):
        model = self.train.outputModel
        self.assertTrue(os.path.exists(model.getFileName()))
        self.assertFalse(os.path.isabs(model.getFileName()))
        self.assertAlmostEqual(model.getSamplingRate(), PIXEL_ANGST)
        self.assertAlmostEqual(model.getDiameter(), DIAMETER_PX * PIXEL_ANGST, delta=0.01)
        self.assertIn("particle 110 Å", str(model))
        summary = "\n".join(self.train.summary())
        self.assertIn("110.0 Å (from the box size), 44 px", summary)
        self.assertIn("precision", summary)
        self.assertIn("72 particles", self.train._methods()[0])

    def test_picks_are_where_the_particles_are_and_carry_their_score(self):
        protocol = self.pick(self.mics, saveScoreMaps=True)
        self.assertPicked(protocol, self.centres)
        coordinates = protocol.outputCoordinates
        self.assertEqual(coordinates.getBoxSize(), BOX_PX)
        self.assertFalse(coordinates.isStreamOpen())
        for item in coordinates:
            self.assertTrue(0 < item._deepemScore.get() <= 1)
            self.assertEqual(item._rlnAutopickFigureOfMerit.get(), item._deepemScore.get())
            self.assertEqual((item._rlnClassNumber.get(), item._rlnAnglePsi.get()), (1, 0))
        picks = protocol._getExtraPath("picks")
        self.assertEqual(len(os.listdir(os.path.join(picks, "candidates"))), 3)
        self.assertTrue(os.path.exists(os.path.join(picks, "second_03.05.02.box")))
        self.assertTrue(os.path.exists(os.path.join(picks, "scores", "first.mrc")))
        self.assertIn(f"Picked: {coordinates.getSize()} particles", protocol.summary())
        with open(protocol._getExtraPath("report.html"), encoding="utf-8") as file:
            report = file.read()
        self.assertIn(f"<dt>picks</dt><dd>{coordinates.getSize()}</dd>", report)
        self.assertEqual(report.count('src="data:image/jpeg'), 3)  # one for each micrograph
        self.assertIn(f"Report for a browser: {protocol._getExtraPath('report.html')}", protocol.summary())

    def test_hostile_file_names_are_only_names(self):
        folder = os.path.join(self.folder, "hostile")
        os.mkdir(folder)
        centres = write_micrographs(folder, HOSTILE, seed=2)
        protocol = self.pick(self.importMicrographs(folder), streamingBatchSize=0)
        # Scipion's import leaves blanks out of names.
        self.assertPicked(protocol, {name.replace(" ", ""): found for name, found in centres.items()})
        self.assertFalse(os.path.exists("INTRUDED"))

    def test_a_damaged_micrograph_does_not_stop_the_others_and_is_tried_again(self):
        folder = os.path.join(self.folder, "damaged")
        os.mkdir(folder)
        names = ("a.mrc", "b.mrc", "c.mrc")
        centres = write_micrographs(folder, names, seed=3)
        mics = self.importMicrographs(folder)
        shutil.copy(os.path.join(folder, "b.mrc"), os.path.join(folder, "kept"))
        os.truncate(os.path.join(folder, "b.mrc"), 2000)
        protocol = self.pick(mics, streamingBatchSize=2)
        self.assertPicked(protocol, {name: centres[name] for name in ("a.mrc", "c.mrc")})
        self.assertEqual(list(protocol.getResults().read_failed()), ["b"])
        self.assertIn("*1 micrographs failed*", "\n".join(protocol.summary()))

        before = Counter({name: len(found) for name, found in self.positions(protocol).items()})
        os.replace(os.path.join(folder, "kept"), os.path.join(folder, "b.mrc"))
        self.launchProtocol(protocol)
        self.assertPicked(protocol, centres)
        after = {name: len(found) for name, found in self.positions(protocol).items()}
        self.assertEqual({name: after[name] for name in before}, before)
        self.assertEqual(protocol.getResults().read_failed(), {})
        self.assertNotIn("failed", "\n".join(protocol.summary()))

    def test_the_run_fails_with_the_reason_if_all_micrographs_do(self):
        folder = os.path.join(self.folder, "all-damaged")
        os.mkdir(folder)
        write_micrographs(folder, ("a.mrc", "b.mrc"), seed=4)
        mics = self.importMicrographs(folder)
        for name in ("a.mrc", "b.mrc"):
            os.truncate(os.path.join(folder, name), 2000)
        protocol = self.pick(mics, launch=False, streamingBatchSize=1)
        self.proj.launchProtocol(protocol, wait=True)
        self.assertTrue(protocol.isFailed())
        self.assertIn("None of the 2 micrographs could be picked", protocol.getErrorMessage())
        self.assertIn("a.mrc", protocol.getErrorMessage())
        self.assertFalse(hasattr(protocol, "outputCoordinates"))

    def test_continue_neither_loses_nor_duplicates_coordinates(self):
        protocol = self.pick(self.mics, streamingBatchSize=2)
        complete = self.positions(protocol)
        # As after a crash: one micrograph not picked, all stored, and none noted as stored.
        mic = next(mic.clone() for mic in self.mics.outputMicrographs)
        os.remove(protocol._getMicDone(mic))
        os.remove(protocol._getExtraPath("picks", "first.box"))
        protocol._store()
        self.launchProtocol(protocol)
        self.assertEqual(self.positions(protocol), complete)
        self.assertTrue(os.path.exists(protocol._getExtraPath("picks", "first.box")))

        # As after a crash that the project did not hear of: markers are there, the output set is not.
        protocol.deleteOutput(protocol.outputCoordinates)
        os.remove(protocol._getMicDone(mic))
        self.launchProtocol(protocol)
        self.assertEqual(self.positions(protocol), complete)

        protocol.minDistance.set(200)
        self.assertIn("Restart", "\n".join(protocol.validate()))
        protocol.runMode.set(MODE_RESTART)
        self.launchProtocol(protocol)
        self.assertLess(protocol.outputCoordinates.getSize(), sum(map(len, complete.values())))

    def waitFor(self, condition, *protocols, seconds=600):
        """Refresh protocols from their runs until the condition holds."""
        deadline = time.time() + seconds
        while not condition():
            self.assertLess(time.time(), deadline, "took too long")
            time.sleep(1)
            for protocol in protocols:
                protocol.lastUpdateTimeStamp.set(None)  # else a change made during the last reading is missed
                self.proj._updateProtocol(protocol)
                self.assertFalse(protocol.isFailed(), protocol.getErrorMessage())

    def test_micrographs_are_picked_while_they_arrive(self):
        folder = os.path.join(self.folder, "arriving")
        os.mkdir(folder)
        centres = write_micrographs(folder, ("a.mrc", "b.mrc"), seed=6)
        mics = self.newProtocol(ProtImportMicrographs, filesPath=folder, filesPattern="*.mrc", dataStreaming=True,
                                samplingRate=PIXEL_ANGST, copyFiles=True, timeout="600", fileTimeout="2")
        self.proj.launchProtocol(mics, wait=False)
        self.waitFor(lambda: hasattr(mics, "outputMicrographs") and mics.outputMicrographs.getSize() == 2, mics)
        protocol = self.pick(mics, launch=False, streamingBatchSize=2)
        self.proj.launchProtocol(protocol, wait=False)
        self.waitFor(lambda: hasattr(protocol, "outputCoordinates"), mics, protocol)
        self.assertTrue(protocol.outputCoordinates.isStreamOpen())
        centres.update(write_micrographs(folder, ("c.mrc",), seed=7))
        self.waitFor(lambda: mics.outputMicrographs.getSize() == 3, mics, protocol)
        mics.stopImport(None)
        self.waitFor(lambda: mics.isFinished() and protocol.isFinished(), mics, protocol)
        self.assertFalse(protocol.outputCoordinates.isStreamOpen())
        self.assertPicked(protocol, centres)

    def test_threads_pick_several_batches_at_once(self):
        protocol = self.pick(self.mics, streamingBatchSize=1, numberOfThreads=3, binThreads=1, thresholdMode=1)
        self.assertPicked(protocol, self.centres)
        with open(protocol._getLogsPath("run.stdout")) as file:
            self.assertEqual(len(set(re.findall(r"Worker (\d+): deepem pick", file.read()))), 2)
        # The same picks for RELION, with decimals.
        found = {f"{os.path.basename(name)}.mrc": each.centres_xy
                 for name, each in read_coordinates(protocol.getResults().path("star")).items()}
        for name, positions in self.positions(protocol).items():
            np.testing.assert_allclose(positions, found[name], atol=0.5 + 1e-6)
        threshold = min(item._deepemScore.get() for item in protocol.outputCoordinates)
        self.assertGreaterEqual(threshold + 1e-6, protocol._getThreshold())
        self.assertRegex("\n".join(protocol.summary()), r"Threshold: 0\.\d+ \(best F1 in the validation of the model\)")
        with open(protocol._getExtraPath("picks", "candidates", "first.tsv")) as file:
            self.assertGreater(len(list(csv.reader(file, delimiter="\t"))), 20)

    def test_a_model_is_fine_tuned_with_given_negatives(self):
        rng = np.random.default_rng(5)
        other = self.importCoordinates(self.mics, {TRAINING[0]: rng.integers(20, 360, (30, 2))})
        protocol = self.newProtocol(ProtDeepEMTrain, epochs=1, numberOfThreads=2, useGpu=False, doContinue=True,
                                    particleDiameter=110, validationFraction=0.4)
        for pointer, source, output in ((protocol.inputCoordinates, self.coordinates, "outputCoordinates"),
                                        (protocol.negativeCoordinates, other, "outputCoordinates"),
                                        (protocol.inputModel, self.train, "outputModel")):
            pointer.set(source)
            pointer.setExtended(output)
        self.launchProtocol(protocol)
        self.assertEqual(protocol.outputModel.getBoxSize(), self.train.outputModel.getBoxSize())
        self.assertEqual(os.listdir(protocol._getExtraPath("negatives")), ["first.box"])
        self.assertAlmostEqual(protocol.outputModel.getDiameter(), 110)

    def train_on(self, more=(), others=(), **params):
        """A finished training on the first two micrographs and further sets."""
        two = self.importCoordinates(self.mics, {name: self.centres[name] for name in TRAINING[:2]})
        protocol = self.newProtocol(ProtDeepEMTrain, numberOfThreads=2, useGpu=False, **params)
        protocol.inputCoordinates.set(two)
        protocol.inputCoordinates.setExtended("outputCoordinates")
        for pointers, sets in ((protocol.moreParticles, more), (protocol.moreNegatives, others)):
            for each in sets:
                pointers.append(Pointer(each, extended="outputCoordinates"))
        self.launchProtocol(protocol)
        return protocol

    def test_training_takes_sets_on_other_micrographs_and_several_rounds(self):
        third = self.importCoordinates(self.mics, {TRAINING[2]: self.centres[TRAINING[2]][:10]})
        rng = np.random.default_rng(6)
        free = self.importCoordinates(self.mics, {TRAINING[2]: rng.integers(20, 360, (5, 2))})
        protocol = self.train_on([third], [free], epochs=1, rounds=2, networks=2)
        self.assertEqual(protocol.outputModel._numberOfParticles.get(), 2 * 24 + 10)
        self.assertEqual(protocol.outputModel._numberOfMicrographs.get(), 3)
        summary = "\n".join(protocol.summary())
        self.assertIn("More particles: 10\nMore background and contaminants: 5", summary)
        self.assertIn("58 particles, 2 networks averaged", summary)
        self.assertEqual(len(self.proj.getSourceParents(protocol.outputModel)), 3)

    def test_tuning_makes_a_model_and_is_resumed_by_continue(self):
        protocol = self.train_on(epochs=1, doTune=True, tuneMinutes=0.01)
        self.assertEqual(protocol.outputModel._numberOfTrials.get(), 1)
        self.assertIn("tuned over 1 trainings", "\n".join(protocol.summary()))
        report = protocol._getModelFile() + ".tuning.md"
        self.assertTrue(os.path.exists(report))
        study = os.path.getsize(protocol._getStudyFile())
        protocol.tuneMinutes.set(0.02)
        self.launchProtocol(protocol)
        self.assertGreater(os.path.getsize(protocol._getStudyFile()), study)
        self.assertGreater(protocol.outputModel._numberOfTrials.get(), 0)

    def test_inputs_that_cannot_work_are_refused_before_the_start(self):
        few = self.importCoordinates(self.mics, {TRAINING[0]: [(100, 100)]}, box=0)
        protocol = self.newProtocol(ProtDeepEMTrain, preset=5, kernels="50 21 10")
        protocol.inputCoordinates.set(few.outputCoordinates)
        errors = "\n".join(protocol.validate())
        self.assertIn("1 particles were found", errors)
        self.assertIn("no box size", errors)
        protocol.particleDiameter.set(100)
        self.assertIn("does not fit", "\n".join(protocol.validate()))

    def test_feature_maps_of_the_automatic_layers_are_those_of_the_form(self):
        protocol = self.newProtocol(ProtDeepEMTrain, maps="12, 24 24", particleDiameter=100)
        self.assertEqual(protocol._getNetworkArguments(), ["--maps", "12", "24", "24"])
        protocol.inputCoordinates.set(self.importCoordinates(self.mics, {TRAINING[0]: [(100, 100)]}).outputCoordinates)
        self.assertNotIn("Network:", "\n".join(protocol.validate()))
        protocol.maps.set("12 24")
        self.assertIn("three whole numbers", "\n".join(protocol.validate()))

    def test_another_pixel_size_than_in_training_raises_a_warning(self):
        protocol = self.pick(self.mics, launch=False)
        self.assertEqual(protocol.warnings(), [])
        protocol.inputMicrographs.get().setSamplingRate(1.25)
        self.assertIn("1.25", protocol.warnings()[0])
        self.assertIn("110.0 Å, 88 px", protocol.summary()[0])
