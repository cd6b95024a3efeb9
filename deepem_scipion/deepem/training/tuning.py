# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search with Optuna for the network that suits a data set best; the first trial is that of `deepem train`."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from ..atomic import atomic_write
from ..errors import DeepEMError
from ..model.files import load_model, save_model
from ..model.model import Model
from ..model.paths import ModelFiles
from ..model.record import Epoch
from ..network.geometry import AUTO_DIAMETER_PX, BOX_PER_DIAMETER, KERNEL_SHARES, auto_binning, nearest_geometry
from .plan import Plan, check
from .train import train_model
from .training_set import TrainingSet
from .tuning_report import outcome, report_lines

log = logging.getLogger(__name__)

# The ranges of the search; the values of the automatic geometry lie within them.
DIAMETER_SHARES = (0.6, 1.4)  # particle diameter in binned pixels, over that of the automatic geometry
BOX_SHARES, STD_MARGINS = (1.2, 2.0), (0.25, 2.0)  # side of the box in diameters; see `Plan.std_margin`
KERNEL_RANGES = ((0.12, 0.35), (0.18, 0.5), (0.2, 0.7))  # width of each kernel over that of the map it is applied to
POOLS, MAPS = ("2/2/2", "3/2/2"), ("6/12/12", "8/16/16", "12/24/24")
RANDOM_TRIALS = 8  # before suggestions are based on earlier trials


def tune_model(data: TrainingSet, plan: Plan, files: ModelFiles, study_file: Path | None = None,
               minutes: float = 30.0, trials: int | None = None, fixed: Mapping[str, str] | None = None) -> Model:
    """Train models with many settings and keep that with the highest average precision on the validation micrographs.

    Parameters
    ----------
    data : TrainingSet
    plan : Plan
        What all trials have in common, without a geometry.
    files : ModelFiles
        The chosen model and the report of the search are written after every trial.
    study_file : Path, optional
        Journal of the search (default: `files.study`); an existing search is resumed.
    minutes : float
        Time of this run. The first trial is always completed; a later one is stopped after its epoch.
    trials : int, optional
        Maximum number of trials of this run.
    fixed : mapping of str to str, optional
        Values of `pools` and `maps`, such as "6/12/12", that are not searched.

    Returns
    -------
    Model
        With the outcome of the search in its record.

    Raises
    ------
    DeepEMError
        The data or options are unusable, the study belongs to others, another run has taken it over, or the first
        trial failed.
    """
    _check(plan, minutes, trials)
    search = _Search(data, plan, fixed or {}, files, study_file or files.study, time.monotonic() + 60 * minutes)
    for done in itertools.count(1):
        search.next_trial()
        if done == trials or time.monotonic() >= search.deadline:
            break
    return load_model(files.model)


