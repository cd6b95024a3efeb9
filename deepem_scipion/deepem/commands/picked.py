# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `deepem pick` reports about the micrographs that it picks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import console

if TYPE_CHECKING:
    from ..model.model import Model
    from ..picking.summary import MicrographResult

log = logging.getLogger("deepem")


class PickProgress:
    """Shows each micrograph that is done, and with the first of each pixel size the sizes that are worked with.

    A reason of failure is shown once; `say_how_many_failed` says at the end for how many micrographs it holds.
    """

    def __init__(self, total: int, show: console.ShowProgress, diameter_angst: float, box_px: int | None) -> None:
        self.total, self.show, self.diameter_angst, self.box_px, self.done = total, show, diameter_angst, box_px, 0
        self.pixel_sizes: set[str] = set()
        self.began = round(time.time(), 2)  # as exact as the times of results
        self.failed: dict[str, list[str]] = {}  # names by reason, without their paths

    def __call__(self, name: str, result: MicrographResult) -> None:
        """Show a micrograph that is done, or why it failed."""
        from ..picking.box import default_box_px
        from ..picking.scale import doubtful_width

        self.done += 1
        if (size := result.pixel_size_angst) and f"{size:.3g}" not in self.pixel_sizes:
            self.pixel_sizes.add(f"{size:.3g}")
            log.info("pixels of %g A; particle diameter %g A = %.0f px; boxes of %d px", size, self.diameter_angst,
                     self.diameter_angst / size, self.box_px or default_box_px(self.diameter_angst, size))
            for problem in doubtful_width(self.diameter_angst, size):
                log.warning("warning: %s", problem)
        if result.ok:
            kept = result.finished is not None and result.finished < self.began
            self.show(self.done, f"{self.done}/{self.total} {name}: {result.picks} picks "
                                 + ("kept" if kept else f"in {result.seconds:.2f} s"))
            return
        alike = self.failed.setdefault(result.reason.replace(result.path, ""), [])
        alike.append(name)
        if len(alike) == 1:
            log.warning("%d/%d %s failed: %s", self.done, self.total, name, result.reason)
        else:
            self.show(self.done, f"{self.done}/{self.total} {name} failed as {alike[0]}")

    def say_how_many_failed(self) -> None:
        """Say for each reason that several micrographs share how many these are."""
        for first, *others in self.failed.values():
            if others:
                log.warning("%d micrographs failed for the reason given for %s", 1 + len(others), first)


def say_what_is_cut(results: Mapping[str, MicrographResult], box_px: int | None, model: Model) -> None:
    """Say how many picks are too close to the border to be extracted whole."""
    from ..picking.box import default_box_px, what_is_cut

    if cut := sum(result.cut or 0 for result in results.values()):
        sizes = {result.pixel_size_angst for result in results.values() if result.pixel_size_angst}
        boxes = [(box_px or default_box_px(model.diameter_angst, size), size) for size in sizes]
        log.info("%s", what_is_cut(cut, *max(boxes, key=math.prod)))
