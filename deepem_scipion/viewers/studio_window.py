# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The window that stays in Scipion while the studio is open in the browser."""

import tkinter as tk
from tkinter import ttk

from pyworkflow.gui import Window
from pyworkflow.gui.gui import centerWindows

POLL_MS = 200


class StudioWindow(Window):
    """Shows the address of a studio, ends it when it is closed, and takes the values that it hands back.

    Parameters
    ----------
    title : str
    text : str
        What can be done in the studio.
    run : StudioRun
    done : function, optional
        Called with the values that are handed back. It may return an iterator of texts: work that is done step by step
        while the window shows the texts; the last one stays.
    """

    def __init__(self, title, text, run, done=None, **kwargs):
        super().__init__(title, minsize=(520, 150), **kwargs)
        self.run, self._done = run, done
        frame = ttk.Frame(self.root, padding=14)
        frame.grid(sticky="news")
        frame.columnconfigure(0, weight=1)
        ttk.Label(frame, text=text, wraplength=480, justify=tk.LEFT).grid(row=0, column=0, columnspan=2, sticky="w")
        self.state = tk.StringVar(self.root)
        self.address = ttk.Entry(frame, textvariable=self.state, state="readonly")  # can be copied
        self.label = ttk.Label(frame, textvariable=self.state, wraplength=360, justify=tk.LEFT)
        for each in (self.address, self.label):
            each.grid(row=1, column=0, sticky="ew", pady=12)
        self.button = ttk.Button(frame, text="Close the studio", command=self._onClosing)
        self.button.grid(row=1, column=1, padx=(8, 0))
        self._say(run.state)
        self.root.bind("<Destroy>", self._destroyed)
        self.root.after(POLL_MS, self._poll)

    def open(self):
        """Show the window beside the one that it belongs to, without waiting for it."""
        centerWindows(self.root, refWindows=self.master.getRoot())
        self.root.deiconify()

    def _poll(self):
        if not self.run.poll():
            self._say(self.run.state)
            self.root.after(POLL_MS, self._poll)
        elif self.run.problem:
            self._rest(self.run.problem)
        elif self.run.values and self._done:
            self._step(self._done(self.run.values))
        else:
            self.root.destroy()

    def _step(self, steps):
        """Do one step and continue later, so that the window responds."""
        if steps is None:
            self.root.destroy()
            return
        try:
            text = next(steps, None)
        except Exception as error:  # also of the project's database
            self._rest(f"Nothing was registered: {error}")
            return
        if text is None:
            self._rest(self.state.get())
        else:
            self._say(text)
            self.root.after(1, self._step, steps)

    def _say(self, text):
        self.state.set(text)
        shown, other = (self.address, self.label) if text == self.run.address else (self.label, self.address)
        other.grid_remove()
        shown.grid()

    def _rest(self, text):
        self._say(text)
        self.button.configure(text="Close")

    def _destroyed(self, event):
        if event.widget is self.root:
            self.run.stop()