class _Search:
    """One run of a search; parameters as for `tune_model`, and the time at which it ends."""

    def __init__(self, data: TrainingSet, plan: Plan, fixed: Mapping[str, str], files: ModelFiles, study_file: Path,
                 deadline: float) -> None:
        self.data, self.plan, self.fixed, self.files, self.deadline = data, plan, fixed, files, deadline
        self.pixel_angst = plan.pixel_size_angst or data.pixel_size_angst()
        self.automatic: dict[str, Any] = {
            "binning": auto_binning(plan.diameter_angst, self.pixel_angst), "box": BOX_PER_DIAMETER,
            **{f"kernel{number}": share for number, share in enumerate(KERNEL_SHARES, 1)},
            "pools": POOLS[0], "maps": MAPS[0], "std_margin": plan.std_margin, **fixed}
        self.models = study_file.with_name(study_file.name + ".models")
        self.study = open_study(study_file, fingerprint(data, plan, fixed))
        self.owner = time.time_ns()
        self.study.set_user_attr("owner", self.owner)
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):  # of a run that was killed, or will stop
            self.study.tell(trial.number, state=TrialState.FAIL)
        if self._complete():
            self._write()

    def _complete(self) -> list[FrozenTrial]:
        return self.study.get_trials(states=(TrialState.COMPLETE,))

    def next_trial(self) -> None:
        """Run one trial and write the chosen model and the report; only a first trial that fails ends the search."""
        first = not self._complete()
        # Seeded by the number of the trial, so that a resumed search continues as it would have done.
        self.study.sampler = optuna.samplers.TPESampler(seed=self.plan.seed + len(self.study.trials),
                                                        n_startup_trials=RANDOM_TRIALS)
        if first and not self.study.get_trials(states=(TrialState.WAITING,)):
            self.study.enqueue_trial(self.automatic)
        trial, precision = self.study.ask(), None
        try:
            precision, state = self._train(trial, first), TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except Exception as error:  # also of memory, or inside TensorFlow
            if first:
                raise
            self._check_owner()
            state = TrialState.FAIL
            text = str(error) if isinstance(error, DeepEMError) else f"{type(error).__name__}: {error}"
            trial.set_user_attr("reason", " ".join(text.split()))
        self._check_owner()
        self.study.tell(trial, precision, state)
        log.info("trial %d: %s", trial.number, outcome(self.study.trials[trial.number]))
        self._write()

    def _check_owner(self) -> None:
        if self.study.user_attrs["owner"] != self.owner:
            raise DeepEMError(f"another run has taken over the search in {self.models.with_suffix('')}; this one stops")

    def _train(self, trial: Trial, first: bool) -> float:
        """Train the model of a trial and keep it; return its average precision on the validation micrographs."""
        plan = self._plan(self._suggest(trial))
        trial.set_user_attr("settings", f"{plan.working_pixel_size_angst:.4g} A, {plan.geometry}, margin "
                            f"{plan.std_margin:.2f}")

        def progress(epoch: Epoch) -> None:
            self._check_owner()
            if first or epoch["epoch"] == epoch["epochs"]:
                return
            if epoch["network"] == epoch["round"] == 1:
                if epoch["seed"] != plan.seed:
                    raise _stopped(trial, "did not converge with the first seed")
                if "validation_average_precision" in epoch:
                    trial.report(epoch["validation_average_precision"], round(100 * epoch["epoch"] / epoch["epochs"]))
            if trial.should_prune():
                raise _stopped(trial, f"below the median after epoch {epoch['epoch']}")
            if time.monotonic() >= self.deadline:
                raise _stopped(trial, f"the time was over after epoch {epoch['epoch']}")

        model = train_model(self.data, plan, progress)
        precision = _validation_ap(model, self.study)
        self.models.mkdir(parents=True, exist_ok=True)
        save_model(self.models / f"{trial.number}.deepem", model)
        return precision

    def _suggest(self, trial: Trial) -> dict[str, Any]:
        """Values of a trial; a given working pixel size is not searched."""
        values = dict(self.automatic)
        if self.plan.working_pixel_size_angst is None:
            binnings = [self.plan.diameter_angst / self.pixel_angst / AUTO_DIAMETER_PX / s for s in DIAMETER_SHARES]
            values["binning"] = trial.suggest_int("binning", min(values["binning"], max(1, math.ceil(binnings[1]))),
                                                  max(values["binning"], math.floor(binnings[0])))
        for name, bounds in {"box": BOX_SHARES, "std_margin": STD_MARGINS,
                             **{f"kernel{number}": bounds for number, bounds in enumerate(KERNEL_RANGES, 1)}}.items():
            values[name] = trial.suggest_float(name, *bounds, log=name != "box")
        for name, choices in (("pools", POOLS), ("maps", MAPS)):
            values[name] = trial.suggest_categorical(name, (self.fixed[name],) if name in self.fixed else choices)
        return values

    def _plan(self, values: Mapping[str, Any]) -> Plan:
        """Plan of a trial; raises DeepEMError where the particle is too small or too large for the pixel size."""
        working = self.plan.working_pixel_size_angst or self.pixel_angst * values["binning"]
        shares = values["kernel1"], values["kernel2"], values["kernel3"]
        pools, maps = (tuple(map(int, values[name].split("/"))) for name in ("pools", "maps"))
        geometry = nearest_geometry(self.plan.diameter_angst / working, values["box"], shares,
                                    pools, maps)  # type: ignore[arg-type]
        return replace(self.plan, geometry=geometry, working_pixel_size_angst=working, std_margin=values["std_margin"])

    def _write(self) -> None:
        """Write the chosen model, with the outcome of the search in its record, and the report."""
        complete, chosen = self._complete(), self.study.best_trial
        model = load_model(self.models / f"{chosen.number}.deepem")
        found = {"trials": len(self.study.trials), "complete": len(complete), "AP": chosen.value,
                 "baseline_AP": complete[0].value, "trial": chosen.number, "parameters": chosen.params}
        save_model(self.files.model, replace(model, record=replace(model.record, tuning=found)))
        with atomic_write(self.files.tuning_report) as handle:
            handle.write("\n".join(report_lines(self.study.trials, complete[0], chosen)) + "\n")


