# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tuning: a search for the network, recipe and limits that suit a data set best."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from ..atomic import atomic_path, atomic_write
from ..coordinates.coordinates import Coordinates
from ..errors import DeepEMError
from ..model.files import load_model, save_model
from ..model.model import Model
from ..model.paths import ModelFiles
from ..network.convolution import TILES, direct_ns, fourier_ns
from ..network.geometry import (
    AUTO_DIAMETER_PX,
    BOX_PER_DIAMETER,
    KERNEL_SHARES,
    Geometry,
    Triple,
    auto_binning,
    nearest_geometry,
)
from .plan import Plan, check
from .presets import TRAINING_PRESETS
from .train import train_model
from .training_set import TrainingSet

log = logging.getLogger(__name__)

# What is searched. The automatic geometry's values are among it.
DIAMETER_SHARES = (0.6, 1.6)  # particle's width in working pixels, over that of the automatic geometry
BOX_SHARES = (1.2, 2.0)  # side of the box, in diameters
KERNEL_RANGES = ((0.12, 0.35), (0.18, 0.5), (0.2, 0.7))  # width of each kernel over that of the map it is applied to
POOLS = ("2/2/2", "3/2/2")
MAPS = ("6/12/12", "8/16/16", "12/24/24")
STD_MARGINS = (0.25, 2.0)  # see `plan.Plan`
AUTOMATIC: dict[str, Any] = {"box": BOX_PER_DIAMETER,
                             **{f"kernel{i}": share for i, share in enumerate(KERNEL_SHARES, 1)},
                             "pools": POOLS[0], "maps": MAPS[0], "training_preset": "default",
                             "std_margin": Plan.std_margin}

# Models whose average precision is lower than the best by no more than this are as good: the cheapest of them is taken.
EQUAL_AP = 0.002
# A network whose scan is estimated to take so many times as long as the automatic one's is not trained.
MAX_COST = 6.0
# A trial may be stopped early from this share of its epochs on, once so many with its recipe have gone to the end.
MIN_SHARE = 40
MIN_TRIALS = 3
# Trials drawn at random before the search begins to learn from them.
RANDOM_TRIALS = 8
# Side, in diameters, of the field for which the cost of the scan is estimated.
_FIELD = 40

_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class Budget:
    """How long a search goes on: `minutes`, and at most `trials` trials (None: any number)."""

    minutes: float = 30.0
    trials: int | None = None


def tune_model(data: TrainingSet, plan: Plan, output: Path, study_file: Path | None = None, budget: Budget = Budget(),
               fixed: Mapping[str, str] | None = None) -> Model:
    """Train models with many settings and keep the best.

    Parameters
    ----------
    data : TrainingSet
        As for `train.train_model`.
    plan : Plan
        What all trials have in common; geometry, recipe and margin of the deviation filter are searched, the working
        pixel size is unless it is given.
    output : Path
        Model file. It is written after every trial that went to its end, and with it OUTPUT.tuning.md, a report;
        OUTPUT.tuning.png is drawn at the end.
    study_file : Path, optional
        Journal of the search; default OUTPUT.study. Where it exists the search goes on. Models that may still be chosen
        are kept in STUDY.models beside it.
    budget : Budget
        Of this run, whatever earlier ones took. A trial that runs when the minutes are over is stopped after its epoch,
        so that they are exceeded by an epoch and a scan at most; the baseline is always trained to its end.
    fixed : mapping
        Values of `pools`, `maps` ("6/12/12") and `training_preset` that are not searched.

    Returns
    -------
    Model
        The one chosen. Its record has `tuning`: what came of the search.

    Raises
    ------
    DeepEMError
        Where the data are of no use, the study belongs to other data or options, or no trial succeeded.

    Notes
    -----
    The first trial is the baseline: the automatic geometry with the recipe `default`. The others are suggested by
    Optuna's tree-structured Parzen estimator; their order depends on `plan.seed` and on earlier results only. Kernels
    are drawn as shares of the maps, as for the automatic geometry, and the nearest geometry that fits is taken.

    A trial is judged by the average precision of its picks on the validation micrographs, which are the same for all
    as they depend on the seed only. Of all trials that come within `EQUAL_AP` of the highest, the one whose scan is
    estimated to be the cheapest is chosen: a model that is better by less than chance would make it is not worth slow
    picking. For the same reason a network with more than `MAX_COST` times the baseline's cost is not trained at all.

    A trial is stopped early where its best epoch so far is below the median of what trials with the same recipe had
    reached by then (see `SameRecipePruner`), and where a network does not leave the plateau (see `training.fit`) with
    its first seed: other seeds would take as long again. One that fails is recorded with its reason and does not stop
    the search.
    """
    _check(plan, budget)
    pixel_angst = data.pixel_size_angst() if plan.pixel_size_angst is None else plan.pixel_size_angst
    study_file = study_file or ModelFiles(output).study
    with _owned(study_file) as asked_to_stop:
        search = _Search(data, plan, dict(fixed or {}), pixel_angst, output, study_file)
        return search.run(budget, asked_to_stop)


