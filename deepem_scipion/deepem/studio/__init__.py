# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The studio: a page to check picks, correct them and train on the corrections, served to a browser."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "marks": ["EditLog", "Mark"],
    "project": ["StudioProject"],
    "session": ["Session"],
    "starting": ["Wanted"],
    "opening": ["open_session"],
    "serving": ["serve"],
})
