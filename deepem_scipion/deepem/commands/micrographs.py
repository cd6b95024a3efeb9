# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The micrographs that a command works on, and their masks."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

from ..errors import DeepEMError

log = logging.getLogger("deepem")


def chosen_micrographs(options: argparse.Namespace) -> dict[str, Path]:
    """Find the micrographs of a command; warn of lists whose pixel sizes are not those of the headers.

    Parameters
    ----------
    options : argparse.Namespace
        With --micrographs and --pixel-size.

    Returns
    -------
    dict of str to Path
        Files by name.

    Raises
    ------
    DeepEMError
        See `find_micrographs`.
    """
    from ..micrographs.find import find_micrographs
    from ..micrographs.listed import compare_with_lists

    found = find_micrographs(options.micrographs)
    for problem in compare_with_lists(options.micrographs, options.pixel_size):
        log.warning("warning: %s", problem)
    return found


def chosen_masks(options: argparse.Namespace, micrographs: Mapping[str, Path]) -> dict[str, Path]:
    """Find the masks of the micrographs of a command.

    Parameters
    ----------
    options : argparse.Namespace
        With --masks and --max-mask.
    micrographs : mapping of str to Path
        Files by name.

    Returns
    -------
    dict of str to Path
        Files of masks by the name of the micrograph; empty without --masks.

    Raises
    ------
    DeepEMError
        See `find_masks`; or --max-mask is given without --masks.
    """
    from ..coordinates.masks import find_masks
    from ..picking.selection import MAX_MASK

    if options.masks is not None:
        return find_masks(options.masks, micrographs)
    if options.max_mask != MAX_MASK:
        raise DeepEMError(f"--max-mask {options.max_mask:g} needs --masks; without them nothing is masked")
    return {}
