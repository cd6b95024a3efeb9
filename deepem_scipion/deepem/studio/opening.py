# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session shows, from micrographs, a results folder or a folder saved before."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..coordinates.coordinates import Coordinates
from ..coordinates.masks import find_masks
from ..errors import DeepEMError
from ..micrographs.find import find_micrographs
from ..micrographs.micrograph import read_pixel_size
from ..model.files import load_model
from ..model.general import CONTRASTS, general_model
from ..model.model import Model
from ..picking.candidates import Candidates
from ..picking.results import PickingResults
from ..picking.selection import Limits, select
from ..picking.settings import RunSettings
from ..picking.summary import MicrographResult
from .assigning import has_defocus, read_assigned, read_defocus
from .project import StudioProject, StudioSettings

# In angstrom, until somebody gives another one.
USUAL_DIAMETER = 150.0
DEFAULT_FOLDER = "deepem-studio"
# Distance from the border of coordinates, for which it does not count.
FAR_PX = 1e6
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
    tiff_rows : {"bottom", "top"}
        Whether y is counted from the last or from the first row of TIFF files.
    bright : bool
        Whether particles are brighter than the background.
    limits : callable
        From a model to the limits of a new session on micrographs.
    threshold, min_distance_angst : float
        Limits of a new session on coordinates.
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
    tiff_rows: str = "bottom"
    bright: bool = False
    limits: Callable[[Model], Limits] = Limits.of_model
    threshold: float = -math.inf
    min_distance_angst: float = 0.0


def open_session(wanted: Wanted) -> tuple[StudioProject, StudioSettings]:
    """Open the folder of a session and find out what it shows.

    Parameters
    ----------
    wanted : Wanted

    Returns
    -------
    project : StudioProject
        Open; whoever called closes it.
    settings : StudioSettings

    Raises
    ------
    DeepEMError
        Nothing is given that could be shown, a file cannot be read, or the session is open elsewhere.
    """
    results = _results(wanted.sources)
    folder = wanted.project or (results.folder / "studio" if results else Path(DEFAULT_FOLDER))
    project = StudioProject(folder)
    if not wanted.sources and not project.exists():
        raise DeepEMError(f"{folder} holds no session. Give micrographs, or the output folder of `deepem pick`.")
    new = _of_results(results, wanted) if results else _of_micrographs(wanted) if wanted.sources else None
    project.open()
    try:
        if new is None:
            settings = _changed(project.read(), wanted)
        else:
            begun = project.exists() and (not wanted.coordinates or project.is_edited())
            if wanted.coordinates and not begun:
                found = read_assigned(wanted.coordinates, new.micrographs, new.pixel_size_angst)
                new = _with_coordinates(project, new, found, wanted)
            settings = _changed(project.resume(new) if begun else new, wanted)
    except BaseException:
        project.close()
        raise
    return project, settings


def _results(sources: Sequence[str | Path]) -> PickingResults | None:
    """The results folder among the sources, if that is what they are."""
    if len(sources) == 1 and Path(sources[0]).is_dir():
        found = PickingResults(Path(sources[0]).absolute())
        if found.exists():
            return found
    return None


def _of_micrographs(wanted: Wanted) -> StudioSettings:
    paths = {name: os.path.abspath(path) for name, path in find_micrographs(wanted.sources).items()}
    model = load_model(wanted.model) if wanted.model else None
    if model is not None and model.ranges_px is not None:
        raise DeepEMError(f"{wanted.model} was trained by the paper's procedure, with which the studio cannot learn. "
                          "Give another model, or pick with it and open the results")
    diameter = wanted.diameter_angst or (model.diameter_angst if model else USUAL_DIAMETER)
    limits = wanted.limits(model or general_model(diameter, CONTRASTS[wanted.bright]))
    return StudioSettings(paths, _pixel_size(paths.values(), wanted.pixel_size_angst), diameter, limits,
                          str(wanted.model.absolute()) if wanted.model else None, tiff_rows=wanted.tiff_rows,
                          assumed=not (wanted.diameter_angst or model))


def _with_coordinates(project: StudioProject, settings: StudioSettings, known: Mapping[str, Coordinates],
                      wanted: Wanted) -> StudioSettings:
    """Write coordinates as candidates, all of them picked; returns settings that show them."""
    scores = np.concatenate([each.scores for each in known.values()])
    low, high = (float(each(scores)) if np.isfinite(scores).any() else 1.0 for each in (np.nanmin, np.nanmax))
    low, high = (0.0, 1.0) if 0 <= low and high <= 1 else (low, max(high, low + 1e-6))
    limits = Limits(min(max((wanted.threshold - low) / (high - low), 0.0), 1.0), wanted.min_distance_angst)
    results, listed = project.start, {}
    results.make()
    for name, path in settings.micrographs.items():
        each = known.get(name)
        shown = np.nan_to_num((each.scores - low) / (high - low), nan=1.0) if each else np.zeros(0)
        candidates = Candidates(each.centres_xy if each else np.zeros((0, 2)), shown, np.ones(len(shown)),
                                np.full(len(shown), FAR_PX))
        reasons = select(candidates, limits, settings.pixel_size_angst)
        results.write_micrograph(name, candidates, reasons, 2)
        listed[name] = MicrographResult.of(path, candidates, reasons)
    results.write_summary(RunSettings(limits, 1, 1, 2, settings.pixel_size_angst, settings.diameter_angst), listed)
    return replace(settings, limits=limits, results=str(results.folder.absolute()), score_range=(low, high))


def _of_results(results: PickingResults, wanted: Wanted) -> StudioSettings:
    run = results.read_settings()
    paths = {name: os.path.abspath(found.path) for name, found in results.read_micrographs().items()}
    if not paths:
        raise DeepEMError(f"{results.folder}: no micrograph was picked yet")
    return StudioSettings(paths, _pixel_size(paths.values(), wanted.pixel_size_angst or run.pixel_size_angst),
                          wanted.diameter_angst or run.diameter_angst, run.limits,
                          str(wanted.model.absolute()) if wanted.model else None, str(results.folder),
                          tiff_rows=run.tiff_rows, bright=run.model_contrast == "bright",
                          masks={name: os.path.abspath(run.masks[name]) for name in paths if name in run.masks})


def _changed(settings: StudioSettings, wanted: Wanted) -> StudioSettings:
    """Settings with what is given now."""
    given: Mapping[str, object] = {
        "pixel_size_angst": wanted.pixel_size_angst, "diameter_angst": wanted.diameter_angst,
        "assumed": False if wanted.diameter_angst else None,
        "reference": str(wanted.reference.absolute()) if wanted.reference else None, "bright": wanted.bright or None,
        "regions": str(wanted.regions.absolute()) if wanted.regions else None, "box_px": wanted.box_px,
        "compared": {label: str(path.absolute()) for label, path in wanted.compared.items()} or None,
        "distance_angst": wanted.distance_angst, "defocus": _defocus(settings, wanted) or None,
        "masks": _masks(settings, wanted)}
    return replace(settings, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


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


def _pixel_size(paths: Iterable[str], given: float | None) -> float:
    """The pixel size given, or that of the first micrograph whose header has one."""
    if given is not None:
        return given
    problem = ""
    for path in list(paths)[:_TRIED]:
        try:
            size = read_pixel_size(path)
        except DeepEMError as error:
            problem = problem or str(error)
        else:
            if size is not None:
                return size
    raise DeepEMError(problem or "the micrographs do not give their pixel size. Give it with --pixel-size (angstrom).")
