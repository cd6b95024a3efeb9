# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Diameters estimated by `deepem pick --diameter auto`, beside the known ones, on annotated sets and simulated fields.

    python benchmarks/diameter.py [--sets NAME ...] [--fields N] [--seed N] [--data FOLDER]

Simulated fields, each as large as the three micrographs that are looked at, show particles of random shape, dose,
defocus and crowding, and no more clutter than particles. Their longest dimension is known, 80 to 400 angstrom; their
seeds are not those of the training of the general model. The script prints a table in Markdown, and
writes it to benchmarks/results/diameter.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import mrcfile
import numpy as np
from common import RESULTS, add_data_option, has_data, table, title
from general_accuracy import ALL_SETS

DIAMETER_PX, SIDE_PX = 27.0, 776
DIAMETERS_ANGST = 80.0, 400.0


def line(name, true, paths):
    """A row of the table: estimate, or why there is none."""
    from deepem_scipion.deepem import DeepEMError
    from deepem_scipion.deepem.picking.diameter import estimate_diameter

    try:
        found = estimate_diameter(paths)
    except DeepEMError as error:
        return name, f"{true:.0f}", "none", "", "", str(error).split(";")[1].split(".")[0].strip()
    return (name, f"{true:.0f}", f"{found.diameter_angst:.0f}", f"{found.low_angst:.0f} to {found.high_angst:.0f}",
            f"{found.diameter_angst / true - 1:+.0%}", "")


def simulated(number, seed, folder):
    """Simulated fields: name, diameter and path of each."""
    from deepem_scipion.deepem.simulation import fields

    fields.DIAMETER_ERROR = 0.0  # the diameter is known here
    for index in range(number):
        rng = np.random.default_rng([seed, index])
        diameter = float(np.exp(rng.uniform(*np.log(DIAMETERS_ANGST))))
        path = folder / f"field{index}.mrc"
        with mrcfile.new(path, fields.simulate_field(rng, side_px=SIDE_PX, diameter_px=DIAMETER_PX,
                                                     empty=False, few_others=True).pixels) as file:
            file.voxel_size = diameter / DIAMETER_PX
        yield f"field {index}", diameter, path


def main():
    """Estimate the diameters, and write the table."""
    from deepem_scipion.deepem import find_micrographs, runtime

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sets", nargs="*", choices=ALL_SETS, default=list(ALL_SETS))
    parser.add_argument("--fields", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1_000_000_123)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if not has_data(options, *options.sets):
        return 0
    runtime.start(options.threads)
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = [("micrographs", "diameter, A", "estimate, A", "range, A", "error", "why there is none")]
    with tempfile.TemporaryDirectory() as folder:
        known = [(name, ALL_SETS[name].diameter_angst, find_micrographs([str(options.data / name / "micrographs")]))
                 for name in options.sets]
        known += [(name, diameter, {path.stem: path})
                  for name, diameter, path in simulated(options.fields, options.seed, Path(folder))]
        for name, diameter, paths in known:
            rows.append(line(name, diameter, paths))
            print(*rows[-1], sep="  ", flush=True)
    errors = np.array([float(row[4].rstrip("%")) / 100 for row in rows[1:] if row[4]])
    text = "\n".join([title(), "", *table(*rows), f"{len(errors)} of {len(rows) - 1} estimated; "
                      f"{np.mean(np.abs(errors) <= 0.15):.0%} of them within 15 %.", ""])
    (RESULTS / "diameter.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
