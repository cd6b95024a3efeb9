# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run `deepem` by `python -m deepem_scipion.deepem`."""

import sys

from .commands.main import main

sys.exit(main())
