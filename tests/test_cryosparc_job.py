# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Picks as a job of cryoSPARC: what is asked of its library, which is replaced, or its own classes without a server."""

import sys
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.coordinates import Coordinates
from deepem_scipion.deepem.coordinates.formats.base import MicrographInfo, MicrographPicks
from deepem_scipion.deepem.coordinates.formats.cryosparc_job import Target, parse_target, push
from deepem_scipion.deepem.coordinates.formats.registry import write_files
from deepem_scipion.deepem.errors import DeepEMError

ADDRESS = "cluster:39000/P3/W1/J5/micrographs"
ROWS, COLUMNS = 90, 140
NUMBER = 3324361586894234611
# Fields of an output with the slots "location" and "pick_stats", and of micrographs, as cryoSPARC 4.7 has them.
FIELDS = [("location/micrograph_uid", "<u8"), ("location/exp_group_id", "<u4"), ("location/micrograph_path", "O"),
          ("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_psize_A", "<f4"),
          ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"), ("location/min_dist_A", "<f4"),
          ("pick_stats/ncc_score", "<f4"), ("pick_stats/power", "<f4"), ("pick_stats/template_idx", "<u4"),
          ("pick_stats/angle_rad", "<f4")]
EXPOSURES = {"uid": np.array([7, NUMBER], np.uint64),
             "micrograph_blob/path": np.array(["J5/imported/000000000000000000007_other.mrc",
                                               f"J5/motioncorrected/00{NUMBER}_a_doseweighted.mrc"], object),
             "micrograph_blob/shape": np.array([[180, 280]] * 2, np.uint32),
             "micrograph_blob/psize_A": np.array([0.75, 0.75], np.float32),
             "mscope_params/exp_group_id": np.array([1, 2], np.uint32)}


class Job:
    """An external job that keeps what it is asked for."""

    uid = "J12"

    def __init__(self, exposures):
        self.exposures, self.calls = exposures, []

    def load_output(self, name):
        return self.exposures

    def connect(self, target_input, source_job_uid, source_output, *, slots):
        self.calls.append(("connect", target_input, source_job_uid, source_output))

    @contextmanager
    def run(self):
        self.calls.append(("start",))
        yield self
        self.calls.append(("stop",))

    def add_output(self, type, name, *, slots, alloc):
        self.calls.append(("add", type, name, *slots))
        table = np.zeros(alloc, FIELDS)
        return {"uid": np.arange(alloc), **{field: table[field] for field in table.dtype.names}}

    def save_output(self, name, dataset):
        self.calls.append(("save", name))
        self.saved = dataset


@pytest.fixture
def server(monkeypatch):
    """Stands in for cryosparc.tools."""
    job, calls = Job(EXPOSURES), []

    class CryoSPARC:
        def __init__(self, *, host, base_port):
            calls.append((host, base_port))

        def find_job(self, project_uid, job_uid):
            calls.append((project_uid, job_uid))
            return job

        def create_external_job(self, project_uid, workspace_uid, title, desc):
            calls.append((project_uid, workspace_uid))
            return job

    module = ModuleType("cryosparc.tools")
    module.CryoSPARC, module.job, module.calls = CryoSPARC, job, calls
    monkeypatch.setitem(sys.modules, "cryosparc", ModuleType("cryosparc"))
    monkeypatch.setitem(sys.modules, "cryosparc.tools", module)
    return module


def picks_of(name, centres, shape=(ROWS, COLUMNS)):
    scores = np.linspace(0.9, 0.5, len(centres))
    return MicrographPicks(name, f"mics/{name}.mrc", Coordinates(np.reshape(centres, (-1, 2)), scores, 20.0),
                           MicrographInfo(shape, 1.5))


def check_saved(found):
    assert list(found["location/micrograph_path"]) == [EXPOSURES["micrograph_blob/path"][1]] * 2
    assert np.asarray(found["location/micrograph_uid"]).tolist() == [NUMBER] * 2
    assert np.asarray(found["location/exp_group_id"]).tolist() == [2, 2]
    assert np.asarray(found["location/micrograph_shape"]).tolist() == [[180, 280]] * 2
    np.testing.assert_allclose(found["location/micrograph_psize_A"], 0.75)
    # The micrograph that was picked is binned by two: the same place is the same fraction.
    np.testing.assert_allclose(found["location/center_x_frac"], [30 / COLUMNS, 1 / COLUMNS], rtol=1e-6)
    np.testing.assert_allclose(found["location/center_y_frac"], [1 - 12 / ROWS, 1 - 2 / ROWS], rtol=1e-6)
    np.testing.assert_allclose(found["pick_stats/ncc_score"], [0.9, 0.5])


