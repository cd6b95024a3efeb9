# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Window to inspect picks and to try other limits on them."""

import tkinter as tk
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from tkinter import ttk

import numpy as np
from pyworkflow.gui import Window

from ..deepem.errors import DeepEMError
from ..deepem.micrographs.micrograph import read_shape
from ..deepem.picking.results import PickingResults
from ..deepem.picking.review import read_review
from ..deepem.picking.selection import PICKED, REASON_LABELS, REASONS
from ..deepem.picking.summary import summarise_run
from ..deepem.report.pictures import read_picture, read_score_map
from .legend import NOTE_COLOUR, Legend
from .limit_panel import MAX_DISTANCE, Histogram, LimitPanel
from .micrograph_canvas import REASON_COLOURS, REJECTED_SIZE, MicrographCanvas, score_colour
from .micrograph_table import MicrographTable

WIDTH, HEIGHT = 1400, 880
# Number of pictures kept in memory.
MAX_PICTURES = 12
POLL_MS = 15


class ReviewWindow(Window):
    """Micrographs of a picking run, their candidates, and sliders that act on all of them.

    Parameters
    ----------
    title : str
    folder : str
        With the results of `deepem pick`.
    mics : dict
        Name of the results to path of the micrograph.
    pixelSize, diameter : float
        Of the micrographs and of the particle, in Å.
    networkBox : int
        Box of the network in binned pixels.
    """

    RESET = "Back to the run's limits"
    HINT = "Up, down: other micrograph. Wheel: zoom. Drag: move. Double click: whole. Point at a circle: score."

    def __init__(self, title, folder, mics, pixelSize, diameter, networkBox, **kwargs):
        super().__init__(title, minsize=(1000, 640), **kwargs)
        self.folder, self.mics, self.pixelSize, self.diameter = folder, mics, pixelSize, diameter
        self.results = PickingResults(folder)
        self.networkBox, self.settings = networkBox, self.results.read_settings()
        self.review, self.reasons, self.entries, self.current = None, None, {}, None
        self._pictures, self._jobs, self._closed, self._refreshing = {}, ThreadPoolExecutor(2), False, None
        self._buildTable()
        self._buildCanvas()
        self._buildPanel()
        self._buildStatus()
        self.root.columnconfigure(0, weight=1)
        self.root.columnconfigure(1, weight=3)
        self.root.columnconfigure(2, weight=0)
        for key, lines in (("<Up>", -1), ("<Down>", 1)):
            self.root.bind(key, partial(self._arrow, lines))
        self.root.bind("<Destroy>", self._destroyed)
        self._showEntries(self.results.read_micrographs())
        if self.entries:
            self.table.select(next(iter(self.entries)))
        self.inBackground(partial(read_review, folder, pixelSize, MAX_DISTANCE * diameter), self._reviewRead)

    def desiredDimensions(self):
        return min(WIDTH, self.root.winfo_screenwidth()), min(HEIGHT, self.root.winfo_screenheight())

    # -------------------------- what is in the window ------------------------
    def _buildTable(self):
        frame = ttk.Frame(self.root, padding=(8, 8, 4, 4))
        frame.grid(row=0, column=0, sticky="news")
        frame.columnconfigure(0, weight=1)
        frame.rowconfigure(1, weight=1)
        self.headline = ttk.Label(frame, justify=tk.LEFT)
        self.headline.grid(row=0, column=0, sticky="w", pady=(0, 6))
        self.table = MicrographTable(frame, self.showMicrograph)
        self.table.grid(row=1, column=0, sticky="news")

    def _buildCanvas(self):
        frame = ttk.Frame(self.root, padding=(4, 8, 4, 4))
        frame.grid(row=0, column=1, sticky="news")
        frame.columnconfigure(0, weight=1)
        frame.rowconfigure(1, weight=1)
        self.title = ttk.Label(frame, font=self.fontBold)
        self.title.grid(row=0, column=0, sticky="w", pady=(0, 6))
        self.canvas = MicrographCanvas(frame, self._pointed)
        self.canvas.grid(row=1, column=0, sticky="news")
        self.pointed = ttk.Label(frame, text=self.HINT)
        self.pointed.grid(row=2, column=0, sticky="w", pady=(4, 0))

    def _buildPanel(self):
        frame = ttk.Frame(self.root, padding=(4, 8, 8, 4))
        frame.grid(row=0, column=2, sticky="news")
        frame.columnconfigure(0, weight=1)
        self.panel = LimitPanel(frame, self.refreshSoon)
        self.panel.grid(row=0, column=0, sticky="ew")
        self.histogram = Histogram(frame, lambda score: self.review and self.panel.set("threshold", round(score, 3)))
        self.histogram.grid(row=1, column=0, sticky="ew", pady=10)
        self.legend = Legend(frame, self._drawMarks)
        self.legend.grid(row=2, column=0, sticky="ew")
        stored = self.results.has_score_maps
        self.scoreMap = tk.BooleanVar(self.root, False)
        self.scoreMapButton = ttk.Checkbutton(frame, text="Show the score map (1 is white)", variable=self.scoreMap,
                                              command=self._showPicture, state=tk.NORMAL if stored else tk.DISABLED)
        self.scoreMapButton.grid(row=3, column=0, sticky="w", pady=(10, 0))
        if not stored:
            ttk.Label(frame, text="Not stored by this run, see its expert\nparameter \"Save score maps?\".",
                      foreground=NOTE_COLOUR).grid(row=4, column=0, sticky="w", padx=(20, 0))
        frame.rowconfigure(5, weight=1)
        buttons = ttk.Frame(frame)
        buttons.grid(row=6, column=0, sticky="ew")
        buttons.columnconfigure(0, weight=1)
        self.buttons = {}
        for row, (text, command) in enumerate({self.RESET: self._reset, **self._actions(),
                                               "Close": self._onClosing}.items()):
            self.buttons[text] = ttk.Button(buttons, text=text, command=command)
            self.buttons[text].grid(row=row, column=0, sticky="ew", pady=(4, 0))

    def _buildStatus(self):
        frame = ttk.Frame(self.root, padding=(8, 0, 8, 6))
        frame.grid(row=1, column=0, columnspan=3, sticky="ew")
        frame.columnconfigure(0, weight=1)
        self.status = ttk.Label(frame, text="Reading the candidates...")
        self.status.grid(row=0, column=0, sticky="w")
        self.progress = ttk.Progressbar(frame, length=200)

    def _actions(self):
        """Text to command of further buttons."""
        return {}

    # -------------------------- work in the background -----------------------
    def inBackground(self, work, done):
        """Run `work` in a thread, then `done` with its result here; an error is shown in the status line."""
        self._await(self._jobs.submit(work), done)

    def _await(self, job, done):
        if self._closed:
            return
        if not job.done():
            self.root.after(POLL_MS, self._await, job, done)
            return
        try:
            result = job.result()
        except DeepEMError as error:
            self.status.configure(text=str(error))
        else:
            done(result)

    def _destroyed(self, event):
        if event.widget is self.root:
            self._closed = True
            self._jobs.shutdown(wait=False, cancel_futures=True)

    # -------------------------- limits ---------------------------------------
    def _reviewRead(self, review):
        self.review = review
        self.panel.start(review.limits, self.diameter, review.candidates.local_stds)
        self.status.configure(text="")
        self.refresh()

    def _reset(self):
        if self.review is not None:
            self.panel.start(self.review.limits, self.diameter, self.review.candidates.local_stds)
            self.refresh()

    def refreshSoon(self):
        """Apply the limits after the pending events."""
        if self._refreshing is None:
            self._refreshing = self.root.after(1, self.refresh)

    def refresh(self):
        """Apply the limits to all micrographs."""
        self._refreshing = None
        if self.review is None or self._closed:
            return
        limits = self.panel.limits()
        self.reasons = self.review.select(limits)
        self._showEntries(self.review.summarise(self.reasons))
        self.histogram.show(*self.review.histogram(self.reasons), limits.threshold)
        self._drawMarks()

    def _showEntries(self, entries):
        self.entries = entries
        found = summarise_run(entries)
        self.odd = found.outliers
        self.table.setEntries(entries, self.odd)
        lines = [f"{found.picks:,} picks in {found.picked:,} micrographs"]
        if found.picks:
            lines[0] += f", {found.picks_per_micrograph:.1f} each, mean score {found.mean_score:.2f}"
        lines.append(f"{found.failed} failed, {len(self.odd)} outliers; click a heading to sort")
        self.headline.configure(text="\n".join(lines))
        self._showTitle()
        self._showCounts()

    def _showTitle(self):
        name = self.current or ""
        self.title.configure(text=": ".join(filter(None, (name, self.odd.get(name, "")))))

    def _showCounts(self):
        self.legend.count(self.entries.get(self.current), self.entries.values())

    # -------------------------- one micrograph -------------------------------
    def showMicrograph(self, name):
        """Show a micrograph of the table."""
        self.current = name
        self._showTitle()
        self._showCounts()
        self._showPicture()

    def _showPicture(self):
        name, asMap = self.current, self.scoreMap.get()
        entry = self.entries[name]
        if not entry.ok:
            self.canvas.setPicture(None, (1, 1), f"This micrograph failed:\n\n{entry.reason}")
        elif (name, asMap) in self._pictures:
            self._pictureRead((name, asMap), self._pictures[name, asMap])
        else:
            self.canvas.setPicture(None, (1, 1), "Reading the micrograph...")
            self.inBackground(partial(self._readPicture, name, asMap), partial(self._pictureRead, (name, asMap)))

    def _readPicture(self, name, asMap):
        """Picture and shape of a micrograph, or None and an error message."""
        path = self.mics.get(name, self.entries[name].path)
        try:
            shape = read_shape(path)
            if not asMap:
                return read_picture(path, self.pixelSize, self.diameter, self.settings.tiff_rows), shape
            scale = self.settings.working_pixel_size_angst / self.pixelSize
            return read_score_map(self.results.path("score_map", name), self.networkBox,
                                  self.settings.scan_step, scale), shape
        except DeepEMError as error:
            return None, str(error)

    def _pictureRead(self, key, found):
        self._pictures[key] = found
        while len(self._pictures) > MAX_PICTURES:
            del self._pictures[next(iter(self._pictures))]
        if key == (self.current, self.scoreMap.get()):
            picture, shape = found
            self.canvas.setPicture(picture, (1, 1) if picture is None else shape, shape)
            self._drawMarks()

    def _drawMarks(self):
        if self.reasons is None or self.current is None:
            return
        part = self.review.part(self.current)
        reasons, scores = self.reasons[part], self.review.candidates.scores[part]
        marks = [(int(index), REASON_COLOURS[reason], REJECTED_SIZE, 2)
                 for reason in REASONS if reason != PICKED and self.legend.isShown(reason)
                 for index in np.flatnonzero(reasons == reason)]
        if self.legend.isShown(PICKED):  # the best on top
            marks += [(int(index), score_colour(scores[index]), 1.0, 2)
                      for index in np.flatnonzero(reasons == PICKED)[::-1]]
        self.canvas.setMarks(self.review.candidates.centres_xy[part], marks, self.diameter / self.pixelSize)

    def _pointed(self, index):
        if index is None or self.review is None:
            self.pointed.configure(text=self.HINT)
            return
        at = self.review.part(self.current).start + index
        candidates = self.review.candidates
        x, y = candidates.centres_xy[at]
        self.pointed.configure(text=f"x {x:.0f}, y {y:.0f}: score {candidates.scores[at]:.3f}, local standard "
                                    f"deviation {candidates.local_stds[at]:.2f}, {REASON_LABELS[self.reasons[at]]}")

    def _arrow(self, lines, event):
        if event.widget is not self.table.tree:  # which moves by itself
            self.table.move(lines)
