# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check of LZW streams before they are decoded.

After a clear code the decoder of imagecodecs accepts a code that has no meaning yet, and then reads wherever its table
points: some damaged files end the program with a segmentation fault (still so in 2026.3.6). Pillow's decoder, libtiff,
is safe, but no replacement: reading whole images it silently returns wrong values for four types of pixels (signed
bytes, unsigned 32-bit integers, big-endian 32-bit integers and floats) and refuses 16-bit and 64-bit floats; given
single strips, wrapped into small TIFF files, it writes about damaged ones to the terminal and refuses large ones.
"""

from __future__ import annotations

import numpy as np

CLEAR, END, FIRST = 256, 257, 258
# Codes widen one code earlier than the table needs (TIFF 6.0, section 13). The decoder's table ends at 5120.
_BITS_AT_START = 9
_WIDTHS = 9 + np.searchsorted([511, 1023, 2047], np.arange(FIRST, 5120), side="right")
_ENDS, _MASKS = np.cumsum(_WIDTHS), (2**_WIDTHS - 1).astype(np.uint32)
# For the codes after the first, and each of the eight bits of a byte at which they can begin: the byte where the code
# begins, and the number of bits that follow the code in the three bytes from there.
_STARTS = np.arange(8)[:, None] + _ENDS - _WIDTHS
_BYTES, _REST = _STARTS >> 3, (24 - (_STARTS & 7) - _WIDTHS).astype(np.uint32)
# Number of codes read at first, and minimum mean distance of clear codes in bytes, after a number that is free.
_FEW_CODES, _MIN_BYTES, _FREE = 64, 64, 1000


def is_decodable(data: bytes) -> bool:
    """Check that a literal, another clear code or the end follows every clear code of an LZW stream.

    Parameters
    ----------
    data : bytes
        Compressed strip or tile, most significant bits first.

    Returns
    -------
    bool
        Whether the stream can be handed to the decoder, which finds any other damage. Also False if there are too many
        clear codes to check, and for the reversed bit order of the first TIFF programs.
    """
    if data[:1] == b"\0":
        return False
    n_bits, octets = 8 * len(data), np.frombuffer(data, np.uint8)
    at = _BITS_AT_START  # the decoder accepts only streams that begin with a clear code
    for _ in range(_FREE + len(data) // _MIN_BYTES):
        if at + _BITS_AT_START > n_bits:
            return True
        code = int.from_bytes(data[at >> 3:(at >> 3) + 2], "big") >> 7 - (at & 7) & 511
        at += _BITS_AT_START
        if code == CLEAR:
            continue
        if code > CLEAR:
            return code == END
        for n_codes in (_FEW_CODES, len(_WIDTHS)):
            codes = _codes(octets[at >> 3:], at & 7, min(n_codes, int(np.searchsorted(_ENDS, n_bits - at, "right"))))
            special = np.flatnonzero((codes == CLEAR) | (codes == END))
            if len(special):
                break
        if not len(special) or codes[special[0]] == END:
            return True
        at += int(_ENDS[special[0]])
    return False


def _codes(octets: np.ndarray, bit: int, n: int) -> np.ndarray:
    """Read n codes, many at a time, from a bit of the first byte on: those after a clear code and its literal."""
    octets = octets[:_BYTES[bit, n - 1] + 3 if n else 0].astype(np.uint32)
    octets = np.append(octets, np.zeros(2, np.uint32))
    three = octets[:-2] << 16 | octets[1:-1] << 8 | octets[2:]
    codes: np.ndarray = three[_BYTES[bit, :n]] >> _REST[bit, :n] & _MASKS[:n]
    return codes
