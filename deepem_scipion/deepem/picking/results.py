# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The results folder of a picking run: the only place that knows the names and contents of its files."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Callable, TypeVar

import numpy as np

from ..atomic import UNFINISHED, atomic_path, atomic_write
from ..coordinates.box import read_box, write_box
from ..coordinates.coordinates import Coordinates
from ..coordinates.read import EXPORTS, JOINT_FILE, SESSION
from ..coordinates.star import Optics, write_star
from ..errors import DeepEMError
from ..micrographs.micrograph import Micrograph
from .candidates import Candidates, read_candidates, write_candidates
from .picture import write_picture
from .scale import scale_warnings
from .selection import PICKED
from .settings import RunSettings
from .summary import CONTRAST_CHECKS, MicrographResult, summarise_run
from .table import append_table, read_failures, read_table, write_failures, write_table

T = TypeVar("T")

# The files of a run, and of each micrograph by its name.
_FILES = {"settings": "summary.json", "table": "summary.tsv", "failed": "failed.tsv", "star": JOINT_FILE,
          "report": "report.html", "model": "model.deepem", "diameter": "diameter.png"}
_OF_MICROGRAPH = {"box": "{}.box", "candidates": "candidates/{}.tsv", "score_map": "scores/{}.mrc",
                  "json": "json/{}.json", "picture": "pictures/{}.jpg", "export": EXPORTS + "/{}"}
# Subfolders of the results, in which no run may write .box files.
FOLDERS = frozenset(place.split("/")[0] for place in _OF_MICROGRAPH.values() if "/" in place)
# Those that every micrograph that was picked has, and those that a run writes on request.
ALWAYS, FURTHER = ("box", "candidates"), ("score_map", "json", "picture")

# summary.json of a run that grows is written again at most once in this many seconds.
SUMMARY_SECONDS = 60


