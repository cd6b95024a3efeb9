# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds these pages: `python -m sphinx -W docs build/docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from deepem_scipion import __version__  # noqa: E402 - found by what stands above

project = "DeepEM for Scipion"
copyright = "2026, the authors of scipion-em-deepem"  # noqa: A001 - Sphinx wants this name
version = release = __version__

extensions = ["myst_parser", "sphinxarg.ext", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
highlight_language = "none"  # where a block of code does not say what it is
html_theme = "furo"
html_title = f"{project} {release}"
