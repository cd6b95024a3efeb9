# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program without what only Linux, or only Unix, has."""

import json
import subprocess
import sys

# The libraries are loaded before: what they use is theirs.
WITHOUT = """
import importlib, os, pkgutil, signal, sys
import keras, matplotlib.pyplot, rich.console, scipy.ndimage, tensorflow
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in ((os, ("sched_getaffinity", "sched_setaffinity", "fork", "getuid", "geteuid", "killpg",
                            "mkfifo", "nice", "posix_fallocate", "setsid", "statvfs", "sysconf")),
                      (signal, ("SIGHUP", "SIGKILL", "SIGUSR1", "alarm", "setitimer"))):
    for name in names:
        delattr(module, name)
import deepem_scipion.deepem
for module in pkgutil.walk_packages(deepem_scipion.deepem.__path__, "deepem_scipion.deepem."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from deepem_scipion.deepem.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_program_is_imported_and_picks_without_names_that_other_systems_lack(blobs, blob_model, tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT, "pick", "--model", blob_model, "--output", tmp_path / "picks",
                           "--micrographs", blobs[0] / "micrographs" / "d.mrc"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "picks" / "summary.json").read_text())
    assert summary["micrographs"]["d"]["picks"] > 0
