# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Import, training and picking of real micrographs in a Scipion project."""

import os
from pathlib import Path

import mrcfile
import numpy as np
import pwem.protocols as emprot
import pytest
from pwem.objects import Coordinate, SetOfCoordinates
from pyworkflow import Config
from pyworkflow.project import Manager

from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.evaluation.metrics import evaluate

pytestmark = pytest.mark.slow

PIXEL_ANGST = 1.5
DISTANCE_PX = 31
# Outside of it the annotation is incomplete.
REGION = (20, 20, 1220, 1180)


def launch(project, cls, pointers=(), **params):
    """Run a protocol; `pointers` are (name, protocol, output)."""
    protocol = project.newProtocol(cls, **params)
    for name, source, output in pointers:
        getattr(protocol, name).set(source)
        getattr(protocol, name).setExtended(output)
    project.launchProtocol(protocol, wait=True)
    assert protocol.isFinished(), (protocol.getErrorMessage(), protocol.getLogsLastLines(20, 1))
    return protocol


def import_micrographs(project, folder, files):
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file)
    return launch(project, emprot.ProtImportMicrographs, filesPath=str(folder), filesPattern="*.mrc",
                  samplingRate=PIXEL_ANGST)


def import_coordinates(project, path, mics, truth):
    items = SetOfCoordinates(filename=str(path))
    for mic in mics.outputMicrographs:
        for x, y in truth[Path(mic.getMicName()).stem].centres_xy.round().astype(int).tolist():
            item = Coordinate(x=x, y=y)
            item.setMicrograph(mic)
            items.append(item)
    items.write()
    items.close()
    return launch(project, emprot.ProtImportCoordinates, [("inputMicrographs", mics, "outputMicrographs")],
                  importFrom=emprot.ProtImportCoordinates.IMPORT_FROM_SCIPION, filesPath=str(path), boxSize=120)


def picks_of(coordinates):
    """Picks by name of the micrograph."""
    rows = {}
    for item in coordinates:
        rows.setdefault(Path(item.getMicName()).stem, []).append((*item.getPosition(), item._deepemScore.get()))
    tables = {name: np.array(values, float) for name, values in rows.items()}
    return {name: Coordinates(table[:, :2], table[:, 2], None) for name, table in tables.items()}


def test_apoferritin_is_learnt_from_four_micrographs_and_found_in_others(shared_data, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    data = shared_data / "apoferritin"
    files = sorted((data / "micrographs").glob("*.mrc"))
    truth = read_coordinates(data / "boxes")
    Config.getDomain().getProtocols()
    from deepem_scipion.protocols import ProtDeepEMPick, ProtDeepEMTrain

    project = Manager().createProject("Apoferritin")
    monkeypatch.chdir(project.path)
    threads = len(os.sched_getaffinity(0))
    training = import_micrographs(project, tmp_path / "training", files[:4])
    others = import_micrographs(project, tmp_path / "others", files[4::2])
    coordinates = import_coordinates(project, tmp_path / "coordinates.sqlite", training, truth)
    train = launch(project, ProtDeepEMTrain, [("inputCoordinates", coordinates, "outputCoordinates")],
                   epochs=6, useGpu=False, numberOfThreads=threads)
    assert train.outputModel.getDiameter() == pytest.approx(120)  # two thirds of the box
    pick = launch(project, ProtDeepEMPick, [("inputMicrographs", others, "outputMicrographs"),
                                            ("inputModel", train, "outputModel")],
                  numberOfThreads=1, binThreads=threads)
    result = evaluate({file.stem: truth[file.stem] for file in files[4::2]}, picks_of(pick.outputCoordinates),
                      DISTANCE_PX, REGION)["overall"]
    assert result["F1"] >= 0.95, result
    assert pick.outputCoordinates.getBoxSize() == 120
    assert "contrast" not in "\n".join(pick.summary())

    inverted = tmp_path / "inverted"
    inverted.mkdir()
    for path in files[4:6]:
        with mrcfile.new(inverted / path.name) as file:
            file.set_data(-mrcfile.read(path).astype(np.float32))
    wrong = launch(project, ProtDeepEMPick, [
        ("inputMicrographs", import_micrographs(project, tmp_path / "links", sorted(inverted.iterdir())),
         "outputMicrographs"), ("inputModel", train, "outputModel")],
        numberOfThreads=1, binThreads=threads)
    assert "*Warning:* the contrast seems to be inverted: the model was trained on dark" in "\n".join(wrong.summary())
