# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms: nothing without effect, units, help, defaults; and how they and the project look."""

import ast
import inspect
import os
import re
from tkinter import ttk

from pyworkflow.object import Float, Integer, Pointer, PointerList
from pyworkflow.protocol import LEVEL_ADVANCED, params

from deepem_scipion import protocols
from deepem_scipion.deepem.network.geometry import BOX_PER_DIAMETER
from deepem_scipion.protocols import (
    ProtDeepEMEvaluate,
    ProtDeepEMExportCoordinates,
    ProtDeepEMExportModel,
    ProtDeepEMImportCoordinates,
    ProtDeepEMImportModel,
    ProtDeepEMPick,
    ProtDeepEMStudio,
    ProtDeepEMTrain,
)

from .display import screenshot
from .workflow import WithWorkflow

CLASSES = [getattr(protocols, name) for name in protocols.__all__]
# What the name of a parameter says is measured, and the units that its label may give.
UNITS = {r"(?i)diameter|distance|border": "(Å)", r"(?i)samplingRate|pixelSize": "(Å)", r"(?i)minutes": "(min)",
         r"(?i)boxSize|kernels|pools|region$|scanStep": "px)"}


def defined(protocolClass):
    """Names of the parameters that the plugin's own code defines."""
    names = set()
    for each in protocolClass.mro():
        if each.__module__.startswith(protocols.__name__):
            for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(each)))):
                if (isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "addParam"
                        and isinstance(node.args[0], ast.Constant)):
                    names.add(node.args[0].value)
    return names


