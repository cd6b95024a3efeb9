# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol that evaluates picks, in a project, without training.

With pytest, or in a Scipion installation: scipion3 tests deepem_scipion.tests.test_protocols_evaluate
"""

import json
import os
import shutil
import tempfile

import mrcfile
import numpy as np
from pwem.objects import Coordinate, SetOfCoordinates
from pwem.protocols import ProtImportCoordinates, ProtImportMicrographs
from pyworkflow.object import Float, Integer
from pyworkflow.tests import BaseTest, setupTestProject

from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.evaluation.metrics import evaluate
from deepem_scipion.protocols import ProtDeepEMEvaluate
from deepem_scipion.tests.program import needs_program
from deepem_scipion.tests.test_protocols_deepem import PIXEL_ANGST


def scattered(rng, shape, number, spacing):
    """Whole-numbered x, y in an image, no two closer than the spacing."""
    found = []
    while len(found) < number:
        x, y = rng.integers(0, shape[1]), rng.integers(0, shape[0])
        if all(np.hypot(x - a, y - b) >= spacing for a, b in found):
            found.append((int(x), int(y)))
    return found


def near(rng, places, shape):
    """Picks as (x, y, score): around most of the places, two around some, and elsewhere."""
    picks = []
    for x, y in places:
        for _ in range(rng.choice(3, p=(0.2, 0.6, 0.2))):
            dx, dy = rng.integers(-9, 10, 2)
            picks.append((int(x + dx), int(y + dy), rng.uniform(0.3, 1)))
    return picks + [(x, y, rng.uniform(0, 0.8)) for x, y in scattered(rng, shape, 12, 5)]


def as_arrays(centres, factor=1):
    """Input of the metrics, by name without extension, from (x, y) or (x, y, score) by name."""
    found = {}
    for name, rows in centres.items():
        centres_xy = factor * np.array([row[:2] for row in rows], float).reshape(-1, 2)
        scores = np.array([in_file(row[2]) if len(row) > 2 else 1.0 for row in rows])
        found[os.path.splitext(name)[0]] = Coordinates(centres_xy, scores, None)
    return found


def in_file(score):
    """A score with the digits that a .box file has."""
    return float(f"{score:.6g}")


@needs_program
class TestDeepEMEvaluation(BaseTest):
    """Reference and picks, where the micrographs a and b have both, c no pick, d no reference, and f neither.

    The micrograph e has reference particles and is not among the micrographs of the picks. The picks' micrographs
    have other numbers than those of the reference.
    """

    SHAPES = {"a.mrc": (300, 440), "b.mrc": (300, 440), "c.mrc": (310, 430), "d.mrc": (300, 440), "e.mrc": (300, 440),
              "f.mrc": (300, 440)}
    BOX, DISTANCE_PX = 60, 20  # half of two thirds of the box

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = tempfile.mkdtemp(prefix="deepem-evaluation-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        for name, shape in cls.SHAPES.items():
            with mrcfile.new(os.path.join(cls.folder, name)) as file:
                file.set_data(np.zeros(shape, np.int8))
        rng = np.random.default_rng(8)
        places = {name: scattered(rng, shape, 25, 24) for name, shape in cls.SHAPES.items()}
        cls.known = {name: places[name] for name in ("a.mrc", "b.mrc", "c.mrc", "e.mrc")}
        cls.found = {name: near(rng, places[name], cls.SHAPES[name]) for name in ("a.mrc", "b.mrc", "d.mrc")}
        cls.all_mics = cls.importMicrographs("*.mrc", PIXEL_ANGST)
        cls.mics = cls.importMicrographs("[dcbaf].mrc", PIXEL_ANGST)
        cls.binned = cls.importMicrographs("[dcbaf].mrc", 2 * PIXEL_ANGST)
        cls.reference = cls.importCoordinates(cls.all_mics, cls.known)
        cls.picks = cls.importCoordinates(cls.mics, cls.found)

    @classmethod
    def importMicrographs(cls, pattern, pixel):
        protocol = cls.newProtocol(ProtImportMicrographs, filesPath=cls.folder, filesPattern=pattern,
                                   samplingRate=pixel)
        cls.launchProtocol(protocol)
        return protocol

    @classmethod
    def importCoordinates(cls, mics, centres, box=BOX, change=None):
        path = os.path.join(cls.folder, f"coordinates{len(os.listdir(cls.folder))}.sqlite")
        written = SetOfCoordinates(filename=path)
        numbers = {mic.getMicName(): mic.clone() for mic in mics.outputMicrographs}
        for name, rows in centres.items():
            for number, row in enumerate(rows):
                item = Coordinate(x=row[0], y=row[1])
                item.setMicrograph(numbers[name])
                if len(row) > 2:
                    item._deepemScore = Float(row[2])
                    item._rlnAutopickFigureOfMerit = Float(row[2])
                    item._rlnClassNumber = Integer(1)
                    item._rlnAnglePsi = Float(0.0)
                if change:
                    change(item, number)
                written.append(item)
        written.write()
        written.close()
        protocol = cls.newProtocol(ProtImportCoordinates, importFrom=ProtImportCoordinates.IMPORT_FROM_SCIPION,
                                   filesPath=path, filesPattern="", boxSize=box)
        protocol.inputMicrographs.set(mics)
        protocol.inputMicrographs.setExtended("outputMicrographs")
        cls.launchProtocol(protocol)
        return protocol

    def compare(self, picks, reference=None, launch=True, **params):
        protocol = self.newProtocol(ProtDeepEMEvaluate, **params)
        for pointer, source in ((protocol.referenceCoordinates, reference or self.reference),
                                (protocol.pickedCoordinates, picks)):
            pointer.set(source)
            pointer.setExtended("outputCoordinates")
        if launch:
            self.launchProtocol(protocol)
        return protocol

    def figures(self, protocol):
        with open(protocol._getExtraPath("figures.json")) as file:
            return json.load(file)

    def expected(self, names, found=None, distance=DISTANCE_PX, region=None, threshold=None, factor=1):
        """Figures by the metrics on the same positions for the micrographs with these names."""
        known = as_arrays({name: self.known.get(name, []) for name in names})
        return evaluate(known, as_arrays(self.found if found is None else found, factor), distance, region, threshold)

    def rows(self, coordinates):
        return sorted((item.getMicName(), *item.getPosition(), item._deepemScore.get()) for item in coordinates)

    def test_figures_are_those_of_the_metrics_and_the_cut_keeps_the_best_picks(self):
        protocol = self.compare(self.picks, thresholdMode=1, makeCoordinates=True)
        counted = ("a.mrc", "b.mrc", "c.mrc")
        best = self.expected(counted)["overall"]["best_F1"]
        threshold = best["threshold"]
        expected = self.expected(counted, threshold=threshold)
        self.assertEqual(self.figures(protocol), expected)
        overall = expected["overall"]
        self.assertTrue(0 < overall["true_positives"] < overall["picks"] < sum(map(len, self.found.values())))
        self.assertEqual(overall["truth"], 75)  # those of c are missed, those of e do not count
        with open(protocol._getExtraPath("curve.png"), "rb") as file:
            self.assertTrue(file.read(4).endswith(b"PNG"))
        with open(protocol._getExtraPath("report.html"), encoding="utf-8") as file:
            report = file.read()
        self.assertIn(f"<dt>precision</dt><dd>{overall['precision']:.3f}</dd>", report)
        self.assertIn("a.mrc is constant", report)  # it was found, and there is nothing to be seen

        output = protocol.outputCoordinates
        self.assertEqual(self.rows(output), sorted(
            (name, *row) for name, rows in self.found.items() for row in rows if in_file(row[2]) >= threshold))
        self.assertEqual({item.getMicName() for item in output}, set(self.found))
        for item in output:  # what RELION's extraction wants is still there
            self.assertEqual(item._rlnAutopickFigureOfMerit.get(), item._deepemScore.get())
            self.assertEqual((item._rlnClassNumber.get(), item._rlnAnglePsi.get()), (1, 0))
        self.assertEqual(output.getBoxSize(), self.BOX)
        self.assertEqual(output.getMicrographs().getObjId(), self.mics.outputMicrographs.getObjId())
        micIds = {mic.getMicName(): mic.getObjId() for mic in self.mics.outputMicrographs}
        self.assertTrue(all(item.getMicId() == micIds[item.getMicName()] for item in output))

        summary = "\n".join(protocol.summary())
        for words in ("3 micrographs", f"{overall['picks']} picks with 75 reference",
                      f"(threshold {threshold:.3f}, best F1)",
                      f"Precision {overall['precision']:.3f}, recall {overall['recall']:.3f}, F1 {best['F1']:.3f}",
                      f"average {overall['error_px'] * PIXEL_ANGST:.1f} Å", f"Average precision {overall['AP']:.3f}",
                      f"best F1 {best['F1']:.3f} at a threshold of {threshold:.3f}", "one to one", "within 50.0 Å",
                      "1 micrographs have reference coordinates and are not among the micrographs of the picks: left "
                      "out (e.mrc)", "1 micrographs have picks and no reference coordinates: left out (d.mrc)",
                      "1 micrographs have reference coordinates and no pick: all of their particles count as missed "
                      "(c.mrc)"):
            self.assertIn(words, summary)
        self.assertIn(f"recall {overall['recall']:.2f}", protocol._methods()[0])

    def test_a_threshold_a_region_and_micrographs_known_to_be_empty_count(self):
        region = (30, 20, 400, 280)
        protocol = self.compare(self.picks, distance=20, thresholdMode=3, threshold=0.45, countEmpty=True,
                                region="30 20, 400 280")
        counted = ("a.mrc", "b.mrc", "c.mrc", "d.mrc", "f.mrc")
        expected = self.expected(counted, distance=8, region=region, threshold=0.45)
        self.assertEqual(self.figures(protocol), expected)
        self.assertGreater(expected["micrographs"]["d"]["picks"], 0)
        self.assertFalse(hasattr(protocol, "outputCoordinates"))
        self.assertIn("30 to 400 px in x, 20 to 280 px in y", "\n".join(protocol.summary()))
        self.assertNotIn("d.mrc", "\n".join(protocol.summary()))

        # Continue evaluates again after a change.
        protocol.thresholdMode.set(2)
        protocol.makeCoordinates.set(True)
        self.launchProtocol(protocol)
        threshold = expected["overall"]["best_F2"]["threshold"]
        self.assertEqual(self.figures(protocol)["overall"]["F2"], expected["overall"]["best_F2"]["F2"])
        self.assertEqual(len(self.rows(protocol.outputCoordinates)),
                         sum(in_file(row[2]) >= threshold for rows in self.found.values() for row in rows))

    def test_picks_of_binned_micrographs_are_scaled_to_the_pixels_of_the_reference(self):
        found = {name: [(x // 2, y // 2, score) for x, y, score in rows] for name, rows in self.found.items()}
        picks = self.importCoordinates(self.binned, found, box=31)
        protocol = self.compare(picks)
        expected = self.expected(("a.mrc", "b.mrc", "c.mrc"), found, factor=2)
        self.assertEqual(self.figures(protocol), expected)
        self.assertGreater(expected["overall"]["true_positives"], 20)
        with open(protocol._getLogsPath("run.stdout")) as file:
            self.assertIn("The picked coordinates are multiplied by 2,", file.read())
        # The other way round the reference is rescaled, and distances stay what they are in angstrom.
        turned = self.figures(self.compare(self.reference, picks, distance=50))["overall"]
        self.assertEqual(turned["picks"], expected["overall"]["truth"] - 25)  # c has no reference now
        self.assertEqual(turned["true_positives"], expected["overall"]["true_positives"])

    def test_picks_without_scores_give_a_curve_of_one_point(self):
        found = {name: [row[:2] for row in rows] for name, rows in self.found.items()}
        picks = self.importCoordinates(self.mics, found)
        protocol = self.compare(picks, thresholdMode=1, makeCoordinates=True)
        figures = self.figures(protocol)
        self.assertEqual(figures, self.expected(("a.mrc", "b.mrc", "c.mrc"), found, threshold=1.0))
        self.assertEqual(figures["curve"]["threshold"], [1.0])
        self.assertEqual(protocol.outputCoordinates.getSize(), picks.outputCoordinates.getSize())
        self.assertIn("no scores", "\n".join(protocol.warnings()))

    def test_unusable_coordinates_and_sets_without_picks_are_tolerated(self):
        def spoil(item, number):
            if number == 0:
                item._x.set(None)
            elif number == 1:
                item.setMicId(77)

        reference = self.importCoordinates(self.mics, {name: self.known[name] for name in ("a.mrc", "b.mrc")},
                                           change=spoil)
        protocol = self.compare(self.picks, reference, thresholdMode=3, threshold=2, makeCoordinates=True)
        overall = self.figures(protocol)["overall"]
        self.assertEqual((overall["truth"], overall["picks"], overall["precision"]), (46, 0, 0))
        self.assertGreater(overall["best_F1"]["F1"], 0.5)
        with open(protocol._getLogsPath("run.stdout")) as file:
            self.assertIn("4 reference coordinates have no position or no micrograph", file.read())
        self.assertEqual(protocol.outputCoordinates.getSize(), 0)

        nothing = self.compare(protocol, thresholdMode=1, makeCoordinates=True)
        self.assertEqual(self.figures(nothing)["overall"]["recall"], 0)
        self.assertEqual(nothing.outputCoordinates.getSize(), 0)
        summary = "\n".join(nothing.summary())
        self.assertIn("no best F1, as there are no picks", summary)
        self.assertIn("3 micrographs have reference coordinates and no pick", summary)

    def test_inputs_that_cannot_be_compared_are_refused_before_the_start(self):
        protocol = self.compare(self.picks, launch=False)
        self.assertEqual(protocol._validate(), [])
        warnings = "\n".join(protocol._warnings())
        for name in ("c.mrc", "d.mrc", "e.mrc"):
            self.assertIn(name, warnings)
        for region in ("1 2 3", "1 2 x 4", "30 20 10 40"):
            protocol.region.set(region)
            self.assertIn("Annotated region: ", "\n".join(protocol._validate()))
        protocol.region.set("1 2 3 4")
        protocol.border.set(10)
        self.assertIn("Set the border to 0", "\n".join(protocol._validate()))

        # e is among the micrographs of this reference and not among those of the picks.
        elsewhere = self.importCoordinates(self.all_mics, {"e.mrc": self.known["e.mrc"]}, box=0)
        errors = self.compare(self.picks, elsewhere, launch=False)._validate()
        self.assertEqual(len(errors), 1)
        self.assertIn("No micrograph with reference coordinates is among the micrographs of the picks", errors[0])
        self.assertIn("reference has e.mrc, the picks have a.mrc, b.mrc, c.mrc and 2 more", errors[0])

        # The other way round it is the picks that have no box size, and both.
        self.assertEqual(self.compare(elsewhere, self.picks, launch=False)._getDistance(), 50)
        protocol = self.compare(elsewhere, elsewhere, launch=False)
        self.assertIn("Give the distance", protocol._validate()[0])
        protocol.distance.set(20)
        self.assertEqual(protocol._validate(), [])

        nothing = SetOfCoordinates(filename=os.path.join(self.folder, "nothing.sqlite"))
        nothing.setMicrographs(self.mics.outputMicrographs)
        protocol.referenceCoordinates.set(nothing)
        protocol.referenceCoordinates.setExtended(None)
        self.assertIn("set of reference coordinates is empty", protocol._validate()[0])

    def test_a_border_is_excluded_from_every_micrograph_without_a_region_in_the_file(self):
        table = os.path.join(self.folder, "regions.txt")
        with open(table, "w") as file:
            file.write("# name x0 y0 x1 y1\nb 10 20 100 200\nmics/c.mrc\t0\t0\t50.5\t60\ne.mrc 0 0 5 5\n")
        protocol = self.compare(self.picks, launch=False, border=25)
        mics = protocol._getMics(["a.mrc", "b.mrc", "c.mrc"])
        inner = (9.5, 9.5, 429.5, 289.5)
        self.assertEqual(protocol._getRegions(PIXEL_ANGST, mics),
                         {"a.mrc": inner, "b.mrc": inner, "c.mrc": (9.5, 9.5, 419.5, 299.5)})
        self.assertEqual(protocol._getRegions(PIXEL_ANGST / 2, mics)["c.mrc"], (19.5, 19.5, 839.5, 599.5))
        protocol.regionsFile.set(table)
        self.assertEqual(protocol._getRegions(PIXEL_ANGST, mics),
                         {"a.mrc": inner, "b.mrc": (10, 20, 100, 200), "c.mrc": (0, 0, 50.5, 60)})
        protocol.regionsFile.set(None)
        protocol.border.set(400)
        with self.assertRaisesRegex(RuntimeError, "leaves nothing of a.mrc with 440 x 300 px"):
            protocol._getRegions(PIXEL_ANGST, mics)

    def test_picks_too_close_to_better_ones_are_removed_from_figures_and_output(self):
        protocol = self.compare(self.picks, minDistance=35, thresholdMode=2, makeCoordinates=True)
        found = self.figures(protocol)
        known = as_arrays({name: self.known[name] for name in ("a.mrc", "b.mrc", "c.mrc")})
        self.assertEqual(found, evaluate(known, as_arrays(self.found), self.DISTANCE_PX, threshold="F2",
                                         min_distance_px=35 / PIXEL_ANGST))
        thick = self.expected(("a.mrc", "b.mrc", "c.mrc"), threshold=found["threshold"])
        self.assertLess(found["overall"]["picks"], thick["overall"]["picks"])
        rows = self.rows(protocol.outputCoordinates)
        self.assertEqual({row[0] for row in rows}, set(self.found))
        self.assertEqual(sum(row[0] in ("a.mrc", "b.mrc") for row in rows), found["overall"]["picks"])
        for name, x, y, _ in rows:
            self.assertEqual([row[1:3] for row in rows if row[0] == name and np.hypot(row[1] - x, row[2] - y) < 14],
                             [(x, y)])
        self.assertIn("after non-maximum suppression with a minimum distance of 35.0 Å", "\n".join(protocol.summary()))
        self.assertIn("after non-maximum suppression with a minimum distance of 35 Å", protocol._methods()[0])

    def test_regions_of_a_file_apply_to_their_micrographs_and_an_unreadable_micrograph_is_tolerated(self):
        table = os.path.join(self.folder, "regions of b.txt")
        with open(table, "w") as file:
            file.write("b.mrc 30 20 400 280\n")
        path = os.path.join(self.folder, "c.mrc")
        os.rename(path, path + ".kept")
        try:
            protocol = self.compare(self.picks, border=25, regionsFile=table)
        finally:
            os.rename(path + ".kept", path)
        counted, inner = ("a.mrc", "b.mrc", "c.mrc"), (9.5, 9.5, 429.5, 289.5)
        self.assertEqual(self.figures(protocol), self.expected(counted, region={"a": inner, "b": (30, 20, 400, 280),
                                                                                "c": inner}))
        self.assertIn("different for each of 3 micrographs", "\n".join(protocol.summary()))
        with open(protocol._getLogsPath("run.stdout")) as file:
            self.assertIn("The size of a micrograph is assumed to be that of the others", file.read())

        # Continue evaluates again when the file has changed; an invalid one is refused before the start.
        with open(table, "w") as file:
            file.write("a 30 20 400 280\nb 0 0 200 200\nc 0 0 10 10\n")
        os.utime(table, (1, 1))
        protocol.border.set(0)
        self.launchProtocol(protocol)
        self.assertEqual(self.figures(protocol), self.expected(counted, region={
            "a": (30, 20, 400, 280), "b": (0, 0, 200, 200), "c": (0, 0, 10, 10)}))
        with open(table, "a") as file:
            file.write("b 1 2 3\n")
        self.assertIn("regions of b.txt, line 4: expected", "\n".join(protocol._validate()))
        protocol.regionsFile.set(table + "x")
        self.assertIn("cannot be read", "\n".join(protocol._validate()))
