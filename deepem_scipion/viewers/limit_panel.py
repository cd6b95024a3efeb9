# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sliders for the limits of picks, and a histogram of scores."""

import tkinter as tk
from dataclasses import replace
from tkinter import ttk

import numpy as np

from .micrograph_canvas import score_colour

# Largest minimum distance that can be tried, in particle diameters.
MAX_DISTANCE = 1.5
# Name of the slider: label, digits shown.
SLIDERS = {"threshold": ("Threshold on the score", 3), "distance": ("Minimum distance (Å)", 1),
           "low": ("Local standard deviation from", 3), "high": ("Local standard deviation to", 3)}


class LimitPanel(ttk.Frame):
    """Sliders and fields for the limits of picks.

    Parameters
    ----------
    master : tk widget
    onChange : function
        Called without arguments when the user has changed a limit.
    """

    def __init__(self, master, onChange):
        super().__init__(master)
        self._onChange, self._base = onChange, None
        self._values = {}  # exact ones; what sliders and fields show is rounded
        self._scales, self._fields, self._positions = {}, {}, {}
        self._ranged = tk.BooleanVar(self, False)
        self.columnconfigure(0, weight=1)
        for row, (key, (label, _)) in enumerate(SLIDERS.items()):
            if key == "low":
                ttk.Checkbutton(self, text="Filter by local standard deviation", variable=self._ranged,
                                command=self._rangeToggled).grid(row=2 * row, column=0, columnspan=2, sticky="w",
                                                                 pady=(8, 0))
            row = 2 * row + (key in ("low", "high"))
            ttk.Label(self, text=label).grid(row=row, column=0, sticky="w", pady=(4, 0))
            field = ttk.Entry(self, width=8, justify=tk.RIGHT)
            field.grid(row=row, column=1, sticky="e", pady=(4, 0))
            for event in ("<Return>", "<KP_Enter>", "<FocusOut>"):
                field.bind(event, lambda event, key=key: self._typed(key))
            self._positions[key] = tk.DoubleVar(self)
            scale = ttk.Scale(self, variable=self._positions[key],
                              command=lambda value, key=key: self.set(key, round(float(value), SLIDERS[key][1])))
            scale.grid(row=row + 1, column=0, columnspan=2, sticky="ew")
            self._fields[key], self._scales[key] = field, scale

    def start(self, limits, diameter, local_stds):
        """Show the limits of a run; diameter in Å and local standard deviations determine the range of the sliders."""
        self._base = limits
        low, high = limits.std_range or ((local_stds.min(), local_stds.max()) if len(local_stds) else (0, 2))
        most = np.percentile(local_stds, 99.9) if len(local_stds) else 2
        distance = limits.min_distance_angst
        self._values = {"threshold": limits.threshold, "distance": distance, "low": float(low), "high": float(high)}
        self._ranged.set(limits.std_range is not None)
        ends = {"threshold": 1, "distance": max(MAX_DISTANCE * diameter, distance)}
        for key, scale in self._scales.items():
            scale.configure(from_=0, to=ends.get(key, float(max(1.2 * most, high))))
        self._show()

    def limits(self):
        """Return the limits."""
        return replace(self._base, threshold=self._values["threshold"], min_distance_angst=self._values["distance"],
                       std_range=(self._values["low"], self._values["high"]) if self._ranged.get() else None)

    def set(self, key, value):
        """Set a limit as if the user had."""
        end = float(self._scales[key].cget("to"))
        value = min(max(float(value), 0), end)
        if key in ("low", "high") and not self._ranged.get():
            self._ranged.set(True)
        self._values[key] = value
        if self._values["low"] > self._values["high"]:
            self._values["high" if key == "low" else "low"] = value
        self._show()
        self._onChange()

    def _rangeToggled(self):
        self._show()
        self._onChange()

    def _typed(self, key):
        text = self._fields[key].get().replace(",", ".")
        if text == self._text(key):
            return
        try:
            self.set(key, float(text))
        except ValueError:
            self._show()

    def _text(self, key):
        return f"{self._values[key]:.{SLIDERS[key][1]}f}"

    def _show(self):
        for key, field in self._fields.items():
            field.delete(0, tk.END)
            field.insert(0, self._text(key))
            self._positions[key].set(self._values[key])


class Histogram(tk.Canvas):
    """Number of candidates over the score, picks in their colours; a click sets the threshold.

    Parameters
    ----------
    master : tk widget
    onThreshold : function
        Called with the score at which the user clicked.
    """

    LEFT, RIGHT, TOP, BOTTOM = 8, 8, 22, 34

    def __init__(self, master, onThreshold):
        super().__init__(master, height=160, width=280, background="white", highlightthickness=1,
                         highlightbackground="#b0b0b0", cursor="sb_h_double_arrow")
        self._picked, self._every, self._threshold = np.zeros(1), np.zeros(1), 0.0
        self.bind("<Configure>", lambda event: self._draw())
        for event in ("<Button-1>", "<B1-Motion>"):
            self.bind(event, lambda event: onThreshold(self._score(event.x)))

    def show(self, picked, every, threshold):
        """Show numbers of picks and of all candidates in equal bins from 0 to 1, and the threshold."""
        self._picked, self._every, self._threshold = picked, every, threshold
        self._draw()

    def _score(self, x):
        return float(np.clip((x - self.LEFT) / (self.winfo_width() - self.LEFT - self.RIGHT), 0, 1))

    def _draw(self):
        self.delete("all")
        width = self.winfo_width() - self.LEFT - self.RIGHT
        bottom = self.winfo_height() - self.BOTTOM
        if width <= 1 or not self._every.any():
            return
        x = self.LEFT + width * np.linspace(0, 1, len(self._every) + 1)
        # Peaks of the background outnumber the particles by far.
        top = np.log1p(self._every.max())
        for counts, colour in ((self._every, lambda score: "#c8c8c8"), (self._picked, score_colour)):
            for at in np.flatnonzero(counts):
                y = bottom - (bottom - self.TOP) * np.log1p(counts[at]) / top
                self.create_rectangle(x[at], y, x[at + 1], bottom, width=0, fill=colour((at + 0.5) / len(counts)))
        at = self.LEFT + width * self._threshold
        self.create_line(at, self.TOP - 4, at, bottom, width=2)
        self.create_line(self.LEFT, bottom, self.LEFT + width, bottom)
        for score in (0, 0.25, 0.5, 0.75, 1):
            self.create_text(self.LEFT + width * score, bottom + 3, text=f"{score:g}", font="TkSmallCaptionFont",
                             anchor={0: tk.NW, 1: tk.NE}.get(score, tk.N))
        self.create_text(self.LEFT + width / 2, bottom + 17, text="score", anchor=tk.N, font="TkSmallCaptionFont")
        self.create_text(self.LEFT, 3, text="candidates (log scale); coloured: picks", anchor=tk.NW,
                         font="TkSmallCaptionFont")
