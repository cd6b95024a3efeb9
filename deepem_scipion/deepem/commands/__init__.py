# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `deepem` program: its parser and one module per command."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "parser": ["build_parser"],
})
