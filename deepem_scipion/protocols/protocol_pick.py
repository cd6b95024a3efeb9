# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking of particles with a trained network."""

import os
import tempfile
from glob import glob

import pyworkflow.utils as pwutils
from pwem.protocols import ProtParticlePickingAuto
from pwem.protocols.protocol_particles_picking import ProtParticlePickingOutput
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_PARALLEL, params

from .. import convert
from ..constants import STD_AUTO, STD_CHOICES, STD_CUSTOM, STD_OFF
from ..deepem.network.geometry import BOX_PER_DIAMETER
from ..deepem.picking.results import PickingResults, read_failures, write_failures
from ..deepem.picking.selection import REASON_LABELS
from ..deepem.picking.summary import summarise_run
from .protocol_base import DeepEMProgram, ProgramError
from .reporting import write_report
from .reviewing import ReviewedPicks

# The stored number is the position, so new choices go to the end.
THRESHOLD_AUTO, THRESHOLD_F1, THRESHOLD_PRECISION, THRESHOLD_FIXED = range(4)
THRESHOLD_CHOICES = ("auto (best F2)", "best F1", "given precision", "fixed value")

# Names of micrographs in a line of the summary.
MAX_LISTED = 5


class ProtDeepEMPick(ReviewedPicks, DeepEMProgram, ProtParticlePickingAuto):
    """ Picks particles with a DeepEM network that was trained before.

    The network looks at every place of a micrograph through a small window and gives it a score from 0 to 1,
    its belief that a particle is in the middle. Peaks of the score that exceed a threshold, keep a least distance
    to better peaks, and have an ordinary contrast become coordinates. No templates and no
    previous picking of these micrographs are needed.

    *Input*

    Micrographs, which may still be arriving from the microscope, and a model from *deepem_scipion - training*. They
    are brought to the model's own working pixel size, so that theirs may differ from that of the training. They should
    look alike, though: same particle, similar defocus, and contrast of the same sign.

    *Threshold*

    The automatic threshold is the one that did best in the validation of the model, where losing a particle counted
    more than a wrong pick (F2). With *best F1* both count alike, which gives fewer and surer particles; *given
    precision* takes as many particles as it can while that share of the picks was right in the validation. A *fixed
    value* may be lower when you rather clean up in 2D classification than lose rare views. Each coordinate carries
    its score, so you may pick generously now and select by score later.

    *Range of deviations*

    Windows on carbon or ice crystals have unusually strong contrast, windows on empty film have unusually little. The
    automatic range is that of the particles in the training. Turn it off if particles are lost
    on thin or thick ice; give limits of your own if contamination is picked.

    *Streaming and batches*

    Micrographs are picked in batches. In streaming a batch starts when it is full or the input is closed; choose a
    batch size of 1 to 4 to see coordinates sooner. The program that picks stays for the next batch, one for each
    thread or GPU, and keeps its memory, and that on the GPU, until the run ends. Only where the queue gets each
    command as a job of its own does every batch load the network again, which takes some seconds. On processors give
    several threads to one batch rather than run many batches at once.

    *When a micrograph cannot be read*

    It is left out and the others are picked. The summary and the comment of the output say how many failed, and
    picks/failed.tsv in the extra folder says why. *Continue* tries the failed ones again. If all of them fail, so
    does the protocol.

    *Figures*

    While it runs the summary tells the picks of a micrograph, their mean score, the share of peaks that were not
    picked and why, and the speed; picks/summary.tsv has this for every micrograph, picks/summary.json also over all,
    at most a minute old. From ten micrographs on those are named whose number of picks or mean score is further from
    the median than 3.5 standard deviations (1.4826 times the median absolute deviation). The first three are also
    looked at in negative, and a warning is given if these look more like particles. At the end report.html in the
    extra folder shows all of this, with the best, typical and worst micrographs.

    *Continue and Restart*

    *Continue* goes on where a run was stopped and needs the same parameters as before, since the coordinates
    of one set should not come from different settings. To change a parameter use *Restart* or a copy of the run.

    *Output*

    outputCoordinates: centres with the score as *_deepemScore*, and as the figure of merit that RELION's extraction
    passes on to the particles. Files of each micrograph are in extra/picks. In *Analyze results* other limits act on
    all micrographs at once, for a further output; and picks are corrected by hand, for another training.
    """

    _label = "picking"
    _devStatus = NEW
    _possibleOutputs = ProtParticlePickingOutput
    stepsExecutionMode = STEPS_PARALLEL
    _names = {}  # of the result files, by micrograph id
    _stored = None  # ids of the micrographs whose coordinates are in the output; not looked up yet

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        super()._defineParams(form)
        self._defineGpuParams(form)
        self._defineInputParams(form)
        self._defineSearchParams(form)
        self._defineStreamingParams(form)
        form.getParam("streamingBatchSize").setDefault(16)
        form.addParallelSection(threads=2, mpi=0, binThreads=4)

    def _defineInputParams(self, form):
        form.addParam("inputModel", params.PointerParam, pointerClass="DeepEMModel", important=True,
                      label="Model", help="Network from *deepem_scipion - training*, made for this particle.")
        form.addParam("boxSize", params.IntParam, default=0, allowsPointers=True, label="Box size (px)",
                      validators=[params.GE(0, error="should not be negative")],
                      help="Side of the box that later steps will cut out, in pixels of these micrographs. It does not "
                           f"change what is found. 0: {BOX_PER_DIAMETER:g} particle diameters, made even.")
        form.addParam("thresholdMode", params.EnumParam, choices=THRESHOLD_CHOICES, default=THRESHOLD_AUTO,
                      label="Threshold on the score",
                      help="Picks have at least this score. *auto*: the one with the best F2 in the validation of the "
                           "model, a mean of precision (the share of picks that are particles) and recall (the share "
                           "of particles that were found) in which recall counts more. *best F1*: likewise, both "
                           "counting alike. *given precision*: the lowest that had the precision below in the "
                           "validation. *fixed value*: the score below.")
        form.addParam("minPrecision", params.FloatParam, default=0.9,
                      condition=f"thresholdMode == {THRESHOLD_PRECISION}", label="Precision",
                      validators=[params.Range(0, 1, error="should be from 0 to 1")],
                      help="Share of the picks that should be particles, usually 0.8 to 0.95. On other micrographs it "
                           "comes out somewhat different. If the model never reached it, the run stops and says what "
                           "was reached.")
        form.addParam("threshold", params.FloatParam, default=0.5, condition=f"thresholdMode == {THRESHOLD_FIXED}",
                      label="Threshold",
                      validators=[params.Range(0, 1, error="should be from 0 to 1")],
                      help="Least score of a particle, usually 0.3 to 0.9. Higher: fewer picks, of which more are "
                           "right. Lower: more particles, but also more of everything else.")

    def _defineSearchParams(self, form):
        form.addSection(label="Search")
        form.addParam("stdRange", params.EnumParam, choices=STD_CHOICES, default=STD_AUTO,
                      display=params.EnumParam.DISPLAY_HLIST, label="Range of deviations",
                      help="Standard deviation that the window of a pick may have, where that of the whole "
                           "micrograph is 1. *automatic*: as among the particles of the training; it keeps picks "
                           "off carbon, ice and empty film. *off*: any. *custom*: from the limits below.")
        line = form.addLine("Limits of the deviation", condition=f"stdRange == {STD_CUSTOM}",
                            help="Lowest and highest deviation, for instance 0.7 and 1.4. Lower the upper limit if "
                                 "carbon or ice is picked, raise the lower one if empty film is.")
        line.addParam("stdLow", params.FloatParam, default=0.5, label="from")
        line.addParam("stdHigh", params.FloatParam, default=1.5, label="to")
        form.addParam("minDistance", params.FloatParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Least distance (Å)", validators=[params.GE(0, error="should not be negative")],
                      help="Of two peaks that are closer only the higher one is kept. 0: half a particle diameter. "
                           "Long particles that lie side by side need less, down to their width.")
        form.addParam("border", params.FloatParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Border (Å)", validators=[params.GE(0, error="should not be negative")],
                      help="Picks with a centre closer to the edge are left out: half a box where particles that "
                           "would be cut off by the edge are of no use to you. 0: none is left out.")
        form.addParam("scanStep", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Scan step (working px)", validators=[params.GE(0, error="should not be negative")],
                      help="Distance of neighbouring windows in pixels of the reduced micrograph. 0: that of the "
                           "network, 4 to 6. 1 or 2 place the centres a little better and take many times longer.")
        form.addParam("averageRotations", params.BooleanParam, default=True, expertLevel=params.LEVEL_ADVANCED,
                      label="Average four rotations?",
                      help="Yes: scores are averaged over the window turned by 0, 90, 180 and 270 degrees, as in the "
                           "publication and in the validation of the model. No: four times faster, less steady, and "
                           "the automatic threshold fits less well.")
        form.addParam("saveScoreMaps", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                      label="Save score maps?",
                      help="Yes: the score of every window is kept as an image, to see what the network sees. It takes "
                           "up to a megabyte for each micrograph.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._names, self._stored = {}, None
        self._prepareContinue()
        super()._insertAllSteps()

    def _getPickArgs(self):
        return [self._getArguments()]

    # -------------------------- STEPS functions ------------------------------
    def pickMicrographStep(self, micName, *args):
        super().pickMicrographStep(micName, *args)
        return self._getMarkers([micName])

    def pickMicrographListStep(self, micNameList, *args):
        super().pickMicrographListStep(micNameList, *args)
        return self._getMarkers(micNameList)

    def _pickMicrograph(self, mic, *args):
        self._pickMicrographList([mic], *args)

    def _pickMicrographList(self, micList, *args):
        if not micList:
            return  # Continue found all of them done
        arguments, = args
        names = self._getNames()
        batch = f"batch_{micList[0].getObjId():06d}"
        listFile = self._getExtraPath("lists", batch + ".txt")
        convert.write_micrograph_list(listFile, micList, names)
        pwutils.cleanPath(*map(self._getMicFailed, micList))
        # One for this attempt: where the run was killed before, its program may still be writing, as a job of a queue.
        pwutils.makePath(self._getTmpPath())
        folder = tempfile.mkdtemp(prefix=batch + "-", dir=self._getTmpPath())
        error = None
        try:
            self.runPick(["--micrographs", listFile, *arguments, "--contrast-checks",
                          str(self.getResults().contrast_checks_left())], folder)
        except ProgramError as problem:
            error = problem
        self._checkResults({names[mic.getObjId()]: mic for mic in micList}, folder, error)
        with self._lock:
            self.getResults().absorb(PickingResults(folder))
        pwutils.cleanPath(folder)

    def _checkResults(self, mics, folder, error):
        """Each micrograph, by name, has a result or a reason why not; reasons are noted."""
        results = PickingResults(folder)
        failed = results.read_failed()
        lost = [name for name in mics if name not in failed and not results.has_picks(name)]
        if error is not None and (lost or (error.status != 1 and len(failed) < len(mics))):
            raise error
        if lost:
            where = f"logs of the jobs in {self._getLogsPath()}" if self.useQueueForSteps() else "log of the run"
            raise RuntimeError(f"The program left no result for {len(lost)} micrographs, among them {lost[0]}; see the "
                               f"{where}. Continue picks them.")
        for name in failed.keys() & mics.keys():
            path = self._getMicFailed(mics[name])
            pwutils.makeFilePath(path)
            write_failures(path, {name: failed[name]})
            self.warning(f"{name} failed: {failed[name]}")

    # With many thousands of micrographs the framework's own ways would take longer at each check than it is apart
    # from the next one.
    def _checkNewInput(self):
        if not self.streamClosed:
            super()._checkNewInput()

    def _checkNewOutput(self):
        self._markers = set(os.listdir(os.path.dirname(self._getAllDone())))
        super()._checkNewOutput()

    def _isMicDone(self, mic):
        return os.path.basename(self._getMicDone(mic)) in self._markers

    def _readDoneList(self):
        return set(super()._readDoneList())

    def readCoordsFromMics(self, outputDir, micDoneList, outputCoords):
        names = self._getNames()
        if self._stored is None:
            # A crash may come after coordinates were stored and before this was noted: never add any twice.
            self._stored = set(outputCoords.getUniqueValues("_micId")) if outputCoords.getSize() else set()
        for mic in micDoneList:
            if mic.getObjId() not in self._stored and not os.path.exists(self._getMicFailed(mic)):
                for item in convert.read_picks(PickingResults(outputDir).path("box", names[mic.getObjId()]), mic):
                    outputCoords.append(item)
                self._stored.add(mic.getObjId())

    def _createSetOfCoordinates(self, micSet, suffix=""):
        coordinates = super()._createSetOfCoordinates(micSet, suffix)
        coordinates.setBoxSize(self._getBoxSize())
        return coordinates

    def getSummary(self, coordSet):
        """Comment of the output."""
        summary, failed, micDict = super().getSummary(coordSet), self._getFailed(), getattr(self, "micDict", {})
        return summary + f"\n{len(failed)} of {len(micDict)} micrographs failed" if failed and micDict else summary

    def _updateOutputCoordSet(self, micList, streamMode):
        # No output as long as there is nothing but failures.
        if self._getOutput() is None and all(os.path.exists(self._getMicFailed(mic)) for mic in micList):
            return micList
        return super()._updateOutputCoordSet(micList, streamMode)

    def _updateStreamState(self, streamMode):
        if self._getOutput() is not None or not self._getFailed():
            super()._updateStreamState(streamMode)

    def createOutputStep(self):
        failed = self._getFailed()
        pwutils.makePath(self.getCoordsDir())
        write_failures(self._getFailedFile(), failed)
        self.getResults().refresh()
        problem = write_report(self.getCoordsDir(), self.inputModel.get().getFileName(), self._getReportFile())
        if problem:
            self.warning(f"The report {self._getReportFile()} could not be made: {problem}")
        if failed and len(failed) == len(self.micDict):
            name, reason = next(iter(failed.items()))
            raise RuntimeError(f"None of the {len(failed)} micrographs could be picked. {name}: {reason}")
        return [self._getFailedFile()]

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        errors = []
        model = self.inputModel.get()
        if model is None or self.getInputMicrographs() is None:
            return errors  # told by the framework
        if not os.path.exists(model.getFileName()):
            errors.append(f"The file of the model, {model.getFileName()}, is missing. Train it again.")
        if self.thresholdMode.get() in (THRESHOLD_F1, THRESHOLD_PRECISION) and not model.getValidation():
            errors.append("The model was trained without validation, so there are no figures to find the threshold "
                          f"from. Choose *{THRESHOLD_CHOICES[THRESHOLD_AUTO]}* or a "
                          f"*{THRESHOLD_CHOICES[THRESHOLD_FIXED]}*.")
        if self.stdRange.get() == STD_CUSTOM and not 0 <= self.stdLow.get() < self.stdHigh.get():
            errors.append(f"Limits of the deviation: from {self.stdLow} to {self.stdHigh} was found; the first "
                          "should not be negative and the second should be larger.")
        if self.streamingBatchSize.get() < 0:
            errors.append(f"Batch size: {self.streamingBatchSize} was found; give 1 or more, or 0 for all at once.")
        if self.isContinued() and self._argumentsChanged():
            errors.append("Parameters differ from those that the first micrographs were picked with, and one set "
                          "should not mix both. Restart this run, or copy it, to pick all micrographs anew.")
        return errors

    def _warnings(self):
        warnings = []
        micSet, model = self.getInputMicrographs(), self.inputModel.get()
        if micSet is None or model is None:
            return warnings
        pixel, trained = micSet.getSamplingRate(), model.getSamplingRate()
        working = model.getWorkingSamplingRate()
        if pixel > 1.01 * working:
            warnings.append(f"The micrographs have {pixel:.2f} Å/px, coarser than the {working:.2f} Å/px that the "
                            "network works at: detail that it learned is missing. Use less binned micrographs.")
        elif abs(pixel - trained) > 0.01 * trained:
            warnings.append(f"The micrographs have {pixel:.2f} Å/px, those of the training {trained:.2f} Å/px. They "
                            f"will be brought to the {working:.2f} Å/px of the network; check the picks of the first "
                            "ones.")
        failed = self._getFailed()
        if failed and self.isContinued():
            warnings.append(f"{len(failed)} micrographs failed so far, for instance {next(iter(failed))}, and will be "
                            f"tried again; {self._getFailedFile()} says why.")
        names = micSet.getUniqueValues("_micName") if micSet.getSize() else []
        if len(names) < micSet.getSize():
            warnings.append(f"{micSet.getSize()} micrographs have only {len(names)} different names. Of those that "
                            "share a name only the last one will be picked, because Scipion tells them apart by "
                            "name here.")
        return warnings

    def _summary(self):
        summary = []
        micSet, model = self.getInputMicrographs(), self.inputModel.get()
        if micSet is not None and model is not None:
            pixel = micSet.getSamplingRate()
            summary.append(f"Particle diameter: {model.getDiameter():.1f} Å, {model.getDiameter() / pixel:.0f} px of "
                           f"the micrographs at {pixel:.2f} Å/px; box {self._getBoxSize()} px")
            step, working = self.scanStep.get() or model.getScanStep(), model.getWorkingSamplingRate()
            summary.append(f"Network: window {model.getBoxSize()} px at a working pixel size of {working:.2f} Å, scan "
                           f"step {step} px ({step * working:.0f} Å)")
            others = abs(pixel - model.getSamplingRate()) > 0.01 * pixel
            summary.append(f"Pixel size: {pixel:.2f} Å, micrographs reduced by a factor of {working / pixel:.2f}"
                           + f"; those of the training had {model.getSamplingRate():.2f} Å/px" * others)
            threshold = self._getThreshold()
            summary.append(f"Threshold: {'not known yet' if threshold is None else f'{threshold:.3f}'} "
                           f"({self._getThresholdOrigin()})")
        coords = self._getOutput()
        if coords is None:
            summary.append("The coordinates are not ready yet.")
        else:
            summary.append(f"Picked: {coords.getSize()} particles")
        summary += self._describeProgress()
        failed = self._getFailed()
        if failed:
            name, reason = next(iter(failed.items()))
            summary.append(f"*{len(failed)} micrographs failed*, listed in {self._getFailedFile()}. First: {name}: "
                           f"{reason.rstrip('.')}. Continue tries them again.")
        if os.path.exists(self._getReportFile()):
            summary.append(f"Report for a browser: {self._getReportFile()}")
        return summary

    def _methods(self):
        coords, model, micSet = self._getOutput(), self.inputModel.get(), self.getInputMicrographs()
        threshold = self._getThreshold() if model is not None else None
        if coords is None or threshold is None or micSet is None:
            return []
        number = micSet.getSize() - len(self._getFailed())
        return [f"{coords.getSize()} particles were picked from {number} micrographs with a DeepEM network [Zhu2017] "
                f"that looks at windows of {model.getBoxSize()} px at {model.getWorkingSamplingRate():.2f} Å/px; "
                f"picks have a score of at least {threshold:.2f} ({self._getThresholdOrigin()})."]

    def _citations(self):
        return ["Zhu2017"]

    # -------------------------- UTILS functions ------------------------------
    def _getOutput(self):
        return getattr(self, ProtParticlePickingOutput.outputCoordinates.name, None)

    def getCoordsDir(self):
        return self._getExtraPath("picks")

    def getResults(self):
        """Results folder of all batches."""
        return PickingResults(self.getCoordsDir())

    def _getRunSettings(self):
        """How micrographs were picked, as far as it is known."""
        return self.getResults().read_settings() if self.getResults().exists() else None

    def _getFailedFile(self):
        return str(self.getResults().path("failed"))

    def _getSummaryFile(self):
        return str(self.getResults().path("settings"))

    def _getReportFile(self):
        return self._getExtraPath("report.html")

    def _getMicFailed(self, mic):
        return self._getExtraPath("FAILED", f"mic_{mic.getObjId():06d}.TXT")

    def _getFailed(self):
        """Reasons of the micrographs that failed, by name."""
        folder = self._getExtraPath("FAILED")
        files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return {name: reason for file in files
                for name, reason in read_failures(os.path.join(folder, file)).items()}

    def _describeProgress(self):
        """Lines about how picking goes and went, from what was noted of each micrograph."""
        micrographs = self.getResults().read_micrographs()
        if not micrographs:
            return []
        found, micSet = summarise_run(micrographs), self.getInputMicrographs()
        number = f" of {micSet.getSize()}" if micSet is not None else ""
        words = [f"Micrographs: {found.picked}{number} done"]
        for value, text in ((found.picks_per_micrograph, "{:.1f} picks each"), (found.mean_score, "mean score {:.2f}"),
                            (found.micrographs_per_minute, "{:.1f} per minute")):
            if value is not None:
                words.append(text.format(value))
        lines = [", ".join(words), "Candidates not picked: " + ", ".join(
            f"{100 * share:.1f} % {REASON_LABELS[reason]}" for reason, share in found.rejected_share.items())]
        odd = found.outliers
        if odd:
            lines.append(f"*{len(odd)} micrographs are outliers:* "
                         + "; ".join(f"{name}: {what}" for name, what in list(odd.items())[:MAX_LISTED])
                         + (f"; and {len(odd) - MAX_LISTED} more, see outliers in {self._getSummaryFile()}"
                            if len(odd) > MAX_LISTED else ""))
        settings = self._getRunSettings()
        problem = found.contrast.warning(settings and settings.model_contrast) if found.contrast else ""
        return lines + [f"*Warning:* {problem}."] * bool(problem)

    def _getMarkers(self, micNames):
        """Files that say that micrographs are done. A step is done again by Continue if one is missing."""
        return [self._getMicDone(self.micDict[micName]) for micName in micNames]

    def _getNames(self):
        """Names of the result files by micrograph id."""
        names = self._names
        if len(names) != len(self.micDict):
            names = self._names = convert.result_names(list(self.micDict.values()))
        return names

    def _prepareContinue(self):
        """Make Continue retry failed micrographs and find out by itself what the output set holds."""
        folder = self._getExtraPath("FAILED")
        if os.path.isdir(folder):
            done = [self._getExtraPath("DONE", file) for file in os.listdir(folder)]
            pwutils.cleanPath(self._getFailedFile(), *done, folder)
        # The list of what was stored may be ahead of the output set or behind it after a crash.
        pwutils.cleanPath(self._getAllDone())
        convert.write_json(self._getArgumentsFile(), self._getArguments())

    def _getArgumentsFile(self):
        return self._getExtraPath("arguments.json")

    def _argumentsChanged(self):
        """True if micrographs were picked with other parameters before."""
        if not (os.path.exists(self._getArgumentsFile()) and glob(self._getExtraPath("DONE", "mic_*.TXT"))):
            return False
        return convert.read_json(self._getArgumentsFile()) != self._getArguments()

    def _getBoxSize(self):
        """Box size in pixels of the micrographs."""
        if self.boxSize.get():
            return self.boxSize.get()
        pixels = BOX_PER_DIAMETER * self.inputModel.get().getDiameter() / self.getInputMicrographs().getSamplingRate()
        return max(2, 2 * round(pixels / 2))

    def _getThreshold(self):
        """Least score of the picks; None as long as the program has still to find it."""
        mode = self.thresholdMode.get()
        if mode == THRESHOLD_FIXED:
            return self.threshold.get()
        settings = self._getRunSettings()
        if settings is not None:
            return settings.limits.threshold
        return self.inputModel.get().getThreshold() if mode == THRESHOLD_AUTO else None

    def _getThresholdOrigin(self):
        """Where the threshold comes from."""
        return {THRESHOLD_AUTO: "best F2 in the validation of the model",
                THRESHOLD_F1: "best F1 in the validation of the model",
                THRESHOLD_PRECISION: f"lowest with a precision of at least {self.minPrecision.get():g} in the "
                                     "validation of the model",
                THRESHOLD_FIXED: "given"}[self.thresholdMode.get()]

    def setProject(self, project):
        super().setProject(project)
        # Runs of earlier versions have a yes or no instead of a choice.
        automatic = getattr(self, "autoThreshold", None)
        if automatic is not None and not automatic:
            self.thresholdMode.set(THRESHOLD_FIXED)
            automatic.set(True)  # done, so that a later choice stays

    def processImportDict(self, importDict, importDir):
        automatic = importDict.pop("autoThreshold", True)
        if str(automatic) == "False":
            importDict.setdefault("thresholdMode", THRESHOLD_FIXED)
        return importDict

    def _getArguments(self):
        """Arguments of the program that decide on the result."""
        arguments = ["--model", self.inputModel.get().getFileName(),
                     "--pixel-size", f"{self.getInputMicrographs().getSamplingRate():.6g}",
                     "--box", str(self._getBoxSize()),
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
        return arguments + ["--score-maps"] * bool(self.saveScoreMaps)
