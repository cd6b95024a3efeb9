# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON files of the protocols."""

import json
import os

from ..deepem.atomic import atomic_write


def read_json(path):
    """Content of a JSON file; an empty dict if there is no such file."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_json(path, content):
    """Write a JSON file atomically."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=1)
