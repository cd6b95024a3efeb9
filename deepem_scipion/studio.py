# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The studio as the plugin starts it, and what it leaves."""

import math
import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path

import pyworkflow.utils as pwutils
from pwem.objects import SetOfCTF

from . import convert, program
from .constants import TIFF_ROWS
from .deepem.atomic import atomic_write
from .deepem.errors import DeepEMError
from .deepem.picking.results import PickingResults
from .deepem.startables import quote
from .deepem.studio.project import StudioProject

# Side of a box in particle diameters, for coordinates of other pickers.
USUAL_BOX = 1.5


class StudioRun:
    """The studio in a process of its own, which ends together with this one.

    Parameters
    ----------
    folder : str
        For its log and the values that it hands back; made if it does not exist.
    arguments : list of str
        Of `deepem studio`.
    label : str, optional
        Text of the button that hands values back; without it there is none.
    pick : list of str, optional
        Arguments of a `deepem pick` that runs first.
    """

    def __init__(self, folder, arguments, label="", pick=()):
        pwutils.makePath(folder)
        self.log, self._chosen = (os.path.join(folder, name) for name in ("studio.log", "chosen.json"))
        pwutils.cleanPath(self._chosen)
        choose = ["--choose", self._chosen, "--choose-label", label] if label else []
        self._commands = [["pick", *pick]] * bool(pick) + [["studio", *arguments, *choose]]
        self._results = PickingResults(pick[list(pick).index("--output") + 1]) if pick else None
        self.process = None
        self._next()

    def _next(self):
        threads = os.cpu_count() or 1
        self.process = program.start([*self._commands.pop(0), "--threads", str(threads)], self.log, threads)

    def poll(self):
        """Return whether all has ended; to be called from time to time."""
        status = self.process.poll()
        if status == 0 and self._commands:
            self._next()
            return False
        return status is not None

    @property
    def state(self):
        """What is being done: the address of the page, once it can be opened."""
        if self._results and self._commands:
            return f"Picking: {self._results.picked()} micrographs are ready"
        return self.address or "The studio is starting ..."

    @property
    def address(self):
        """Address of the page, empty before it can be opened."""
        if not os.path.exists(self.log):
            return ""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            found = re.findall(r"studio: (http://\S+)", file.read())
        return found[-1] if found else ""

    @property
    def problem(self):
        """Why it failed; empty if it did not."""
        status = self.process.poll()
        return (program.last_logged_error(self.log) or f"the program ended with status {status}") if status else ""

    @property
    def values(self):
        """The values handed back, as `Choice.write` wrote them; None without any."""
        return convert.read_json(self._chosen) or None

    def stop(self):
        """End it; everything that was edited is saved."""
        self._commands.clear()
        self.process.terminate()
        self.process.wait()


def studio_arguments(folder, micSet, mics=None, coordinates=None, project=None):
    """Write what the studio shows, and return its arguments.

    Parameters
    ----------
    folder : str
        For the files.
    micSet : SetOfMicrographs
    mics : list of Micrograph, optional
        Those of the set that are shown; default: all.
    coordinates : SetOfCoordinates, optional
        To be shown, on some of these micrographs or on others made from the same.
    project : Project, optional
        See `convert.keys_by_id`; the defocus of the micrographs, if it has CTF estimates of them, is shown.

    Returns
    -------
    list of str
    """
    mics = mics or [mic.clone() for mic in micSet]
    names, rate = convert.result_names(mics), micSet.getSamplingRate()
    listed, boxes = (os.path.join(folder, name) for name in ("micrographs.txt", "coordinates"))
    convert.write_micrograph_list(listed, mics, names)
    arguments = [listed, "--pixel-size", repr(rate), "--tiff-rows", TIFF_ROWS,
                 *ctf_arguments(folder, mics, names, project)]
    if coordinates is None:
        return arguments
    own, others = convert.keys_by_id([micSet, coordinates.getMicrographs()], project)
    found, _ = convert.coordinates_by_name(coordinates, others)
    known = {own[each]: name for each, name in names.items() if own[each] in found}
    convert.write_scored_boxes(boxes, found, known, coordinates.getMicrographs().getSamplingRate() / rate)
    return [*arguments, "--coordinates", boxes]


def session_folder(folder, mics, names):
    """Folder of the session in which a viewer shows micrographs: that of the last time, unless it is of others.

    A session keeps to its micrographs, but a run that was started again may have others.

    Parameters
    ----------
    folder : str
        With the sessions of the viewer.
    mics : iterable of Micrograph
    names : dict of int to str
        Id of the micrograph to its name in the studio.

    Returns
    -------
    str
    """
    shown = {names[mic.getObjId()]: os.path.abspath(mic.getFileName()) for mic in mics}
    for number in count(1):
        project = StudioProject(Path(folder, "session" if number == 1 else f"session-{number}"))
        with suppress(DeepEMError):
            if not project.exists() or project.read().micrographs.items() <= shown.items():
                return str(project.folder)


def ctf_arguments(folder, mics, names, project):
    """Write the defocus of micrographs, and return the arguments of the studio; none where no defocus is known.

    Parameters
    ----------
    folder : str
        For the file.
    mics : iterable of Micrograph
    names : dict of int to str
        Id of the micrograph to its name in the studio.
    project : Project or None

    Returns
    -------
    list of str
    """
    known, lines = defocus_by_name(project) if project else {}, []
    for mic in (mic for mic in mics if mic.getMicName() in known):
        with suppress(DeepEMError):  # both kinds of quotes cannot be written
            lines.append(f"{quote(names[mic.getObjId()] + '.mrc')} {known[mic.getMicName()]:.1f}")
    if not lines:
        return []
    path = os.path.join(folder, "ctf.star")
    with atomic_write(path) as file:
        file.write("\n".join(["data_micrographs", "", "loop_", "_rlnMicrographName", "_rlnDefocusU", *lines, ""]))
    return ["--ctf", path]


def defocus_by_name(project):
    """Return the mean defocus of the micrographs of a project in angstrom, by their name in Scipion."""
    found = {}
    for run in project.getRuns():
        for _, ctfs in run.iterOutputAttributes(SetOfCTF):
            for ctf in ctfs if os.path.exists(ctfs.getFileName()) else ():  # not there: its run was removed by hand
                both = ctf.getDefocusU(), ctf.getDefocusV()
                mean = math.nan if None in both else sum(both) / 2
                if ctf.getMicrograph() is not None and 0 < mean < math.inf:
                    found[ctf.getMicrograph().getMicName()] = mean
    return found


def usual_diameter(coordinates):
    """Particle diameter in angstrom that fits the boxes of a SetOfCoordinates; 0 if it has no box size."""
    return coordinates.getMicrographs().getSamplingRate() * (coordinates.getBoxSize() or 0) / USUAL_BOX
