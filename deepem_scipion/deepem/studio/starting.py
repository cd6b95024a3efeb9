# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session on micrographs, a results folder or coordinates shows, and the limits and files given with them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..coordinates.coordinates import Coordinates, inside
from ..coordinates.masks import find_masks
from ..errors import DeepEMError
from ..micrographs.micrograph import read_pixel_size, read_shape
from ..model.files import load_model
from ..model.general import CONTRASTS, general_model
from ..model.paths import ModelFiles
from ..picking.candidates import Candidates
from ..picking.results import PickingResults
from ..picking.selection import Limits, select
from ..picking.settings import RunSettings
from ..picking.summary import MicrographResult
from .assigning import check_pixel_sizes, has_defocus, header_pixel_sizes, read_defocus
from .project import StudioProject
from .settings import StudioSettings

log = logging.getLogger(__name__)

# In angstrom, until somebody gives another one.
USUAL_DIAMETER = 150.0
# Distance from the border of coordinates, for which it does not count.
FAR_PX = 1e6
# What of a picking run may change without the limits of the session, as keys of `StudioSettings.given`.
RUN_MASKS, RUN_PIXEL_SIZE = "run_masks", "run_pixel_size_angst"
# Headers that are read to find the pixel size.
_TRIED = 5


@dataclass(frozen=True)
class Wanted:
    """What a session is to show; what is not given is found in the files.

    Attributes
    ----------
    sources : sequence of str or Path
        Micrographs as for `find_micrographs`, or one results folder; none to resume a session.
    project : Path, optional
        Folder of the session. Default: `studio` in the results folder, or `deepem-studio` in the current folder.
    model : Path, optional
    pixel_size_angst, diameter_angst : float, optional
    coordinates : Path, optional
        Coordinates to correct, of any picker.
    reference : Path, optional
        Reference coordinates.
    regions : Path, optional
        Annotated regions of the micrographs, within which picks are compared with the reference.
    compared : mapping of str to Path
        Figures of other evaluations by label.
    distance_angst : float, optional
        Maximum distance of a pick from its reference particle.
    masks : Path, optional
        Folder of masks of contamination. Default: the masks of the picking run.
    ctf : Path, optional
        STAR file with the defocus of the micrographs. Default: the list of micrographs, if it has it.
    box_px : int, optional
        Side of the boxes written, in pixels of the micrographs.
    tiff_rows : {"bottom", "top"}, optional
        Whether y is counted from the last or from the first row of TIFF files. Default: that of the picking run, or
        "bottom".
    bright : bool, optional
        Whether particles are brighter than the background.
    limits : mapping of str to object
        See `Limits.changed`. The threshold is a score of the coordinates, where these are shown.
    """

    sources: Sequence[str | Path] = ()
    project: Path | None = None
    model: Path | None = None
    pixel_size_angst: float | None = None
    diameter_angst: float | None = None
    coordinates: Path | None = None
    reference: Path | None = None
    regions: Path | None = None
    compared: Mapping[str, Path] = field(default_factory=dict)
    distance_angst: float | None = None
    masks: Path | None = None
    ctf: Path | None = None
    box_px: int | None = None
    tiff_rows: str | None = None
    bright: bool | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)


def given_by(wanted: Wanted) -> dict[str, Any]:
    """Return options that can be changed on the page, as plain values, and digests of the model and of the start.

    The start is the model, the picking run or the coordinates whose picks are shown before a model is learnt.
    """
    model = f"model {ModelFiles(Path(wanted.model)).digest()}" if wanted.model else None
    options = {"diameter_angst": wanted.diameter_angst, "bright": wanted.bright, "box_px": wanted.box_px,
               "model": model, "start": model}
    plain: dict[str, Any] = json.loads(json.dumps(dict(wanted.limits)))
    return {**{name: value for name, value in options.items() if value is not None}, **plain}


