# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""The results folder of a picking run: the only place that knows the names and contents of its files."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_path, atomic_write
from ..coordinates.box import read_box, write_box
from ..coordinates.coordinates import Coordinates
from ..coordinates.star import Optics, write_star
from ..errors import DeepEMError
from .candidates import Candidates, read_candidates, write_candidates
from .selection import PICKED, Limits
from .summary import CONTRAST_CHECKS, REJECTED, MicrographResult, RunSummary, summarise_run

# The files of a run, and of each micrograph by its name.
_FILES = {"settings": "summary.json", "table": "summary.tsv", "failed": "failed.tsv", "star": "picks.star",
          "report": "report.html"}
_OF_MICROGRAPH = {"box": "{}.box", "candidates": "candidates/{}.tsv", "score_map": "scores/{}.mrc"}

_NUMBERS = {"picks": int, "mean_score": float, "candidates": int, "seconds": float, "finished": float,
            "evidence": float, "negative_evidence": float}
_COLUMNS = ("micrograph", "status", *_NUMBERS, *(f"rejected_{reason}" for reason in REJECTED),
            *(f"share_{reason}" for reason in REJECTED), "path", "reason")
_BLANKS = str.maketrans("\t\r\n", "   ")
# Numbers in a table are below this.
_MAX_NUMBER = 2.0**53
# The summary of a run that grows is written again at most once in this many seconds.
SUMMARY_SECONDS = 60


