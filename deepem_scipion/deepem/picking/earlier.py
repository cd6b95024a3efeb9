# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results of an earlier run in the folder of a new one: refused, replaced, or completed."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DeepEMError
from ..locks import try_lock
from ..model.files import load_model
from ..model.general import general_model
from .results import ALWAYS, FOLDERS, PickingResults
from .settings import RunSettings
from .summary import MicrographResult

log = logging.getLogger(__name__)

# What `pick_micrographs` does about them.
REFUSE, OVERWRITE, RESUME = EXISTING = ("refuse", "overwrite", "resume")


def prepare(results: PickingResults, paths: Mapping[str, Path], settings: RunSettings, existing: str,
            further: Collection[str] = (), checked: Collection[str] = ()) -> dict[str, MicrographResult]:
    """Make a results folder ready for a run, so that nothing of an earlier one is left in the end.

    Parameters
    ----------
    results : PickingResults
        The folder; it is made where it does not exist.
    paths : mapping of str to Path
        Files of the micrographs by name.
    settings : RunSettings
        Of the new run.
    existing : {"refuse", "overwrite", "resume"}
        Refuse a folder with results, remove them, or keep those of micrographs that the new run would pick again.
    further : collection of str
        Kinds of files that the new run writes besides the usual ones, among `results.FURTHER`.
    checked : collection of str
        Micrographs whose contrast the new run checks.

    Returns
    -------
    dict of str to MicrographResult
        Results that are kept: they were made with the same settings, and neither the micrograph nor its mask has
        changed since.

    Raises
    ------
    DeepEMError
        If there are results and `existing` is "refuse", they were made with other settings and it is "resume", or the
        folder has files that are not of a picking run, or cannot be made; if there are picks to keep of micrographs
        that are not in `paths`; or if a name is refused by `check_names`. A run in which every micrograph failed has no
        results: its tables are replaced.

    Notes
    -----
    Of models in the folder only the general one as an earlier run wrote it is removed, unless it is picked with.
    """
    check_names(paths)
    if existing not in EXISTING:
        raise DeepEMError(f"existing={existing!r}: expected one of {', '.join(EXISTING)}")
    if not os.path.isdir(results.folder):
        results.make(further)
    files = results.files()
    _check_others(results, paths, files)
    if _all_failed(results, files):
        log.info("%s: every micrograph of the earlier run failed; its tables are replaced", results.folder)
        existing = OVERWRITE
    elif files and not results.exists():
        raise DeepEMError(f"{results.folder} has files, for instance {files[0].relative_to(results.folder)}, but no "
                          f"{results.path('settings').name} of a picking run, so none of them is replaced. Expected a "
                          "new or empty folder: give another --output, or move the files.")
    if files and existing == REFUSE:
        raise DeepEMError(f"{results.folder} has results of an earlier run, for instance {files[0].name}. Expected a "
                          "new or empty folder: give another --output, or --overwrite to replace them, or --resume to "
                          "keep what is done and pick the rest.")
    if existing != REFUSE:
        results.remove_unfinished()
        files = results.files()
    kept: dict[str, MicrographResult] = {}
    keep = set() if _is_left_over(results.path("model"), settings.model) else {results.path("model")}
    if existing == RESUME and results.exists():
        earlier = results.read_settings()
        _check_settings(results, earlier, settings)
        done = results.read_micrographs()
        _check_all_given(results, done, paths)
        kept = {name: found for name, found in done.items() if name in paths
                and earlier.masks.get(name) == settings.masks.get(name)
                and _is_done(results, name, paths[name], found, further, name in checked, settings.masks.get(name))}
        keep |= {results.path("settings"), *(results.path(kind, name) for name in kept for kind in (*ALWAYS, *further))}
    # If this is interrupted, the rest is still known to be of a run: the summary is removed last, boxes before tables.
    results.remove(path for path in reversed(files) if path not in keep)
    results.make(further)
    with suppress(DeepEMError):  # reported at the end, when it is written again
        results.write_summary(settings, kept, len(paths))
    return kept


