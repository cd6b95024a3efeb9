# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time that the import of the plugin adds to the start of Scipion.

    python benchmarks/startup.py [--runs 7]
"""

import argparse
import subprocess
import sys

# CPU time, after what the framework itself loads.
MEASURED = """
import importlib, time
import pwem.protocols, pwem.viewers, pwem.wizards
began = time.process_time()
for name in ("protocols", "viewers", "wizards", "objects", "constants", "convert", "bibtex", "plugin"):
    importlib.import_module("deepem_scipion." + name)
print(time.process_time() - began)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="the median is printed (default: %(default)s)")
    runs = parser.parse_args().runs
    seconds = sorted(float(subprocess.run([sys.executable, "-W", "ignore", "-c", MEASURED], capture_output=True,
                                          text=True, check=True).stdout.split()[-1]) for _ in range(runs))
    print(f"{seconds[runs // 2]:.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f} s)")


if __name__ == "__main__":
    main()