def search_space(plan: Plan, pixel_size_angst: float, fixed: Mapping[str, str]) -> dict[str, BaseDistribution]:
    """What is searched: name -> distribution, without what is given or fixed."""
    space: dict[str, BaseDistribution] = {}
    if plan.working_pixel_size_angst is None:
        wide = plan.diameter_angst / pixel_size_angst / AUTO_DIAMETER_PX
        automatic = auto_binning(plan.diameter_angst, pixel_size_angst)
        space["binning"] = IntDistribution(max(1, min(automatic, math.ceil(wide / DIAMETER_SHARES[1]))),
                                           max(automatic, math.floor(wide / DIAMETER_SHARES[0])))
    space["box"] = FloatDistribution(*BOX_SHARES)
    for number, (low, high) in enumerate(KERNEL_RANGES, 1):
        space[f"kernel{number}"] = FloatDistribution(low, high, log=True)
    space["pools"] = CategoricalDistribution(POOLS)
    space["maps"] = CategoricalDistribution(MAPS)
    space["training_preset"] = CategoricalDistribution(tuple(TRAINING_PRESETS))
    space["std_margin"] = FloatDistribution(*STD_MARGINS, log=True)
    return {name: distribution for name, distribution in space.items() if name not in fixed}


def plan_of(values: Mapping[str, Any], plan: Plan, pixel_size_angst: float) -> Plan:
    """The plan of a trial.

    Parameters
    ----------
    values : a value for each name of `search_space`, fixed ones, too
    plan : what all trials have in common
    pixel_size_angst : of the micrographs

    Raises
    ------
    DeepEMError
        Where the particle is too small or too large.
    """
    working = plan.working_pixel_size_angst or pixel_size_angst * values["binning"]
    shares = values["kernel1"], values["kernel2"], values["kernel3"]
    geometry = nearest_geometry(plan.diameter_angst / working, values["box"], shares, triple(values["pools"]),
                                triple(values["maps"]))
    return replace(plan, geometry=geometry, working_pixel_size_angst=working, training_preset=values["training_preset"],
                   std_margin=values["std_margin"])


def triple(text: str) -> Triple:
    """Three whole numbers written as "6/12/12"."""
    first, second, third = (int(word) for word in text.split("/"))
    return first, second, third


def scan_cost(geometry: Geometry, diameter_px: float) -> float:
    """Estimated processor time, in nanoseconds of a core, for the convolutions of a field of 40 x 40 diameters.

    All four rotations, with the scan's default step; `convolution.py` estimates, so that only ratios mean anything.
    """
    side, channels, total, rotations = round(_FIELD * diameter_px), 1, 0.0, 4
    for number, (kernel, pool, maps) in enumerate(zip(geometry.kernels, geometry.pools, geometry.maps)):
        together = rotations if number == 0 else 1  # first kernels of all rotations are applied at once
        image, kernels = (side, side, channels), (kernel, kernel, channels, together * maps)
        total += rotations / together * min(direct_ns(image, kernels), *(
            fourier_ns(image, kernels, tile) for tile in TILES if tile >= kernel))
        side, channels = side // pool, maps
    return total


class SameRecipePruner(optuna.pruners.BasePruner):
    """Stops a trial whose best value so far is below the median of complete trials with the same recipe at that step.

    Recipes show the network particles and others in different proportions, on which the average precision of windows
    depends; within a recipe the proportion is the same for all geometries but for a tenth. A step is a percentage of
    the epochs. The first `MIN_SHARE` of them are for warming up, and `MIN_TRIALS` complete trials are needed.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial should be stopped."""
        step = trial.last_step
        if step is None or step < MIN_SHARE:
            return False
        training_preset = trial.params.get("training_preset")
        others = [_best_until(other, step) for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                  if other.params.get("training_preset") == training_preset]
        known = [value for value in others if value is not None]
        value = _best_until(trial, step)
        return len(known) >= MIN_TRIALS and value is not None and value < statistics.median(known)


