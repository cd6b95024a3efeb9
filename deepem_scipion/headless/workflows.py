# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflows from the templates of the plugin, run without a display."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from pyworkflow.object import Set
from pyworkflow.protocol import MODE_RESTART, STATUS_RUNNING, getProtocolFromDb

from .demo import failure_of, say

TEMPLATES = Path(__file__).parents[1] / "templates"
FIELD = re.compile(r"~[^~|]*\|([^~|]*)\|\d\|(\w+)~")
# Started from scratch after an interruption, because resuming them could lose or duplicate particles.
RESTARTED = ("ProtRelionExtractParticles", "ProtRelionClassify2D")
_POLL_S = 2


class WorkflowError(Exception):
    """A workflow cannot be set up."""


def fill(template, values):
    """Fill in the fields of a template.

    Parameters
    ----------
    template : str
        `facility`, `from-nothing` or `train-and-pick`.
    values : dict
        Values of fields by their aliases; other fields keep their defaults.

    Returns
    -------
    str
        JSON for `load`.
    """
    text = (TEMPLATES / f"{template}.json.template").read_text(encoding="utf-8")
    return FIELD.sub(lambda field: json.dumps(str(values.get(field[2], field[1])))[1:-1], text[text.index("\n[") + 1:])


def load(project, workflow):
    """Add the runs of a workflow to a project.

    Parameters
    ----------
    project : Project
    workflow : str
        JSON from `fill`.

    Returns
    -------
    dict of str to Protocol
        Runs by their number in the workflow, in its order.
    """
    runs = project.loadProtocols(jsonStr=workflow)
    for entry in json.loads(workflow):
        runs[entry["object.id"]].setObjLabel(entry["object.label"])  # ignored by the framework
        project.saveProtocol(runs[entry["object.id"]])
    return runs


def use_relion(folder):
    """Let Scipion use the RELION in the search path if none is configured.

    Parameters
    ----------
    folder : str
        Folder for links, in a subfolder `relion-VERSION`: the RELION plugin derives the version from its name.

    Raises
    ------
    WorkflowError
        If RELION or its plugin is missing.
    """
    try:
        from relion import Plugin
    except ImportError:
        raise WorkflowError(f"RELION's plugin is not installed; install it with: {sys.executable} -m pip install "
                            "scipion-em-relion") from None
    if os.path.exists(Plugin.getHome() or ""):
        return
    program = shutil.which("relion_refine")
    if program is None:
        raise WorkflowError("RELION was not found; set RELION_HOME to its folder, or add the folder of relion_refine "
                            "to the search path")
    output = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    home = Path(folder, "relion-" + re.search(r"\d+\.\d+(\.\d+)?|$", output)[0])
    (home / "bin").mkdir(parents=True, exist_ok=True)
    for path in Path(program).parent.glob("relion_*"):
        if not (home / "bin" / path.name).exists():
            (home / "bin" / path.name).symlink_to(path)
    os.environ["RELION_HOME"] = Plugin.getVars()["RELION_HOME"] = str(home)


def run_all(project, describe):
    """Run the workflow of a project to its end; each run starts as soon as its input allows.

    Runs that were interrupted earlier are resumed. If a run fails those that depend on it are stopped, and the others
    continue. An interrupt stops all.

    Parameters
    ----------
    project : Project
        Its runs must be in the order of their dependence, as after `load`.
    describe : callable
        Returns a line of text about all runs, which is printed whenever it changes.

    Returns
    -------
    bool
        Whether all runs are finished.
    """
    todo, printed = _unfinished(project), None
    try:
        while True:
            runs = project.getRuns(refresh=True, checkPids=True)
            for run in runs:
                _look_again(project, run)
            problems = _advance(project, runs, todo)
            line = describe(runs)
            if line != printed:
                say(line)
                printed = line
            if not any(run.isActive() for run in runs):
                break
            time.sleep(_POLL_S)
    finally:
        for run in project.getRuns(refresh=True):
            _stop(project, run)
    for problem in problems:
        say(problem)
    return all(run.isFinished() for run in runs)


