# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A project with a small finished workflow for tests of windows."""

import os
import time
import tkinter
import tkinter.font

import numpy as np
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.protocols import (
    ProtDeepEMEvaluate,
    ProtDeepEMPick,
    ProtDeepEMTrain,
)

from . import test_protocols_deepem as example
from .display import OnDisplay
from .program import needs_program
from .studio import SECONDS, needs_studio, wait_for_micrographs


@needs_program
class WithWorkflow(OnDisplay, BaseTest):
    """The workflow is run once for all test classes that inherit this, each of which has a display of its own."""

    importMicrographs = classmethod(example.TestDeepEMProtocols.importMicrographs.__func__)
    importCoordinates = classmethod(example.TestDeepEMProtocols.importCoordinates.__func__)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.addClassCleanup(_forget_windows)
        if not hasattr(WithWorkflow, "proj"):
            setupTestProject(WithWorkflow)
            WithWorkflow._run()
        os.chdir(cls.proj.path)

    @classmethod
    def _run(cls):
        cls.folder = os.path.join(cls.proj.path, "micrographs")
        os.mkdir(cls.folder)
        cls.centres = example.write_micrographs(cls.folder, example.TRAINING, seed=1)
        rng = np.random.default_rng(2)
        cls.mics = cls.labelled("micrographs", cls.importMicrographs(cls.folder))
        cls.coordinates = cls.labelled("picked by hand", cls.importCoordinates(cls.mics, cls.centres))
        moved = {name: np.array(places)[::2] + rng.integers(-25, 26, (12, 2)) for name, places in cls.centres.items()}
        cls.others = cls.labelled("picked otherwise", cls.importCoordinates(cls.mics, moved))
        cls.train = cls.run_with(ProtDeepEMTrain, {"inputCoordinates": (cls.coordinates, "outputCoordinates")},
                                 "training", epochs=2, numberOfThreads=2, useGpu=False)
        cls.pick = cls.run_with(ProtDeepEMPick, {"inputMicrographs": (cls.mics, "outputMicrographs"),
                                                 "inputModel": (cls.train, "outputModel")}, "picking",
                                thresholdMode=3, threshold=0.2, numberOfThreads=1, binThreads=2)
        cls.evaluation, cls.other_evaluation = (
            cls.run_with(ProtDeepEMEvaluate, {"referenceCoordinates": (cls.coordinates, "outputCoordinates"),
                                              "pickedCoordinates": (picked, "outputCoordinates")}, label, **settings)
            for picked, label, settings in ((cls.pick, "evaluation of DeepEM", {"thresholdMode": 2, "border": 60}),
                                            (cls.others, "evaluation of the others", {})))

    @classmethod
    def labelled(cls, label, protocol):
        protocol.setObjLabel(label)
        cls.proj._storeProtocol(protocol)
        return protocol

    @classmethod
    def run_with(cls, protocolClass, inputs, label, launch=True, **params):
        """A protocol with inputs, by name as (protocol, output)."""
        protocol = cls.newProtocol(protocolClass, **params)
        protocol.setObjLabel(label)
        for name, (source, output) in inputs.items():
            getattr(protocol, name).set(source)
            getattr(protocol, name).setExtended(output)
        if launch:
            cls.launchProtocol(protocol)
        return protocol

    def show(self, window, width=None, height=None):
        """Bring a window of pyworkflow or Tk to the display as it is after all that it has to do."""
        root = getattr(window, "root", window)
        size = getattr(window, "desiredDimensions", lambda: None)() or (width, height)
        if size[0]:
            root.geometry("{}x{}+20+20".format(*size))
        root.deiconify()
        root.lift()
        for _ in range(3):
            root.update()
        return root


@needs_studio
class WithStudio(WithWorkflow):
    """Windows of Scipion beside a studio."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        os.environ["BROWSER"] = "true"  # the program that does nothing
        cls.addClassCleanup(os.environ.pop, "BROWSER")

    def until(self, window, condition):
        """Let a window work until a condition holds."""
        deadline = time.time() + SECONDS
        while not condition():
            self.assertLess(time.time(), deadline, window.state.get())
            window.root.update()
            time.sleep(0.01)

    def opened(self, window):
        """Address of the studio of a window, with all micrographs there; it is closed at the end."""
        self.addCleanup(lambda: window.root.winfo_exists() and window.root.destroy())
        self.until(window, lambda: window.run.address)
        wait_for_micrographs(window.run.address)
        return window.run.address

    def ended(self, window):
        """Wait until the window has done its work and is gone."""
        self.until(window, lambda: not _exists(window.root) or window.button.cget("text") == "Close")


def _exists(widget):
    try:
        return bool(widget.winfo_exists())
    except Exception:  # Tk has no application any more
        return False


def _forget_windows():
    """Close all windows, and forget what belongs to the display that they were on."""
    from pyworkflow.gui import dialog, gui, widgets

    if tkinter._default_root is not None:
        tkinter._default_root.destroy()
        tkinter._default_root = None
    for images in (gui.image_cache, dialog.Dialog._images, widgets.Button._images):
        images.clear()
    for name in [name for name, value in vars(gui).items() if isinstance(value, tkinter.font.Font)]:
        delattr(gui, name)