class TestForms(WithWorkflow):
    """Each form is looked at by itself, with the inputs of a finished workflow."""

    def filled(self, protocolClass, **values):
        """A protocol with nothing but its inputs given."""
        inputs = {
            ProtDeepEMTrain: {"inputCoordinates": (self.coordinates, "outputCoordinates"),
                              "inputModel": (self.train, "outputModel")},
            ProtDeepEMPick: {"inputMicrographs": (self.mics, "outputMicrographs"),
                             "inputModel": (self.train, "outputModel")},
            ProtDeepEMEvaluate: {"referenceCoordinates": (self.coordinates, "outputCoordinates"),
                                 "pickedCoordinates": (self.pick, "outputCoordinates")},
            ProtDeepEMExportModel: {"inputModel": (self.train, "outputModel")},
            ProtDeepEMImportCoordinates: {"inputMicrographs": (self.mics, "outputMicrographs")},
            ProtDeepEMExportCoordinates: {"inputCoordinates": (self.pick, "outputCoordinates")},
            ProtDeepEMStudio: {"inputMicrographs": (self.mics, "outputMicrographs")},
        }.get(protocolClass, {})
        given = {ProtDeepEMImportModel: {"modelFile": self.train.outputModel.getFileName()},
                 ProtDeepEMImportCoordinates: {"path": self.pick.getCoordsDir()},
                 **dict.fromkeys((ProtDeepEMExportModel, ProtDeepEMExportCoordinates),
                                 {"folder": os.path.join(self.folder, "exported")})}.get(protocolClass, {})
        return self.run_with(protocolClass, inputs, f"new {protocolClass._label}", launch=False, **{**given, **values})

    def own(self, protocol):
        """Parameters that the plugin's own code defines, by name."""
        names = defined(type(protocol))
        return {name: param for name, param in protocol._definition.iterAllParams() if name in names}

    def test_what_is_shown_has_an_effect_and_what_is_hidden_has_none(self):
        states = {ProtDeepEMTrain: [{}, {"doTune": True}, {"doContinue": True}, {"preset": 5}, {"preset": 1},
                                     {"procedure": 1}, {"procedure": 1, "doTune": True}],
                  ProtDeepEMPick: [{}, {"thresholdMode": 2}, {"thresholdMode": 3}, {"stdRange": 2}, {"procedure": 1}],
                  ProtDeepEMEvaluate: [{}, {"thresholdMode": 1}, {"thresholdMode": 3}],
                  **dict.fromkeys((ProtDeepEMImportModel, ProtDeepEMExportModel, ProtDeepEMImportCoordinates,
                                   ProtDeepEMExportCoordinates), [{}])}
        for protocolClass, settings in states.items():
            for setting in settings:
                protocol = self.filled(protocolClass, **setting)
                for name, param in self.own(protocol).items():
                    value = getattr(protocol, name)
                    if isinstance(value, (Pointer, PointerList)):
                        continue
                    before, kept = effect(protocol), value.get()
                    value.set(another(param, kept))
                    after, visible = effect(protocol), shown(protocol, name)
                    value.set(kept)
                    with self.subTest(protocol=protocolClass.__name__, setting=setting, parameter=name):
                        (self.assertNotEqual if visible else self.assertEqual)(before, after)

    def test_labels_state_the_unit(self):
        for each in CLASSES:
            protocol = each()
            for name, param in self.own(protocol).items():
                for pattern, unit in UNITS.items():
                    if re.search(pattern, name) and isinstance(param, (params.FloatParam, params.IntParam,
                                                                       params.StringParam)):
                        self.assertIn(unit, param.getLabel(), f"{each.__name__}.{name}")

    def test_everything_has_a_help_and_numbers_state_the_usual_range(self):
        for each in CLASSES:
            protocol = each()
            for name, param in self.own(protocol).items():
                where, text = f"{each.__name__}.{name}", param.getHelp() or ""
                if name in ("stdLow", "stdHigh"):
                    continue  # the line that holds both has one
                self.assertGreater(len(text.split()), 4, where)
                if isinstance(getattr(protocol, name), (Float, Integer)) and not isinstance(
                        param, (params.EnumParam, params.BooleanParam)):
                    self.assertRegex(text, r"\d|half|third|whole number", where)

    def test_all_defaults_work(self):
        for each in CLASSES:
            protocol = self.filled(each)
            self.assertEqual(protocol.validate(), [], each.__name__)
            self.assertEqual(protocol.warnings(), [], each.__name__)

    def test_without_a_model_the_diameter_is_asked_for_and_the_general_model_is_used(self):
        protocol = self.filled(ProtDeepEMPick)
        self.assertFalse(shown(protocol, "particleDiameter") or shown(protocol, "contrast"))
        protocol.inputModel.set(None)
        self.assertTrue(shown(protocol, "particleDiameter") and shown(protocol, "contrast"))
        self.assertIn("Give the particle diameter", protocol.validate()[0])
        protocol.particleDiameter.set(120)
        protocol.contrast.set(1)
        self.assertEqual((protocol.validate(), protocol.warnings()), ([], []))
        self.assertEqual(protocol._getArguments()[:4], ["--diameter", "120", "--contrast", "bright"])
        self.assertEqual(protocol.getModel().getDiameter(), 120)
        self.assertIn("Particle diameter: 120.0", protocol._summary()[0])

    def test_the_diameter_by_default_is_that_of_the_box(self):
        self.assertAlmostEqual(self.filled(ProtDeepEMTrain)._getDiameter(), 66 * 2.5 / BOX_PER_DIAMETER)

    def test_forms_are_drawn(self):
        import pyworkflow.gui.project  # noqa: F401 - first, since the modules import each other
        from pyworkflow.gui.form import FormWindow

        for each in CLASSES:
            for level, suffix in ((0, ""), (LEVEL_ADVANCED, "-advanced")):
                protocol = self.filled(each)
                protocol.expertLevel.set(level)
                window = FormWindow("Protocol Run", protocol, lambda *args: None, None)
                self.show(window, 900, 760)
                tabs = next(widget for widget in descendants(window.root) if isinstance(widget, ttk.Notebook))
                for tab in tabs.tabs():
                    tabs.select(tab)
                    self.show(window)
                    screenshot(f"form-{each.__name__[10:].lower()}-{tabs.tab(tab, 'text').lower()}{suffix}")
                window.root.destroy()

    def test_the_project_with_the_finished_workflow_is_drawn(self):
        from pyworkflow.gui.project import ProjectWindow

        window = ProjectWindow(self.proj.path)
        self.show(window, 1450, 900)
        screenshot("project")
        for waiting in window.root.tk.splitlist(window.root.tk.call("after", "info")):
            window.root.tk.call("after", "cancel", waiting)  # it looks for news again and again
        window.root.destroy()


def shown(protocol, name):
    """Whether a parameter is to be seen: it may be in a group or a line that is not."""
    groups = [each for each, param in protocol._definition.iterAllParams()
              if isinstance(param, params.ElementGroup) and name in dict(param.iterParams())]
    return all(protocol.evalParamCondition(each) for each in (name, *groups))


def effect(protocol):
    """What the steps of a run would be given."""
    if isinstance(protocol, ProtDeepEMPick):
        return [protocol._getArguments()]
    found = []
    protocol._insertFunctionStep = lambda step, *args, **kwargs: found.append(args)
    protocol._insertAllSteps()
    return found


def another(param, value):
    """A value that a parameter might have as well."""
    if isinstance(param, params.BooleanParam):
        return not value
    if isinstance(param, params.EnumParam):
        return (value + 1) % len(param.choices)
    if isinstance(param, params.IntParam):
        return value + 1
    if isinstance(param, params.FloatParam):
        return value + 0.1 if value < 0.9 else value - 0.1
    return "1 2 30 40"


def descendants(widget):
    for child in widget.winfo_children():
        yield child
        yield from descendants(child)
