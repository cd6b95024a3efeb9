# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparison of picks with a reference: curves of several evaluations, and the picks on each micrograph."""

import os
import tkinter as tk
from tkinter import ttk

from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from .. import convert
from ..constants import TIFF_ROWS
from ..deepem.errors import DeepEMError
from ..deepem.evaluation.metrics import curve_from_points
from ..protocols import ProtDeepEMEvaluate
from .tabs import TabsWindow, showFigure, showText

# Columns of the table of micrographs, with their widths.
COLUMNS = {"name": ("Micrograph", 150), "F1": ("F1", 60), "precision": ("Precision", 80), "recall": ("Recall", 65),
           "truth": ("Particles", 80), "missed": ("Missed", 65), "false": ("False", 60)}


class DeepEMEvaluateViewer(Viewer):
    """Precision, recall and F-scores of one or several pickers, and their mistakes on the micrographs."""

    _name = "DeepEM evaluation"
    _targets = [ProtDeepEMEvaluate]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        own = Evaluation(obj)
        if not own.isDone():
            return [self.infoMessage("Nothing was compared yet.", "DeepEM evaluation")]
        others = [Evaluation(run) for run in self.getProject().getRuns()
                  if isinstance(run, ProtDeepEMEvaluate) and run.getObjId() != obj.getObjId()]
        others = [each for each in others if each.isDone()]
        return [self.tkWindow(TabsWindow, title=f"DeepEM evaluation: {obj}", tabs={
            "Curves": lambda frame: CurvesFrame(frame, own, others).grid(sticky="news"),
            "Micrographs": lambda frame: MicrographsFrame(frame, own).grid(sticky="news")})]


