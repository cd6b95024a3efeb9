# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Skips tests that need the program where it is not installed; `test_installation` fails there instead."""

import unittest

from pyworkflow import Config

from deepem_scipion import Plugin
from deepem_scipion.constants import TRAIN_MODULES


def problems():
    """Problems of the program's environment, whichever Python it has."""
    Config.getDomain().getPlugins()  # defines the plugin's variables
    return Plugin.validateInstallation() or Plugin.validateModules(TRAIN_MODULES)


needs_program = unittest.skipIf(problems(), " ".join(problems()))
