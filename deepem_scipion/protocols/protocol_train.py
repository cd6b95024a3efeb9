# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of a network from picked particles."""

import enum
import os
from glob import escape, glob

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
from ..plugin import Plugin
from .groups import names_of
from .protocol_base import DeepEMProgram


def _filled(pointers):
    """Those of some pointers that point at something."""
    return [pointer for pointer in pointers if pointer.get() is not None]


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

    Coordinates of ice crystals, edges of carbon, aggregates. Without them such examples are taken at random from places
    away from the particles; with them they are taken there as well. Use them when a first round of picking
    keeps falling for the same contamination: the picks that you rejected are such coordinates.

    *More particles and non-particles* (optional)

    Sets that were verified later, for instance picks of an earlier model that you looked through, also on other
    micrographs. On micrographs that only these sets name nothing else counts as background, so not every particle
    needs to be picked there.

    *Recipe, network, tuning*

    The default recipe suits nearly all data; *paper* does what the publication describes and takes longer. The
    automatic network fits its layers to the particle; the others are those of the publication's Table 1 and expect
    particles of about that size in pixels. *Tune the network first* tries many networks and recipes for the minutes
    that you grant, and keeps the one whose picks on the validation micrographs are best.

    *Judging the result*

    A part of the micrographs, set by the validation fraction, is kept out of training and then picked. The
    summary gives the precision (the share of picks that are particles), the recall (the share of particles that were
    found), and the threshold that they hold for (best F2, a mean of both in which recall counts more). Particles that
    you overlooked count as wrong picks: look at the picks before you train again. If the figures are poor add
    micrographs first, then rounds or epochs.

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
                      label="Verified non-particles",
                      help="Optional: places on the same micrographs that are not particles, such as ice or carbon "
                           "edges. Worth the work when the picks contain much of the same contamination.")
        form.addParam("moreParticles", params.MultiPointerParam, pointerClass="SetOfCoordinates", allowsNull=True,
                      label="More verified particles",
                      help="Optional: further sets of particles to learn from, for instance picks of an earlier model "
                           "that you looked through. Their micrographs may be others; then not all particles there "
                           "need to be in the set, because nothing else on those micrographs serves as an example of "
                           "background. They need the pixel size of the other micrographs.")
        form.addParam("moreNegatives", params.MultiPointerParam, pointerClass="SetOfCoordinates", allowsNull=True,
                      label="More verified non-particles",
                      help="Optional: further sets of places that are not particles, for instance picks of an earlier "
                           "model that you rejected, on these or other micrographs of the same pixel size.")
        form.addParam("doContinue", params.BooleanParam, default=False, label="Continue from a model?",
                      help="Yes: start with the weights of an earlier model of a similar particle, which saves "
                           "particles and time. The network's layers are then those of that model.")
        form.addParam("inputModel", params.PointerParam, pointerClass="DeepEMModel", condition="doContinue",
                      label="Earlier model", help="Model to start with. It is not changed.")

    def _defineTrainingParams(self, form):
        form.addSection(label="Training")
        form.addParam("doTune", params.BooleanParam, default=False, label="Tune the network first?",
                      help="Yes: many networks and recipes are tried, the automatic one first, and the one whose picks "
                           "on the validation micrographs are best becomes the model. Worth the time when the usual "
                           "training leaves much to be desired, or before you pick thousands of micrographs. The "
                           "report is beside the model. *Continue* goes on with the search.")
        form.addParam("tuneMinutes", params.FloatParam, default=60, condition="doTune", label="Minutes for tuning",
                      validators=[params.GT(0, error="should be above 0")],
                      help="Time for the search, in which some ten to a hundred networks should find room: an hour "
                           "without a GPU, half of it with one. The first network is trained in any case. To "
                           "search longer raise it and use *Continue*.")
        form.addParam("recipe", params.EnumParam, choices=RECIPES, default=0, display=params.EnumParam.DISPLAY_HLIST,
                      condition="not doTune", label="Recipe",
                      help="*default*: current optimiser, minutes. *paper*: the procedure of the publication, for "
                           "comparison; slower.")
        form.addParam("epochs", params.IntParam, default=0, label="Epochs",
                      validators=[params.GE(0, error="should not be negative")],
                      help="*paper*: number of times that all examples are shown to the network; *default*: rounds of "
                           "150 updates. 0: 20. Raise it if the validation figures still improve in the last "
                           "epochs, as with very noisy micrographs; the best epoch is kept, so too many cost only "
                           "time.")
        form.addParam("rounds", params.IntParam, default=1, label="Automatic rounds",
                      validators=[params.GE(1, error="should be at least 1")],
                      help="1: the network is trained once. 2 or more: it then picks the micrographs that it was "
                           "trained on, and is trained again with what it took for particles wrongly and what it "
                           "missed, at most so many times. A round that makes no fewer mistakes on the validation "
                           "micrographs is thrown away and is the last. Helps where picks contain contamination; "
                           "each further round takes about half as long as the first.")
        form.addParam("networks", params.IntParam, default=1, expertLevel=params.LEVEL_ADVANCED,
                      label="Networks to average", validators=[params.GE(1, error="should be at least 1")],
                      help="So many networks are trained, each with another part of the micrographs kept out, and "
                           "their scores are averaged. More are a little steadier; training and picking take so "
                           "many times as long.")
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
        self._insertFunctionStep(self.trainStep, self._getArguments(), self.doTune.get(), self.tuneMinutes.get(),
                                 needsGPU=True)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def convertInputStep(self, inputIds):
        coordinates = self.inputCoordinates.get()
        main = convert.micrographs_with_coordinates(coordinates)
        mics = dict(main)
        for pointer in self._getMoreSets():
            for name, mic in convert.micrographs_with_coordinates(pointer.get()).items():
                mics.setdefault(name, mic)
        for number, mic in enumerate(mics.values(), 1):
            mic.setObjId(number)  # sets of several imports may use the same numbers
        results = convert.result_names(mics.values())
        convert.write_micrograph_list(self._getListFile(), mics.values(), results)
        names = {micName: results[mic.getObjId()] for micName, mic in mics.items()}
        rate = self._getSamplingRate()
        namesOfMain = {micName: names[micName] for micName in main}
        convert.write_boxes(self._getCoordinatesDir(), coordinates, namesOfMain, rate)
        if self.negativeCoordinates.get() is not None:
            number = convert.write_boxes(self._getNegativesDir(), self.negativeCoordinates.get(), namesOfMain, rate)
            self.info(f"{number} verified non-particles")
        for pointers, folder in ((self.moreParticles, self._getMoreParticlesDir),
                                 (self.moreNegatives, self._getMoreNegativesDir)):
            for number, pointer in enumerate(_filled(pointers), 1):
                convert.write_boxes(folder(number), pointer.get(), names, rate)
        self._forgetStudy()

    def trainStep(self, arguments, doTune, minutes):
        # A model of an earlier attempt must not pass for the result of this one.
        pwutils.cleanPath(self._getModelFile())
        if doTune:
            # A search goes on as long as nothing but the time for it has changed.
            if convert.read_json(self._getStudyArgumentsFile()) != arguments:
                self._forgetStudy()
            convert.write_json(self._getStudyArgumentsFile(), arguments)
            self.runDeepEM("tune", [*arguments, "--study", self._getStudyFile(),
                                    "--minutes", f"{minutes:g}"])
        else:
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
        particles = coordinates.getSize() + sum(p.get().getSize() for p in _filled(self.moreParticles))
        if particles < MIN_PARTICLES:
            errors.append(f"{particles} particles were found; at least {MIN_PARTICLES} are needed, and a hundred or "
                          "more are better. Pick on more micrographs.")
        if not self._getDiameter():
            errors.append("The coordinates have no box size to take the particle diameter from. Give the diameter.")
        elif not self.doContinue:
            errors += self._geometryErrors()
        if self.doContinue and self.inputModel.get() is not None \
                and not os.path.exists(self.inputModel.get().getFileName()):
            errors.append(f"The file of the earlier model, {self.inputModel.get().getFileName()}, is missing.")
        negatives = self.negativeCoordinates.get()
        if negatives is not None and not names_of(coordinates) & names_of(negatives):
            errors.append("The verified non-particles are on none of the micrographs with particles. Choose a set that "
                          "was picked on the same micrographs, or give it under *More verified non-particles*.")
        if self.rounds.get() > 1 and not self.validationFraction.get():
            errors.append("The validation micrographs tell whether another round helps. Give a validation fraction "
                          "above 0, or set the automatic rounds to 1.")
        return errors + self._moreSetsErrors() + self._tuningErrors()

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
        summary += [f"{what}: {', '.join(str(p.get().getSize()) for p in _filled(pointers))}"
                    for what, pointers in (("More verified particles", self.moreParticles),
                                           ("More verified non-particles", self.moreNegatives)) if _filled(pointers)]
        model = getattr(self, DeepEMTrainOutput.outputModel.name, None)
        if model is None:
            return summary + ["The model is not ready yet."]
        working = model.getWorkingSamplingRate()
        summary.append(f"Network: window {model.getBoxSize()} px at a working pixel size of {working:.2f} Å "
                       f"({model.getBoxSize() * working:.0f} Å), micrographs reduced "
                       f"by a factor of {working / model.getSamplingRate():.2f}")
        summary.append(", ".join([f"Trained on {model._numberOfMicrographs} micrographs with "
                                  f"{model._numberOfParticles} particles", *model.getTraining()]))
        figures = ", ".join(f"{name} {value:.3f}" for name, value in model.getValidation())
        summary.append(f"Validation: {figures or 'none'}; threshold {model.getThreshold():.3f}")
        if self.doTune:
            summary.append(f"What the tuning found is told by {self._getModelFile()}.tuning.md")
        return summary

    def _methods(self):
        model = getattr(self, DeepEMTrainOutput.outputModel.name, None)
        if model is None:
            return []
        text = (f"A DeepEM network [Zhu2017] with windows of {model.getBoxSize()} px at "
                f"{model.getWorkingSamplingRate():.2f} Å/px was trained on {model._numberOfParticles} particles with a "
                f"diameter of {model.getDiameter():.0f} Å from {model._numberOfMicrographs} micrographs "
                f"({', '.join([self._getRecipeWords(), *model.getTraining(), f'seed {self.seed}'])}).")
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

    def _getMoreParticlesDir(self, number):
        return self._getExtraPath("more_particles", f"set_{number}")

    def _getMoreNegativesDir(self, number):
        return self._getExtraPath("more_negatives", f"set_{number}")

    def _getModelFile(self):
        return self._getExtraPath(MODEL_FILE)

    def _getStudyFile(self):
        return self._getExtraPath("tuning.study")

    def _getStudyArgumentsFile(self):
        return self._getExtraPath("tuning.arguments.json")

    def _forgetStudy(self):
        """Remove what a search for other data or with other settings left."""
        pwutils.cleanPath(self._getStudyArgumentsFile(), *glob(escape(self._getStudyFile()) + "*"))

    def _getMoreSets(self):
        """Pointers to the further sets of coordinates."""
        return _filled(self.moreParticles) + _filled(self.moreNegatives)

    def _getUsedInputs(self):
        """Pointers to the inputs that the model was made from."""
        return [*_filled([self.inputCoordinates, self.negativeCoordinates]), *self._getMoreSets(),
                *_filled([self.inputModel] * bool(self.doContinue))]

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

    def _moreSetsErrors(self):
        """What is wrong with the further sets of coordinates."""
        errors = []
        main, rate = self.inputCoordinates.get(), self._getSamplingRate()
        known = names_of(main)
        for what, pointers in (("More verified particles", self.moreParticles),
                               ("More verified non-particles", self.moreNegatives)):
            for pointer in _filled(pointers):
                coordinates = pointer.get()
                own = coordinates.getMicrographs().getSamplingRate()
                if not coordinates.getSize():
                    errors.append(f"{what}: a set without any coordinates was given. Remove it.")
                elif abs(own - rate) > 1e-3 * rate and names_of(coordinates) - known:
                    errors.append(f"{what}: a set is on other micrographs than the particle coordinates, and these "
                                  f"have {own:.4g} Å/px instead of {rate:.4g} Å/px. Choose a set that was picked on "
                                  "micrographs of the same pixel size.")
        particles = {p.getUniqueId() for p in [self.inputCoordinates, *_filled(self.moreParticles)]}
        others = {p.getUniqueId() for p in _filled([self.negativeCoordinates, *self.moreNegatives])}
        if particles & others:
            errors.append("The same set was given as particles and as non-particles. Remove one of them.")
        return errors

    def _tuningErrors(self):
        """What cannot be done together with tuning."""
        if not self.doTune:
            return []
        errors = []
        if self.doContinue:
            errors.append("Tuning looks for a new network, while continuing from a model keeps that of the model. "
                          "Choose one of the two.")
        elif self.preset.get() != PRESET_AUTO:
            errors.append(f"Tuning looks for the layers, while *{PRESET_LABELS[self.preset.get()]}* layers were given. "
                          f"Set the layers to *{PRESET_LABELS[PRESET_AUTO]}*, or do not tune.")
        if not self.validationFraction.get():
            errors.append("Tuning compares networks by the validation micrographs. Give a validation fraction above 0.")
        return errors + Plugin.validateModules(["optuna"])

    def _getRecipeWords(self):
        """How the network was trained, for a text."""
        return "recipe as found by tuning" if self.doTune else f"recipe {RECIPES[self.recipe.get()]}"

    def _getArguments(self):
        """Arguments of the program for training and tuning, all but the number of threads and the time."""
        arguments = ["--micrographs", self._getListFile(), "--coordinates", self._getCoordinatesDir(),
                     "--diameter", f"{self._getDiameter():.6g}", "--pixel-size", f"{self._getSamplingRate():.6g}",
                     "--output", self._getModelFile(),
                     "--validation-fraction", f"{self.validationFraction.get():g}", "--seed", str(self.seed.get())]
        if self.negativeCoordinates.get() is not None:
            arguments += ["--negatives", self._getNegativesDir()]
        for option, pointers, folder in (("--more-particles", self.moreParticles, self._getMoreParticlesDir),
                                         ("--more-negatives", self.moreNegatives, self._getMoreNegativesDir)):
            if _filled(pointers):
                arguments += [option, *(folder(number) for number, _ in enumerate(_filled(pointers), 1))]
        if self.epochs.get():
            arguments += ["--epochs", str(self.epochs.get())]
        if self.rounds.get() > 1:
            arguments += ["--rounds", str(self.rounds.get())]
        if self.networks.get() > 1:
            arguments += ["--networks", str(self.networks.get())]
        if self.doTune:
            return arguments
        return [*arguments, "--recipe", RECIPES[self.recipe.get()], *self._getNetworkArguments()]

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
