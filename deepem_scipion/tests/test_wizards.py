# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards of the forms, whose values are chosen in the studio."""

import os
from unittest import mock

import pyworkflow.gui.project  # noqa: F401  # before the forms, which import it in a circle
from pwem.objects import CTFModel
from pyworkflow import Config
from pyworkflow.gui import dialog
from pyworkflow.gui.form import FormWindow
from pyworkflow.viewer import DESKTOP_TKINTER

from deepem_scipion.deepem.studio.assigning import read_defocus
from deepem_scipion.protocols import ProtDeepEMPick, ProtDeepEMTrain
from deepem_scipion.studio import ctf_arguments
from deepem_scipion.wizards.studio_wizard import by_defocus, spread

from .display import screenshot
from .studio import ask
from .test_protocols_deepem import BOX_PX, DIAMETER_PX, PIXEL_ANGST
from .workflow import WithStudio


class TestWizards(WithStudio):
    """Each wizard is started as a real form does; the page is used by its requests."""

    def form(self, inputs=True, protocolClass=ProtDeepEMPick, **params):
        known = ({"inputCoordinates": (self.coordinates, "outputCoordinates")} if protocolClass is ProtDeepEMTrain else
                 {"inputMicrographs": (self.mics, "outputMicrographs"), "inputModel": (self.train, "outputModel")})
        protocol = self.run_with(protocolClass, known if inputs else {}, "new", launch=False, **params)
        form = FormWindow("Form", protocol, lambda *args: None, None)
        self.addCleanup(form.root.destroy)
        form.root.deiconify()
        form.root.update()
        return form

    def start(self, form, name):
        return Config.getDomain().findWizards(form.protocol, DESKTOP_TKINTER)[name]().show(form)

    def values(self, form, *names):
        return [form.protocol.getAttributeValue(name) for name in names]

    def test_changed_limits_go_into_the_form_when_they_are_confirmed(self):
        form, names = self.form(numberOfThreads=1, binThreads=2), (
            "thresholdMode", "threshold", "minDistance", "border", "stdRange", "stdHigh")
        before, window = self.values(form, *names), self.start(form, "threshold")
        self.until(window, lambda: window.state.get().startswith("Picking"))
        self.show(window)
        screenshot("wizard-threshold-picking")
        address = self.opened(window)
        session = ask(address, "session")
        self.assertEqual(session["names"], ["first", "second_03.05.02", "third"])
        self.assertTrue(session["has_score_maps"])
        ask(address, "limits", threshold=0.625, distance=0, border=25, ranged=True, low=session["limits"]["low"],
            high=1.25, number=0)
        self.assertEqual(self.values(form, *names), before)
        folder = os.path.dirname(window.run.log)
        ask(address, "choose", now=True)
        self.ended(window)
        self.assertEqual(self.values(form, *names), [3, 0.625, 0.1, 25, 2, 1.25])
        self.assertFalse(os.path.exists(folder))

    def test_unchanged_limits_stay_and_the_filter_can_be_turned_off(self):
        form = self.form(minDistance=70, thresholdMode=1, numberOfThreads=1, binThreads=2)
        window = self.start(form, "stdLow")
        address = self.opened(window)
        limits = ask(address, "session")["limits"]
        self.assertEqual(limits["distance"], 70)
        ask(address, "limits", **{**limits, "ranged": False, "number": 0})
        ask(address, "choose", now=True)
        self.ended(window)
        self.assertEqual(self.values(form, "thresholdMode", "threshold", "minDistance", "stdRange", "stdLow"),
                         [1, 0.5, 70, 1, 0.5])

    def test_closing_the_window_ends_the_program_and_changes_nothing(self):
        form = self.form()
        before, window = self.values(form, "threshold", "minDistance"), self.start(form, "threshold")
        folder, process = os.path.dirname(window.run.log), window.run.process
        self.assertIsNone(process.poll())
        window.button.invoke()
        form.root.update()
        self.assertIsNotNone(process.poll())
        self.assertFalse(os.path.exists(folder))
        self.assertEqual(self.values(form, "threshold", "minDistance"), before)

    def test_an_error_of_the_program_is_shown(self):
        with mock.patch.object(ProtDeepEMPick, "_getArguments", return_value=["--model", "nowhere.safetensors"]):
            window = self.start(self.form(), "threshold")
        self.until(window, lambda: "nowhere.safetensors" in window.state.get())

    def test_the_diameter_begins_with_that_of_the_form_and_comes_back(self):
        window = self.start(self.form(protocolClass=ProtDeepEMTrain), "particleDiameter")
        address = self.opened(window)
        session = ask(address, "session")
        self.assertEqual(session["diameter"], DIAMETER_PX * PIXEL_ANGST)
        self.assertEqual(session["picks"], [len(places) for places in self.centres.values()])
        ask(address, "settings", diameter=125, number=0)
        ask(address, "choose", now=True)
        self.ended(window)
        self.assertEqual(self.values(window.master, "particleDiameter"), [125])

    def test_the_box_is_that_of_the_page(self):
        window = self.start(self.form(), "boxSize")
        address = self.opened(window)
        self.assertEqual(ask(address, "session")["box"], BOX_PX)
        ask(address, "settings", box=72, number=0)
        ask(address, "choose", now=True)
        self.ended(window)
        self.assertEqual(self.values(window.master, "boxSize"), [72])

    def test_without_inputs_it_says_what_to_choose_first_and_refuses_what_cannot_work(self):
        for protocolClass, name, words in (
                (ProtDeepEMTrain, "particleDiameter", "the particle coordinates, or the micrographs, first"),
                (ProtDeepEMPick, "particleDiameter", "micrographs first"),
                (ProtDeepEMPick, "boxSize", "the model or the diameter, first"),
                (ProtDeepEMPick, "threshold", "the model or the diameter, first")):
            with mock.patch.object(dialog, "showWarning") as message:
                self.assertIsNone(self.start(self.form(False, protocolClass), name))
            self.assertIn(words, message.call_args.args[1])
        with mock.patch.object(dialog, "showWarning") as message:
            self.assertIsNone(self.start(self.form(stdRange=2, stdLow=2, stdHigh=1), "threshold"))
        self.assertIn("Local standard deviation", message.call_args.args[1])

    def test_micrographs_are_spread_over_their_defocus_where_the_project_knows_it(self):
        mics = [mic.clone() for mic in self.mics.outputMicrographs]

        def names(found):
            return [os.path.splitext(mic.getMicName())[0] for mic in found]

        self.assertEqual(names(by_defocus(mics, self.proj)), ["first", "second_03.05.02", "third"])
        estimation = self.labelled("CTF", self.importMicrographs(self.folder))
        ctfs = estimation._createSetOfCTF()
        for mic, defocus in zip(mics, (20000, 30000, 10000)):
            ctf = CTFModel(defocusU=defocus + 100, defocusV=defocus - 100, defocusAngle=0)
            ctf.setMicrograph(mic)
            ctfs.append(ctf)
        ctfs.setMicrographs(self.pick.inputMicrographs)
        estimation._defineOutputs(outputCTF=ctfs)
        self.assertEqual(names(by_defocus(mics, self.proj)), ["third", "first", "second_03.05.02"])
        self.assertEqual(names(spread(by_defocus(mics, self.proj), 2)), ["third", "second_03.05.02"])
        names_by_id = {mic.getObjId(): f"it's {mic.getObjId()}" for mic in mics}
        _, path = ctf_arguments(self.folder, mics, names_by_id, self.proj)
        self.assertEqual(read_defocus(path, {name: f"{name}.mrc" for name in names_by_id.values()}),
                         dict(zip(names_by_id.values(), (2.0, 3.0, 1.0))))
        self.assertEqual(spread(list(range(101)), 6), [0, 20, 40, 60, 80, 100])
