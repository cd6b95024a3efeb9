# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""One micrograph at a time for other programs: its picks as plain values, and a picture."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_path
from ..coordinates.masks import read_mask
from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph
from .box import default_box_px
from .picker import Picker

log = logging.getLogger(__name__)

# Largest side of a picture in pixels, and the range of grey values in standard deviations of the micrograph.
PICTURE_PX = 1024
_GREY_STDS = 3.0
_JPEG_QUALITY = 80
_CIRCLE = (240, 228, 66)  # the yellow of Okabe and Ito


def pick_message(picker: Picker, path: str | Path, pixel_size_angst: float | None = None, name: str | None = None,
                 picture: str | Path | None = None, mask: str | Path | None = None) -> dict[str, Any]:
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

    Returns
    -------
    dict
        "micrograph", "name" and "status", which is "ok", also without a pick, or "failed"; then only "reason". With
        "ok" also "picks", a list of [x, y] in pixels of the micrograph, "scores", "diameter_angst" of the model,
        "box_px", "pixel_size_angst", "shape" (rows, columns), "threshold", "picture" and "seconds".

    Examples
    --------
    >>> from deepem_scipion.deepem import Picker, load_model
    >>> picker = Picker(load_model("apoferritin.deepem"))  # doctest: +SKIP
    >>> pick_message(picker, "mic.mrc")["picks"]  # doctest: +SKIP
    """
    began = time.perf_counter()
    known = {"micrograph": str(path), "name": Path(path).stem if name is None else name}
    try:
        micrograph = picker.model.read_micrograph(path, pixel_size_angst, known["name"])
        shape, size = micrograph.input_shape, micrograph.input_pixel_size_angst
        picks = picker.pick(micrograph, None if mask is None else read_mask(mask, shape)).picks
        if picture is not None:
            write_picture(picture, micrograph, picks.centres_xy, picker.model.diameter_angst)
    except Exception as error:  # one micrograph costs no other
        log.debug("%s failed", path, exc_info=True)
        reason = str(error) if isinstance(error, DeepEMError) else f"{path}: {type(error).__name__}: {error}"
        return {**known, "status": "failed", "reason": reason}
    return {**known, "status": "ok", "picks": np.round(picks.centres_xy, 2).tolist(),
            "scores": [float(f"{score:.6g}") for score in picks.scores], "diameter_angst": picker.model.diameter_angst,
            "box_px": default_box_px(picker.model.diameter_angst, size), "pixel_size_angst": size, "shape": list(shape),
            "threshold": picker.limits.threshold, "picture": None if picture is None else str(picture),
            "seconds": round(time.perf_counter() - began, 4)}


def write_picture(path: str | Path, micrograph: Micrograph, picks_xy: np.ndarray, diameter_angst: float) -> None:
    """Write a JPEG of a micrograph with its picks as circles; x runs to the right and y downwards.

    Parameters
    ----------
    path : str or Path
        File to write, atomically.
    micrograph : Micrograph
    picks_xy : (n, 2) array
        Centres in pixels of the input micrograph.
    diameter_angst : float
        Particle diameter, that of the circles.

    Raises
    ------
    DeepEMError
        The file cannot be written.
    """
    from PIL import Image, ImageDraw

    rows, columns = micrograph.pixels.shape
    factor = min(1.0, PICTURE_PX / max(rows, columns))
    grey = np.clip(0.5 + micrograph.pixels / (2 * _GREY_STDS), 0, 1)
    image = Image.fromarray(np.rint(255 * grey).astype(np.uint8))
    if factor < 1:
        image = image.resize((round(columns * factor), round(rows * factor)), Image.Resampling.BOX)
    image = image.convert("RGB")
    draw, radius = ImageDraw.Draw(image), factor * diameter_angst / micrograph.pixel_size_angst / 2
    for row, column in micrograph.to_binned_rc(picks_xy):
        x, y = factor * (column + 0.5), factor * (row + 0.5)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_CIRCLE, width=2)
    with atomic_path(path) as aside:
        image.save(aside, "JPEG", quality=_JPEG_QUALITY)
