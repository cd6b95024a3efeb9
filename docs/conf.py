# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration of Sphinx: `python -m sphinx -W -n docs build/docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from deepem_scipion import __version__  # noqa: E402 - from the folder above

project = "DeepEM for Scipion"
copyright = "2026, the authors of scipion-em-deepem"  # noqa: A001 - name required by Sphinx
version = release = __version__

extensions = ["myst_parser", "sphinxarg.ext", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
highlight_language = "none"  # blocks of code without a language
html_theme = "furo"
html_title = f"{project} {release}"

# Types are descriptions in the docstrings, such as "(n, 2) float64 array", not links.
autodoc_typehints = "none"
napoleon_numpy_docstring, napoleon_google_docstring, napoleon_use_rtype = True, False, False
napoleon_use_ivar = True
nitpick_ignore_regex = [("py:class", ".*")]
default_role = "code"  # single backticks in docstrings
