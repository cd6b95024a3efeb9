# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparison of pixel sizes that several sources give."""

from __future__ import annotations

from collections.abc import Mapping

# Pixel sizes that differ by a larger share disagree.
TOLERANCE = 0.02
# Programs that do not know the pixel size write this one.
UNKNOWN_ANGST = 1.0


def differ(first_angst: float, second_angst: float) -> bool:
    """Check whether two pixel sizes disagree, by more than `TOLERANCE` of the smaller one.

    Examples
    --------
    >>> differ(1.06, 1.07), differ(1.0, 1.5)
    (False, True)
    """
    return abs(first_angst - second_angst) > TOLERANCE * min(first_angst, second_angst)


def compare_pixel_sizes(headers_angst: Mapping[str, float], given_angst: float | None) -> list[str]:
    """Compare the pixel sizes of headers with a given one or, if none is given, with each other.

    Parameters
    ----------
    headers_angst : mapping of str to float
        Pixel size in the header by name of the micrograph, in angstrom.
    given_angst : float, optional
        Pixel size that overrides them. Headers with `UNKNOWN_ANGST` do not count then.

    Returns
    -------
    list of str
        A sentence for the user if they disagree, or may be unknown; or nothing.
    """
    if given_angst is not None:
        others = {name: size for name, size in headers_angst.items()
                  if size != UNKNOWN_ANGST and differ(size, given_angst)}
        return [f"the pixel size was given as {given_angst:g} A, and {of_micrographs(others)} in the header. The given "
                "one is used: check it"] if others else []
    unknown = {name: size for name, size in headers_angst.items() if size == UNKNOWN_ANGST}
    if unknown:
        return [f"{of_micrographs(unknown)} per pixel in the header, which is also written where the pixel size is "
                "unknown. Give the true one (--pixel-size)"]
    if not headers_angst:
        return []
    smallest, largest = (find(headers_angst, key=headers_angst.__getitem__) for find in (min, max))
    if not differ(headers_angst[smallest], headers_angst[largest]):
        return []
    return [f"the micrographs have different pixel sizes in their headers, from {headers_angst[smallest]:.4g} A "
            f"({smallest}) to {headers_angst[largest]:.4g} A ({largest}). If one is wrong give the true one "
            "(--pixel-size)"]


def of_micrographs(sizes_angst: Mapping[str, float]) -> str:
    """Describe the pixel sizes of some micrographs, such as "2 micrographs (a, b) have 1 A"."""
    names, sizes = sorted(sizes_angst), sorted({f"{size:.4g}" for size in sizes_angst.values()}, key=float)
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    values = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return (f"{len(names)} micrographs ({listed}) have" if len(names) > 1 else f"{listed} has") + f" {values} A"