def of_micrographs(micrographs: Mapping[str, str | Path], wanted: Wanted) -> StudioSettings:
    """Return the settings of a session on micrographs but for given limits; raises DeepEMError for unusable files."""
    paths = {name: os.path.abspath(path) for name, path in micrographs.items()}
    model = load_model(wanted.model) if wanted.model else None
    if model is not None and model.ranges_px is not None:
        raise DeepEMError(f"{wanted.model} was trained by the paper's procedure, with which the studio cannot learn. "
                          "Give another model, or pick with it and open the results")
    diameter = wanted.diameter_angst or (model.diameter_angst if model else USUAL_DIAMETER)
    return StudioSettings(
        paths, _pixel_size(paths, wanted.pixel_size_angst, {}), diameter,
        Limits.of_model(model or general_model(diameter, CONTRASTS[bool(wanted.bright)])),
        str(wanted.model.absolute()) if wanted.model else None, tiff_rows=wanted.tiff_rows or "bottom",
        bright=bool(wanted.bright), box_px=wanted.box_px, assumed=not (wanted.diameter_angst or model),
        given=given_by(wanted))


def of_results(results: PickingResults, wanted: Wanted) -> StudioSettings:
    """Return the settings of a session on a picking run but for given limits; raises DeepEMError for unusable files."""
    run = results.read_settings()
    listed = results.read_micrographs()
    paths = {name: os.path.abspath(found.path) for name, found in listed.items()}
    sizes = {name: found.pixel_size_angst for name, found in listed.items() if found.pixel_size_angst is not None}
    if not paths:
        raise DeepEMError(f"{results.folder}: no micrograph was picked yet")
    if wanted.tiff_rows not in (None, run.tiff_rows):
        raise DeepEMError(f"{results.folder}: the run counted the rows of TIFF files from the {run.tiff_rows}; "
                          f"--tiff-rows {wanted.tiff_rows} would turn its picks upside down. Leave it out.")
    plain = run.as_dict()
    masks = plain.pop("masks")
    given = {"start": f"run {_digest_of(plain)}", RUN_MASKS: _digest_of(masks), RUN_PIXEL_SIZE: run.pixel_size_angst}
    return StudioSettings(
        paths, _pixel_size(paths, wanted.pixel_size_angst or run.pixel_size_angst, sizes),
        wanted.diameter_angst or run.diameter_angst, run.limits, str(wanted.model.absolute()) if wanted.model else None,
        str(results.folder), tiff_rows=run.tiff_rows,
        bright=run.model_contrast == "bright" if wanted.bright is None else wanted.bright,
        masks={name: run.masks[name] for name in paths if name in run.masks}, box_px=wanted.box_px,
        given={**given_by(wanted), **given})


def of_coordinates(settings: StudioSettings, known: Mapping[str, Coordinates]) -> StudioSettings:
    """Return settings that show coordinates, once `write_start` has written them, all of them picked.

    Parameters
    ----------
    settings : StudioSettings
        Of a session on the same micrographs.
    known : mapping of str to Coordinates
        By name of the micrograph.

    Returns
    -------
    StudioSettings
    """
    scores = np.concatenate([each.scores for each in known.values()])
    low, high = (float(each(scores)) if np.isfinite(scores).any() else 1.0 for each in (np.nanmin, np.nanmax))
    low, high = (0.0, 1.0) if 0 <= low and high <= 1 else (low, max(high, low + 1e-6))
    given = {**settings.given, "start": start_of(known)}
    return replace(settings, limits=Limits(0.0, 0.0), score_range=(low, high), given=given)


def start_of(known: Mapping[str, Coordinates]) -> str:
    """Return the start of a session on coordinates, see `given_by`."""
    content = {name: [each.centres_xy.tolist(), each.scores.tolist()] for name, each in known.items()}
    return f"coordinates {_digest_of(content)}"


def write_start(project: StudioProject, settings: StudioSettings, known: Mapping[str, Coordinates]) -> StudioSettings:
    """Write coordinates as candidates, without those outside of their micrographs; returns settings with their folder.

    Micrographs without coordinates have no .box file, unlike those of which it is stated that they have no particles.

    Raises
    ------
    DeepEMError
        A file cannot be written.
    """
    (low, high), limits, results, listed = settings.score_range, settings.limits, project.start, {}
    results.make()
    dropped = 0
    for name, path in settings.micrographs.items():
        each = known.get(name, Coordinates(np.zeros((0, 2)), np.zeros(0), None))
        shown = np.nan_to_num((each.scores - low) / (high - low), nan=1.0)
        candidates = Candidates(each.centres_xy, shown, np.ones(len(shown)), np.full(len(shown), FAR_PX))
        kept = _is_inside(path, each.centres_xy)
        candidates, dropped = candidates.subset(kept), dropped + np.count_nonzero(~kept)
        reasons = select(candidates, limits, settings.pixel_size_angst)
        results.write_micrograph(name, candidates, reasons, 2)
        if name not in known:
            results.remove([results.path("box", name)])
        listed[name] = MicrographResult.of(path, candidates, reasons)
    if dropped:
        log.warning("warning: %d coordinates are outside of their micrographs: they are left out", dropped)
    results.write_summary(RunSettings(limits, 1, 1, 2, settings.pixel_size_angst, settings.diameter_angst), listed)
    return replace(settings, results=str(results.folder.absolute()))


