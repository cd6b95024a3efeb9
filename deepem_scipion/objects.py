# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The trained network as an object of a Scipion project."""

from pwem.objects import EMObject
from pyworkflow.object import Float, Integer, String


class DeepEMModel(EMObject):
    """A trained DeepEM network: one file with the weights, and what a user wants to know about it.

    Lengths in angstrom, except for box and step, which are in pixels of the network's own (reduced) images.
    The file's path is relative to the project, so the project can be moved.
    """

    def __init__(self, filename=None, **kwargs):
        super().__init__(**kwargs)
        self._filename = String(filename)
        self._diameter = Float()
        self._samplingRate = Float()  # of the micrographs that the network was trained on
        self._workingSamplingRate = Float()  # of the images that the network sees
        self._boxSize = Integer()
        self._scanStep = Integer()
        self._threshold = Float()
        self._precision = Float()
        self._recall = Float()
        self._fScore = Float()
        self._averagePrecision = Float()
        self._numberOfMicrographs = Integer()
        self._numberOfParticles = Integer()
        self._numberOfNetworks = Integer()  # whose scores are averaged
        self._numberOfRounds = Integer()  # of recursive training
        self._numberOfTrials = Integer()  # among which tuning chose; 0 without tuning

    def getFileName(self):
        return self._filename.get()

    def setFileName(self, filename):
        self._filename.set(filename)

    def getFiles(self):
        return {self.getFileName()}

    def getDiameter(self):
        """Particle diameter, in angstrom."""
        return self._diameter.get()

    def getSamplingRate(self):
        """Pixel size of the micrographs used for training, in angstrom."""
        return self._samplingRate.get()

    def getWorkingSamplingRate(self):
        """Pixel size to which micrographs are brought for the network, in angstrom."""
        return self._workingSamplingRate.get()

    def getBoxSize(self):
        """Side of the network's window, in pixels of the working pixel size."""
        return self._boxSize.get()

    def getScanStep(self):
        """Distance of neighbouring windows, in pixels of the working pixel size."""
        return self._scanStep.get()

    def getThreshold(self):
        """Score from which a peak counts as a particle unless the user gives another."""
        return self._threshold.get()

    def getTraining(self):
        """How it was trained, in words of the form "3 networks averaged"; empty for an ordinary training."""
        kinds = ((self._numberOfTrials, 0, "tuned over {} trainings"),
                 (self._numberOfNetworks, 1, "{} networks averaged"), (self._numberOfRounds, 1, "{} rounds"))
        return [text.format(number) for number, ordinary, text in kinds if number.get(0) > ordinary]

    def getValidation(self):
        """Figures of the validation as (name, value); empty where none was done."""
        figures = (("precision", self._precision), ("recall", self._recall), ("F1", self._fScore),
                   ("average precision", self._averagePrecision))
        return [(name, value.get()) for name, value in figures if value.hasValue()]

    def __str__(self):
        known = [(self._diameter, "particle {:.0f} Å"), (self._boxSize, "box {} px"),
                 (self._workingSamplingRate, "at {:.2f} Å/px"), (self._threshold, "threshold {:.2f}"),
                 (self._fScore, "validation F1 {:.3f}")]
        words = [text.format(value.get()) for value, text in known if value.hasValue()]
        return f"{self.getClassName()} ({', '.join(words) or 'not trained'})"