def _unfinished(project):
    """Prepare runs that have to be started, and return their numbers."""
    todo = set()
    for run in project.getRuns(refresh=True, checkPids=True):
        _look_again(project, run)
        # Runs after an unfinished one have not received all of its output.
        if not (run.isFinished() or run.isActive()) or (todo and _takes_input(run)):
            _stop(project, run)
            if run.getClassName() in RESTARTED:
                run.runMode.set(MODE_RESTART)
            for _, output in run.iterOutputAttributes(Set):
                # Stopping has closed it, and a closed set is complete for its readers.
                output.enableAppend()
                output.setStreamState(Set.STREAM_OPEN)
                output.write()
                output.close()
            project.mapper.store(run)
            todo.add(run.getObjId())
    project.mapper.commit()
    return todo


def _look_again(project, run):
    """Let the framework read a finished run again that it took for dead.

    If a run ends between the reading of its records and the check of its process, the framework marks it as failed.
    """
    if not run.isFailed() or "not found running" not in run.getErrorMessage():
        return
    stored = getProtocolFromDb(project.path, run.getDbPath(), run.getObjId())
    finished = stored.isFinished()
    stored.getProject().closeMapper()
    stored.closeMappers()
    if finished:
        run.setStatus(STATUS_RUNNING)
        run.lastUpdateTimeStamp.set(None)  # older than the records of the run
        project.mapper.store(run)
        project.mapper.commit()


def _advance(project, runs, todo):
    """Start runs that can start, stop those that cannot finish, and return a list of problems."""
    problems, numbered = [], {run.getObjId(): run for run in runs}
    for run in runs:
        if problems and _takes_input(run):
            _stop(project, run)
        elif run.isActive():
            _touch_input(run, numbered)
        elif run.getObjId() in todo:
            reasons = _reasons_to_wait(run, numbered, todo)
            if not reasons:
                project.launchProtocol(run, force=True)
                todo.remove(run.getObjId())
            elif not any(other.isActive() for other in runs):
                problems.append(f"'{run.getObjLabel()}' cannot be started: {' '.join(reasons)}")
        elif run.isFailed() or run.isAborted():
            problems.append(failure_of(run))
    return problems


def _touch_input(run, runs):
    """Touch the complete input of a run that works in streaming.

    Particle extraction misses items added between its first reading of the input and its first check whether the file
    has changed, and would wait forever if these were the last ones.
    """
    for _, pointer in run.iterInputAttributes():
        if run.worksInStreaming() and isinstance(pointer.get(), Set) and _parent(pointer, runs).isFinished():
            os.utime(pointer.get().getFileName())


def _parent(pointer, runs):
    return runs[pointer.getObjValue().getObjId()]


def _takes_input(run):
    return any(True for _ in run.iterInputAttributes())


def _reasons_to_wait(run, runs, todo):
    """Reasons why a run cannot start yet; none if its input is complete, or growing and the run works in streaming."""
    for _, pointer in run.iterInputAttributes():
        parent = _parent(pointer, runs)
        started = parent.isFinished() or (parent.isActive() and run.worksInStreaming())
        if parent.getObjId() in todo or not started or pointer.get() is None:
            return [f"there is no {pointer.getExtended()} of '{parent.getObjLabel()}'."]
    return run.validate()


def _stop(project, run):
    """Stop a run that is active; one of its processes may just have ended by itself."""
    if run.isActive():
        with suppress(psutil.NoSuchProcess):
            project.stopProtocol(run)


def describe_facility(runs):
    """Describe the progress of the runs of a facility template in one line; of picking the last run that has begun."""
    begun = [run for run in runs if run.getClassName() != "ProtDeepEMPick" or picked_micrographs(run)]
    latest = {run.getClassName(): run for run in [*runs[::-1], *begun]}
    picked = Counter("ok" if found.ok else "failed" for found in picked_micrographs(latest["ProtDeepEMPick"]).values())
    sizes = [getattr(getattr(latest[name], output, None), "getSize", int)()
             for name, output in (("ProtImportMicrographs", "outputMicrographs"),
                                  ("ProtDeepEMPick", "outputCoordinates"),
                                  ("ProtRelionExtractParticles", "outputParticles"),
                                  ("ProtRelionClassify2D", "outputClasses"))]
    active = [run.getObjLabel() for run in runs if run.isActive()]
    return ("{} micrographs imported, {ok} picked, {failed} failed, {} picks, {} particles extracted, {} classes"
            .format(*sizes, ok=picked["ok"], failed=picked["failed"]) + f"; running: {', '.join(active) or 'nothing'}")


def picked_micrographs(pick):
    """Results of a picking run so far, by name of the micrograph."""
    return pick.getResults().read_micrographs()
