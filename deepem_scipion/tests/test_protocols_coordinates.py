# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates of other programs in a project, and those of a project for other programs."""

import os
import shutil
import tempfile
from unittest import mock

import mrcfile
import numpy as np
from pwem.protocols import ProtImportMicrographs
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion import convert
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.formats.base import MicrographInfo, MicrographPicks
from deepem_scipion.deepem.coordinates.formats.registry import write_files
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.protocols import ProtDeepEMExportCoordinates, ProtDeepEMImportCoordinates
from deepem_scipion.protocols.protocol_export_coordinates import WRITTEN

SHAPE = (60, 90)  # rows and columns differ, so that exchanged axes are noticed
# x, y and score by micrograph; the last of a is outside.
PICKS = {"a": [(10.4, 5.2, 0.9), (80.6, 50.0, 0.25), (200.0, 9.0, 0.5)], "b": [(3.0, 41.0, 0.75)],
         "z": [(1.0, 1.0, 0.5)]}
EXPECTED = {("a.mrc", 10, 5, 0.9), ("a.mrc", 81, 50, 0.25), ("b.mrc", 3, 41, 0.75)}


def write(name, folder, scored=True, names="abz"):
    """Write the picks in a format."""
    picks = []
    for mic in names:
        table = np.array(PICKS[mic])
        scores = table[:, 2] if scored else np.full(len(table), np.nan)
        picks.append(MicrographPicks(mic, f"{mic}.mrc", Coordinates(table[:, :2], scores, 16.0),
                                     MicrographInfo(SHAPE, 2.0)))
    write_files(name, folder, picks)


class TestDeepEMCoordinates(BaseTest):
    """RELION's files are imported, exported for cryoSPARC, and imported from there."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = tempfile.mkdtemp(prefix="deepem-coordinates-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        for name in "abc":
            mrcfile.write(os.path.join(cls.folder, f"{name}.mrc"), np.random.default_rng(0).random(SHAPE, np.float32))
        cls.mics = cls.newProtocol(ProtImportMicrographs, filesPath=cls.folder, filesPattern="*.mrc", samplingRate=2.0)
        cls.launchProtocol(cls.mics)
        write("relion", os.path.join(cls.folder, "relion"))

    def load(self, path, launch=True, **params):
        protocol = self.newProtocol(ProtDeepEMImportCoordinates, path=os.path.join(self.folder, path), **params)
        protocol.inputMicrographs.set(self.mics)
        protocol.inputMicrographs.setExtended("outputMicrographs")
        if launch:
            self.launchProtocol(protocol)
        return protocol

    def found(self, protocol):
        return {(item.getMicName(), *item.getPosition(), item._deepemScore.get())
                for item in protocol.outputCoordinates}

    def test_coordinates_with_scores_go_from_relion_to_scipion_to_cryosparc_and_back(self):
        first = self.load("relion", boxSize=24)
        self.assertEqual((self.found(first), first.outputCoordinates.getBoxSize()), (EXPECTED, 24))
        item = first.outputCoordinates.getFirstItem()
        self.assertEqual(item._rlnAutopickFigureOfMerit.get(), item._deepemScore.get())
        summary = "\n".join(first.summary())
        for words in ("3 coordinates of 2 of 3 micrographs", "with scores", "1 outside", "1 micrographs of the files "
                      "are not in the input"):
            self.assertIn(words, summary)

        target = os.path.join(self.folder, "cryosparc")
        export = self.newProtocol(ProtDeepEMExportCoordinates, format=WRITTEN.index("cryosparc"), folder=target)
        export.inputCoordinates.set(first)
        export.inputCoordinates.setExtended("outputCoordinates")
        self.launchProtocol(export)
        self.assertIn("3 coordinates of 2 micrographs", export.summary()[0])
        again = self.newProtocol(ProtDeepEMExportCoordinates, folder=target)
        self.assertIn("is not empty", again._validate()[0])
        again.overwrite.set(True)
        self.assertEqual(again._validate(), [])

        second = self.load("cryosparc/picks.cs", boxSize=24)
        self.assertEqual({(*row[:3], round(row[3], 6)) for row in self.found(second)}, EXPECTED)

    def test_coordinates_without_scores_are_those_of_another_side_or_binning(self):
        write("eman", os.path.join(self.folder, "boxes"), scored=False, names="b")
        protocol = self.load("boxes", flipY=True, binning=0.5)
        item, = protocol.outputCoordinates
        # x = 0.5 (3 + 1/2) - 1/2 = 1.25; y = 0.5 (41 + 1/2) - 1/2 = 20.25, and 59 - 20.25 = 38.75
        self.assertEqual((item.getMicName(), *item.getPosition()), ("b.mrc", 1, 39))
        self.assertFalse(item.hasAttribute("_deepemScore"))
        self.assertEqual(protocol.outputCoordinates.getBoxSize(), 8)

    def test_what_cannot_be_imported_is_said(self):
        with self.assertRaisesRegex(RuntimeError, "does not state the size of the boxes"):
            self.load("relion", launch=False).importStep(os.path.join(self.folder, "relion"), 0, 1.0, False, False)
        write("eman", os.path.join(self.folder, "others"), names="z")
        protocol = self.load("others", launch=False)
        with self.assertRaisesRegex(RuntimeError, "has no coordinates of the input micrographs. It names z; the input "
                                                  "has a, b, c"):
            protocol.importStep(os.path.join(self.folder, "others"), 0, 1.0, False, False)
        self.assertIn("does not exist", self.load("nowhere", launch=False)._validate()[0])
        with self.assertRaisesRegex(RuntimeError, "No micrograph can be read. a is damaged"), \
                mock.patch.object(convert, "coordinate_items", side_effect=DeepEMError("a is damaged")):
            self.load("relion", launch=False).importStep(os.path.join(self.folder, "relion"), 24, 1.0, False, False)
