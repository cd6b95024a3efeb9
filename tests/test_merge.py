# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run in parts: no micrograph twice, one folder of all, and the parts that are missing are found."""

import json
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepem_scipion.deepem.commands.main import main
from deepem_scipion.deepem.coordinates.read import read_coordinates
from deepem_scipion.deepem.errors import DeepEMError
from deepem_scipion.deepem.picking.merge import are_parts, merge_runs, missing_parts, part_of
from deepem_scipion.deepem.picking.results import PickingResults


@given(st.integers(0, 30), st.integers(1, 12))
def test_parts_have_every_micrograph_exactly_once(n, n_parts):
    everything = {f"mic{number}": number for number in range(n)}
    parts = [part_of(everything, f"{part}/{n_parts}") for part in range(1, n_parts + 1)]
    assert sorted(name for part in parts for name in part) == sorted(everything)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for number, part in enumerate(parts, 1):  # a part that is missing is the one that is named
        rest = {name for name in everything if name not in part}
        assert missing_parts(list(everything), rest, n_parts) == ({number: list(part)} if part else {})
        assert are_parts(list(everything), [other for other in parts if other is not part], n_parts)


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "a/b", "-1/3", "1/3/5", "1.5/3"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(DeepEMError, match="expected I/N"):
        part_of({}, text)


@pytest.fixture(scope="module")
def runs(blobs, blob_model, tmp_path_factory):
    """Folder with the run of all micrographs, `whole`, and its three parts, `parts/1` to `parts/3`."""
    folder = tmp_path_factory.mktemp("parts")
    bad = folder / "bad.mrc"
    bad.write_text("no")
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in (
        *(blobs[0] / "micrographs" / f"{name}.mrc" for name in "abcde"), bad)))
    arguments = ["pick", "--model", str(blob_model), "--micrographs", str(folder / "list.txt"), "--contrast-checks",
                 "0", "--voltage", "200", "--output"]
    assert main([*arguments, str(folder / "whole")]) == 1
    for part, code in (("1", 0), ("2", 0), ("3", 1)):
        assert main([*arguments, str(folder / "parts" / part), "--part", f"{part}/3"]) == code
    return folder


def without_times(results):
    return {name: (found.path, found.picks, found.candidates, found.rejected, bool(found.reason))
            for name, found in results.read_micrographs().items()}


def test_merged_parts_are_the_whole_run(runs, tmp_path):
    parts = sorted(map(str, (runs / "parts").iterdir()))
    assert main(["merge", str(tmp_path / "out"), *parts, "--micrographs", str(runs / "list.txt")]) == 1  # one is bad
    whole, merged = PickingResults(runs / "whole"), PickingResults(tmp_path / "out")
    assert without_times(merged) == without_times(whole) and merged.read_failed() == whole.read_failed()
    assert merged.read_settings() == whole.read_settings()
    for name in "abcde":
        for kind in ("box", "candidates"):
            assert merged.path(kind, name).read_bytes() == whole.path(kind, name).read_bytes()
    stars = [read_coordinates(results.path("star")) for results in (whole, merged)]
    assert sorted(stars[0]) == sorted(stars[1])
    for name, found in stars[0].items():
        assert found.centres_xy.tolist() == stars[1][name].centres_xy.tolist()
    assert " 200 2.7 0.1" in merged.path("star").read_text()
    assert json.loads(merged.path("settings").read_text())["picks"] == json.loads(
        whole.path("settings").read_text())["picks"]
    assert all(PickingResults(part).read_micrographs() for part in parts)  # they stay as they are


def test_a_part_that_is_missing_or_was_ended_is_named_and_the_rest_is_merged(runs, tmp_path, capsys):
    shutil.copytree(runs / "parts", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/2")
    parts = [str(tmp_path / "parts" / part) for part in "123"]
    assert main(["merge", str(tmp_path / "out"), *parts, "--micrographs", str(runs / "list.txt")]) == 1
    error = capsys.readouterr().err
    assert "part 2/3 lacks 2 micrographs, for instance b: pick it again with --part 2/3 --resume" in error
    assert f"warning: {tmp_path / 'parts/2'}: no results" in error and error.endswith(
        "to repeat in a job array: --array=2\n")
    assert set(PickingResults(tmp_path / "out").read_micrographs()) == {"a", "c", "d", "bad"}
    assert main(["merge", str(tmp_path / "two"), parts[0], parts[2], "--micrographs", str(runs / "list.txt")]) == 1
    error = capsys.readouterr().err  # they are not 1/2 and 2/2
    assert "2 micrographs are missing, for instance b. The folders are not parts I/2" in error
    assert "--array" not in error
    assert main(["merge", str(tmp_path / "three"), parts[0], parts[2], "--micrographs", str(runs / "list.txt"),
                 "--parts", "3"]) == 1
    assert "part 2/3 lacks 2 micrographs" in capsys.readouterr().err
    shutil.copytree(runs / "parts/2", tmp_path / "parts/2")
    assert main(["merge", str(tmp_path / "out"), *parts, "--micrographs", str(runs / "list.txt")]) == 2  # results exist
    assert main(["merge", str(tmp_path / "out"), *parts, "--micrographs", str(runs / "list.txt"), "--overwrite"]) == 1
    assert len(PickingResults(tmp_path / "out").read_micrographs()) == 6


def test_parts_of_different_runs_are_not_merged(runs, blobs, blob_model, tmp_path, capsys):
    whole, part = str(runs / "whole"), str(runs / "parts/1")
    assert main(["merge", str(tmp_path / "out"), whole, part]) == 2
    assert "both have the micrograph a" in capsys.readouterr().err
    assert main(["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "b.mrc"),
                 "--output", str(tmp_path / "other"), "--threshold", "0.9"]) == 0
    assert main(["merge", str(tmp_path / "out"), part, str(tmp_path / "other")]) == 2
    assert "was picked with another threshold" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "out"), str(tmp_path)]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [[], ["--overwrite"]])
@pytest.mark.parametrize("output", ["1", "link", "."])
def test_no_part_is_in_the_output_folder(runs, tmp_path, capsys, output, option):
    for part in "12":
        shutil.copytree(runs / "parts" / part, tmp_path / part)
    (tmp_path / "link").symlink_to(tmp_path / "1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert main(["merge", str(tmp_path / output), str(tmp_path / "1"), str(tmp_path / "2"), *option]) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path / '1'} is a part, and it is the output folder or in it" in message
    assert "--overwrite" not in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_more_parts_than_micrographs_are_no_failure(blobs, blob_model, tmp_path):
    arguments = ["pick", "--model", str(blob_model), "--micrographs", str(blobs[0] / "micrographs" / "a.mrc"),
                 "--output"]
    assert main([*arguments, str(tmp_path / "1"), "--part", "1/2"]) == 0
    assert main([*arguments, str(tmp_path / "2"), "--part", "2/2"]) == 0
    assert main(["merge", str(tmp_path / "out"), str(tmp_path / "1"), str(tmp_path / "2")]) == 0


def test_masks_of_all_parts_are_kept(runs, tmp_path):
    for part, name in (("1", "a"), ("2", "b")):
        shutil.copytree(runs / "parts" / part, tmp_path / part)
        results = PickingResults(tmp_path / part)
        results.write_summary(replace(results.read_settings(), masks={name: f"masks/{name}.png"}),
                              results.read_micrographs())
    merge_runs(tmp_path / "out", [tmp_path / "1", tmp_path / "2"])
    assert PickingResults(tmp_path / "out").read_settings().masks == {"a": "masks/a.png", "b": "masks/b.png"}
