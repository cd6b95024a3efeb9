# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a training has come, in a file from which it goes on after it was killed.

As a model file, it holds plain arrays and text only.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..atomic import atomic_write
from ..errors import DeepEMError
from .fit import State

log = logging.getLogger(__name__)

_NOTES = "deepem_checkpoint"
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class Checkpoint:
    """States of the fits of one training: of those that have come to their end, and of the one under way.

    A training repeats the little that it does between fits, and each fit goes on from its state. The file belongs to
    the run that was begun last: an earlier one that is still alive, as a child whose parent was killed, has to stop.

    Parameters
    ----------
    path : Path, optional
        Without it nothing is kept. States in an existing file are taken over, unless it cannot be read or was left by
        a training with another fingerprint; a message says so.
    fingerprint : mapping
        What decides the result of the training: name -> plain value.
    """

    def __init__(self, path: Path | None = None, fingerprint: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._fingerprint = json.loads(json.dumps(fingerprint or {}, default=str))
        self._states: dict[str, State] = {}
        self._began, self._written = time.time_ns(), False
        if path is not None:
            self._began = max(self._began, self._began_there() + 1)
            self._states = self._read(path)
            self._write(path)

    def state(self, name: str) -> State | None:
        """Where a fit stands; None where it has not ended an epoch."""
        return self._states.get(name)

    def keep(self, name: str, state: State) -> None:
        """Remember where a fit stands; raises DeepEMError as `check` does. A file that cannot be written costs only a
        warning.
        """
        self._states[name] = state
        if self._path is not None:
            self.check()
            self._write(self._path)

    def check(self) -> None:
        """Raise DeepEMError where the file is no longer this run's."""
        if self._written and self._began_there() != self._began:
            raise DeepEMError(f"{self._path} was removed, or taken over by a later run that trains the same model: "
                              "this one stops")

    def _began_there(self) -> int:
        """When the run began that the file belongs to; 0 where there is no file, or none that can be read."""
        try:
            return int(_notes(self._path)["began"])
        except _UNREADABLE:
            return 0

    def _read(self, path: Path) -> dict[str, State]:
        if not path.exists():
            return {}
        try:
            notes = _notes(path)
            then, states = dict(notes["fingerprint"]), _states(path, notes["fits"])
        except _UNREADABLE as error:
            log.warning("%s cannot be read (%s): training starts from the beginning", path, error)
            return {}
        now = self._fingerprint
        others = [key.replace("_", " ") for key in {**then, **now} if then.get(key) != now.get(key)]
        if others:
            log.warning("%s was left by a training with other data or settings (%s): training starts from the "
                        "beginning", path, ", ".join(others))
            return {}
        return states

    def _write(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        fits = {}
        for name, state in self._states.items():
            arrays |= {f"{name}/variables/{number}": value for number, value in enumerate(state.variables)}
            arrays |= {f"{name}/best/{kind}": value for kind, value in state.best.items()}
            fits[name] = {"seed": state.seed, "history": state.history, "best_epoch": state.best_epoch,
                          "random": state.random, "variables": len(state.variables), "best": list(state.best)}
        arrays = {key: np.asarray(value, order="C") for key, value in arrays.items()}  # others are saved wrongly
        notes = json.dumps({"began": self._began, "fingerprint": self._fingerprint, "fits": fits})
        try:
            with atomic_write(path, "wb") as handle:
                handle.write(save(arrays, metadata={_NOTES: notes}))
        except DeepEMError as error:
            log.warning("training goes on, but if it is interrupted this epoch is lost: %s", error)
        else:
            self._written = True


def _notes(path: Path | None) -> dict[str, Any]:
    with safe_open(str(path), framework="numpy") as file:
        notes: dict[str, Any] = json.loads(file.metadata()[_NOTES])
    return notes


def _states(path: Path, fits: Mapping[str, Mapping[str, Any]]) -> dict[str, State]:
    with safe_open(str(path), framework="numpy") as file:
        return {name: State(kept["seed"], kept["history"], kept["best_epoch"], kept["random"],
                            [file.get_tensor(f"{name}/variables/{number}") for number in range(kept["variables"])],
                            {kind: file.get_tensor(f"{name}/best/{kind}") for kind in kept["best"]})
                for name, kept in fits.items()}