def open_study(path: Path, fingerprint: str) -> optuna.Study:
    """Open or make a study; raises DeepEMError where the file is no study, or one with another fingerprint."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))), study_name="deepem", direction="maximize",
            load_if_exists=True, pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=40))
        known = study.user_attrs.get("fingerprint", fingerprint)
        [outcome(trial) for trial in study.trials]
        if known == fingerprint:
            study.set_user_attr("fingerprint", fingerprint)
    except Exception as error:  # a damaged journal can raise nearly anything inside the library
        raise DeepEMError(f"--study {path}: not the journal of a search, or damaged ({error}); give another file, or "
                          "delete it to start from scratch") from error
    if known != fingerprint:
        raise DeepEMError(f"--study {path} was made with other data or options. Give the same to resume it, another "
                          "file for another search, or delete it to start from scratch.")
    return study


def fingerprint(data: TrainingSet, plan: Plan, fixed: Mapping[str, str]) -> str:
    """Digest of what must be the same for trials to be comparable."""
    centres = [(name, np.round(100 * coordinates[name].centres_xy).astype(int).tolist())
               for coordinates in (data.particles, data.negatives) for name in data.names if name in coordinates]
    files = [os.path.abspath(data.micrographs[name]) for name in data.names]
    known = repr((plan, sorted(fixed.items()), sorted(data.incomplete), centres, files, data.tiff_rows,
                  data.overlaps_as_negatives, sorted(map(str, data.masks.items())), data.max_mask))
    return hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()


def _check(plan: Plan, minutes: float, trials: int | None) -> None:
    check(plan)
    if not 0 < minutes < math.inf or (trials is not None and trials < 1):
        raise DeepEMError(f"--minutes {minutes}, --trials {trials}: expected minutes above 0, and at least 1 trial")
    if plan.validation_fraction == 0:
        raise DeepEMError("validation fraction 0: trials are compared on the validation micrographs; give a share "
                          "above 0")
    if plan.start is not None or plan.geometry is not None or plan.preset is not None:
        raise DeepEMError("the network is searched: leave out preset, geometry and a model to fine-tune")


def _validation_ap(model: Model, study: optuna.Study) -> float:
    """Average precision of a model; raises DeepEMError where it cannot be compared with that of other trials."""
    validation = model.record.validation
    names = list(validation.names)
    if validation.on != "validation micrographs" or study.user_attrs.get("names", names) != names:
        raise DeepEMError("it picked nothing on the validation micrographs, or its box does not fit into all of them")
    study.set_user_attr("names", names)
    return cast(float, validation.AP)


def _stopped(trial: Trial, reason: str) -> optuna.TrialPruned:
    trial.set_user_attr("reason", reason)
    return optuna.TrialPruned(reason)
