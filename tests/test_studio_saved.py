# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the studio saves in a results folder, and what other commands make of it."""

import shutil

import numpy as np
import pytest
from scipy.spatial import cKDTree

from conftest import candidates_of_blobs, show_stored, write_blobs
from deepem_scipion.deepem.commands.assigning import read_assigned, read_compared
from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.box import read_box
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.picking.export import picks_of_run
from deepem_scipion.deepem.picking.results import PickingResults
from deepem_scipion.deepem.studio.opening import Wanted, open_session
from deepem_scipion.deepem.studio.queue import Queue
from deepem_scipion.deepem.studio.saved import picks_of_session
from deepem_scipion.deepem.studio.session import Session
from deepem_scipion.deepem.studio.teacher import Teacher
from deepem_scipion.deepem.studio.worker import Worker


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
    show_stored(session)
    for number, x, y in [(0, *read_box(folder / "d.box").centres_xy[0]),
                         *((1, *each) for each in read_box(folder / "e.box").centres_xy)]:
        session.edit(number, {"action": "remove", "x": x, "y": y})
    Teacher(session, Queue(session, Worker())).save()
    session.close()
    project.close()
    return folder


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_session_in_a_results_folder_is_no_part_of_its_picks_and_is_kept(blobs, blob_model, results, tmp_path,
                                                                           capsys):
    mics, out = [blobs[0] / "micrographs" / f"{name}.mrc" for name in "de"], tmp_path / "out"
    shutil.copytree(results, out)
    saved = files(out / "studio")
    assert {out / "studio" / folder / "d.box" for folder in ("output", "negatives")} < saved.keys()
    assert main(["convert", str(out), str(tmp_path / "relion"), "--to", "relion"]) == 0
    assert f"those saved in the studio, with its corrections, give {out / 'studio'}" in capsys.readouterr().err
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
    with pytest.raises(DeepEMError, match=r" 1 \.box files .* for instance others/x\.box"):
        picks_of_run(PickingResults(out))


def test_picks_whose_boxes_leave_the_micrograph_are_counted_as_by_the_run(blobs, blob_model, tmp_path, capsys):
    assert pick(blob_model, [blobs[0] / "micrographs" / f"{name}.mrc" for name in "de"], tmp_path / "picks", "--box",
                "70") == 0
    said = capsys.readouterr().err
    number = sum(result.cut for result in PickingResults(tmp_path / "picks").read_micrographs().values())
    assert number and f"{number} of the picks are so close to the border" in said
    assert main(["convert", str(tmp_path / "picks"), str(tmp_path / "relion"), "--to", "relion"]) == 0
    assert f"{number} of the picks are so close to the border" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "picks"), str(tmp_path / "small"), "--to", "relion", "--box", "2"]) == 0
    assert "close to the border" not in capsys.readouterr().err


def test_micrographs_that_are_not_searched_yet_are_not_saved_as_empty_ones(tmp_path, caplog):
    write_blobs(tmp_path, "abc", n=6)
    project, settings = open_session(Wanted([tmp_path / "micrographs"], tmp_path / "session", diameter_angst=64.0))
    session = Session(project, settings)
    teacher = Teacher(session, Queue(session, Worker()))
    for name in "ab":
        session.put(name, candidates_of_blobs(tmp_path / f"micrographs/{name}.mrc"), settings)
    session.edit(2, {"action": "add", "x": 30, "y": 40})  # by hand, where nothing was searched
    assert set(files(teacher.save())) == {project.output.folder / name for name in
                                          ("a.box", "b.box", "c.box", "picks.star")} and not session.problem
    session.undo()
    session.update(diameter_angst=80.0)
    session.put("a", candidates_of_blobs(tmp_path / "micrographs/a.mrc"), session.settings)
    assert set(files(teacher.save())) == {project.output.folder / name for name in ("a.box", "picks.star")}
    assert [each.name for each in picks_of_session(project)] == ["a"]
    assert "2 micrographs without candidates are left out of the picks saved: b, c" in session.problem in caplog.text
    session.close()
    project.close()


def test_the_boxes_that_leave_the_micrograph_are_those_saved_also_if_another_box_is_given_meanwhile(tmp_path):
    write_blobs(tmp_path, "a", n=6)
    project, settings = open_session(Wanted([tmp_path / "micrographs"], tmp_path / "session", box_px=2))
    session = Session(project, settings)
    session.put("a", candidates_of_blobs(tmp_path / "micrographs/a.mrc"), settings)
    teacher = Teacher(session, Queue(session, Worker()))
    project.note_saved = lambda state: session.update(box_px=140)
    assert teacher.save() == project.output.folder and teacher.view()["cut"] == ""
    session.close()
    project.close()


