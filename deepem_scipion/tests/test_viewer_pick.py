# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The window about a picking run, on a display without a screen."""

import os
import shutil
import time
import tkinter as tk
from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
from pwem.viewers import viewer_coordinates
from pyworkflow import Config
from pyworkflow.object import Pointer
from pyworkflow.viewer import DESKTOP_TKINTER, MessageView

from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import select
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.protocols import ProtDeepEMPick, ProtDeepEMTrain

from .display import screenshot
from .test_protocols_deepem import DIAMETER_PX, PIXEL_ANGST
from .workflow import WithWorkflow

MainWindow = viewer_coordinates.MainWindow
NAMES = ["first", "second_03.05.02", "third"]


class TestPickViewer(WithWorkflow):
    """The window is opened as "Analyze results" does and used as by hand."""

    def open(self):
        viewer = Config.getDomain().findViewers(self.pick, DESKTOP_TKINTER)[0]
        window, = viewer(project=self.proj, protocol=self.pick)._visualize(self.pick)
        self.addCleanup(window.root.destroy)
        self.show(window)
        self.wait(window, lambda: window.reasons is not None and window.canvas.find_withtag("mark"))
        return window

    def wait(self, window, condition, seconds=600):
        deadline = time.time() + seconds
        while not condition():
            self.assertLess(time.time(), deadline, "took too long")
            window.root.update()
            time.sleep(0.002)
        window.root.update()

    def move(self, window, key, value):
        """Move a slider and wait for what it does."""
        window.panel._scales[key].set(value)
        window.root.update()
        self.wait(window, lambda: window._refreshing is None)

    def stored(self, limits):
        """Reasons of the stored candidates of each micrograph, with the picker's own function."""
        results = self.pick.getResults()
        return {name: select(results.read_candidates(name)[0], limits, PIXEL_ANGST) for name in NAMES}

    def limits(self, **changes):
        return replace(self.pick.getResults().read_settings().limits, **changes)

    def test_it_begins_with_the_picks_of_the_run(self):
        window = self.open()
        screenshot("picks")
        self.assertEqual(list(window.entries), NAMES)
        counts = Counter(item.getMicName() for item in self.pick.outputCoordinates)
        self.assertEqual({name: window.entries[name].picks for name in NAMES},
                         {os.path.splitext(name)[0]: number for name, number in counts.items()})
        self.assertEqual([window.table.values(name)[1] for name in NAMES], list(counts.values()))
        marks = len(window.canvas.find_withtag("mark"))
        self.assertEqual(marks, len(window.reasons[window.review.part("first")]))
        self.assertIn(f"{self.pick.outputCoordinates.getSize():,} picks in 3 micrographs",
                      window.headline.cget("text"))
        self.assertTrue(window.scoreMapButton.instate(["disabled"]))

    def test_sliders_act_on_all_micrographs_at_once(self):
        window = self.open()
        middle = float(np.median(window.review.candidates.scores))
        stds = np.sort(window.review.candidates.local_stds)
        last = len(stds) // 4 * 3 + np.argmax(np.diff(stds[len(stds) // 4 * 3:-2]))
        low, high = stds[0] - 0.01, stds[last:last + 2].mean()  # away from all candidates, as sliders have steps
        self.move(window, "distance", 160.04)
        self.move(window, "high", high)
        self.move(window, "low", low)
        window.panel.set("threshold", middle)  # the scores differ by less than a step of the slider
        self.wait(window, lambda: window._refreshing is None)
        limits = self.limits(threshold=middle, min_distance_angst=160,
                             std_range=(round(low, 3), round(high, 3)))
        expected = self.stored(limits)
        self.assertEqual({reason for each in expected.values() for reason in each},
                         {"picked", "threshold", "local_std", "distance"})
        for name, reasons in expected.items():
            self.assertEqual(window.reasons[window.review.part(name)].tolist(), reasons.tolist())
            self.assertEqual(window.table.values(name)[1], (reasons == "picked").sum())
        for reason, (here, everywhere) in window.legend.counts.items():
            self.assertEqual(here.cget("text"), f"{(expected['first'] == reason).sum():,}")
            self.assertEqual(everywhere.cget("text"), f"{sum((each == reason).sum() for each in expected.values()):,}")
        screenshot("picks-other-limits")
        window.panel._ranged.set(False)
        window.panel._rangeToggled()
        self.wait(window, lambda: window._refreshing is None)
        self.assertFalse((window.reasons == "local_std").any())
        window.buttons["Back to the run's limits"].invoke()
        self.assertEqual(window.reasons.tolist(), window.review.reasons.tolist())

    def test_limits_can_be_typed_and_the_histogram_clicked(self):
        window = self.open()
        field = window.panel._fields["threshold"]
        field.delete(0, "end")
        field.insert(0, "0,75")
        field.event_generate("<Return>")
        field.event_generate("<FocusOut>")
        self.wait(window, lambda: window._refreshing is None)
        self.assertEqual(window.panel.limits().threshold, 0.75)
        field.delete(0, "end")
        field.insert(0, "much")
        window.panel._typed("threshold")
        self.assertEqual(field.get(), "0.750")
        at = window.histogram.LEFT + 0.4 * (window.histogram.winfo_width() - 2 * window.histogram.LEFT)
        window.histogram.event_generate("<Button-1>", x=round(at), y=50)
        self.wait(window, lambda: window._refreshing is None)
        self.assertAlmostEqual(window.panel.limits().threshold, 0.4, delta=0.005)
        expected = self.stored(window.panel.limits())["third"]
        self.assertEqual(window.entries["third"].picks, (expected == "picked").sum())

    def test_keys_and_headings_lead_through_the_micrographs(self):
        window = self.open()
        window.canvas.focus_force()
        window.canvas.event_generate("<Down>")
        self.wait(window, lambda: window.current == NAMES[1] and window.canvas.find_withtag("mark"))
        self.assertEqual(window.title.cget("text"), NAMES[1])
        window.canvas.event_generate("<Up>")
        self.wait(window, lambda: window.current == NAMES[0])
        for key, field in (("picks", "picks"), ("score", "mean_score")):
            window.table.sort(key)
            values = [getattr(window.entries[name], field) for name in window.table.names()]
            self.assertEqual(values, sorted(values, reverse=True))
            window.table.sort(key)
            values = [getattr(window.entries[name], field) for name in window.table.names()]
            self.assertEqual(values, sorted(values))
        window.root.update()
        self.assertEqual(window.current, NAMES[0])
        self.assertEqual(window.table.tree.item(window.table.tree.selection()[0], "values")[0], NAMES[0])

    def test_circles_are_at_the_picks_and_show_their_score(self):
        window = self.open()
        window.canvas.zoomAt(3.0, 200, 300)
        window.canvas.event_generate("<Button-1>", x=200, y=300)
        window.canvas.event_generate("<B1-Motion>", x=260, y=280)
        window.root.update()
        index, _, size, _ = window.canvas._marks[-1]  # the best pick
        left, top, right, bottom = window.canvas.coords(window.canvas.find_withtag("mark")[-1])
        diameter = DIAMETER_PX * window.canvas._zoom
        self.assertEqual(size, 1)
        self.assertAlmostEqual(right - left, diameter, delta=0.1)
        x, y = window.review.candidates.centres_xy[window.review.part("first").start + index]
        self.assertAlmostEqual((left + right) / 2, (x - window.canvas._origin[0]) * window.canvas._zoom, delta=0.1)
        window.canvas.event_generate("<Motion>", x=round((left + right) / 2), y=round((top + bottom) / 2))
        window.root.update()
        self.assertIn(f"x {x:.0f}, y {y:.0f}: score", window.pointed.cget("text"))
        screenshot("picks-zoomed")
        window.canvas.event_generate("<Leave>")
        self.assertEqual(window.pointed.cget("text"), window.HINT)
        window.canvas.showAll()
        for variable in window.legend._shown.values():
            variable.set(False)
        window._drawMarks()
        self.assertEqual(window.canvas.find_withtag("mark"), ())

    def test_the_registered_picks_are_those_shown(self):
        window = self.open()
        middle = float(np.median(window.review.candidates.scores))
        window.panel.set("threshold", middle)
        self.wait(window, lambda: window._refreshing is None)
        shown = {name: window.entries[name].picks for name in NAMES}
        known = dict(self.pick.iterOutputAttributes())
        window.buttons["Register as new output"].invoke()
        self.wait(window, lambda: "Registered" in window.status.cget("text"))
        screenshot("picks-registered")
        name, = {name for name, _ in self.pick.iterOutputAttributes()} - set(known)
        self.assertRegex(name, r"^outputCoordinates_\d+$")
        # As another session finds it in the project.
        coordinates = getattr(self.proj.mapper.selectById(self.pick.getObjId()), name)
        counts = Counter(os.path.splitext(item.getMicName())[0] for item in coordinates)
        self.assertEqual(dict(counts), shown)
        self.assertEqual(coordinates.getSize(), sum(shown.values()))
        self.assertLess(coordinates.getSize(), self.pick.outputCoordinates.getSize())
        self.assertIn(f"{sum(shown.values())} picks with a score of at least {middle:.4g}, a minimum distance of 55 Å",
                      coordinates.getObjComment())
        self.assertEqual(coordinates.getBoxSize(), self.pick.outputCoordinates.getBoxSize())
        run = {(item.getMicName(), *item.getPosition()): item._deepemScore.get()
               for item in self.pick.outputCoordinates}
        for item in coordinates:
            self.assertGreaterEqual(item._deepemScore.get(), middle)
            self.assertEqual(item._rlnAutopickFigureOfMerit.get(), item._deepemScore.get())
            self.assertEqual((item._rlnClassNumber.get(), item._rlnAnglePsi.get()), (1, 0))
            self.assertEqual(run[(item.getMicName(), *item.getPosition())], item._deepemScore.get())
        self.assertEqual({output.getSize() for output in known.values()},
                         {output.getSize() for key, output in self.pick.iterOutputAttributes() if key in known})

    def test_nothing_is_registered_while_the_run_is_active(self):
        window = self.open()
        outputs = self.pick.getOutputsSize()
        with mock.patch.object(ProtDeepEMPick, "isActive", return_value=True):
            window.buttons["Register as new output"].invoke()
        self.assertIn("has not finished", window.status.cget("text"))
        self.assertEqual(self.pick.getOutputsSize(), outputs)
        self.assertTrue(window.buttons["Register as new output"].instate(["!disabled"]))

    def test_corrections_by_hand_are_an_output_that_training_takes(self):
        window, opened = self.open(), []
        outputs = dict(self.pick.iterOutputAttributes())
        with mock.patch.object(viewer_coordinates, "MainWindow", lambda *args: opened.append(MainWindow(*args))
                               or opened[-1]), mock.patch.object(tk.Misc, "mainloop"):
            window.buttons["Correct by hand..."].invoke()
        shown, = opened
        self.addCleanup(shown.root.destroy)
        self.show(shown.root)
        screenshot("picks-by-hand")
        last = list(outputs.values())[-1]
        self.assertEqual(shown.setOfCoordinate.getFileName(), last.getFileName())
        erased = last.getFirstItem()
        shown.deletedCoordinates[str(erased.getMicId())][erased.getObjId()] = erased.getPosition()
        with mock.patch.multiple(viewer_coordinates.messagebox, askquestion=lambda *args, **kwargs: "yes",
                                 showinfo=mock.DEFAULT):
            shown._createOutput()
        name, = {name for name, _ in self.pick.iterOutputAttributes()} - set(outputs)
        self.assertEqual(getattr(self.pick, name).getSize(), last.getSize() - 1)
        training = self.run_with(ProtDeepEMTrain, {"inputCoordinates": (self.pick, name)}, "from corrected picks",
                                 launch=False)
        training.moreParticles.append(Pointer(self.pick, extended=name))
        self.assertEqual(training.validate(), [])

    def test_score_maps_failures_and_missing_micrographs_are_shown(self):
        folder = os.path.join(self.proj.path, "kept-picks")
        shutil.copytree(self.pick.getCoordsDir(), folder)
        self.addCleanup(shutil.rmtree, folder)
        results = PickingResults(folder)
        results.make(further=["score_map"])
        results.write_score_map("first", np.linspace(0, 1, 60 * 90, dtype=np.float32).reshape(60, 90), 10.0)
        results.append({"broken": MicrographResult("broken.mrc", "it is truncated"),
                        "third": MicrographResult("third.mrc", candidates=1, picks=1)})
        mics = self.pick.getMicrographsByResult()
        del mics["third"]  # its path is that in the table, where no file is
        with mock.patch.object(self.pick, "getCoordsDir", return_value=folder), \
                mock.patch.object(self.pick, "getMicrographsByResult", return_value=mics):
            window = self.open()
        first = window.canvas._picture
        window.scoreMapButton.invoke()
        self.wait(window, lambda: window.canvas._picture and window.canvas._picture is not first)
        self.assertEqual(window.canvas._picture.pixels.shape, (60, 90))
        screenshot("picks-score-map")
        for name, words in (("second_03.05.02", "second_03.05.02.mrc"), ("broken", "it is truncated")):
            window.table.select(name)
            self.wait(window, lambda words=words: words in window.canvas._text)
            self.assertIsNone(window.canvas._picture)
        screenshot("picks-failed")
        window.scoreMapButton.invoke()
        window.table.select("third")
        self.wait(window, lambda: "third.mrc" in window.canvas._text)
        self.assertEqual(window.table.values("broken")[3], "failed")
        self.assertIn("1 failed", window.headline.cget("text"))
        window.table.sort("note")
        self.assertEqual(window.table.names()[0], "broken")

    def test_a_run_without_results_shows_a_message(self):
        protocol = self.newProtocol(ProtDeepEMPick)
        viewer = Config.getDomain().findViewers(protocol, DESKTOP_TKINTER)[0]
        view, = viewer(project=self.proj, protocol=protocol)._visualize(protocol)
        self.assertIsInstance(view, MessageView)
        self.assertIn("No micrograph has been picked yet", view.getMessage())
