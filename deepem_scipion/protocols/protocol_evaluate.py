# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparison of picks with reference coordinates."""

import enum
import os

import pyworkflow.utils as pwutils
from pwem.objects import SetOfCoordinates
from pwem.protocols import EMProtocol
from pyworkflow import BETA
from pyworkflow.protocol import STEPS_SERIAL

from .. import convert
from ..constants import TIFF_ROWS
from ..deepem.coordinates.regions import write_regions
from ..deepem.errors import DeepEMError
from ..deepem.network.geometry import BOX_PER_DIAMETER
from .form_evaluate import THRESHOLD_CHOICES, THRESHOLD_F1, THRESHOLD_F2, THRESHOLD_FIXED, THRESHOLD_NONE, EvaluateForm
from .groups import group_micrographs, left_out, listed, with_coordinates
from .protocol_base import DeepEMProgram
from .regions import CountedRegions


class DeepEMEvaluateOutput(enum.Enum):
    outputCoordinates = SetOfCoordinates


class ProtDeepEMEvaluate(EvaluateForm, CountedRegions, DeepEMProgram, EMProtocol):
    """ Compares picks with reference coordinates, and finds the best threshold on their score.

    The reference are particles that you trust: picked by hand, or picked by a program and manually curated. The picks
    may come from any picker. The results are the precision (the fraction of picks that are particles), the recall (the
    fraction of particles that were picked), their means F1 and F2, and their dependence on the score.

    *Matching*

    One to one. In descending order of score, each pick is matched with the closest reference particle within the
    matching distance that is still free; among equal scores the closest pair comes first. A second pick on the same
    particle is a false positive. With a minimum distance, non-maximum suppression is applied first, as in picking: of
    picks closer to each other only the best counts. The program's command *deepem evaluate* matches in the same way.

    *Which micrographs count*

    Micrographs are the same if they are the same file, if one was made from the other (or both from a third), or if
    their names and their images agree. Two imports with the same names stay distinct. Micrographs with reference
    particles count if they are among the micrographs of the picks. If one of them has no picks, all of its particles
    are missed, even if the picker could not read it. Micrographs with reference particles outside of the picked set,
    and micrographs with picks but without any reference particle, are left out and listed in the summary. If you know
    that micrographs contain no particle, use *Count micrographs without particles*: picks on them are then false
    positives. On micrographs that count the reference should be complete. If only a part of a micrograph was annotated,
    give a border or the annotated region; nothing outside of it counts.

    *Pixel sizes*

    The two sets may belong to differently binned versions of the micrographs. Coordinates are then scaled to the
    smaller pixel size by the ratio of the sampling rates.

    *Scores and threshold*

    The precision-recall curve needs scores. Those of DeepEM, RELION (figure of merit), crYOLO and Topaz are
    recognised; picks without scores, for instance imported ones, have a score of 1, and the curve has one point. The
    curve ends at the lowest score of the picks: pick with a low threshold to see all of it. The figures are given for
    all picks, or for those that reach a threshold: that of the best F1, that of the best F2 (which gives recall more
    weight), or a fixed one. A threshold chosen on the same micrographs is slightly optimistic.

    *Output*

    In the extra folder, figures.json has the figures of each micrograph and of all, curve.png the curve, and
    report.html both for a browser, with pictures of micrographs. outputCoordinates, if requested, has all picks that
    reach the threshold and keep the minimum distance, also those on micrographs that do not count, with all of their
    attributes.
    """

    _label = "evaluation"
    _devStatus = BETA
    _possibleOutputs = DeepEMEvaluateOutput
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # Continue repeats the steps whose arguments have changed.
        ids = [pointer.getUniqueId() for pointer in self._getInputs()]
        self._insertFunctionStep(self.convertInputStep, ids, self.countEmpty.get(), needsGPU=False)
        self._insertFunctionStep(self.evaluateStep, self._getSettings(), needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, self.makeCoordinates.get(), needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def convertInputStep(self, inputIds, countEmpty):
        """Write the .box files of the micrographs that count."""
        reference, picked = self.referenceCoordinates.get(), self.pickedCoordinates.get()
        keys = self._getKeys()
        (known, lostKnown), (found, lostFound) = map(convert.coordinates_by_name, (reference, picked), keys)
        for number, what in ((lostKnown, "reference"), (lostFound, "picked")):
            if number:
                self.warning(f"{number} {what} coordinates have no position or no micrograph in their set and are left "
                             "out.")
        groups = group_micrographs(_with_any(known), set(known), _with_any(found), set(found), countEmpty)
        if not groups["counted"]:
            raise RuntimeError(
                f"No micrograph of the picks has usable reference coordinates. The reference is on {listed(known)}, "
                f"the picks are on {listed(found)}; files and images differ. Choose sets on the same micrographs.")
        rates = self._getSamplingRates()
        pixel = min(rates)
        for rate, what in zip(rates, ("reference", "picked")):
            if rate != pixel:
                self.info(f"The {what} coordinates are multiplied by {rate / pixel:.6g}, because their micrographs "
                          f"have {rate:.4g} Å/px and the others {pixel:.4g} Å/px.")
        names = self._getResultNames(self._getMics(groups["counted"]))
        convert.write_scored_boxes(self._getReferenceDir(), known, names, rates[0] / pixel)
        convert.write_scored_boxes(self._getPicksDir(), found, names, rates[1] / pixel)
        convert.write_json(self._getMicrographsFile(), {**groups, "pixel_size_angst": pixel,
                                                        "score": convert.score_attribute(picked)})

    def evaluateStep(self, settings):
        """Run the evaluation and store a summary of its figures."""
        groups = convert.read_json(self._getMicrographsFile())
        pixel, distance, minDistance = groups["pixel_size_angst"], self._getDistance(), self.minDistance.get()
        mode = self.thresholdMode.get()
        arguments = ["--truth", self._getReferenceDir(), "--picks", self._getPicksDir(),
                     "--distance", repr(distance / pixel), "--min-distance", repr(minDistance / pixel),
                     "--json", self._getFiguresFile(), "--plot", self._getCurveFile(),
                     "--report", self._getReportFile(), "--tiff-rows", TIFF_ROWS]
        pwutils.cleanPath(self._getFiguresFile(), self._getCurveFile(), self._getSummaryFile(), self._getRegionsFile(),
                          self._getReportFile())
        mics = self._getMics(groups["counted"])
        arguments += ["--micrographs", self._writeMicrographList(self._getResultNames(mics))]
        regions = self._getRegions(pixel, mics)
        if regions:
            names = self._getResultNames(mics)
            write_regions(self._getRegionsFile(), {names[name]: region for name, region in regions.items()})
            arguments += ["--regions", self._getRegionsFile()]
        if mode != THRESHOLD_NONE:
            # In one word, because the number may be negative.
            arguments.append("--threshold=" + {THRESHOLD_F1: "F1", THRESHOLD_F2: "F2"}.get(
                mode, repr(self.threshold.get())))
        self.runDeepEM("evaluate", arguments, computes=False)
        result = convert.read_json(self._getFiguresFile())
        if not result:
            raise RuntimeError(f"The program ended without writing {self._getFiguresFile()}; see the log of the run.")
        same = regions and len(regions) == len(mics) and len(set(regions.values())) == 1
        convert.write_json(self._getSummaryFile(), {
            **groups, "distance_angst": distance, "min_distance_angst": minDistance,
            "region_px": next(iter(regions.values())) if same else None, "regions": len(regions),
            "mode": THRESHOLD_CHOICES[mode], "threshold": result["threshold"], "figures": result["overall"]})

    def createOutputStep(self, makeCoordinates):
        """Register the picks that reach the threshold, if requested."""
        if not makeCoordinates:
            return
        threshold = convert.read_json(self._getSummaryFile())["threshold"]
        picked = self.pickedCoordinates.get()
        attribute = convert.score_attribute(picked)
        suppressed = convert.suppressed_ids(picked, self.minDistance.get() / self._getSamplingRates()[1])
        # The pointer of the picks, because the output belongs to the same micrographs.
        output = self._createSetOfCoordinates(picked.getMicrographs(asPointer=True))
        output.setBoxSize(picked.getBoxSize())
        for item in picked.iterItems():
            if item.getObjId() not in suppressed and (
                    threshold is None or convert.score_of(item, attribute) >= threshold):
                output.append(item.clone())
        self._defineOutputs(**{DeepEMEvaluateOutput.outputCoordinates.name: output})
        for pointer in self._getInputs():
            self._defineSourceRelation(pointer, output)

    # -------------------------- INFO functions -------------------------------
    def _validate(self):
        errors = []
        reference, picked = self.referenceCoordinates.get(), self.pickedCoordinates.get()
        try:
            if self._getCommonRegion() and self.border.get():
                errors.append("Both a border and an annotated region were given. Set the border to 0 or clear the "
                              "region.")
        except DeepEMError as error:
            errors.append(str(error))
        if reference is None or picked is None:
            return errors  # reported by the framework
        if not reference.getSize():
            return [*errors, "The set of reference coordinates is empty. Choose another one."]
        groups = self._getGroups()
        if not groups["counted"]:
            own, other = groups["referenceOnly"], self._getKeys(_trusting)[1].values()
            errors.append("No micrograph with reference coordinates is among the micrographs of the picks. The "
                          f"reference has {listed(own)}, the picks have {listed(other)}. Choose sets on the same "
                          "micrographs.")
        else:
            try:
                self._readRegions(self._getMics(groups["counted"]))
            except DeepEMError as error:
                errors.append(f"File of annotated regions: {error}")
        if not self._getDistance():
            errors.append("The coordinates have no box size from which to derive the matching distance. Give the "
                          "distance.")
        return errors

    def _warnings(self):
        warnings = []
        reference, picked = self.referenceCoordinates.get(), self.pickedCoordinates.get()
        if reference is None or picked is None:
            return warnings
        warnings += left_out(self._getGroups())
        if picked.getSize() and convert.score_attribute(picked) is None:
            warnings.append("The picks have no scores: each counts with a score of 1, and the curve has one point.")
        return warnings

    def _summary(self):
        found = convert.read_json(self._getSummaryFile())
        if not found:
            return ["Nothing was compared yet."]
        figures, pixel = found["figures"], found["pixel_size_angst"]
        summary = [f"Compared on {len(found['counted'])} micrographs: {figures['picks']} picks with {figures['truth']} "
                   f"reference particles ({self._getThresholdWords(found)})",
                   f"Precision {figures['precision']:.3f}, recall {figures['recall']:.3f}, F1 {figures['F1']:.3f}, F2 "
                   f"{figures['F2']:.3f}; {figures['true_positives']} picks are correct"]
        if figures["error_px"] is not None:
            summary[-1] += f", on average {figures['error_px'] * pixel:.1f} Å from the reference"
        summary.append(f"Average precision {figures['AP']:.3f}; " + "; ".join(
            f"best {beta} {best[beta]:.3f} at a threshold of {best['threshold']:.3f} (precision "
            f"{best['precision']:.3f}, recall {best['recall']:.3f})" if best["threshold"] is not None
            else f"no best {beta}, as there are no picks"
            for beta, best in (("F1", figures["best_F1"]), ("F2", figures["best_F2"]))))
        summary.append("Matching: one to one, in descending order of score, with the closest free particle within "
                       f"{found['distance_angst']:.1f} Å ({found['distance_angst'] / pixel:.1f} px of {pixel:.2f} Å)")
        if found["min_distance_angst"]:
            summary[-1] += (", after non-maximum suppression with a minimum distance of "
                            f"{found['min_distance_angst']:.1f} Å")
        if found["region_px"]:
            x0, y0, x1, y1 = (round(value, 1) for value in found["region_px"])
            summary.append(f"Counted region: {x0:g} to {x1:g} px in x, {y0:g} to {y1:g} px in y")
        elif found["regions"]:
            summary.append(f"Counted regions: different for each of {found['regions']} micrographs, see regions.tsv "
                           "in the extra folder")
        if os.path.exists(self._getReportFile()):
            summary.append(f"Report for a browser: {self._getReportFile()}")
        return summary + left_out(found)

    def _methods(self):
        found = convert.read_json(self._getSummaryFile())
        if not found:
            return []
        figures, distance = found["figures"], found["min_distance_angst"]
        suppressed = f" after non-maximum suppression with a minimum distance of {distance:.0f} Å" if distance else ""
        return [f"On {len(found['counted'])} micrographs {figures['picks']} picks ({self._getThresholdWords(found)})"
                f"{suppressed} were matched one to one, in descending order of score, with {figures['truth']} "
                f"reference particles within {found['distance_angst']:.0f} Å. The precision was "
                f"{figures['precision']:.2f}, the recall {figures['recall']:.2f} and the average precision "
                f"{figures['AP']:.2f}, determined with the program deepem [Zhu2017]."]

    def _citations(self):
        return ["Zhu2017"]

    # -------------------------- UTILS functions ------------------------------
    def _getReferenceDir(self):
        return self._getExtraPath("reference")

    def _getPicksDir(self):
        return self._getExtraPath("picks")

    def _getFiguresFile(self):
        return self._getExtraPath("figures.json")

    def _getCurveFile(self):
        return self._getExtraPath("curve.png")

    def _getReportFile(self):
        return self._getExtraPath("report.html")

    def _getMicrographsFile(self):
        return self._getExtraPath("micrographs.json")

    def _getRegionsFile(self):
        return self._getExtraPath("regions.tsv")

    def _getSummaryFile(self):
        # Without the curve, which may be long.
        return self._getExtraPath("summary.json")

    def _getInputs(self):
        return [self.referenceCoordinates, self.pickedCoordinates]

    def _getSamplingRates(self):
        """Pixel sizes of the micrographs of the reference and of the picks, in angstrom."""
        return [pointer.get().getMicrographs().getSamplingRate() for pointer in self._getInputs()]

    def _getSettings(self):
        """Settings that determine the figures, in addition to the coordinates."""
        file = self.regionsFile.get("")
        changed = os.path.getmtime(file) if os.path.exists(file) else None
        mode = self.thresholdMode.get()
        return [self._getDistance(), self.minDistance.get(), self.border.get(), self.region.get(""), file, changed,
                mode, self.threshold.get() if mode == THRESHOLD_FIXED else None]

    def _getGroups(self):
        """Micrographs that count and others, see `group_micrographs`, without reading positions."""
        names = []
        for pointer, keys in zip(self._getInputs(), self._getKeys(_trusting)):
            names += [with_coordinates(pointer.get(), keys), set(keys.values())]
        return group_micrographs(*names, self.countEmpty.get())

    def _getKeys(self, compare=None):
        """Unique names by id of the micrographs of the reference and of the picks, see `convert.keys_by_id`."""
        return convert.keys_by_id([pointer.get().getMicrographs() for pointer in self._getInputs()], self.getProject(),
                                  compare)

    def _getMics(self, names):
        """Micrographs of the picks by unique name."""
        names, keys = set(names), self._getKeys()[1]
        return {keys[mic.getObjId()]: mic.clone() for mic in self.pickedCoordinates.get().getMicrographs()
                if keys[mic.getObjId()] in names}

    def _getResultNames(self, mics):
        """Names of the files of micrographs by their unique names."""
        results = convert.result_names(mics.values())
        return {name: results[mic.getObjId()] for name, mic in mics.items()}

    def _writeMicrographList(self, names):
        """Write a list of micrographs, of the set with the smaller pixels; `names` are those of the files."""
        sets = [pointer.get().getMicrographs() for pointer in self._getInputs()]
        finest = min((1, 0), key=lambda number: sets[number].getSamplingRate())
        keys = self._getKeys()[finest]
        mics = [mic.clone() for mic in sets[finest] if keys[mic.getObjId()] in names]
        path = self._getExtraPath("lists", "micrographs.txt")
        convert.write_micrograph_list(path, mics, {mic.getObjId(): names[keys[mic.getObjId()]] for mic in mics})
        return path

    def _getDistance(self):
        """Matching distance in angstrom, 0 if it is not known."""
        if self.distance.get():
            return self.distance.get()
        for pointer, rate in zip(self._getInputs(), self._getSamplingRates()):
            if pointer.get().getBoxSize():
                return pointer.get().getBoxSize() * rate / BOX_PER_DIAMETER / 2
        return 0

    def _getThresholdWords(self, found):
        if found["threshold"] is None:
            return "no threshold"
        return f"threshold {found['threshold']:.3f}, {found['mode']}"


def _trusting(first, second):
    """Takes images of the same name for the same, where there is no time to read them."""
    return True


def _with_any(found):
    return {name for name, coordinates in found.items() if len(coordinates.centres_xy)}
