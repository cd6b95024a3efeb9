# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""From micrographs, which may still be arriving in a folder, to 2D classes in a Scipion project without a display.

`python -m deepem_scipion.headless.facility --micrographs FOLDER --pixel-size A --diameter A --project NAME` runs the
workflow of templates/from-nothing.json.template, which picks with the general model, and again with one that learns
from the first micrographs; with --model instead of --diameter it is that of templates/facility.json.template. After an
interruption or a failure the same command resumes it.
"""

import argparse
import json
import math
import os
import re
import signal
import sys
from pathlib import Path

from ..deepem.locks import try_lock
from ..deepem.runtime import available_cores
from .demo import prepare_home, say

# Values of the template's fields, in the folder of the project.
OPTIONS_FILE = "facility.json"
MASK_PER_DIAMETER = 1.2
DONE, SOME_FAILED, FAILED = 0, 1, 2
_ABOVE_0 = ("pixel_size", "diameter", "learn", "box", "classes", "iterations", "voltage", "threads")
_FROM_0 = ("cs", "amplitude")
_TIME = re.compile(r"\d+(\.\d+)?[smhd]?( \d+(\.\d+)?[smhd]?)*")


class FacilityError(Exception):
    """The workflow cannot be started; the message gives the solution."""


def main(argv=None):
    """Run the workflow to its end.

    Returns
    -------
    int
        0 for success, 1 if some micrographs could not be picked, 2 if a run failed or the workflow did not start.
    """
    options = parse(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
            signal.signal(number, signal.default_int_handler)
    try:
        values = values_of(options)
        if "SCIPION_HOME" not in os.environ:
            os.environ.update(prepare_home(options.home.resolve()), NO_COLOR="1")
        return run(options.project, values)
    except FacilityError as error:
        say(f"error: {error}")
    except KeyboardInterrupt:
        say("stopped; the same command resumes the workflow")
    return FAILED


def parse(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m deepem_scipion.headless.facility",
                                     description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--micrographs", type=Path, required=True, metavar="FOLDER", help="folder to which the micrographs are written")
    add("--pattern", default="*.mrc", help="names of the micrographs in the folder")
    add("--pixel-size", type=float, required=True, metavar="A", help="of the micrographs, in angstrom")
    add("--diameter", type=float, metavar="A", help="particle diameter in angstrom, to start without a model")
    add("--learn", type=int, default=20, metavar="N", help="without a model one learns from the first N micrographs")
    add("--model", type=Path, metavar="FILE", help="DeepEM model of the particle, instead of the diameter")
    add("--project", required=True, metavar="NAME", help="a new project, or the one to resume")
    add("--box", type=int, metavar="PX", help="side of the particle boxes; default: 1.5 diameters")
    add("--classes", type=int, default=50, help="number of 2D classes")
    add("--iterations", type=int, default=25, help="of the 2D classification")
    add("--timeout", default="12h",
        help="the import ends after this time without a new micrograph: seconds, or as 30m or 12h")
    add("--file-timeout", default="30", help="a file is complete after this time without a change, in seconds")
    add("--voltage", type=float, default=300, metavar="KV", help="of the microscope")
    add("--cs", type=float, default=2.7, metavar="MM", help="spherical aberration")
    add("--amplitude", type=float, default=0.1, metavar="SHARE", help="amplitude contrast")
    add("--threads", type=int, help="of picking and of classification; default: one for each core of the machine on "
        "which the project begins")
    add("--gpu", type=int, choices=(0, 1), default=0, help="1: the classification uses a GPU")
    add("--home", type=Path, default=Path("deepem-facility"), metavar="FOLDER",
        help="Scipion's home unless SCIPION_HOME is set; projects are in its userdata/projects")
    return parser.parse_args(argv)


def values_of(options):
    """Values of the template's fields by their aliases."""
    from ..deepem.errors import DeepEMError
    from ..deepem.model.files import read_card
    from ..deepem.picking.box import default_box_px

    if not options.micrographs.is_dir():
        raise FacilityError(f"--micrographs: there is no folder {options.micrographs}")
    if (options.model is None) == (options.diameter is None):
        raise FacilityError("give --diameter to pick with the general model, or --model, one of them")
    _check_numbers(options)
    try:
        diameter_angst = options.diameter or read_card(options.model)["diameter_angst"]
    except DeepEMError as error:
        raise FacilityError(f"--model: {error}") from error
    unused = ("project", "home", "learn") if options.model else ("project", "home")
    values = {name: value for name, value in vars(options).items()
              if name not in unused and value is not None or name in ("box", "threads")}
    values.update(micrographs=str(options.micrographs.resolve()), mask=round(MASK_PER_DIAMETER * diameter_angst))
    if options.model:
        values["model"] = str(options.model.resolve())
    if values["box"] is None:
        values["box"] = default_box_px(diameter_angst, options.pixel_size)
    return values


