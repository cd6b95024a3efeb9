# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""LZW streams that can be handed to the decoder, and those that cannot."""

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepem_scipion.deepem.micrographs.lzw import CLEAR, END, FIRST, is_decodable


def packed(codes):
    """Pack codes as bits, each as wide as its position requires."""
    bits, table = "", FIRST
    after_clear = False
    for code in codes:
        width = 9 + sum(table >= limit for limit in (511, 1023, 2047))
        bits += f"{code % 2**width:0{width}b}"
        if code == CLEAR:
            table, after_clear = FIRST, True
        elif after_clear:  # the first code makes no entry in the table
            after_clear = False
        else:
            table += 1
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))


def decodable(codes):
    """Apply the rule code by code."""
    for before, code in zip(codes, codes[1:]):
        if before == CLEAR and code > END:
            return False
        if code == END:
            return True
    return True


@given(st.lists(st.one_of(st.integers(0, 511), st.sampled_from([CLEAR, CLEAR, END])), max_size=80))
def test_an_undefined_code_after_a_clear_code_is_found(codes):
    codes = [CLEAR, *codes, END]
    assert is_decodable(packed(codes)) == decodable(codes)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 252, 253, 254, 764, 765, 766, 1789, 1790, 3000, 4860, 4861])
@pytest.mark.parametrize("last, expected", [(255, True), (300, False), (CLEAR, True), (END, True)])
def test_clear_codes_are_found_at_every_code_width(n, last, expected):
    assert is_decodable(packed([CLEAR, CLEAR, 7, *[0] * n, CLEAR, last, 1, 2, END])) == expected


@pytest.mark.parametrize("shape, kind", [((1, 1), "u1"), ((9, 7), "u2"), ((300, 200), "f4"), ((2000, 100), "u1")])
@pytest.mark.parametrize("values", [0, 3, 20000])
def test_encoded_data_are_decodable(shape, kind, values):
    image = np.random.default_rng(0).integers(0, values + 1, shape).astype(kind)
    data = imagecodecs.lzw_encode(image.tobytes())
    assert is_decodable(data)
    assert imagecodecs.lzw_decode(data, out=image.nbytes) == image.tobytes()


def test_a_stream_of_clear_codes_only_is_refused():
    assert not is_decodable(packed([CLEAR] * 3000))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\0", bytes(100)[1:]])
def test_short_and_meaningless_data_are_left_to_the_decoder_or_refused(data):
    assert is_decodable(data) == (data[:1] != b"\0")
