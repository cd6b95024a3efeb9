# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in the output folder when a run begins: only what a run wrote is removed, and never a model."""

from dataclasses import replace
from pathlib import Path

import pytest

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.model.files import save_model
from deepem_scipion.deepem.model.general import general_model
from deepem_scipion.deepem.picking.earlier import EXISTING, prepare
from deepem_scipion.deepem.picking.results import FOLDERS, PickingResults
from deepem_scipion.deepem.picking.selection import Limits
from deepem_scipion.deepem.picking.settings import RunSettings
from deepem_scipion.deepem.picking.summary import MicrographResult

SETTINGS = RunSettings(Limits(0.4, 50.0, (0.5, 1.5), 10.0), 4, 4, 40, 6.0, 100.0)
COUNTS = dict.fromkeys(("border", "mask", "local_std", "threshold", "distance", "rank"), 0)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path):
    """Micrographs by name and the results of a run that picked them, with a model among them."""
    paths = {name: tmp_path / f"{name}.mrc" for name in "ab"}
    results = PickingResults(tmp_path / "picks")
    results.make()
    for path in (*paths.values(), *(results.path(kind, name) for name in paths for kind in ("candidates", "box")),
                 results.path("model")):
        path.write_text(path.name)
    results.write_summary(SETTINGS, {name: MicrographResult(str(path), "", 1, 1, 0.9, COUNTS)
                                     for name, path in paths.items()})
    return paths, results


@pytest.mark.parametrize("existing", EXISTING)
@pytest.mark.parametrize("name", ["export/x.csv", "pictures/me.jpg", "scores/x.mrc", "json/x.json", "candidates/x.tsv",
                                  "report.html", "model.deepem", "summary.tsv"])
def test_files_of_no_run_are_refused_and_kept(tmp_path, name, existing):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(DeepEMError, match=f"has files, for instance {name}, but no summary.json"):
        prepare(PickingResults(tmp_path), {}, SETTINGS, existing)
    assert path.read_text() == "mine" and files(tmp_path) == {name}


@pytest.mark.parametrize("existing", ["overwrite", "resume"])
def test_results_that_lost_their_summary_are_refused_and_kept(run, existing):
    paths, results = run
    results.path("settings").unlink()
    before = files(results.folder)
    with pytest.raises(DeepEMError, match="no summary.json"):
        prepare(results, paths, SETTINGS, existing)
    assert files(results.folder) == before


def test_the_model_is_kept_whatever_becomes_of_the_picks(run):
    paths, results = run
    assert set(prepare(results, paths, SETTINGS, "resume")) == {"a", "b"}
    assert results.path("model").read_text() == "model.deepem"
    assert prepare(results, paths, SETTINGS, "overwrite") == {}
    assert files(results.folder) == {"model.deepem", "summary.json", "summary.tsv"}


def test_the_general_model_of_an_earlier_run_goes_with_its_picks_if_another_one_picks(run):
    paths, results = run
    general, path = general_model(100.0, "bright"), results.path("model")
    trained = replace(general, record=replace(general.record, warnings=["the model before is kept"]))
    for model, used, kept in ((general, general.digest(), True), (trained, "other", True), (general, "other", False)):
        save_model(path, model)
        prepare(results, paths, replace(SETTINGS, model=used), "overwrite")
        assert path.exists() == kept


@pytest.mark.parametrize("n_removed", range(6))
def test_a_run_that_is_ended_while_it_removes_an_earlier_one_can_be_repeated(run, monkeypatch, n_removed):
    paths, results = run
    unlink, removed = Path.unlink, []

    def end(path):
        if len(removed) == n_removed:
            raise KeyboardInterrupt
        removed.append(unlink(path))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", end)
        prepare(results, paths, SETTINGS, "overwrite")
    assert len(removed) == n_removed
    assert prepare(results, paths, SETTINGS, "overwrite") == {}
    assert files(results.folder) == {"model.deepem", "summary.json", "summary.tsv"}


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_folder_of_micrographs_that_is_named_as_one_of_the_results_is_refused(tmp_path, capsys, folder):
    with pytest.raises(DeepEMError, match=f"the micrograph {folder}/a would have its picks in the subfolder {folder}"):
        prepare(PickingResults(tmp_path / "out"), {"raw/a": tmp_path, f"{folder}/a": tmp_path}, SETTINGS, "refuse")
    for place in ("raw", folder):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.mrc").touch()
    assert main(["auto", "--micrographs", str(tmp_path / "raw"), str(tmp_path / folder), "--diameter", "100",
                 "--output", str(tmp_path / "out")]) == 2
    assert f"the micrograph {folder}/a would have" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_only_the_subfolders_of_the_results_are_refused_as_names(tmp_path):
    assert FOLDERS == {"candidates", "export", "json", "pictures", "scores"}
    prepare(PickingResults(tmp_path), dict.fromkeys(["export", "raw/export/a", "exports/a"], tmp_path), SETTINGS,
            "refuse")