class Evaluation:
    """Results of a run of the evaluation protocol."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.label = str(protocol)
        self.figures = convert.read_json(protocol._getFiguresFile())
        self.summary = convert.read_json(protocol._getSummaryFile())

    def isDone(self):
        return bool(self.figures and self.summary)

    def getCurve(self):
        return curve_from_points(self.figures["curve"])

    def isComparable(self, other):
        """Whether another evaluation has the same micrographs and as many reference particles."""
        return (self.summary["counted"] == other.summary["counted"]
                and self.summary["figures"]["truth"] == other.summary["figures"]["truth"])

    def getRows(self):
        """Figures of each micrograph by the keys of COLUMNS."""
        return [{**found, "name": name, "missed": found["truth"] - found["true_positives"],
                 "false": found["picks"] - found["true_positives"]}
                for name, found in self.figures["micrographs"].items()]

    def draw(self, name):
        """Figure of the micrograph whose results have this name; raises DeepEMError where it cannot be read."""
        from ..deepem.coordinates.read import read_coordinates
        from ..deepem.coordinates.regions import read_regions
        from ..deepem.coordinates.suppression import non_maximum_suppression
        from ..deepem.micrographs.micrograph import read_micrograph
        from ..deepem.report.plots import draw_picks

        protocol, summary = self.protocol, self.summary
        mics = protocol._getMics(summary["counted"])
        micName = {result: own for own, result in protocol._getResultNames(mics).items()}[name]
        rate = protocol._getSamplingRates()[1]
        scale = summary["pixel_size_angst"] / rate  # pixels of the micrograph per pixel of the files
        truth, picks = (read_coordinates(os.path.join(folder, name + ".box"))[name]
                        for folder in (protocol._getReferenceDir(), protocol._getPicksDir()))
        stays = non_maximum_suppression(picks.centres_xy, picks.scores, summary["min_distance_angst"] / rate / scale)
        if summary["threshold"] is not None:
            stays &= picks.scores >= summary["threshold"]
        regions = protocol._getRegionsFile()
        region = (read_regions(regions, {each: each for each in self.figures["micrographs"]}).get(name)
                  if os.path.exists(regions) else None)
        return draw_picks(read_micrograph(mics[micName].getFileName(), pixel_size_angst=rate,
                                          tiff_rows=TIFF_ROWS).pixels,
                          scale * picks.centres_xy[stays], picks.scores[stays],
                          2 * summary["distance_angst"] / rate, truth_xy=scale * truth.centres_xy, title=micName,
                          region=region and tuple(scale * value for value in region))


class CurvesFrame(ttk.Frame):
    """Curves of an evaluation and of those others that are chosen."""

    def __init__(self, master, own, others):
        super().__init__(master)
        self.columnconfigure(1, weight=1)
        self.rowconfigure(0, weight=1)
        choice = ttk.Frame(self, padding=8)
        choice.grid(row=0, column=0, sticky="n")
        ttk.Label(choice, text="Evaluations of this project").grid(sticky="w", pady=(0, 6))
        self.chosen = {}
        for each in [own, *others]:
            note = "" if each.isComparable(own) else "\n(other micrographs or particles)"
            self.chosen[each] = tk.BooleanVar(self, each is own)
            ttk.Checkbutton(choice, text=each.label + note, variable=self.chosen[each],
                            command=self.draw).grid(sticky="w")
        self.place = ttk.Frame(self)
        self.place.rowconfigure(0, weight=1)
        self.place.columnconfigure(0, weight=1)
        self.place.grid(row=0, column=1, sticky="news")
        self.draw()

    def draw(self):
        """Draw the curves that are chosen."""
        from ..deepem.report.plots import draw_curve

        chosen = [each for each, variable in self.chosen.items() if variable.get()]
        if len(chosen) == 1:
            figure = draw_curve(chosen[0].getCurve(), threshold=chosen[0].summary["threshold"])
            figure.suptitle(chosen[0].label)
        else:
            figure = draw_curve({each.label: each.getCurve() for each in chosen})
        showFigure(self.place, figure)


class MicrographsFrame(tk.PanedWindow):
    """The micrographs, worst first, and the picks on the one that is chosen."""

    def __init__(self, master, evaluation):
        super().__init__(master, orient=tk.HORIZONTAL, sashwidth=6)
        self.evaluation = evaluation
        self.rows = {row["name"]: row for row in evaluation.getRows()}
        side = ttk.Frame(self)
        side.rowconfigure(0, weight=1)
        side.columnconfigure(0, weight=1)
        self.table = ttk.Treeview(side, columns=list(COLUMNS), show="headings", selectmode="browse")
        bar = ttk.Scrollbar(side, command=self.table.yview)
        self.table.configure(yscrollcommand=bar.set)
        for key, (title, width) in COLUMNS.items():
            self.table.heading(key, text=title, command=lambda key=key: self.sort(key))
            self.table.column(key, width=width, stretch=key == "name", anchor="w" if key == "name" else "e")
        self.table.grid(row=0, column=0, sticky="news")
        bar.grid(row=0, column=1, sticky="ns")
        self.place = ttk.Frame(self)
        self.place.rowconfigure(0, weight=1)
        self.place.columnconfigure(0, weight=1)
        self.add(side, stretch="never")
        self.add(self.place, stretch="always")
        self._sortedBy, self._descending = None, False
        self.table.bind("<<TreeviewSelect>>", self._show)
        self.sort("F1")
        self.table.selection_set(self.table.get_children()[:1])

    def sort(self, key):
        """Sort by a column, the worst first; a second time in reverse order."""
        self._descending = not self._descending if key == self._sortedBy else key in ("missed", "false")
        self._sortedBy = key
        ordered = sorted(self.rows.values(), key=lambda row: row[key], reverse=self._descending)
        if not self.table.get_children():
            for row in ordered:
                self.table.insert("", "end", iid=row["name"], values=[
                    f"{row[each]:.3f}" if isinstance(row[each], float) else row[each] for each in COLUMNS])
        for place, row in enumerate(ordered):
            self.table.move(row["name"], "", place)

    def _show(self, event=None):
        for name in self.table.selection():
            try:
                showFigure(self.place, self.evaluation.draw(name))
            except DeepEMError as error:
                showText(self.place, str(error))
