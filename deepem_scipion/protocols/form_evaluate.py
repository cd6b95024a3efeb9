# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Form of the evaluation protocol."""

from pyworkflow.protocol import params

from ..deepem.network.geometry import BOX_PER_DIAMETER

# Scipion stores the position, so new choices are added at the end.
THRESHOLD_NONE, THRESHOLD_F1, THRESHOLD_F2, THRESHOLD_FIXED = range(4)
THRESHOLD_CHOICES = ("none", "best F1", "best F2", "fixed")


class EvaluateForm:
    """Parameters of the evaluation. To be inherited together with a protocol."""

    # -------------------------- DEFINE param functions -----------------------
    def _defineParams(self, form):
        self._defineInputParams(form)
        self._defineThresholdParams(form)

    def _defineInputParams(self, form):
        form.addSection(label="Input")
        form.addParam("referenceCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Reference coordinates",
                      help="Particles to compare with. On micrographs with reference coordinates all particles should "
                           "be in this set, otherwise correct picks count as false positives.")
        form.addParam("pickedCoordinates", params.PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Picked coordinates",
                      help="Picks to evaluate, with or without scores, on micrographs of the same names. Their pixel "
                           "size may differ from that of the reference.")
        group = form.addGroup("Matching")
        group.addParam("distance", params.FloatParam, default=0, label="Matching distance (Å)",
                       validators=[params.GE(0, error="should not be negative")],
                       help="Maximum distance between the centres of a pick and its particle, usually 0.2 to 0.5 "
                            "particle diameters. 0: half a particle diameter, which is taken as the box size of the "
                            "reference coordinates (of the picks if the reference has none) divided by "
                            f"{BOX_PER_DIAMETER:g}.")
        group.addParam("minDistance", params.FloatParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                       label="Minimum distance (Å)",
                       validators=[params.GE(0, error="should not be negative")],
                       help="Of picks closer to each other than this only the one with the highest score counts "
                            "(non-maximum suppression). For pickers that pick a particle several times; usually half a "
                            "particle diameter. 0: all picks count.")
        group = form.addGroup("Counted area")
        group.addParam("border", params.FloatParam, default=0, label="Border (Å)",
                       validators=[params.GE(0, error="should not be negative")],
                       help="Particles and false positives closer than this to the edge of the micrograph do not "
                            "count: half a box if the reference has no particles at the edge. 0: all count.")
        group.addParam("region", params.StringParam, default="", expertLevel=params.LEVEL_ADVANCED,
                       label="Annotated region (px)",
                       help="Alternative to a border: x and y of the first corner and of the opposite corner of the "
                            "area with reference coordinates, in pixels of the reference micrographs, for instance 20 "
                            "20 1220 1180. The same for all micrographs. Empty: whole micrographs.")
        group.addParam("regionsFile", params.FileParam, default="", expertLevel=params.LEVEL_ADVANCED,
                       label="File of annotated regions",
                       help="For annotated regions that differ between micrographs: a text file with a line per "
                            "micrograph, its name and the four numbers separated by blanks or tabs, for instance "
                            "mic_07.mrc 20 20 1220 1180. Text after a # is a comment. For micrographs that are not in "
                            "the file the region or the border above applies.")
        group.addParam("countEmpty", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                       label="Count micrographs without particles?",
                       help="Yes: reference micrographs without reference coordinates contain no particle, so all "
                            "picks on them are false positives. No: they were not annotated and are left out.")

    def _defineThresholdParams(self, form):
        form.addSection(label="Threshold")
        form.addParam("thresholdMode", params.EnumParam, choices=THRESHOLD_CHOICES, default=THRESHOLD_NONE,
                      display=params.EnumParam.DISPLAY_HLIST, label="Threshold on the score",
                      help="Picks with a lower score do not count. *none*: all picks count. *best F1*, *best F2*: the "
                           "threshold with the highest F1 or F2 on these micrographs; F2 gives recall more weight. "
                           "*fixed*: the value below.")
        form.addParam("threshold", params.FloatParam, default=0.5, condition=f"thresholdMode == {THRESHOLD_FIXED}",
                      label="Threshold",
                      help="Minimum score in the units of the picker: 0 to 1 for DeepEM and crYOLO, any number for "
                           "others.")
        form.addParam("makeCoordinates", params.BooleanParam, default=False,
                      label="Create coordinates above the threshold?",
                      help="Yes: picks that reach the threshold become a new set of coordinates, also those on "
                           "micrographs without reference. Their scores are kept.")
