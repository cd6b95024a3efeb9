# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether micrographs, coordinates and diameter can belong together, before a training takes time.

Each function returns sentences for the user, none if nothing is unusual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..errors import DeepEMError
from ..micrographs.images import ImageHeader, read_header
from ..micrographs.scale import compare_pixel_sizes, differ
from ..network.geometry import BOX_PER_DIAMETER
from ..picking.scale import doubtful_diameter
from .labels import POSITIVE_DISTANCE, LabelledMicrograph
from .plan import Plan, check
from .training_set import TrainingSet

# Fewer particles are enough to begin with at best.
FEW_PARTICLES = 20
# Usual sides of the boxes of coordinates, in particle diameters; those of other programs are 1 to 2.5.
BOX_DIAMETERS = (0.8, 4.0)
# Boxes of so few pixels are points, of programs that know no box.
POINT_PX = 2.0
# Coordinates that end at this share of the width and of the height are taken for those of binned micrographs. Those of
# a single micrograph, where particles may be on one side, must end at 1 / 2, 1 / 3 or 1 / 4, or before by this share.
QUARTER, ENDS_BEFORE = 0.6, 0.15
# The contrast of a micrograph is that of the mean of its particles, of this many at least, beyond this many standard
# errors of the mean.
FEW_TO_AVERAGE, MIN_STANDARD_ERRORS = 3, 3.0
# A larger share of coordinates outside of the micrographs is no matter of a few at the border; and a larger share of
# negatives on particles none of a few doubtful ones.
OUTSIDE = ON_PARTICLES = 0.1


def find_problems(data: TrainingSet, plan: Plan) -> list[str]:
    """Compare pixel sizes, diameter, boxes and coordinates, as far as headers show them.

    Parameters
    ----------
    data : TrainingSet
        Micrographs and coordinates. Micrographs that cannot be read are left out.
    plan : Plan
        Settings of the training.

    Returns
    -------
    list of str

    Raises
    ------
    DeepEMError
        A value of the plan makes no sense.
    """
    check(plan)
    headers = {}
    for name in data.names:
        try:
            headers[name] = read_header(data.micrographs[name])
        except DeepEMError:
            continue  # reported when the micrograph is read
    if not headers:
        return []
    sizes = {name: header.pixel_sizes_angst[0] for name, header in headers.items() if header.pixel_sizes_angst}
    found = compare_pixel_sizes(sizes, plan.pixel_size_angst) + doubtful_diameter(plan.diameter_angst)
    pixel_size = plan.pixel_size_angst or next(iter(sizes.values()), None)
    if pixel_size is not None:
        found += _start(plan, pixel_size) + _boxes(data, plan.diameter_angst, pixel_size)
        found += _conflicts(data, plan.diameter_angst / pixel_size)
    for what, coordinates in (("coordinates", data.particles), ("coordinates of negatives", data.negatives)):
        found += _extent(what, coordinates, headers, pixel_size)
    return found + ([] if data.taught else _number(data))


def find_bright(labelled: Sequence[LabelledMicrograph], diameter_px: float, start_contrast: str | None) -> list[str]:
    """Compare the contrast at the marked particles with the usual one, or with that of a model to fine-tune.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
        Micrographs with particles.
    diameter_px : float
        Diameter of the particle in binned pixels.
    start_contrast : {"dark", "bright"}, optional
        Contrast of the model that the training starts from.

    Returns
    -------
    list of str
    """
    used = [item for item in labelled if len(item.particles_rc) >= FEW_TO_AVERAGE]
    sign = -1 if start_contrast == "bright" else 1
    odd = [item.name for item in used if sign * _brightness(item, diameter_px) > MIN_STANDARD_ERRORS]
    if not odd:
        return []
    usual, found = ("bright", "dark") if sign < 0 else ("dark", "bright")
    return [f"the places marked as particles are {found} on {len(odd)} of {len(used)} micrographs ({_some(odd)}). "
            + (f"The particles of the model to start from are {usual}" if start_contrast else
               "Particles in ice are dark; bright ones are right in negative stain or with inverted contrast")
            + ". Otherwise coordinates and micrographs do not belong together, or have another frame or scale "
              "(--tiff-rows, --coordinate-scale)"]


def find_invisible(labelled: Sequence[LabelledMicrograph], diameter_px: float) -> list[str]:
    """Check whether the marked places differ from what is around them.

    Parameters
    ----------
    labelled : sequence of LabelledMicrograph
        Micrographs with particles.
    diameter_px : float
        Diameter of the particle in binned pixels.

    Returns
    -------
    list of str
    """
    used = [item for item in labelled if len(item.particles_rc) >= FEW_TO_AVERAGE]
    number = sum(len(item.particles_rc) for item in used)
    if number < FEW_PARTICLES or any(abs(_brightness(item, diameter_px)) > MIN_STANDARD_ERRORS for item in used):
        return []
    return [f"the {number} places marked as particles are neither darker nor brighter than what is around them. Either "
            "particles are hollow, or coordinates and micrographs do not belong together: look at the coordinates on "
            "a micrograph, and check their frame and scale (--tiff-rows, --coordinate-scale)"]


