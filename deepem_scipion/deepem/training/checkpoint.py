# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""State of an unfinished training in a file, from which it resumes after an interruption.

As a model file, it contains only arrays and text.
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
from .fit import FitState

log = logging.getLogger(__name__)

_NOTES = "deepem_checkpoint"
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class Checkpoint:
    """States of the fits of one training: of the finished ones, and of the current one.

    A training repeats the little that it does between fits, and each fit resumes from its state. The file belongs to
    the run that started last: an earlier one that is still alive, for instance the child of a killed process, has to
    stop.

    Parameters
    ----------
    path : Path, optional
        File of the states. Without it nothing is kept. States in an existing file are taken over, unless it cannot be
        read or was left by a training with another fingerprint; a warning gives the reason.
    fingerprint : mapping of str to object
        All that determines the result of the training, in plain values.
    """

    def __init__(self, path: Path | None = None, fingerprint: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._fingerprint = json.loads(json.dumps(fingerprint or {}, default=str))
        self._states: dict[str, FitState] = {}
        self._began, self._written = time.time_ns(), False
        if path is not None:
            self._began = max(self._began, self._began_there() + 1)
            self._states = self._read(path)
            self._write(path)

    def state(self, name: str) -> FitState | None:
        """Return the state of a fit.

        Parameters
        ----------
        name : str
            Name of the fit.

        Returns
        -------
        FitState or None
            None if it has not finished an epoch.
        """
        return self._states.get(name)

    def keep(self, name: str, state: FitState) -> None:
        """Set the state of a fit. A file that cannot be written costs only a warning.

        Parameters
        ----------
        name : str
            Name of the fit.
        state : FitState
            State after an epoch.

        Raises
        ------
        DeepEMError
            As for `check`.
        """
        self._states[name] = state
        if self._path is not None:
            self.check()
            self._write(self._path)

    def check(self) -> None:
        """Check that the file belongs to this run.

        Raises
        ------
        DeepEMError
            If it was removed, or another run has taken it over.
        """
        if self._written and self._began_there() != self._began:
            raise DeepEMError(f"{self._path} was removed, or taken over by a later run that trains the same model: "
                              "this run stops")

    def _began_there(self) -> int:
        """Start of the run that the file belongs to; 0 if there is no file that can be read."""
        try:
            return int(_notes(self._path)["began"])
        except _UNREADABLE:
            return 0

    def _read(self, path: Path) -> dict[str, FitState]:
        if not path.exists():
            return {}
        try:
            notes = _notes(path)
            then, states = dict(notes["fingerprint"]), _states(path, notes["fits"])
        except _UNREADABLE as error:
            log.warning("%s cannot be read (%s): training starts from scratch", path, error)
            return {}
        now = self._fingerprint
        others = [key.replace("_", " ") for key in {**then, **now} if then.get(key) != now.get(key)]
        if others:
            log.warning("%s was left by a training with other data or settings (%s): training starts from "
                        "scratch", path, ", ".join(others))
            return {}
        return states

    def _write(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        fits = {}
        for name, state in self._states.items():
            arrays.update({f"{name}/variables/{number}": value for number, value in enumerate(state.variables)})
            arrays.update({f"{name}/best/{kind}": value for kind, value in state.best.items()})
            fits[name] = {"seed": state.seed, "history": state.history, "best_epoch": state.best_epoch,
                          "random": state.random, "variables": len(state.variables), "best": list(state.best)}
        arrays = {key: np.asarray(value, order="C") for key, value in arrays.items()}  # others are saved wrongly
        notes = json.dumps({"began": self._began, "fingerprint": self._fingerprint, "fits": fits})
        try:
            with atomic_write(path, "wb") as handle:
                handle.write(save(arrays, metadata={_NOTES: notes}))
        except DeepEMError as error:
            log.warning("training continues, but this epoch is lost if it is interrupted: %s", error)
        else:
            self._written = True


def _notes(path: Path | None) -> dict[str, Any]:
    with safe_open(str(path), framework="numpy") as file:
        notes: dict[str, Any] = json.loads(file.metadata()[_NOTES])
    return notes


def _states(path: Path, fits: Mapping[str, Mapping[str, Any]]) -> dict[str, FitState]:
    with safe_open(str(path), framework="numpy") as file:
        return {name: FitState(kept["seed"], kept["history"], kept["best_epoch"], kept["random"],
                               [file.get_tensor(f"{name}/variables/{number}") for number in range(kept["variables"])],
                               {kind: file.get_tensor(f"{name}/best/{kind}") for kind in kept["best"]})
                for name, kept in fits.items()}
