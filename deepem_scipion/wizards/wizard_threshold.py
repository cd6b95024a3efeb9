# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choice of threshold, minimum distance and local standard deviations on a few micrographs, picked for this purpose."""

import os
import tempfile
from tkinter import ttk

import numpy as np
from pwem.objects import SetOfCTF
from pyworkflow.gui import Window, dialog
from pyworkflow.gui.gui import centerWindows
from pyworkflow.viewer import DESKTOP_TKINTER
from pyworkflow.wizard import Wizard

from .. import convert, program
from ..deepem.picking.results import PickingResults
from ..protocols import ProtDeepEMPick

# Number of micrographs picked, spread over the set.
TRIED = 6
POLL_MS = 200
TITLE = "Limits of the picks"


class DeepEMThresholdWizard(Wizard):
    """Threshold, minimum distance and range of local standard deviations, tried on some of the micrographs."""

    _targets = [(ProtDeepEMPick, ["thresholdMode", "threshold", "minDistance", "stdRange", "stdLow", "stdHigh"])]
    _environments = [DESKTOP_TKINTER]

    def show(self, form, *params):
        protocol = form.protocol
        if protocol.getInputMicrographs() is None or protocol.getModel() is None:
            dialog.showWarning(TITLE, "Choose the micrographs, and the model or the diameter, first: the limits are "
                               "tried on some of the micrographs, which are picked for this purpose.", form.root)
            return None
        errors = protocol._validate()
        if errors:
            dialog.showError(TITLE, "\n".join(errors), form.root)
            return None
        return Trial(form)


class Trial(Window):
    """Picks some micrographs in the background, with a progress bar and a cancel button, and then shows them.

    Parameters
    ----------
    form : FormWindow
        Of a ProtDeepEMPick.
    """

    def __init__(self, form):
        super().__init__(TITLE, masterWindow=form, minsize=(380, 110))
        self.form, self.protocol, self.window = form, form.protocol, None
        self._folder = tempfile.TemporaryDirectory(prefix="deepem-trial-")
        self.folder = self._folder.name
        self.mics = spread(by_defocus(self.protocol.getMicrographsByResult(), self.protocol.getProject()), TRIED)
        self._process = self._start()
        self.root.transient(form.root)
        frame = ttk.Frame(self.root, padding=12)
        frame.grid(sticky="news")
        frame.columnconfigure(0, weight=1)
        self.label = ttk.Label(frame, text=f"Picking {len(self.mics)} micrographs to try limits on...")
        self.label.grid(row=0, column=0, columnspan=2, sticky="w")
        self.bar = ttk.Progressbar(frame, length=280, maximum=len(self.mics))
        self.bar.grid(row=1, column=0, sticky="ew", pady=8)
        self.cancelButton = ttk.Button(frame, text="Cancel", command=self.root.destroy)
        self.cancelButton.grid(row=1, column=1, padx=(8, 0))
        self.root.bind("<Destroy>", self._destroyed)
        centerWindows(self.root, refWindows=form.root)
        self.root.deiconify()
        self._poll()

    def _start(self):
        names = {mic.getObjId(): name for name, mic in self.mics.items()}
        listFile = os.path.join(self.folder, "micrographs.txt")
        convert.write_micrograph_list(listFile, self.mics.values(), names)
        threads = max(1, self.protocol.getBinThreads())
        arguments = [argument for argument in self.protocol._getArguments() if argument != "--score-maps"]
        return program.start(["pick", "--micrographs", listFile, "--output", self._results(), *arguments,
                              "--score-maps", "--threads", str(threads)], self._log(), threads,
                             gpus=",".join(map(str, self.protocol.getGpuList()[:1])))

    def _poll(self):
        if self._process is None:
            return
        results = PickingResults(self._results())
        done = results.picked()
        self.bar.configure(value=done)
        if done:
            self.label.configure(text=f"Picking micrographs to try limits on: {done} of {len(self.mics)}")
        if self._process.poll() is None:
            self.root.after(POLL_MS, self._poll)
        elif done and results.exists():
            self._show()
        else:
            reason = (program.last_logged_error(self._log())
                      or f"the program ended with status {self._process.returncode}")
            self.root.destroy()
            dialog.showError(TITLE, f"The micrographs could not be picked: {reason}", self.form.root)

    def _show(self):
        from .limits_window import LimitsWindow

        self._process = None
        self.window = LimitsWindow(self.form, self._folder, self.mics)
        self._folder = None  # that window removes it
        self.root.destroy()

    def _destroyed(self, event):
        if event.widget is self.root and self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if event.widget is self.root and self._folder is not None:
            self._folder.cleanup()

    def _results(self):
        return os.path.join(self.folder, "picks")

    def _log(self):
        return os.path.join(self.folder, "log.txt")


def by_defocus(mics, project):
    """Sort micrographs, name to Micrograph, by increasing defocus if the project has CTF estimates of them.

    Those without a defocus are left out if enough others have one.
    """
    defocus = {}
    for run in project.getRuns():
        for _, ctfs in run.iterOutputAttributes(SetOfCTF):
            for ctf in ctfs:
                mean = (ctf.getDefocusU() + ctf.getDefocusV()) / 2
                if ctf.getMicrograph() is not None and 0 < mean < np.inf:
                    defocus[ctf.getMicrograph().getMicName()] = mean
    known = {name: mic for name, mic in mics.items() if mic.getMicName() in defocus}
    if len(known) < min(TRIED, len(mics)):
        return mics
    return dict(sorted(known.items(), key=lambda item: defocus[item[1].getMicName()]))


def spread(mics, number):
    """Choose a number of micrographs, name to Micrograph, evenly spread from the first to the last."""
    chosen = np.unique(np.linspace(0, len(mics) - 1, min(number, len(mics))).round().astype(int))
    names = list(mics)
    return {names[at]: mics[names[at]] for at in chosen}
