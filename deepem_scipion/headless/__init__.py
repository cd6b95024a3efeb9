# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion without its windows: projects that are created and run by a command or a script."""
