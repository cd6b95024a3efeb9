# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Window to try limits before a run, and to copy them into its form."""

import os

from pyworkflow.gui.gui import centerWindows

from ..constants import STD_CUSTOM, STD_OFF
from ..protocols.form_pick import THRESHOLD_FIXED
from ..viewers.review_window import ReviewWindow

USE = "Use these limits"
# In the form 0 stands for half a particle diameter.
MIN_DISTANCE_ANGST = 0.1


class LimitsWindow(ReviewWindow):
    """Picks of some micrographs; the limits are copied into a form when they are confirmed.

    Parameters
    ----------
    form : FormWindow
        Of a ProtDeepEMPick.
    folder : TemporaryDirectory
        With the results in its folder picks; removed together with the window.
    mics : dict
        Name of the results to Micrograph.
    """

    RESET = "Back to the form's limits"

    def __init__(self, form, folder, mics):
        self.form, self._temporary = form, folder
        protocol = form.protocol
        model, micSet = protocol.getModel(), protocol.getInputMicrographs()
        super().__init__(f"Limits of the picks: {len(mics)} of {micSet.getSize()} micrographs",
                         os.path.join(folder.name, "picks"), {name: mic.getFileName() for name, mic in mics.items()},
                         micSet.getSamplingRate(), model.getDiameter(), model.getBoxSize(), masterWindow=form)
        centerWindows(self.root, dim=self.desiredDimensions())
        self.root.deiconify()

    def _actions(self):
        return {USE: self._use}

    def _reviewRead(self, review):
        super()._reviewRead(review)
        self.status.configure(text=f"The form is not changed until you press \"{USE}\".")

    def _use(self):
        """Copy changed limits into the form."""
        if self.review is None:
            return
        limits, given = self.panel.limits(), self.review.limits
        if limits.threshold != given.threshold:
            self.form.setVar("thresholdMode", THRESHOLD_FIXED)
            self.form.setVar("threshold", float(f"{limits.threshold:.6g}"))
        if limits.min_distance_angst != given.min_distance_angst:
            distance = max(limits.min_distance_angst, MIN_DISTANCE_ANGST)
            self.form.setVar("minDistance", float(f"{distance:.6g}"))
        if limits.std_range != given.std_range:
            self.form.setVar("stdRange", STD_OFF if limits.std_range is None else STD_CUSTOM)
            for name, value in zip(("stdLow", "stdHigh"), limits.std_range or ()):
                self.form.setVar(name, float(f"{value:.6g}"))
        self.root.destroy()

    def _destroyed(self, event):
        super()._destroyed(event)
        if event.widget is self.root:
            self._temporary.cleanup()
