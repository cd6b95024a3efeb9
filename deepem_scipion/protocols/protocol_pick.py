# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking of particles with the general model or a trained one."""

import os
import tempfile
from glob import glob
from pathlib import Path

import pyworkflow.utils as pwutils
from pwem.protocols import ProtParticlePickingAuto
from pwem.protocols.protocol_particles_picking import ProtParticlePickingOutput
from pyworkflow import NEW
from pyworkflow.protocol import STEPS_PARALLEL

from .. import convert, program
from ..constants import STD_CUSTOM
from ..deepem.coordinates.star import Optics
from ..deepem.errors import DeepEMError
from ..deepem.micrographs.scale import differ
from ..deepem.model.paths import ModelFiles
from ..deepem.picking.export import write_star
from ..deepem.picking.results import PickingResults
from ..deepem.picking.scale import MAX_FACTOR, scale_warnings
from ..deepem.picking.selection import REASON_LABELS
from ..deepem.picking.summary import MicrographResult, summarise_run
from ..deepem.picking.table import write_failures
from ..program import ProgramError, WorkerDied
from .form_pick import THRESHOLD_AUTO, THRESHOLD_CHOICES, THRESHOLD_F1, THRESHOLD_FIXED, THRESHOLD_PRECISION, PickForm
from .protocol_base import DeepEMProgram
from .reviewing import CorrectedPicks
from .streaming import PickStreaming
from .twins import PickTwins

# Number of micrographs named in a line of the summary.
MAX_LISTED = 5


