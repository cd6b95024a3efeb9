# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picking needs neither TensorFlow nor Keras nor Scipion, and little memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_model import GEOMETRY
from test_scoremap import random_weights

from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.deepem.model.model import Model
from deepem_scipion.deepem.network.geometry import auto_geometry

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "jax", "torch", "pyworkflow", "pwem", "matplotlib"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from deepem_scipion.deepem.commands.main import main
status = main(sys.argv[1:])
print(next((int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")), 0))
sys.exit(status)
"""


def model_of(geometry):
    """Model with random weights."""
    return Model(geometry, (random_weights(geometry),), 4.0, 64.0, 2, (0.0, 9.0), 0.01)


def picked(tmp_path, model, micrographs, *options):
    """Pick in a process that cannot import TensorFlow; peak memory in MiB."""
    save_model(tmp_path / "m.deepem", model)
    done = subprocess.run([sys.executable, "-c", BLOCKED, "pick", "--model", str(tmp_path / "m.deepem"),
                           "--micrographs", str(micrographs), "--output", str(tmp_path / "out"), "--threshold", "0",
                           *options],
                          capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["picked"] > 0
    return int(done.stdout.split()[-1])


def test_picking_never_imports_tensorflow_or_keras(blobs, tmp_path):
    picked(tmp_path, model_of(GEOMETRY), blobs[0] / "micrographs" / "a.mrc", "--score-maps")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_picking_a_micrograph_of_1024_x_1024_takes_less_than_350_mib(tmp_path):
    import mrcfile

    with mrcfile.new(tmp_path / "large.mrc") as file:
        file.set_data(np.random.default_rng(0).standard_normal((1024, 1024), np.float32))
        file.voxel_size = 4.0
    assert picked(tmp_path, model_of(auto_geometry(27)), tmp_path / "large.mrc", "--threads", "2") < 350
