# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Demonstration in a Scipion project without a display: import, train, pick, compare with the ground truth.

`python -m deepem_scipion.headless.demo [--output FOLDER]` keeps the project, so that it can be opened afterwards.
"""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

from ..deepem.runtime import available_cores

PROJECT = "DeepEMDemo"
_STARTED = time.perf_counter()


class ProtocolFailed(Exception):
    """A protocol did not finish; the message has the end of its log."""


def main(argv=None):
    """Run the demonstration and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deepem_scipion.headless.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER",
                        help="folder for micrographs, project and pictures (default: %(default)s)")
    output = parser.parse_args(argv).output.resolve()
    environment = prepare_home(output / "scipion")
    os.environ.update(environment, NO_COLOR="1")

    from ..deepem.commands.demonstration import compare, write_demo_data

    say(f"{'simulated' if write_demo_data(output / 'data') else 'existing'} micrographs in {output / 'data'}")
    try:
        picks, folder, model = run_project(output / "data")
    except ProtocolFailed as failure:
        say(str(failure))
        return 1
    for line in compare(output, picks, folder, model)[1]:
        say(line)
    say(f"to open the project on a computer with a display:\n{opening_command(environment)}")
    return 0


def say(text):
    """Print a line, with the seconds since the start."""
    print(f"[{time.perf_counter() - _STARTED:6.1f} s] {text}", flush=True)  # noqa: T201 - for people


def prepare_home(home):
    """Create a private Scipion home.

    Parameters
    ----------
    home : Path

    Returns
    -------
    dict of str to str
        Environment variables with which Scipion finds it; they are read when pyworkflow is imported.
    """
    home.mkdir(parents=True, exist_ok=True)
    hosts = home / "hosts.conf"
    hosts.write_text("[localhost]\nPARALLEL_COMMAND = mpirun -np %_(JOB_NODES)d --oversubscribe %_(COMMAND)s\n")
    return {"SCIPION_HOME": str(home), "SCIPION_USER_DATA": str(home / "userdata"), "SCIPION_LOGS": str(home / "logs"),
            "SCIPION_HOSTS": str(hosts), "EM_ROOT": str(home / "em"), "SCIPION_DOMAIN": "pwem",
            "SCIPION_PYTHON": sys.executable, "SCIPION_NOTIFY": "False", "SCIPION_STEPS_CHECK_SEC": "1",
            "SCIPION_PRIORITY_PACKAGE_LIST": "pwem"}


def run_project(data):
    """Import, train and pick in a new project; the working directory becomes the project.

    Parameters
    ----------
    data : Path
        Folder written by `write_demo_data`.

    Returns
    -------
    picks : dict of str to Coordinates
        By name of the micrograph.
    folder : Path
        Results of picking.
    model : Path
    """
    import pwem.protocols as emprot
    import pyworkflow as pw
    from pyworkflow.project import Manager

    from ..deepem.commands.demonstration import EPOCHS, SCENE
    from ..deepem.coordinates.read import read_coordinates

    pw.Config.getDomain().getProtocols()
    from ..protocols import ProtDeepEMPick, ProtDeepEMTrain

    project = Manager().createProject(PROJECT)
    os.chdir(project.path)
    imports = {part: launch(project, emprot.ProtImportMicrographs, f"import {part} micrographs",
                            filesPath=str(data / part / "micrographs"), filesPattern="*.mrc",
                            samplingRate=SCENE.pixel_size_angst, voltage=SCENE.voltage_kv,
                            sphericalAberration=SCENE.spherical_aberration_mm,
                            amplitudeContrast=SCENE.amplitude_contrast)
               for part in ("training", "test")}
    known = read_coordinates(data / "training" / "boxes")
    coordinates = launch(project, emprot.ProtImportCoordinates, "import coordinates",
                         {"inputMicrographs": (imports["training"], "outputMicrographs")},
                         importFrom=emprot.ProtImportCoordinates.IMPORT_FROM_SCIPION,
                         filesPath=write_coordinates(data / "training" / "coordinates.sqlite",
                                                     imports["training"].outputMicrographs, known),
                         boxSize=round(next(iter(known.values())).box_px))
    threads = available_cores()
    train = launch(project, ProtDeepEMTrain, "train", {"inputCoordinates": (coordinates, "outputCoordinates")},
                   particleDiameter=SCENE.diameter_angst, epochs=EPOCHS, useGpu=False, numberOfThreads=threads)
    pick = launch(project, ProtDeepEMPick, "pick", {"inputMicrographs": (imports["test"], "outputMicrographs"),
                                                    "inputModel": (train, "outputModel")},
                  numberOfThreads=1, binThreads=threads)
    return read_picks(pick.outputCoordinates), Path(pick.getCoordsDir()), Path(train.outputModel.getFileName())


def launch(project, protocol_class, label, pointers=None, **parameters):
    """Run a protocol to its end.

    Parameters
    ----------
    pointers : dict, optional
        Name of the parameter to (protocol, name of its output).

    Returns
    -------
    Protocol

    Raises
    ------
    ProtocolFailed
        If it did not finish; with the end of its log.
    """
    protocol = project.newProtocol(protocol_class, **parameters)
    protocol.setObjLabel(label)
    for name, (parent, output) in (pointers or {}).items():
        getattr(protocol, name).set(parent)
        getattr(protocol, name).setExtended(output)
    say(f"{label} ...")
    project.launchProtocol(protocol, wait=True)
    if not protocol.isFinished():
        raise ProtocolFailed(failure_of(protocol))
    return protocol


def failure_of(protocol):
    """Error message of a failed run, with the end of its log."""
    log = [*protocol.getLogsLastLines(30, 0), *protocol.getLogsLastLines(30, 1)]
    return "\n".join([f"'{protocol.getObjLabel()}' failed: {protocol.getErrorMessage()}", *log])


def write_coordinates(path, micrographs, coordinates):
    """Write a set of coordinates for import into Scipion.

    Parameters
    ----------
    path : Path
    micrographs : SetOfMicrographs
    coordinates : dict
        Name of the micrograph to Coordinates.

    Returns
    -------
    str
        The path.
    """
    from pwem.objects import Coordinate, SetOfCoordinates

    path.unlink(missing_ok=True)
    items = SetOfCoordinates(filename=str(path))
    for mic in micrographs.iterItems():
        for x, y in coordinates[Path(mic.getMicName()).stem].centres_xy.round().astype(int).tolist():
            item = Coordinate(x=x, y=y)
            item.setMicrograph(mic)
            items.append(item)
    items.write()
    items.close()
    return str(path)


def read_picks(coordinates):
    """Coordinates of a finished run by name of the micrograph."""
    import numpy as np

    from ..deepem.coordinates.coordinates import Coordinates

    rows = {}
    for item in coordinates.iterItems():
        rows.setdefault(Path(item.getMicName()).stem, []).append((*item.getPosition(), item._deepemScore.get()))
    tables = {name: np.array(values, float) for name, values in rows.items()}
    return {name: Coordinates(table[:, :2], table[:, 2], coordinates.getBoxSize()) for name, table in tables.items()}


def opening_command(environment):
    """Command line that opens the project in Scipion's window; it does not require scipion-app."""
    import pyworkflow

    script = Path(pyworkflow.__file__).parent / "apps" / "pw_project.py"
    words = [*(f"{name}={value}" for name, value in environment.items()), sys.executable, "-O", str(script), PROJECT]
    return "env " + " ".join(shlex.quote(word) for word in words)


if __name__ == "__main__":
    sys.exit(main())
