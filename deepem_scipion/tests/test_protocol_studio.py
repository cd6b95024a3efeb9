# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The studio in a project: the run waits, its outputs are what was marked, and Continue opens it again."""

import os
import re
import threading
import time
from pathlib import Path
from unittest import mock

from pyworkflow.protocol.constants import STATUS_INTERACTIVE
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.protocols import ProtDeepEMStudio

from . import test_protocols_deepem as example
from .studio import SECONDS, ask, needs_studio, wait_for_micrographs


def address_in(log):
    """Address of the page, once it is in a log, whose path is asked for again and again."""
    end, text = time.monotonic() + SECONDS, ""
    while time.monotonic() < end:
        path = log()
        text = Path(path).read_text(errors="replace") if os.path.exists(path) else ""
        found = re.findall(r"studio: (http://\S+)", text)
        if found:
            return found[-1]
        time.sleep(0.1)
    raise AssertionError(f"no address in {path}: {text[-2000:]}")


@needs_studio
class TestStudioProtocol(BaseTest):
    importMicrographs = classmethod(example.TestDeepEMProtocols.importMicrographs.__func__)
    importCoordinates = classmethod(example.TestDeepEMProtocols.importCoordinates.__func__)

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = os.path.join(cls.proj.path, "micrographs")
        os.mkdir(cls.folder)
        cls.centres = example.write_micrographs(cls.folder, example.TRAINING[:2], seed=1)
        cls.mics = cls.importMicrographs(cls.folder)
        cls.coordinates = cls.importCoordinates(cls.mics, cls.centres)
        os.chdir(cls.proj.path)

    def visit(self, protocol, *edits):
        """Run a protocol, edit its first micrograph in the studio, and close that."""
        if protocol.hasObjId():
            os.truncate(protocol.getStdoutLog(), 0)
        with mock.patch.dict(os.environ, DISPLAY="", WAYLAND_DISPLAY=""):
            run = threading.Thread(target=self.proj.launchProtocol, args=[protocol], kwargs={"wait": True},
                                   daemon=True)
            run.start()
            address = address_in(protocol.getStdoutLog)
            wait_for_micrographs(address)
            for edit in edits:
                ask(address, "edit/0", **edit)
            found = ask(address, "micrograph/0")
            ask(address, "close", now=True)
            run.join()
        return found

    def test_corrected_coordinates_and_negatives_are_outputs_and_continue_resumes(self):
        protocol = self.newProtocol(ProtDeepEMStudio)
        protocol.inputMicrographs.set(self.mics)
        protocol.inputMicrographs.setExtended("outputMicrographs")
        protocol.inputCoordinates.set(self.coordinates)
        protocol.inputCoordinates.setExtended("outputCoordinates")
        first = self.coordinates.outputCoordinates
        x, y = next(item.getPosition() for item in first if item.getMicId() == 1)
        found = self.visit(protocol, {"action": "remove", "x": x, "y": y}, {"action": "add", "x": 11, "y": 12})
        self.assertEqual(len(found["particle"]), 1)
        self.assertEqual(protocol.getStatus(), STATUS_INTERACTIVE)
        self.assertEqual(protocol.outputCoordinates.getSize(), first.getSize())
        self.assertEqual([item.getPosition() for item in protocol.outputNegatives], [(x, y)])
        places = [item.getPosition() for item in protocol.outputCoordinates if item.getMicId() == 1]
        self.assertIn((11, 12), places)
        self.assertNotIn((x, y), places)
        self.assertGreater(protocol.outputCoordinates.getBoxSize(), 0)
        self.assertFalse(hasattr(protocol, "outputModel"))
        again = self.visit(protocol, {"action": "remove", "x": 11, "y": 12})
        self.assertEqual(again["particle"], [])
        self.assertEqual(protocol.outputCoordinates.getSize(), first.getSize() - 1)

        # A model from which nothing was learnt is no output, and what has become empty is none any more.
        protocol.getStudio().output.path("model").touch()
        self.assertEqual(len(list(protocol.iterOutputAttributes())), 2)
        with mock.patch.object(ProtDeepEMStudio, "readStudio", return_value=()):
            protocol._createOutputs({})
        for each in (protocol, self.proj.mapper.selectById(protocol.getObjId())):
            self.assertEqual(list(each.iterOutputAttributes()), [])
