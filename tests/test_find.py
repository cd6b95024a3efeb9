# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding micrographs: folders, patterns, lists and STAR files, and their names."""

import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from deepem_scipion.deepem import micrographs as m
from deepem_scipion.deepem.errors import DeepEMError

UNUSUAL_NAMES = ["May08_03.05.02", "two words", "O'Neil \"x\"", "100%", "a;b", "Größe", "-dash", "[1]", "*",
                 "#1", "a\\b"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.mrc", "a.MRC", "c.tif", "notes.md", "d.mrc.gz", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "deep.mrc").mkdir()
    return tmp_path


def test_a_folder_gives_its_images_in_order(folder):
    assert list(m.find_micrographs([folder])) == ["a", "b", "c", "d.mrc"]
    assert m.find_micrographs(["."])["b"] == Path("b.mrc")


def test_patterns_and_files_give_the_order_of_the_arguments(folder):
    found = m.find_micrographs(["c.tif", "*.mrc", "[ab].*"])
    assert list(found.items()) == [("c", Path("c.tif")), ("b", Path("b.mrc")), ("a", Path("a.MRC"))]


@pytest.mark.parametrize("stem", UNUSUAL_NAMES)
def test_unusual_names_are_kept(folder, stem):
    path = folder / f"{stem}.mrc"
    with mrcfile.new(path, np.random.default_rng(0).normal(100, 10, (30, 50)).astype(np.float32)) as file:
        file.voxel_size = 2.0
    found = m.find_micrographs([f"{stem}.mrc"])
    assert found == {stem: Path(f"{stem}.mrc")}
    assert m.read_micrograph(found[stem]).name == stem and m.find_micrographs([folder])[stem] == path


def test_list_files_give_paths_and_names_and_may_name_missing_files(folder):
    text = "\ufeffb.mrc\r\nsub folder/Größe 1.mrc\twanted name\r\n\r\nmissing.mrc\n"
    (folder / "list.lst").write_text(text, encoding="utf-8", newline="")
    assert list(m.find_micrographs(["list.lst"]).items()) == [
        ("b", Path("b.mrc")), ("wanted name", Path("sub folder/Größe 1.mrc")),
        ("missing", Path("missing.mrc"))]


@pytest.mark.parametrize("line", ["a.mrc\tx\ty", "\tx", "a.mrc\t"])
def test_an_invalid_line_of_a_list_is_named(folder, line):
    (folder / "list.txt").write_text(f"b.mrc\n{line}\n")
    with pytest.raises(DeepEMError, match=r"list\.txt, line 2"):
        m.find_micrographs(["list.txt"])


def test_micrographs_of_one_name_in_different_folders_are_named_with_their_folders(folder):
    (folder / "sub/deep").mkdir(parents=True)
    for name in ("sub/b.mrc", "sub/deep/c.mrc"):
        (folder / name).touch()
    assert list(m.find_micrographs(["b.mrc", folder / "b.mrc"])) == ["b"]
    assert list(m.find_micrographs(["sub/b.mrc", "sub/deep/c.mrc"])) == ["b", "c"]
    assert list(m.find_micrographs(["b.mrc", "sub/b.mrc", "sub/deep/c.mrc"])) == ["b", "sub/b", "sub/deep/c"]


def test_micrographs_of_a_star_file_are_those_it_lists(folder):
    (folder / "Ctf/job001").mkdir(parents=True)
    star = folder / "Ctf/job001/micrographs_ctf.star"
    star.write_text("data_optics\nloop_\n_rlnOpticsGroup #1\n1\ndata_micrographs\nloop_\n_rlnMicrographName #1\n"
                    "b.mrc\nnot/there.mrc\n")
    assert m.find_micrographs([star]) == {"b": Path("b.mrc"), "there": Path("not/there.mrc")}
    os.chdir("/")  # found from the STAR file as well
    assert m.find_micrographs([star])["b"] == folder / "b.mrc"
    star.write_text("data_\nloop_\n_rlnCoordinateX #1\n1\n")
    with pytest.raises(DeepEMError, match="no table has _rlnMicrographName"):
        m.find_micrographs([star])


def test_two_micrographs_of_one_name_are_refused(folder):
    (folder / "b.tif").touch()
    with pytest.raises(DeepEMError, match=r"'b'.*b\.mrc and b\.tif"):
        m.find_micrographs(["b.mrc", "b.tif"])


@pytest.mark.parametrize("arguments", [[], ["nothing*.mrc"], ["missing.mrc"], ["deep.mrc"], ["missing.txt"]])
def test_finding_nothing_is_an_error(folder, arguments):
    with pytest.raises(DeepEMError):
        m.find_micrographs(arguments)


def test_an_empty_list_is_an_error(folder):
    (folder / "list.txt").write_text("\n \n")
    with pytest.raises(DeepEMError, match=r"list\.txt is empty"):
        m.find_micrographs(["list.txt"])


@pytest.mark.parametrize("name", ["a/b", "..", "x\x07y"])
def test_names_that_cannot_be_used_for_results_are_refused(folder, name):
    (folder / "list.txt").write_text(f"b.mrc\t{name}\n")
    with pytest.raises(DeepEMError, match="cannot be used"):
        m.find_micrographs(["list.txt"])


def test_a_list_may_be_in_utf_16_and_its_paths_relative_to_its_own_folder(folder, monkeypatch):
    (folder / "lists").mkdir()
    (folder / "lists/list.txt").write_text("../b.mrc\r\nc.tif\tGröße\r\n", encoding="utf-16", newline="")
    monkeypatch.chdir("/")
    assert m.find_micrographs([folder / "lists/list.txt"]) == {
        "b": folder / "lists/../b.mrc", "Größe": folder / "c.tif"}


def test_an_empty_name_is_refused_and_not_taken_for_the_current_folder(folder):
    with pytest.raises(DeepEMError, match="is an empty name"):
        m.find_micrographs(["b.mrc", ""])


def test_a_file_found_again_through_links_is_taken_once(folder):
    (folder / "again").symlink_to(".")
    (folder / "other.mrc").symlink_to("b.mrc")
    found = m.find_micrographs(["**/b.mrc", folder / "b.mrc", "other.mrc"])
    assert found == {"b": Path("b.mrc"), "other": Path("other.mrc")}
