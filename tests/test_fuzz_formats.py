# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged and random coordinate files of other programs: every reader gives coordinates or a DeepEMError."""

from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_formats import INFOS, SAMPLES, cs_array, npy
from test_fuzz import NUMBERS, WORDS, damaged, read, tried

from deepem_scipion.deepem.coordinates.formats.registry import FORMATS, read_file

# Contents by format, with one of its extensions; .box and .star are in test_fuzz.py.
CONTENTS = {}
for _format, _file, _content, *_ in SAMPLES.values():
    if _format not in ("eman", "relion", "cryosparc"):
        CONTENTS.setdefault((_format, PurePath(_file).suffix), []).append(_content.encode())
TOKENS = [*WORDS, b"<NA>", b'""', b"1,2", b"1\t2", b"data_cryolo", b"image_name", b"axis-2", b'"boxes"', b"true"]
CS = [npy(cs_array()), npy(cs_array(**{"pick_stats/ncc_score": None})), npy(np.repeat(cs_array(), 3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz formats")


def check(path):
    for name, found in read_file(path, infos=INFOS).items():
        assert isinstance(name, str) and found.centres_xy.shape == (len(found.scores), 2)
        assert np.isfinite(found.centres_xy).all() and not np.isinf(found.scores).any()
        assert found.box_px is None or found.box_px > 0


def test_every_reader_is_tried():
    assert {name for name, _ in CONTENTS} == set(FORMATS) - {"eman", "relion", "warp", "cryosparc"}


@pytest.mark.parametrize("kind", CONTENTS, ids=" ".join)
@tried(60)
@given(st.data())
def test_damaged_files_of_every_format_are_read_or_refused(folder, kind, data):
    name = {"eman-json": "a_info"}.get(kind[0], next(iter(INFOS)))
    read(check, folder / f"{name}{kind[1]}", data.draw(damaged(CONTENTS[kind], TOKENS)))


@tried(300)
@given(damaged(CS, [*NUMBERS, b"'O'", b"'<f8'", b"(", b")", b"9" * 30, b"shape", b"|V0", b"'descr': ", b"None"]))
@example(b"\x93NUMPY\1\0\x10\0{'descr': [], }\n")
def test_damaged_cs_files_are_read_or_refused(folder, content):
    read(check, folder / "a.cs", content)


@tried(60)
@given(st.sampled_from([".cbox", "_info.json", ".txt", ".csv", ".pos", ".xmd", ".cs", ".npy", ".star"]),
       st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_random_bytes_are_read_or_refused(folder, ending, content):
    read(check, folder / f"a{ending}", content)
