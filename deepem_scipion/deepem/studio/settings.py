# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session of the studio shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import DeepEMError
from ..model.paths import ModelFiles
from ..picking.selection import Limits

MAX_BOX_PX = 100_000
# Files that are named from the folder of the session if they are in it or beside it, so that all can be moved together.
MAY_MOVE = ("model", "results", "reference", "regions")


@dataclass(frozen=True)
class StudioSettings:
    """What a session shows.

    Attributes
    ----------
    micrographs : mapping of str to str
        Absolute path of each micrograph by its name.
    pixel_size_angst, diameter_angst : float
        Of the micrographs and of the particle.
    limits : Limits
        Limits of the picks shown.
    model : str, optional
        Model that found the candidates; None: the general model.
    results : str, optional
        Results folder with the candidates to start from.
    reference : str, optional
        Reference coordinates, a file or a folder.
    regions : str, optional
        Table of the annotated regions of micrographs, within which picks are compared with the reference.
    compared : mapping of str to str
        Path of the figures of other evaluations by label.
    distance_angst : float, optional
        Maximum distance of a pick from its reference particle. Default: half a diameter.
    masks, defocus : mapping of str to str, of str to float
        Files of masks of contamination, and defocus in micrometres, by name of the micrograph, as far as known.
    box_px : int, optional
        Side of the boxes written, in pixels of the micrographs. Default: 1.5 diameters.
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of TIFF files.
    bright, assumed : bool
        Whether particles are brighter than the background, for the general model; whether nobody gave a diameter yet.
    turn : int
        How many times a model was learnt.
    score_range : tuple of (float, float)
        Scores of the coordinates that the session began with which are shown as 0 and 1.
    given : mapping of str to object
        The last value of every option that was ever given, see `starting.given_by`, and digests of what it began with.
    """

    micrographs: Mapping[str, str]
    pixel_size_angst: float
    diameter_angst: float
    limits: Limits
    model: str | None = None
    results: str | None = None
    reference: str | None = None
    regions: str | None = None
    compared: Mapping[str, str] = field(default_factory=dict)
    distance_angst: float | None = None
    masks: Mapping[str, str] = field(default_factory=dict)
    defocus: Mapping[str, float] = field(default_factory=dict)
    box_px: int | None = None
    tiff_rows: str = "bottom"
    bright: bool = False
    turn: int = 0
    score_range: tuple[float, float] = (0.0, 1.0)
    assumed: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.micrographs:
            if "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
                raise DeepEMError(f"{name!r}: expected the name of a micrograph")
        for what, value in (("pixel size", self.pixel_size_angst), ("particle diameter", self.diameter_angst),
                            ("matching distance", self.distance_angst)):
            if value is not None and not 0 < value < math.inf:
                raise DeepEMError(f"{what} {value:g}: expected angstrom, above 0")
        if not all(map(math.isfinite, self.defocus.values())):
            raise DeepEMError("a defocus is not finite: expected micrometres")
        if self.box_px is not None and not 1 < self.box_px < MAX_BOX_PX:
            raise DeepEMError(f"box {self.box_px}: expected pixels, from 2 to {MAX_BOX_PX}")

    @property
    def source(self) -> tuple[Any, ...]:
        """What candidates depend on."""
        general = (self.diameter_angst, self.bright) if self.model is None and self.results is None else ()
        return (self.model, self.turn, self.pixel_size_angst, self.tiff_rows, *general)

    def starts_with(self, kind: str) -> bool:
        """Whether the session starts with a "model", a "run" or "coordinates", see `starting.given_by`."""
        return str(self.given.get("start", "")).startswith(kind)

    def found_with(self) -> list[Any]:
        """Return what candidates depend on as plain values, with the content of the model instead of its place."""
        return [ModelFiles(Path(self.model)).digest() if self.model else None, *self.source[1:]]

    @property
    def written_box_px(self) -> int:
        """Side of the boxes written, in pixels of the micrographs."""
        from ..picking.box import default_box_px

        return self.box_px or default_box_px(self.diameter_angst, self.pixel_size_angst)

    def adjusted(self, **changes: Any) -> StudioSettings:
        """Return other settings; limits that are those of the general model follow diameter and contrast."""
        from ..model.general import CONTRASTS, general_model

        wanted = replace(self, **{"assumed": self.assumed and "diameter_angst" not in changes, **changes})
        if wanted.source == self.source or wanted.model is not None or wanted.results is not None:
            return wanted
        own, new = (asdict(Limits.of_model(general_model(each.diameter_angst, CONTRASTS[each.bright])))
                    for each in (self, wanted))
        follow = {name: new[name] for name, value in asdict(self.limits).items() if value == own[name]}
        return replace(wanted, limits=replace(self.limits, **follow))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> StudioSettings:
        """Return settings from plain values; raises TypeError, ValueError, LookupError or AttributeError."""
        found = plain["limits"]
        std_range, ranges = found["std_range"], found.get("ranges_angst")
        limits = Limits(**{key: float(found[key]) for key in ("threshold", "min_distance_angst", "border_angst",
                                                              "max_mask", "keep_best")},
                        std_range=None if std_range is None else (float(std_range[0]), float(std_range[1])),
                        at_least=int(found["at_least"]),
                        ranges_angst=None if ranges is None else (float(ranges[0]), float(ranges[1])))
        names = {str(name): str(path) for name, path in plain["micrographs"].items()}
        texts = {key: None if plain.get(key) is None else str(plain[key]) for key in MAY_MOVE}
        distance, box = plain.get("distance_angst"), plain.get("box_px")
        return cls(
            names, float(plain["pixel_size_angst"]), float(plain["diameter_angst"]), limits, **texts,
            masks={str(name): str(path) for name, path in plain.get("masks", {}).items()},
            compared={str(label): str(path) for label, path in plain.get("compared", {}).items()},
            defocus={str(name): float(value) for name, value in plain.get("defocus", {}).items()},
            distance_angst=None if distance is None else float(distance), box_px=None if box is None else int(box),
            tiff_rows="top" if plain.get("tiff_rows") == "top" else "bottom", bright=bool(plain.get("bright")),
            turn=int(plain.get("turn", 0)), assumed=bool(plain.get("assumed")),
            score_range=(float(plain["score_range"][0]), float(plain["score_range"][1])),
            given=dict(plain.get("given", {})))
