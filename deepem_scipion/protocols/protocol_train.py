# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of a network from picked particles."""

import enum
import os

import pyworkflow.utils as pwutils
from pwem.protocols import EMProtocol
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_SERIAL, params

from .. import convert
from ..constants import (
    MIN_PARTICLES,
    MODEL_FILE,
    PRESET_AUTO,
    PRESET_CUSTOM,
    PRESET_LABELS,
    PRESETS,
    RECIPES,
)
from ..deepem.errors import DeepEMError
from ..deepem.network import BOX_PER_DIAMETER, Geometry, auto_binning, auto_geometry
from ..objects import DeepEMModel
from .protocol_base import DeepEMProgram


def _common_micrographs(*coordinateSets):
    """Names of the micrographs on which all of the sets have coordinates."""
    names = [set(each.getUniqueValues("_micName")) if each.getSize() else set() for each in coordinateSets]
    return set.intersection(*names)


class DeepEMTrainOutput(enum.Enum):
    outputModel = DeepEMModel


class ProtDeepEMTrain(DeepEMProgram, EMProtocol):
    """ Trains a DeepEM network to recognise your particle.

    DeepEM (Zhu, Ouyang & Mao, 2017) looks at every place of a micrograph through a small window and lets a
    convolutional neural network of eight layers say how much the window looks like a particle. The network
    knows nothing at first: it learns from particles that were picked before. The result is a model, which the
    protocol *deepem_scipion - picking* applies to any number of micrographs of the same kind.

    *What you need*

    Coordinates on a few micrographs, picked by hand or taken from another picker and looked through. A hundred
    particles on three or four micrographs are a start, several hundred on ten are better. Choose micrographs
    which cover the range of your data: thin and thick ice, low and high defocus. In the micrographs that
    you choose pick *every* particle, because whatever is left unpicked serves as an example of what is not a particle.
    Micrographs without any coordinate are not used.

    *Particle diameter*

    The longest dimension in angstrom. It sets the size of the window and how far the micrographs are reduced
    beforehand. Left at 0 it is taken as two thirds of the box size of the coordinates, which is right if
    the box was made one and a half times as wide as the particle.

    *Examples of what is not a particle* (optional)

    A second set of coordinates on the same micrographs: ice crystals, edges of carbon, aggregates. Without it
    such examples are taken at random from places away from the particles; with it they are taken
    there as well. Use it when a first round of picking keeps falling for the same contamination.

    *Recipe and network*

    The default recipe trains with a current optimiser and suits nearly all data. The recipe *paper* does what the
    publication describes and takes much longer. The automatic network fits its layers to the particle; the
    others are those of the publication's Table 1 and expect particles of about that size in pixels.

    *Judging the result*

    A part of the micrographs, set by the validation fraction, is kept out of training and then picked. The
    summary gives the precision (the share of picks that are particles), the recall (the share of particles that were
    found), and the threshold that they hold for. It is the one with the best F2, a mean of both in which recall counts
    more. Particles that you overlooked count as wrong picks, so a precision of 0.8 may be better than it seems:
    look at the picks before you train again. If the figures are poor add micrographs first, then epochs.

    *Continue from a model*

    Starts with the weights of an earlier model instead of random ones. This needs fewer particles and
    fewer epochs, if the particle looks similar at the same pixel size.

    *Output*

    outputModel: the network with its threshold and figures, kept in one file inside the folder of this run.
    """

    _label = "training"
    _devStatus = NEW
    _possibleOutputs = DeepEMTrainOutput
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        self._defineGpuParams(form)
        self._defineInputParams(form)
        self._defineTrainingParams(form)
        self._defineNetworkParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _defineInputParams(self, form):
        form.addSection(label="Input")
        form.addParam("inputCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Particle coordinates",
                      help="Particles to learn from; the micrographs are those which they were picked on. 100 to "
                           "1000 on 3 to 10 micrographs are usual. All particles of those micrographs should be "
                           "picked: the rest serves as examples of background.")
        form.addParam("particleDiameter", params.FloatParam, default=0, label="Particle diameter (Å)",
                      validators=[params.GE(0, error="should not be negative")],
                      help="Longest dimension of the particle, usually 80 to 400 Å. Too small a value hides the "
                           "particle's outline from the network, too large a one lets neighbours into the window. With "
                           f"0 it is the box size of the coordinates divided by {BOX_PER_DIAMETER:g}.")
        form.addParam("negativeCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", allowsNull=True,
                      label="Coordinates of other things",
                      help="Optional: places on the same micrographs that are not particles, such as ice or carbon "
                           "edges. Worth the work when the picks contain much of the same contamination.")
        form.addParam("doContinue", params.BooleanParam, default=False, label="Continue from a model?",
                      help="Yes: start with the weights of an earlier model of a similar particle, which saves "
                           "particles and time. The network's layers are then those of that model.")
        form.addParam("inputModel", params.PointerParam, pointerClass="DeepEMModel", condition="doContinue",
                      label="Earlier model", help="Model to start with. It is not changed.")

    def _defineTrainingParams(self, form):
        form.addSection(label="Training")
        form.addParam("recipe", params.EnumParam, choices=RECIPES, default=0, display=params.EnumParam.DISPLAY_HLIST,
                      label="Recipe",
                      help="*default*: current optimiser, minutes. *paper*: the procedure of the publication, for "
                           "comparison; slower.")
        form.addParam("epochs", params.IntParam, default=0, label="Epochs",
                      validators=[params.GE(0, error="should not be negative")],
                      help="*paper*: number of times that all examples are shown to the network; *default*: rounds of "
                           "150 updates. 0: 20. Raise it if the validation figures still improve in the last epochs; "
                           "the best epoch is kept, so too many cost time only.")
        form.addParam("validationFraction", params.FloatParam, default=0.2, label="Validation fraction",
                      validators=[params.Range(0, 0.9, error="should be from 0 to 0.9")],
                      help="Share of the micrographs that is kept out of training to judge the network and to "
                           "choose the threshold: 0.1 to 0.3. More gives surer figures, less leaves more to learn "
                           "from. With 0 there are no independent figures.")
        form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED, label="Random seed",
                      validators=[params.GE(0, error="should not be negative")],
                      help="Any whole number. The same seed on the same machine gives the same model again; "
                           "another one shows how much the result depends on chance.")

    def _defineNetworkParams(self, form):
        form.addSection(label="Network")
        form.addParam("preset", params.EnumParam, choices=PRESET_LABELS, default=PRESET_AUTO,
                      condition="not doContinue", label="Layers",
                      help="*automatic*: micrographs are reduced and the layers fitted to the particle diameter. "
                           "*KLH*, *19S*, *26S*, *inflammasome*: windows of 272, 160, 150 and 112 px as in the "
                           "publication. *custom*: the values below.")
        custom = {"condition": f"not doContinue and preset == {PRESET_CUSTOM}",
                  "expertLevel": params.LEVEL_ADVANCED}
        form.addParam("boxSize", params.IntParam, default=272, label="Window (working px)", **custom,
                      help="Side of the network's window, in pixels of the reduced micrograph; about 1.5 diameters. "
                           "It must fit to kernels and pools without remainder; if it does not, values that do are "
                           "named.")
        form.addParam("kernels", params.StringParam, default="51 21 10", label="Kernels (px)", **custom,
                      help="Sides of the three convolutions. The first should be about a fifth of the window, so "
                           "that it sees parts of the particle instead of noise.")
        form.addParam("pools", params.StringParam, default="3 2 2", label="Pools (px)", **custom,
                      help="Sides of the three averaging cells, 2 or 3. The product of the first two is the scan step.")
        form.addParam("maps", params.StringParam, default="6 12 12", label="Feature maps", **custom,
                      help="Number of feature maps of the three stages, 4 to 32. More can tell more kinds of views "
                           "apart; they need more particles and time.")
        form.addParam("workingSamplingRate", params.FloatParam, default=0, label="Working pixel size (Å)", **custom,
                      validators=[params.GE(0, error="should not be negative")],
                      help="Micrographs are reduced to this pixel size before the network sees them. 0: the multiple "
                           "of their own pixel size at which the window measures about 1.5 diameters.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # The inputs' ids are arguments so that Continue converts again when an input was exchanged.
        self._insertFunctionStep(self.convertInputStep, [p.getUniqueId() for p in self._getUsedInputs()],
                                 needsGPU=False)
        self._insertFunctionStep(self.trainStep, self._getArguments(), needsGPU=True)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def convertInputStep(self, inputIds):
        coordinates = self.inputCoordinates.get()
        mics = convert.micrographs_with_coordinates(coordinates)
        results = convert.result_names(mics.values())
        convert.write_micrograph_list(self._getListFile(), mics.values(), results)
        names = {micName: results[mic.getObjId()] for micName, mic in mics.items()}
        convert.write_boxes(self._getCoordinatesDir(), coordinates, names, self._getSamplingRate())
        if self.negativeCoordinates.get() is not None:
            number = convert.write_boxes(self._getNegativesDir(), self.negativeCoordinates.get(), names,
                                         self._getSamplingRate())
            self.info(f"{number} examples of other things")

    def trainStep(self, arguments):
        # A model of an earlier attempt must not pass for the result of this one.
        pwutils.cleanPath(self._getModelFile())
        self.runDeepEM("train", arguments)
        if not os.path.exists(self._getModelFile()):
            raise RuntimeError(f"The program ended without writing {self._getModelFile()}; see the log of the run.")

    def createOutputStep(self):
        model = convert.read_model(self._getModelFile())
        self._defineOutputs(**{DeepEMTrainOutput.outputModel.name: model})
        for pointer in self._getUsedInputs():
            self._defineSourceRelation(pointer, model)

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        errors = []
        coordinates = self.inputCoordinates.get()
        if coordinates is None:
            return errors  # told by the framework
        if coordinates.getSize() < MIN_PARTICLES:
            errors.append(f"{coordinates.getSize()} particles were found; at least {MIN_PARTICLES} are needed, and "
                          "a hundred or more are better. Pick on more micrographs.")
        if not self._getDiameter():
            errors.append("The coordinates have no box size to take the particle diameter from. Give the diameter.")
        elif not self.doContinue:
            errors += self._geometryErrors()
        if self.doContinue and self.inputModel.get() is not None \
                and not os.path.exists(self.inputModel.get().getFileName()):
            errors.append(f"The file of the earlier model, {self.inputModel.get().getFileName()}, is missing.")
        negatives = self.negativeCoordinates.get()
        if negatives is not None and not _common_micrographs(coordinates, negatives):
            errors.append("The coordinates of other things are on none of the micrographs with particles. Choose a set "
                          "that was picked on the same micrographs.")
        return errors

    def _warnings(self):
        warnings = []
        coordinates = self.inputCoordinates.get()
        if coordinates is not None and coordinates.getSize():
            number = len(coordinates.getUniqueValues("_micId"))
            if number == 1 and self.validationFraction.get() > 0:
                warnings.append("All particles are on one micrograph. A part of its area will be kept out for "
                                "validation, but the figures say little about other micrographs.")
        model = self.inputModel.get()
        if self.doContinue and model is not None and model.getDiameter():
            ratio = self._getDiameter() / model.getDiameter() if coordinates is not None else 1
            if not 0.8 <= ratio <= 1.25:
                warnings.append(f"The earlier model is for particles of {model.getDiameter():.0f} Å, these measure "
                                f"{self._getDiameter():.0f} Å. A new model may learn faster.")
        return warnings

    def _summary(self):
        summary = []
        if self.inputCoordinates.get() is not None and self._getDiameter():
            origin = "given" if self.particleDiameter.get() else "from the box size"
            pixels = self._getDiameter() / self._getSamplingRate()
            summary.append(f"Particle diameter: {self._getDiameter():.1f} Å ({origin}), {pixels:.0f} px of the "
                           f"micrographs at {self._getSamplingRate():.2f} Å/px")
        model = getattr(self, DeepEMTrainOutput.outputModel.name, None)
        if model is None:
            return summary + ["The model is not ready yet."]
        working = model.getWorkingSamplingRate()
        summary.append(f"Network: window {model.getBoxSize()} px at a working pixel size of {working:.2f} Å "
                       f"({model.getBoxSize() * working:.0f} Å), micrographs reduced "
                       f"by a factor of {working / model.getSamplingRate():.2f}")
        summary.append(f"Trained on {model._numberOfMicrographs} micrographs with {model._numberOfParticles} particles")
        figures = ", ".join(f"{name} {value:.3f}" for name, value in model.getValidation())
        summary.append(f"Validation: {figures or 'none'}; threshold {model.getThreshold():.3f}")
        return summary

    def _methods(self):
        model = getattr(self, DeepEMTrainOutput.outputModel.name, None)
        if model is None:
            return []
        text = (f"A DeepEM network [Zhu2017] with windows of {model.getBoxSize()} px at "
                f"{model.getWorkingSamplingRate():.2f} Å/px was trained on {model._numberOfParticles} particles with a "
                f"diameter of {model.getDiameter():.0f} Å from {model._numberOfMicrographs} micrographs "
                f"(recipe {RECIPES[self.recipe.get()]}, seed {self.seed}).")
        figures = dict(model.getValidation())
        if "precision" in figures and "recall" in figures:
            text += (f" On micrographs kept out of training it reached a precision of {figures['precision']:.2f} and "
                     f"a recall of {figures['recall']:.2f} at a threshold of {model.getThreshold():.2f}.")
        return [text]

    def _citations(self):
        return ["Zhu2017"]

    # -------------------------- UTILS functions ------------------------------
    def _getListFile(self):
        return self._getExtraPath("micrographs.txt")

    def _getCoordinatesDir(self):
        return self._getExtraPath("coordinates")

    def _getNegativesDir(self):
        return self._getExtraPath("negatives")

    def _getModelFile(self):
        return self._getExtraPath(MODEL_FILE)

    def _getUsedInputs(self):
        """Pointers to the inputs that the model was made from."""
        pointers = [self.inputCoordinates, self.negativeCoordinates]
        return [p for p in pointers + [self.inputModel] * bool(self.doContinue) if p.get() is not None]

    def _getSamplingRate(self):
        """Pixel size of the micrographs, in angstrom."""
        return self.inputCoordinates.get().getMicrographs().getSamplingRate()

    def _getDiameter(self):
        """Particle diameter in angstrom, 0 if it is not known."""
        if self.particleDiameter.get():
            return self.particleDiameter.get()
        return (self.inputCoordinates.get().getBoxSize() or 0) * self._getSamplingRate() / BOX_PER_DIAMETER

    def _getCustomLayers(self):
        """Box, and lists of kernels, pools and maps as the user gave them."""
        lists = [[int(word) for word in text.get("").replace(",", " ").split()]
                 for text in (self.kernels, self.pools, self.maps)]
        return self.boxSize.get(), *lists

    def _geometryErrors(self):
        """What the method has against the layers or the diameter."""
        try:
            if self.preset.get() == PRESET_CUSTOM:
                Geometry(*self._getCustomLayers())
            elif self.preset.get() == PRESET_AUTO:
                working = self._getSamplingRate() * auto_binning(self._getDiameter(), self._getSamplingRate())
                auto_geometry(self._getDiameter() / working)
        except (DeepEMError, ValueError) as error:
            return [f"Network: {error}"]
        return []

    def _getArguments(self):
        """Arguments of the program, all but the number of threads."""
        arguments = ["--micrographs", self._getListFile(), "--coordinates", self._getCoordinatesDir(),
                     "--diameter", f"{self._getDiameter():.6g}", "--pixel-size", f"{self._getSamplingRate():.6g}",
                     "--output", self._getModelFile(), "--recipe", RECIPES[self.recipe.get()],
                     "--validation-fraction", f"{self.validationFraction.get():g}", "--seed", str(self.seed.get())]
        if self.negativeCoordinates.get() is not None:
            arguments += ["--negatives", self._getNegativesDir()]
        if self.epochs.get():
            arguments += ["--epochs", str(self.epochs.get())]
        return arguments + self._getNetworkArguments()

    def _getNetworkArguments(self):
        if self.doContinue:
            return ["--continue-from", self.inputModel.get().getFileName()]
        if self.preset.get() == PRESET_AUTO:
            return []
        if self.preset.get() != PRESET_CUSTOM:
            return ["--preset", PRESETS[self.preset.get()]]
        box, kernels, pools, maps = self._getCustomLayers()
        arguments = ["--box", str(box), "--kernels", *map(str, kernels), "--pools", *map(str, pools),
                     "--maps", *map(str, maps)]
        if self.workingSamplingRate.get():
            arguments += ["--working-pixel-size", f"{self.workingSamplingRate.get():g}"]
        return arguments
