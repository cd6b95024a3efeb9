# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network section of the form of the training protocol, and the arguments of the program that follow from it."""

from pyworkflow.protocol import params

from ..constants import PRESET_AUTO, PRESET_CUSTOM, PRESET_LABELS, PRESETS
from ..deepem.errors import DeepEMError
from ..deepem.model.general import CONTRASTS
from ..deepem.network.geometry import Geometry, auto_binning, auto_geometry


class NetworkForm:
    """Parameters of the network. To be inherited together with `TrainForm`."""

    # -------------------------- DEFINE param functions -----------------------
    def _defineNetworkParams(self, form):
        group = form.addGroup("Network", condition="not doContinue and not doTune")
        group.addParam("preset", params.EnumParam, choices=PRESET_LABELS, default=PRESET_AUTO,
                       label="Layers",
                       help="*automatic*: the binning of the micrographs and the layers fit the particle diameter. "
                            "*KLH*, *19S*, *26S*, *inflammasome*: boxes of 272, 160, 150 and 112 px as in the "
                            "publication. *custom*: the values below.")
        custom = {"condition": f"preset == {PRESET_CUSTOM}",
                  "expertLevel": params.LEVEL_ADVANCED}
        group.addParam("boxSize", params.IntParam, default=272, label="Box (binned px)", **custom,
                       help="Side of the input of the network, in pixels of the downsampled micrograph; about 1.5 "
                            "diameters. Kernels and pools must divide it without remainder; if they do not, values "
                            "that do are suggested.")
        group.addParam("kernels", params.StringParam, default="51 21 10", label="Kernels (binned px)", **custom,
                       help="Sides of the kernels of the three convolutions. The first should be about a fifth of the "
                            "box, so that it responds to parts of the particle instead of noise.")
        group.addParam("pools", params.StringParam, default="3 2 2", label="Pools (binned px)", **custom,
                       help="Sides of the cells of the three average poolings, 2 or 3. The first is the scan step.")
        group.addParam("maps", params.StringParam, default="6 12 12", label="Feature maps",
                       expertLevel=params.LEVEL_ADVANCED, condition=f"preset in ({PRESET_AUTO}, {PRESET_CUSTOM})",
                       help="Number of feature maps of the three convolutions, 4 to 32. More maps distinguish more "
                            "views, and need more particles and time. For many, very noisy micrographs 12 24 24 with "
                            "30 epochs finds more particles.")
        group.addParam("workingSamplingRate", params.FloatParam, default=0, label="Working pixel size (Å)", **custom,
                       validators=[params.GE(0, error="should not be negative")],
                       help="Micrographs are downsampled to this pixel size for the network. 0: the multiple of their "
                            "own pixel size at which the box measures about 1.5 diameters.")

    # -------------------------- INFO functions -------------------------------
    def _geometryErrors(self):
        """Problems of the layers or the diameter."""
        try:
            if self.preset.get() == PRESET_CUSTOM:
                Geometry(*self._getCustomLayers())
            elif self.preset.get() == PRESET_AUTO:
                working = self._getSamplingRate() * auto_binning(self._getDiameter(), self._getSamplingRate())
                auto_geometry(self._getDiameter() / working, _numbers(self.maps))
        except (DeepEMError, ValueError) as error:
            return [f"Network: {error}"]
        return []

    # -------------------------- UTILS functions ------------------------------
    def _getCustomLayers(self):
        """Box, and lists of kernels, pools and maps from the form."""
        return self.boxSize.get(), _numbers(self.kernels), _numbers(self.pools), _numbers(self.maps)

    def _getNetworkArguments(self):
        """Arguments of the program for the network, or for the model with which the training starts."""
        if self.doContinue:
            return ["--continue-from", self.inputModel.get().getFileName()]
        if self._isUnlabelled():
            return ["--contrast", CONTRASTS[self.contrast.get()]]  # the network is that of the general model
        if self.preset.get() == PRESET_AUTO:
            return ["--maps", *map(str, _numbers(self.maps))]
        if self.preset.get() != PRESET_CUSTOM:
            return ["--preset", PRESETS[self.preset.get()]]
        box, kernels, pools, maps = self._getCustomLayers()
        arguments = ["--box", str(box), "--kernels", *map(str, kernels), "--pools", *map(str, pools),
                     "--maps", *map(str, maps)]
        if self.workingSamplingRate.get():
            arguments += ["--working-pixel-size", f"{self.workingSamplingRate.get():g}"]
        return arguments


def _numbers(text):
    """Whole numbers in a text parameter."""
    return [int(word) for word in text.get("").replace(",", " ").split()]
