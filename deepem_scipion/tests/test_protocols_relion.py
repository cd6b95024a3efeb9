# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""From simulated micrographs to RELION's particles and 2D classes.

With pytest, or in a Scipion installation: scipion3 tests deepem_scipion.tests.test_protocols_relion
"""

import os
import shutil
import tempfile
import unittest
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import mrcfile
import numpy as np
import tifffile
from pwem.protocols import ProtImportCoordinates, ProtImportMicrographs, ProtUnionSet
from pyworkflow.object import Pointer
from pyworkflow.project import Manager
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.convert import read_json
from deepem_scipion.deepem.commands.parser import build_parser
from deepem_scipion.deepem.commands.planning import read_training_set
from deepem_scipion.deepem.coordinates.star import write_star
from deepem_scipion.deepem.simulation.dataset import write_dataset
from deepem_scipion.deepem.simulation.scene import Scene
from deepem_scipion.deepem.startables import read_tables
from deepem_scipion.headless.demo import ProtocolFailed, launch
from deepem_scipion.headless.workflows import fill, load, run_all, use_relion
from deepem_scipion.protocols import ProtDeepEMEvaluate, ProtDeepEMPick, ProtDeepEMTrain
from deepem_scipion.tests.program import problems

SCENE = Scene(shape=(576, 704), pixel_size_angst=8.0, n_particles=24, snr=1.0)
BINNED_ANGST = 2 * SCENE.pixel_size_angst
BOX = 40  # binned pixels
EPOCHS = 2
MISSING = [what for what, found in (("the deepem program", not problems()),
                                    ("scipion-em-relion", find_spec("relion")),
                                    ("RELION (Debian: relion)", shutil.which("relion_refine"))) if not found]
needs_relion = unittest.skipIf(MISSING, f"not installed: {', '.join(MISSING)}")


def simulate(folder, number, seed):
    """Write micrographs to `full`, binned by two to `binned`, and their particles there to `coordinates`.

    Returns the centres in binned pixels by name of the micrograph.
    """
    centres = write_dataset(folder / "simulated", SCENE, number, seed, n_views=12)
    (folder / "simulated" / "micrographs").rename(folder / "full")
    for name in ("binned", "coordinates"):
        (folder / name).mkdir()
    binned = {}
    for name, centres_xy in centres.items():
        pixels = mrcfile.read(folder / "full" / f"{name}.mrc")
        rows, cols = pixels.shape
        with mrcfile.new(folder / "binned" / f"{name}.mrc") as file:
            file.set_data(pixels.reshape(rows // 2, 2, cols // 2, 2).mean(axis=(1, 3)))
        binned[name] = (centres_xy - 0.5) / 2
        np.savetxt(folder / "coordinates" / f"{name}.star", np.rint(binned[name]), fmt="%d", comments="",
                   header="data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2")
    return binned


def training_fields(folder):
    """Values of the fields of the template train-and-pick."""
    return {"micrographs": folder / "binned", "coordinates": folder / "coordinates", "pixel_size": BINNED_ANGST,
            "box": BOX, "diameter": SCENE.diameter_angst, "epochs": EPOCHS, "threads": 2}


def show_status(runs):
    """A line for `run_all`."""
    return ", ".join(f"{run.getObjLabel()} {run.getStatus()}" for run in runs)


@needs_relion
class TestDeepEMAndRelion(BaseTest):
    """The template train-and-pick picks the micrographs of all tests."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = Path(tempfile.mkdtemp(prefix="deepem-relion-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.centres = simulate(cls.folder, 3, seed=1)
        cls.runs = load(cls.proj, fill("train-and-pick", training_fields(cls.folder)))
        use_relion(cls.folder)
        assert run_all(cls.proj, show_status)
        cls.pick = cls.proj.getProtocolsByClass("ProtDeepEMPick")[0]

    def extract(self, box, **params):
        """Particles of the picks, and the mean of their images."""
        from relion.protocols import ProtRelionExtractParticles

        others, pick = params.pop("inputMicrographs", {}), params.pop("pick", self.pick)
        run = launch(self.proj, ProtRelionExtractParticles, "extract",
                     {"inputCoordinates": (pick, "outputCoordinates"), **others}, boxSize=box, doInvert=True,
                     numberOfMpi=1, **params)
        stacks = [mrcfile.read(path) for path in {particle.getFileName() for particle in run.outputParticles}]
        return run, np.concatenate(stacks).astype(float).mean(axis=0)

    def assertCentred(self, mean, within_px):
        """The particle, bright now, is in the middle of the box, where RELION expects it."""
        y, x = np.indices(mean.shape)
        bright = mean > (mean.max() + np.median(mean)) / 2
        for centre in (x[bright].mean(), y[bright].mean()):
            self.assertAlmostEqual(centre, len(mean) / 2, delta=within_px)

    def test_the_template_trains_and_picks_without_a_display(self):
        self.assertEqual([run.getObjLabel() for run in self.runs.values()],
                         ["import micrographs", "import coordinates", "train", "pick"])
        found = {}
        for item in self.pick.outputCoordinates:
            found.setdefault(Path(item.getMicName()).stem, []).append(item.getPosition())
        for name, centres_xy in self.centres.items():
            distances = np.hypot(*(np.array(found[name])[:, None] - centres_xy).transpose(2, 0, 1))
            for axis in (0, 1):
                self.assertGreaterEqual((distances.min(axis) < SCENE.diameter_angst / BINNED_ANGST / 4).mean(), 0.85)

    def test_runs_after_a_failed_one_are_not_started_and_the_reason_is_printed(self):
        broken = self.folder / "broken"
        broken.mkdir()
        for name in self.centres:
            (broken / f"{name}.star").write_text("data_\n\nloop_\n_rlnCoordinateX #1\n10\n")
        project = Manager().createProject("failing")
        os.chdir(project.path)
        try:
            load(project, fill("train-and-pick", {**training_fields(self.folder), "coordinates": broken}))
            with redirect_stdout(StringIO()) as output:
                self.assertFalse(run_all(project, show_status))
            self.assertEqual([run.getStatus() for run in project.getRuns()], ["finished", "failed", "saved", "saved"])
        finally:
            os.chdir(self.proj.path)
        self.assertIn("'import coordinates' failed", output.getvalue())
        self.assertIn("rlnCoordinateY", output.getvalue())

    def test_scores_and_centres_reach_the_particles_and_their_classes(self):
        from relion.protocols import ProtRelionClassify2D

        extract, mean = self.extract(BOX)
        self.assertEqual(extract.outputParticles.getSize(), self.pick.outputCoordinates.getSize())
        self.assertCentred(mean, within_px=1)
        classify = launch(self.proj, ProtRelionClassify2D, "classify",
                          {"inputParticles": (extract, "outputParticles")}, numberOfClasses=2, numberOfIterations=2,
                          useGradientAlg=False, maskDiameterA=480, doCTF=False, doGpu=False, numberOfMpi=1,
                          numberOfThreads=2)
        tables = {table.name: table for table in read_tables(Path(classify._getPath("input_particles.star")))}
        table = tables["particles"]
        columns = {label: [fields[table.labels.index(label)] for _, fields in table.rows] for label in table.labels}
        scores = sorted(item._deepemScore.get() for item in self.pick.outputCoordinates)
        np.testing.assert_allclose(sorted(map(float, columns["rlnAutopickFigureOfMerit"])), scores, atol=1e-5)
        self.assertEqual(set(map(int, columns["rlnClassNumber"])), {1})
        self.assertEqual(set(map(float, columns["rlnAnglePsi"])), {0.0})
        classes = [(each.getSize(), each.getRepresentative().getFileName()) for each in classify.outputClasses]
        self.assertEqual(sum(size for size, _ in classes), len(scores))
        self.assertTrue(all(Path(name).exists() for _, name in classes))

    def test_the_mean_of_the_particles_extracted_from_tiff_micrographs_shows_the_particle(self):
        folder = self.folder / "tiff"
        folder.mkdir()
        for name in self.centres:
            tifffile.imwrite(folder / f"{name}.tif", mrcfile.read(self.folder / "binned" / f"{name}.mrc"))
        mics = launch(self.proj, ProtImportMicrographs, "import TIFF", filesPath=str(folder), filesPattern="*.tif",
                      samplingRate=BINNED_ANGST)
        pick = launch(self.proj, ProtDeepEMPick, "pick TIFF", {
            "inputMicrographs": (mics, "outputMicrographs"),
            "inputModel": (self.proj.getProtocolsByClass("ProtDeepEMTrain")[0], "outputModel")})
        self.assertIn("TIFF files, in which programs disagree", "".join(pick.warnings()))
        self.assertEqual(self.pick.warnings(), [])
        extract, mean = self.extract(BOX, pick=pick)
        self.assertEqual(extract.outputParticles.getSize(), self.pick.outputCoordinates.getSize())
        self.assertCentred(mean, within_px=1)

    def test_picks_of_binned_micrographs_are_extracted_from_the_full_size_ones(self):
        full = launch(self.proj, ProtImportMicrographs, "import full size", filesPath=str(self.folder / "full"),
                      filesPattern="*.mrc", samplingRate=SCENE.pixel_size_angst)
        extract, mean = self.extract(2 * BOX, downsampleType=1,
                                     inputMicrographs={"inputMicrographs": (full, "outputMicrographs")})
        self.assertEqual(extract.outputParticles.getSize(), self.pick.outputCoordinates.getSize())
        self.assertEqual(extract.outputParticles.getSamplingRate(), SCENE.pixel_size_angst)
        # Whole binned pixels, and the plugin of RELION takes corners of pixels for their centres.
        self.assertCentred(mean, within_px=1.5)

    def test_two_imports_with_the_same_names_stay_apart_in_all_protocols(self):
        sources = dict(zip(("Jul/img_1", "Aug/img_1", "Aug/img_2"), sorted(self.centres)))
        for name, source in sources.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(self.folder / "binned" / f"{source}.mrc", self.folder / f"{name}.mrc")
        imports = {folder: launch(self.proj, ProtImportMicrographs, f"import {folder}", samplingRate=BINNED_ANGST,
                                  filesPath=str(self.folder / folder), filesPattern="*.mrc")
                   for folder in ("Jul", "Aug")}
        joined = self.proj.newProtocol(ProtUnionSet)
        joined.inputSets.set([Pointer(run, extended="outputMicrographs") for run in imports.values()])
        self.proj.launchProtocol(joined, wait=True)
        model = {"inputModel": (self.pick.inputModel.getObjValue(), "outputModel")}
        picks = launch(self.proj, ProtDeepEMPick, "pick both", {"inputMicrographs": (joined, "outputSet"), **model},
                       numberOfThreads=1, binThreads=2)
        known = {}
        for folder, run in imports.items():
            star = self.folder / folder / "particles.star"
            write_star(star, [(f"{Path(name).name}.mrc", np.rint(self.centres[source]), np.ones(SCENE.n_particles))
                              for name, source in sources.items() if folder in name], BINNED_ANGST)
            known[folder] = launch(self.proj, ProtImportCoordinates, f"import particles of {folder}",
                                   {"inputMicrographs": (run, "outputMicrographs")}, filesPath=str(star),
                                   filesPattern="", boxSize=BOX)

        # Every micrograph is picked, and its picks are on its own particles.
        self.assertFalse(hasattr(self.pick, "outputMicrographs"))
        both = picks.outputCoordinates
        mics = {mic.getObjId(): mic.clone() for mic in both.getMicrographs()}
        self.assertEqual(len({mic.getMicName() for mic in mics.values()}), 3)
        source_of = {os.path.realpath(self.folder / f"{name}.mrc"): source for name, source in sources.items()}
        found = {}
        for item in both:
            found.setdefault(item.getMicId(), []).append(item.getPosition())
        for number, mic in mics.items():
            centres_xy = self.centres[source_of[os.path.realpath(mic.getFileName())]]
            distances = np.hypot(*(np.array(found[number])[:, None] - centres_xy).transpose(2, 0, 1))
            self.assertGreaterEqual((distances.min(0) < SCENE.diameter_angst / BINNED_ANGST / 4).mean(), 0.85)

        # RELION cuts each particle from its own image.
        extract, mean = self.extract(BOX, pick=picks)
        self.assertEqual(extract.outputParticles.getSize(), both.getSize())
        self.assertCentred(mean, within_px=1)
        for particle in extract.outputParticles:
            x, y = particle.getCoordinate().getPosition()
            index, path = particle.getLocation()
            pixels = mrcfile.read(mics[particle.getCoordinate().getMicId()].getFileName())
            own = pixels[y - BOX // 2:y + BOX // 2, x - BOX // 2:x + BOX // 2]
            if min(x, y) >= BOX // 2 and own.shape == (BOX, BOX):
                image = mrcfile.read(path).reshape(-1, BOX, BOX)[index - 1]
                self.assertLess(np.corrcoef(own.ravel(), image.ravel())[0, 1], -0.95)

        # An evaluation compares images with themselves only.
        evaluation = launch(self.proj, ProtDeepEMEvaluate, "evaluate", {
            "referenceCoordinates": (known["Aug"], "outputCoordinates"),
            "pickedCoordinates": (picks, "outputCoordinates")})
        figures = read_json(evaluation._getFiguresFile())
        self.assertEqual(len(figures["micrographs"]), 2)
        self.assertGreaterEqual(figures["overall"]["recall"], 0.85)
        with redirect_stdout(StringIO()), self.assertRaisesRegex(ProtocolFailed, "files and images differ"):
            launch(self.proj, ProtDeepEMEvaluate, "evaluate others", {
                "referenceCoordinates": (known["Jul"], "outputCoordinates"),
                "pickedCoordinates": (known["Aug"], "outputCoordinates")})

        # A training takes each set for its own images.
        train = self.proj.newProtocol(ProtDeepEMTrain, particleDiameter=SCENE.diameter_angst)
        train.inputCoordinates.set(known["Jul"])
        train.inputCoordinates.setExtended("outputCoordinates")
        train.moreParticles.set([Pointer(known["Aug"], extended="outputCoordinates")])
        self.proj.saveProtocol(train)
        os.makedirs(train._getExtraPath())
        train.convertInputStep([])
        data = read_training_set(build_parser().parse_args(["train", *train._getArguments()]))
        self.assertEqual(len(data.names), 3)
        for name in data.names:
            centres_xy = self.centres[source_of[os.path.realpath(data.micrographs[name])]]
            np.testing.assert_allclose(data.particles[name].centres_xy, np.rint(centres_xy), atol=1)
