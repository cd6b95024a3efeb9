# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choice of a particle's diameter, or of the box around it, on micrographs."""

import tkinter as tk
from tkinter import ttk

import numpy as np
from pyworkflow.gui import dialog
from pyworkflow.viewer import DESKTOP_TKINTER
from pyworkflow.wizard import Wizard

from .. import convert
from ..constants import TIFF_ROWS
from ..deepem.errors import DeepEMError
from ..protocols import ProtDeepEMPick, ProtDeepEMTrain

# If the form and the coordinates have none.
USUAL_DIAMETER_ANGST = 150
# Width of the picture in diameters, and the limits beyond which it is drawn again.
SHOWN, FEWEST, MOST = 8, 3, 24


class DeepEMDiameterWizard(Wizard):
    """Particle diameter of the training, on the micrographs with coordinates."""

    _targets = [(ProtDeepEMTrain, ["particleDiameter"])]
    _environments = [DESKTOP_TKINTER]

    def show(self, form, *params):
        protocol = form.protocol
        coordinates = protocol.inputCoordinates.get()
        if coordinates is None or not coordinates.getSize():
            dialog.showWarning("Particle diameter", "Choose the particle coordinates first: the diameter is compared "
                               "with the particles on their micrographs.", form.root)
            return
        places = {name: found.centres_xy for name, found in convert.coordinates_by_name(coordinates)[0].items()}
        mics = convert.micrographs_with_coordinates(coordinates)
        for name, mic in mics.items():
            mic.setMicName(name)
        chosen = SizeDialog(form.root, "Particle diameter", list(mics.values()), protocol._getSamplingRate(),
                            protocol._getDiameter() or USUAL_DIAMETER_ANGST, "Å", places)
        if chosen.resultYes():
            form.setVar("particleDiameter", chosen.value)


class DeepEMPickDiameterWizard(Wizard):
    """Particle diameter for the general model, on the micrographs."""

    _targets = [(ProtDeepEMPick, ["particleDiameter"])]
    _environments = [DESKTOP_TKINTER]

    def show(self, form, *params):
        protocol = form.protocol
        micSet = protocol.getInputMicrographs()
        if micSet is None:
            dialog.showWarning("Particle diameter", "Choose the micrographs first: a circle is drawn on them.",
                               form.root)
            return
        chosen = SizeDialog(form.root, "Particle diameter", [mic.clone() for mic in micSet], micSet.getSamplingRate(),
                            protocol.particleDiameter.get() or USUAL_DIAMETER_ANGST, "Å")
        if chosen.resultYes():
            form.setVar("particleDiameter", chosen.value)


class DeepEMBoxSizeWizard(Wizard):
    """Box size of the picks, around a circle of the model's diameter."""

    _targets = [(ProtDeepEMPick, ["boxSize"])]
    _environments = [DESKTOP_TKINTER]

    def show(self, form, *params):
        protocol = form.protocol
        micSet, model = protocol.getInputMicrographs(), protocol.getModel()
        if micSet is None or model is None:
            dialog.showWarning("Box size", "Choose the micrographs, and the model or the diameter, first: the box is "
                               "drawn on the micrographs, around a circle of the particle diameter.", form.root)
            return
        chosen = SizeDialog(form.root, "Box size", [mic.clone() for mic in micSet], micSet.getSamplingRate(),
                            protocol._getBoxSize(), "px", circle_angst=model.getDiameter())
        if chosen.resultYes():
            form.setVar("boxSize", chosen.value)


