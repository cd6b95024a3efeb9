# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The trained model as an object of a Scipion project."""

from pwem.objects import EMObject
from pyworkflow.object import Float, Integer, String


class DeepEMModel(EMObject):
    """A trained DeepEM model: its file, and the figures that users look for.

    Lengths are in angstrom, except for box and scan step, which are in binned pixels. The path of the file is relative
    to the project, so that the project can be moved.
    """

    def __init__(self, filename=None, **kwargs):
        super().__init__(**kwargs)
        self._filename = String(filename)
        self._diameter = Float()
        self._samplingRate = Float()  # of the training micrographs
        self._workingSamplingRate = Float()  # of the binned micrographs that the network scans
        self._boxSize = Integer()
        self._scanStep = Integer()
        self._threshold = Float()
        self._precision = Float()
        self._recall = Float()
        self._fScore = Float()
        self._averagePrecision = Float()
        self._numberOfMicrographs = Integer()
        self._numberOfParticles = Integer()
        self._numberOfNetworks = Integer()  # with averaged scores
        self._numberOfRounds = Integer()  # of recursive training
        self._numberOfTrials = Integer()  # of tuning; 0 without tuning
        self._warnings = String()  # one in each line

    def getFileName(self):
        """Path of the model file."""
        return self._filename.get()

    def setFileName(self, filename):
        """Set the path of the model file."""
        self._filename.set(filename)

    def getFiles(self):
        """Set with the path of the model file, for the framework."""
        return {self.getFileName()}

    def getDiameter(self):
        """Particle diameter, in angstrom."""
        return self._diameter.get()

    def getSamplingRate(self):
        """Pixel size of the training micrographs, in angstrom."""
        return self._samplingRate.get()

    def getWorkingSamplingRate(self):
        """Pixel size to which micrographs are resampled for the network, in angstrom."""
        return self._workingSamplingRate.get()

    def getBoxSize(self):
        """Side of the network's box, in binned pixels."""
        return self._boxSize.get()

    def getScanStep(self):
        """Distance between neighbouring boxes of the scan, in binned pixels."""
        return self._scanStep.get()

    def getThreshold(self):
        """Default threshold on the score."""
        return self._threshold.get()

    def getWarnings(self):
        """List of what did not fit together before the training, such as pixel sizes and diameter."""
        return self._warnings.get("").splitlines()

    def getTraining(self):
        """List of unusual settings of the training, such as "3 networks averaged"; empty for an ordinary training."""
        kinds = ((self._numberOfTrials, 0, "tuned over {} trainings"),
                 (self._numberOfNetworks, 1, "{} networks averaged"), (self._numberOfRounds, 1, "{} rounds"))
        return [text.format(number) for number, ordinary, text in kinds if number.get(0) > ordinary]

    def getValidation(self):
        """Figures of the validation as a list of (name, value); empty without validation."""
        figures = (("precision", self._precision), ("recall", self._recall), ("F1", self._fScore),
                   ("average precision", self._averagePrecision))
        return [(name, value.get()) for name, value in figures if value.hasValue()]

    def __str__(self):
        known = [(self._diameter, "particle {:.0f} Å"), (self._boxSize, "box {} px"),
                 (self._workingSamplingRate, "at {:.2f} Å/px"), (self._threshold, "threshold {:.2f}"),
                 (self._fScore, "validation F1 {:.3f}")]
        words = [text.format(value.get()) for value, text in known if value.hasValue()]
        return f"{self.getClassName()} ({', '.join(words) or 'not trained'})"
