# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs that several sets have in common; they are identified by name."""


def with_coordinates(coordinates, keys):
    """Names of the micrographs in a SetOfCoordinates that have any, from their names by id."""
    ids = coordinates.getUniqueValues("_micId") if coordinates.getSize() else []
    return {keys[number] for number in ids if number in keys}


def group_micrographs(reference, referenceMics, picked, pickedMics, countEmpty):
    """Divide micrographs into those that count in a comparison and those that do not.

    Parameters
    ----------
    reference, picked : set of str
        Micrographs with reference coordinates, micrographs with picks.
    referenceMics, pickedMics : set of str
        All micrographs of the reference, all micrographs of the picks.
    countEmpty : bool
        Whether micrographs without any reference coordinate count.

    Returns
    -------
    dict of str to list of str
        Sorted names: `counted`; `missed`, those that count and have no pick; `referenceOnly` and `pickedOnly`, those
        that do not count.
    """
    known = referenceMics if countEmpty else reference
    counted = known & pickedMics
    return {"counted": sorted(counted), "missed": sorted(counted & reference - picked),
            "referenceOnly": sorted(reference - pickedMics), "pickedOnly": sorted(picked - known)}


def left_out(groups):
    """List of sentences about micrographs that do not count or have no pick, for the result of `group_micrographs`."""
    sentences = {"referenceOnly": "have reference coordinates and are not among the micrographs of the picks: left out",
                 "pickedOnly": "have picks and no reference coordinates: left out",
                 "missed": "have reference coordinates and no pick: all of their particles count as missed"}
    return [f"{len(groups[key])} micrographs {text} ({listed(groups[key])})"
            for key, text in sentences.items() if groups[key]]


def listed(names):
    """Text with the first three names, and the number of the others."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
