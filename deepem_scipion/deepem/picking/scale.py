# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether micrographs and model can belong together: their pixel sizes, and the size of the particle."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph
from ..micrographs.scale import compare_pixel_sizes, differ, of_micrographs
from ..model.model import Model
from .settings import RunSettings
from .summary import MicrographResult

# Particles that are picked in micrographs.
DIAMETERS_ANGST = (40.0, 2000.0)
# Pixel sizes that differ by a larger factor are hardly those of one particle: binning by four is usual.
MAX_FACTOR = 4.1
# A particle that is wider than this share of the micrograph is hardly one.
MAX_SHARE = 0.5
# A particle of fewer pixels has no shape left, and enlarging the micrograph for the network takes long.
MIN_WIDTH_PX = 9
# A narrower particle is unusual, and what a diameter makes of it that is in pixels of binned micrographs.
NARROW_PX = 15.5


def doubtful_diameter(diameter_angst: float) -> list[str]:
    """Return a sentence for the user about a diameter that particles in micrographs do not have; none for others."""
    low, high = DIAMETERS_ANGST
    if low <= diameter_angst <= high:
        return []
    return [f"a particle diameter of {diameter_angst:g} A is unusual. Expected {low:g} to {high:g} A: was it given in "
            f"{'nm' if diameter_angst < low else 'pixels'}?"]


def doubtful_width(diameter_angst: float, pixel_size_angst: float) -> list[str]:
    """Return a sentence for the user about a particle of few pixels; none for others."""
    width = diameter_angst / pixel_size_angst
    if width >= NARROW_PX:
        return []
    return [f"a particle of {diameter_angst:g} A is only {width:.0f} px wide in micrographs with pixels of "
            f"{pixel_size_angst:g} A. Expected 27 px or more: is the diameter in angstrom, and not in pixels?"]


def check_scale(micrograph: Micrograph, model: Model) -> None:
    """Raise DeepEMError if the pixel size makes it improbable that the micrograph shows the particle of the model.

    Parameters
    ----------
    micrograph : Micrograph
    model : Model

    Raises
    ------
    DeepEMError
        The pixel size differs from that of the training by more than `MAX_FACTOR`, or the particle is wider than
        `MAX_SHARE` of the micrograph or narrower than `MIN_WIDTH_PX`.
    """
    size, trained = micrograph.input_pixel_size_angst, model.record.training_pixel_size_angst
    what = f"{micrograph.path}: with pixels of {size:g} A"
    advice = "give the right pixel size (--pixel-size), or --force to pick all the same"
    if trained is not None and not 1 / MAX_FACTOR <= size / trained <= MAX_FACTOR:
        factor, kind = (trained / size, "finer") if size < trained else (size / trained, "coarser")
        raise DeepEMError(f"{what} it is {factor:.3g} times {kind} than the micrographs of the training, {trained:g} "
                          f"A. Expected at most {MAX_FACTOR:.0f} times: {advice}.")
    width, side = model.diameter_angst / size, min(micrograph.input_shape)
    if width > MAX_SHARE * side:
        raise DeepEMError(f"{what} the particle of the model, {model.diameter_angst:g} A, is {width:.0f} px wide, and "
                          f"the micrograph {side} px. Expected a particle of at most half of it: use a model of this "
                          f"particle, {advice}.")
    if width < MIN_WIDTH_PX:
        raise DeepEMError(f"{what} the particle of the model, {model.diameter_angst:g} A, is only {width:.1f} px wide. "
                          f"Expected at least {MIN_WIDTH_PX} px, better 27: give the right diameter (--diameter, in "
                          f"angstrom), micrographs with finer pixels, {advice}.")


def scale_warnings(results: Mapping[str, MicrographResult], settings: RunSettings) -> list[str]:
    """Compare the pixel sizes of a run with those of the training and, if one was given, with the headers.

    Parameters
    ----------
    results : mapping of str to MicrographResult
        By name of the micrograph.
    settings : RunSettings
        How they were picked.

    Returns
    -------
    list of str
        Sentences for the user; none if all agree within `micrographs.scale.TOLERANCE`.
    """
    sizes = {name: found.pixel_size_angst for name, found in results.items() if found.pixel_size_angst}
    headers = {name: found.header_pixel_size_angst for name, found in results.items() if found.header_pixel_size_angst}
    given, trained = settings.pixel_size_angst, settings.training_pixel_size_angst
    if trained is None:
        return compare_pixel_sizes(headers, given)
    found = compare_pixel_sizes(headers, given) if given is not None else []
    others = {name: size for name, size in sizes.items() if differ(size, trained)}
    if others:
        source = "in the header" if given is None else "as given"
        found.append(f"{of_micrographs(others)} per pixel {source}, and the micrographs of the training had "
                     f"{trained:g} A. Picks are right only if both are true: if one is wrong give the true one "
                     "(--pixel-size)")
    return found
