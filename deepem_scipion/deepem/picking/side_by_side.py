# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picks of a run at nine thresholds, as the program of the paper's authors writes them."""

from __future__ import annotations

from dataclasses import replace

from ..coordinates.box import write_box
from .box import default_box_px
from .paper import THRESHOLDS
from .results import PickingResults
from .selection import PICKED, select


def write_side_by_side(results: PickingResults) -> None:
    """Write the picks of all micrographs at each of `THRESHOLDS`, in folders beside each other.

    Parameters
    ----------
    results : PickingResults
        Folder of a finished run. The picks at 0.3 are written to export/threshold-0.3, and so on.

    Raises
    ------
    DeepEMError
        A file cannot be read or written.
    """
    settings = results.read_settings()
    for name, found in results.read_micrographs().items():
        if not found.ok:
            continue
        candidates, _ = results.read_candidates(name)
        pixel_size = found.pixel_size_angst or settings.working_pixel_size_angst
        box_px = settings.written_box_px or default_box_px(settings.diameter_angst, pixel_size)
        for threshold in THRESHOLDS:
            picked = select(candidates, replace(settings.limits, threshold=threshold), pixel_size) == PICKED
            path = results.path("export", f"threshold-{threshold:g}") / f"{name}.box"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_box(path, candidates.centres_xy[picked], candidates.scores[picked], box_px)
