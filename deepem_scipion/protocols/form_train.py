# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of the training protocol."""

from pyworkflow.protocol import params

from ..constants import PRESET_AUTO, PRESET_CUSTOM, PRESET_LABELS, TRAINING_PRESETS
from ..deepem.network.geometry import BOX_PER_DIAMETER


class TrainForm:
    """Parameters of the training. To be inherited together with a protocol."""

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
        form.addParam("doContinue", params.BooleanParam, default=False, label="Continue from a model?",
                      help="Yes: start with the weights of an earlier model of a similar particle, which saves "
                           "particles and time. The network's layers are then those of that model.")
        form.addParam("inputModel", params.PointerParam, pointerClass="DeepEMModel", condition="doContinue",
                      label="Earlier model", help="Model to start with. It is not changed.")

    def _defineMoreInputParams(self, form):
        form.addSection(label="More examples")
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

    def _defineTrainingParams(self, form):
        form.addSection(label="Training")
        form.addParam("doTune", params.BooleanParam, default=False, label="Tune the network first?",
                      help="Yes: many networks and recipes are tried, the automatic one first, and the one whose picks "
                           "on the validation micrographs are best becomes the model. Worth the time when the usual "
                           "training leaves much to be desired, or before you pick thousands of micrographs. The "
                           "report is beside the model. *Continue* goes on with the search.")
        form.addParam("tuneMinutes", params.FloatParam, default=60, condition="doTune", label="Time for tuning (min)",
                      validators=[params.GT(0, error="should be above 0")],
                      help="Time for the search, in which some ten to a hundred networks should find room: an hour "
                           "without a GPU, half of it with one. The first network is trained in any case. To "
                           "search longer raise it and use *Continue*.")
        form.addParam("trainingPreset", params.EnumParam, choices=TRAINING_PRESETS, default=0, display=params.EnumParam.DISPLAY_HLIST,
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
                      help="1 to 5. So many networks are trained, each with another part of the micrographs kept out, "
                           "and their scores are averaged. More are a little steadier; training and picking take so "
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
        group = form.addGroup("Network", condition="not doContinue and not doTune")
        group.addParam("preset", params.EnumParam, choices=PRESET_LABELS, default=PRESET_AUTO,
                       label="Layers",
                       help="*automatic*: micrographs are reduced and the layers fitted to the particle diameter. "
                            "*KLH*, *19S*, *26S*, *inflammasome*: windows of 272, 160, 150 and 112 px as in the "
                            "publication. *custom*: the values below.")
        custom = {"condition": f"preset == {PRESET_CUSTOM}",
                  "expertLevel": params.LEVEL_ADVANCED}
        group.addParam("boxSize", params.IntParam, default=272, label="Window (working px)", **custom,
                       help="Side of the network's window, in pixels of the reduced micrograph; about 1.5 diameters. "
                            "It must fit to kernels and pools without remainder; if it does not, values that do are "
                            "named.")
        group.addParam("kernels", params.StringParam, default="51 21 10", label="Kernels (working px)", **custom,
                       help="Sides of the three convolutions. The first should be about a fifth of the window, so "
                            "that it sees parts of the particle instead of noise.")
        group.addParam("pools", params.StringParam, default="3 2 2", label="Pools (working px)", **custom,
                       help="Sides of the three averaging cells, 2 or 3. The first is the scan step.")
        group.addParam("maps", params.StringParam, default="6 12 12", label="Feature maps",
                       expertLevel=params.LEVEL_ADVANCED, condition=f"preset in ({PRESET_AUTO}, {PRESET_CUSTOM})",
                       help="Number of feature maps of the three stages, 4 to 32. More can tell more kinds of views "
                            "apart; they need more particles and time. 12 24 24 with 30 epochs find more on very "
                            "noisy micrographs if there are many.")
        group.addParam("workingSamplingRate", params.FloatParam, default=0, label="Working pixel size (Å)", **custom,
                       validators=[params.GE(0, error="should not be negative")],
                       help="Micrographs are reduced to this pixel size before the network sees them. 0: the multiple "
                            "of their own pixel size at which the window measures about 1.5 diameters.")

    def _defineWaitingParams(self, form):
        form.addSection(label="Streaming")
        form.addParam("waitMicrographs", params.IntParam, default=0, label="Micrographs to begin with",
                      validators=[params.GE(0, error="should not be negative")],
                      help="For coordinates that are still being picked or imported: training begins as soon as so "
                           "many micrographs have coordinates, with all that are there then; what comes later is left "
                           "out. If the input ends with fewer, training begins with those. With 0 here and below it "
                           "waits for the end of the input.")
        form.addParam("waitParticles", params.IntParam, default=0, label="Particles to begin with",
                      validators=[params.GE(0, error="should not be negative")],
                      help="Likewise, the number of coordinates: 100 are a start, 500 are better. Where both numbers "
                           "are given both must be reached.")