class SizeDialog(dialog.Dialog):
    """A circle or a box on a micrograph, resized with the mouse wheel or a slider, and moved with the mouse.

    Parameters
    ----------
    parent : Tk widget
    title : str
    mics : list of Micrograph
    rate : float
        Pixel size of the micrographs in angstrom.
    value : float
        Initial value.
    unit : {"Å", "px"}
        Of the value: the diameter of a circle in angstrom, or the side of a box in pixels, which is even.
    places : dict, optional
        Name of a micrograph to x, y of particles on it; the circle starts on the first of them.
    circle_angst : float, optional
        Diameter of a circle to be drawn in the box.

    Attributes
    ----------
    value : float or int
        The choice, if `resultYes` is true.
    """

    def __init__(self, parent, title, mics, rate, value, unit, places=None, circle_angst=None):
        self.mics, self.rate, self.unit, self.circle_angst = mics, rate, unit, circle_angst
        self.places = places or {}
        self.step = 2 if unit == "px" else 1
        self.value, self.number, self.place = value, 0, 0
        self.pixels, self.centre = None, None
        super().__init__(parent, title)

    # -------------------------- widgets --------------------------------------
    def body(self, frame):
        from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg
        from matplotlib.figure import Figure

        self.size = tk.StringVar(self, f"{self.value:.0f}")
        self.named = tk.StringVar(self)
        self.converted = tk.StringVar(self)
        top = ttk.Frame(frame)
        top.grid(row=0, column=0, sticky="ew", pady=(0, 5))
        for text, change in (("< Micrograph", (-1, 0)), ("Micrograph >", (1, 0)), ("Next particle", (0, 1))):
            if change[0] or self.places:
                ttk.Button(top, text=text, command=lambda change=change: self._go(*change)).pack(side="left", padx=2)
        ttk.Label(top, textvariable=self.named).pack(side="left", padx=8)
        self.figure = Figure(figsize=(6.4, 6.4), dpi=100, facecolor="0.85")
        self.canvas = FigureCanvasTkAgg(self.figure, frame)
        self.canvas.get_tk_widget().grid(row=1, column=0, sticky="news")
        for event, handle in (("scroll_event", self._scrolled), ("button_press_event", self._dragged),
                              ("motion_notify_event", self._dragged), ("draw_event", self._drawn)):
            self.canvas.mpl_connect(event, handle)
        bottom = ttk.Frame(frame)
        bottom.grid(row=2, column=0, sticky="ew", pady=(5, 0))
        ttk.Label(bottom, text=f"Diameter ({self.unit})" if self.unit == "Å" else "Box (px)").pack(side="left")
        self.slider = tk.Scale(bottom, from_=self.step, to=4 * self.value, resolution=self.step, showvalue=False,
                               orient="horizontal", length=300, command=self._slid)
        self.slider.pack(side="left", padx=5)
        ttk.Spinbox(bottom, textvariable=self.size, from_=self.step, to=99999, increment=self.step,
                    width=7).pack(side="left")
        ttk.Label(bottom, textvariable=self.converted).pack(side="left", padx=8)
        ttk.Label(frame, text="Wheel: larger, smaller. Mouse button: move there.").grid(row=3, column=0, sticky="w")
        self.size.trace_add("write", self._changed)
        self._go(0, 0)
        self._convert()

    def validate(self):
        if self.value < self.step:
            dialog.showError(self.title(), f"{self.size.get()!r} was given; expected a number above 0.", self)
        return self.value >= self.step

    # -------------------------- micrographs ----------------------------------
    def _go(self, mics, places):
        """Show another micrograph, or another particle on it."""
        from ..deepem.micrographs.micrograph import read_micrograph

        self.number, self.place = (self.number + mics) % len(self.mics), self.place + places if not mics else 0
        mic = self.mics[self.number]
        self.named.set(f"{mic.getMicName()} ({self.number + 1} of {len(self.mics)})")
        if mics or self.pixels is None:
            try:
                self.pixels = read_micrograph(mic.getFileName(), pixel_size_angst=self.rate,
                                              tiff_rows=TIFF_ROWS).pixels
            except DeepEMError as error:
                self.pixels = np.zeros((1, 1), np.float32)
                self.named.set(f"{mic.getMicName()} cannot be read")
                self._show(str(error))
                return
        rows, columns = self.pixels.shape
        known = self.places.get(mic.getMicName(), [])
        self.centre = (np.array(known[self.place % len(known)], float) if len(known)
                       else np.array([columns, rows]) / 2)
        self._show()

    def _show(self, problem=None):
        """Draw the part of the micrograph around the circle."""
        from matplotlib.patches import Circle, Rectangle

        from ..deepem.report.axes import ORANGE, SKY, show_micrograph

        self.figure.clear()
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.marks = []
        if problem:
            self.axes.text(0.5, 0.5, problem, ha="center", va="center", wrap=True)
            self.canvas.draw()
            return
        self.shown = SHOWN * self._pixels()
        low = np.maximum(self.centre - self.shown / 2, 0).astype(int)
        low = np.maximum(np.minimum(low, np.array(self.pixels.shape)[::-1] - int(self.shown)), 0)
        high = low + int(self.shown) + 1
        show_micrograph(self.axes, self.pixels[low[1]:high[1], low[0]:high[0]], self._pixels())
        self.origin = low
        style = {"fill": False, "linewidth": 2, "animated": True}
        if self.unit == "px":
            self.marks = [Rectangle((0, 0), 0, 0, edgecolor=SKY, **style)]
        if self.unit == "Å" or self.circle_angst:
            self.marks.append(Circle((0, 0), 0, edgecolor=ORANGE, **style))
        for mark in self.marks:
            self.axes.add_patch(mark)
        self.canvas.draw()

    def _pixels(self):
        """Diameter or box in pixels of the micrograph."""
        return max(self.value, self.step) / (self.rate if self.unit == "Å" else 1)

    # -------------------------- events ---------------------------------------
    def _changed(self, *args):
        try:
            self.value = max(0, self.step * round(float(self.size.get()) / self.step))
        except ValueError:
            self.value = 0  # while typing
        self._convert()
        if self.value:
            if self.marks and not FEWEST < self.shown / self._pixels() < MOST:
                self._show()
            self._redraw()

    def _convert(self):
        """Show the value in the other unit and on the slider."""
        other = f"= {self._pixels():.0f} px" if self.unit == "Å" else f"= {self.value * self.rate:.0f} Å"
        self.converted.set(other if self.value else "give a number")
        if self.value:
            self.slider.configure(to=max(self.value, float(self.slider.cget("to"))))
            self.slider.set(self.value)

    def _slid(self, value):
        if float(value) != round(self.value):  # moved by the user
            self.size.set(value)

    def _scrolled(self, event):
        self.size.set(f"{self.value + self.step * max(1, round(0.02 * self.value / self.step)) * event.step:.0f}")

    def _dragged(self, event):
        if event.button == 1 and event.inaxes is self.axes and self.marks:
            self.centre = self.origin + (event.xdata, event.ydata)
            self._redraw()

    def _drawn(self, event):
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)
        self._redraw()

    def _redraw(self):
        """Draw circle and box over the micrograph, which stays as it is."""
        if not self.marks:
            return
        x, y = self.centre - self.origin
        side = self._pixels()
        for mark in self.marks:
            if hasattr(mark, "set_radius"):
                mark.set(center=(x, y), radius=(side if self.unit == "Å" else self.circle_angst / self.rate) / 2)
            else:
                mark.set(xy=(x - side / 2, y - side / 2), width=side, height=side)
        self.canvas.restore_region(self.background)
        for mark in self.marks:
            self.axes.draw_artist(mark)
        self.canvas.blit(self.figure.bbox)
