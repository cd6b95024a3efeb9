# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""LZW streams that can be handed to the decoder, and those that cannot."""

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepem_scipion.deepem.micrographs.lzw import CLEAR, END, FIRST, can_be_decoded


def packed(codes):
    """Codes as bits; each is as wide as it must be where it stands."""
    bits, table = "", FIRST
    after_clear = False
    for code in codes:
        width = 9 + sum(table >= limit for limit in (511, 1023, 2047))
        bits += f"{code % 2**width:0{width}b}"
        if code == CLEAR:
            table, after_clear = FIRST, True
        elif after_clear:  # the first code makes no entry of the table
            after_clear = False
        else:
            table += 1
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))


def sound(codes):
    """The rule, code by code."""
    for before, code in zip(codes, codes[1:]):
        if before == CLEAR and code > END:
            return False
        if code == END:
            return True
    return True


@given(st.lists(st.one_of(st.integers(0, 511), st.sampled_from([CLEAR, CLEAR, END])), max_size=80))
def test_a_code_after_a_clear_code_that_stands_for_nothing_is_found_out(codes):
    codes = [CLEAR, *codes, END]
    assert can_be_decoded(packed(codes)) == sound(codes)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 252, 253, 254, 764, 765, 766, 1789, 1790, 3000, 4860, 4861])
@pytest.mark.parametrize("last, expected", [(255, True), (300, False), (CLEAR, True), (END, True)])
def test_clear_codes_are_found_wherever_codes_become_wider(n, last, expected):
    assert can_be_decoded(packed([CLEAR, CLEAR, 7, *[0] * n, CLEAR, last, 1, 2, END])) == expected


@pytest.mark.parametrize("shape, kind", [((1, 1), "u1"), ((9, 7), "u2"), ((300, 200), "f4"), ((2000, 100), "u1")])
@pytest.mark.parametrize("values", [0, 3, 20000])
def test_what_an_encoder_writes_can_be_decoded(shape, kind, values):
    image = np.random.default_rng(0).integers(0, values + 1, shape).astype(kind)
    data = imagecodecs.lzw_encode(image.tobytes())
    assert can_be_decoded(data)
    assert imagecodecs.lzw_decode(data, out=image.nbytes) == image.tobytes()


def test_nothing_but_clear_codes_is_refused():
    assert not can_be_decoded(packed([CLEAR] * 3000))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\0", bytes(100)[1:]])
def test_short_and_senseless_data_is_left_to_the_decoder_or_refused(data):
    assert can_be_decoded(data) == (data[:1] != b"\0")
