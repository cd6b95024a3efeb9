# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the studio saves in a results folder, and what other commands make of it."""

import shutil

import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import read_box
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.picking.export import picks_of_run
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.studio.opening import Wanted, open_session
from deepem_scipion.deepem.studio.queue import Queue
from deepem_scipion.deepem.studio.session import Session
from deepem_scipion.deepem.studio.teacher import Teacher
from deepem_scipion.deepem.studio.worker import Worker, read_stored


def pick(model, micrographs, output, *more):
    return main(["pick", "--model", str(model), "--micrographs", *map(str, micrographs), "--output", str(output),
                 "--contrast-checks", "0", *more])


@pytest.fixture(scope="module")
def results(blobs, blob_model, tmp_path_factory):
    """Folder with picks of d.mrc and e.mrc, and of a session that took the first of d and all of e away."""
    folder = tmp_path_factory.mktemp("picked") / "results"
    assert pick(blob_model, [blobs[0] / "micrographs" / f"{name}.mrc" for name in "de"], folder) == 0
    project, settings = open_session(Wanted([folder]))
    session = Session(project, settings)
    for found, names in session.stored():
        session.put_stored(found, read_stored(None, found, names, session.collection.max_distance_px))
    session.all_read()
    for number, x, y in [(0, *read_box(folder / "d.box").centres_xy[0]),
                         *((1, *each) for each in read_box(folder / "e.box").centres_xy)]:
        session.edit(number, {"action": "remove", "x": x, "y": y})
    Teacher(session, Queue(session, Worker())).save()
    session.close()
    project.close()
    return folder


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_session_in_a_results_folder_is_no_part_of_its_picks_and_is_kept(blobs, blob_model, results, tmp_path):
    mics, out = [blobs[0] / "micrographs" / f"{name}.mrc" for name in "de"], tmp_path / "out"
    shutil.copytree(results, out)
    saved = files(out / "studio")
    assert {out / "studio" / folder / "d.box" for folder in ("output", "negatives")} < saved.keys()
    assert main(["convert", str(out), str(tmp_path / "relion"), "--to", "relion"]) == 0
    n = len(read_box(out / "d.box").scores)
    assert n > len(read_box(out / "studio/output/d.box").scores) == n - 1
    assert [len(each.coordinates.scores) for each in picks_of_run(PickingResults(out))][0] == n
    assert len(read_coordinates(out)["d"].scores) == n
    assert main(["evaluate", "--truth", str(blobs[0] / "boxes"), "--picks", str(out), "--distance", "6"]) == 0
    assert pick(blob_model, mics, out) == 2
    for option in ("--resume", "--overwrite"):
        assert pick(blob_model, mics, out, option) == 0 and files(out / "studio") == saved
    (out / "others").mkdir()
    shutil.copy(out / "d.box", out / "others" / "x.box")
    with pytest.raises(DeepEMError, match=r"has 1 \.box files .* for instance others/x\.box"):
        picks_of_run(PickingResults(out))
