# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""DeepEM particle picking for Scipion."""

__version__ = "1.0.0"
_logo = "deepem_logo.png"
_references = ["Zhu2017"]


def __getattr__(name):
    # Looked up on demand: the method in `deepem_scipion.deepem` also runs where Scipion is absent.
    if name == "Plugin":
        from .plugin import Plugin

        return Plugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