class PickingResults:
    """The results folder of a picking run: makes the paths of its files, writes and reads them.

    Parameters
    ----------
    folder : str or Path
        It need not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, kind: str, name: str = "") -> Path:
        """Return the path of a file.

        Parameters
        ----------
        kind : str
            "settings", "table", "failed", "star", "report", "model" or "diameter"; "box", "candidates", "score_map",
            "json" or "picture" of a micrograph; "export" for a format of other programs.
        name : str
            Name of that micrograph, one with slashes is in subfolders; or of the format.

        Returns
        -------
        Path
        """
        return self.folder / (_OF_MICROGRAPH[kind].format(name) if name else _FILES[kind])

    def _folder_of(self, kind: str) -> Path:
        return self.path(kind, "name").parent

    def _new(self, kind: str, name: str) -> Path:
        """Return the path of a file to write; names with folders have subfolders, which are made."""
        path = self.path(kind, name)
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def files(self) -> list[Path]:
        """Return all files here that a run has written, also one that was interrupted; the summary is the first."""
        found = [self.path(kind) for kind in _FILES]
        names = set(self.read_micrographs())
        for kind in ("candidates", *FURTHER):
            folder, ending = self._folder_of(kind), self.path(kind, "name").suffix
            written = sorted(folder.rglob(f"*{ending}"))
            found += written
            names.update(path.relative_to(folder).as_posix()[:-len(ending)] for path in written)
        found += [self.path("box", name) for name in sorted(names)]
        found += sorted((self.folder / EXPORTS).rglob("*"))
        return [path for path in found if path.is_file()]

    def boxes(self) -> list[Path]:
        """Return all .box files here and in subfolders but those for other programs and of studio sessions."""
        found = (place / name for place, _, names in self._walk() for name in names if name.endswith(".box"))
        return sorted(path for path in found if self.folder / EXPORTS not in path.parents and path.is_file()
                      and not path.parent.name.startswith(UNFINISHED))

    def _walk(self) -> Iterator[tuple[Path, list[str], list[str]]]:
        """Yield folder, names of subfolders and names of files, without those of studio sessions."""
        for place, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not Path(place, name, SESSION).exists()]
            yield Path(place), folders, files

    def boxes_of_others(self) -> list[Path]:
        """Return the .box files that are not of the run whose results these are; none where there is no run."""
        own = set(self.files()) if self.exists() else set(self.boxes())
        return [path for path in self.boxes() if path not in own]

    def check(self) -> None:
        """Raise DeepEMError if there is a run whose table is missing, or .box files that are not of the run."""
        table = self.path("table")
        if self.exists() and not table.exists():
            raise DeepEMError(f"{self.folder} has no {table.name}, the table of the micrographs of its run. Expected "
                              "all files of a run: copy it as a whole, or pick again with --overwrite.")
        if others := self.boxes_of_others():
            raise DeepEMError(f"{self.folder} has results of a picking run and {len(others)} .box files that are not "
                              f"of this run, for instance {others[0].relative_to(self.folder)}. Move them to a folder "
                              "of their own.")

    # -- writing

    def remove(self, files: Iterable[Path]) -> None:
        """Remove files, and folders below this one that are then empty; raises DeepEMError where it is impossible."""
        try:
            for path in files:
                path.unlink()
                for folder in path.parents:
                    if folder == self.folder or any(folder.iterdir()):
                        break
                    folder.rmdir()
        except OSError as error:
            raise DeepEMError(f"{error.filename}: cannot be removed ({error.strerror}). Give another output folder.") \
                from error

    def remove_unfinished(self) -> None:
        """Remove the files that a run was writing when it was killed."""
        for folder in [place / name for place, names, _ in self._walk() for name in names
                       if name.startswith(UNFINISHED)]:
            shutil.rmtree(folder, ignore_errors=True)

    def make(self, further: Iterable[str] = ()) -> None:
        """Make the folder and its subfolders, also of `FURTHER` files; raises DeepEMError where this is impossible."""
        try:
            for kind in (*ALWAYS, *further):
                self._folder_of(kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeepEMError(f"{self.folder}: the output folder cannot be made ({error.strerror})") from error

    def write_micrograph(self, name: str, candidates: Candidates, reasons: np.ndarray, box_px: float) -> None:
        """Write candidates and picks of one micrograph.

        Parameters
        ----------
        name : str
        candidates : Candidates
        reasons : (n,) str array
            See `selection.select`.
        box_px : float
            Side of the boxes written, in pixels of the input micrograph.

        Raises
        ------
        DeepEMError
            A file cannot be written.
        """
        write_candidates(self._new("candidates", name), candidates, reasons)
        picks = candidates.subset(reasons == PICKED)
        write_box(self._new("box", name), picks.centres_xy, picks.scores, box_px)

    def write_picks(self, name: str, centres_xy: np.ndarray, scores: np.ndarray, box_px: float) -> None:
        """Write picks of one micrograph alone; parameters and errors as for `coordinates.write_box`."""
        write_box(self._new("box", name), centres_xy, scores, box_px)

    def write_score_map(self, name: str, scores: np.ndarray, step_angst: float) -> None:
        """Write the score map of one micrograph as MRC file.

        Parameters
        ----------
        name : str
        scores : (rows, cols) float32 array
        step_angst : float
            Scan step in angstrom, the pixel size of the map.

        Raises
        ------
        DeepEMError
            The file cannot be written.
        """
        import mrcfile

        with atomic_path(self._new("score_map", name)) as aside, mrcfile.new(aside, scores) as file:
            file.voxel_size = step_angst

    def write_json(self, name: str, message: Mapping[str, Any]) -> None:
        """Write what became of one micrograph, see `as_message`; raises DeepEMError where it cannot be written."""
        with atomic_write(self._new("json", name)) as handle:
            json.dump(message, handle)

    def write_picture(self, name: str, micrograph: Micrograph, picks_xy: np.ndarray, diameter_angst: float) -> None:
        """Write one micrograph with its picks as JPEG; parameters and errors as for `picture.write_picture`."""
        write_picture(self._new("picture", name), micrograph, picks_xy, diameter_angst)

    def write_star(self, picks: Iterable[tuple[str | Path, np.ndarray, np.ndarray]],
                   pixel_size_angst: float | Sequence[float], optics: Optics) -> None:
        """Write picks.star; parameters and errors as for `coordinates.write_star`."""
        write_star(self.path("star"), picks, pixel_size_angst, optics)

    def write_table(self, micrographs: Mapping[str, MicrographResult]) -> None:
        """Write summary.tsv, see `table.write_table`."""
        write_table(self.path("table"), micrographs)

    def append(self, micrographs: Mapping[str, MicrographResult]) -> None:
        """Add lines to summary.tsv, see `table.append_table`."""
        append_table(self.path("table"), micrographs)

    def write_failed(self, micrographs: Mapping[str, MicrographResult]) -> None:
        """Write failed.tsv, the micrographs that failed and why; raises DeepEMError where it cannot be written."""
        write_failures(self.path("failed"), {name: found.reason for name, found in micrographs.items() if not found.ok})

    def write_summary(self, settings: RunSettings | None, micrographs: Mapping[str, MicrographResult],
                      expected: int | None = None) -> None:
        """Write summary.json and summary.tsv.

        Parameters
        ----------
        settings : RunSettings, optional
            Default: those in the summary.json that exists.
        micrographs : mapping of str to MicrographResult
            Those done so far.
        expected : int, optional
            Number of all micrographs of the run; default: of those done.

        Raises
        ------
        DeepEMError
            A file cannot be written, or there are no settings.
        """
        settings = settings or self.read_settings()
        content = {**settings.as_dict(), "expected": len(micrographs) if expected is None else expected,
                   **summarise_run(micrographs).as_dict(),
                   "warnings": scale_warnings(micrographs, settings),
                   "micrographs": {name: found.as_dict() for name, found in micrographs.items()}}
        with atomic_write(self.path("settings")) as handle:
            json.dump(content, handle, indent=1)
        self.write_table(micrographs)

    def absorb(self, batch: PickingResults) -> None:
        """Move the results of a batch into this folder.

        The table has all micrographs at any time. summary.json is updated unless this was done within the last
        `SUMMARY_SECONDS`; call `refresh` at the end.

        Parameters
        ----------
        batch : PickingResults
            Results of the micrographs of one batch.

        Raises
        ------
        DeepEMError
            A file cannot be read or written.
        """
        own = {batch.path(kind) for kind in _FILES if kind != "model"}
        for folder, _, files in os.walk(batch.folder):
            for source in (Path(folder, file) for file in files):
                if source not in own:
                    target = self.folder / source.relative_to(batch.folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_path(target) as aside:  # the batch may be on another file system
                        shutil.move(source, aside)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.append(batch.read_micrographs())
        recent = self.exists() and time.time() - self.path("settings").stat().st_mtime <= SUMMARY_SECONDS
        if batch.exists() and not recent:
            self.write_summary(batch.read_settings(), self.read_micrographs())

    def refresh(self) -> None:
        """Write summary.json from summary.tsv, which then has each micrograph once; nothing where there is no run."""
        if self.exists():
            self.write_summary(None, self.read_micrographs())

    # -- reading

    def further(self) -> list[str]:
        """Return the kinds of files, among `FURTHER`, that were written on request."""
        return [kind for kind in FURTHER if self._folder_of(kind).is_dir()]

    @property
    def has_score_maps(self) -> bool:
        """Whether score maps were written."""
        return "score_map" in self.further()

    def exists(self) -> bool:
        """Whether a run has written its summary here."""
        return self.path("settings").exists()

    def picked(self) -> int:
        """Return the number of micrographs whose candidates were written so far."""
        return sum(len(files) for _, _, files in os.walk(self._folder_of("candidates")))

    def contrast_checks_left(self) -> int:
        """Return on how many more micrographs the sign of the contrast is to be checked."""
        if not self.path("table").exists():
            return CONTRAST_CHECKS
        with open(self.path("table"), "rb") as file:
            done = sum(1 for _ in islice(file, 1, CONTRAST_CHECKS + 1))
        return CONTRAST_CHECKS - done

    def read_micrographs(self) -> dict[str, MicrographResult]:
        """Read summary.tsv, see `table.read_table`."""
        return read_table(self.path("table"))

    def read_settings(self) -> RunSettings:
        """Read how the run picked its micrographs, from summary.json.

        Returns
        -------
        RunSettings

        Raises
        ------
        DeepEMError
            There is no such file, or a setting is missing or damaged.
        """
        return self._read_summary(RunSettings.from_dict)

    def read_expected(self) -> int:
        """Return the number of all micrographs of the run, done or not; raises DeepEMError as `read_settings`."""
        return self._read_summary(lambda plain: int(plain.get("expected", 0)))

    def what_is_missing(self) -> str:
        """Return a sentence about a run that has not done all its micrographs; empty for others."""
        if not self.exists():
            return ""
        done, expected = len(self.read_micrographs()), self.read_expected()
        return (f"{self.folder} has {done} of the {expected} micrographs of its run, which was ended early or is not "
                "finished; `deepem pick --resume` picks the rest") * (done < expected)

    def _read_summary(self, wanted: Callable[[Mapping[str, Any]], T]) -> T:
        path = self.path("settings")
        try:
            return wanted(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise DeepEMError(f"{path}: expected a summary as written by `deepem pick` ({type(error).__name__}: "
                              f"{error}); pick the micrographs again") from error

    def read_candidates(self, name: str) -> tuple[Candidates, np.ndarray]:
        """Read candidates and reasons of one micrograph; raises DeepEMError where they cannot be read."""
        return read_candidates(self.path("candidates", name))

    def read_picks(self, name: str) -> Coordinates:
        """Read the picks of one micrograph; raises DeepEMError where they cannot be read."""
        return read_box(self.path("box", name))

    def has_picks(self, name: str) -> bool:
        """Whether the picks of a micrograph were written."""
        return self.path("box", name).exists()

    def read_failed(self) -> dict[str, str]:
        """Read failed.tsv: name of the micrograph to the reason why it failed."""
        return read_failures(self.path("failed"))
