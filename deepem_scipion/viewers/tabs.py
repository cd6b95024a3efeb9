# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows with figures and text in tabs."""

from tkinter import ttk

from pyworkflow.gui import Window
from pyworkflow.gui.text import Text

WIDTH, HEIGHT = 1280, 780


class TabsWindow(Window):
    """A window with tabs, each of which is filled when it is first selected.

    Parameters
    ----------
    title : str
    tabs : dict
        Name of the tab to a function that is given its frame and fills it.
    """

    def __init__(self, title, tabs, **kwargs):
        super().__init__(title, minsize=(700, 500), **kwargs)
        self.notebook = ttk.Notebook(self.root)
        self.notebook.grid(row=0, column=0, sticky="news")
        self._empty = {}
        for name, fill in tabs.items():
            frame = ttk.Frame(self.notebook)
            frame.rowconfigure(0, weight=1)
            frame.columnconfigure(0, weight=1)
            self.notebook.add(frame, text=name)
            self._empty[str(frame)] = (frame, fill)
        self.notebook.bind("<<NotebookTabChanged>>", self._fill)

    def _fill(self, event=None):
        frame, fill = self._empty.pop(self.notebook.select(), (None, None))
        if fill is not None:
            fill(frame)

    def desiredDimensions(self):
        return min(WIDTH, self.root.winfo_screenwidth()), min(HEIGHT, self.root.winfo_screenheight())


def showFigure(frame, figure):
    """Show a Matplotlib figure in a frame, instead of its content, with a toolbar to enlarge and save it.

    Returns
    -------
    FigureCanvasTkAgg
    """
    from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg, NavigationToolbar2Tk

    for child in frame.winfo_children():
        child.destroy()
    # The figure is fitted to the window, so this affects only the size of letters.
    figure.set_dpi(90)
    canvas = FigureCanvasTkAgg(figure, frame)
    canvas.get_tk_widget().grid(row=0, column=0, sticky="news")
    canvas.get_tk_widget().figure_canvas = canvas  # lives as long as it is shown
    NavigationToolbar2Tk(canvas, frame, pack_toolbar=False).grid(row=1, column=0, sticky="ew")
    return canvas


def showText(frame, text):
    """Show text that can be copied in a frame, instead of its content; columns are separated by tabs."""
    for child in frame.winfo_children():
        child.destroy()
    widget = Text(frame, padx=10, pady=10, tabs="5c")
    widget.setText(text)
    widget.setReadOnly(True)
    widget.grid(row=0, column=0, sticky="news")
