# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzzing of one file reader, guided by the coverage of its code (atheris, based on libFuzzer).

    python tests/guided.py READER FOLDER_OF_INPUTS ... [-runs=N] [-max_total_time=SECONDS] [-seed=N]

READER is one of the keys of `READERS`. New inputs of interest are written to the first folder. `test_guided.py` runs
this program; `test_fuzz.py` has the checks and the intact files to start from.
"""

import sys
import tempfile
from pathlib import Path

import atheris

# Instrumenting takes long: tifffile, a large module, only where it is used.
with atheris.instrument_imports(include=["deepem_scipion.deepem", *["tifffile"] * (sys.argv[1] == "tiff")]):
    from test_fuzz import both, check_coordinates, read, read_candidates, read_regions, read_table, use

# File name and check by name of the reader.
READERS = {
    "mrc": ("a.mrc", both),
    "tiff": ("a.tif", both),
    "box": ("a.box", check_coordinates),
    "star": ("a.star", check_coordinates),
    "regions": ("regions.txt", lambda path: read_regions(path, {"a": "a", "b": "b"})),
    "candidates": ("c.tsv", read_candidates),
    "summary": ("t.tsv", read_table),
    "model": ("m", use),
}


def main():
    """Fuzz until the runs or the time are used up, or anything but a DeepEMError is raised."""
    name, reader = READERS[sys.argv[1]]
    with tempfile.TemporaryDirectory(prefix="deepem-guided-") as folder:
        path = Path(folder, name)
        atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda content: read(reader, path, content))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