class ProtDeepEMPick(PickForm, CorrectedPicks, PickTwins, PickStreaming, DeepEMProgram, ProtParticlePickingAuto):
    """ Picks particles with DeepEM: with its general model, or with one trained on the particle.

    A convolutional neural network scans each micrograph and assigns a score from 0 to 1 to each position: its
    confidence that a particle is centred there. Peaks of the score become coordinates if they reach a threshold, keep
    a minimum distance to better peaks, and have a local standard deviation typical of particles. Neither templates
    nor earlier picks of these micrographs are needed.

    *Input*

    Micrographs, which may still be arriving from the microscope, and the diameter of the particle: the general model
    of the plugin, trained on simulated micrographs, needs nothing else. Or a model from *DeepEM training* or *import
    DeepEM model*, which finds more particles. Micrographs are resampled to the working pixel size of the model. For a
    trained model they should be like the training micrographs: the same particle, similar defocus, the same contrast.

    *Threshold*

    The automatic threshold gave the best F2 in the validation of the model; F2 gives recall more weight than
    precision. *best F1* weights both equally and gives fewer, more confident picks. *given precision* picks as many
    particles as possible at the precision that you choose. Each coordinate keeps its score, so you can pick generously,
    with a low *fixed value*, and select later.

    *Local standard deviation filter*

    Boxes on carbon or ice crystals have an unusually high standard deviation, boxes on empty film an unusually low
    one. The automatic range is that of the training particles. Turn the filter off if particles in thin or thick ice
    are lost; set a narrower range if contamination is picked.

    *Streaming and batches*

    Micrographs are picked in batches. In streaming a batch starts when it is full or the input is closed; use a batch
    size of 1 to 4 to see coordinates sooner. One process per thread picks batch after batch and keeps its memory until
    the run ends. Only if each command is submitted to a queue as a separate job does every batch start a program. On
    CPUs, several threads for one batch are more efficient than many batches at once.

    *Failed micrographs*

    A micrograph that cannot be read is left out. The summary and the comment of the output give the number of failed
    micrographs, and picks/failed.tsv in the extra folder lists the reasons. *Continue* tries them again. The protocol
    fails only if all micrographs fail, or if the program is killed with each micrograph of a batch of several.

    *Quality figures*

    The summary reports the picks per micrograph, their mean score, the fraction of peaks rejected for each reason, and
    the speed. picks/summary.tsv has these figures for each micrograph, picks/summary.json also for all. From ten
    micrographs on, outliers are listed: their number of picks or mean score is more than 3.5 standard deviations
    (1.4826 times the median absolute deviation) from the median. The first three micrographs are also scanned with
    inverted contrast, and a warning is given if that fits the model better. At the end report.html in the extra
    folder shows all figures, with the best, typical and worst micrographs.

    *Output*

    outputMicrographs, only if micrographs have the same name, as after joining two imports: the same images with names
    of which each is unique, because extraction finds them by name. The coordinates belong to this set.

    outputCoordinates: particle centres with their score as *_deepemScore*, and as the figure of merit that RELION's
    extraction passes on. *Analyze results* opens the studio in your browser: other limits, for all micrographs at once,
    and corrections by hand, registered as further outputs. *Continue* requires unchanged parameters.

    picks/picks.star in the extra folder has all picks with decimals, for RELION outside of Scipion (not for TIFF
    micrographs); *export coordinates* writes the formats of other programs.
    """

    _label = "picking"
    _devStatus = NEW
    _possibleOutputs = ProtParticlePickingOutput
    stepsExecutionMode = STEPS_PARALLEL

    # -------------------------- INSERT steps functions -----------------------
    def _getPickArgs(self):
        return [self._getArguments()]

    # -------------------------- STEPS functions ------------------------------
    def _pickMicrograph(self, mic, *args):
        self._pickMicrographList([mic], *args)

    def _pickMicrographList(self, micList, *args):
        if not micList:
            return  # all of them were done before Continue
        try:
            self._pickTogether(micList, *args)
        except WorkerDied as died:
            # One of them may be the cause: the others are picked without it.
            deaths = self._pickOneByOne(micList, *args) if len(micList) > 1 else [(micList[0], died)]
            if 1 < len(micList) == len(deaths):
                raise ProgramError("pick", died.status, f"{died} whichever of {len(micList)} micrographs it picked: "
                                   "is there too little memory? Continue will pick them.") from died
            for mic, death in deaths:
                self._writeFailure(mic, self._getNames()[mic.getObjId()], f"{death} whenever it picked this "
                                   "micrograph: is the file damaged, or is there too little memory?")

    def _pickOneByOne(self, micList, *args):
        """Pick micrographs one by one; return those during which the worker died, each with the error."""
        deaths = []
        for mic in micList:
            try:
                self._pickTogether([mic], *args)
            except WorkerDied as died:
                deaths.append((mic, died))
        return deaths

    def _pickTogether(self, micList, arguments):
        names = self._getNames()
        batch = f"batch_{micList[0].getObjId():06d}"
        listFile = self._getExtraPath("lists", batch + ".txt")
        convert.write_micrograph_list(listFile, micList, names)
        pwutils.cleanPath(*map(self._getMicFailed, micList))
        # A new one: the program of a killed run may still be writing into its own, for instance as a job of a queue.
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
        """Check that each micrograph, by name, has a result or a reason of its failure, and record the reasons."""
        results = PickingResults(folder)
        failed = results.read_failed()
        lost = [name for name in mics if name not in failed and not results.has_picks(name)]
        if error is not None and (lost or (error.status != 1 and len(failed) < len(mics))):
            raise error
        if lost:
            where = f"logs of the jobs in {self._getLogsPath()}" if self.useQueueForSteps() else "log of the run"
            raise RuntimeError(f"The program wrote no result for {len(lost)} micrographs, among them {lost[0]}; see "
                               f"the {where}. Continue will pick them.")
        for name in failed.keys() & mics.keys():
            self._writeFailure(mics[name], name, failed[name])

    def _writeFailure(self, mic, name, reason):
        path = self._getMicFailed(mic)
        pwutils.makeFilePath(path)
        write_failures(path, {name: reason})
        self.warning(f"{name} failed: {reason}")

    def _createSetOfCoordinates(self, micSet, suffix=""):
        coordinates = super()._createSetOfCoordinates(self._getPickedMicrographs() or micSet, suffix)
        coordinates.setBoxSize(self._getBoxSize())
        return coordinates

    def getSummary(self, coordSet):
        """Return the comment of the output."""
        summary, failed, micDict = super().getSummary(coordSet), self._getFailed(), getattr(self, "micDict", {})
        return summary + f"\n{len(failed)} of {len(micDict)} micrographs failed" if failed and micDict else summary

    def createOutputStep(self):
        """Write the tables and the report of the run; fail if all micrographs failed."""
        failed = self._getFailed()
        pwutils.makePath(self.getCoordsDir())
        results = self.getResults()
        results.write_failed({name: MicrographResult("", reason) for name, reason in failed.items()})
        results.refresh()
        self._writeStar()
        # Without the queue: it takes seconds and no GPU.
        model = str(results.path("model")) if self.isGeneral() else self.inputModel.get().getFileName()
        done = program.run("report", self.getCoordsDir(), *(["--model", model] if os.path.exists(model) else []),
                           "--output", self._getReportFile())
        if done.status:
            self.warning(f"The report {self._getReportFile()} could not be made: {done.error}")
        if failed and len(failed) == len(self.micDict):
            name, reason = next(iter(failed.items()))
            raise RuntimeError(f"None of the {len(failed)} micrographs could be picked. {name}: {reason}")
        return [self._getFailedFile()]

    def _writeStar(self):
        """Write the picks of all micrographs in one file for RELION."""
        results, micSet = self.getResults(), self.getInputMicrographs()
        if not results.exists() or convert.are_tiff(micSet):  # in which RELION itself counts y from the last row
            return
        microscope = micSet.getAcquisition()
        values = [microscope.getVoltage(), microscope.getSphericalAberration(), microscope.getAmplitudeContrast()]
        try:
            write_star(results, results.read_micrographs(), results.read_settings(),
                       Optics() if None in values else Optics(*values))
        except DeepEMError as error:
            self.warning(f"{results.path('star')} could not be written: {error}")

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        errors = []
        model = self.getModel()
        if model is None:
            # A scheduled run starts as soon as it is valid; the framework does not wait for an optional input.
            errors.append("Give the particle diameter for the general model, or choose a model." if self.isGeneral()
                          else "The model is not there yet: the run that makes it has not finished.")
        if model is None or self.getInputMicrographs() is None:
            return errors  # reported by the framework
        if not os.path.exists(model.getFileName()):
            errors.append(f"The file of the model, {model.getFileName()}, is missing. Train or import it again.")
        if self.thresholdMode.get() in (THRESHOLD_F1, THRESHOLD_PRECISION) and not model.getValidation():
            errors.append("The model was trained without validation, so its threshold cannot be chosen by precision or "
                          f"F1. Choose *{THRESHOLD_CHOICES[THRESHOLD_AUTO]}* or a "
                          f"*{THRESHOLD_CHOICES[THRESHOLD_FIXED]}*.")
        if self.stdRange.get() == STD_CUSTOM and not 0 <= self.stdLow.get() < self.stdHigh.get():
            errors.append(f"Local standard deviation: from {self.stdLow} to {self.stdHigh} was given; the minimum "
                          "should not be negative and the maximum should be larger.")
        if self.streamingBatchSize.get() < 0:
            errors.append(f"Batch size: {self.streamingBatchSize} was given; use 1 or more, or 0 for all at once.")
        pixel, trained = self.getInputMicrographs().getSamplingRate(), model.getSamplingRate()
        if not self.anyScale and trained and not 1 / MAX_FACTOR <= pixel / trained <= MAX_FACTOR:
            errors.append(f"The micrographs have {pixel:.4g} Å/px, those of the training {trained:.4g} Å/px: the same "
                          "particle in both is improbable. Correct the pixel size of the micrographs, or choose *Pick "
                          "at any scale?* if both are true.")
        if self.isContinued() and os.path.exists(model.getFileName()) and self._argumentsChanged():
            errors.append("The parameters or the model differ from those of the micrographs picked before, and one set "
                          "should not mix both. Use Restart, or a copy of the run, to pick all micrographs again.")
        return errors

    def _warnings(self):
        warnings = []
        micSet, model = self.getInputMicrographs(), self.getModel()
        if micSet is None or model is None:
            return warnings
        pixel, trained = micSet.getSamplingRate(), model.getSamplingRate()
        working = model.getWorkingSamplingRate()
        if pixel > 1.01 * working:
            warnings.append(f"The micrographs have {pixel:.2f} Å/px, coarser than the working pixel size of the model, "
                            f"{working:.2f} Å/px: details that the network has learned are missing. Use less binned "
                            "micrographs.")
        elif not self.isGeneral() and differ(pixel, trained):
            warnings.append(f"The micrographs have {pixel:.2f} Å/px, those of the training {trained:.2f} Å/px. They "
                            f"will be resampled to {working:.2f} Å/px; check the picks of the first micrographs.")
        failed = self._getFailed()
        if failed and self.isContinued():
            warnings.append(f"{len(failed)} micrographs failed so far, for instance {next(iter(failed))}, and will be "
                            f"tried again; {self._getFailedFile()} lists the reasons.")
        warnings += convert.frame_warnings(micSet)
        return warnings

    def _summary(self):
        summary = []
        micSet, model = self.getInputMicrographs(), self.getModel()
        if micSet is not None and model is not None:
            pixel = micSet.getSamplingRate()
            summary.append(f"Particle diameter: {model.getDiameter():.1f} Å, {model.getDiameter() / pixel:.0f} px of "
                           f"the micrographs at {pixel:.2f} Å/px; box {self._getBoxSize()} px")
            step, working = self.scanStep.get() or model.getScanStep(), model.getWorkingSamplingRate()
            summary.append(f"Network: box {model.getBoxSize()} px at a working pixel size of {working:.2f} Å, scan "
                           f"step {step} px ({step * working:.0f} Å)")
            others = not self.isGeneral() and abs(pixel - model.getSamplingRate()) > 0.01 * pixel
            summary.append(f"Pixel size: {pixel:.2f} Å, micrographs downsampled by a factor of {working / pixel:.2f}"
                           + f"; training micrographs had {model.getSamplingRate():.2f} Å/px" * others)
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
        if self.getResults().path("star").exists():
            summary.append(f"For RELION outside of Scipion, in the project's folder: {self.getResults().path('star')}")
        if os.path.exists(self._getReportFile()):
            summary.append(f"Report for a browser: {self._getReportFile()}")
        return summary

    def _methods(self):
        coords, model, micSet = self._getOutput(), self.getModel(), self.getInputMicrographs()
        threshold = self._getThreshold() if model is not None else None
        if coords is None or threshold is None or micSet is None:
            return []
        number = micSet.getSize() - len(self._getFailed())
        return [f"{coords.getSize()} particles were picked from {number} micrographs by a DeepEM network [Zhu2017] "
                f"with boxes of {model.getBoxSize()} px at {model.getWorkingSamplingRate():.2f} Å/px, with a threshold "
                f"of {threshold:.2f} on the score ({self._getThresholdOrigin()})."]

    def _citations(self):
        return ["Zhu2017"]

    # -------------------------- UTILS functions ------------------------------
    def getCoordsDir(self):
        """Return the results folder of all batches, as the framework expects it."""
        return self._getExtraPath("picks")

    def getResults(self):
        """Return the results of all batches."""
        return PickingResults(self.getCoordsDir())

    def _getRunSettings(self):
        """Settings of the program; None before the first batch."""
        return self.getResults().read_settings() if self.getResults().exists() else None

    def _getFailedFile(self):
        return str(self.getResults().path("failed"))

    def _getSummaryFile(self):
        return str(self.getResults().path("settings"))

    def _getReportFile(self):
        return self._getExtraPath("report.html")

    def _describeProgress(self):
        """Lines about the progress and the results of picking."""
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
        rejected = [f"{100 * share:.1f} % {REASON_LABELS[reason]}" for reason, share in found.rejected_share.items()
                    if share]
        lines = [", ".join(words), "Candidates not picked: " + (", ".join(rejected) or "none")]
        odd = found.outliers
        if odd:
            lines.append(f"*{len(odd)} micrographs are outliers:* "
                         + "; ".join(f"{name}: {what}" for name, what in list(odd.items())[:MAX_LISTED])
                         + (f"; and {len(odd) - MAX_LISTED} more, see outliers in {self._getSummaryFile()}"
                            if len(odd) > MAX_LISTED else ""))
        settings = self._getRunSettings()
        problem = found.contrast.warning(settings and settings.model_contrast) if found.contrast else ""
        problems = [problem] * bool(problem) + (scale_warnings(micrographs, settings) if settings else [])
        return lines + [f"*Warning:* {problem}." for problem in problems]

    def _getArgumentsFile(self):
        return self._getExtraPath("arguments.json")

    def _getDetermining(self):
        """What determines the picks: arguments, and the model, which another training may have replaced."""
        return [*self._getArguments(), ModelFiles(Path(self.getModel().getFileName())).digest()]

    def _argumentsChanged(self):
        """Whether micrographs were picked with other parameters, or another model, before."""
        if not (os.path.exists(self._getArgumentsFile()) and glob(self._getExtraPath("DONE", "mic_*.TXT"))):
            return False
        return convert.read_json(self._getArgumentsFile()) != self._getDetermining()

    def _getThreshold(self):
        """Threshold on the score; None until the program has chosen it."""
        mode = self.thresholdMode.get()
        if mode == THRESHOLD_FIXED:
            return self.threshold.get()
        settings = self._getRunSettings()
        if settings is not None:
            return settings.limits.threshold
        return self.getModel().getThreshold() if mode == THRESHOLD_AUTO else None