def _is_inside(path: str, centres_xy: np.ndarray) -> np.ndarray:
    """Which centres are on a pixel of a micrograph; all of them if it cannot be read, which is shown later."""
    try:
        rows, columns = read_shape(path)
    except DeepEMError:
        return np.ones(len(centres_xy), dtype=bool)
    return inside(centres_xy, (columns, rows))


def with_limits(settings: StudioSettings, given: Mapping[str, Any]) -> StudioSettings:
    """Return settings with the limits that are given, see `Wanted`; raises DeepEMError where they make no sense."""
    limits, coordinates = dict(given), settings.starts_with("coordinates") and not settings.turn
    model = None
    if words := {name for name in ("threshold", "std_range") if isinstance(limits.get(name), str)}:
        if coordinates or settings.results is not None and not settings.turn:
            raise DeepEMError(f"{' and '.join(sorted(words))}: expected numbers, since the model that found the picks "
                              "is not known")
        model = load_model(settings.model) if settings.model else general_model(settings.diameter_angst,
                                                                                CONTRASTS[settings.bright])
    if coordinates and "threshold" in limits:
        limits["threshold"] = _shown_score(limits["threshold"], settings.score_range)
    return replace(settings, limits=settings.limits.changed(limits, model))


def _shown_score(threshold: float, score_range: tuple[float, float]) -> float:
    """The threshold as it is shown, of coordinates with a range of scores."""
    low, high = score_range
    if threshold > high:
        log.warning("warning: --threshold %g is above all scores: %g, the highest of them, is taken", threshold, high)
    return min(max((threshold - low) / (high - low), 0.0), 1.0)


def with_files(settings: StudioSettings, wanted: Wanted) -> StudioSettings:
    """Return settings with masks, defocus, reference and other evaluations, as far as they are given."""
    given: Mapping[str, object] = {
        "reference": str(wanted.reference.absolute()) if wanted.reference else None,
        "regions": str(wanted.regions.absolute()) if wanted.regions else None,
        "compared": {label: str(path.absolute()) for label, path in wanted.compared.items()} or None,
        "distance_angst": wanted.distance_angst, "defocus": _defocus(settings, wanted) or None,
        "masks": _masks(settings, wanted)}
    return replace(settings, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


def _digest_of(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _masks(settings: StudioSettings, wanted: Wanted) -> dict[str, str] | None:
    """The masks of the micrographs, if a folder of masks is given."""
    if wanted.masks is None:
        return None
    paths = {name: Path(path) for name, path in settings.micrographs.items()}
    return {name: os.path.abspath(mask) for name, mask in find_masks(wanted.masks, paths).items()}


def _defocus(settings: StudioSettings, wanted: Wanted) -> dict[str, float]:
    """The defocus of the micrographs, as far as it is given."""
    lists = [wanted.ctf] if wanted.ctf else [each for each in wanted.sources if has_defocus(each)]
    return {name: value for each in lists for name, value in read_defocus(each, settings.micrographs).items()}


def _pixel_size(paths: Mapping[str, str], given: float | None, used: Mapping[str, float]) -> float:
    """The pixel size given, or that of the first micrograph whose header has one; a run may have used several."""
    if given is not None:
        return given
    check_pixel_sizes(used or header_pixel_sizes(paths))
    problem = ""
    for path in list(paths.values())[:_TRIED]:
        try:
            size = read_pixel_size(path)
        except DeepEMError as error:
            problem = problem or str(error)
        else:
            if size is not None:
                return size
    raise DeepEMError(problem or "the micrographs do not give their pixel size. Give it with --pixel-size (angstrom).")
