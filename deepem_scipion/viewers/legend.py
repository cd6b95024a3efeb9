# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Legend of the circles on a micrograph, with their numbers."""

import tkinter as tk
from tkinter import ttk

from ..deepem.picking.selection import BORDER, DISTANCE, LOCAL_STD, MASK, PICKED, RANK, REASON_LABELS, THRESHOLD
from .micrograph_canvas import REASON_COLOURS, score_colour

# From the most to the least interesting.
ORDER = (PICKED, RANK, THRESHOLD, DISTANCE, LOCAL_STD, MASK, BORDER)
NOTE_COLOUR = "#505050"


class Legend(ttk.Frame):
    """A line for each reason: its circle, a button to show or hide it, and numbers here and on all micrographs.

    Parameters
    ----------
    master : tk widget
    onChange : function
        Called without arguments when something is to be shown or hidden.
    """

    def __init__(self, master, onChange):
        super().__init__(master)
        self.columnconfigure(1, weight=1)
        for column, text in enumerate(("here", "all"), start=2):
            ttk.Label(self, text=text, width=8, anchor=tk.E).grid(row=0, column=column, sticky="e")
        self._shown, self.counts = {}, {}
        for row, reason in enumerate(ORDER, start=1):
            self._sample(reason).grid(row=row, column=0)
            self._shown[reason] = tk.BooleanVar(self, True)
            ttk.Checkbutton(self, text=REASON_LABELS[reason], variable=self._shown[reason],
                            command=onChange).grid(row=row, column=1, sticky="w")
            self.counts[reason] = [ttk.Label(self, anchor=tk.E) for _ in range(2)]
            for column, label in enumerate(self.counts[reason], start=2):
                label.grid(row=row, column=column, sticky="e")
        ttk.Label(self, text="Picks are as wide as the particle; lighter circles\nhave higher scores.",
                  foreground=NOTE_COLOUR).grid(row=6, column=0, columnspan=4, sticky="w", pady=(4, 0))

    def isShown(self, reason):
        """Return whether candidates with this reason are to be shown."""
        return self._shown[reason].get()

    def count(self, here, results):
        """Show the numbers of one micrograph, a MicrographResult or None, and of all."""
        done = [result for result in results if result.ok]
        for reason, labels in self.counts.items():
            for label, chosen in zip(labels, ([here] if here else [], done)):
                label.configure(text=f"{sum(_number(result, reason) for result in chosen):,}")

    def _sample(self, reason):
        canvas = tk.Canvas(self, width=46, height=20, highlightthickness=0)
        if reason == PICKED:
            for at, score in enumerate((0.2, 0.6, 1.0)):
                canvas.create_oval(2 + 14 * at, 3, 16 + 14 * at, 17, outline=score_colour(score), width=2)
        else:
            canvas.create_oval(18, 6, 27, 15, outline=REASON_COLOURS[reason], width=2)
        return canvas


def _number(result, reason):
    return result.picks if reason == PICKED else result.rejected.get(reason, 0)
