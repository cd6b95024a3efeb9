# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Form of the training protocol, and the arguments of the program that follow from it."""

from pwem.objects import SetOfMicrographs
from pyworkflow.protocol import params

from ..constants import (
    DARK,
    PRESET_AUTO,
    PROCEDURE_OWN,
    PROCEDURE_PAPER,
    TIFF_ROWS,
    TRAINING_PRESETS,
    UNLABELLED,
)
from ..deepem.model.general import CONTRASTS
from ..deepem.network.geometry import BOX_PER_DIAMETER
from .form_network import NetworkForm

# Condition of parameters that the paper's procedure does without.
BY_PAPER = f"not doTune and not doContinue and procedure == {PROCEDURE_PAPER}"
# Condition of the parameter that only trainings without coordinates have.
UNLABELLED_ONLY = ("not doContinue and (inputCoordinates is None or "
                   "isinstance(inputCoordinates, SetOfMicrographs))")


class TrainForm(NetworkForm):
    """Parameters of training. To be inherited together with a protocol."""

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        self._defineGpuParams(form)
        self._defineInputParams(form)
        self._defineMoreInputParams(form)
        self._defineTrainingParams(form)
        self._defineNetworkParams(form)
        self._defineWaitingParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _defineInputParams(self, form):
        form.addSection(label="Input")
        form.addParam("inputCoordinates", params.PointerParam, pointerClass="SetOfCoordinates, SetOfMicrographs",
                      important=True, label="Particle coordinates, or micrographs",
                      help="Particles for training, usually 100 to 1000 on 3 to 10 micrographs. All particles of these "
                           "micrographs should be picked, because the rest serves as examples of background. Or "
                           "micrographs of which nothing is picked: then the model learns from the confident picks of "
                           f"the general model on the first {UNLABELLED} of them, and only the diameter is needed.")
        form.addParam("particleDiameter", params.FloatParam, default=0, label="Particle diameter (Å)",
                      validators=[params.GE(0, error="should not be negative")],
                      help="Longest dimension of the particle, usually 80 to 400 Å. If it is too small the network "
                           "does not see the outline of the particle, if it is too large neighbouring particles are "
                           f"in the box. 0: the box size of the coordinates divided by {BOX_PER_DIAMETER:g}.")
        form.addParam("doContinue", params.BooleanParam, default=False, label="Fine-tune a model?",
                      help="Yes: training starts with the weights of an existing model of a similar particle, which "
                           "requires fewer particles and less time. The network has the layers of that model.")
        form.addParam("inputModel", params.PointerParam, pointerClass="DeepEMModel", condition="doContinue",
                      label="Existing model", help="Model with the initial weights. It is not modified.")
        form.addParam("contrast", params.EnumParam, choices=CONTRASTS, default=DARK, condition=UNLABELLED_ONLY,
                      display=params.EnumParam.DISPLAY_HLIST, label="Particles are",
                      help="For micrographs without coordinates: darker than their surroundings, as in cryo-EM, or "
                           "brighter, as in micrographs of negative stain or with inverted contrast.")

    def _defineMoreInputParams(self, form):
        form.addSection(label="More examples")
        form.addParam("negativeCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", allowsNull=True,
                      label="Background and contaminants",
                      help="Optional: positions without a particle on the same micrographs, such as ice crystals or "
                           "edges of carbon. They help if the picks contain much of the same contamination.")
        form.addParam("moreParticles", params.MultiPointerParam, pointerClass="SetOfCoordinates", allowsNull=True,
                      label="More particles",
                      help="Optional: further sets of particles, for instance manually curated picks of an earlier "
                           "model. They may be on other micrographs of the same pixel size. There, not all particles "
                           "need to be in the set, because the rest does not serve as background.")
        form.addParam("moreNegatives", params.MultiPointerParam, pointerClass="SetOfCoordinates", allowsNull=True,
                      label="More background and contaminants",
                      help="Optional: further sets of positions without a particle, for instance rejected picks of an "
                           "earlier model, on these or other micrographs of the same pixel size.")

    def _defineTrainingParams(self, form):
        form.addSection(label="Training")
        form.addParam("doTune", params.BooleanParam, default=False, label="Tune network and training?",
                      help="Yes: many networks are tried, beginning with the automatic one, and "
                           "the model with the best picks on the validation micrographs is kept. Worth the time if "
                           "an ordinary training is not good enough, or before picking thousands of micrographs. "
                           "A report is saved next to the model. *Continue* resumes the search.")
        form.addParam("tuneMinutes", params.FloatParam, default=60, condition="doTune", label="Time for tuning (min)",
                      validators=[params.GT(0, error="should be above 0")],
                      help="Time for the search. It should allow for 10 to 100 networks: 60 minutes on CPUs, 30 on a "
                           "GPU. The first network is always trained to the end. To search longer increase the time "
                           "and use *Continue*.")
        form.addParam("procedure", params.EnumParam, choices=("default", "paper"), default=PROCEDURE_OWN,
                      display=params.EnumParam.DISPLAY_HLIST, condition="not doTune and not doContinue",
                      expertLevel=params.LEVEL_ADVANCED, label="Procedure",
                      help="*paper*: training and picking as in the publication, for comparison: single boxes of mean "
                           "0 and standard deviation 1, 800 particles and as many positions of background in each "
                           "round, the last epoch, rounds from new weights. It needs at least three micrographs, and "
                           "one more for each further round.")
        form.addParam("trainingPreset", params.EnumParam, choices=TRAINING_PRESETS, default=0,
                      display=params.EnumParam.DISPLAY_HLIST, condition=f"not doTune and not ({BY_PAPER})",
                      label="Training preset",
                      help="*default*: a modern optimiser, which takes minutes. *paper*: the procedure of the "
                           "publication, for comparison; slower.")
        form.addParam("epochs", params.IntParam, default=0, label="Epochs",
                      validators=[params.GE(0, error="should not be negative")],
                      help="An epoch consists of 150 updates with *default*, and of all examples with *paper*. 0: 20 "
                           "epochs; 5 where *default* fine-tunes a model, and 2 where that is the general one. Use "
                           "more if the validation loss still decreases in the last epochs, as with very noisy "
                           "micrographs. The best epoch is kept, so too many only take time.")
        form.addParam("rounds", params.IntParam, default=1, label="Rounds of training",
                      validators=[params.GE(1, error="should be at least 1")],
                      help="1: the network is trained once. 2 or more: afterwards the training micrographs are picked, "
                           "and the network is trained again with its false positives and missed particles, up to this "
                           "many times. A round without improvement on the validation micrographs is discarded and "
                           "ends the training. Helps if picks contain contamination; each further round takes about "
                           "half the time of the first.")
        form.addParam("networks", params.IntParam, default=1, expertLevel=params.LEVEL_ADVANCED,
                      condition=f"not ({BY_PAPER})",
                      label="Networks to average", validators=[params.GE(1, error="should be at least 1")],
                      help="Usually 1, up to 5. Each network is validated on a different part of the micrographs, and "
                           "their scores are averaged. Scores become slightly more reproducible; training and picking "
                           "take this many times longer.")
        form.addParam("validationFraction", params.FloatParam, default=0.2, label="Validation fraction",
                      validators=[params.Range(0, 0.9, error="should be from 0 to 0.9")],
                      help="Fraction of the micrographs that is not used for training but for validation and for the "
                           "choice of the threshold, usually 0.1 to 0.3. A larger fraction gives more reliable "
                           "figures, a smaller one leaves more for training. 0: no validation.")
        form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED, label="Random seed",
                      validators=[params.GE(0, error="should not be negative")],
                      help="Any whole number. The same seed on the same computer gives the same model; different seeds "
                           "show how much the result depends on chance.")

    def _defineWaitingParams(self, form):
        form.addSection(label="Streaming")
        form.addParam("waitMicrographs", params.IntParam, default=0, label="Micrographs to start with",
                      validators=[params.GE(0, error="should not be negative")],
                      help="For coordinates that are still being picked or imported: training starts as soon as this "
                           "many micrographs have coordinates, with all coordinates available at that time; later "
                           "ones are not used. If the input ends earlier, training starts with what there is. If this "
                           "and the number of particles are 0, it waits for the end of the input.")
        form.addParam("waitParticles", params.IntParam, default=0, label="Particles to start with",
                      validators=[params.GE(0, error="should not be negative")],
                      help="The same for the number of coordinates: 100 are a start, 500 are better. If both numbers "
                           "are given both must be reached.")

    # -------------------------- INFO functions -------------------------------
    def _unlabelledErrors(self):
        """Problems of parameters that need particle coordinates."""
        if not self._isUnlabelled():
            return []
        errors = []
        if not self.particleDiameter.get():
            errors.append("Without coordinates the particle diameter is needed: give it.")
        given = {"Tune network and training?": bool(self.doTune), "Procedure of the paper": self._isByPaper(),
                 "Layers": not self.doContinue and self.preset.get() != PRESET_AUTO,
                 "Background and contaminants": self.negativeCoordinates.get() is not None,
                 "More particles": bool(filled(self.moreParticles)),
                 "More background and contaminants": bool(filled(self.moreNegatives))}
        return errors + [f"*{name}* needs particle coordinates, but micrographs were chosen. Remove it, or choose "
                         "coordinates." for name, used in given.items() if used]

    def _tuningErrors(self):
        """Problems of parameters that cannot be combined with tuning."""
        if not self.doTune:
            return []
        errors = []
        if self.doContinue:
            errors.append("Tuning searches for the best network, but fine-tuning keeps that of the existing model. "
                          "Choose one of the two.")
        if not self.validationFraction.get():
            errors.append("Tuning compares networks on the validation micrographs. Give a validation fraction above 0.")
        return errors

    # -------------------------- UTILS functions ------------------------------
    def _isUnlabelled(self):
        """Whether the input is micrographs without coordinates."""
        return isinstance(self.inputCoordinates.get(), SetOfMicrographs)

    def _getSamplingRate(self):
        """Pixel size of the micrographs, in angstrom."""
        return micrographs_of(self.inputCoordinates.get()).getSamplingRate()

    def _getDiameter(self):
        """Particle diameter in angstrom, 0 if it is not known."""
        if self.particleDiameter.get():
            return self.particleDiameter.get()
        if self._isUnlabelled():
            return 0
        return (self.inputCoordinates.get().getBoxSize() or 0) * self._getSamplingRate() / BOX_PER_DIAMETER

    def _isByPaper(self):
        """Whether training is by the paper's procedure."""
        return not self.doTune and not self.doContinue and self.procedure.get() == PROCEDURE_PAPER

    def _getPresetWords(self):
        """Words for the training preset."""
        if self._isByPaper():
            return "procedure of the paper"
        preset = TRAINING_PRESETS[0 if self.doTune else self.trainingPreset.get()]
        return f"training preset {preset}"

    def _getArguments(self):
        """Arguments of the program for training and tuning, except the number of threads and the time."""
        coordinates = [] if self._isUnlabelled() else ["--coordinates", self._getCoordinatesDir()]
        arguments = ["--micrographs", self._getListFile(), *coordinates,
                     "--diameter", f"{self._getDiameter():.6g}", "--pixel-size", f"{self._getSamplingRate():.6g}",
                     "--tiff-rows", TIFF_ROWS, "--output", self._getModelFile(),
                     "--validation-fraction", f"{self.validationFraction.get():g}", "--seed", str(self.seed.get())]
        if self.negativeCoordinates.get() is not None:
            arguments += ["--negatives", self._getNegativesDir()]
        for option, pointers, folder in (("--more-particles", self.moreParticles, self._getMoreParticlesDir),
                                         ("--more-negatives", self.moreNegatives, self._getMoreNegativesDir)):
            if filled(pointers):
                arguments += [option, *(folder(number) for number, _ in enumerate(filled(pointers), 1))]
        if self.epochs.get():
            arguments += ["--epochs", str(self.epochs.get())]
        if self.rounds.get() > 1:
            arguments += ["--rounds", str(self.rounds.get())]
        if self._isByPaper():
            return [*arguments, "--procedure", "paper", *self._getNetworkArguments()]
        if self.networks.get() > 1:
            arguments += ["--networks", str(self.networks.get())]
        if self.doTune:
            return arguments
        return [*arguments, "--training-preset", TRAINING_PRESETS[self.trainingPreset.get()],
                *self._getNetworkArguments()]


def micrographs_of(coordinates):
    """Micrographs of a set of coordinates; of micrographs the set itself."""
    return coordinates if isinstance(coordinates, SetOfMicrographs) else coordinates.getMicrographs()


def filled(pointers):
    """Pointers of a list that point to an object."""
    return [pointer for pointer in pointers if pointer.get() is not None]
