# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A micrograph with its candidates."""

import tkinter as tk

import numpy as np
from PIL import Image, ImageTk

from ..deepem.picking.selection import BORDER, DISTANCE, LOCAL_STD, MASK, RANK, THRESHOLD
from ..deepem.report.axes import BLUE, GREEN, ORANGE, SKY, VERMILION

PURPLE = "#CC79A7"  # the reddish purple of Okabe and Ito
REASON_COLOURS = {BORDER: BLUE, MASK: VERMILION, RANK: ORANGE, LOCAL_STD: PURPLE, THRESHOLD: SKY, DISTANCE: GREEN}
# For scores 0, 1/2 and 1, interpolated between them; distinct from all other colours.
SCORE_COLOURS = np.array([(0x8C, 0x2D, 0x04), (0xF1, 0x6A, 0x13), (0xFF, 0xF0, 0x80)])
BACKGROUND = "#303030"
# Circles of rejected candidates are that much smaller than particles.
REJECTED_SIZE = 0.3
MAX_ZOOM = 16.0


def score_colour(score):
    """Colour of a score from 0 to 1, as #rrggbb."""
    red, green, blue = (round(np.interp(score, (0, 0.5, 1), channel)) for channel in SCORE_COLOURS.T)
    return f"#{red:02x}{green:02x}{blue:02x}"


class MicrographCanvas(tk.Canvas):
    """Shows a Picture and marks on it; the wheel zooms, dragging moves, a double click shows all.

    Parameters
    ----------
    master : tk widget
    onPoint : function
        Called with the index of the mark under the pointer, or None.
    """

    def __init__(self, master, onPoint):
        super().__init__(master, background=BACKGROUND, highlightthickness=0, cursor="crosshair")
        self._onPoint = onPoint
        self._picture, self._photo, self._text = None, None, ""
        self._centres, self._marks, self._radius = np.empty((0, 2)), [], 0.0
        self._shape = (1.0, 1.0)  # rows and columns of the micrograph
        self._zoom, self._origin = None, np.zeros(2)  # screen pixels per pixel; pixel at the upper left corner
        self.bind("<Configure>", lambda event: self.redraw())
        for event, factor in (("<Button-4>", 1.25), ("<Button-5>", 0.8)):
            self.bind(event, lambda event, factor=factor: self.zoomAt(factor, event.x, event.y))
        self.bind("<MouseWheel>", lambda event: self.zoomAt(1.25 if event.delta > 0 else 0.8, event.x, event.y))
        self.bind("<Button-1>", self._press)
        self.bind("<B1-Motion>", self._drag)
        self.bind("<Double-Button-1>", lambda event: self.showAll())
        self.bind("<Motion>", self._point)
        self.bind("<Leave>", lambda event: self._onPoint(None))

    def setPicture(self, picture, shape, text=""):
        """Show another Picture, or None, of a micrograph with (rows, columns); text is shown where there is none."""
        if tuple(shape) != tuple(self._shape):
            self._zoom = None
        self._picture, self._shape, self._text = picture, shape, text
        self.redraw()

    def setMarks(self, centres_xy, marks, diameter):
        """Draw circles.

        Parameters
        ----------
        centres_xy : (n, 2) in pixels of the micrograph
        marks : list of (index, colour, size, width)
            What to draw, in this order: which centre, colour, size in particle diameters, width of the line.
        diameter : float
            Particle diameter in pixels of the micrograph.
        """
        self._centres, self._marks, self._radius = centres_xy, marks, diameter / 2
        self._drawMarks()

    def showAll(self):
        """Fit the micrograph into the window."""
        self._zoom = None
        self.redraw()

    def zoomAt(self, factor, x, y):
        """Zoom by a factor about a place on the screen."""
        if self._zoom is None:
            return
        zoom = float(np.clip(self._zoom * factor, self._fit(), MAX_ZOOM * self._fit()))
        self._origin += np.array((x, y)) * (1 / self._zoom - 1 / zoom)
        self._zoom = zoom
        self.redraw()

    def redraw(self):
        """Draw everything again."""
        size = np.array((self.winfo_width(), self.winfo_height()))
        if min(size) <= 1:
            return
        rows, cols = self._shape
        if self._zoom is None:
            self._zoom = self._fit()
        if self._zoom <= self._fit():  # all of it, in the middle
            self._zoom = self._fit()
            self._origin = np.array((cols, rows)) / 2 - 0.5 - size / self._zoom / 2
        self.delete("all")
        if self._picture is None:
            self.create_text(*(size / 2), text=self._text, fill="white", width=0.8 * size[0], justify=tk.CENTER)
            return
        self._drawPicture(size)
        self._drawMarks()

    def _drawPicture(self, size):
        picture, rows_cols = self._picture, np.array(self._picture.pixels.shape)
        ends = np.array((self._origin, self._origin + size / self._zoom))
        box = np.clip((ends - picture.edge_px) / picture.scale, 0, rows_cols[::-1])
        (left, top), (right, bottom) = corners = (box * picture.scale + picture.edge_px - self._origin) * self._zoom
        width, height = max(1, round(right - left)), max(1, round(bottom - top))
        if (box[1] <= box[0]).any():
            return
        image = Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.BILINEAR,
                                                       box=tuple(box.ravel().tolist()))
        self._photo = ImageTk.PhotoImage(image, master=self)  # Tk itself does not keep it
        self.create_image(*np.rint(corners[0]).tolist(), anchor=tk.NW, image=self._photo)

    def _drawMarks(self):
        self.delete("mark")
        if self._zoom is None or self._picture is None:
            return
        for index, colour, size, width in self._marks:
            x, y = (self._centres[index] - self._origin) * self._zoom
            radius = max(2.0, size * self._radius * self._zoom)
            self.create_oval(x - radius, y - radius, x + radius, y + radius, outline=colour, width=width, tags="mark")

    def _fit(self):
        rows, cols = self._shape
        return min(self.winfo_width() / cols, self.winfo_height() / rows)

    def _press(self, event):
        self.focus_set()
        self._pressed = np.array((event.x, event.y))

    def _drag(self, event):
        if self._zoom is not None:
            place = np.array((event.x, event.y))
            self._origin = self._origin - (place - self._pressed) / self._zoom
            self._pressed = place
            self.redraw()

    def _point(self, event):
        shown = [index for index, *_ in self._marks]
        if not shown or self._zoom is None:
            self._onPoint(None)
            return
        place = np.array((event.x, event.y)) / self._zoom + self._origin
        distances = np.hypot(*(self._centres[shown] - place).T)
        at = int(np.argmin(distances))
        self._onPoint(shown[at] if distances[at] <= self._radius else None)
