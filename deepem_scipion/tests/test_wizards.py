# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards for diameter and box, on a display without a screen."""

import os
import tkinter as tk
import unittest.mock
from types import SimpleNamespace

from pyworkflow import Config
from pyworkflow.gui import dialog
from pyworkflow.viewer import DESKTOP_TKINTER

from deepem_scipion.protocols import ProtDeepEMPick, ProtDeepEMTrain

from .display import screenshot
from .test_protocols_deepem import BOX_PX, DIAMETER_PX, PIXEL_ANGST
from .workflow import WithWorkflow


class TestSizeWizards(WithWorkflow):
    """Each dialog is opened as the form does it, used by events of the mouse, and closed."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tk.Tk()
        cls.root.withdraw()

    def use(self, protocol, name, act, button="OK"):
        """Run the wizard of a parameter and act on its dialog; the values that it set."""
        values, problems = {}, []

        def play():
            shown, = (each for each in self.root.winfo_children() if isinstance(each, dialog.Dialog))
            if not shown.grab_status():
                self.root.after(50, play)  # it is not yet where it waits for the user
                return
            try:
                self.show(shown)
                act(shown)
                shown.update()
            except BaseException as error:
                problems.append(error)
            finally:
                shown._handleResult({"OK": dialog.RESULT_YES, "Cancel": dialog.RESULT_CANCEL}[button])
        self.root.after(50, play)
        form = SimpleNamespace(protocol=protocol, root=self.root, setVar=values.__setitem__)
        Config.getDomain().findWizards(protocol, DESKTOP_TKINTER)[name]().show(form)
        for problem in problems:
            raise problem
        return values

    def training(self):
        return self.run_with(ProtDeepEMTrain, {"inputCoordinates": (self.coordinates, "outputCoordinates")}, "new",
                             launch=False)

    def picking(self):
        return self.run_with(ProtDeepEMPick, {"inputMicrographs": (self.mics, "outputMicrographs"),
                                              "inputModel": (self.train, "outputModel")}, "new", launch=False)

    def test_the_circle_begins_on_a_particle_and_follows_wheel_and_mouse(self):
        def act(shown):
            self.assertEqual(shown.value, DIAMETER_PX * PIXEL_ANGST)
            self.assertIn(tuple(shown.centre), [tuple(place) for place in self.centres["first.mrc"]])
            screenshot("wizard-diameter")
            for _ in range(5):
                mouse(shown, "scroll_event", step=1)
            self.assertEqual(shown.value, 120)
            self.assertEqual(shown.converted.get(), f"= {120 / PIXEL_ANGST:.0f} px")
            self.assertAlmostEqual(shown.marks[0].get_radius(), 120 / PIXEL_ANGST / 2)
            mouse(shown, "button_press_event", 200, 150, button=1)
            before = tuple(shown.centre)
            mouse(shown, "motion_notify_event", 210, 150, button=1)
            self.assertGreater(shown.centre[0], before[0])
            self.assertAlmostEqual(shown.centre[1], before[1])
            self.show(shown)
            screenshot("wizard-diameter-larger")
        self.assertEqual(self.use(self.training(), "particleDiameter", act), {"particleDiameter": 120})

    def test_nothing_is_set_without_confirmation(self):
        self.assertEqual(self.use(self.training(), "particleDiameter", lambda shown: shown.size.set("150"), "Cancel"),
                         {})

    def test_it_goes_to_other_particles_and_micrographs_and_round(self):
        def act(shown):
            first = tuple(shown.centre)
            shown._go(0, 1)
            self.assertNotEqual(tuple(shown.centre), first)
            self.assertIn(tuple(shown.centre), [tuple(place) for place in self.centres["first.mrc"]])
            shown._go(-1, 0)
            self.assertIn("third.mrc (3 of 3)", shown.named.get())
            shown._go(1, 0)
            self.assertEqual(tuple(shown.centre), first)
            shown.size.set("1000")  # larger than what is shown
            self.assertEqual(shown.value, 1000)
        self.assertEqual(self.use(self.training(), "particleDiameter", act), {"particleDiameter": 1000})

    def test_a_micrograph_that_cannot_be_read_is_named_and_the_others_are_shown(self):
        path = self.mics.outputMicrographs.getFirstItem().getFileName()
        os.rename(path, f"{path}.away")
        self.addCleanup(os.rename, f"{path}.away", path)

        def act(shown):
            self.assertIn("first.mrc cannot be read", shown.named.get())
            shown.size.set("120")
            shown._go(1, 0)
            self.assertTrue(shown.marks)
        self.assertEqual(self.use(self.training(), "particleDiameter", act), {"particleDiameter": 120})

    def test_what_is_no_number_is_not_taken(self):
        def act(shown):
            shown.size.set("wide")
            with unittest.mock.patch.object(dialog, "showError") as message:
                self.assertFalse(shown.validate())
            self.assertIn("'wide'", message.call_args.args[1])
        self.assertEqual(self.use(self.training(), "particleDiameter", act, "Cancel"), {})

    def test_the_box_is_even_and_drawn_around_the_model_s_particle(self):
        def act(shown):
            self.assertEqual(shown.value, BOX_PX)
            screenshot("wizard-box")
            mouse(shown, "scroll_event", step=1)
            self.assertEqual(shown.value, 68)
            shown.size.set("71")
            self.assertEqual(shown.marks[0].get_width(), 72)
            self.assertAlmostEqual(shown.marks[1].get_radius(), DIAMETER_PX / 2, delta=0.1)
        self.assertEqual(self.use(self.picking(), "boxSize", act), {"boxSize": 72})

    def test_without_inputs_it_says_what_to_choose_first(self):
        for protocolClass, name, words in ((ProtDeepEMTrain, "particleDiameter", "particle coordinates first"),
                                           (ProtDeepEMPick, "boxSize", "the model or the diameter, first")):
            protocol = self.newProtocol(protocolClass)
            form = SimpleNamespace(protocol=protocol, root=self.root, setVar=self.fail)
            with unittest.mock.patch.object(dialog, "showWarning") as message:
                Config.getDomain().findWizards(protocol, DESKTOP_TKINTER)[name]().show(form)
            self.assertIn(words, message.call_args.args[1])


def mouse(shown, name, x=200, y=200, **kwargs):
    """An event of the mouse as Matplotlib hands it on."""
    from matplotlib.backend_bases import MouseEvent

    shown.canvas.callbacks.process(name, MouseEvent(name, shown.canvas, x, y, **kwargs))
