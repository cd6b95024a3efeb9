# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
""""Analyze results" of picking and evaluation: the studio shows them, and what is registered there are outputs."""

import os
import shutil
from collections import Counter
from unittest import mock

import numpy as np
from pyworkflow import Config
from pyworkflow.viewer import DESKTOP_TKINTER, MessageView

from deepem_scipion import convert
from deepem_scipion.protocols import ProtDeepEMEvaluate, ProtDeepEMPick

from .display import screenshot
from .studio import ask, started
from .workflow import WithStudio


class TestAnalyzeResults(WithStudio):
    """The window is opened as "Analyze results" does; the page is used by its requests."""

    def view(self, protocol):
        viewer = Config.getDomain().findViewers(protocol, DESKTOP_TKINTER)[0]
        view, = viewer(project=self.proj, protocol=protocol)._visualize(protocol)
        return view

    def test_picks_with_other_limits_and_corrections_are_registered_as_further_outputs(self):
        window = self.view(self.pick)
        address = self.opened(window)
        counts = Counter(item.getMicName() for item in self.pick.outputCoordinates)
        session = ask(address, "session")
        self.assertEqual(dict(zip(session["names"], session["picks"])),
                         {os.path.splitext(name)[0]: number for name, number in counts.items()})
        found = ask(address, "micrograph/0")
        threshold = float(np.median(found["score"]))
        both = ask(address, "limits", **{**session["limits"], "threshold": threshold, "number": 0})
        x, y = next((x, y) for x, y, code in zip(found["x"], found["y"], both["micrograph"]["reason"]) if code == 0)
        ask(address, "edit/0", action="remove", x=x, y=y)
        after = ask(address, "edit/0", action="add", x=11, y=12)
        self.show(window)
        screenshot("picks")
        known = dict(self.pick.iterOutputAttributes())
        ask(address, "choose", now=True)
        self.until(window, lambda: "Registered as" in window.state.get())
        screenshot("picks-registered")
        mapper = self.proj.createMapper(self.proj.getDbPath())  # as another session finds it in the project
        self.addCleanup(mapper.close)
        stored = mapper.selectById(self.pick.getObjId())
        new = {name: getattr(stored, name) for name, _ in self.pick.iterOutputAttributes() if name not in known}
        self.assertEqual(sorted(new), ["outputCoordinates_2", "outputNegatives_2"])
        picks, negatives = new["outputCoordinates_2"], new["outputNegatives_2"]
        self.assertEqual(picks.getSize(), sum(after["summary"]["picks"]))
        self.assertLess(picks.getSize(), self.pick.outputCoordinates.getSize())
        self.assertEqual([item.getPosition() for item in negatives], [(round(x), round(y))])
        self.assertIn(f"{picks.getSize()} picks with a score of at least {threshold:.4g}, a minimum distance of 55 Å",
                      picks.getObjComment())
        self.assertIn("1 removed by hand", picks.getObjComment())
        self.assertEqual(picks.getBoxSize(), self.pick.outputCoordinates.getBoxSize())
        run = {(item.getMicName(), *item.getPosition()): item._deepemScore.get()
               for item in self.pick.outputCoordinates}
        first = picks.getFirstItem().getMicName()
        for item in picks:
            key = (item.getMicName(), *item.getPosition())
            self.assertAlmostEqual(item._deepemScore.get(), 1 if key == (first, 11, 12) else run[key], places=4)
            self.assertEqual(item._rlnAutopickFigureOfMerit.get(), item._deepemScore.get())
        again = self.view(self.pick)  # everything is kept
        self.assertEqual(len(ask(self.opened(again), "micrograph/0")["particle"]), 1)

        learnt = str(self.pick.getStudio().output.path("model"))  # the studio replaces it when it saves again
        shutil.copyfile(self.train.outputModel.getFileName(), learnt)
        values = {"turn": 1, "std_range": None, "threshold": threshold, "min_distance_angst": 55}
        *_, said = self.pick.registerCorrected(values)
        self.assertIn("outputModel_3", said)
        os.remove(learnt)
        self.assertEqual(convert.read_model(self.pick.outputModel_3.getFileName()).getDiameter(),
                         self.train.outputModel.getDiameter())

    def test_nothing_is_registered_while_the_run_is_active(self):
        outputs = self.pick.getOutputsSize()
        with mock.patch.object(ProtDeepEMPick, "isActive", return_value=True), \
                self.assertRaisesRegex(RuntimeError, "has not finished"):
            next(self.pick.registerCorrected({}))
        self.assertEqual(self.pick.getOutputsSize(), outputs)

    def test_an_evaluation_is_shown_with_its_figures_and_the_curves_of_the_others(self):
        for evaluation, other in ((self.evaluation, "evaluation of the others"),
                                  (self.other_evaluation, "evaluation of DeepEM")):
            window = self.view(evaluation)
            address = self.opened(window)
            expected = convert.read_json(evaluation._getFiguresFile())
            shown = ask(address, "evaluation")
            for key in ("truth", "picks", "true_positives", "precision", "recall", "F1", "F2"):
                self.assertAlmostEqual(shown["overall"][key], expected["overall"][key], 6, key)
            self.assertAlmostEqual(shown["overall"]["AP"], expected["overall"]["AP"], delta=0.01)
            names = ask(address, "session")["names"]
            self.assertEqual({names[int(number)]: each["F1"] for number, each in shown["micrographs"].items()},
                             {name: each["F1"] for name, each in expected["micrographs"].items()})
            self.assertTrue(shown["curves"][1]["label"].startswith(other))
            found = ask(address, "micrograph/0")["reference"]
            row = expected["micrographs"][names[0]]
            self.assertEqual((found["true"], len(found["missed"])),
                             (row["true_positives"], row["truth"] - row["true_positives"]))
            window.root.destroy()

    def test_coordinates_of_any_picker_are_shown(self):
        viewer = Config.getDomain().findViewers(self.coordinates.outputCoordinates, DESKTOP_TKINTER)
        viewer = next(each for each in viewer if each.__name__ == "DeepEMStudioViewer")
        run = viewer(project=self.proj, protocol=self.coordinates).start(self.coordinates.outputCoordinates)
        self.addCleanup(run.stop)
        address = started(run)
        centres = {os.path.splitext(name)[0]: places for name, places in self.centres.items()}
        for number, name in enumerate(ask(address, "session")["names"]):
            found = ask(address, f"micrograph/{number}")
            np.testing.assert_allclose(sorted(zip(found["x"], found["y"])),
                                       sorted(map(tuple, np.rint(centres[name]))), atol=1)

    def test_runs_without_results_show_a_message(self):
        for protocolClass, words in ((ProtDeepEMPick, "No micrograph has been picked yet"),
                                     (ProtDeepEMEvaluate, "Nothing was compared")):
            view = self.view(self.newProtocol(protocolClass))
            self.assertIsInstance(view, MessageView)
            self.assertIn(words, view.getMessage())

    def test_a_studio_that_cannot_start_says_why_in_its_window(self):
        protocol = self.run_with(ProtDeepEMPick, {"inputMicrographs": (self.mics, "outputMicrographs"),
                                                  "inputModel": (self.train, "outputModel")}, "picking", launch=False)
        with mock.patch.object(ProtDeepEMPick, "getCoordsDir", return_value="nowhere"), \
                mock.patch.object(ProtDeepEMPick, "getResults"):
            window = self.view(protocol)
        self.addCleanup(window.root.destroy)
        self.until(window, lambda: "nowhere" in window.state.get())
        self.assertEqual(window.button.cget("text"), "Close")