PICKS = [picks_of("a", [(30, 12), (1, 2)]), picks_of("absent", [(3, 4)])]


def test_picks_are_joined_with_the_micrographs_of_cryosparc(server, caplog):
    assert push(parse_target(ADDRESS), PICKS) == "J12"
    assert server.calls == [("cluster", 39000), ("P3", "J5"), ("P3", "W1")]
    assert server.job.calls == [("connect", "micrographs", "J5", "micrographs"), ("start",),
                                ("add", "particle", "particles", "location", "pick_stats"), ("save", "particles"),
                                ("stop",)]
    check_saved(server.job.saved)
    assert "1 micrographs are not in J5/micrographs, and their picks are left out: mics/absent" in caplog.text


def test_the_calls_and_columns_are_those_of_cryosparc_tools(monkeypatch):
    tools = pytest.importorskip("cryosparc.tools", reason="cryosparc-tools is not installed")
    from cryosparc.controllers.job import ExternalJobController, JobController
    from cryosparc.dataset import Dataset

    exposures, job = Dataset(EXPOSURES), mock.create_autospec(ExternalJobController, instance=True, uid="J12")
    job.run.return_value = mock.MagicMock()
    job.add_output.side_effect = lambda *args, alloc, **options: Dataset.allocate(alloc, FIELDS)
    source = mock.create_autospec(JobController, instance=True)
    source.load_output.return_value = exposures
    session = mock.create_autospec(tools.CryoSPARC)
    session.return_value.find_job.return_value = source
    session.return_value.create_external_job.return_value = job
    monkeypatch.setattr(tools, "CryoSPARC", session)
    assert push(parse_target(ADDRESS), PICKS) == "J12"
    (name, found), _ = job.save_output.call_args
    assert name == "particles" and isinstance(found, Dataset) and len(set(found["uid"])) == 2
    check_saved(found)


def test_micrographs_that_are_not_in_cryosparc_or_are_others_make_no_job(server):
    target = parse_target(ADDRESS)
    with pytest.raises(DeepEMError, match=r"none of the 1 micrographs \(mics/b\) is one of the 2 of J5/micrographs"):
        push(target, [picks_of("b", [(1, 2)])])
    with pytest.raises(DeepEMError, match="a has 90 rows and 90 columns, and in cryoSPARC, .*, 180 and 280"):
        push(target, [picks_of("a", [(1, 2)], (90, 90))])
    with pytest.raises(DeepEMError, match="Give the micrographs with --micrographs"):
        push(target, [MicrographPicks("a", "a.mrc", Coordinates(np.ones((1, 2)), np.ones(1), None))])
    assert server.job.calls == []


def test_an_answer_of_cryosparc_is_the_message(server, monkeypatch):
    monkeypatch.setattr(server.job, "load_output", mock.Mock(side_effect=RuntimeError("no output micrographs")))
    with pytest.raises(DeepEMError, match="^cryoSPARC at cluster:39000: no output micrographs"):
        push(parse_target(ADDRESS), PICKS)


def test_without_the_library_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryosparc.tools", None)
    with pytest.raises(DeepEMError, match="cryosparc-tools is not installed. Install the version of your cryoSPARC"):
        push(parse_target(ADDRESS), PICKS)


@pytest.mark.parametrize("text", ["cluster:39000/P3/W1", "cluster/P3/W1/J5/micrographs", "P3/W1/J5/micrographs",
                                  "http://cluster:39000/P3/W1/J5/micrographs", "cluster:39000/P3/W1/J5/a b"])
def test_an_address_that_lacks_a_part_is_refused(text):
    assert parse_target(ADDRESS) == Target("cluster", 39000, "P3", "W1", "J5", "micrographs")
    with pytest.raises(DeepEMError, match="expected HOST:PORT/PROJECT/WORKSPACE/JOB/OUTPUT"):
        parse_target(text)


def test_the_command_writes_the_files_and_pushes(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "other"):
        with mrcfile.new(f"{name}.mrc", np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype("f4")) as file:
            file.voxel_size = 1.5
    write_files("topaz", "in", PICKS[:1])
    command = ["convert", "in", "out", "--to", "cryosparc", "--micrographs", "a.mrc", "other.mrc", "--push"]
    assert main([*command, ADDRESS]) == 0
    assert "saved as J12 in workspace W1 of P3" in capsys.readouterr().out
    check_saved(server.job.saved)
    assert main([*command, "cluster"]) == 2
