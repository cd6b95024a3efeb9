# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""EMAN2's info/NAME_info.json; its .box files are read and written in `coordinates.box`.

EMAN2's boxing program keeps centres in pixels, as we do, in the list "boxes" of the file: x, y, how it was picked and,
for automatic picks, a score. The size of the boxes is not in these files. The other keys of the file (CTF, quality) are
not read, and are lost where a file of this name is overwritten.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeepEMError
from ..box import write_box
from ..coordinates import Coordinates
from ..parse import gather, parse_number
from .base import MicrographPicks, make_folder, reading, write_lines

if TYPE_CHECKING:
    from .base import Infos

JSON_SUFFIX = "_info"


def read_json(path: Path, name: str, infos: Infos) -> dict[str, Coordinates]:
    """Read an EMAN2 info file.

    Parameters
    ----------
    path : Path
        NAME_info.json.
    name : str
        Name of the micrograph, perhaps with the final _info of the file.
    infos : mapping
        Not used.

    Returns
    -------
    dict of str to Coordinates
        Centres and scores of "boxes", or of "boxes_rct" (tilt pairs), by the name of the micrograph. Empty if
        NAME_info.json has neither: EMAN2 keeps such a file of all micrographs of a project, marked or not.

    Raises
    ------
    DeepEMError
        If the file cannot be read, is not JSON or not of EMAN2, or an entry is not a box.
    """
    with reading(path) as handle:
        try:
            content = json.load(handle)
        except (ValueError, RecursionError) as error:
            raise DeepEMError(f"{path}: expected JSON as written by EMAN2 ({error}).") from error
    boxes = content.get("boxes", content.get("boxes_rct")) if isinstance(content, dict) else None
    if isinstance(content, dict) and boxes is None and path.stem.endswith(JSON_SUFFIX):
        return {}
    if not isinstance(boxes, list):
        raise DeepEMError(f"{path}: expected a list 'boxes', as in info/NAME_info.json of EMAN2.")
    name = name[:-len(JSON_SUFFIX)] if name.endswith(JSON_SUFFIX) else name
    return {name: gather([_particle(path, number, box) for number, box in enumerate(boxes, 1)], None)}


def _particle(path: Path, number: int, box: object) -> tuple[float, float, float]:
    if not isinstance(box, list) or len(box) < 2 or not all(_is_number(value) for value in box[:2]):
        raise DeepEMError(f"{path}, box {number}: expected [x, y, ...], found {str(box)[:80]}.")
    score = box[3] if len(box) > 3 and _is_number(box[3]) else math.nan
    return (parse_number(path, number, str(box[0])), parse_number(path, number, str(box[1])),
            parse_number(path, number, str(score), missing=True))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def write_json(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write info/NAME_info.json of each micrograph; returns the files, raises DeepEMError if one cannot be written."""
    return [write_lines(folder / "info" / f"{each.name}{JSON_SUFFIX}.json", [json.dumps({"boxes": [
        [round(x, 3), round(y, 3), "auto_deepem", *([] if math.isnan(score) else [float(f"{score:.6g}")])]
        for x, y, score in each.rows]}, indent=1)]) for each in picks]


def write_boxes(folder: Path, picks: Sequence[MicrographPicks]) -> list[Path]:
    """Write NAME.box of each micrograph; returns the files, raises DeepEMError if one cannot be written."""
    written = []
    for each in picks:
        path = folder / f"{each.name}.box"
        make_folder(path.parent)
        write_box(path, each.coordinates.centres_xy, each.coordinates.scores, each.box_px("EMAN2"))
        written.append(path)
    return written