def _best_until(trial: FrozenTrial, step: int) -> float | None:
    return max((value for at, value in trial.intermediate_values.items() if at <= step), default=None)


def _check(plan: Plan, budget: Budget) -> None:
    check(plan)
    if not 0 < budget.minutes < math.inf:
        raise DeepEMError(f"--minutes {budget.minutes}: expected minutes, above 0")
    if budget.trials is not None and budget.trials < 1:
        raise DeepEMError(f"--trials {budget.trials}: expected at least 1")
    if plan.validation_fraction == 0:
        raise DeepEMError("validation fraction 0: without validation micrographs no trial can be judged; give a share "
                          "above 0")
    if plan.start is not None or plan.geometry is not None or plan.preset is not None:
        raise DeepEMError("the network is searched: leave out preset, geometry and a model to go on from")


@contextmanager
def _owned(study_file: Path) -> Iterator[Callable[[], bool]]:
    """Have a study alone: an earlier run that uses it, as a child whose parent was killed, is asked to stop.

    Yields a function that tells whether a later run has asked this one.
    """
    owner, own = study_file.with_name(study_file.name + ".owner"), str(time.time_ns())
    try:
        study_file.parent.mkdir(parents=True, exist_ok=True)
        handle = open(study_file, "ab")  # noqa: SIM115 - open as long as the lock is held
    except OSError as error:
        raise DeepEMError(f"--study {study_file}: cannot be written ({error.strerror})") from error
    with handle:
        with atomic_write(owner) as file:
            file.write(own)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another run is using %s: waiting until it has stopped, after its epoch", study_file)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # file systems without locks
            log.debug("%s cannot be locked: %s", study_file, error)

        def asked_to_stop() -> bool:
            try:
                return owner.read_text() != own
            except OSError:
                return False

        try:
            yield asked_to_stop
        finally:
            if not asked_to_stop():
                owner.unlink(missing_ok=True)


def _open_study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="deepem",
                                    direction="maximize", load_if_exists=True, pruner=SameRecipePruner())
        dict(study.user_attrs.get("fingerprint", {}))
        if chosen := choose(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))):
            report(study.get_trials(deepcopy=False), chosen, [])  # whatever is told of trials is there
        return study
    except Exception as error:  # a damaged journal can raise nearly anything inside the library
        raise DeepEMError(f"--study {path}: not the journal of a search, or damaged ({error}); give another file, or "
                          "delete it to begin anew") from error


