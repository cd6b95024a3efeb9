# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether LZW data of a TIFF can be handed to the decoder.

After a clear code the decoder of imagecodecs takes any first code, also one that stands for nothing yet, and then reads
wherever its table points to. Here the codes are read without being decoded, many at a time.
"""

from __future__ import annotations

import numpy as np

CLEAR, END, FIRST = 256, 257, 258
# Codes become wider one code earlier than the table needs (TIFF 6.0, section 13); the decoder's table ends at 5120.
_BITS_AT_START = 9
_WIDTHS = 9 + np.searchsorted([511, 1023, 2047], np.arange(FIRST, 5120), side="right")
_ENDS, _MASKS = np.cumsum(_WIDTHS), (2**_WIDTHS - 1).astype(np.uint32)
# For codes after the first, at each of the eight bits of a byte where they can begin: the byte, and what follows the
# code in the three bytes from there on.
_STARTS = np.arange(8)[:, None] + _ENDS - _WIDTHS
_BYTES, _REST = _STARTS >> 3, (24 - (_STARTS & 7) - _WIDTHS).astype(np.uint32)
# So many codes are looked at first, and so many bytes lie between clear codes at least in the mean; but a few are free.
_FEW_CODES, _MIN_BYTES, _FREE = 64, 64, 1000


def can_be_decoded(data: bytes) -> bool:
    """Tell whether every clear code of an LZW stream is followed by a literal, by another one or by the end.

    Parameters
    ----------
    data : compressed strip or tile, high bits first

    Returns
    -------
    bool; also False where clear codes are so many that looking at each takes too long, and for the reverse order of
    bits of the first TIFF programs. What else is wrong with the stream the decoder finds out.
    """
    if data[:1] == b"\0":
        return False
    n_bits, octets = 8 * len(data), np.frombuffer(data, np.uint8)
    at = _BITS_AT_START  # the decoder takes only streams that begin with a clear code
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
    """Read n codes, the first after the literal that follows a clear code, from a bit of the first byte on."""
    octets = octets[:_BYTES[bit, n - 1] + 3 if n else 0].astype(np.uint32)
    octets = np.append(octets, np.zeros(2, np.uint32))
    three = octets[:-2] << 16 | octets[1:-1] << 8 | octets[2:]
    codes: np.ndarray = three[_BYTES[bit, :n]] >> _REST[bit, :n] & _MASKS[:n]
    return codes
