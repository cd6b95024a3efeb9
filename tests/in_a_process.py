# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests do in the process beside the studio; it imports no fixtures, which that process cannot find."""

import os

from deepem_scipion.deepem.errors import DeepEMError


def work(state, task):
    state.report(os.getpid())
    if task == "refuse":
        raise DeepEMError("this cannot be done")
    if task == "fail":
        return 1 / 0
    if task == "die":
        os._exit(1)
    return task
