# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflows from the plugin's templates, run without a display."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from pyworkflow.object import Set
from pyworkflow.protocol import MODE_RESTART

from .demo import failure_of, say

TEMPLATES = Path(__file__).parents[1] / "templates"
FIELD = re.compile(r"~[^~|]*\|([^~|]*)\|\d\|(\w+)~")
# Begun anew where they were stopped: going on in the middle could lose or double particles.
BEGUN_ANEW = ("ProtRelionExtractParticles", "ProtRelionClassify2D")
_POLL_S = 2


class WorkflowError(Exception):
    """A workflow cannot be set up."""


def fill(template, values):
    """Workflow of a template.

    Parameters
    ----------
    template : str
        `facility` or `train-and-pick`.
    values : dict
        Values of the template's fields by their aliases; other fields keep their defaults.

    Returns
    -------
    str
        JSON for `load`.
    """
    text = (TEMPLATES / f"{template}.json.template").read_text(encoding="utf-8")
    return FIELD.sub(lambda field: json.dumps(str(values.get(field[2], field[1])))[1:-1], text[text.index("\n[") + 1:])


def load(project, workflow):
    """Add the runs of a workflow to a project.

    Returns
    -------
    dict
        Runs by their number in the workflow, in its order.
    """
    runs = project.loadProtocols(jsonStr=workflow)
    for entry in json.loads(workflow):
        runs[entry["object.id"]].setObjLabel(entry["object.label"])  # forgotten by the framework
        project.saveProtocol(runs[entry["object.id"]])
    return runs


def use_relion(folder):
    """Let Scipion use the RELION of the search path if it knows none.

    Parameters
    ----------
    folder : str
        Where a folder of links `relion-VERSION` is made; the RELION plugin takes the version from its name.

    Raises
    ------
    WorkflowError
        Where RELION or its plugin is missing.
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
        raise WorkflowError("no RELION was found: RELION_HOME does not name its folder, and relion_refine is not in "
                            "the search path")
    told = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    home = Path(folder, "relion-" + re.search(r"\d+\.\d+(\.\d+)?|$", told)[0])
    (home / "bin").mkdir(parents=True, exist_ok=True)
    for path in Path(program).parent.glob("relion_*"):
        if not (home / "bin" / path.name).exists():
            (home / "bin" / path.name).symlink_to(path)
    os.environ["RELION_HOME"] = Plugin.getVars()["RELION_HOME"] = str(home)


def run_all(project, describe):
    """Run what is in a project to its end: each run starts as soon as its input allows.

    Runs that were not finished earlier go on. What depends on a run that fails is stopped, the others go on. An
    interrupt stops all.

    Parameters
    ----------
    project : Project
        Its runs stand in the order in which they depend on each other, as after `load`.
    describe : callable
        Makes a line of text about all runs, which is shown whenever it changes.

    Returns
    -------
    bool
        Whether all runs are finished.
    """
    todo, told = _unfinished(project), None
    try:
        while True:
            runs = project.getRuns(refresh=True, checkPids=True)
            problems = _advance(project, runs, todo)
            line = describe(runs)
            if line != told:
                say(line)
                told = line
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
    """Numbers of the runs that have to be started; they are made ready for it."""
    todo = set()
    for run in project.getRuns(refresh=True, checkPids=True):
        # What comes after an unfinished run has not seen all of that run's output.
        if not (run.isFinished() or run.isActive()) or (todo and _takes_input(run)):
            _stop(project, run)
            if run.getClassName() in BEGUN_ANEW:
                run.runMode.set(MODE_RESTART)
            for _, output in run.iterOutputAttributes(Set):
                # Stopping closed it, which tells readers that nothing more will come.
                output.enableAppend()
                output.setStreamState(Set.STREAM_OPEN)
                output.write()
                output.close()
            project.mapper.store(run)
            todo.add(run.getObjId())
    project.mapper.commit()
    return todo


def _advance(project, runs, todo):
    """Start what can be started and stop what cannot be finished; what went wrong, as text."""
    problems, numbered = [], {run.getObjId(): run for run in runs}
    for run in runs:
        if problems and _takes_input(run):
            _stop(project, run)
        elif run.isActive():
            _show_input_again(run, numbered)
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


def _show_input_again(run, runs):
    """Make the input of a run that takes it while it grows look new, once it is complete.

    Particle extraction overlooks what is added between its first look at the input and the first time that it asks
    whether the input's file has changed, and would wait for ever if that was the end.
    """
    for _, pointer in run.iterInputAttributes():
        if run.worksInStreaming() and isinstance(pointer.get(), Set) and _parent(pointer, runs).isFinished():
            os.utime(pointer.get().getFileName())


def _parent(pointer, runs):
    return runs[pointer.getObjValue().getObjId()]


def _takes_input(run):
    return any(True for _ in run.iterInputAttributes())


def _reasons_to_wait(run, runs, todo):
    """Why a run cannot be started yet; nothing if its input is there, or its beginning for one that takes it so."""
    for _, pointer in run.iterInputAttributes():
        parent = _parent(pointer, runs)
        begun = parent.isFinished() or (parent.isActive() and run.worksInStreaming())
        if parent.getObjId() in todo or not begun or pointer.get() is None:
            return [f"there is no {pointer.getExtended()} of '{parent.getObjLabel()}'."]
    return run.validate()


def _stop(project, run):
    if run.isActive():
        project.stopProtocol(run)


def describe_facility(runs):
    """How far the runs of the facility template are, as one line."""
    runs = {run.getClassName(): run for run in runs}
    picked = Counter("ok" if found.ok else "failed" for found in picked_micrographs(runs["ProtDeepEMPick"]).values())
    sizes = [getattr(getattr(runs[name], output, None), "getSize", int)()
             for name, output in (("ProtImportMicrographs", "outputMicrographs"),
                                  ("ProtDeepEMPick", "outputCoordinates"),
                                  ("ProtRelionExtractParticles", "outputParticles"),
                                  ("ProtRelionClassify2D", "outputClasses"))]
    active = [run.getObjLabel() for run in runs.values() if run.isActive()]
    return ("{} micrographs imported, {ok} picked, {failed} failed, {} picks, {} particles extracted, {} classes"
            .format(*sizes, ok=picked["ok"], failed=picked["failed"]) + f"; running: {', '.join(active) or 'nothing'}")


def picked_micrographs(pick):
    """Results of a picking run so far, by name of the micrograph."""
    return pick.getResults().read_micrographs()
