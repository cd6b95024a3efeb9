# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check of an installation, in about a minute: scipion3 tests deepem_scipion.tests.test_installation

Unlike all other tests it fails where the program is not installed. The environment for picking alone is checked without
the training.
"""

import os
import tempfile
from unittest import mock

from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion import Plugin, convert, environments
from deepem_scipion.protocols import ProtDeepEMEvaluate, ProtDeepEMPick, ProtDeepEMTrain
from deepem_scipion.viewers import DeepEMEvaluateViewer, DeepEMPickViewer
from deepem_scipion.viewers.viewer_train import modelContents

from . import test_protocols_deepem as example
from .program import problems
from .studio import ask, started

DIAMETER_ANGST = example.DIAMETER_PX * example.PIXEL_ANGST


class TestDeepEMInstallation(BaseTest):
    """From micrographs to an evaluation, with the program in its own environment."""

    importMicrographs = classmethod(example.TestDeepEMProtocols.importMicrographs.__func__)
    importCoordinates = classmethod(example.TestDeepEMProtocols.importCoordinates.__func__)

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)

    def test_the_program_is_installed_and_trains_picks_and_evaluates(self):
        found = problems()
        light = Plugin.getPython() == environments.python_of("deepem_pick")
        self.assertEqual(Plugin.validateInstallation() if light else found, [])
        with tempfile.TemporaryDirectory(prefix="deepem-mics-") as folder:
            type(self).folder = folder
            centres = example.write_micrographs(folder, example.TRAINING, seed=1)
            mics = self.importMicrographs(folder)
            known = self.importCoordinates(mics, centres)
            if light:
                model = {"particleDiameter": DIAMETER_ANGST}  # the general one
            else:
                train = self.launch(ProtDeepEMTrain, inputCoordinates=(known, "outputCoordinates"), epochs=4,
                                    useGpu=False)
                self.checkModel(train)
                model = {"inputModel": (train, "outputModel")}
            pick = self.launch(ProtDeepEMPick, inputMicrographs=(mics, "outputMicrographs"), **model)
            evaluation = self.launch(ProtDeepEMEvaluate, referenceCoordinates=(known, "outputCoordinates"),
                                     pickedCoordinates=(pick, "outputCoordinates"))
            self.assertGreater(convert.read_json(evaluation._getSummaryFile())["figures"]["F1"], 0.5)
            with mock.patch.dict(os.environ, BROWSER="true"):  # the program that does nothing
                self.checkViewers(pick, evaluation)

    def launch(self, protocolClass, **params):
        """Run a protocol; parameters that are inputs are given as (protocol, output)."""
        inputs = {name: value for name, value in params.items() if isinstance(value, tuple)}
        protocol = self.newProtocol(protocolClass, **{name: value for name, value in params.items()
                                                      if name not in inputs})
        for name, (source, output) in inputs.items():
            getattr(protocol, name).set(source)
            getattr(protocol, name).setExtended(output)
        return self.launchProtocol(protocol) or protocol

    def checkModel(self, train):
        """The viewer of models has something to show."""
        for name, content in modelContents(train.outputModel.getFileName()).items():
            self.assertEqual(isinstance(content(), str), name == "Model", content())

    def checkViewers(self, pick, evaluation):
        """The studio shows picks and evaluations."""
        for viewerClass, protocol in ((DeepEMPickViewer, pick), (DeepEMEvaluateViewer, evaluation)):
            run = viewerClass(project=self.proj, protocol=protocol).start(protocol)
            self.addCleanup(run.stop)
            self.assertEqual(len(ask(started(run), "session")["names"]), len(example.TRAINING))
