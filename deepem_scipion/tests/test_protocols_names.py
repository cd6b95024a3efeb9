# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of any characters go through the protocols as names, whatever they mean to a shell; the network is not used.

Dollar signs and double quotes do not occur in the names of the folders of project and micrographs, because there the
framework itself hands them to a shell, or takes them for variables.
"""

import json
import os
import shlex
import shutil
import sys
import tempfile
from glob import glob
from pathlib import Path
from unittest import mock

import mrcfile
import numpy as np
from pwem.protocols import ProtImportMicrographs
from pyworkflow.project import Manager
from pyworkflow.protocol.executor import StepExecutor
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion import program
from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.protocols import (
    ProtDeepEMEvaluate,
    ProtDeepEMExportModel,
    ProtDeepEMImportModel,
    ProtDeepEMPick,
    ProtDeepEMTrain,
    protocol_base,
)
from deepem_scipion.tests.no_network import guard
from deepem_scipion.tests.program import needs_program
from deepem_scipion.tests.test_protocols_deepem import PIXEL_ANGST, simulate
from deepem_scipion.tests.test_protocols_models import disc_model

PROJECT = "it's  a; touch INTRUDED; 100 %s %(GPU)s & folder"
HOSTILE = "-r; touch INTRUDED $(touch INTRUDED) `touch INTRUDED` \"two\" 'one' 100% %(GPU)s %d\n* ~ # \\ Größe"


@needs_program
class TestDeepEMNames(BaseTest):
    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = tempfile.mkdtemp(prefix="deepem-names-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.addClassCleanup(os.chdir, os.getcwd())
        patch = mock.patch.dict(os.environ, guard(cls.folder))
        patch.start()
        cls.addClassCleanup(patch.stop)
        place = os.path.join(cls.folder, PROJECT)
        os.mkdir(place)
        cls.project = Manager().createProject("Names", location=place)
        os.chdir(cls.project.path)

    def launch(self, kind, inputs, **params):
        """Launch a protocol with pointers to outputs of others, and return it."""
        protocol = self.project.newProtocol(kind, **params)
        for name, (source, output) in inputs.items():
            getattr(protocol, name).set(source)
            getattr(protocol, name).setExtended(output)
        protocol.setObjLabel(HOSTILE)
        protocol.setObjComment(HOSTILE)
        self.project.launchProtocol(protocol, wait=True)
        self.assertTrue(protocol.isFinished(), (protocol.getErrorMessage(), protocol.getLogsLastLines(20, 1)))
        return protocol

    def test_names_of_any_characters_go_through_all_protocols(self):
        mics = os.path.join(self.folder, "it's; 100% & (micrographs)")
        os.mkdir(mics)
        rng = np.random.default_rng(3)
        for name in (HOSTILE, "plain"):
            with mrcfile.new(os.path.join(mics, name + ".mrc")) as file:
                file.set_data(simulate(rng)[0])
        path = os.path.join(self.folder, HOSTILE + ".deepem")
        save_model(path, disc_model())
        imported = self.launch(ProtImportMicrographs, {}, filesPath=mics, filesPattern="*.mrc",
                               samplingRate=PIXEL_ANGST)
        model = self.launch(ProtDeepEMImportModel, {}, modelFile=path)
        picks = self.launch(ProtDeepEMPick, {"inputMicrographs": (imported, "outputMicrographs"),
                                             "inputModel": (model, "outputModel")},
                            numberOfThreads=1, binThreads=2, streamingBatchSize=0)
        self.assertEqual(len(picks.outputCoordinates.getUniqueValues("_micId")), 2)
        self.assertEqual(picks._getFailed(), {})
        evaluated = self.launch(ProtDeepEMEvaluate, {"referenceCoordinates": (picks, "outputCoordinates"),
                                                  "pickedCoordinates": (picks, "outputCoordinates")})
        self.assertIn("Precision 1.000, recall 1.000", "\n".join(evaluated.summary()))
        exported = self.launch(ProtDeepEMExportModel, {"inputModel": (model, "outputModel")},
                               folder=os.path.join(self.folder, "out " + HOSTILE), particle=HOSTILE)
        copy = exported._getTarget()
        self.assertEqual(os.path.dirname(copy), os.path.join(self.folder, "out " + HOSTILE))
        self.assertEqual(os.path.getsize(copy), os.path.getsize(path))

        self.assertEqual([name for _, _, names in os.walk(self.folder) for name in names if "INTRUDED" == name], [])
        self.assertFalse(os.path.exists(os.path.join(self.folder, "used")), "the network was used")
        self.assertEqual(list(Path("Runs").rglob(".deepem-*")), [])
        self.assertEqual(glob("Runs/*/tmp/*"), [])

    def test_text_where_numbers_belong_is_refused(self):
        train = self.project.newProtocol(ProtDeepEMTrain, preset=5, boxSize=28, kernels=f"5 3 {HOSTILE}", pools="2 2 2",
                                         maps="6 12 12")
        self.assertTrue(train._geometryErrors())
        self.assertFalse(os.path.exists("INTRUDED"))

    def test_a_real_shell_passes_all_arguments_unchanged(self):
        written = os.path.join(self.folder, "written")
        script = os.path.join(self.folder, "echo 100% %(GPU)s.py")
        with open(script, "w") as file:
            file.write("import json, os, sys\n"
                       f"json.dump([sys.argv[1:], os.environ['CUDA_VISIBLE_DEVICES']], open({written!r}, 'w'))\n")
        protocol = self.project.newProtocol(ProtDeepEMTrain, numberOfThreads=3, useGpu=True, gpuList="0 2")
        for gpus in ([], [0], [0, 2]):
            protocol._stepsExecutor = StepExecutor(None, gpuList=gpus)
            protocol._stepsExecutor.setProtocol(protocol)
            protocol.setHostConfig(self.project.getHostConfig("localhost"))
            with mock.patch.object(protocol_base, "GPU_DEVICES", (os.devnull,) * bool(gpus)), \
                    mock.patch.object(program, "shell_text", lambda: shlex.join([sys.executable, script])):
                protocol.runDeepEM("train", [HOSTILE, "", "a\tb", *HOSTILE.split()])
            with open(written) as file:
                words, visible = json.load(file)
            self.assertEqual(words, ["train", HOSTILE, "", "a\tb", *HOSTILE.split(), "--threads", "3"])
            self.assertEqual(visible, ",".join(map(str, gpus)))
        self.assertFalse(os.path.exists("INTRUDED"))