def _brightness(item: LabelledMicrograph, diameter_px: float) -> float:
    """Mean of the discs of the particles less that of the squares around them, in standard errors of the difference."""
    half = max(1, round(BOX_PER_DIAMETER * diameter_px / 2))
    r, c = np.clip(np.rint(item.particles_rc), 0, np.array(item.pixels.shape) - 1).astype(int).T
    padded = np.pad(item.pixels, half, mode="symmetric")
    boxes = np.lib.stride_tricks.sliding_window_view(padded, (2 * half + 1, 2 * half + 1))[r, c]
    y, x = np.indices(boxes.shape[1:]) - half
    within = np.hypot(y, x) <= diameter_px / 2
    differences = boxes[:, within].mean(axis=1) - boxes[:, ~within].mean(axis=1)
    return float(differences.mean() / max(differences.std() / np.sqrt(len(differences)), 1e-9))


def _start(plan: Plan, pixel_size: float) -> list[str]:
    trained = plan.start.record.training_pixel_size_angst if plan.start else None
    if trained is None or not differ(trained, pixel_size):
        return []
    return [f"the micrographs have pixels of {pixel_size:g} A, those that the model to start from was trained on "
            f"{trained:g} A. If one of the two is wrong give the true one (--pixel-size)"]


def _boxes(data: TrainingSet, diameter: float, pixel_size: float) -> list[str]:
    sides = [found.box_px for found in map(data.particles.__getitem__, data.names)
             if found.box_px and found.box_px > POINT_PX and len(found.scores)]
    if not sides:
        return []
    side = float(np.median(sides))
    share, (low, high) = side * pixel_size / diameter, BOX_DIAMETERS
    if low <= share <= high:
        return []
    hints = [f"a diameter in {unit} would be {factor * diameter:.3g} A" for unit, factor in (("pixels", pixel_size),
                                                                                           ("nm", 10.0))
             if 1 <= share / factor <= 2.5]
    return [f"the boxes of the coordinates are {side:g} px = {side * pixel_size:.4g} A wide, {share:.2g} times the "
            f"diameter of {diameter:g} A. Expected 1 to 2.5 times: check --diameter (angstrom), the pixel size and "
            "whether the coordinates are those of binned micrographs" + "".join(f"; {hint}" for hint in hints)]


def _conflicts(data: TrainingSet, diameter_px: float) -> list[str]:
    """Negatives at the places of particles."""
    from scipy.spatial import cKDTree

    total = on_particles = 0
    for name in set(data.names) & set(data.negatives):
        negatives, particles = data.negatives[name].centres_xy, data.particles[name].centres_xy
        total += len(negatives)
        if len(negatives) and len(particles):
            on_particles += int((cKDTree(particles).query(negatives)[0] <= POSITIVE_DISTANCE * diameter_px).sum())
    if on_particles <= ON_PARTICLES * total:
        return []
    return [f"{on_particles} of {total} negatives lie on particles. Expected background and contaminants: check that "
            "the two are not the same file"]


def _extent(what: str, found: Mapping[str, Coordinates], headers: Mapping[str, ImageHeader],
            pixel_size: float | None) -> list[str]:
    """Where coordinates end, as shares of the width and the height of the micrographs."""
    shares = {name: found[name].centres_xy / header.shape[::-1] for name, header in headers.items()
              if name in found and len(found[name].scores)}
    together = np.concatenate([np.empty((0, 2)), *shares.values()])
    if len(together) < FEW_PARTICLES:
        return []
    largest, (x, y) = float(together.max()), together.max(axis=0)
    ends = f"largest x {x:.2g} of the width, y {y:.2g} of the height"
    outside = int(((together < 0) | (together >= 1)).any(axis=1).sum())
    if outside > OUTSIDE * len(together):
        before = (f"If they are in angstrom, or those of micrographs before binning, give --coordinate-scale "
                  f"{_inverse(largest, pixel_size):.3g}" if largest > 1 / (1 - OUTSIDE) else "Check their frame")
        return [f"{outside} of {len(together)} {what} lie outside the micrographs ({ends}). {before}"]
    if max(float(found[name].centres_xy.max()) for name in shares) <= 1:
        return [f"all {what} are numbers up to 1. Expected pixels: they may be fractions of the width and the height"]
    if largest >= QUARTER:
        return _single_extents(what, shares)
    return [f"all {what} lie in the lower left quarter of the micrographs ({ends}). If they are those of "
            f"micrographs binned by {round(1 / largest)}, give --coordinate-scale {round(1 / largest)}"]


def _inverse(largest: float, pixel_size: float | None) -> float:
    """Factor for coordinates that end at this share: the inverse of the pixel size, or of a whole number, if close."""
    close = [size for size in (pixel_size or 0.0, float(round(largest))) if abs(size - largest) <= OUTSIDE * largest]
    return 1 / (close[0] if close else largest)


def _single_extents(what: str, shares: Mapping[str, np.ndarray]) -> list[str]:
    """Micrographs of which the coordinates end where those of binned ones would, while others fill theirs."""
    binned = [name for name, each in shares.items() if len(each) >= FEW_PARTICLES and any(
        ((1 - ENDS_BEFORE) / binning <= each.max(axis=0)).all() and (each.max(axis=0) <= 1 / binning).all()
        for binning in (2, 3, 4))]
    if not binned:
        return []
    return [f"all {what} of {len(binned)} of {len(shares)} micrographs ({_some(binned)}) lie in the lower left "
            "quarter. They may be those of binned micrographs, which the others are not"]


def _number(data: TrainingSet) -> list[str]:
    number = sum(len(data.particles[name].scores) for name in data.names)
    if number >= FEW_PARTICLES:
        return []
    return [f"{number} particles are very few: the model will miss views that it was not shown, and its threshold and "
            "its figures are little more than chance. Expect something to pick more particles with, and train again on "
            "100 or more. If not every particle of these micrographs is marked, the others count as background: give "
            "--incomplete"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
