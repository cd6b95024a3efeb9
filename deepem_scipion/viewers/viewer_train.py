# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewer of models: "Analyze results" of training and of any model."""

from functools import partial
from pathlib import Path

from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from ..deepem.errors import DeepEMError
from ..deepem.model.card import card_rows
from ..deepem.model.paths import ModelFiles
from ..objects import DeepEMModel
from ..protocols import ProtDeepEMTrain
from .tabs import TabsWindow, showFigure, showText

NO_EXAMPLES = "There are no boxes to show: they are only in the run that trained the model, next to its file."


class DeepEMTrainViewer(Viewer):
    """Training curves, validation, boxes, feature maps, kernels and card of a model."""

    _name = "DeepEM model"
    _targets = [ProtDeepEMTrain, DeepEMModel]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        model = getattr(obj, "outputModel", None) if isinstance(obj, ProtDeepEMTrain) else obj
        if model is None:
            return [self.infoMessage("The model is not ready yet. The log of the run shows the progress.",
                                     "DeepEM training")]
        try:
            tabs = modelTabs(model.getFileName())
        except DeepEMError as error:
            return [self.errorMessage(str(error), "DeepEM model")]
        return [self.tkWindow(TabsWindow, title=f"DeepEM model: {obj}", tabs=tabs)]


def modelTabs(path):
    """Tabs for a model file, for `TabsWindow`; raises DeepEMError if it cannot be read."""
    return {name: partial(_show, content) for name, content in modelContents(path).items()}


def modelContents(path):
    """Functions by name of the tab that return its figure or its text; raises DeepEMError if the file is damaged."""
    from ..deepem.model.files import load_model

    model = load_model(path)
    contents = {"Training": _training, "Validation": _validation, "Boxes": partial(_boxes, path),
                "Layers": partial(_layers, path), "Kernels": _kernels, "Model": _card}
    return {name: partial(content, model) for name, content in contents.items()}


def _show(content, frame):
    try:
        found = content()
    except DeepEMError as error:
        found = str(error)
    (showText if isinstance(found, str) else showFigure)(frame, found)


def _training(model):
    from ..deepem.report.plots import draw_training

    if not model.record.history:
        return "The card of the model has no training history."
    return draw_training(model.record.history)


def _validation(model):
    from ..deepem.evaluation.metrics import curve_from_points
    from ..deepem.report.plots import draw_curve

    validation = model.record.validation
    if not validation.curve:
        return ("The model was not validated: there was no validation micrograph, or nothing was picked on them.")
    figure = draw_curve(curve_from_points(validation.curve), threshold=model.threshold)
    figure.suptitle(f"Whole micrographs picked: {', '.join(validation.names[:4])}"
                    f"{' ...' if len(validation.names) > 4 else ''} ({validation.on})")
    return figure


def _examples(path):
    from ..deepem.training.examples import load_examples

    examples = ModelFiles(Path(path)).examples
    return load_examples(examples) if examples.exists() else None


def _boxes(path, model):
    from ..deepem.report.model_plots import draw_examples

    examples = _examples(path)
    return NO_EXAMPLES if examples is None else draw_examples(examples, model.threshold)


def _layers(path, model):
    from ..deepem.report.model_plots import draw_layers

    examples = _examples(path)
    return NO_EXAMPLES if examples is None else draw_layers(model, examples)


def _kernels(model):
    from ..deepem.report.model_plots import draw_kernels

    return draw_kernels(model)


def _card(model):
    versions = ", ".join(f"{name} {number}" for name, number in model.record.versions.items())
    rows = [*card_rows(model.card()), ("made with", versions or "unknown versions")]
    return "\n".join(f"{label}\t{value}" for label, value in rows)
