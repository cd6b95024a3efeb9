# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewer of models, on a display without a screen."""

import os
import tkinter as tk
from pathlib import Path

from pyworkflow import Config
from pyworkflow.viewer import DESKTOP_TKINTER, MessageView

from deepem_scipion.deepem.model.paths import ModelFiles
from deepem_scipion.protocols import ProtDeepEMTrain

from .display import screenshot
from .workflow import WithWorkflow


class TestViewers(WithWorkflow):
    """Each window is opened as "Analyze results" does, and photographed."""

    def view(self, obj):
        """The only view of the first viewer that the framework finds for an object."""
        viewer = Config.getDomain().findViewers(obj, DESKTOP_TKINTER)[0]
        view, = viewer(project=self.proj, protocol=obj)._visualize(obj)
        return view

    def open(self, obj):
        window = self.view(obj)
        self.addCleanup(window.root.destroy)
        return window

    def tabs(self, window, name):
        """Look at each tab, photographed under a name; title of the tab and what it shows."""
        for tab in window.notebook.tabs():
            window.notebook.select(tab)
            self.show(window)
            title = window.notebook.tab(tab, "text")
            screenshot(f"{name}-{title.lower()}")
            yield title, window.root.nametowidget(tab)

    def test_a_model_shows_its_training_validation_boxes_kernels_and_card(self):
        for obj, name in ((self.train, "training"), (self.train.outputModel, "model")):
            window = self.open(obj)
            found = dict(self.tabs(window, name))
            self.assertEqual(list(found), ["Training", "Validation", "Boxes", "Layers", "Kernels", "Model"])
            for title in ("Training", "Validation", "Boxes", "Layers", "Kernels"):
                self.assertTrue(canvases(found[title]), title)
            card = texts(found["Model"])
            self.assertIn("particle\t110 A", card)
            self.assertIn("keras", card)

    def test_a_tab_without_data_shows_the_reason(self):
        path = ModelFiles(Path(self.train.outputModel.getFileName())).examples
        os.rename(path, f"{path}.away")
        self.addCleanup(os.rename, f"{path}.away", path)
        boxes = dict(self.tabs(self.open(self.train), "training-without-boxes"))["Boxes"]
        self.assertIn("There are no boxes to show", texts(boxes))

    def test_a_run_without_a_model_shows_a_message(self):
        view = self.view(self.newProtocol(ProtDeepEMTrain))
        self.assertIsInstance(view, MessageView)
        self.assertIn("not ready yet", view.getMessage())

    def test_a_model_without_its_file_shows_an_error(self):
        model = self.train.outputModel.clone()
        model.setFileName("nowhere.safetensors")
        self.assertIn("no such model file", self.view(model).getMessage())


def descendants(widget):
    for child in widget.winfo_children():
        yield child
        yield from descendants(child)


def canvases(widget):
    """Canvases of Matplotlib in a widget."""
    return [each.figure_canvas for each in descendants(widget) if hasattr(each, "figure_canvas")]


def texts(widget):
    """All text in a widget."""
    return "\n".join(each.get("1.0", "end") for each in descendants(widget) if isinstance(each, tk.Text))
