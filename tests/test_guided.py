# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Coverage-guided fuzzing of the file readers, starting from intact files.

With DEEPEM_FUZZ=long in the environment each reader is fuzzed for a minute, with different inputs each time.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_fuzz import BOXES, LONG, MODEL, MRCS, STARS, TIFFS

from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.deepem.picking.candidates import Candidates, write_candidates
from deepem_scipion.deepem.picking.selection import Limits, select
from deepem_scipion.deepem.picking.summary import MicrographResult
from deepem_scipion.deepem.picking.table import write_table

pytestmark = pytest.mark.slow

pytest.importorskip("atheris", reason="atheris, which guides the fuzzing, is not installed (Linux, Python 3.11 on)")

GUIDED = Path(__file__).with_name("guided.py")
AMOUNT = ["-max_total_time=60"] if LONG else ["-runs=3000", "-seed=1"]
REGIONS = [b"# name x0 y0 x1 y1\na 1 2 30 40\nmics/b.mrc\t0\t0\t9.5\t1e2 # c\n"]


def intact_files(reader, folder):
    """Return contents that this reader accepts."""
    given = {"mrc": MRCS, "tiff": TIFFS, "box": BOXES, "star": STARS, "regions": REGIONS}
    if reader in given:
        return given[reader]
    path = folder / "whole"
    if reader == "candidates":
        found = Candidates(*map(np.array, ([[10.0, 20.0], [300.0, 40.5]], [0.5, 0.25], [1.0, 2.0], [9.0, 12.5])))
        write_candidates(path, found, select(found, Limits(0.4, 10.0), 1.0))
    elif reader == "summary":
        write_table(path, {"a": MicrographResult("a.mrc", "", 9, 3, 0.5), "b": MicrographResult("b.mrc", "no")})
    else:
        save_model(path, MODEL)
    return [path.read_bytes()]


@pytest.mark.parametrize("reader", ["mrc", "tiff", "box", "star", "regions", "candidates", "summary", "model"])
def test_guided_inputs_are_read_or_refused(reader, tmp_path):
    (tmp_path / "found").mkdir()
    (tmp_path / "intact files").mkdir()
    for number, content in enumerate(intact_files(reader, tmp_path)):
        (tmp_path / "intact files" / str(number)).write_bytes(content)
    done = subprocess.run(
        [sys.executable, GUIDED, reader, tmp_path / "found", tmp_path / "intact files", *AMOUNT, "-max_len=8192",
         "-timeout=60", "-rss_limit_mb=6000", f"-artifact_prefix={tmp_path}/fault-"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    output = done.stdout.decode(errors="replace")
    faults = [path.read_bytes() for path in tmp_path.glob("fault-*")]
    assert done.returncode == 0 and not faults, f"{faults}\n{output[-4000:]}"
    amount = re.search(r"^Done \d+ runs.*", output, re.MULTILINE)
    assert "Is the code instrumented" not in output and amount, output[-4000:]
    sys.stdout.write(f"{reader}: {amount[0]}\n")  # the number of runs, for `make fuzz`
