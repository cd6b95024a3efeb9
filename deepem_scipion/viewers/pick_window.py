# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Window of a picking run, which registers coordinates in its project."""

from pwem.viewers.viewer_coordinates import CoordinateView

from .review_window import ReviewWindow

REGISTER, CORRECT, HELP = "Register as new output", "Correct by hand...", "Help"

HELP_TEXT = """The candidates are the peaks of the network's score on all micrographs. The limits decide which of them \
are picks. They apply to all micrographs at once; the network is not run again.

*Register as new output* stores the picks shown, with their scores, as outputCoordinates_2 and so on. The output of \
the run is not changed. The comment of the new output states the limits.

*Correct by hand...* opens the last output in Scipion's coordinates viewer, where picks can be erased, moved and \
added, and whose button *Coordinate* makes an output of them. Use that output for training (DeepEM \
training): as *Particle coordinates* if it contains all particles of its micrographs, otherwise as *More particles*. \
The next model learns from your corrections.

Micrographs with a light background are outliers: their number of picks or their mean score is more than 3.5 standard \
deviations from the median. Those with a darker background failed; select them to read the reason."""


class PickWindow(ReviewWindow):
    """Picks of a run of ProtDeepEMPick."""

    def __init__(self, protocol, **kwargs):
        self.protocol = protocol
        mics, model = protocol.getMicrographsByResult(), protocol.getModel()
        super().__init__(f"DeepEM picks: {protocol.getObjLabel() or protocol.getClassLabel()}",
                         protocol.getCoordsDir(), {name: mic.getFileName() for name, mic in mics.items()},
                         protocol.getInputMicrographs().getSamplingRate(), model.getDiameter(), model.getBoxSize(),
                         **kwargs)

    def _actions(self):
        return {REGISTER: self._register, CORRECT: self._correct, HELP: lambda: self.showInfo(HELP_TEXT, HELP)}

    def _register(self):
        if self.review is None:
            return
        limits = self.panel.limits()
        local_stds = "any" if limits.std_range is None else "{:.3g} to {:.3g}".format(*limits.std_range)
        picks = sum(found.picks for found in self.entries.values())
        comment = (f"{picks} picks with a score of at least {limits.threshold:.4g}, a minimum distance of "
                   f"{limits.min_distance_angst:.4g} Å, a local standard deviation of {local_stds}, at least "
                   f"{limits.border_angst:.4g} Å from the border")
        self.buttons[REGISTER].state(["disabled"])
        self.progress.configure(maximum=max(1, len(self.review.names)), value=0)
        self.progress.grid(row=0, column=1)
        self._step(self.protocol.registerPicks(self.review, self.reasons, comment), comment)

    def _step(self, steps, comment):
        """Store one micrograph and continue later, so that the window responds; if it is closed there is no output."""
        if self._closed:
            return
        try:
            done = next(steps, None)
        except Exception as error:  # also of the project's database
            self._registered(f"Nothing was registered: {error}")
            return
        if done is None:
            name = list(self.protocol.iterOutputAttributes())[-1][0]
            self._registered(f"Registered as {name}: {comment}")
            return
        self.progress.configure(value=done)
        self.status.configure(text=f"Registering {comment}...")
        self.root.after(1, self._step, steps, comment)

    def _registered(self, text):
        self.status.configure(text=text)
        self.progress.grid_remove()
        self.buttons[REGISTER].state(["!disabled"])

    def _correct(self):
        coordinates = self.protocol.getCoords()
        if coordinates is None or not coordinates.getSize():
            self.showInfo("There are no coordinates to correct yet.", "DeepEM picks")
            return
        CoordinateView(self.root, coordinates, self.protocol).show()
