# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewers of training and evaluation, on a display without a screen."""

import os
import tkinter as tk
from pathlib import Path

from pyworkflow import Config
from pyworkflow.viewer import DESKTOP_TKINTER, MessageView

from deepem_scipion.deepem.model.paths import ModelFiles
from deepem_scipion.protocols import ProtDeepEMEvaluate, ProtDeepEMTrain

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
            self.assertEqual(list(found), ["Training", "Validation", "Boxes", "Kernels", "Model"])
            for title in ("Training", "Validation", "Boxes", "Kernels"):
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

    def test_runs_without_results_show_a_message(self):
        for protocolClass, words in ((ProtDeepEMTrain, "not ready yet"), (ProtDeepEMEvaluate, "Nothing was compared")):
            view = self.view(self.newProtocol(protocolClass))
            self.assertIsInstance(view, MessageView)
            self.assertIn(words, view.getMessage())

    def test_a_model_without_its_file_shows_an_error(self):
        model = self.train.outputModel.clone()
        model.setFileName("nowhere.safetensors")
        self.assertIn("no such model file", self.view(model).getMessage())

    def test_curves_of_other_evaluations_can_be_added(self):
        window = self.open(self.evaluation)
        curves = next(self.tabs(window, "evaluation"))[1].winfo_children()[0]
        self.assertEqual([each.label for each in curves.chosen],
                         ["evaluation of DeepEM", "evaluation of the others"])
        one, = canvases(curves)
        self.assertEqual(len([line for line in one.figure.axes[0].lines if len(line.get_xdata()) > 1]), 1)
        for variable in curves.chosen.values():
            variable.set(True)
        curves.draw()
        self.show(window)
        screenshot("evaluation-two-curves")
        two, = canvases(curves)
        labels = [text.get_text() for text in two.figure.axes[0].get_legend().get_texts()]
        self.assertTrue(any("evaluation of the others: average precision" in text for text in labels), labels)

    def test_micrographs_come_worst_first_and_show_what_is_right_missed_and_false(self):
        for evaluation, name in ((self.evaluation, "evaluation"), (self.other_evaluation, "other-evaluation")):
            window = self.open(evaluation)
            frame = dict(self.tabs(window, name))["Micrographs"].winfo_children()[0]
            names = frame.table.get_children()
            scores = [frame.rows[each]["F1"] for each in names]
            self.assertEqual(scores, sorted(scores))
            self.assertEqual(len(names), 3)
            columns = sum(frame.table.column(each, "width") for each in frame.table["columns"])
            self.assertGreaterEqual(frame.table.winfo_width(), columns)
            for each in reversed(names):
                frame.table.selection_set(each)
                self.show(window)
                figure, = [canvas.figure for canvas in canvases(frame)]
                legend = [text.get_text() for text in figure.legends[0].get_texts()]
                row = frame.rows[each]
                self.assertEqual(legend, [f"{what} ({row[key]})" for what, key in (
                    ("true positives", "true_positives"), ("false positives", "false"), ("missed", "missed"))])
                self.assertTrue(figure.axes[0].get_title().startswith(each))
            screenshot(f"{name}-worst")
        self.assertLess(scores[0], 1)
        frame.sort("missed")
        missed = [frame.rows[each]["missed"] for each in frame.table.get_children()]
        self.assertEqual(missed, sorted(missed, reverse=True))

    def test_a_micrograph_that_is_gone_costs_only_its_own_picture(self):
        window = self.open(self.evaluation)
        frame = dict(self.tabs(window, "evaluation"))["Micrographs"].winfo_children()[0]
        path = self.mics.outputMicrographs.getFirstItem().getFileName()
        kept = os.readlink(path) if os.path.islink(path) else None
        os.rename(path, f"{path}.away")
        self.addCleanup(os.rename, f"{path}.away", path)
        self.assertTrue(kept is None or os.path.exists(kept))
        frame.table.selection_set("first")
        window.root.update()
        self.assertIn("first.mrc", texts(frame))
        frame.table.selection_set("third")
        window.root.update()
        self.assertTrue(canvases(frame))


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