@contextmanager
def alone_in(results: PickingResults) -> Iterator[None]:
    """Keep other runs out of a results folder, if its file system has locks.

    Parameters
    ----------
    results : PickingResults
        The folder; it is made where it does not exist.

    Raises
    ------
    DeepEMError
        If another run is at work in the folder, or it cannot be made or read.
    """
    if not os.path.isdir(results.folder):
        results.make()
    try:
        folder = os.open(results.folder, os.O_RDONLY)
    except OSError as error:
        raise DeepEMError(f"{results.folder}: the output folder cannot be read ({error.strerror})") from error
    try:
        if not try_lock(folder):
            raise DeepEMError(f"{results.folder}: another run is writing its results there. Expected a folder for each "
                              "run: give another --output, or wait for its end.")
        yield
    finally:
        os.close(folder)


def check_names(names: Iterable[str]) -> None:
    """Raise DeepEMError if the picks of a micrograph would be in a subfolder that is for other files of a run."""
    for name in names:
        folder, slash, _ = name.partition("/")
        if slash and folder in FOLDERS:
            raise DeepEMError(f"the micrograph {name} would have its picks in the subfolder {folder} of the output "
                              "folder, which is for other files. Expected another name: rename the folder of the "
                              "micrograph, pick it into an output folder of its own, or give names in a list file "
                              "(path, tab, name).")


def _is_left_over(path: Path, used: str | None) -> bool:
    """Whether a file is the general model as a run writes it, which can be had again, and another one is used."""
    if not path.is_file():
        return False
    try:
        found = load_model(path)
        general = general_model(found.diameter_angst, found.record.contrast or "dark")
    except DeepEMError:
        return False
    return found.digest() == general.digest() != used and found.card() == general.card()


def _check_others(results: PickingResults, paths: Mapping[str, Path], files: Collection[Path]) -> None:
    others = [path for path in results.boxes() if path not in set(files)]
    if others:
        raise DeepEMError(f"{results.folder} has {len(others)} .box files that are not of a picking run, for instance "
                          f"{others[0].relative_to(results.folder)}, and they would be taken for its picks. Expected a "
                          "new or empty folder: give another --output, or move them.")


def _all_failed(results: PickingResults, files: Collection[Path]) -> bool:
    """Whether the files are just those of a run that has ended and in which every micrograph failed."""
    failed = results.read_failed()
    own = {results.path(kind) for kind in ("settings", "table", "failed", "star", "report", "diameter")}
    own |= {results.path("json", name) for name in failed}
    return bool(failed) and failed.keys() == results.read_micrographs().keys() and own.issuperset(files)


def _check_settings(results: PickingResults, earlier: RunSettings, settings: RunSettings) -> None:
    then, now = earlier.as_dict(), settings.as_dict()
    changed = ["another model" if name == "model" else f"{name} {then.get(name)}, now {value}"
               for name, value in now.items() if then.get(name) != value and name != "masks"]
    if changed:
        raise DeepEMError(f"{results.folder}: the earlier run was made with other settings ({'; '.join(changed)}). "
                          "Expected the same with --resume: use --overwrite, or another --output.")


def _check_all_given(results: PickingResults, done: Mapping[str, MicrographResult], paths: Mapping[str, Path]) -> None:
    given = set(map(str, paths.values()))
    lost = [name for name, found in done.items() if found.ok and name not in paths and found.path not in given]
    if lost:
        raise DeepEMError(f"{results.folder} has picks of {len(lost)} micrographs that are not among these, for "
                          f"instance {lost[0]}. Expected all micrographs of the earlier run with --resume: give them "
                          "as well, or another --output, or --overwrite to remove what is there.")


def _is_done(results: PickingResults, name: str, path: Path, found: MicrographResult,
             further: Collection[str], checked: bool, mask: str | None) -> bool:
    written = [results.path(kind, name) for kind in (*ALWAYS, *further)]
    if not found.ok or found.path != str(path) or checked != (found.evidence is not None):
        return False
    sources = [str(path), *([mask] if mask else [])]
    try:
        return max(map(_changed_s, sources)) <= min(map(_changed_s, written))
    except OSError:  # one of them is missing
        return False


def _changed_s(path: str | Path) -> float:
    """When a file was changed, or another one put into its place, which may be older; in seconds since 1970."""
    found = os.stat(path)
    return max(found.st_mtime, found.st_ctime)
