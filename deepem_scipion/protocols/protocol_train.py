# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of a network from picked particles."""

import enum
import os
from glob import escape, glob

import pyworkflow.utils as pwutils
from pwem.protocols import EMProtocol
from pyworkflow import NEW
from pyworkflow.protocol import STATUS_NEW, STEPS_SERIAL

from .. import convert
from ..constants import MIN_PARTICLES, MODEL_FILE, PRESET_AUTO, PRESET_CUSTOM, PRESETS, TRAINING_PRESETS
from ..deepem.errors import DeepEMError
from ..deepem.network.geometry import BOX_PER_DIAMETER, Geometry, auto_binning, auto_geometry
from ..deepem.training.examples import examples_file
from ..objects import DeepEMModel
from ..plugin import Plugin
from .form_train import TrainForm
from .groups import names_of
from .protocol_base import DeepEMProgram
from .waiting import as_it_is_now


def _filled(pointers):
    """Those of some pointers that point at something."""
    return [pointer for pointer in pointers if pointer.get() is not None]


def _numbers(text):
    """Whole numbers in a text parameter."""
    return [int(word) for word in text.get("").replace(",", " ").split()]


class DeepEMTrainOutput(enum.Enum):
    outputModel = DeepEMModel


class ProtDeepEMTrain(DeepEMProgram, TrainForm, EMProtocol):
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

    Starts with the weights of an earlier model, which needs fewer particles and epochs if the particle looks similar.

    *While coordinates arrive*

    Training begins once there are as many micrographs or particles as the tab *Streaming* says, or at the end of the
    input. *Continue* after a crash goes on from the last complete epoch, unless parameters or inputs were changed.

    *Output*

    outputModel: the network with its threshold and figures, kept in one file inside the folder of this run.
    """

    _label = "training"
    _devStatus = NEW
    _possibleOutputs = DeepEMTrainOutput
    stepsExecutionMode = STEPS_SERIAL
    _toldWaiting = None

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # By the arguments Continue knows what it has to do again when an input or a parameter was exchanged.
        inputs = [[p.getUniqueId() for p in self._getUsedInputs()], self._getWanted()]
        training = [self._getArguments(), self.doTune.get(), self.tuneMinutes.get() if self.doTune else None]
        self._insertFunctionStep(self.convertInputStep, *inputs, wait=self._isWaiting(), needsGPU=False)
        self._insertFunctionStep(self.trainStep, *training, *inputs, needsGPU=True)
        self._insertFunctionStep(self.createOutputStep, *training, *inputs, needsGPU=False)

    def _stepsCheck(self):
        first = self._steps[0]
        if first.isWaiting() and not self._isWaiting():
            first.setStatus(STATUS_NEW)

    def _isWaiting(self):
        """Whether the input has still to grow; tells the log what is waited for."""
        waiting = self._getWaiting()
        if waiting and waiting != self._toldWaiting:
            self.info(f"Waiting for {' and '.join(waiting)}")
        self._toldWaiting = waiting
        return bool(waiting)

    # -------------------------- STEPS functions ------------------------------
    def convertInputStep(self, inputIds, wanted=()):
        pwutils.cleanPath(self._getExamplesFile(), self._getBegunFile())
        if errors := self._exampleErrors():
            raise RuntimeError(" ".join(errors))
        coordinates = self._getNow(self.inputCoordinates)
        main = convert.micrographs_with_coordinates(coordinates)
        mics = dict(main)
        for pointer in self._getMoreSets():
            for name, mic in convert.micrographs_with_coordinates(self._getNow(pointer)).items():
                mics.setdefault(name, mic)
        for number, mic in enumerate(mics.values(), 1):
            mic.setObjId(number)  # sets of several imports may use the same numbers
        results = convert.result_names(mics.values())
        convert.write_micrograph_list(self._getListFile(), mics.values(), results)
        names = {micName: results[mic.getObjId()] for micName, mic in mics.items()}
        rate = self._getSamplingRate()
        namesOfMain = {micName: names[micName] for micName in main}
        particles = convert.write_boxes(self._getCoordinatesDir(), coordinates, namesOfMain, rate)
        if self.negativeCoordinates.get() is not None:
            number = convert.write_boxes(self._getNegativesDir(), self._getNow(self.negativeCoordinates), namesOfMain,
                                         rate)
            self.info(f"{number} verified non-particles")
        for pointers, folder in ((self.moreParticles, self._getMoreParticlesDir),
                                 (self.moreNegatives, self._getMoreNegativesDir)):
            for number, pointer in enumerate(_filled(pointers), 1):
                convert.write_boxes(folder(number), self._getNow(pointer), names, rate)
        self._forgetStudy()
        convert.write_json(self._getExamplesFile(), {"micrographs": len(main), "particles": particles,
                                                      "open": coordinates.isStreamOpen()})
        self.info("\n".join(self._getBeginning()))

    def trainStep(self, arguments, doTune, minutes, *inputs):
        settings = [doTune, arguments, *inputs]
        if not doTune and os.path.exists(self._getModelFile()) and convert.read_json(self._getBegunFile()) == settings:
            self.info("The program has gone on after this run was interrupted, and has finished the model.")
            return
        # What an earlier attempt left must not pass for the result of this one.
        pwutils.cleanPath(self._getModelFile(), str(examples_file(self._getModelFile())))
        convert.write_json(self._getBegunFile(), settings)
        if doTune:
            pwutils.cleanPath(self._getModelFile() + ".checkpoint")
            # A search goes on as long as nothing but the time for it has changed.
            if convert.read_json(self._getStudyArgumentsFile()) != arguments:
                self._forgetStudy()
            convert.write_json(self._getStudyArgumentsFile(), arguments)
            self.runDeepEM("tune", [*arguments, "--study", self._getStudyFile(),
                                    "--minutes", f"{minutes:g}"])
        else:
            # Beside the model lies what a run that was killed had reached; the program goes on from there if it suits.
            self.runDeepEM("train", arguments)
        if not os.path.exists(self._getModelFile()):
            raise RuntimeError(f"The program ended without writing {self._getModelFile()}; see the log of the run.")

    def createOutputStep(self, *settings):
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
        if coordinates.getMicrographs() is None:
            return ["The micrographs of the coordinates are not known."]
        if not self._getDiameter():
            errors.append("The coordinates have no box size to take the particle diameter from. Give the diameter.")
        elif not (self.doContinue or self.doTune):
            errors += self._geometryErrors()
        if self.doContinue and self.inputModel.get() is not None \
                and not os.path.exists(self.inputModel.get().getFileName()):
            errors.append(f"The file of the earlier model, {self.inputModel.get().getFileName()}, is missing.")
        if self.rounds.get() > 1 and not self.validationFraction.get():
            errors.append("The validation micrographs tell whether another round helps. Give a validation fraction "
                          "above 0, or set the automatic rounds to 1.")
        # Of sets that are still growing nothing can be said.
        return ([] if self._getWaiting() else self._exampleErrors()) + errors + self._tuningErrors()

    def _warnings(self):
        warnings = []
        coordinates = self.inputCoordinates.get()
        if coordinates is not None and coordinates.getSize() and not coordinates.isStreamOpen():
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
        summary += self._getBeginning()
        if model is None:
            if self.inputCoordinates.get() is not None and not os.path.exists(self._getExamplesFile()):
                summary += [f"Waiting for {waiting}" for waiting in self._getWaiting()]
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
    def _getNow(self, pointer):
        """The set of coordinates that a pointer points at, with all that has arrived by now."""
        return as_it_is_now(pointer.get(), self.getProject())

    def _getWanted(self):
        """Numbers of micrographs and particles to begin with; 0: does not count."""
        return [self.waitMicrographs.get(), self.waitParticles.get()]

    def _getWaiting(self):
        """What the training waits for, in words; empty where it can begin."""
        waiting = []
        coordinates = self._getNow(self.inputCoordinates)
        if coordinates.isStreamOpen():
            micrographs, particles = self._getWanted()
            if not (micrographs or particles):
                waiting.append("the end of the particle coordinates")
            for wanted, found, what in (
                    (micrographs, len(names_of(coordinates)), "micrographs with particles"),
                    (max(particles, MIN_PARTICLES), coordinates.getSize(), "particles")):
                if found < wanted:
                    waiting.append(f"{wanted} {what} ({found} so far)")
        if any(self._getNow(pointer).isStreamOpen() for pointer in [*_filled([self.negativeCoordinates]),
                                                                    *self._getMoreSets()]):
            waiting.append("the end of the other sets of coordinates")
        return waiting

    def _getBeginning(self):
        """Sentences about what was there when the training began; empty where it has not, or had all that it wants."""
        found = convert.read_json(self._getExamplesFile())
        if not found or not any(self._getWanted()):
            return []
        what = f"{found['micrographs']} micrographs with {found['particles']} particles"
        if found["open"]:
            return [f"Training began with {what}; the input was still growing."]
        micrographs, particles = self._getWanted()
        few = found["micrographs"] < micrographs or found["particles"] < particles
        return [f"Training began with {what} at the end of the input" + (", fewer than wanted." if few else ".")]

    def _getExamplesFile(self):
        return self._getExtraPath("examples.json")

    def _getBegunFile(self):
        return self._getExtraPath("training.json")

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
        return self.boxSize.get(), _numbers(self.kernels), _numbers(self.pools), _numbers(self.maps)

    def _geometryErrors(self):
        """What the method has against the layers or the diameter."""
        try:
            if self.preset.get() == PRESET_CUSTOM:
                Geometry(*self._getCustomLayers())
            elif self.preset.get() == PRESET_AUTO:
                working = self._getSamplingRate() * auto_binning(self._getDiameter(), self._getSamplingRate())
                auto_geometry(self._getDiameter() / working, _numbers(self.maps))
        except (DeepEMError, ValueError) as error:
            return [f"Network: {error}"]
        return []

    def _exampleErrors(self):
        """What is wrong with the sets of coordinates as they are now."""
        errors = []
        main, rate = self._getNow(self.inputCoordinates), self._getSamplingRate()
        more = {what: [self._getNow(pointer) for pointer in _filled(pointers)]
                for what, pointers in (("More verified particles", self.moreParticles),
                                       ("More verified non-particles", self.moreNegatives))}
        particles = main.getSize() + sum(found.getSize() for found in more["More verified particles"])
        if particles < MIN_PARTICLES:
            errors.append(f"{particles} particles were found; at least {MIN_PARTICLES} are needed, and a hundred or "
                          "more are better. Pick on more micrographs.")
        known = names_of(main)
        if self.negativeCoordinates.get() is not None and not known & names_of(self._getNow(self.negativeCoordinates)):
            errors.append("The verified non-particles are on none of the micrographs with particles. Choose a set that "
                          "was picked on the same micrographs, or give it under *More verified non-particles*.")
        for what, sets in more.items():
            for coordinates in sets:
                own = coordinates.getMicrographs().getSamplingRate()
                if not coordinates.getSize():
                    errors.append(f"{what}: a set without any coordinates was given. Remove it.")
                elif abs(own - rate) > 1e-3 * rate and names_of(coordinates) - known:
                    errors.append(f"{what}: a set is on other micrographs than the particle coordinates, and these "
                                  f"have {own:.4g} Å/px instead of {rate:.4g} Å/px. Choose a set that was picked on "
                                  "micrographs of the same pixel size.")
        right = {p.getUniqueId() for p in [self.inputCoordinates, *_filled(self.moreParticles)]}
        wrong = {p.getUniqueId() for p in _filled([self.negativeCoordinates, *self.moreNegatives])}
        if right & wrong:
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
        if not self.validationFraction.get():
            errors.append("Tuning compares networks by the validation micrographs. Give a validation fraction above 0.")
        return errors + Plugin.validateModules(["optuna"])

    def _getRecipeWords(self):
        """How the network was trained, for a text."""
        return "recipe as found by tuning" if self.doTune else f"recipe {TRAINING_PRESETS[self.trainingPreset.get()]}"

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
        return [*arguments, "--training-preset", TRAINING_PRESETS[self.trainingPreset.get()], *self._getNetworkArguments()]

    def _getNetworkArguments(self):
        if self.doContinue:
            return ["--continue-from", self.inputModel.get().getFileName()]
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
