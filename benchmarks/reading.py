# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of speed.py: processor time of each stage of reading a micrograph, beside that of reading its bytes.

Micrographs of Poisson-distributed counts, as a detector gives them, are written in all formats that are read: 4096 x
4096 pixels, and 8184 x 11520 (super-resolution frames of a K3), downsampled by 4 and 8. The stages are those of
`read_micrograph`: decoding into float32 with the check of the values, clipping, resampling, clipping again and
normalising. Each figure is the smallest of several; the files are in the cache of the operating system.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import table

from deepem_scipion.deepem.micrographs import micrograph as stages
from deepem_scipion.deepem.micrographs.images import read_pixels

MRC_TYPES = {"mrc0": np.int8, "mrc1": np.int16, "mrc2": np.float32, "mrc6": np.uint16, "mrc12": np.float16}
TIFF_COMPRESSIONS = {"lzw": ("lzw", np.uint8), "deflate": ("zlib", np.uint8), "zstd": ("zstd", np.uint8),
                     "lzw16": ("lzw", np.uint16)}
FORMATS = [*MRC_TYPES, *TIFF_COMPRESSIONS]
# Shape, and the binning at which it is measured.
SHAPES = {(4096, 4096): 4, (8184, 11520): 8}
# Counts per pixel of a summed movie; few enough for one byte.
MEAN_COUNTS = 40.0
BOX_PX = 40


def write(path, name, counts):
    """Write counts in a format."""
    if name in MRC_TYPES:
        import mrcfile

        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(counts.astype(MRC_TYPES[name]))
            file.voxel_size = 1.0
        return
    import tifffile

    compression, dtype = TIFF_COMPRESSIONS[name]
    tifffile.imwrite(path, counts.astype(dtype), compression=compression, rowsperstrip=16)


def seconds(repeats, function, *arguments, fresh=None):
    """Smallest processor time of several calls; `fresh` makes a new first argument for each."""
    found = []
    for _ in range(repeats):
        given = (fresh(), *arguments) if fresh else arguments
        began = time.process_time()
        result = function(*given)
        found.append(time.process_time() - began)
    return min(found), result


def stages_of(path, binning, repeats):
    """Seconds of each stage for one file."""
    found = {"bytes_s": seconds(repeats, path.read_bytes)[0]}
    found["decode_s"], pixels = seconds(repeats, read_pixels, path)
    found["clip_s"], _ = seconds(repeats, stages.clip_outliers, fresh=pixels.copy)
    stages.clip_outliers(pixels)
    found["resample_s"], small = seconds(repeats, stages.resample, pixels, float(binning))
    found["clip_binned_s"], _ = seconds(repeats, stages.clip_outliers, fresh=small.copy)
    found["all_s"], _ = seconds(repeats, stages.read_micrograph, path, float(binning), 1.0, None, BOX_PX)
    return found


def reading(options):
    """Time the stages of reading in all formats."""
    figures = []
    for (n_rows, n_cols), binning in SHAPES.items():
        counts = np.random.default_rng(0).poisson(MEAN_COUNTS, (n_rows, n_cols)).astype(np.uint8)
        for name in FORMATS:
            with tempfile.TemporaryDirectory() as work:
                path = Path(work) / f"a.{'mrc' if name in MRC_TYPES else 'tif'}"
                write(path, name, counts)
                figures.append({"shape": f"{n_rows} x {n_cols}", "format": name, "mib": path.stat().st_size / 2**20,
                                **stages_of(path, binning, options.repeats)})
            print(figures[-1], file=sys.stderr, flush=True)
    rows = [("micrograph, px", "format", "MiB", "bytes alone", "decode and check", "clip", "resample", "clip again",
             "all", "all / bytes alone")]
    rows += [(row["shape"], row["format"], f"{row['mib']:.0f}",
              *(f"{1000 * value:.0f}" for key, value in row.items() if key.endswith("_s")),
              f"{row['all_s'] / max(row['bytes_s'], 1e-4):.0f}") for row in figures]
    return figures, ["### Reading: milliseconds of one core", "", *table(*rows)]
