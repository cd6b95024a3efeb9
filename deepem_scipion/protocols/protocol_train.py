# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of a model on picked particles."""

import enum
import os
from glob import escape, glob
from itertools import islice
from pathlib import Path

import pyworkflow.utils as pwutils
from pwem.protocols import EMProtocol
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_SERIAL

from .. import convert
from ..constants import MIN_PARTICLES, MODEL_FILE, TRAIN_MODULES
from ..deepem.model.paths import ModelFiles
from ..objects import DeepEMModel
from ..plugin import Plugin
from .form_train import TrainForm, filled, micrographs_of
from .groups import with_coordinates
from .protocol_base import DeepEMProgram
from .waiting import WaitsForInput


class DeepEMTrainOutput(enum.Enum):
    outputModel = DeepEMModel


class ProtDeepEMTrain(DeepEMProgram, TrainForm, WaitsForInput, EMProtocol):
    """ Trains a DeepEM model to pick your particle.

    DeepEM (Zhu, Ouyang & Mao, 2017) is a convolutional neural network that classifies boxes of a micrograph as
    particle or background. It learns this from picked particles. The model picks any number of similar micrographs
    with the protocol *DeepEM picking*.

    *What you need*

    Coordinates on a few micrographs, picked by hand, or picked by another program and manually curated. A hundred
    particles on three or four micrographs are a start, several hundred on ten are better. Choose micrographs that
    cover the range of your data: thin and thick ice, low and high defocus. Pick *every* particle on these micrographs,
    because everything else serves as an example of background. Micrographs without coordinates are not used.

    Or only micrographs: without coordinates the model learns from the confident picks of the general model on the first
    20 of them, and is kept only if its own picks resemble the particles more than those that it drops. The figures
    of such a training compare it with the general model and are no validation.

    *Particle diameter*

    The longest dimension in angstrom. It determines the box of the network and the binning of the micrographs. If it is
    0, two thirds of the box size of the coordinates are used.

    *Background and contaminants* (optional)

    Coordinates of ice crystals, edges of carbon, or aggregates. Without them, negatives are taken at random positions
    away from the particles; with them, from both. Use them if an earlier model picks the same contamination
    again and again: its rejected picks are such coordinates.

    *More particles, more background and contaminants* (optional)

    Sets that were curated later, for instance picks of an earlier model, also on other micrographs. On micrographs
    that occur only in these sets nothing else counts as background, so not every particle needs to be picked there.

    *Training preset, layers, tuning*

    The default training preset suits nearly all data; *paper* follows the publication and takes longer. Automatic
    layers fit the particle diameter; the others are those of the publication's Table 1 and expect particles of about
    that size in pixels. *Tune network and training* tries many networks for a given time and keeps the model with the
    best picks on the validation micrographs.

    *Validation*

    The validation fraction of the micrographs is not used for training and is picked afterwards. The summary gives
    the precision (the fraction of picks that are particles) and the recall (the fraction of particles that were
    picked) at the threshold with the best F2, a mean of both in which recall has more weight. Particles that you
    overlooked count as false positives: look at the picks before you train again. If the figures are poor add
    micrographs first, then rounds or epochs.

    *Fine-tuning*

    Training that starts with the weights of a model of similar particles needs fewer particles and epochs.

    *Streaming*

    Training starts as soon as there are enough micrographs or particles (tab *Streaming*), or when the input ends.
    *Continue* resumes after the last complete epoch if nothing has changed; without coordinates it starts again.

    *Output*

    outputModel: the model with its threshold and validation figures, in one file in the extra folder.
    """

    _label = "training"
    _devStatus = NEW
    _possibleOutputs = DeepEMTrainOutput
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # Continue repeats the steps whose arguments have changed.
        inputs = [[p.getUniqueId() for p in self._getUsedInputs()], self._getWanted()]
        training = [self._getArguments(), self.doTune.get(), self.tuneMinutes.get() if self.doTune else None]
        self._insertFunctionStep(self.convertInputStep, *inputs, wait=self._isWaiting(), needsGPU=False)
        self._insertFunctionStep(self.trainStep, *training, *inputs, needsGPU=True)
        self._insertFunctionStep(self.createOutputStep, *training, *inputs, needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def convertInputStep(self, inputIds, wanted=()):
        """Write the list of micrographs and the .box files for the program."""
        pwutils.cleanPath(self._getExamplesFile(), self._getStartedFile())
        if errors := self._exampleErrors():
            raise RuntimeError(" ".join(errors))
        coordinates = self._getNow(self.inputCoordinates)
        if self._isUnlabelled():
            self._convertUnlabelled(coordinates)
            return
        keys = self._getKeys()
        main = convert.micrographs_with_coordinates(coordinates, keys[self.inputCoordinates])
        mics = dict(main)
        for pointer in self._getMoreSets():
            for name, mic in convert.micrographs_with_coordinates(self._getNow(pointer), keys[pointer]).items():
                mics.setdefault(name, mic)
        for number, mic in enumerate(mics.values(), 1):
            mic.setObjId(number)  # several imports may use the same ids
        results = convert.result_names(mics.values())
        convert.write_micrograph_list(self._getListFile(), mics.values(), results)
        names = {micName: results[mic.getObjId()] for micName, mic in mics.items()}
        rate = self._getSamplingRate()
        namesOfMain = {micName: names[micName] for micName in main}
        particles = convert.write_boxes(self._getCoordinatesDir(), coordinates, namesOfMain, rate,
                                        keys[self.inputCoordinates])
        if self.negativeCoordinates.get() is not None:
            number = convert.write_boxes(self._getNegativesDir(), self._getNow(self.negativeCoordinates), namesOfMain,
                                         rate, keys[self.negativeCoordinates])
            self.info(f"{number} positions of background and contaminants")
        for pointers, folder in ((self.moreParticles, self._getMoreParticlesDir),
                                 (self.moreNegatives, self._getMoreNegativesDir)):
            for number, pointer in enumerate(filled(pointers), 1):
                convert.write_boxes(folder(number), self._getNow(pointer), names, rate, keys[pointer])
        self._forgetStudy()
        convert.write_json(self._getExamplesFile(), {"micrographs": len(main), "particles": particles,
                                                      "open": coordinates.isStreamOpen()})
        self.info("\n".join(self._getStart()))

    def _convertUnlabelled(self, micSet):
        """Write the list of the first micrographs, of which nothing is marked."""
        mics = [mic.clone() for mic in islice(micSet, self._getUnlabelled())]
        convert.write_micrograph_list(self._getListFile(), mics, convert.result_names(mics))
        convert.write_json(self._getExamplesFile(), {"micrographs": len(mics), "particles": 0,
                                                      "open": micSet.isStreamOpen()})
        self.info("\n".join(self._getStart()))

    def trainStep(self, arguments, doTune, minutes, *inputs):
        """Train or tune, resuming an interrupted run of the program."""
        settings = [doTune, arguments, *inputs]
        started = convert.read_json(self._getStartedFile())
        if not doTune and os.path.exists(self._getModelFile()) and started == settings:
            self.info("The program kept running after this run was interrupted, and has finished the model.")
            return
        # The result of an earlier attempt must not be taken for that of this one.
        pwutils.cleanPath(self._getModelFile(), str(self._getModelFiles().examples))
        convert.write_json(self._getStartedFile(), settings)
        if doTune:
            pwutils.cleanPath(str(self._getModelFiles().checkpoint))
            # A search is resumed unless anything but its time has changed.
            if convert.read_json(self._getStudyArgumentsFile()) != arguments:
                self._forgetStudy()
            convert.write_json(self._getStudyArgumentsFile(), arguments)
            self.runDeepEM("tune", [*arguments, "--study", self._getStudyFile(),
                                    "--minutes", f"{minutes:g}"])
        else:
            # The program resumes from the checkpoint next to the model if it belongs to the same training.
            self.runDeepEM("train", arguments)
        if not os.path.exists(self._getModelFile()):
            raise RuntimeError(f"The program ended without writing {self._getModelFile()}; see the log of the run.")

    def createOutputStep(self, *settings):
        """Register the model."""
        model = convert.read_model(self._getModelFile())
        self._defineOutputs(**{DeepEMTrainOutput.outputModel.name: model})
        for pointer in self._getUsedInputs():
            self._defineSourceRelation(pointer, model)

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        errors = self._awaitedErrors()
        coordinates = self.inputCoordinates.get()
        if coordinates is None:
            return errors  # reported by the framework
        if micrographs_of(coordinates) is None:
            return ["The micrographs of the coordinates are unknown. Choose coordinates with their micrographs."]
        if self._isUnlabelled():
            errors += self._unlabelledErrors()
        elif not self._getDiameter():
            errors.append("The coordinates have no box size from which to derive the particle diameter. Give the "
                          "diameter.")
        elif not (self.doContinue or self.doTune):
            errors += self._geometryErrors()
        if self.doContinue and self.inputModel.get() is not None \
                and not os.path.exists(self.inputModel.get().getFileName()):
            errors.append(f"The file of the existing model, {self.inputModel.get().getFileName()}, is missing.")
        if self.rounds.get() > 1 and not self.validationFraction.get():
            errors.append("Whether another round helps is decided on the validation micrographs. Give a validation "
                          "fraction above 0, or set the rounds of training to 1.")
        # Sets that are still growing cannot be checked yet.
        errors += self._tuningErrors() + Plugin.validateModules((*TRAIN_MODULES, *["optuna"] * bool(self.doTune)))
        return ([] if self._getWaiting() else self._exampleErrors()) + errors

    def _warnings(self):
        warnings = []
        coordinates = self.inputCoordinates.get()
        if coordinates is not None and coordinates.getSize() and not (coordinates.isStreamOpen()
                                                                      or self._isUnlabelled()):
            number = len(coordinates.getUniqueValues("_micId"))
            if number == 1 and self.validationFraction.get() > 0:
                warnings.append("All particles are on one micrograph. A part of its area will be used for validation, "
                                "but the figures may not hold for other micrographs.")
        if coordinates is not None and micrographs_of(coordinates) is not None:
            warnings += convert.frame_warnings(micrographs_of(coordinates))
        model = self.inputModel.get()
        if self.doContinue and model is not None and model.getDiameter():
            ratio = self._getDiameter() / model.getDiameter() if coordinates is not None else 1
            if not 0.8 <= ratio <= 1.25:
                warnings.append(f"The existing model is for particles of {model.getDiameter():.0f} Å, these measure "
                                f"{self._getDiameter():.0f} Å. Training from scratch may be faster.")
        return warnings

    def _summary(self):
        summary = []
        if self.inputCoordinates.get() is not None and self._getDiameter():
            origin = "given" if self.particleDiameter.get() else "from the box size"
            pixels = self._getDiameter() / self._getSamplingRate()
            summary.append(f"Particle diameter: {self._getDiameter():.1f} Å ({origin}), {pixels:.0f} px of the "
                           f"micrographs at {self._getSamplingRate():.2f} Å/px")
        for what, pointers in self._getMore().items():
            if filled(pointers):
                summary.append(f"{what}: {', '.join(str(pointer.get().getSize()) for pointer in filled(pointers))}")
        model = getattr(self, DeepEMTrainOutput.outputModel.name, None)
        summary += self._getStart()
        if model is None:
            if self.inputCoordinates.get() is not None and not os.path.exists(self._getExamplesFile()):
                summary += [f"Waiting for {waiting}" for waiting in self._getWaiting()]
            return summary + ["The model is not ready yet."]
        working = model.getWorkingSamplingRate()
        summary.append(f"Network: box {model.getBoxSize()} px at a working pixel size of {working:.2f} Å "
                       f"({model.getBoxSize() * working:.0f} Å), micrographs downsampled by a factor of "
                       f"{working / model.getSamplingRate():.2f}")
        summary.append(", ".join([f"Trained on {model._numberOfMicrographs} micrographs with "
                                  f"{model._numberOfParticles} particles", *model.getTraining()]))
        figures = ", ".join(f"{name} {value:.3f}" for name, value in model.getValidation())
        summary.append(f"Validation: {figures or 'none'}; threshold {model.getThreshold():.3f}")
        summary += [f"*Warning:* {problem}" for problem in model.getWarnings()]
        if self.doTune:
            summary.append(f"Report of the tuning: {self._getModelFiles().tuning_report}")
        return summary

    def _methods(self):
        model = getattr(self, DeepEMTrainOutput.outputModel.name, None)
        if model is None:
            return []
        text = (f"A DeepEM network [Zhu2017] with boxes of {model.getBoxSize()} px at "
                f"{model.getWorkingSamplingRate():.2f} Å/px was trained on {model._numberOfParticles} particles with a "
                f"diameter of {model.getDiameter():.0f} Å from {model._numberOfMicrographs} micrographs "
                f"({', '.join([self._getPresetWords(), *model.getTraining(), f'seed {self.seed}'])}).")
        figures = dict(model.getValidation())
        if "precision" in figures and "recall" in figures:
            text += (f" On validation micrographs it reached a precision of {figures['precision']:.2f} and "
                     f"a recall of {figures['recall']:.2f} at a threshold of {model.getThreshold():.2f}.")
        return [text]

    def _citations(self):
        return ["Zhu2017"]

    # -------------------------- UTILS functions ------------------------------
    def _getExamplesFile(self):
        return self._getExtraPath("examples.json")

    def _getStartedFile(self):
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

    def _getModelFiles(self):
        """Model file and the files next to it."""
        return ModelFiles(Path(self._getModelFile()))

    def _getStudyFile(self):
        return self._getExtraPath("tuning.study")

    def _getStudyArgumentsFile(self):
        return self._getExtraPath("tuning.arguments.json")

    def _forgetStudy(self):
        """Remove the search of other data or other settings."""
        pwutils.cleanPath(self._getStudyArgumentsFile(), *glob(escape(self._getStudyFile()) + "*"))

    def _getMore(self):
        """Pointers to further sets of coordinates by the label of their parameter."""
        return {"More particles": self.moreParticles, "More background and contaminants": self.moreNegatives}

    def _getMoreSets(self):
        """Pointers to all further sets of coordinates."""
        return filled(self.moreParticles) + filled(self.moreNegatives)

    def _getKeys(self):
        """Unique names of micrographs by id for each pointer to coordinates, see `convert.keys_by_id`."""
        pointers = filled([self.inputCoordinates, self.negativeCoordinates]) + self._getMoreSets()
        return dict(zip(pointers, convert.keys_by_id([pointer.get().getMicrographs() for pointer in pointers],
                                                     self.getProject())))

    def _getUsedInputs(self):
        """Pointers to the inputs of the model."""
        return [*filled([self.inputCoordinates, self.negativeCoordinates]), *self._getMoreSets(),
                *filled([self.inputModel] * bool(self.doContinue))]

    def _exampleErrors(self):
        """Problems of the sets of coordinates as they are now."""
        errors = []
        if self._isUnlabelled():
            return errors if self._getNow(self.inputCoordinates).getSize() else ["There are no micrographs."]
        main, rate, keys = self._getNow(self.inputCoordinates), self._getSamplingRate(), self._getKeys()
        more = {what: [(self._getNow(pointer), keys[pointer]) for pointer in filled(pointers)]
                for what, pointers in self._getMore().items()}
        particles = main.getSize() + sum(found.getSize() for found, _ in more["More particles"])
        if particles < MIN_PARTICLES:
            errors.append(f"{particles} particles were found; at least {MIN_PARTICLES} are required, and a hundred or "
                          "more are better. Pick more micrographs.")
        known = with_coordinates(main, keys[self.inputCoordinates])
        negative = self.negativeCoordinates
        if negative.get() is not None and not known & with_coordinates(self._getNow(negative), keys[negative]):
            errors.append("The background and contaminants are on none of the micrographs with particles. Choose a set "
                          "picked on the same micrographs, or give it under *More background and contaminants*.")
        for what, sets in more.items():
            for coordinates, own_keys in sets:
                own = coordinates.getMicrographs().getSamplingRate()
                if not coordinates.getSize():
                    errors.append(f"{what}: a set without coordinates was given. Remove it.")
                elif abs(own - rate) > 1e-3 * rate and with_coordinates(coordinates, own_keys) - known:
                    errors.append(f"{what}: a set is on other micrographs than the particle coordinates, and these "
                                  f"have {own:.4g} Å/px instead of {rate:.4g} Å/px. Choose a set picked on "
                                  "micrographs of the same pixel size.")
        positives = {p.getUniqueId() for p in [self.inputCoordinates, *filled(self.moreParticles)]}
        negatives = {p.getUniqueId() for p in filled([self.negativeCoordinates, *self.moreNegatives])}
        if positives & negatives:
            errors.append("The same set was given as particles and as background. Remove one of them.")
        return errors
