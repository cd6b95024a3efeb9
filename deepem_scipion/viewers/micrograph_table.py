# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A table of micrographs that stays fast with many thousands."""

import tkinter as tk
from tkinter import ttk

COLUMNS = {"name": ("Micrograph", 150, tk.W), "picks": ("Picks", 60, tk.CENTER), "score": ("Score", 60, tk.CENTER),
           "note": ("Note", 110, tk.W)}
# Background of failed micrographs and of outliers.
FAILED_COLOUR, ODD_COLOUR = "#F6CDB5", "#FBEBC3"


class MicrographTable(ttk.Frame):
    """Lines with name, number of picks, mean score and note; a click on a heading sorts them.

    Parameters
    ----------
    master : tk widget
    onSelect : function
        Called with the name of a micrograph when it is selected.

    Notes
    -----
    A line of the widget is a place, into which the values of the micrograph that stands there are written when it
    comes into sight.
    """

    def __init__(self, master, onSelect):
        super().__init__(master)
        self._onSelect, self._entries, self._notes, self._order = onSelect, {}, {}, []
        self._sorted, self._current, self._span = ("", False), None, ("0", "1")
        self.tree = ttk.Treeview(self, columns=tuple(COLUMNS), show="headings", selectmode="browse")
        for key, (title, width, anchor) in COLUMNS.items():
            self.tree.heading(key, text=title, anchor=anchor, command=lambda key=key: self.sort(key))
            self.tree.column(key, width=width, anchor=anchor, stretch=key in ("name", "note"))
        self.tree.tag_configure("failed", background=FAILED_COLOUR)
        self.tree.tag_configure("odd", background=ODD_COLOUR)
        self._bar = ttk.Scrollbar(self, command=self.tree.yview)
        self.tree.configure(yscrollcommand=self._scrolled)
        self.tree.grid(row=0, column=0, sticky="news")
        self._bar.grid(row=0, column=1, sticky="ns")
        self.rowconfigure(0, weight=1)
        self.columnconfigure(0, weight=1)
        self.tree.bind("<<TreeviewSelect>>", self._selected)

    def setEntries(self, entries, notes):
        """Show micrographs, name -> MicrographResult, and notes, name -> text, about some of them."""
        if list(entries) != list(self._entries):
            self._order = list(entries)
            self.tree.delete(*self.tree.get_children())
            for place in range(len(entries)):
                self.tree.insert("", tk.END, iid=str(place))
        self._entries, self._notes = entries, notes
        self._fill()

    def names(self):
        """Names in the order of the table."""
        return list(self._order)

    def select(self, name):
        """Select a micrograph as if it had been clicked."""
        self.tree.selection_set(str(self._order.index(name)))
        self.tree.focus(self.tree.selection()[0])
        self.tree.see(self.tree.selection()[0])

    def move(self, lines):
        """Select the micrograph a number of lines below."""
        if self._order:
            at = self._order.index(self._current) if self._current in self._order else 0
            self.select(self._order[min(max(at + lines, 0), len(self._order) - 1)])

    def sort(self, key):
        """Sort by a column; once more: the other way round. Notes and high numbers come first."""
        backwards = self._sorted == (key, False)
        self._sorted = (key, backwards)
        self._order.sort()
        if key == "name":
            self._order.sort(reverse=backwards)
        elif key == "note":
            self._order.sort(key=lambda name: (not self._isFailed(name), name not in self._notes), reverse=backwards)
        else:
            field = {"picks": "picks", "score": "mean_score"}[key]
            self._order.sort(key=lambda name: getattr(self._entries[name], field) or 0, reverse=not backwards)
        for each, (title, _, _) in COLUMNS.items():
            arrow = "\u25b2" if backwards != (key == "name") else "\u25bc"
            self.tree.heading(each, text=f"{title} {arrow}" if each == key else title)
        self._fill()
        if self._current is not None:
            self.select(self._current)

    def values(self, name):
        """What the line of a micrograph shows: name, picks, mean score, note."""
        entry = self._entries[name]
        if self._isFailed(name):
            return name, "", "", "failed"
        score = entry.mean_score
        return name, entry.picks, "" if score is None else f"{score:.2f}", self._notes.get(name, "")

    def _isFailed(self, name):
        return not self._entries[name].ok

    def _scrolled(self, first, last):
        self._bar.set(first, last)
        if (first, last) != self._span:
            self._span = (first, last)
            self._fill()

    def _fill(self):
        """Write the lines that are in sight."""
        first, last = (float(end) * len(self._order) for end in self._span)
        for place in range(max(0, int(first) - 1), min(len(self._order), int(last) + 2)):
            name = self._order[place]
            tag = "failed" if self._isFailed(name) else "odd" if name in self._notes else ""
            self.tree.item(str(place), values=self.values(name), tags=(tag,))

    def _selected(self, event):
        name = self._order[int(self.tree.selection()[0])] if self.tree.selection() else None
        if name is not None and name != self._current:
            self._current = name
            self._onSelect(name)
