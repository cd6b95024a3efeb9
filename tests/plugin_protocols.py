# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocols of the plugin, their forms and sets, without a project."""

from pwem.objects import Coordinate, Micrograph, SetOfCoordinates, SetOfMicrographs

from deepem_scipion import Plugin
from deepem_scipion.constants import DEEPEM_PYTHON
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.picking.selection import Limits
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.objects import DeepEMModel

SETTINGS = RunSettings(Limits(0.4, 50.0), 4, 4, 40, 4.0, 100.0, 2.0, "dark")
FIRST = {"a.mrc": [(20 + 10 * i, 40) for i in range(15)], "b.mrc": [(30, 20 + 10 * i) for i in range(15)]}


def use_python(monkeypatch, path):
    monkeypatch.setitem(Plugin._vars, DEEPEM_PYTHON, str(path))


def micrograph(number, name, path=None):
    mic = Micrograph(str(path or f"Runs/000002_Import/extra/{name}"))
    mic.setMicName(name)
    mic.setObjId(number)
    return mic


def pick_protocol(folder, monkeypatch, **params):
    from deepem_scipion.protocols import ProtDeepEMPick

    monkeypatch.chdir(folder)
    return ProtDeepEMPick(workingDir="run", **params)


def train_protocol(folder, monkeypatch, **params):
    from deepem_scipion.protocols import ProtDeepEMTrain

    monkeypatch.chdir(folder)
    return ProtDeepEMTrain(workingDir="run", **params)


def coordinate_set(folder, number, centres, pixel_size=2.0, box=30):
    """A set of coordinates from name of the micrograph -> x, y; sets of different numbers are different objects."""
    mics = SetOfMicrographs(filename=str(folder / f"micrographs{number}.sqlite"))
    mics.setSamplingRate(pixel_size)
    coordinates = SetOfCoordinates(filename=str(folder / f"coordinates{number}.sqlite"))
    coordinates.setMicrographs(mics)
    coordinates.setBoxSize(box)
    coordinates.setObjId(1000 + number)
    for count, (name, places) in enumerate(centres.items(), 1):
        mic = micrograph(count, name, folder / "files" / str(number) / name)
        mics.append(mic)
        for x, y in places:
            item = Coordinate(x=x, y=y)
            item.setMicrograph(mic)
            coordinates.append(item)
    for each in (mics, coordinates):
        each.write()
    return coordinates


def model(validation=True):
    made = DeepEMModel("a model.safetensors")
    for name, value in (("_diameter", 100.0), ("_samplingRate", 2.0), ("_workingSamplingRate", 4.0), ("_boxSize", 40),
                        ("_scanStep", 4), ("_threshold", 0.31), ("_precision", 0.9 if validation else None)):
        getattr(made, name).set(value)
    return made


def pick_form(folder, monkeypatch, **params):
    """A protocol for picking with its inputs."""
    protocol = pick_protocol(folder, monkeypatch, **params)
    (folder / "a model.safetensors").touch()
    protocol.inputModel.set(model())
    protocol.inputMicrographs.set(coordinate_set(folder, 1, {"a.mrc": []}).getMicrographs())
    return protocol


def write_results(folder, **micrographs):
    """Results folder of a run with the given results of micrographs."""
    results = PickingResults(folder)
    results.make()
    results.write_summary(SETTINGS, micrographs)
    return results


def of_option(arguments, option):
    """Words between an option and the next one; None without the option."""
    if option not in arguments:
        return None
    words = arguments[arguments.index(option) + 1:]
    return words[:next((at for at, word in enumerate(words) if word.startswith("--")), len(words))]


def train_form(folder, monkeypatch, **params):
    """A protocol for training on the micrographs a and b, and the commands that it runs."""
    from deepem_scipion.protocols import ProtDeepEMTrain

    monkeypatch.chdir(folder)
    protocol = ProtDeepEMTrain(workingDir="run", **params)
    protocol.inputCoordinates.set(coordinate_set(folder, 1, FIRST))
    (folder / "run" / "extra").mkdir(parents=True)
    commands = []

    def run(command, arguments):
        commands.append([command, *arguments])
        (folder / protocol._getModelFile()).touch()

    monkeypatch.setattr(protocol, "runDeepEM", run)
    return protocol, commands
