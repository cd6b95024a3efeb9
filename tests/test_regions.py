# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Annotated regions: their tables, whose errors name the line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepem_scipion.deepem.coordinates.regions import read_regions, write_regions
from deepem_scipion.deepem.errors import DeepEMError

NAMES = {name: name for name in ("a", "b", "May08_03.05.02", "two words 7", "#odd")}


def read(tmp_path, text, names=NAMES):
    path = tmp_path / "regions.txt"
    path.write_text(text, encoding="utf-8")
    return read_regions(path, names)


def test_names_are_found_with_and_without_folder_and_extension(tmp_path):
    text = "a 1 2 30 40\nmics/b.mrc\t0\t0\t9.5\t1e2\nMay08_03.05.02.tif -4 .5 7. +8\n"
    assert read(tmp_path, text) == {"a": (1, 2, 30, 40), "b": (0, 0, 9.5, 100), "May08_03.05.02": (-4, 0.5, 7, 8)}
    assert read(tmp_path, "May08_03.05.02 0 0 1 1") == {"May08_03.05.02": (0, 0, 1, 1)}
    assert read(tmp_path, "a.mrc 0 0 1 1", {"a.mrc": "first", "b": "second"}) == {"first": (0, 0, 1, 1)}


def test_blanks_and_number_signs_separate_names_from_numbers_and_comments(tmp_path):
    text = "\ufeff# name x0 y0 x1 y1\n\n  # a 5 5 6 6\ntwo words 7 1 2 3 4\na 1 2 3 4 # was 5 6 7 8\nb\t1 2 3 4#\n"
    assert read(tmp_path, text) == dict.fromkeys(("two words 7", "a", "b"), (1, 2, 3, 4))


@pytest.mark.parametrize("line, found", [
    ("a 1 2 3", "a 1 2 3"), ("1 2 3 4", "1 2 3 4"), ("a 1 2 3 x", "a 1 2 3 x"), ("a 1 2 3 4 5 # and more", None),
    ("a 1 2 nan 4", "nan"), ("a 5 2 3 4", "5 2 3 4"), ("a 1 2 3 2", "1 2 3 2"), ("a\t1\t2\t3\t", "a\t1\t2\t3")])
def test_an_invalid_line_is_named(tmp_path, line, found):
    if found is None:  # a name that ends in a number and belongs to no micrograph
        assert read(tmp_path, f"b 0 0 1 1\n{line}") == {"b": (0, 0, 1, 1)}
        return
    with pytest.raises(DeepEMError, match=r"regions.txt, line 3: expected") as caught:
        read(tmp_path, f"b 0 0 1 1\n# comment\n{line}\n")
    assert repr(found)[1:-1] in str(caught.value)


def test_two_lines_for_one_micrograph_are_refused_with_both_numbers(tmp_path):
    with pytest.raises(DeepEMError, match="lines 1 and 3 are both for micrograph 'a'"):
        read(tmp_path, "a 0 0 1 1\n\na.mrc 0 0 2 2\n")


@pytest.mark.parametrize("text, found", [("", "found none"), ("# nothing\n", "found none"),
                                         ("x 0 0 1 1\ny 0 0 1 1\n", "found lines for x, y")])
def test_a_table_for_none_of_the_micrographs_is_refused(tmp_path, text, found):
    with pytest.raises(DeepEMError, match=found):
        read(tmp_path, text)


def test_lines_for_other_micrographs_are_left_out_and_logged(tmp_path, caplog):
    assert read(tmp_path, "a 0 0 1 1\nx 0 0 1 1\n") == {"a": (0, 0, 1, 1)}
    assert "1 lines are for other micrographs and are left out: x" in caplog.text


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DeepEMError, match="none.txt cannot be read: No such file"):
        read_regions(tmp_path / "none.txt", NAMES)


# A backslash separates folders as in files of Windows, so that nothing would be left of a name that ends with one.
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/"),
                min_size=1, max_size=12).map(str.strip).filter(lambda name: name not in ("", ".", "..")
                                                             and not name.endswith("\\"))
numbers = st.integers(-9000, 9000)


@given(st.dictionaries(names, st.tuples(numbers, numbers, st.integers(1, 9000), st.integers(1, 9000)), min_size=1))
def test_any_names_and_regions_survive_writing_and_reading(tmp_path_factory, given_regions):
    regions = {name: (x, y, x + width, y + height) for name, (x, y, width, height) in given_regions.items()}
    path = tmp_path_factory.mktemp("regions") / "regions.tsv"
    write_regions(path, regions)
    assert read_regions(path, {name: name for name in regions}) == regions
