# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""One micrograph at a time for other programs: what became of it as plain values."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import check_no_input
from ..coordinates.coordinates import Coordinates
from ..coordinates.masks import read_mask
from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph
from .box import default_box_px
from .picker import Picker
from .picture import write_picture
from .scale import check_scale

log = logging.getLogger(__name__)


def pick_message(picker: Picker, path: str | Path, pixel_size_angst: float | None = None, name: str | None = None,
                 picture: str | Path | None = None, mask: str | Path | None = None,
                 any_scale: bool = False) -> dict[str, Any]:
    """Pick one micrograph and return everything as plain values for JSON.

    Parameters
    ----------
    picker : Picker
    path : str or Path
        File of the micrograph.
    pixel_size_angst : float, optional
        Pixel size of the micrograph; default: from its header.
    name : str, optional
        Name of the micrograph; default: that of its file.
    picture : str or Path, optional
        JPEG file to write, with the picks as circles.
    mask : str or Path, optional
        Mask of contamination.
    any_scale : bool
        Whether to pick also if the pixel size makes the particle improbable, see `scale.check_scale`.

    Returns
    -------
    dict
        See `as_message`, or `failure`; no error is raised.

    Examples
    --------
    >>> from deepem_scipion.deepem import Picker, load_model
    >>> picker = Picker(load_model("apoferritin.deepem"))  # doctest: +SKIP
    >>> pick_message(picker, "mic.mrc")["picks"]  # doctest: +SKIP
    """
    began = time.perf_counter()
    name = Path(path).stem if name is None else name
    diameter = picker.model.diameter_angst
    try:
        if picture is not None:
            check_no_input(picture, path, *([] if mask is None else [mask]))
        micrograph = picker.model.read_micrograph(path, pixel_size_angst, name)
        if not any_scale:
            check_scale(micrograph, picker.model)
        picks = picker.pick(micrograph, None if mask is None else read_mask(mask, path, micrograph.input_shape)).picks
        if picture is not None:
            write_picture(picture, micrograph, picks.centres_xy, diameter)
    except Exception as error:  # one micrograph costs no other
        log.debug("%s failed", path, exc_info=True)
        return failure(path, name, reason_of(error, path))
    box_px = default_box_px(diameter, micrograph.input_pixel_size_angst)
    return as_message(picker, micrograph, picks, name, box_px, picture, time.perf_counter() - began)


def as_message(picker: Picker, micrograph: Micrograph, picks: Coordinates, name: str, box_px: int,
               picture: str | Path | None, seconds: float) -> dict[str, Any]:
    """Return what was picked in a micrograph as plain values for JSON.

    Parameters
    ----------
    picker : Picker
    micrograph : Micrograph
    picks : Coordinates
        In pixels of the input micrograph, in descending order of score.
    name : str
    box_px : int
        Side of the boxes in pixels of the input micrograph.
    picture : str or Path, optional
        JPEG file that was written.
    seconds : float
        Time taken.

    Returns
    -------
    dict
        "micrograph", "name", "status" ("ok", also without a pick), "picks", a list of [x, y] in pixels of the
        micrograph, "scores", "diameter_angst" of the model, "box_px", "pixel_size_angst", "shape" (rows, columns),
        "threshold", "picture" and "seconds".
    """
    return {"micrograph": str(micrograph.path), "name": name, "status": "ok",
            "picks": np.round(picks.centres_xy, 2).tolist(),
            "scores": [float(f"{score:.6g}") for score in picks.scores], "diameter_angst": picker.model.diameter_angst,
            "box_px": box_px, "pixel_size_angst": micrograph.input_pixel_size_angst,
            "shape": list(micrograph.input_shape), "threshold": picker.limits.threshold,
            "picture": None if picture is None else str(picture), "seconds": round(seconds, 4)}


def failure(path: str | Path, name: str, reason: str) -> dict[str, Any]:
    """Return that a micrograph was not picked: "micrograph", "name", "status" ("failed") and "reason"."""
    return {"micrograph": str(path), "name": name, "status": "failed", "reason": reason}


def reason_of(error: Exception, path: str | Path) -> str:
    """Return one sentence about why the micrograph in a file could not be picked."""
    return str(error) if isinstance(error, DeepEMError) else f"{path}: {type(error).__name__}: {error}"
