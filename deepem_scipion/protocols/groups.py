# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which micrographs of several sets belong together; they are told apart by name."""


def names_of(items):
    """Names of the micrographs in a set of micrographs, or of those that have any of a set of coordinates."""
    names = items.getUniqueValues("_micName") if items.getSize() else []
    return {name for name in names if name is not None}


def sort_out(reference, referenceMics, picked, pickedMics, countEmpty):
    """Names of the micrographs that count in a comparison and of those that do not, as sorted lists.

    Parameters
    ----------
    reference, picked : set of str
        Micrographs with coordinates.
    referenceMics, pickedMics : set of str
        All micrographs that the coordinates were picked on.
    countEmpty : bool
        Whether micrographs of the reference count that have no coordinates there.
    """
    known = referenceMics if countEmpty else reference
    counted = known & pickedMics
    return {"counted": sorted(counted), "missed": sorted(counted & reference - picked),
            "referenceOnly": sorted(reference - pickedMics), "pickedOnly": sorted(picked - known)}


def left_out(groups):
    """Sentences about micrographs that do not count in a comparison or have no pick; for the result of `sort_out`."""
    sentences = {"referenceOnly": "have reference coordinates and are not among the micrographs of the picks: left out",
                 "pickedOnly": "have picks and no reference coordinates: left out",
                 "missed": "have reference coordinates and no pick: all of their particles count as missed"}
    return [f"{len(groups[key])} micrographs {text} ({listed(groups[key])})"
            for key, text in sentences.items() if groups[key]]


def listed(names):
    """The first three of some names."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
