# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
""""Analyze results" of picking: the picks, other limits for them, and correction by hand."""

from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from ..protocols import ProtDeepEMPick


class DeepEMPickViewer(Viewer):
    """Picks and rejected candidates on the micrographs, and sliders for the limits."""

    _name = "DeepEM picks"
    _targets = [ProtDeepEMPick]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        if not obj.getResults().exists():
            return [self.infoMessage("No micrograph has been picked yet.", "DeepEM picks")]
        from .pick_window import PickWindow

        return [self.tkWindow(PickWindow, protocol=obj)]
