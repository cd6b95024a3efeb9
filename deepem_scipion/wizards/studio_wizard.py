# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wizards whose values are chosen in the studio."""

import tempfile

import numpy as np
from pyworkflow.gui import dialog
from pyworkflow.viewer import DESKTOP_TKINTER
from pyworkflow.wizard import Wizard

from ..studio import defocus_by_name

# Number of micrographs shown, spread over the set.
SHOWN = 6
USE = "Use in the form"


class StudioWizard(Wizard):
    """Opens the studio on some micrographs, and takes its values into the form."""

    _environments = [DESKTOP_TKINTER]
    title, text = "", ""

    def show(self, form, *params):
        problem = self.problem(form.protocol)
        if problem:
            dialog.showWarning(self.title, problem, form.root)
            return None
        from ..viewers.studio_window import StudioWindow

        folder = tempfile.TemporaryDirectory(prefix="deepem-wizard-")

        def use(values):
            for name, value in self.chosen(form.protocol, values, folder.name).items():
                form.setVar(name, value)

        window = StudioWindow(self.title, f"{self.text} Then press \"{USE}\" there. Where no browser opens, open the "
                              "address below.", self.start(form.protocol, folder.name), use, masterWindow=form)
        window.root.bind("<Destroy>", lambda event: event.widget is window.root and folder.cleanup(), add="+")
        window.open()
        return window

    def problem(self, protocol):
        """Return what is missing in the form; empty if nothing is."""
        raise NotImplementedError

    def start(self, protocol, folder):
        """Start the studio with files in a folder; returns the StudioRun."""
        raise NotImplementedError

    def chosen(self, protocol, values, folder):
        """Return parameters of the form by name."""
        raise NotImplementedError


def some_micrographs(protocol, mics):
    """Choose some micrographs, spread over their defocus if the project knows it, otherwise over the set.

    Parameters
    ----------
    protocol : Protocol
    mics : list of Micrograph

    Returns
    -------
    list of Micrograph
    """
    return spread(by_defocus(mics, protocol.getProject()), SHOWN)


def by_defocus(mics, project):
    """Sort micrographs by increasing defocus if the project has CTF estimates of them.

    Those without a defocus are left out if enough others have one.
    """
    defocus = defocus_by_name(project)
    known = [mic for mic in mics if mic.getMicName() in defocus]
    if len(known) < min(SHOWN, len(mics)):
        return mics
    return sorted(known, key=lambda mic: defocus[mic.getMicName()])


def spread(mics, number):
    """Choose a number of micrographs, evenly spread from the first to the last."""
    chosen = np.unique(np.linspace(0, len(mics) - 1, min(number, len(mics))).round().astype(int))
    return [mics[at] for at in chosen]
