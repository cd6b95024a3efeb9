# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report of a picking run for a browser, made by the program."""

import subprocess

from ..constants import PROGRAM_MODULE
from ..plugin import Plugin


def write_report(folder, model, path):
    """Write the report of the results in a folder; it takes seconds and no GPU, so it is never a job of a queue.

    Parameters
    ----------
    folder : str
        Results of all batches.
    model : str
        File of the model.
    path : str
        Report to write.

    Returns
    -------
    str
        Why there is none; empty if there is.
    """
    try:
        done = subprocess.run([Plugin.getPython(), "-m", PROGRAM_MODULE, "report", folder, "--model", model,
                               "--output", path], env={**Plugin.getEnviron(), "CUDA_VISIBLE_DEVICES": ""},
                              capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"
