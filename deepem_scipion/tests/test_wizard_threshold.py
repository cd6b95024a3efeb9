# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard for threshold, minimum distance and local standard deviations, with a real form on a virtual display."""

import os
import time
from unittest import mock

import pyworkflow.gui.project  # noqa: F401  # before the forms, which import it in a circle
from pwem.objects import CTFModel
from pyworkflow import Config
from pyworkflow.gui import dialog
from pyworkflow.gui.form import FormWindow
from pyworkflow.viewer import DESKTOP_TKINTER

from deepem_scipion.protocols import ProtDeepEMPick
from deepem_scipion.wizards.wizard_threshold import by_defocus, spread

from .display import screenshot
from .workflow import WithWorkflow


class TestThresholdWizard(WithWorkflow):
    """Micrographs are picked by the real program, in the background, and the values go into the form at the end."""

    def form(self, inputs=True, **params):
        known = {"inputMicrographs": (self.mics, "outputMicrographs"), "inputModel": (self.train, "outputModel")}
        protocol = self.run_with(ProtDeepEMPick, known if inputs else {}, "new", launch=False, numberOfThreads=1,
                                 binThreads=2, useGpu=False, **params)
        form = FormWindow("Picking", protocol, lambda *args: None, None)
        self.addCleanup(form.root.destroy)
        form.root.deiconify()
        form.root.update()
        return form

    def start(self, form, name="threshold"):
        return Config.getDomain().findWizards(form.protocol, DESKTOP_TKINTER)[name]().show(form)

    def wait(self, form, condition, seconds=600):
        deadline = time.time() + seconds
        while not condition():
            self.assertLess(time.time(), deadline, "took too long")
            form.root.update()
            time.sleep(0.01)
        form.root.update()

    def tried(self, form):
        """The window with the picks of the trial, when it is ready."""
        trial = self.start(form)
        form.root.update()
        screenshot("wizard-threshold-picking")
        self.wait(form, lambda: trial.window is not None)
        self.assertFalse(trial.root.winfo_exists())
        self.wait(form, lambda: trial.window.reasons is not None and trial.window.canvas.find_withtag("mark"))
        return trial

    def values(self, form):
        return {name: form.protocol.getAttributeValue(name)
                for name in ("thresholdMode", "threshold", "minDistance", "stdRange", "stdLow", "stdHigh")}

    def test_changed_limits_go_into_the_form_when_they_are_confirmed(self):
        form = self.form()
        before = self.values(form)
        trial = self.tried(form)
        window = trial.window
        screenshot("wizard-threshold")
        self.assertEqual(window.review.names, ("first", "second_03.05.02", "third"))
        self.assertTrue(window.scoreMapButton.instate(["!disabled"]))
        window.panel.set("threshold", 0.625)
        window.panel.set("distance", 0)
        window.panel.set("high", 1.25)
        self.wait(form, lambda: window._refreshing is None)
        self.assertEqual(self.values(form), before)
        window.buttons["Use these limits"].invoke()
        form.root.update()
        low = window.review.limits.std_range[0]
        found = self.values(form)
        self.assertEqual(found, {"thresholdMode": 3, "threshold": 0.625, "minDistance": 0.1, "stdRange": 2,
                                 "stdLow": float(f"{low:.6g}"), "stdHigh": 1.25})
        self.assertFalse(window.root.winfo_exists())
        self.assertFalse(os.path.exists(trial.folder))
        screenshot("wizard-threshold-form")

    def test_micrographs_are_spread_over_their_defocus_where_the_project_knows_it(self):
        protocol = self.form().protocol
        mics = protocol.getMicrographsByResult()
        self.assertEqual(list(by_defocus(mics, self.proj)), ["first", "second_03.05.02", "third"])
        estimation = self.labelled("CTF", self.importMicrographs(self.folder))
        ctfs = estimation._createSetOfCTF()
        for mic, defocus in zip(mics.values(), (20000, 30000, 10000)):
            ctf = CTFModel(defocusU=defocus + 100, defocusV=defocus - 100, defocusAngle=0)
            ctf.setMicrograph(mic)
            ctfs.append(ctf)
        ctfs.setMicrographs(protocol.inputMicrographs)
        estimation._defineOutputs(outputCTF=ctfs)
        self.assertEqual(list(by_defocus(mics, self.proj)), ["third", "first", "second_03.05.02"])
        self.assertEqual(list(spread(by_defocus(mics, self.proj), 2)), ["third", "second_03.05.02"])

    def test_unchanged_limits_stay_and_the_local_standard_deviation_filter_can_be_turned_off(self):
        form = self.form(minDistance=70, thresholdMode=1)
        trial = self.tried(form)
        self.assertAlmostEqual(float(trial.window.panel._fields["distance"].get()), 70)
        trial.window.panel._ranged.set(False)
        trial.window.panel._rangeToggled()
        trial.window.buttons["Use these limits"].invoke()
        form.root.update()
        self.assertEqual(self.values(form), {"thresholdMode": 1, "threshold": 0.5, "minDistance": 70, "stdRange": 1,
                                             "stdLow": 0.5, "stdHigh": 1.5})

    def test_cancel_ends_the_program_and_changes_nothing(self):
        form = self.form()
        before, trial = self.values(form), self.start(form, "stdLow")
        process = trial._process
        self.assertIsNone(process.poll())
        trial.cancelButton.invoke()
        form.root.update()
        self.assertIsNotNone(process.poll())
        self.assertFalse(os.path.exists(trial.folder))
        self.assertIsNone(trial.window)
        self.assertEqual(self.values(form), before)

    def test_an_error_of_the_program_is_shown(self):
        form = self.form()
        with mock.patch.object(ProtDeepEMPick, "_getArguments", return_value=["--model", "nowhere.safetensors"]), \
                mock.patch.object(dialog, "showError") as shown:
            self.start(form)
            self.wait(form, lambda: shown.called)
        self.assertIn("nowhere.safetensors", shown.call_args.args[1])

    def test_it_asks_for_the_inputs_first_and_refuses_what_cannot_work(self):
        with mock.patch.object(dialog, "showWarning") as shown:
            self.assertIsNone(self.start(self.form(inputs=False)))
        self.assertIn("the model or the diameter, first", shown.call_args.args[1])
        with mock.patch.object(dialog, "showError") as shown:
            self.assertIsNone(self.start(self.form(stdRange=2, stdLow=2, stdHigh=1)))
        self.assertIn("Local standard deviation", shown.call_args.args[1])

    def test_the_micrographs_are_spread_over_the_set(self):
        mics = {f"mic{number}": number for number in range(101)}
        self.assertEqual(list(spread(mics, 6).values()), [0, 20, 40, 60, 80, 100])
        self.assertEqual(list(spread(dict(list(mics.items())[:3]), 6).values()), [0, 1, 2])
        self.assertEqual(list(spread(dict(list(mics.items())[:1]), 6).values()), [0])
