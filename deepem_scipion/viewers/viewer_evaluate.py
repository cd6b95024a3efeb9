# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparison of picks with a reference, in the studio: figures, curves of several evaluations, mistakes."""

import os

from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from .. import convert
from ..constants import TIFF_ROWS
from ..deepem.coordinates.read import read_coordinates
from ..deepem.coordinates.regions import read_regions, write_regions
from ..protocols import ProtDeepEMEvaluate
from ..studio import StudioRun, session_folder

TEXT = """The picks and the reference are open in your browser; where there is none, open the address below. The panel \
on the right has figures and curves, also of the other evaluations of this project; click F1 above the list to see the \
worst micrographs first."""


class DeepEMEvaluateViewer(Viewer):
    """Precision, recall and F-scores of one or several pickers, and their mistakes on the micrographs."""

    _name = "DeepEM evaluation"
    _targets = [ProtDeepEMEvaluate]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        if not _is_done(obj):
            return [self.infoMessage("Nothing was compared yet.", "DeepEM evaluation")]
        from .studio_window import StudioWindow

        return [self.tkWindow(StudioWindow, title=f"DeepEM evaluation: {obj}", text=TEXT, run=self.start(obj))]

    def start(self, protocol):
        """Start the studio for an evaluation; returns the StudioRun."""
        folder = os.path.abspath(self.getProject().getTmpPath(f"studio-{protocol.getObjId()}"))
        others = [run for run in self.getProject().getRuns() if isinstance(run, ProtDeepEMEvaluate)
                  and run.getObjId() != protocol.getObjId() and _is_done(run)]
        compared = [f"{run}{_difference(run, protocol)}={run._getFiguresFile()}" for run in others]
        return StudioRun(folder, [*_write_files(protocol, folder), *(["--compare", *compared] if compared else [])])


def _is_done(protocol):
    return bool(convert.read_json(protocol._getFiguresFile()) and convert.read_json(protocol._getSummaryFile()))


def _difference(run, protocol):
    """A remark about an evaluation of other micrographs, or of another number of reference particles."""
    one, other = (convert.read_json(each._getSummaryFile()) for each in (run, protocol))
    same = one["counted"] == other["counted"] and one["figures"]["truth"] == other["figures"]["truth"]
    return "" if same else " (other micrographs or particles)"


def _write_files(protocol, folder):
    """Write picks, reference and regions in pixels of the micrographs of the picks; returns arguments of the studio."""
    summary, rate = convert.read_json(protocol._getSummaryFile()), protocol._getSamplingRates()[1]
    mics = protocol._getMics(summary["counted"])
    names = protocol._getResultNames(mics)
    scale = summary["pixel_size_angst"] / rate  # pixels of the micrographs per pixel of the evaluation's files
    listed, picks, reference, regions = (os.path.join(folder, name) for name in
                                         ("micrographs.txt", "picks", "reference", "regions.tsv"))
    by_id = {mic.getObjId(): names[name] for name, mic in mics.items()}
    convert.write_micrograph_list(listed, mics.values(), by_id)
    for source, target in ((protocol._getPicksDir(), picks), (protocol._getReferenceDir(), reference)):
        convert.write_scored_boxes(target, read_coordinates(source), {name: name for name in names.values()}, scale)
    distance = summary["distance_angst"]
    arguments = [listed, "--project", session_folder(folder, mics.values(), by_id), "--pixel-size", repr(rate),
                 "--tiff-rows", TIFF_ROWS, "--diameter", f"{2 * distance:.6g}", "--coordinates", picks, "--reference",
                 reference, "--distance", repr(distance), "--min-distance", repr(summary["min_distance_angst"])]
    if os.path.exists(protocol._getRegionsFile()):
        found = read_regions(protocol._getRegionsFile(), {name: name for name in names.values()})
        write_regions(regions, {name: tuple(scale * value for value in region) for name, region in found.items()})
        arguments += ["--regions", regions]
    # In one word, because the number may be negative.
    return arguments + ([] if summary["threshold"] is None else [f"--threshold={summary['threshold']!r}"])