@dataclass(frozen=True)
class RunSettings:
    """How a run picked its micrographs.

    Attributes
    ----------
    limits : Limits
    scan_step : int
        In binned pixels.
    rotations : int
        Rotations of the box over which the score is averaged.
    box : int
        Side of the network's box, in binned pixels.
    working_pixel_size_angst, diameter_angst : float
        Of the model, in angstrom.
    pixel_size_angst : float, optional
        Pixel size given for the micrographs, in angstrom; None: from their headers.
    model_contrast : str, optional
        Contrast of the particles in the training, "dark" or "bright".
    versions : mapping of str to str
        Versions of Python and of the packages that results depend on.
    """

    limits: Limits
    scan_step: int
    rotations: int
    box: int
    working_pixel_size_angst: float
    diameter_angst: float
    pixel_size_angst: float | None = None
    model_contrast: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = asdict(self)
        return {**plain.pop("limits"), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunSettings:
        """Return settings from plain values; raises KeyError, TypeError, ValueError or DeepEMError for others."""
        std_range = plain["std_range"]
        limits = Limits(float(plain["threshold"]), float(plain["min_distance_angst"]),
                        None if std_range is None else (float(std_range[0]), float(std_range[1])),
                        float(plain["border_angst"]))
        pixel_size = plain.get("pixel_size_angst")
        return cls(limits, int(plain["scan_step"]), int(plain["rotations"]), int(plain["box"]),
                   float(plain["working_pixel_size_angst"]), float(plain["diameter_angst"]),
                   None if pixel_size is None else float(pixel_size), plain.get("model_contrast"),
                   dict(plain.get("versions", {})))


class PickingResults:
    """The results folder of a picking run.

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
        kind : {"settings", "table", "failed", "star", "report", "box", "candidates", "score_map"}
            The last three belong to a micrograph.
        name : str
            Name of that micrograph.

        Returns
        -------
        Path
        """
        return self.folder / (_OF_MICROGRAPH[kind].format(name) if name else _FILES[kind])

    # -- writing

    def make(self, score_maps: bool = False) -> None:
        """Make the folder and its subfolders; raises DeepEMError where this is impossible."""
        kinds = ["box", "candidates", *(["score_map"] if score_maps else [])]
        try:
            for kind in kinds:
                self.path(kind, "name").parent.mkdir(parents=True, exist_ok=True)
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
        write_candidates(self.path("candidates", name), candidates, reasons)
        self.write_picks(name, candidates.subset(reasons == PICKED), box_px)

    def write_picks(self, name: str, picks: Candidates, box_px: float) -> None:
        """Write the picks of one micrograph, see `write_micrograph`."""
        write_box(self.path("box", name), picks.centres_xy, picks.scores, box_px)

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

        with atomic_path(self.path("score_map", name)) as aside, mrcfile.new(aside, scores) as file:
            file.voxel_size = step_angst

    def write_star(self, picks: Iterable[tuple[str | Path, np.ndarray, np.ndarray]], pixel_size_angst: float,
                   optics: Optics) -> None:
        """Write picks.star; parameters and errors as for `coordinates.write_star`."""
        write_star(self.path("star"), picks, pixel_size_angst, optics)

    def write_table(self, micrographs: Mapping[str, MicrographResult]) -> None:
        """Write summary.tsv, a table with one micrograph per line."""
        with atomic_write(self.path("table")) as handle:
            handle.writelines([_HEADING, *map(_line, micrographs, micrographs.values())])

    def write_failed(self, micrographs: Mapping[str, MicrographResult]) -> None:
        """Write failed.tsv, the micrographs that failed and why."""
        write_failures(self.path("failed"), {name: found.reason for name, found in micrographs.items() if not found.ok})

    def write_summary(self, settings: RunSettings | None, micrographs: Mapping[str, MicrographResult]) -> None:
        """Write summary.json and summary.tsv.

        Parameters
        ----------
        settings : RunSettings, optional
            Default: those in the summary.json that exists.
        micrographs : mapping of str to MicrographResult

        Raises
        ------
        DeepEMError
            A file cannot be written, or there are no settings.
        """
        settings = settings or self.read_settings()
        content = {**settings.as_dict(), **summarise_run(micrographs).as_dict(),
                   "micrographs": {name: found.as_dict() for name, found in micrographs.items()}}
        with atomic_write(self.path("settings")) as handle:
            json.dump(content, handle, indent=1)
        self.write_table(micrographs)

    def append(self, micrographs: Mapping[str, MicrographResult]) -> None:
        """Add lines to summary.tsv, in a time that does not depend on its length; raises DeepEMError on failure."""
        path = self.path("table")
        try:
            with open(path, "a+b") as handle:
                start = _HEADING
                if handle.seek(0, os.SEEK_END):
                    handle.seek(-1, os.SEEK_END)
                    start = "" if handle.read(1) == b"\n" else "\n"  # an interrupted line ends here
                lines = "".join(map(_line, micrographs, micrographs.values()))
                handle.write((start + lines).encode(errors="surrogateescape"))
        except OSError as error:
            raise DeepEMError(f"{path} cannot be written ({error}). Check the folder, its permissions and the space "
                              "left.") from error

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
        own = {batch.path(kind) for kind in _FILES}
        for folder, _, files in os.walk(batch.folder):
            for source in (Path(folder, file) for file in files):
                if source not in own:
                    target = self.folder / source.relative_to(batch.folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_path(target) as aside:  # the batch may be on another file system
                        shutil.move(source, aside)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.append(batch.read_micrographs())
        summary = self.path("settings")
        if batch.path("settings").exists() and not (
                summary.exists() and time.time() - summary.stat().st_mtime <= SUMMARY_SECONDS):
            self.write_summary(batch.read_settings(), self.read_micrographs())

    def refresh(self) -> None:
        """Write summary.json from summary.tsv, which then has each micrograph once; nothing where there is no run."""
        if self.path("settings").exists():
            self.write_summary(None, self.read_micrographs())

    # -- reading

    @property
    def has_score_maps(self) -> bool:
        """Whether score maps were written."""
        return self.path("score_map", "name").parent.is_dir()

    def exists(self) -> bool:
        """Whether a run has written its summary here."""
        return self.path("settings").exists()

    def picked(self) -> int:
        """Return the number of micrographs whose candidates were written so far."""
        folder = self.path("candidates", "name").parent
        return len(os.listdir(folder)) if folder.is_dir() else 0

    def contrast_checks_left(self) -> int:
        """Return on how many more micrographs the sign of the contrast is to be checked."""
        if not self.path("table").exists():
            return CONTRAST_CHECKS
        with open(self.path("table"), "rb") as file:
            done = sum(1 for _ in islice(file, 1, CONTRAST_CHECKS + 1))
        return CONTRAST_CHECKS - done

    def read_micrographs(self) -> dict[str, MicrographResult]:
        """Read summary.tsv.

        Returns
        -------
        dict of str to MicrographResult
            By name, in the order of the table; empty where there is none. Truncated and damaged lines are left out. Of
            several lines about one micrograph, as after another attempt, the last one counts.

        Raises
        ------
        DeepEMError
            The file cannot be read.
        """
        path = self.path("table")
        try:
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DeepEMError(f"{path} cannot be read: {error.strerror}.") from error
        found = {}
        for row in (line.split("\t") for line in lines[1:-1]):
            if len(row) == len(_COLUMNS):
                with suppress(ValueError):
                    found[row[0]] = _result(dict(zip(_COLUMNS, row)))
        return found

    def read_summary(self) -> RunSummary:
        """Return the figures over all micrographs so far."""
        return summarise_run(self.read_micrographs())

    def read_settings(self) -> RunSettings:
        """Read how the run picked its micrographs; raises DeepEMError where there is no summary.json of a run."""
        path = self.path("settings")
        try:
            return RunSettings.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise DeepEMError(f"{path}: expected a summary as written by `deepem pick` ({error!r}); pick the "
                              "micrographs again") from error

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


def write_failures(path: str | Path, failed: Mapping[str, str]) -> None:
    """Write a table of failed micrographs, name to reason."""
    lines = ["micrograph\treason", *(f"{name}\t{' '.join(reason.split())}" for name, reason in failed.items())]
    with atomic_write(path) as handle:
        handle.write("\n".join(lines) + "\n")


def read_failures(path: str | Path) -> dict[str, str]:
    """Read a table of failed micrographs, name to reason; empty where there is no such file."""
    if not os.path.exists(path):
        return {}
    lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()[1:]
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


_HEADING = "\t".join(_COLUMNS) + "\n"


def _line(name: str, found: MicrographResult) -> str:
    fields = {**found.as_dict(), "micrograph": name}
    if found.ok:
        fields |= {f"rejected_{reason}": number for reason, number in found.rejected.items()}
        fields |= {f"share_{reason}": share for reason, share in found.rejected_share.items()}
    values = ("" if fields.get(column) is None else str(fields[column]) for column in _COLUMNS)
    return "\t".join(value.translate(_BLANKS) for value in values) + "\n"


def _result(fields: Mapping[str, str]) -> MicrographResult:
    """Result of a line; raises ValueError where it is damaged."""
    numbers = {name: _checked(kind(fields[name])) for name, kind in _NUMBERS.items() if fields[name]}
    if fields["status"] != "ok":
        return MicrographResult(fields["path"], fields["reason"] or "unknown reason", finished=numbers.get("finished"))
    if "picks" not in numbers:
        raise ValueError("the number of picks is missing")
    rejected = {reason: _checked(int(fields[f"rejected_{reason}"] or 0)) for reason in REJECTED}
    return MicrographResult(fields["path"], rejected=rejected, **numbers)


def _checked(value: Any) -> Any:
    if not abs(value) < _MAX_NUMBER:
        raise ValueError(f"{value} is no figure of a micrograph")
    return value
