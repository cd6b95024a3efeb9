# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparison of picked particles with reference particles."""

import enum
import os

import pyworkflow.utils as pwutils
from pwem.objects import SetOfCoordinates
from pwem.protocols import EMProtocol
from pyworkflow import BETA
from pyworkflow.protocol import STEPS_SERIAL, params

from .. import convert
from ..deepem.coordinates.regions import checked_region, read_regions, write_regions
from ..deepem.errors import DeepEMError
from ..deepem.micrographs.micrograph import read_shape
from ..deepem.network.geometry import BOX_PER_DIAMETER
from .groups import left_out, listed, names_of, sort_out
from .protocol_base import DeepEMProgram

# The stored number is the position, so new choices go to the end.
THRESHOLD_NONE, THRESHOLD_F1, THRESHOLD_F2, THRESHOLD_FIXED = range(4)
THRESHOLD_CHOICES = ("none", "best F1", "best F2", "fixed")


class DeepEMEvaluateOutput(enum.Enum):
    outputCoordinates = SetOfCoordinates


class ProtDeepEMEvaluate(DeepEMProgram, EMProtocol):
    """ Compares picked particles with reference particles, and cuts the picks at the threshold that does best.

    The reference are particles that you trust: picked by hand, or by another program and looked through. The picks
    may come from any picker. The result are the precision (the share of picks that are particles), the recall
    (the share of particles that were found), means of both, and how they depend on the score.

    *How picks and particles are matched*

    One to one. Pick by pick, the best score first, the nearest reference particle that is within the distance and
    still free is taken; among equal scores the nearest pair comes first. A second pick on the same particle is a
    wrong one. With a least distance the picks are thinned before, as picking does it: of picks that are nearer to
    each other only the best counts. The matching is that of the program's command *deepem evaluate*.

    *Which micrographs count*

    Micrographs belong together by their names. Those count that have reference particles and are among the
    micrographs which the picks were made on. If one of them has no pick, all of its particles are missed, also where
    the picker could not read it. Micrographs with a reference but outside of the picked set, and
    micrographs with picks but without any reference particle, are left out; the summary names them. If you looked at
    micrographs and found no particle there, say so below (*Count micrographs without particles*): picks on them are
    wrong ones then. In those micrographs that count every particle should be in the reference. Where only a part of
    a micrograph was looked through, give a border or the annotated region; what lies outside does not count.

    *Pixel sizes*

    The two sets may belong to differently binned versions of the micrographs. Coordinates are then brought to the
    finer pixels by the ratio of the sampling rates.

    *Scores and threshold*

    The precision-recall curve needs scores. Those of DeepEM, RELION (figure of merit), crYOLO and Topaz are known;
    picks without scores, for instance imported ones, all get a score of 1 and the curve has one point. The curve ends
    where the picks do: pick with a low threshold to see all of it. The figures are given for all picks, or for those
    with at least a certain score: that of the best F1, that of the best F2 (in which recall counts more), or one of
    your choice. A threshold that was chosen on the same micrographs looks a little better than it is.

    *Output*

    Figures for each micrograph and over all in figures.json and the curve in curve.png, both in the extra folder of
    the run; report.html there shows them in a browser, with pictures of micrographs. outputCoordinates, if asked
    for: all picks, also those on micrographs that do not count, with at least the threshold as their score and the
    least distance, if one was given, and with everything that they carried before.
    """

    _label = "evaluation"
    _devStatus = BETA
    _possibleOutputs = DeepEMEvaluateOutput
    stepsExecutionMode = STEPS_SERIAL

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        self._defineInputParams(form)
        self._defineThresholdParams(form)

    def _defineInputParams(self, form):
        form.addSection(label="Input")
        form.addParam("referenceCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Reference coordinates",
                      help="Particles to compare with. On the micrographs that have any, all particles should be in "
                           "this set, else right picks count as wrong.")
        form.addParam("pickedCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Picked coordinates",
                      help="Picks to judge, with or without scores, on micrographs of the same names. Their pixel size "
                           "may be another one.")
        group = form.addGroup("Matching")
        group.addParam("distance", params.FloatParam, default=0, label="Matching distance (Å)",
                       validators=[params.GE(0, error="should not be negative")],
                       help="Greatest distance between the centres of a pick and its particle, usually 0.2 to 0.5 "
                            "particle diameters. 0: half a particle diameter, where the diameter is the box size of "
                            "the reference coordinates (of the picked ones if those have none) divided by "
                            f"{BOX_PER_DIAMETER:g}; that is a third of the box size.")
        group.addParam("minDistance", params.FloatParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                       label="Least distance (Å)",
                       validators=[params.GE(0, error="should not be negative")],
                       help="Of picks that are nearer to each other than this only the one with the highest score "
                            "counts, usually half a particle diameter. For picks of programs that mark a particle "
                            "several times. 0: all picks count.")
        group = form.addGroup("What counts")
        group.addParam("border", params.FloatParam, default=0, label="Border (Å)",
                       validators=[params.GE(0, error="should not be negative")],
                       help="Particles closer to the edge of the micrograph do not count, nor do wrong picks there: "
                            "half a box where particles at the edge were left out of the reference. 0: all count.")
        group.addParam("region", params.StringParam, default="", expertLevel=params.LEVEL_ADVANCED,
                       label="Annotated region (px)",
                       help="Instead of a border: x and y where the part with reference particles begins, x and y "
                            "where it ends, in pixels of the micrographs of the reference, for instance 20 20 1220 "
                            "1180. It is the same for all micrographs. Empty: the whole micrographs.")
        group.addParam("regionsFile", params.FileParam, default="", expertLevel=params.LEVEL_ADVANCED,
                       label="File of annotated regions",
                       help="Where the annotated region differs between micrographs: a text file with the name of the "
                            "micrograph and the four numbers per line, parted by blanks or tabs, for instance "
                            "mic_07.mrc 20 20 1220 1180. What follows a # is a comment. For micrographs that are not "
                            "in the file the region or the border above holds, or they count as a whole.")
        group.addParam("countEmpty", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                       label="Count micrographs without particles?",
                       help="Yes: micrographs of the reference that have no reference particle were looked at and hold "
                            "none, so all picks on them are wrong. No: they were not looked at and are left out.")

    def _defineThresholdParams(self, form):
        form.addSection(label="Threshold")
        form.addParam("thresholdMode", params.EnumParam, choices=THRESHOLD_CHOICES, default=THRESHOLD_NONE,
                      display=params.EnumParam.DISPLAY_HLIST, label="Threshold on the score",
                      help="Picks with at least this score are judged. *none*: all picks, as they are. *best F1*, "
                           "*best F2*: the threshold with the greatest F1 or F2 on these micrographs; in F2 recall "
                           "counts more. *fixed*: the value below.")
        form.addParam("threshold", params.FloatParam, default=0.5, condition=f"thresholdMode == {THRESHOLD_FIXED}",
                      label="Threshold",
                      help="Least score, in the unit of the picker: from 0 to 1 for DeepEM and crYOLO, any number for "
                           "others.")
        form.addParam("makeCoordinates", params.BooleanParam, default=False,
                      label="Make coordinates cut at the threshold?",
                      help="Yes: the picks with at least the threshold as their score become a new set of coordinates, "
                           "those on micrographs without reference, too. Their scores are kept.")

    # -------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        # What a step depends on is among its arguments so that Continue does it again after a change.
        ids = [pointer.getUniqueId() for pointer in self._getInputs()]
        self._insertFunctionStep(self.convertInputStep, ids, self.countEmpty.get(), needsGPU=False)
        self._insertFunctionStep(self.evaluateStep, self._getSettings(), needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, self.makeCoordinates.get(), needsGPU=False)

    # -------------------------- STEPS functions ------------------------------
    def convertInputStep(self, inputIds, countEmpty):
        reference, picked = self.referenceCoordinates.get(), self.pickedCoordinates.get()
        known, lostKnown = convert.coordinates_by_name(reference)
        found, lostFound = convert.coordinates_by_name(picked)
        for number, what in ((lostKnown, "reference"), (lostFound, "picked")):
            if number:
                self.warning(f"{number} {what} coordinates have no position or no micrograph in their set and are left "
                             "out.")
        groups = sort_out(_with_any(known), set(known), _with_any(found), set(found), countEmpty)
        if not groups["counted"]:
            raise RuntimeError("No micrograph has reference coordinates that can be used and is among the micrographs "
                               "of the picks.")
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
        groups = convert.read_json(self._getMicrographsFile())
        pixel, distance, minDistance = groups["pixel_size_angst"], self._getDistance(), self.minDistance.get()
        mode = self.thresholdMode.get()
        arguments = ["--truth", self._getReferenceDir(), "--picks", self._getPicksDir(),
                     "--distance", repr(distance / pixel), "--min-distance", repr(minDistance / pixel),
                     "--json", self._getFiguresFile(), "--plot", self._getCurveFile(),
                     "--report", self._getReportFile()]
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
            # One word, for a number may be negative.
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
        if not makeCoordinates:
            return
        threshold = convert.read_json(self._getSummaryFile())["threshold"]
        picked = self.pickedCoordinates.get()
        attribute = convert.score_attribute(picked)
        tooNear = convert.too_near(picked, self.minDistance.get() / self._getSamplingRates()[1])
        # The picks' own pointer: their micrographs are the output's.
        output = self._createSetOfCoordinates(picked.getMicrographs(asPointer=True))
        output.setBoxSize(picked.getBoxSize())
        for item in picked.iterItems():
            if item.getObjId() not in tooNear and (
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
                errors.append("Both a border and an annotated region were given. Set the border to 0 or empty the "
                              "region.")
        except DeepEMError as error:
            errors.append(str(error))
        if reference is None or picked is None:
            return errors  # told by the framework
        if not reference.getSize():
            return [*errors, "There are no reference coordinates at all. Choose a set that has some."]
        groups = self._getGroups()
        if not groups["counted"]:
            own, other = groups["referenceOnly"], names_of(picked.getMicrographs())
            errors.append("No micrograph with reference coordinates is among the micrographs of the picks. The former "
                          f"are called {listed(own)}, the latter {listed(other)}. Choose sets on the same "
                          "micrographs.")
        else:
            try:
                self._readRegions(self._getMics(groups["counted"]))
            except DeepEMError as error:
                errors.append(f"File of annotated regions: {error}")
        if not self._getDistance():
            errors.append("The coordinates have no box size to take the matching distance from. Give the distance.")
        return errors

    def _warnings(self):
        warnings = []
        reference, picked = self.referenceCoordinates.get(), self.pickedCoordinates.get()
        if reference is None or picked is None:
            return warnings
        warnings += left_out(self._getGroups())
        for coordinates, what in ((reference, "reference"), (picked, "picks")):
            mics = coordinates.getMicrographs()
            if len(names_of(mics)) < mics.getSize():
                warnings.append(f"Several micrographs of the {what} have the same name. They are taken for one, "
                                "because micrographs are told apart by name here.")
        if picked.getSize() and convert.score_attribute(picked) is None:
            warnings.append("The picks carry no score: each counts with a score of 1, and the curve has one point.")
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
        matching = ("Matching: one to one; pick by pick, best score first, with the nearest particle still free within "
                    f"{found['distance_angst']:.1f} Å ({found['distance_angst'] / pixel:.1f} px of {pixel:.2f} Å), the "
                    "nearest pair first among equal scores")
        least = found.get("min_distance_angst")  # not there in runs of earlier versions
        non_maximum_suppression = f"; of picks nearer to each other than {least:.1f} Å only the best" if least else ""
        summary.append(matching + non_maximum_suppression)
        if found["region_px"]:
            x0, y0, x1, y1 = (round(value, 1) for value in found["region_px"])
            summary.append(f"Counted region: {x0:g} to {x1:g} px in x, {y0:g} to {y1:g} px in y")
        elif found.get("regions"):
            summary.append(f"Counted region: a part of its own of {found['regions']} micrographs, see regions.tsv in "
                           "the extra folder")
        if os.path.exists(self._getReportFile()):
            summary.append(f"Report for a browser: {self._getReportFile()}")
        return summary + left_out(found)

    def _methods(self):
        found = convert.read_json(self._getSummaryFile())
        if not found:
            return []
        figures, least = found["figures"], found.get("min_distance_angst")
        non_maximum_suppression = f", thinned to a least distance of {least:.0f} Å," if least else ""
        return [f"On {len(found['counted'])} micrographs {figures['picks']} picks ({self._getThresholdWords(found)})"
                f"{non_maximum_suppression} were matched one to one, by falling score, with {figures['truth']} reference particles "
                f"within {found['distance_angst']:.0f} Å. The precision was {figures['precision']:.2f}, the recall "
                f"{figures['recall']:.2f} and the average precision {figures['AP']:.2f}, determined with the program "
                "deepem [Zhu2017]."]

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
        # The figures without the curve, which may be long.
        return self._getExtraPath("summary.json")

    def _getInputs(self):
        return [self.referenceCoordinates, self.pickedCoordinates]

    def _getSamplingRates(self):
        """Pixel sizes of the micrographs of the reference and of the picks, in angstrom."""
        return [pointer.get().getMicrographs().getSamplingRate() for pointer in self._getInputs()]

    def _getSettings(self):
        """What the figures depend on beside the coordinates."""
        file = self.regionsFile.get("")
        changed = os.path.getmtime(file) if os.path.exists(file) else None
        mode = self.thresholdMode.get()
        return [self._getDistance(), self.minDistance.get(), self.border.get(), self.region.get(""), file, changed,
                mode, self.threshold.get() if mode == THRESHOLD_FIXED else None]

    def _getGroups(self):
        """How the micrographs of the two sets belong together, as far as it is known without reading positions."""
        names = []
        for pointer in self._getInputs():
            coordinates = pointer.get()
            names += [names_of(coordinates), names_of(coordinates.getMicrographs())]
        return sort_out(*names, self.countEmpty.get())

    def _getMics(self, names):
        """Micrographs of the picks by name."""
        names = set(names)
        return {mic.getMicName(): mic.clone() for mic in self.pickedCoordinates.get().getMicrographs()
                if mic.getMicName() in names}

    def _getResultNames(self, mics):
        """Names of the files of micrographs by their names in Scipion."""
        results = convert.result_names(mics.values())
        return {name: results[mic.getObjId()] for name, mic in mics.items()}

    def _writeMicrographList(self, names):
        """Write a list of those micrographs in whose pixels the coordinates are; `names` are those of the files."""
        finest = min(reversed(self._getInputs()), key=lambda pointer: pointer.get().getMicrographs().getSamplingRate())
        mics = [mic.clone() for mic in finest.get().getMicrographs() if mic.getMicName() in names]
        path = self._getExtraPath("lists", "micrographs.txt")
        convert.write_micrograph_list(path, mics, {mic.getObjId(): names[mic.getMicName()] for mic in mics})
        return path

    def _getDistance(self):
        """Matching distance in angstrom, 0 if it is not known."""
        if self.distance.get():
            return self.distance.get()
        for pointer, rate in zip(self._getInputs(), self._getSamplingRates()):
            if pointer.get().getBoxSize():
                return pointer.get().getBoxSize() * rate / BOX_PER_DIAMETER / 2
        return 0

    def _getCommonRegion(self):
        """The annotated region of all micrographs in pixels of the reference; None if none was given."""
        text = self.region.get("")
        try:
            values = [float(word) for word in text.replace(",", " ").split()]
        except ValueError:
            raise DeepEMError(f"Annotated region: {text!r} was found; give four numbers such as 20 20 1220 1180.") \
                from None
        return checked_region(values, "Annotated region") if values else None

    def _readRegions(self, mics):
        """Annotated regions from the file by name of the micrograph, in pixels of the reference."""
        if not self.regionsFile.get(""):
            return {}
        names = {result: name for name, result in self._getResultNames(mics).items()}
        return read_regions(self.regionsFile.get(), {**names, **{name: name for name in mics}})

    def _getRegions(self, pixel, mics):
        """Parts of micrographs that count, by name, in pixels of the given size; a micrograph without counts whole."""
        rates = self._getSamplingRates()
        region = self._getCommonRegion()
        given = {**(dict.fromkeys(mics, region) if region else {}), **self._readRegions(mics)}
        regions = {name: tuple(value * rates[0] / pixel for value in values) for name, values in given.items()}
        others = {name: mic for name, mic in mics.items() if name not in regions} if self.border.get() else {}
        # The distance from the edge of the first pixel, whose centre is 0.
        low = self.border.get() / pixel - 0.5
        for name, (rows, cols) in self._getShapes(others).items():
            high = [size * rates[1] / pixel - low - 1 for size in (cols, rows)]
            if min(high) <= low:
                raise RuntimeError(f"A border of {self.border.get():g} Å leaves nothing of {name} with {cols} x {rows} "
                                   f"px at {rates[1]:.4g} Å/px. Give a smaller one.")
            regions[name] = (low, low, *high)
        return regions

    def _getShapes(self, mics):
        """Rows and columns of micrographs by name, in pixels of the picks."""
        shapes = {}
        for name, mic in mics.items():
            try:
                shapes[name] = read_shape(mic.getFileName())
            except DeepEMError as error:
                self.warning(f"Its size stays unknown and is taken to be that of the others: {error}")
        if mics and not shapes:
            raise RuntimeError("The size of no micrograph could be read, so a border cannot be left out. Set it to 0, "
                               "or give the annotated region.")
        least = tuple(map(min, zip(*shapes.values())))  # that of all, as a rule
        return {name: shapes.get(name, least) for name in mics}

    def _getThresholdWords(self, found):
        if found["threshold"] is None:
            return "no threshold"
        return f"threshold {found['threshold']:.3f}, {found['mode']}"


def _with_any(found):
    return {name for name, coordinates in found.items() if len(coordinates.centres_xy)}
