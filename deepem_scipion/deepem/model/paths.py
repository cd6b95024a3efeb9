# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of the files next to a model file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFiles:
    """A model file and the files next to it, which begin with its name.

    Attributes
    ----------
    model : Path
        The model file.

    Examples
    --------
    >>> ModelFiles(Path("a/ribosome.deepem")).checkpoint.name
    'ribosome.deepem.checkpoint'
    """

    model: Path

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished training."""
        return self._beside(".checkpoint")

    @property
    def examples(self) -> Path:
        """Boxes of training particles and negatives with their scores."""
        return self._beside(".examples.npz")

    @property
    def study(self) -> Path:
        """Journal of a search by `deepem tune`."""
        return self._beside(".study")

    @property
    def tuning_report(self) -> Path:
        """Report of a search, in Markdown."""
        return self._beside(".tuning.md")

    @property
    def report(self) -> Path:
        """Report of the model, in HTML."""
        return self._beside(".html")

    def digest(self) -> str:
        """Return a digest of the content of the model file; empty where it cannot be read."""
        try:
            return hashlib.sha256(self.model.read_bytes()).hexdigest()
        except OSError:
            return ""

    def _beside(self, ending: str) -> Path:
        return self.model.with_name(self.model.name + ending)