class _Search:
    """One run of a search; parameters are those of `tune_model`."""

    def __init__(self, data: TrainingSet, plan: Plan, fixed: dict[str, str], pixel_angst: float, output: Path,
                 study_file: Path) -> None:
        self.data, self.fixed, self.pixel_angst, self.output = data, fixed, pixel_angst, output
        self.space = search_space(plan, pixel_angst, fixed)
        self.automatic = {**AUTOMATIC, "binning": auto_binning(plan.diameter_angst, pixel_angst), **fixed}
        self.plan = plan
        self.baseline_cost = self._cost(plan_of(self.automatic, self.plan, pixel_angst))
        self.models = study_file.with_name(study_file.name + ".models")
        self.study = _open_study(study_file)
        self._check_fingerprint(study_file)
        self.over: Callable[[], bool] = bool
        self.learning = False  # whether the trial under way has ended an epoch

    # -- the study

    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same for trials to be comparable, as plain values."""
        names = self.data.names
        found = {
            "micrographs": names,
            "particles": sum(len(self.data.particles[name].centres_xy) for name in names),
            "coordinates": _digest(self.data.particles, names),
            "negatives": _digest(self.data.negatives, names),
            "incomplete": sorted(self.data.incomplete),
            "pixel_size_of_micrographs_angst": self.pixel_angst,
            **{field.name: getattr(self.plan, field.name) for field in fields(self.plan)},
            "fixed": self.fixed,
            "space": {name: str(distribution) for name, distribution in self.space.items()},
        }
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return plain

    def _check_fingerprint(self, study_file: Path) -> None:
        now = self._fingerprint()
        if not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr("fingerprint", now)
            return
        then = self.study.user_attrs.get("fingerprint", {})
        others = [f"{key.replace('_', ' ')} {_in_short(then.get(key))} there, {_in_short(now.get(key))} now"
                  for key in {**then, **now} if then.get(key) != now.get(key)]
        if others:
            raise DeepEMError(f"--study {study_file} was made with other data or options: {'; '.join(others)}. Give "
                              "the same to go on, another file for another search, or delete it to begin anew.")

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _prepare(self) -> None:
        """Close the trials of a run that was killed, and see to it that the baseline comes first."""
        for trial in self._trials(TrialState.RUNNING):
            self.study.tell(trial.number, state=TrialState.FAIL)
        done = [trial for trial in self._trials(TrialState.WAITING, TrialState.COMPLETE, TrialState.FAIL)
                if _is_baseline(trial) and (trial.state != TrialState.FAIL or "reason" in trial.user_attrs)]
        if not done:
            self.study.enqueue_trial({name: self.automatic[name] for name in self.space}, {"baseline": True})

    # -- the search

    def run(self, budget: Budget, asked_to_stop: Callable[[], bool]) -> Model:
        """Search until the budget is spent, or a later run wants the study."""
        self._prepare()
        deadline = time.monotonic() + 60 * budget.minutes
        self.over = lambda: time.monotonic() >= deadline or asked_to_stop()
        if self._chosen() is not None:
            self._write()
        try:
            for number in itertools.count():
                if number == budget.trials or number and self.over():
                    break
                self._next_trial()
        finally:
            if self._chosen() is not None:
                self._draw()
        chosen = self._write()
        if chosen is None:
            trials = self._trials()
            raise DeepEMError(f"none of {len(trials)} trials succeeded; the first one: {_reason(trials[0])}")
        return chosen

    def _next_trial(self) -> None:
        number = len(self._trials()) - len(self._trials(TrialState.WAITING))
        seed = int(np.random.SeedSequence([abs(self.plan.seed), number]).generate_state(1)[0])
        # Of its number, so that a search that was interrupted goes on as it would have done.
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
        trial = self.study.ask(self.space)
        began = time.perf_counter()
        state, precision = TrialState.FAIL, None
        try:
            precision = self._train(trial)
            state = TrialState.COMPLETE
        except optuna.TrialPruned as stopped:
            state = TrialState.PRUNED
            trial.set_user_attr("reason", str(stopped))
        except Exception as error:  # the one place where a trial may fail without stopping the others
            log.debug("trial %d failed", trial.number, exc_info=True)
            if _is_baseline(trial) and not (isinstance(error, DeepEMError) and self.learning):
                raise  # it did not even begin to learn, and nor would the others
            reason = str(error) if isinstance(error, DeepEMError) else f"{type(error).__name__}: {error}"
            trial.set_user_attr("reason", " ".join(reason.split()))
        finally:  # also where it was interrupted: then it has no reason
            trial.set_user_attr("seconds", time.perf_counter() - began)
            self.study.tell(trial, precision, state)
        if state == TrialState.COMPLETE:
            self._write()
        self._tell(self._trials()[trial.number])

    def _train(self, trial: Trial) -> float:
        """Train the model of a trial and keep it; returns its average precision on the validation micrographs."""
        plan = plan_of({**self.automatic, **trial.params}, self.plan, self.pixel_angst)
        geometry, working = plan.geometry, plan.working_pixel_size_angst
        assert geometry is not None and working is not None
        cost = self._cost(plan) / self.baseline_cost
        for name, value in (("geometry", geometry.as_dict()), ("working_pixel_size_angst", working), ("cost", cost)):
            trial.set_user_attr(name, value)
        if cost > MAX_COST:
            raise optuna.TrialPruned(f"not trained: scanning would cost about {cost:.0f} times as much as with the "
                                     "baseline")
        reported = 0
        seeds: dict[tuple[Any, Any], Any] = {}
        self.learning = False

        def progress(record: Mapping[str, Any]) -> None:
            nonlocal reported
            epoch, epochs, seed = record["epoch"], record["epochs"], record.get("seed")
            self.learning = True
            if seeds.setdefault((record.get("round"), record.get("network")), seed) != seed and not _is_baseline(trial):
                raise optuna.TrialPruned("its network did not leave the plateau with the first seed")
            step, value = round(100 * epoch / epochs), record.get("validation_average_precision")
            if value is not None and step > reported:  # of the first network; the baseline may begin again
                reported = step
                trial.report(value, step)
                if epoch < epochs and not _is_baseline(trial) and trial.should_prune():
                    raise optuna.TrialPruned(f"after epoch {epoch} below the median of trials with the same recipe")
            last = epoch == epochs and record.get("network", 1) == record.get("networks", 1)
            if not last and not _is_baseline(trial) and self.over():
                raise optuna.TrialPruned(f"the search ended after epoch {epoch}")

        model = train_model(self.data, plan, progress)
        precision = self._judge(model)
        self.models.mkdir(parents=True, exist_ok=True)
        save_model(self._model_file(trial.number), model)
        return precision

    def _judge(self, model: Model) -> float:
        """Average precision of a model; raises DeepEMError where it cannot be compared with that of others."""
        figures = model.record.validation
        if figures.on != "validation micrographs":
            raise DeepEMError("no pick, or no particle with its whole box, on the validation micrographs; without them "
                              "it cannot be judged")
        names = figures.names
        known = self.study.user_attrs.get("names")
        if known is None:
            self.study.set_user_attr("names", names)
        elif names != known:
            raise DeepEMError("its box is larger than some micrographs, so that it was judged on others than the first "
                              f"trial: {_in_short(names)} instead of {_in_short(known)}")
        return float(figures.AP or 0.0)

    @staticmethod
    def _cost(plan: Plan) -> float:
        assert plan.geometry is not None and plan.working_pixel_size_angst is not None
        return scan_cost(plan.geometry, plan.diameter_angst / plan.working_pixel_size_angst)

    # -- the outcome

    def _model_file(self, number: int) -> Path:
        return self.models / f"{number}.deepem"

    def _chosen(self) -> FrozenTrial | None:
        return choose(self._trials(TrialState.COMPLETE))

    def _write(self) -> Model | None:
        """Write the chosen model and the report; models that can no longer be chosen are deleted."""
        chosen = self._chosen()
        if chosen is None:
            return None
        source = self._model_file(chosen.number)
        if not source.is_file():
            raise DeepEMError(f"{source} is missing, which belongs to the study; delete the study to begin anew")
        model = load_model(source)
        model = replace(model, record=replace(model.record, tuning=self._summary(chosen)))
        save_model(self.output, model)
        lines = report(self._trials(), chosen, self._heading(model))
        with atomic_write(ModelFiles(self.output).tuning_report) as handle:
            handle.write("\n".join(lines) + "\n")
        kept = {self._model_file(trial.number) for trial in as_good(self._trials(TrialState.COMPLETE))}
        for path in self.models.glob("*.deepem"):
            if path not in kept:
                path.unlink()
        return model

    def _summary(self, chosen: FrozenTrial) -> dict[str, Any]:
        """What the card tells of the search."""
        baseline = next((trial for trial in self._trials(TrialState.COMPLETE) if _is_baseline(trial)), None)
        counts = {word: len(self._trials(state)) for state, word in _STATES.items()}
        best = as_good(self._trials(TrialState.COMPLETE))[0]
        return {"trials": sum(counts.values()), **counts, "minutes": _minutes(self._trials()),
                "baseline_AP": baseline and baseline.value, "best_AP": best.value, "AP": chosen.value,
                "trial": chosen.number, "scan_cost": chosen.user_attrs["cost"],
                "parameters": {**self.fixed, **chosen.params}}

    def _heading(self, model: Model) -> list[str]:
        training, validation = model.record.training, model.record.validation
        return [f"# Tuning of {self.output.name}", "",
                f"Particle of {self.plan.diameter_angst:g} A; "
                f"{len({*training.names, *validation.names})} micrographs; {self.plan.networks} network(s) per "
                f"trial; seed {self.plan.seed}. All trials are judged on the same {len(validation.names)} "
                f"micrograph(s) with {validation.particles} particles, each picked by a network that was not "
                "trained on it."]

    def _draw(self) -> None:
        draw_search(self._trials(), ModelFiles(self.output).tuning_plot)

    def _tell(self, trial: FrozenTrial) -> None:
        chosen = self._chosen()
        so_far = "" if chosen is None else f"; chosen so far: trial {chosen.number}, AP {chosen.value:.4f}"
        outcome = f"AP {trial.value:.4f}" if trial.state == TrialState.COMPLETE else (
            f"{_STATES[trial.state]}, {_reason(trial)}")
        log.info("trial %d (%s): %s%s", trial.number, _settings(trial), outcome, so_far)


def as_good(complete: list[FrozenTrial]) -> list[FrozenTrial]:
    """The best trial and those that come within `EQUAL_AP` of it, by falling average precision."""
    ordered = sorted(complete, key=lambda trial: (-_value(trial), trial.number))
    return [trial for trial in ordered if _value(trial) >= _value(ordered[0]) - EQUAL_AP]


def choose(complete: list[FrozenTrial]) -> FrozenTrial | None:
    """Of all trials that are as good as the best, the one with the cheapest scan; None where there is no trial."""
    return min(as_good(complete), key=lambda trial: (trial.user_attrs["cost"], -_value(trial), trial.number),
               default=None)


def report(trials: list[FrozenTrial], chosen: FrozenTrial, heading: list[str]) -> list[str]:
    """The lines of the report in Markdown: what was gained, what that is worth, and all trials."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = as_good(complete)[0]
    baseline = next((trial for trial in complete if _is_baseline(trial)), None)
    counts = ", ".join(f"{sum(trial.state == state for trial in trials)} {word}" for state, word in _STATES.items())
    finished = [trial for trial in trials if trial.state.is_finished()]
    lines = [*heading, "", f"{len(finished)} trials ({counts}) in {_minutes(trials):.1f} minutes.", "",
             "| | trial | AP | scan cost | settings |", "|---|---|---|---|---|"]
    for name, trial in (("baseline", baseline), ("highest AP", best), ("chosen", chosen)):
        lines.append(f"| {name} | - | failed | | |" if trial is None else
                     f"| {name} | {trial.number} | {trial.value:.4f} | {trial.user_attrs['cost']:.2f} | "
                     f"{_settings(trial)} |")
    lines += ["", *_worth(baseline, chosen, len(complete)), "", "## Trials", "",
              "AP: average precision of the picks on the validation micrographs, right within half a diameter. Scan "
              "cost: estimated time of picking over the baseline's. Margin: that of the deviation filter. Minutes: of "
              "the search, at the end of the trial.", "",
              "| trial | state | AP | working pixel A | box px | kernels | pools | maps | recipe | margin | scan cost "
              "| seconds | minutes | remark |", "|" + "---|" * 14]
    minutes = 0.0
    for trial in finished:
        values, attributes = {**AUTOMATIC, **trial.params}, trial.user_attrs
        minutes += attributes.get("seconds", 0.0) / 60
        sizes = attributes.get("geometry", {})
        remarks = [_reason(trial)] + ["baseline"] * _is_baseline(trial) \
            + ["chosen"] * (trial.number == chosen.number)
        cells = [trial.number, _STATES[trial.state],
                 f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else "",
                 _number(attributes.get("working_pixel_size_angst"), ".4g"), sizes.get("box", ""),
                 *("/".join(map(str, sizes.get(name, ()))) for name in ("kernels", "pools", "maps")),
                 values["training_preset"], _number(values["std_margin"], ".2f"),
                 _number(attributes.get("cost"), ".2f"),
                 _number(attributes.get("seconds"), ".0f"), f"{minutes:.1f}",
                 ", ".join(remark for remark in remarks if remark).replace("|", "/")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _worth(baseline: FrozenTrial | None, chosen: FrozenTrial, n_complete: int) -> list[str]:
    """What was gained, and what that is worth."""
    if baseline is None:
        return ["The baseline failed, so that it cannot be told what was gained."]
    gain = _value(chosen) - _value(baseline)
    if chosen.number == baseline.number:
        return ["Nothing was gained: the baseline is chosen, that is, no trial was better by more than "
                f"{EQUAL_AP:g} or as good and cheaper."]
    return [
        f"On the validation micrographs the chosen model's average precision is {abs(gain):.4f} "
        f"{'above' if gain >= 0 else 'below'} the baseline's, at {chosen.user_attrs['cost']:.2f} times its cost of "
        "scanning.", "",
        f"This figure is optimistic: the best of {n_complete} trials on a few micrographs is partly the luckiest one, "
        "and the threshold, too, was chosen on them. On real micrographs another seed alone changed the average "
        "precision by about 0.01 (docs/accuracy.md); a gain of that size may be chance. Only micrographs that took no "
        "part can tell: run `deepem pick` and `deepem evaluate` on some, with this model and with one of `deepem "
        "train`."]


def draw_search(trials: list[FrozenTrial], path: str | Path) -> None:
    """Draw the average precision of complete trials, and the highest so far, against the minutes of the search.

    Parameters
    ----------
    trials : all trials of a study; those stopped early, failed ones and much lower ones are marked along the lower edge
    path : image file to write; its suffix says the format
    """
    from ..report.axes import BLUE, DOTS_PER_INCH, GREEN, ORANGE, VERMILION, make_figure

    figure, (axes,) = make_figure(8, 4.6, 1)
    groups: dict[TrialState, list[tuple[float, float]]] = {state: [] for state in _STATES}
    minutes = 0.0
    for trial in trials:
        minutes += trial.user_attrs.get("seconds", 0.0) / 60
        if trial.state in groups:
            complete = trial.state == TrialState.COMPLETE
            groups[trial.state].append((minutes, _value(trial) if complete else 0.02))
            if complete and _is_baseline(trial):
                axes.axhline(_value(trial), color=ORANGE, linestyle="dashed", label=f"baseline, {trial.value:.3f}")
    if groups[TrialState.COMPLETE]:
        at, values = np.array(groups[TrialState.COMPLETE]).T
        highest, middle = np.maximum.accumulate(values), np.median(values)
        low = values < middle - 2 * (values.max() - middle) - 0.01
        axes.plot(at[~low], values[~low], "o", color=BLUE, label=f"complete ({(~low).sum()})")
        if low.any():
            axes.plot(at[low], np.full(low.sum(), 0.02), "v", color=BLUE, clip_on=False, label=f"lower ({low.sum()})",
                      transform=axes.get_xaxis_transform())
        axes.step([*at, max(minutes, at[-1])], [*highest, highest[-1]], where="post", color=GREEN,
                  label=f"highest so far, {highest[-1]:.3f}")
    for state, colour, marker in ((TrialState.PRUNED, "grey", "x"), (TrialState.FAIL, VERMILION, "^")):
        if groups[state]:
            at, heights = np.array(groups[state]).T
            axes.plot(at, heights, marker, color=colour, label=f"{_STATES[state]} ({len(at)})", clip_on=False,
                      transform=axes.get_xaxis_transform())
    axes.set(xlabel="minutes", ylabel="average precision", title="Average precision on the validation micrographs")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_path(path) as aside:
        figure.savefig(aside, dpi=DOTS_PER_INCH, bbox_inches="tight")


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None  # of complete trials
    return trial.value


def _is_baseline(trial: FrozenTrial | Trial) -> bool:
    return bool(trial.user_attrs.get("baseline"))


def _reason(trial: FrozenTrial) -> str:
    """Why a trial did not go to its end; empty where it did."""
    reason: str = trial.user_attrs.get("reason", "interrupted" if trial.state == TrialState.FAIL else "")
    return reason


def _minutes(trials: list[FrozenTrial]) -> float:
    """Time that finished trials took; what a killed one took is not known."""
    seconds: float = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    return seconds / 60


def _settings(trial: FrozenTrial) -> str:
    """A trial's settings in a line."""
    values, sizes = {**AUTOMATIC, **trial.params}, trial.user_attrs.get("geometry")
    network = "no network" if sizes is None else (
        f"{_number(trial.user_attrs['working_pixel_size_angst'], '.4g')} A, box {sizes['box']}, "
        + ", ".join(f"{name} {'/'.join(map(str, sizes[name]))}" for name in ("kernels", "pools", "maps")))
    return f"{network}, recipe {values['training_preset']}, margin {values['std_margin']:.2f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _digest(coordinates: Mapping[str, Coordinates], names: list[str]) -> str:
    """A few letters that tell coordinates from others, to a hundredth of a pixel."""
    digest = hashlib.sha256()
    for name in names:
        if name in coordinates:
            centres = np.round(100 * coordinates[name].centres_xy).astype(np.int64)
            digest.update(repr((name, centres.tolist())).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:12]


def _in_short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} ({', '.join(map(str, value[:3]))}{', ...' if len(value) > 3 else ''})"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
