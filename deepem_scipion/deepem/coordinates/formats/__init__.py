# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinate files of other programs: one module with reader and writer for each of them.

All coordinates are x = column and y = row; the centre of the pixel that an MRC file holds first is (0, 0). Each module
states how its program counts.
"""

from ...lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "base": ["MicrographInfo", "MicrographPicks"],
    "registry": ["FORMATS", "format_of", "read_file", "write_files"],
})
