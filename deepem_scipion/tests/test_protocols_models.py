# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Import and export of models, and micrographs that differ from those of the training.

The model is made by hand, so that nothing needs to be trained: it finds dark discs on a brighter surround.
"""

import json
import os
import shutil
import tempfile
import time

import mrcfile
import numpy as np
from pwem.protocols import ProtImportMicrographs
from pyworkflow.project import Manager
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.model.record import TrainingData, TrainingRecord, Validation
from deepem_scipion.deepem.network.geometry import Geometry
from deepem_scipion.protocols import ProtDeepEMExportModel, ProtDeepEMImportModel, ProtDeepEMPick
from deepem_scipion.tests.program import needs_program
from deepem_scipion.tests.test_protocols_deepem import PIXEL_ANGST, simulate

DIAMETER_PX = 40

RECORD = TrainingRecord(
    contrast="dark", training_preset="default", seed=7, training_pixel_size_angst=PIXEL_ANGST,
    training=TrainingData(3, ["a", "b", "c"], 72),
    validation=Validation(particles=24, precision=0.91, recall=0.82, F1=0.86, AP=0.84, on="b"))


def disc_model(record=RECORD):
    """A network that inverts, averages, and compares the middle of its box with the rest of it."""
    geometry = Geometry(36, (5, 3, 2), (2, 2, 2), (1, 1, 1))
    weights = {name: np.zeros(shape, np.float32) for name, shape in geometry.weight_shapes().items()}
    for layer, gain, bias in (("conv1", -4, 0), ("conv2", 6, -3), ("conv3", 6, -3)):
        weights[f"{layer}.kernel"][:] = gain / weights[f"{layer}.kernel"].size
        weights[f"{layer}.bias"][:] = bias
    weights["dense.kernel"].reshape(3, 3)[:] = -10 / 8
    weights["dense.kernel"].reshape(3, 3)[1, 1] = 10
    weights["dense.bias"][:] = -3
    return Model(geometry, (weights,), 3 * PIXEL_ANGST, DIAMETER_PX * PIXEL_ANGST, 4, (0.0, 9.0), 0.5, record)


def write(path, pixels):
    with mrcfile.new(path) as file:
        file.set_data(pixels.astype(np.float32))


@needs_program
class TestDeepEMModels(BaseTest):
    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = tempfile.mkdtemp(prefix="deepem-models-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.file = os.path.join(cls.folder, "discs.deepem")
        save_model(cls.file, disc_model())
        cls.made = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))
        os.utime(cls.file, (cls.made, cls.made))
        rng = np.random.default_rng(1)
        cls.mics = {name: simulate(rng, DIAMETER_PX) for name in ("a", "b", "c")}
        cls.model = cls.newProtocol(ProtDeepEMImportModel, modelFile=cls.file)
        cls.launchProtocol(cls.model)

    def launch(self, project, protocol):
        project.launchProtocol(protocol, wait=True)
        self.assertTrue(protocol.isFinished(), (protocol.getErrorMessage(), protocol.getLogsLastLines(20, 1)))
        return protocol

    def pick(self, project, model, mics, pixel_angst, **params):
        """Launch picking of (pixels, centres) by name, in a project."""
        folder = tempfile.mkdtemp(dir=self.folder)
        for name, (pixels, _) in mics.items():
            write(os.path.join(folder, name + ".mrc"), pixels)
        imported = self.launch(project, project.newProtocol(
            ProtImportMicrographs, filesPath=folder, filesPattern="*.mrc", samplingRate=pixel_angst))
        protocol = project.newProtocol(ProtDeepEMPick, numberOfThreads=1, binThreads=2, **params)
        for pointer, source, output in ((protocol.inputMicrographs, imported, "outputMicrographs"),
                                        (protocol.inputModel, model, "outputModel")):
            if source is not None:
                pointer.set(source)
                pointer.setExtended(output)
        return self.launch(project, protocol)

    def assertPicked(self, protocol, mics, diameter_px=DIAMETER_PX):
        found = {}
        for item in protocol.outputCoordinates:
            found.setdefault(os.path.splitext(item.getMicName())[0], []).append(item.getPosition())
        self.assertEqual(set(found), set(mics))
        for name, (_, centres) in mics.items():
            distances = np.hypot(*(np.array(found[name])[:, None] - np.array(centres)[None]).transpose(2, 0, 1))
            self.assertGreaterEqual((distances.min(axis=0) < diameter_px / 6).mean(), 0.85, name)
            self.assertGreaterEqual((distances.min(axis=1) < diameter_px / 6).mean(), 0.85, name)

    def export(self, folder, launch=True, **params):
        protocol = self.newProtocol(ProtDeepEMExportModel, folder=folder, **params)
        protocol.inputModel.set(self.model)
        protocol.inputModel.setExtended("outputModel")
        if launch:
            self.launchProtocol(protocol)
        return protocol

    def test_an_imported_model_shows_its_card(self):
        model = self.model.outputModel
        self.assertFalse(os.path.isabs(model.getFileName()))
        self.assertNotEqual(os.path.realpath(model.getFileName()), os.path.realpath(self.file))
        self.assertEqual((model.getDiameter(), model.getSamplingRate(), model.getThreshold()), (100, PIXEL_ANGST, 0.5))
        self.assertEqual(dict(model.getValidation())["recall"], 0.82)
        summary = "\n".join(self.model.summary())
        for words in (f"Imported from {self.file}", "particle: 100 A, 13.3 binned pixels, dark",
                      "network: box 36 px (270 A), kernels 5/3/2", "seed 7", "precision 0.910, recall 0.820"):
            self.assertIn(words, summary)
        self.assertIn("96 particles with a diameter of 100 Å", self.model._methods()[0])

    def test_an_exported_model_is_imported_into_another_project_and_picks_micrographs_of_different_sizes(self):
        folder = os.path.join(self.folder, "my models", "new")
        exported = self.export(folder, particle="apo ferritin/1")
        path = os.path.join(folder, "apo_ferritin_1-100A-2026-03-04.deepem")
        self.assertEqual(exported.summary(), [f"Exported to {path}"])
        with open(path, "rb") as copy, open(self.file, "rb") as original:
            self.assertEqual(copy.read(), original.read())

        noise = np.random.default_rng(2).normal(0, 0.5, (900, 900))
        mics = {"a": self.mics["a"]}
        for name, (top, left) in {"b": (100, 0), "c": (30, 300)}.items():
            pixels, centres = self.mics[name]
            rows, cols = pixels.shape
            larger = noise[:rows + top, :cols + left].copy()
            larger[top:, left:] = pixels
            mics[name] = larger, [(x + left, y + top) for x, y in centres]
        here = os.getcwd()
        try:
            other = Manager().createProject("AnotherProject")
            os.chdir(other.path)
            model = self.launch(other, other.newProtocol(ProtDeepEMImportModel, modelFile=path))
            os.remove(path)
            picks = self.pick(other, model, mics, PIXEL_ANGST)
            self.assertPicked(picks, mics)
            self.assertEqual(picks.outputCoordinates.getBoxSize(), 60)
            self.assertNotIn("contrast", "\n".join(picks.summary()))
        finally:
            os.chdir(here)

    def test_an_existing_file_is_replaced_only_on_request(self):
        path = os.path.join(self.folder, "particle-100A-2026-03-04.deepem")
        with open(path, "w") as file:
            file.write("mine")
        error, = self.export(self.folder, launch=False)._validate()
        self.assertIn(f"{path} already exists", error)
        protocol = self.export(self.folder, launch=False)
        with self.assertRaisesRegex(RuntimeError, "already exists"):  # made after the form was checked
            protocol.exportStep(self.file, path, False)
        with open(path) as file:
            self.assertEqual(file.read(), "mine")
        self.export(self.folder, overwrite=True)
        self.assertEqual(os.path.getsize(path), os.path.getsize(self.file))

    def test_files_that_are_no_model_are_refused_before_the_start(self):
        with open(self.file, "rb") as file:
            content = file.read()
        paths = {}
        for name, made in (("text", b"a,b\n1,2\n"), ("short", content[:-40]), ("empty", b"")):
            paths[name] = os.path.join(self.folder, name)
            with open(paths[name], "wb") as file:
                file.write(made)
        damaged = disc_model()
        damaged.networks[0]["dense.bias"][:] = np.nan
        for name, model in (("nan", damaged), ("incomplete", disc_model(TrainingRecord()))):
            paths[name] = os.path.join(self.folder, name)
            save_model(paths[name], model)
        paths.update(folder=self.folder, absent=os.path.join(self.folder, "absent"))
        for name, words in {"text": "not a DeepEM model", "short": "not a DeepEM model", "empty": "not a DeepEM model",
                            "nan": "values that are not finite", "incomplete": "card does not state training",
                            "folder": "does not exist, or is a folder", "absent": "does not exist"}.items():
            error, = ProtDeepEMImportModel(modelFile=paths[name])._validate()
            self.assertIn(words, error, name)
            self.assertIn(paths[name], error, name)
        self.assertEqual(ProtDeepEMImportModel(modelFile=self.file)._validate(), [])

    def test_picks_of_binned_micrographs_are_in_binned_pixels(self):
        binned = {}
        for name, (pixels, centres) in self.mics.items():
            rows, cols = (size // 2 for size in pixels.shape)
            binned[name] = (pixels.reshape(rows, 2, cols, 2).mean(axis=(1, 3)),
                            [((x - 0.5) / 2, (y - 0.5) / 2) for x, y in centres])
        picks = self.pick(self.proj, self.model, binned, 2 * PIXEL_ANGST)
        self.assertPicked(picks, binned, DIAMETER_PX / 2)
        coordinates = picks.outputCoordinates
        self.assertEqual(coordinates.getBoxSize(), 30)
        self.assertEqual(coordinates.getMicrographs().getSamplingRate(), 2 * PIXEL_ANGST)
        # Resampled to the working pixel size of the model.
        self.assertIn("5.00 Å/px, those of the training 2.50 Å/px", picks.warnings()[0])
        self.assertIn("micrographs downsampled by a factor of 1.50; training micrographs had 2.50 Å/px",
                      "\n".join(picks.summary()))

    def test_the_general_model_picks_with_nothing_but_the_diameter(self):
        picks = self.pick(self.proj, None, self.mics, PIXEL_ANGST, particleDiameter=DIAMETER_PX * PIXEL_ANGST)
        self.assertPicked(picks, self.mics)
        self.assertEqual(picks.outputCoordinates.getBoxSize(), 60)
        self.assertTrue(os.path.exists(picks.getResults().path("model")))
        with open(picks._getReportFile(), encoding="utf-8") as report:
            self.assertIn("benchmarks/general_model.py", report.read())

    def test_inverted_micrographs_are_reported_and_all_figures_are_available_to_monitors(self):
        inverted = {name: (-pixels, centres) for name, (pixels, centres) in self.mics.items()}
        picks = self.pick(self.proj, self.model, inverted, PIXEL_ANGST, streamingBatchSize=2)
        summary = "\n".join(picks.summary())
        self.assertIn("*Warning:* the contrast seems to be inverted: the model was trained on dark particles", summary)
        self.assertIn("Micrographs: 3 of 3 done", summary)
        folder = picks._getExtraPath("picks")
        with open(os.path.join(folder, "summary.json")) as file:
            found = json.load(file)
        self.assertEqual((found["picked"], found["contrast"]["micrographs"]), (3, 3))
        with open(os.path.join(folder, "summary.tsv")) as file:
            rows = [line.split("\t") for line in file.read().splitlines()]
        self.assertEqual([row[0] for row in rows], ["micrograph", "a", "b", "c"])
