# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The micrographs that a command works on."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

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