@pytest.mark.parametrize("given", ["studio", "studio/output", "studio/output/picks.star"])
def test_saved_picks_are_converted_with_decimals_paths_and_pixel_size(results, blobs, tmp_path, given):
    assert main(["convert", str(results / given), str(tmp_path), "--to", "relion,cryosparc,eman"]) == 0
    kept = PickingResults(results).read_candidates("d")[0].centres_xy
    found = read_coordinates(tmp_path / "relion" / "autopick.star")
    assert set(found) == {str(blobs[0] / "micrographs" / name) for name in "de"}
    d, e = (found[str(blobs[0] / "micrographs" / name)].centres_xy for name in "de")
    assert len(e) == 0 and len(d) == len(read_box(results / "d.box").scores) - 1
    assert cKDTree(kept).query(d)[0].max() < 0.002 < np.abs(d - np.rint(d)).max()
    records = np.load(tmp_path / "cryosparc" / "picks.cs")
    assert len(records) == len(d) and set(records["location/micrograph_psize_A"]) == {4.0}
    assert set(map(tuple, records["location/micrograph_shape"].tolist())) == {(150, 210)}
    assert {path.name: path.read_text() for path in (tmp_path / "eman").iterdir()} == {
        path.name: path.read_text() for path in (results / "studio/output").glob("*.box")}


def test_saved_picks_are_evaluated_and_trained_on_as_they_are_converted(results, blobs):
    truth = read_compared(blobs[0] / "boxes", results / "studio", False)
    assert set(truth.picks) == {"d", "e"} and len(truth.picks["e"].scores) == 0
    assigned = read_assigned(results / "studio/output", {"d": blobs[0] / "micrographs" / "d.mrc"}, False)["d"]
    np.testing.assert_allclose(assigned.centres_xy, truth.picks["d"].centres_xy, atol=1e-9)
    assert assigned.box_px == 24 and np.abs(assigned.centres_xy - np.rint(assigned.centres_xy)).max() > 0.002


def test_nothing_is_written_unless_all_formats_can_be(results, tmp_path, capsys):
    assert main(["convert", str(results / "d.box"), str(tmp_path / "out"), "--to", "relion,cryosparc"]) == 2
    assert "Give the micrographs with --micrographs" in capsys.readouterr().err and not (tmp_path / "out").exists()
    before = files(results / "studio")
    assert main(["convert", str(results), str(results / "studio/output"), "--to", "eman"]) == 2
    assert "results of a picking run or of the studio" in capsys.readouterr().err
    assert files(results / "studio") == before


def test_a_session_without_saved_picks_and_one_whose_files_disagree_are_refused(results, tmp_path, capsys):
    shutil.copytree(results / "studio", tmp_path / "studio")
    (tmp_path / "studio/output/d.box").write_text("")
    assert main(["convert", str(tmp_path / "studio"), str(tmp_path / "out"), "--to", "relion"]) == 2
    assert "d.box has 0. Expected the same: save the picks again" in capsys.readouterr().err
    (tmp_path / "studio/output/picks.star").unlink()
    assert main(["convert", str(tmp_path / "studio"), str(tmp_path / "out"), "--to", "relion"]) == 2
    assert "a session of the studio in which no picks were saved" in capsys.readouterr().err


def test_picks_older_than_the_session_are_converted_with_a_warning_also_without_the_micrographs(tmp_path, capsys):
    write_blobs(tmp_path, "a", n=6)
    project, settings = open_session(Wanted([tmp_path / "micrographs"], tmp_path / "session", diameter_angst=64.0))
    session = Session(project, settings)
    session.put("a", candidates_of_blobs(tmp_path / "micrographs/a.mrc"), settings)
    Teacher(session, Queue(session, Worker())).save()
    shutil.copytree(project.folder, tmp_path / "copy")
    session.edit(0, {"action": "add", "x": 3, "y": 147})
    session.close()
    project.close()
    shutil.rmtree(tmp_path / "micrographs")
    for folder, warned in (("copy", False), ("session", True)):
        assert main(["convert", str(tmp_path / folder), str(tmp_path / f"of_{folder}"), "--to", "relion,eman"]) == 0
        assert ("has changed after its picks were saved" in capsys.readouterr().err) == warned
        assert len(read_box(tmp_path / f"of_{folder}" / "eman/a.box").scores) == 6


def test_a_session_given_for_its_results_is_recognised(results, tmp_path, capsys):
    shutil.copytree(results / "studio", tmp_path / "mine")
    for given, how in ((results / "studio", results), (results / "studio/output", results),
                       (tmp_path / "mine", f"--project {tmp_path / 'mine'}")):
        assert main(["studio", str(given), "--project", str(tmp_path / "new")]) == 2
        assert f"this is a session of the studio. Open it with `deepem studio {how}`" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
