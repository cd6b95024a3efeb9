# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""`--diameter auto`: the diameter of the particle from a few micrographs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeepEMError
from . import console
from .arguments import angst

if TYPE_CHECKING:
    from ..picking.diameter import DiameterEstimate

log = logging.getLogger("deepem")

AUTO = "auto"


def diameter(text: str) -> float | str:
    """Parse a diameter in angstrom, or `auto`; for argparse."""
    return AUTO if text == AUTO else angst(text)


def estimated(options: argparse.Namespace) -> DiameterEstimate | None:
    """Replace `--diameter auto` in the options by an estimate, which is printed.

    Parameters
    ----------
    options : argparse.Namespace
        Arguments of a command, with `diameter`, `contrast`, `micrographs` and `pixel_size`.

    Returns
    -------
    DiameterEstimate or None
        None where a diameter, or a model, is given.

    Raises
    ------
    DeepEMError
        The diameter cannot be determined, see `estimate_diameter`, or there are no micrographs yet.
    """
    from ..micrographs.find import find_micrographs
    from ..picking.diameter import estimate_diameter

    if options.diameter != AUTO:
        return None
    if not getattr(options, "micrographs", None):
        raise DeepEMError("--diameter auto: there are no micrographs yet. Give the diameter in angstrom")
    found = estimate_diameter(find_micrographs(options.micrographs), options.contrast or "dark", options.pixel_size)
    options.diameter = float(f"{found.diameter_angst:.3g}")
    console.print_result(f"particle diameter estimated from {found.picks} picks: {options.diameter:g} A, probably "
                         f"{found.low_angst:.0f} to {found.high_angst:.0f} A")
    return found


def draw_estimate(found: DiameterEstimate, options: argparse.Namespace, micrographs: Mapping[str, Path]) -> None:
    """Draw an estimated diameter on the picked micrograph in the middle of all, into the results folder."""
    from ..micrographs.micrograph import read_micrograph
    from ..picking.results import PickingResults
    from ..report.diameter_plot import draw_diameter

    results = PickingResults(options.output)
    picked = [name for name, result in results.read_micrographs().items() if result.ok and name in micrographs]
    if not picked:
        return
    name = picked[len(picked) // 2]
    try:
        micrograph = read_micrograph(micrographs[name], pixel_size_angst=options.pixel_size,
                                     tiff_rows=options.tiff_rows)
        draw_diameter(found, micrograph.pixels, results.read_picks(name).centres_xy,
                      micrograph.input_pixel_size_angst, results.path("diameter"))
        log.info("the estimated diameter is shown in %s", results.path("diameter"))
    except (DeepEMError, ModuleNotFoundError) as error:  # costs no pick
        log.warning("warning: no picture of the diameter: %s", error)
