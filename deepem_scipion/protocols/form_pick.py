# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Form of the picking protocol, and the arguments of the program that follow from it."""

from pyworkflow.protocol import params

from .. import convert
from ..constants import (
    DARK,
    PROCEDURE_OWN,
    PROCEDURE_PAPER,
    STD_AUTO,
    STD_CHOICES,
    STD_CUSTOM,
    STD_OFF,
    TIFF_ROWS,
)
from ..deepem.model.general import CONTRASTS
from ..deepem.network.geometry import BOX_PER_DIAMETER
from ..deepem.picking.box import default_box_px

# Scipion stores the position, so new choices are added at the end.
THRESHOLD_AUTO, THRESHOLD_F1, THRESHOLD_PRECISION, THRESHOLD_FIXED = range(4)
THRESHOLD_CHOICES = ("auto (best F2)", "best F1", "given precision", "fixed value")


class PickForm:
    """Parameters of picking. To be inherited together with a protocol."""

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        super()._defineParams(form)
        self._defineInputParams(form)
        self._defineThresholdParams(form)
        self._defineSearchParams(form)
        self._defineStreamingParams(form)
        form.getParam("streamingBatchSize").setDefault(16)
        form.addParallelSection(threads=2, mpi=0, binThreads=4)

    def _defineInputParams(self, form):
        form.addParam("inputModel", params.PointerParam, pointerClass="DeepEMModel", important=True, allowsNull=True,
                      label="Model (empty: general model)",
                      help="Model from *DeepEM training* or *import DeepEM model*, trained on this "
                           "particle. Leave it empty to pick with the general model of the plugin, which was trained "
                           "on simulated micrographs of many shapes and needs nothing but the particle's diameter.")
        form.addParam("particleDiameter", params.FloatParam, default=0, condition="inputModel is None", important=True,
                      label="Particle diameter (Å)", validators=[params.GE(0, error="should not be negative")],
                      help="Longest dimension of the particle, usually 80 to 400 Å. Within 10 % is good enough. The "
                           "wizard opens some micrographs in the browser, where you measure it.")
        form.addParam("contrast", params.EnumParam, choices=CONTRASTS, default=DARK, condition="inputModel is None",
                      display=params.EnumParam.DISPLAY_HLIST, label="Particles are",
                      help="Darker than their surroundings, as in cryo-EM, or brighter, as in micrographs of negative "
                           "stain or with inverted contrast.")
        form.addParam("boxSize", params.IntParam, default=0, allowsPointers=True, label="Box size (px)",
                      validators=[params.GE(0, error="should not be negative")],
                      help="Side of the box for particle extraction, in pixels of these micrographs. It has no effect "
                           f"on the picks. 0: {BOX_PER_DIAMETER:g} particle diameters, rounded to an even number.")

    def _defineThresholdParams(self, form):
        form.addParam("thresholdMode", params.EnumParam, choices=THRESHOLD_CHOICES, default=THRESHOLD_AUTO,
                      label="Threshold on the score",
                      help="Picks with a lower score are discarded. *auto*: that of the general model, or the one with "
                           "the best F2 in the validation of the model. F2 is a mean of precision (the fraction of "
                           "picks that are particles) and recall (the fraction of particles that were picked) in "
                           "which recall has more weight. *best F1*: the same with equal weights. *given precision*: "
                           "the lowest threshold with the precision below in the validation. *fixed value*: the score "
                           "below.")
        form.addParam("minPrecision", params.FloatParam, default=0.9,
                      condition=f"thresholdMode == {THRESHOLD_PRECISION}", label="Precision",
                      validators=[params.Range(0, 1, error="should be from 0 to 1")],
                      help="Fraction of picks that should be particles, usually 0.8 to 0.95. On other micrographs it "
                           "will differ somewhat. If the model did not reach it in the validation, the run stops and "
                           "reports the best precision.")
        form.addParam("threshold", params.FloatParam, default=0.5, condition=f"thresholdMode == {THRESHOLD_FIXED}",
                      label="Threshold",
                      validators=[params.Range(0, 1, error="should be from 0 to 1")],
                      help="Minimum score of a pick, usually 0.1 to 0.6. A higher value gives fewer picks with fewer "
                           "false positives, a lower value finds more particles with more false positives.")

    def _defineSearchParams(self, form):
        form.addSection(label="Search")
        form.addParam("stdRange", params.EnumParam, choices=STD_CHOICES, default=STD_AUTO,
                      display=params.EnumParam.DISPLAY_HLIST, label="Local standard deviation filter",
                      help="Allowed standard deviation of the pixels in the box of a pick, relative to that of "
                           "a typical box of the micrograph. *automatic*: the range of the training particles, which "
                           "excludes carbon, ice crystals and empty film. *off*: any value. *custom*: the range "
                           "below.")
        line = form.addLine("Local standard deviation", condition=f"stdRange == {STD_CUSTOM}",
                            help="Minimum and maximum, for instance 0.7 and 1.4. Lower the maximum if carbon or ice is "
                                 "picked, raise the minimum if empty film is picked.")
        line.addParam("stdLow", params.FloatParam, default=0.5, label="from")
        line.addParam("stdHigh", params.FloatParam, default=1.5, label="to")
        form.addParam("minDistance", params.FloatParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Minimum distance (Å)", validators=[params.GE(0, error="should not be negative")],
                      help="Of two picks closer than this only the one with the higher score is kept. 0: half a "
                           "particle diameter. Elongated particles that lie side by side need a smaller value, down "
                           "to their width.")
        form.addParam("border", params.FloatParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Border (Å)", validators=[params.GE(0, error="should not be negative")],
                      help="Picks closer than this to the edge of the micrograph are discarded. Use half a box if "
                           "particles cut off by the edge are of no use. 0: none is discarded.")
        form.addParam("scanStep", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Scan step (binned px)", validators=[params.GE(0, error="should not be negative")],
                      help="Distance between neighbouring positions of the scan, in pixels of the downsampled "
                           "micrograph. 0: that of the network, usually 2, and 20 for the networks of the "
                           "publication. A smaller step gives slightly more accurate centres; half the step takes "
                           "about four times as long.")
        form.addParam("averageRotations", params.BooleanParam, default=True, expertLevel=params.LEVEL_ADVANCED,
                      label="Average four rotations?",
                      help="Yes: scores are averaged over rotations of the box by 0, 90, 180 and 270 degrees, as in "
                           "the publication and in the validation of the model. No: picking is four times faster, "
                           "scores are noisier, and the automatic threshold fits less well.")
        form.addParam("anyScale", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                      label="Pick at any scale?",
                      help="Yes: micrographs are picked even if their pixel size and that of the training differ by a "
                           "factor of more than 4, or the particle would be wider than half of the micrograph. No: "
                           "these are refused, since one of the pixel sizes is probably wrong.")
        form.addParam("procedure", params.EnumParam, choices=("that of the model", "paper"), default=PROCEDURE_OWN,
                      display=params.EnumParam.DISPLAY_HLIST, expertLevel=params.LEVEL_ADVANCED,
                      condition="inputModel is not None", label="Procedure",
                      help="*paper*: whole boxes are scanned without padding, each with mean 0 and standard deviation "
                           "1, and picks are selected in two passes, as in the publication. Models that were trained "
                           "by this procedure always pick by it.")
        form.addParam("saveScoreMaps", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                      label="Save score maps?",
                      help="Yes: the scores of all positions are saved as an image, up to one megabyte per "
                           "micrograph. *Analyze results* can show it.")

    # -------------------------- UTILS functions ------------------------------
    def isGeneral(self):
        """Whether no model is given, so that the general one is used."""
        return self.inputModel.getObjValue() is None

    def getModel(self):
        """Return the model, given or general; None as long as neither a model nor a diameter is given."""
        if not self.isGeneral():
            return self.inputModel.get()
        diameter = self.particleDiameter.get(0)
        return convert.general_model(diameter, CONTRASTS[self.contrast.get()]) if diameter > 0 else None

    def _getModelArguments(self):
        if self.isGeneral():
            return ["--diameter", f"{self.particleDiameter.get():g}", "--contrast", CONTRASTS[self.contrast.get()]]
        return ["--model", self.inputModel.get().getFileName()]

    def _getBoxSize(self):
        """Box size in pixels of the micrographs."""
        return self.boxSize.get() or default_box_px(self.getModel().getDiameter(),
                                                    self.getInputMicrographs().getSamplingRate())

    def _getThresholdOrigin(self):
        """Words for the origin of the threshold."""
        return {THRESHOLD_AUTO: "that of the general model" if self.isGeneral() else
                "best F2 in the validation of the model",
                THRESHOLD_F1: "best F1 in the validation of the model",
                THRESHOLD_PRECISION: f"lowest with a precision of at least {self.minPrecision.get():g} in the "
                                     "validation of the model",
                THRESHOLD_FIXED: "given"}[self.thresholdMode.get()]

    def _getArguments(self):
        """Arguments of the program that determine the result."""
        arguments = [*self._getModelArguments(),
                     "--pixel-size", f"{self.getInputMicrographs().getSamplingRate():.6g}",
                     "--tiff-rows", TIFF_ROWS, "--box", str(self._getBoxSize()),
                     "--threshold", {THRESHOLD_AUTO: "auto", THRESHOLD_F1: "F1",
                                     THRESHOLD_PRECISION: f"precision={self.minPrecision.get():g}",
                                     THRESHOLD_FIXED: f"{self.threshold.get():g}"}[self.thresholdMode.get()],
                     "--border", f"{self.border.get():g}",
                     "--rotations", "4" if self.averageRotations else "1"]
        arguments += {STD_AUTO: ["--std-range", "auto"], STD_OFF: ["--std-range", "off"],
                      STD_CUSTOM: ["--std-range", f"{self.stdLow.get():g}", f"{self.stdHigh.get():g}"],
                      }[self.stdRange.get()]
        if self.minDistance.get():
            arguments += ["--min-distance", f"{self.minDistance.get():g}"]
        if self.scanStep.get():
            arguments += ["--scan-step", str(self.scanStep.get())]
        if not self.isGeneral() and self.procedure.get() == PROCEDURE_PAPER:
            arguments += ["--procedure", "paper"]
        arguments += ["--force"] * bool(self.anyScale)
        return arguments + ["--score-maps"] * bool(self.saveScoreMaps)