def _check_numbers(options):
    """Refuse at once what would stop a run hours later, in a project whose options cannot change."""
    for name in (*_ABOVE_0, *_FROM_0):
        value, what = getattr(options, name), "above 0" if name in _ABOVE_0 else "of 0 or more"
        if value is not None and not (0 < value < math.inf or value == 0 and name in _FROM_0):
            raise FacilityError(f"--{name.replace('_', '-')} {value}: expected a number {what}")
    for name in ("timeout", "file_timeout"):
        if not _TIME.fullmatch(getattr(options, name)):
            raise FacilityError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected seconds, or a time as "
                                "30m or 12h")


def run(name, values):
    """Create or open the project, which becomes the working directory, run its workflow, and return the exit status."""
    import pyworkflow as pw
    from pyworkflow.project import Manager

    from ..deepem.atomic import atomic_write
    from . import workflows

    pw.Config.getDomain().getProtocols()
    try:
        workflows.use_relion(pw.Config.SCIPION_USER_DATA)
    except workflows.WorkflowError as error:
        raise FacilityError(str(error)) from error
    new = not Manager().hasProject(name)
    project = Manager().createProject(name) if new else Manager().loadProject(name)
    os.chdir(project.path)
    if new:
        values["threads"] = values["threads"] or available_cores()
        workflows.load(project, workflows.fill("facility" if "model" in values else "from-nothing", values))
        with atomic_write(OPTIONS_FILE) as file:
            json.dump(values, file, indent=1)
    check_options(project.path, values)
    say(f"{'new' if new else 'resuming'} project {project.path}")
    with open(OPTIONS_FILE, encoding="utf-8") as lock:
        if not try_lock(lock):
            raise FacilityError(f"another command is running project {name}")
        if not workflows.run_all(project, workflows.describe_facility):
            return FAILED
    pick = project.getProtocolsByClass("ProtDeepEMPick")[-1]
    failed = [name for name, found in workflows.picked_micrographs(pick).items() if not found.ok]
    if failed:
        say(f"not picked: {', '.join(failed[:5])}{' ...' if len(failed) > 5 else ''}; the reasons are in "
            f"{pick.getResults().path('failed')}")
    return SOME_FAILED if failed else DONE


def check_options(path, values):
    """Check that this command made the project, with the same options."""
    if not os.path.exists(OPTIONS_FILE):
        raise FacilityError(f"{path} was not made by this command; choose another name with --project")
    earlier = json.loads(Path(OPTIONS_FILE).read_text(encoding="utf-8"))
    changed = [f"{name} was {earlier.get(name)} and is {value}" for name, value in values.items()
               if value not in (None, earlier.get(name))]  # threads: another node may have other cores
    if changed:
        raise FacilityError(f"{path} was made with other options: {', '.join(changed)}. Give the same options to "
                            "resume it, or choose another name with --project")


if __name__ == "__main__":
    sys.exit(main())
