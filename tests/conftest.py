# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of all tests of the method."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real annotated micrographs; tests that need it are skipped where it is absent."""
    shared = Path(os.environ.get("DEEPEM_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no shared data at {shared}; set DEEPEM_SHARED to the folder that holds data/")
    return shared / "data"
